//! The contract suite for every method on three more kinds of models: a decoder with grouped queries (Llama), a decoder with
//! a fused projection (GPT-2), and an encoder-decoder (T5). `contract.rs` has the encoder.

use adapters::core::Format;
use adapters::models::Architectures;
use adapters_testkit::contract::{self, Bench, Promises};
use adapters_testkit::model_contract::ModelCase;
use burn::tensor::Device;
use serde_json::{Value, json};

const PEFT: &[Format] = &[Format::Peft];
const HUB: &[Format] = &[Format::AdapterHub];

/// A model, and what its layers are called.
struct Family {
    config: Value,
    /// A layer of the attention and one of the feed-forward network.
    layers: [&'static str; 2],
    /// The formats in which a method that AdapterHub targets by matrices of the attention can be written.
    by_matrix: &'static [Format],
    /// The same for one that peft targets by the names of whole layers.
    by_name: &'static [Format],
}

fn check(family: Family) {
    let device = Device::flex();
    let case = ModelCase {
        config: family.config,
        optional_keys: &[],
        architectures: Architectures::default(),
    };
    let bench = Bench::of(&case, &device);
    let [attention, ffn] = family.layers;
    let run = |config: &str, identity_at_init: bool, mergeable: bool, formats: &'static [Format]| {
        let config = config.replace("ATTENTION", attention).replace("FFN", ffn);
        let promises = Promises {
            identity_at_init,
            mergeable,
            formats,
        };
        contract::all_on(&bench, &config, promises);
    };
    // Updates of a weight that begin as nothing.
    for (config, formats) in [
        ("lora", family.by_matrix),
        (
            "lora[r=4,alpha=6,attn_matrices=[q,k,v],intermediate_lora=true,output_lora=true]",
            family.by_matrix,
        ),
        ("lora[r=3,alpha=5,target_modules=all-linear,use_rslora=true]", PEFT),
        ("lora[r=3,alpha=5,target_modules=[ATTENTION]]", family.by_name),
        ("ia3", family.by_matrix),
        ("ia3[target_modules=[ATTENTION,FFN],feedforward_modules=[FFN]]", PEFT),
        ("dora[r=3,alpha=5,intermediate_lora=true,output_lora=true]", HUB),
        ("dora[r=3,alpha=5,target_modules=[ATTENTION,FFN],form=peft]", PEFT),
        // Layers of unequal widths cannot share the matrices of AdapterHub's form, as in the reference.
        ("vera[r=3,alpha=5,attn_matrices=[q]]", HUB),
        ("dvora[r=3,alpha=5,attn_matrices=[q]]", HUB),
        ("vera[r=3,target_modules=[ATTENTION,FFN],form=peft]", PEFT),
        ("mtl_lora[r=3,alpha=5,n_up_projection=2]", HUB),
        ("adalora[init_r=3,lora_alpha=5]", PEFT),
        ("boft[boft_block_size=4,target_modules=[ATTENTION,FFN]]", PEFT),
        ("c3a[block_size=4,init_weights=true]", PEFT),
        ("delora[r=3]", PEFT),
        ("fourierft[n_frequency=7,scaling=30,init_weights=true]", PEFT),
        ("hira[r=3,target_modules=[ATTENTION,FFN]]", PEFT),
        ("loha[r=3,alpha=5,target_modules=[ATTENTION,FFN]]", PEFT),
        ("lokr[r=1,alpha=5,target_modules=[ATTENTION,FFN]]", PEFT),
        ("miss[r=4,target_modules=[ATTENTION,FFN]]", PEFT),
        ("oft[oft_block_size=4]", PEFT),
        ("road[group_size=4]", PEFT),
        ("ln_tuning", PEFT),
        ("trainable_tokens[token_indices=[3,1,14]]", PEFT),
    ] {
        run(config, true, true, formats);
    }
    // Reflections undo each other but for rounding, and vectors of a bank are not zero.
    run("hra[r=4,target_modules=[ATTENTION,FFN]]", false, true, PEFT);
    run("vblora[r=2,num_vectors=3,vector_length=4,topk=3]", false, true, PEFT);
    run("lora[r=4,alpha=6,use_gating=true]", true, false, HUB);
    run("par_bn", true, false, HUB);
    for config in [
        "seq_bn[reduction_factor=2]",
        "double_seq_bn[reduction_factor=2,use_gating=true]",
        "adapter_plus[reduction_factor=2,mh_adapter=true]",
        "seq_bn_inv[reduction_factor=2]",
        "compacter[reduction_factor=2]",
        "prefix_tuning[prefix_length=3,bottleneck_size=5]",
        "unipelt[leave_out=[1]]",
        "mam",
        "prompt_tuning[prompt_length=3]",
        "loreft[r=3,suffix_positions=2]",
        "noreft[r=3,suffix_positions=2]",
        "direft[r=3,suffix_positions=2]",
        "lora[r=3,alpha=5]|seq_bn[reduction_factor=2]",
    ] {
        run(config, false, false, HUB);
    }
    run("prefix_tuning_flat[prefix_length=3,form=peft]", false, false, PEFT);
    run("peft_prompt_tuning[num_virtual_tokens=3]", false, false, PEFT);
    // Files hold what the network makes.
    let config = "p_tuning[num_virtual_tokens=3,encoder_hidden_size=24]";
    contract::identity_at_init(&bench, config, false);
    contract::only_adapters_get_gradients(&bench, config);
    contract::save_load_equal_output(&bench, config, Format::Peft, 1e-6);
    contract::rows_go_apart(&bench, config);
}

#[test]
fn a_decoder_with_grouped_queries() {
    check(Family {
        config: json!({
            "model_type": "llama", "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 20, "max_position_embeddings": 40, "pad_token_id": 0,
            "tie_word_embeddings": false,
        }),
        layers: ["k_proj", "down_proj"],
        by_matrix: &Format::ALL,
        by_name: &Format::ALL,
    });
}

#[test]
fn a_decoder_with_a_fused_projection() {
    check(Family {
        config: json!({
            "model_type": "gpt2", "vocab_size": 24, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40,
        }),
        layers: ["attn.c_attn", "mlp.c_proj"],
        // Peft has no update of a part of a layer, and AdapterHub no update of the whole of this one.
        by_matrix: HUB,
        by_name: PEFT,
    });
}

#[test]
fn an_encoder_decoder() {
    check(Family {
        config: json!({
            "model_type": "t5", "vocab_size": 24, "d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 4,
            "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
        }),
        layers: ["q", "wo"],
        by_matrix: &Format::ALL,
        by_name: &Format::ALL,
    });
}
