//! The contract suite for the methods that peft alone has beside those of `contract.rs`.

use adapters::core::Format;
use adapters_testkit::contract::{self, Bench, Promises};
use burn::tensor::{Device, Tensor, TensorData};

const PEFT: Promises = Promises {
    identity_at_init: true,
    mergeable: true,
    formats: &[Format::Peft],
};

const RANDOM: Promises = Promises {
    identity_at_init: false,
    ..PEFT
};

fn check(config: &str, promises: Promises) {
    contract::all(config, promises, &Device::flex());
}

#[test]
fn beft() {
    check("beft", PEFT);
}

#[test]
fn glora() {
    check("glora[r=3]", PEFT);
    check("glora[config_A_B=vector,config_C=vector,config_D_E=vector]", PEFT);
    check("glora[config_A_B=constant,config_C=none,config_D_E=none]", PEFT);
    check("glora[r=2,config_A_B=none,config_C=lora,init_weights=false]", RANDOM);
}

#[test]
fn shira() {
    check("shira[r=1]", PEFT);
    check(
        "shira[r=2,random_seed=5,init_weights=false,target_modules=[key,output.dense]]",
        RANDOM,
    );
}

#[test]
fn supertuning() {
    check("supertuning[sparsity=0.8]", PEFT);
    check(
        "supertuning[sparsity=0.5,select_top=false,save_precomputed_indices=false]",
        PEFT,
    );
    check("supertuning[sparsity=0.7,r=2,lora_alpha=3]", PEFT);
}

#[test]
fn gralora() {
    check("gralora[r=4,alpha=6]", PEFT);
    check("gralora[r=8,gralora_k=4,hybrid_r=2,alpha=5,target_modules=[key]]", PEFT);
}

#[test]
fn deft() {
    check("deft[r=3,alpha=5,init_weights=false]", RANDOM);
    check(
        "deft[r=3,decomposition_method=qr,init_weights=false,init_scale=3]",
        RANDOM,
    );
    check("deft[r=2,para=true]", RANDOM);
}

#[test]
fn peanut() {
    check("peanut[r=3,scaling=2.5,act_fn=gelu]", PEFT);
    check("peanut[r=3,depth=2,scaling=1.5,act_fn=tanh]", PEFT);
}

#[test]
fn pvera() {
    check("pvera[r=3,target_modules=[query,intermediate.dense]]", PEFT);
    check("pvera[r=2,save_projection=false,projection_prng_key=5]", PEFT);
    let bench = Bench::new(2, 4, 11, &Device::flex());
    // What is drawn in training is not the mean.
    contract::dropout_in_training_only(&bench, "pvera[r=3,pvera_dropout=0.3]");
}

#[test]
fn randlora() {
    check(
        "randlora[r=3,randlora_alpha=7,target_modules=[query,intermediate.dense]]",
        PEFT,
    );
    check("randlora[r=2,sparse=true]", PEFT);
}

#[test]
fn osf() {
    // The trained product and the initial one come to nothing in exact numbers alone.
    let exact = Bench::new(2, 4, 11, &Device::flex());
    let set = exact.attach("osf");
    let error = contract::relative_error(&exact.output(&set), &exact.plain());
    assert!(error < 1e-5, "a new adapter changes the output by {error:e}");
    check("osf[effective_rank=3,init_weights=false]", RANDOM);
    check(
        "osf[effective_rank=0.25,init_weights=false,target_modules=[key]]",
        RANDOM,
    );
}

#[test]
fn tinylora() {
    check("tinylora[u=5]", PEFT);
    check("tinylora[u=20,r=3,weight_tying=0.5,save_projection=false]", PEFT);
}

#[test]
fn unilora() {
    check("unilora[r=3,theta_d_length=24]", RANDOM);
    check(
        "unilora[r=2,theta_d_length=10,save_indices=true,init_weights=false]",
        RANDOM,
    );
}

#[test]
fn psoft() {
    check("psoft[r=3,psoft_alpha=5]", PEFT);
    check(
        "psoft[r=4,psoft_orth=false,psoft_mag_a=false,ab_svd_init=pissa_init]",
        PEFT,
    );
    check("psoft[r=3,use_cayley_neumann=true,cayley_neumann_eps=0.5]", PEFT);
}

#[test]
fn waveft() {
    check("waveft[n_frequency=9,scaling=4]", PEFT);
    check(
        "waveft[n_frequency=60,wavelet_family=db3,target_modules=[query,intermediate.dense]]",
        PEFT,
    );
    check(
        "waveft[n_frequency=9,use_idwt=false,proportional_parameters=true]",
        PEFT,
    );
}

#[test]
fn activated_lora() {
    // The invocation is in one row, and only its adapter acts there.
    let config = "alora[r=3,alpha=5,target_modules=[query,value],alora_invocation_tokens=[9,3]]";
    let bench = Bench::new(2, 4, 11, &Device::flex());
    contract::identity_at_init(&bench, config, true);
    contract::only_adapters_get_gradients(&bench, config);
    contract::refuses_to_merge(&bench, config);
    contract::save_load_same_output(&bench, config, Format::Peft);
    contract::refuses_to_save(&bench, config, Format::AdapterHub);
    contract::rows_go_apart(&bench, config);
    let rows = |data: TensorData| Tensor::<3>::from_data(data, &Device::flex());
    let (got, plain) = (rows(bench.output(&bench.attach_random(config))), rows(bench.plain()));
    let differs = |row: usize| {
        let part = |x: &Tensor<3>| x.clone().slice_dim(0, row..row + 1).into_data();
        part(&got) != part(&plain)
    };
    assert_eq!([0, 1, 2].map(differs), [true, false, false]);
}

#[test]
fn kasa() {
    check("kasa[r=3,alpha=5,target_modules=[query,intermediate.dense]]", RANDOM);
}

#[test]
fn block_diagonal_lora() {
    let config = "bdlora[r=4,alpha=6,target_modules=[query,value],nblocks=2,target_modules_bd_a=[query]";
    check(&format!("{config},target_modules_bd_b=[value]]"), PEFT);
    check(&format!("{config},match_strict=false]"), PEFT);
}
