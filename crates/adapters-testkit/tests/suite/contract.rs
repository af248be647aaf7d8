//! The contract suite for every method, and its merging on shapes drawn at random.

use adapters::core::Format;
use adapters::prefix::eject;
use adapters::{Composition, Error};
use adapters_testkit::contract::{self, Bench, Promises};
use burn::tensor::Device;
use proptest::prelude::*;

const ALL: Promises = Promises {
    identity_at_init: true,
    mergeable: true,
    formats: &Format::ALL,
};

fn check(config: &str, promises: Promises) {
    contract::all(config, promises, &Device::flex());
}

#[test]
fn lora() {
    check("lora", ALL);
}

#[test]
fn lora_at_every_target() {
    check(
        "lora[r=4,alpha=6,attn_matrices=[q,k,v],intermediate_lora=true,output_lora=true]",
        ALL,
    );
}

#[test]
fn lora_on_every_linear_layer() {
    // The pooler and the attention's output are no targets of AdapterHub.
    let peft = Promises {
        formats: &[Format::Peft],
        ..ALL
    };
    check(
        "lora[r=3,alpha=5,target_modules=all-linear,exclude_modules=[pooler.dense],use_rslora=true]",
        peft,
    );
}

#[test]
fn rank_stabilized_lora() {
    check("lora[r=3,alpha=5,target_modules=[query,key],use_rslora=true]", ALL);
}

#[test]
fn gated_lora() {
    let gated = Promises {
        mergeable: false,
        formats: &[Format::AdapterHub],
        ..ALL
    };
    check("lora[r=4,alpha=6,use_gating=true]", gated);
}

#[test]
fn ia3() {
    // The factor is alpha, so that alpha = 1 begins as the identity and any other does not.
    let hub = Promises {
        formats: &[Format::AdapterHub],
        ..ALL
    };
    check("ia3", ALL);
    check(
        "ia3[alpha=2]",
        Promises {
            identity_at_init: false,
            ..hub
        },
    );
    check(
        "ia3[use_gating=true]",
        Promises {
            identity_at_init: false,
            mergeable: false,
            ..hub
        },
    );
    let peft = Promises {
        formats: &[Format::Peft],
        ..ALL
    };
    check(
        "ia3[target_modules=[key,output.dense],feedforward_modules=[output.dense]]",
        peft,
    );
}

#[test]
fn dora() {
    let hub = Promises {
        formats: &[Format::AdapterHub],
        ..ALL
    };
    check("dora[r=3,alpha=5,intermediate_lora=true,output_lora=true]", hub);
    check(
        "dora[r=4,use_gating=true]",
        Promises {
            mergeable: false,
            ..hub
        },
    );
    let peft = Promises {
        formats: &[Format::Peft],
        ..hub
    };
    check("dora[r=3,alpha=5,target_modules=[query,output.dense],form=peft]", peft);
}

#[test]
fn vera_and_dvora() {
    let hub = Promises {
        formats: &[Format::AdapterHub],
        ..ALL
    };
    check("vera[r=3,alpha=5]", hub);
    check(
        "vera[r=3,use_gating=true]",
        Promises {
            mergeable: false,
            ..hub
        },
    );
    check("dvora[r=3,alpha=5]", hub);
    let peft = Promises {
        formats: &[Format::Peft],
        ..ALL
    };
    check("vera[r=3,target_modules=[query,intermediate.dense],form=peft]", peft);
}

