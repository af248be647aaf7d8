//! The contract suite for the methods that peft alone has beside those of `contract.rs`.

use adapters::core::Format;
use adapters::models::TextInput;
use adapters::{AdapterSet, Composition, Ctx, Error, method};
use adapters_testkit::contract::{self, Bench, Promises, randomized};
use adapters_testkit::golden::chain;
use burn::module::Module;
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

/// Biases of the base and copies of its modules train next to the layers of the methods that have the fields in peft.
#[test]
fn biases_and_modules_train_next_to_layers() {
    check("boft[bias=boft_only]", PEFT);
    check(
        "oft[oft_block_size=4,bias=oft_only,modules_to_save=[output.LayerNorm]]",
        PEFT,
    );
    check(
        "vera[r=3,form=peft,target_modules=[query],bias=vera_only,modules_to_save=[LayerNorm]]",
        PEFT,
    );
    check("vblora[num_vectors=6,vector_length=8,topk=2,bias=vblora_only]", RANDOM);
    check("loha[r=2,modules_to_save=[word_embeddings]]", PEFT);
    check(
        "ia3[target_modules=[key,value],modules_to_save=[attention.output.LayerNorm]]",
        PEFT,
    );
}

/// The pooler's bias, which no output needs, has no gradient here; the golden case `peft_boft_copies` has that of every other.
#[test]
fn all_biases_train_next_to_layers() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let config = "boft[bias=all]";
    contract::identity_at_init(&bench, config, true);
    contract::merged_equals_unmerged(&bench, config);
    contract::save_load_same_output(&bench, config, Format::Peft);
    let trained = bench.attach(config);
    let biases = trained.params().filter(|param| param.param.ends_with("bias")).count();
    // Six linear layers and two normalizations in each of two layers, the embeddings' normalization and the pooler.
    assert_eq!(biases, 2 * 8 + 2);
}

