//! The contract suite for every method, and its merging on shapes drawn at random.

use adapters::store::Grammar;
use adapters_testkit::contract::{self, Bench, Promises};
use burn::tensor::Device;
use proptest::prelude::*;

const ALL: Promises = Promises {
    identity_at_init: true,
    mergeable: true,
    grammars: &Grammar::ALL,
};

fn check(config: &str, promises: Promises) {
    contract::all(config, promises, &Device::flex());
}

#[test]
fn lora() {
    check("lora", ALL);
}

#[test]
fn lora_at_every_place() {
    check(
        "lora[r=4,alpha=6,attn_matrices=[q,k,v],intermediate_lora=true,output_lora=true]",
        ALL,
    );
}

#[test]
fn lora_on_every_linear_layer() {
    // The pooler and the attention's output are no places of AdapterHub.
    let peft = Promises {
        grammars: &[Grammar::Peft],
        ..ALL
    };
    check(
        "lora[r=3,alpha=5,target_modules=all-linear,exclude_modules=[pooler.dense],use_rslora=true]",
        peft,
    );
}

#[test]
fn rank_stabilised_lora() {
    check("lora[r=3,alpha=5,target_modules=[query,key],use_rslora=true]", ALL);
}

#[test]
fn gated_lora() {
    let gated = Promises {
        mergeable: false,
        grammars: &[Grammar::AdapterHub],
        ..ALL
    };
    check("lora[r=4,alpha=6,use_gating=true]", gated);
}

#[test]
fn scaling_lora() {
    // The scale is alpha / r, so that alpha = 1 begins as the identity and any other does not.
    let scale = Promises {
        grammars: &[Grammar::AdapterHub],
        ..ALL
    };
    check("lora[composition_mode=scale,r=1,alpha=1,init_weights=ia3]", scale);
    let scaled = Promises {
        identity_at_init: false,
        ..scale
    };
    check("lora[composition_mode=scale,r=1,init_weights=ia3]", scaled);
}

const BOTTLENECK: Promises = Promises {
    identity_at_init: false,
    mergeable: false,
    grammars: &[Grammar::AdapterHub],
};

#[test]
fn sequential_bottlenecks() {
    check("seq_bn[reduction_factor=2]", BOTTLENECK);
    check("double_seq_bn[reduction_factor=2]", BOTTLENECK);
    check(
        "seq_bn[reduction_factor=0.5,ln_before=true,ln_after=true,use_gating=true,non_linearity=prelu]",
        BOTTLENECK,
    );
}

#[test]
fn parallel_bottlenecks() {
    // The up projection is zero at first.
    let identity = Promises {
        identity_at_init: true,
        ..BOTTLENECK
    };
    check("par_bn", identity);
    check("scaled_par_bn", identity);
    check("par_bn[mh_adapter=true,use_gating=true]", identity);
}

#[test]
fn adapter_plus() {
    check("adapter_plus[reduction_factor=2,mh_adapter=true]", BOTTLENECK);
}

#[test]
fn invertible_bottlenecks() {
    check("seq_bn_inv[reduction_factor=2]", BOTTLENECK);
    check("double_seq_bn_inv[reduction_factor=2]", BOTTLENECK);
    check("seq_bn_inv[reduction_factor=2,inv_adapter=glow]", BOTTLENECK);
}

#[test]
fn compacters() {
    check("compacter[reduction_factor=2]", BOTTLENECK);
    check("compacter++[reduction_factor=2]", BOTTLENECK);
    check(
        "compacter++[reduction_factor=2,shared_phm_rule=false,factorized_phm_rule=true,shared_W_phm=true]",
        BOTTLENECK,
    );
    check(
        "compacter++[reduction_factor=2,phm_dim=2,factorized_phm_W=false,phm_bias=false]",
        BOTTLENECK,
    );
}

#[test]
fn a_wide_compacter_goes_through_its_factors() {
    let bench = Bench::new(4, 16, 5, &Device::flex());
    contract::only_adapters_get_gradients(&bench, "compacter++[reduction_factor=2,phm_dim=2,non_linearity=tanh]");
}

#[test]
fn dropout_acts_in_training_only() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    contract::dropout_in_training_only(&bench, "lora[r=4,alpha=6,dropout=0.3]");
    contract::dropout_in_training_only(&bench, "seq_bn[reduction_factor=2,dropout=0.3]");
    contract::dropout_in_training_only(&bench, "adapter_plus[reduction_factor=2,stochastic_depth=0.5]");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_is_exact_for_every_rank_alpha_and_width(
        rank in 1usize..9,
        alpha in -20.0f64..20.0,
        heads in 1usize..4,
        d_head in 2usize..6,
        seed in any::<u64>(),
        stabilised in any::<bool>(),
    ) {
        let bench = Bench::new(heads, d_head, seed, &Device::flex());
        let config = format!("lora[r={rank},alpha={alpha:.3},target_modules=all-linear,use_rslora={stabilised}]");
        contract::merged_layers_equal_unmerged(&bench, &config);
    }

    #[test]
    fn scaling_merges_exactly(alpha in 0.1f64..4.0, heads in 1usize..4, d_head in 2usize..6, seed in any::<u64>()) {
        let bench = Bench::new(heads, d_head, seed, &Device::flex());
        let config = format!("lora[r=1,alpha={alpha:.3},composition_mode=scale,intermediate_lora=true,output_lora=true]");
        contract::merged_equals_unmerged(&bench, &config);
    }
}