#[test]
fn prefixes() {
    // Random vectors act from the start, and no weight computes what keys in front of the others do.
    let hub = Promises {
        identity_at_init: false,
        mergeable: false,
        formats: &[Format::AdapterHub],
    };
    check("prefix_tuning[prefix_length=3,bottleneck_size=5]", hub);
    check(
        "prefix_tuning[prefix_length=2,bottleneck_size=5,non_linearity=prelu,leave_out=[0]]",
        hub,
    );
    check("prefix_tuning[prefix_length=2,bottleneck_size=5,use_gating=true]", hub);
    check(
        "prefix_tuning_flat[prefix_length=3,use_gating=true,shared_gating=false]",
        hub,
    );
    let peft = Promises {
        formats: &[Format::Peft],
        ..hub
    };
    check("prefix_tuning_flat[prefix_length=3,form=peft]", peft);
    let bench = Bench::new(2, 4, 5, &Device::flex());
    contract::dropout_in_training_only(&bench, "prefix_tuning_flat[prefix_length=3,dropout=0.5]");
    // Peft's files hold what the MLP makes.
    let config = "prefix_tuning[prefix_length=3,bottleneck_size=5,form=peft]";
    contract::only_adapters_get_gradients(&bench, config);
    contract::refuses_to_save(&bench, config, Format::AdapterHub);
    contract::save_load_equal_output(&bench, config, Format::Peft, 1e-6);
}

#[test]
fn unions_with_prefixes() {
    let hub = Promises {
        identity_at_init: false,
        mergeable: false,
        formats: &[Format::AdapterHub],
    };
    check("prefix_tuning[prefix_length=3,bottleneck_size=5]|par_bn", hub);
    check("unipelt[leave_out=[1]]", hub);
}

#[test]
fn an_ejected_prefix_is_smaller_and_computes_the_same() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let prefix = "prefix_tuning[prefix_length=3,bottleneck_size=40,use_gating=true]";
    for (config, flat) in [
        (prefix.to_owned(), "prefix_tuning_flat[prefix_length=3,use_gating=true]"),
        (
            format!("{prefix}|lora"),
            "prefix_tuning_flat[prefix_length=3,use_gating=true]|lora",
        ),
    ] {
        let mut set = bench.attach_random(&config);
        let before = bench.output(&set);
        let ejected = eject(&mut set, "under_test", &bench.model).unwrap();
        assert!(ejected.after < ejected.before, "{ejected:?}");
        assert_eq!(set.attached("under_test").unwrap().num_params(), ejected.after);
        assert_eq!(set.attached("under_test").unwrap().method().to_string(), flat);
        let error = contract::relative_error(&bench.output(&set), &before);
        assert!(error <= 1e-6, "{config}: {error:e}");
        let again = eject(&mut set, "under_test", &bench.model);
        assert!(matches!(again, Err(Error::Config { .. })), "{again:?}");
    }
}

#[test]
fn positions_before_the_first_token_are_refused_where_rows_part() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let mut set = bench.attach("prefix_tuning_flat[prefix_length=3,form=peft]");
    let method = adapters::method("lora").unwrap();
    set.attach("other", method, &bench.model, 1, &Device::flex()).unwrap();
    assert!(set.activate(Composition::stack(["under_test", "other"])).is_ok());
    let parted = set.activate(Composition::multi_task(["under_test", "other"]));
    assert!(matches!(parted, Err(Error::BlockNotRunnable { .. })), "{parted:?}");
}

#[test]
fn what_is_stored_only_is_not_counted_as_trained() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let set = bench.attach("vera[r=3]");
    // d [r, r] and b [d, d] at query and value of two layers; A and B are stored.
    assert_eq!(set.num_trainable_params(), 4 * (3 * 3 + 8 * 8));
    assert_eq!(set.params().filter(|p| p.fixed).count(), 2);
}

#[test]
fn mtl_lora() {
    let hub = Promises {
        formats: &[Format::AdapterHub],
        ..ALL
    };
    check("mtl_lora[r=3,alpha=5,n_up_projection=2]", hub);
    check(
        "mtl_lora[r=3,alpha=5,n_up_projection=3,task_specific_matrix_type=linear]",
        hub,
    );
}