#[test]
fn fields_that_a_method_lacks_in_peft_are_refused_by_name() {
    for (config, field) in [
        ("ia3[target_modules=[key],bias=all]", "bias"),
        ("loha[bias=loha_only]", "bias"),
        ("boft[bias=some]", "bias"),
        ("seq_bn[modules_to_save=[key]]", "modules_to_save"),
    ] {
        let error = chain(&method(config).unwrap_err());
        assert!(error.contains(&format!("`{field}`")), "{config}: {error}");
    }
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
fn dropout_of_updates_and_of_rotations_acts_in_training_only() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    for config in [
        "loha[r=2,rank_dropout=0.5]",
        "loha[r=2,module_dropout=0.5]",
        "lokr[r=2,rank_dropout=0.5,rank_dropout_scale=true]",
        "lokr[r=2,module_dropout=0.5]",
        "oft[oft_block_size=4,module_dropout=0.5]",
        "boft[boft_block_size=4,boft_dropout=0.5]",
    ] {
        contract::dropout_in_training_only(&bench, config);
    }
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
fn poly() {
    let not_merged = Promises {
        mergeable: false,
        ..PEFT
    };
    check("poly[r=3,n_tasks=2,n_skills=3,n_splits=2]", not_merged);
    check(
        "poly[r=2,n_tasks=2,init_weights=false,target_modules=[query,output.dense]]",
        Promises {
            identity_at_init: false,
            ..not_merged
        },
    );
    let bench = Bench::new(2, 4, 11, &Device::flex());
    // The relaxed Bernoulli variables of training.
    contract::dropout_in_training_only(&bench, "poly[r=3,n_tasks=2]");
}

#[test]
fn poly_needs_to_know_the_tasks() {
    let bench = Bench::new(2, 4, 11, &Device::flex());
    let set = bench.attach("poly[n_tasks=2]");
    let begin = |tasks: &[Option<usize>]| {
        let mut cx = Ctx::new(&set).with_tasks(tasks.iter().copied())?;
        let x = Tensor::<3>::zeros([2, 4, 32], &Device::flex());
        cx.begin(&bench.model, x).map(|_| ())
    };
    assert!(begin(&[Some(1), Some(0)]).is_ok());
    for tasks in [&[][..], &[Some(0)], &[Some(0), None]] {
        let error = begin(tasks).unwrap_err();
        assert!(matches!(error, Error::WrongSizes { .. }), "{error}");
    }
    let error = begin(&[Some(0), Some(2)]).unwrap_err();
    assert!(matches!(error, Error::NoSuchTask { task: 2, tasks: 2 }), "{error}");
    let split = set.composition(Composition::batch_split(["under_test"], [2]));
    assert!(matches!(split, Err(Error::BlockNotRunnable { .. })), "{split:?}");
}

#[test]
fn prompts_of_several_tasks_and_of_a_context() {
    // Rows in front of the text act from the start, and no weight computes what they do.
    let prompt = Promises {
        identity_at_init: false,
        mergeable: false,
        ..PEFT
    };
    check(
        "multitask_prompt_tuning[num_virtual_tokens=3,num_tasks=2,num_ranks=2]",
        prompt,
    );
    let config = "cpt[cpt_token_ids=[5,7,9],cpt_tokens_type_mask=[1,2,4],opt_projection_epsilon=3]";
    let bench = Bench::new(2, 4, 11, &Device::flex());
    contract::refuses_to_merge(&bench, config);
    contract::refuses_to_save(&bench, config, Format::AdapterHub);
    // A file holds the sum of what is frozen and what trains.
    contract::save_load_equal_output(&bench, config, Format::Peft, 1e-6);
    let stored = randomized(bench.attach(config), 3);
    let near = bench.output(&stored);
    let far = bench.output(&randomized(
        bench.attach("cpt[cpt_token_ids=[5,7,9],opt_projection_epsilon=0,opt_projection_format_epsilon=0]"),
        3,
    ));
    assert!(
        contract::relative_error(&near, &far) > 1e-3,
        "the radius of the balls has no effect"
    );
}

#[test]
fn adamss() {
    check("adamss[r=5,num_subspaces=3,subspace_rank=2]", PEFT);
    check(
        "adamss[r=4,num_subspaces=2,subspace_rank=3,use_dynamic_rank=true,init_weights=null,target_modules=[key,output.dense]]",
        RANDOM,
    );
}

#[test]
fn a_cartridge_is_one_matrix_in_files_and_trains_without_its_first_rows() {
    let bench = Bench::new(2, 4, 11, &Device::flex());
    let config = "cartridge[num_virtual_tokens=3,num_frozen_tokens=2]";
    contract::identity_at_init(&bench, config, false);
    contract::refuses_to_merge(&bench, config);
    contract::refuses_to_save(&bench, config, Format::AdapterHub);
    contract::save_load_same_output(&bench, config, Format::Peft);
    contract::copies_train_apart(&bench, config, Format::Peft);
    let set = bench.attach(config);
    let fixed: Vec<bool> = set.attached("under_test").unwrap().params().map(|p| p.fixed).collect();
    assert_eq!(fixed, [true, false]);
}

#[test]
fn velora() {
    check(
        "velora[r=3,alpha=5,num_groups=3,target_modules=[query,output.dense]]",
        PEFT,
    );
    check("velora[r=2,num_groups=2,init_type=random,target_modules=[key]]", PEFT);
    // In training the output is that of LoRA, and the gradient of A is another one.
    let device = Device::flex();
    let bench = Bench::new(2, 4, 11, &device);
    let set = bench.attach_random("velora[r=3,num_groups=2,target_modules=[query]]");
    let gradients = |training: bool| {
        let set = set.clone().train();
        let cx = Ctx::new(&set);
        let mut cx = if training { cx.training(1) } else { cx };
        let x = TextInput::new(bench.input.ids.clone());
        let output = bench.model.forward(x, &mut cx).unwrap();
        let gradients = output.clone().powi_scalar(3).sum().backward();
        (output.into_data(), contract::gradients_of(&set, &gradients))
    };
    let ((plain, full), (output, compressed)) = (gradients(false), gradients(true));
    assert!(contract::relative_error(&output, &plain) < 1e-5);
    let of = |name: &str| {
        let adapter = set.attached("under_test").unwrap();
        let id = adapter.params().find(|p| p.param == name).unwrap().id;
        contract::relative_error(compressed[&id].as_ref().unwrap(), full[&id].as_ref().unwrap())
    };
    assert!(of("lora_A") > 1e-2, "{}", of("lora_A"));
    assert!(of("lora_B") < 1e-4, "{}", of("lora_B"));
}

#[test]
fn dora_of_an_embedding_table() {
    // At the beginning the magnitudes are the norms, up to rounding.
    let bench = Bench::new(2, 4, 11, &Device::flex());
    let config = "dora[r=3,alpha=5,form=peft,target_modules=[word_embeddings,query]]";
    let error = contract::relative_error(&bench.output(&bench.attach(config)), &bench.plain());
    assert!(error < 1e-5, "a new adapter changes the output by {error:e}");
    contract::only_adapters_get_gradients(&bench, config);
    contract::merged_equals_unmerged(&bench, config);
    contract::save_load_same_output(&bench, config, Format::Peft);
    contract::rows_go_apart(&bench, config);
}

#[test]
fn lily() {
    let bench = Bench::new(3, 4, 11, &Device::flex());
    // The router sees the whole batch, so that rows do not go apart.
    for (config, identity) in [
        ("lily[r=3,num_B=3,stride_A=2,scaling=2.5]", true),
        (
            "lily[r=2,init_weights=false,target_modules=[query,output.dense]]",
            false,
        ),
    ] {
        contract::identity_at_init(&bench, config, identity);
        contract::only_adapters_get_gradients(&bench, config);
        contract::refuses_to_merge(&bench, config);
        contract::save_load_same_output(&bench, config, Format::Peft);
        contract::refuses_to_save(&bench, config, Format::AdapterHub);
        contract::copies_train_apart(&bench, config, Format::Peft);
        contract::declares_what_it_does(&bench, config);
    }
    // Of two layers: one A and one pair of B for query and value each, and four routers.
    let set = bench.attach("lily[r=3,num_B=2,stride_A=2]");
    let (a, b, routers) = (2 * 3 * 12, 2 * 2 * 3 * 12, 4 * 2 * 3);
    assert_eq!(set.attached("under_test").unwrap().num_params(), a + b + routers);
}

#[test]
fn frod() {
    let exact = Bench::new(2, 4, 11, &Device::flex());
    // The frozen factors and the weight are equal up to rounding.
    let set = exact.attach("frod[sparse_rate=0.5]");
    let error = contract::relative_error(&exact.output(&set), &exact.plain());
    assert!(error < 1e-5, "a new adapter changes the output by {error:e}");
    for config in [
        "frod[sparse_rate=0.5,init_weights=false]",
        "frod[sparse_rate=0.01,init_weights=false,target_modules=[intermediate.dense]]",
    ] {
        contract::only_adapters_get_gradients(&exact, config);
        contract::merged_equals_unmerged(&exact, config);
        contract::refuses_to_save(&exact, config, Format::AdapterHub);
        contract::rows_go_apart(&exact, config);
        contract::declares_what_it_does(&exact, config);
        // U follows from the V of the file, so that V cannot be drawn again as the contract suite does.
        contract::save_load_of(&exact, &exact.attach(config), config, Format::Peft);
    }
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

#[test]
fn monteclora() {
    let (bench, config) = (
        Bench::new(2, 4, 11, &Device::flex()),
        "monteclora[r=3,alpha=5,target_modules=[query,output.dense]]",
    );
    contract::identity_at_init(&bench, config, true);
    contract::merged_equals_unmerged(&bench, config);
    contract::save_load_same_output(&bench, config, Format::Peft);
    contract::refuses_to_save(&bench, config, Format::AdapterHub);
    contract::rows_go_apart(&bench, config);
    contract::declares_what_it_does(&bench, config);
    // Training draws another A in each step, and evaluation does not.
    let set = bench.attach_random("monteclora[r=3,num_samples=4,sample_scaler=0.5,target_modules=[query]]");
    let output = |cx: Ctx<'_>| {
        let (mut cx, input) = (cx, TextInput::new(bench.input.ids.clone()));
        bench.model.forward(input, &mut cx).unwrap().into_data()
    };
    let [first, again, second] = [3, 3, 4].map(|seed| output(Ctx::new(&set).training(seed)));
    assert_eq!(first, again);
    assert!(contract::relative_error(&first, &second) > 1e-3);
    // What is drawn has a gradient.
    let set = set.train();
    let mut cx = Ctx::new(&set).training(3);
    let loss = bench
        .model
        .forward(TextInput::new(bench.input.ids.clone()), &mut cx)
        .unwrap();
    let gradients = contract::gradients_of(&set, &loss.powi_scalar(3).sum().backward());
    for place in set
        .attached("under_test")
        .unwrap()
        .params()
        .filter(|place| !place.fixed)
    {
        let gradient = gradients[&place.id].as_ref().expect("every parameter takes part");
        assert!(gradient.iter::<f32>().any(|x| x != 0.0), "{}", place.param);
    }
}

#[test]
fn adaption_prompt() {
    let promises = Promises {
        mergeable: false,
        ..PEFT
    };
    check("adaption_prompt[adapter_len=3]", promises);
    check("adaption_prompt[adapter_len=2,adapter_layers=1]", promises);
    // The last layers have prompts, and a model of two layers has no three.
    let bench = Bench::new(2, 4, 11, &Device::flex());
    let set = bench.attach("adaption_prompt[adapter_layers=1]");
    let layers: Vec<_> = set
        .attached("under_test")
        .unwrap()
        .layers()
        .map(|l| l.info.site.layer)
        .collect();
    assert_eq!(layers, [Some(1)]);
    let many = method("adaption_prompt[adapter_layers=3]").unwrap();
    let error = AdapterSet::new()
        .attach("a", many, &bench.model, 1, &Device::flex())
        .unwrap_err();
    assert!(error.to_string().contains("key_value of the last 3 layers"), "{error}");
}