#[test]
fn what_trains_beside_lora() {
    let peft = Promises {
        formats: &[Format::Peft],
        ..ALL
    };
    check("lora[r=3,alpha=5,target_modules=[query],bias=lora_only]", peft);
    check("lora[r=3,alpha=5,target_modules=[query],lora_bias=true]", peft);
    check("lora[r=3,target_modules=[query,word_embeddings]]", peft);
    check(
        "lora[r=3,target_modules=[query],modules_to_save=[intermediate.dense,output.LayerNorm]]",
        peft,
    );
}

#[test]
fn trained_biases_include_those_no_output_needs() {
    // The pooler, and a key's bias, which moves all scores of a row alike, have no gradient here.
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let config = "lora[r=3,alpha=5,target_modules=[query],bias=all]";
    contract::identity_at_init(&bench, config, true);
    contract::merged_equals_unmerged(&bench, config);
    contract::save_load_same_output(&bench, config, Format::Peft);
    let trained = bench.attach(config);
    let biases = trained.params().filter(|p| p.param.ends_with("bias")).count();
    // Six linear layers and two normalizations in each of two layers, the embeddings' normalization and the pooler.
    assert_eq!(biases, 2 * 8 + 2);
}

#[test]
fn lora_that_begins_as_a_part_of_the_weight() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    for init in ["pissa", "olora"] {
        let config = format!("lora[r=3,alpha=5,init_weights={init}]");
        contract::identity_at_init(&bench, &config, true);
        contract::only_adapters_get_gradients(&bench, &config);
        contract::merged_equals_unmerged(&bench, &config);
        // Files hold plain LoRA of twice the rank, which computes the same.
        for format in Format::ALL {
            contract::save_load_equal_output(&bench, &config, format, 1e-6);
        }
    }
}

/// The other weight methods of peft, each at layers of several shapes, and whether a new adapter changes nothing at all:
/// reflections undo each other but for rounding.
const WEIGHT_METHODS: &[(&str, bool)] = &[
    ("adalora[init_r=3,lora_alpha=5]", true),
    (
        "boft[boft_block_size=4,target_modules=[query,intermediate.dense]]",
        true,
    ),
    ("c3a[block_size=4,init_weights=true]", true),
    ("c3a[block_size=2]", false),
    ("delora[r=3]", true),
    ("fourierft[n_frequency=7,scaling=30,init_weights=true]", true),
    (
        "fourierft[n_frequency=2,scaling=30,target_modules=[output.dense]]",
        false,
    ),
    ("hira[r=3,target_modules=[query,output.dense]]", true),
    ("hra[r=4,target_modules=[query,output.dense]]", false),
    ("loha[r=3,alpha=5,target_modules=[query,output.dense]]", true),
    ("lokr[r=1,alpha=5,target_modules=[query,output.dense]]", true),
    ("lokr[r=1,alpha=5,decompose_both=true]", true),
    ("miss[r=3,target_modules=[query,output.dense]]", true),
    ("miss[r=4,mini_r=2,init_weights=mini]", true),
    ("miss[r=4,init_weights=bat]", true),
    ("oft[oft_block_size=4]", true),
    ("oft[oft_block_size=4,coft=true,eps=0.5]", true),
    (
        "oft[oft_block_size=4,use_cayley_neumann=false,target_modules=[query,intermediate.dense]]",
        true,
    ),
    (
        "oft[r=4,oft_block_size=0,block_share=true,use_cayley_neumann=false]",
        true,
    ),
    ("road[group_size=4]", true),
    ("road[group_size=8,variant=road_2]", true),
    ("road[group_size=4,variant=road_4]", true),
    ("vblora[r=2,num_vectors=3,vector_length=4,topk=3]", false),
];

#[test]
fn weight_methods() {
    for (config, identity_at_init) in WEIGHT_METHODS {
        let peft = Promises {
            identity_at_init: *identity_at_init,
            mergeable: true,
            formats: &[Format::Peft],
        };
        check(config, peft);
    }
}

#[test]
fn norms_and_tokens_are_copies() {
    let peft = Promises {
        formats: &[Format::Peft],
        ..ALL
    };
    check("ln_tuning", peft);
    check("trainable_tokens[token_indices=[3,1,14]]", peft);
    // New tokens beside LoRA, as one adapter.
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let both = "lora[r=3,alpha=5]|trainable_tokens[token_indices=[3,1]]";
    contract::identity_at_init(&bench, both, true);
    contract::only_adapters_get_gradients(&bench, both);
    contract::merged_equals_unmerged(&bench, both);
}

#[test]
fn unions() {
    let hub = Promises {
        identity_at_init: false,
        mergeable: false,
        formats: &[Format::AdapterHub],
    };
    check("lora[r=3,alpha=5]|seq_bn[reduction_factor=2]", hub);
    check(
        "lora[r=3,attn_matrices=[q]]|ia3[attn_matrices=[v],intermediate_lora=false,alpha=2]",
        Promises { mergeable: true, ..hub },
    );
}

const BOTTLENECK: Promises = Promises {
    identity_at_init: false,
    mergeable: false,
    formats: &[Format::AdapterHub],
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
    contract::dropout_in_training_only(&bench, "loreft[r=2,dropout=0.3]");
    contract::dropout_in_training_only(&bench, "adapter_plus[reduction_factor=2,stochastic_depth=0.5]");
}

const REFT: Promises = Promises {
    identity_at_init: false,
    mergeable: false,
    formats: &[Format::AdapterHub],
};

#[test]
fn reft_at_both_ends() {
    check("loreft[r=3,suffix_positions=2]", REFT);
    check("noreft[r=3,suffix_positions=2,non_linearity=prelu]", REFT);
    check("direft[r=3,suffix_positions=2]", REFT);
    check("loreft[r=3,suffix_positions=1,tied_weights=true,layers=[1]]", REFT);
    // As wide as the model: an exponential in place of reflections.
    check("loreft[r=8,suffix_positions=1]", REFT);
}

#[test]
fn reft_as_preset() {
    // The unit of the last positions takes no part, as in the reference.
    let bench = Bench::new(2, 4, 5, &Device::flex());
    for config in ["loreft", "noreft", "direft"] {
        contract::identity_at_init(&bench, config, false);
        contract::refuses_to_merge(&bench, config);
        contract::save_load_same_output(&bench, config, Format::AdapterHub);
        contract::refuses_to_save(&bench, config, Format::Peft);
    }
    let set = bench.attach("loreft[r=2]");
    // R, b and what W is made of, of two units in two layers; the bases are stored.
    assert_eq!(set.num_trainable_params(), 2 * 2 * (2 * 8 + 2 + 2 * 8));
    assert_eq!(set.params().filter(|p| p.fixed).count(), 4);
}

#[test]
fn prompts_after_the_embeddings() {
    check("prompt_tuning[prompt_length=3]", REFT);
    check("prompt_tuning[prompt_length=2,combine=prefix_after_bos]", REFT);
    check("prompt_tuning", REFT);
}

const PEFT_PROMPT: Promises = Promises {
    formats: &[Format::Peft],
    ..REFT
};

#[test]
fn prompts_before_the_embeddings() {
    check("peft_prompt_tuning[num_virtual_tokens=3]", PEFT_PROMPT);
    check(
        "peft_prompt_tuning[num_virtual_tokens=2,prompt_tuning_init=SAMPLE_VOCAB]",
        PEFT_PROMPT,
    );
}

#[test]
fn prompts_that_a_network_makes() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    for network in ["MLP", "LSTM"] {
        let config =
            format!("p_tuning[num_virtual_tokens=3,encoder_hidden_size=24,encoder_reparameterization_type={network}]");
        contract::identity_at_init(&bench, &config, false);
        contract::only_adapters_get_gradients(&bench, &config);
        contract::refuses_to_merge(&bench, &config);
        contract::refuses_to_save(&bench, &config, Format::AdapterHub);
        // Files hold what the network makes.
        contract::save_load_equal_output(&bench, &config, Format::Peft, 1e-6);
    }
    let dropped = "p_tuning[num_virtual_tokens=3,encoder_hidden_size=6,encoder_reparameterization_type=LSTM,\
        encoder_dropout=0.5]";
    contract::dropout_in_training_only(&bench, dropped);
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
        stabilized in any::<bool>(),
    ) {
        let bench = Bench::new(heads, d_head, seed, &Device::flex());
        let config = format!("lora[r={rank},alpha={alpha:.3},target_modules=all-linear,use_rslora={stabilized}]");
        contract::merged_layers_equal_unmerged(&bench, &config);
    }

    #[test]
    fn scaling_merges_exactly(alpha in 0.1f64..4.0, heads in 1usize..4, d_head in 2usize..6, seed in any::<u64>()) {
        let bench = Bench::new(heads, d_head, seed, &Device::flex());
        let config = format!("ia3[alpha={alpha:.3},output_lora=true]");
        contract::merged_layers_equal_unmerged(&bench, &config);
        contract::resets_bit_for_bit(&bench, &config);
    }

    #[test]
    fn magnitudes_merge_exactly(
        rank in 1usize..9,
        alpha in 0.5f64..20.0,
        heads in 1usize..4,
        d_head in 2usize..6,
        seed in any::<u64>(),
        peft in any::<bool>(),
    ) {
        let bench = Bench::new(heads, d_head, seed, &Device::flex());
        let form = if peft { ",form=peft" } else { "" };
        let config = format!("dora[r={rank},alpha={alpha:.3},target_modules=all-linear{form}]");
        contract::merged_layers_equal_unmerged(&bench, &config);
        contract::resets_bit_for_bit(&bench, &config);
    }

    #[test]
    fn weight_methods_merge_exactly(
        rank in 1usize..5,
        half in 1usize..4,
        blocks in 1usize..4,
        alpha in 0.5f64..20.0,
        seed in any::<u64>(),
    ) {
        let size = 2 * half;
        let bench = Bench::new(blocks, 2 * size, seed, &Device::flex());
        for config in [
            format!("adalora[init_r={rank},lora_alpha={alpha:.3}]"),
            format!("boft[boft_block_size={size}]"),
            format!("c3a[block_size={size}]"),
            format!("delora[r={rank},delora_lambda={alpha:.3}]"),
            format!("fourierft[n_frequency={rank},scaling={alpha:.3}]"),
            format!("hira[r={rank}]"),
            format!("hra[r={rank}]"),
            format!("loha[r={rank},alpha={alpha:.3},target_modules=all-linear]"),
            format!("lokr[r={rank},alpha={alpha:.3},target_modules=all-linear]"),
            format!("miss[r={rank},target_modules=all-linear]"),
            format!("oft[oft_block_size={size},use_cayley_neumann=false]"),
            format!("road[group_size={size}]"),
            format!("vblora[r={rank},num_vectors=5,vector_length={size}]"),
        ] {
            contract::merged_layers_equal_unmerged(&bench, &config);
            contract::resets_bit_for_bit(&bench, &config);
        }
    }

    #[test]
    fn shared_projections_merge_exactly(
        rank in 1usize..9,
        alpha in 0.5f64..20.0,
        heads in 1usize..4,
        d_head in 2usize..6,
        seed in any::<u64>(),
    ) {
        let bench = Bench::new(heads, d_head, seed, &Device::flex());
        for config in [
            format!("vera[r={rank},alpha={alpha:.3}]"),
            format!("dvora[r={rank},alpha={alpha:.3}]"),
            format!("vera[r={rank},target_modules=all-linear,form=peft]"),
            format!("mtl_lora[r={rank},alpha={alpha:.3},n_up_projection=2]"),
        ] {
            contract::merged_layers_equal_unmerged(&bench, &config);
            contract::resets_bit_for_bit(&bench, &config);
        }
    }
}
