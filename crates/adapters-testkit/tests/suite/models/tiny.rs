//! Tiny configurations of every architecture.

use serde_json::{Value, json};

fn rotary(model_type: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 20, "max_position_embeddings": 40, "pad_token_id": 0,
        "tie_word_embeddings": false,
    });
    extend(&mut config, more);
    config
}

fn encoder(model_type: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 20, "max_position_embeddings": 40,
    });
    extend(&mut config, more);
    config
}

fn extend(config: &mut Value, more: Value) {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
}

fn of_speech(more: Value) -> Value {
    let mut config = json!({
        "model_type": "whisper", "vocab_size": 24, "num_mel_bins": 6, "d_model": 16, "encoder_layers": 2,
        "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 20,
        "decoder_ffn_dim": 12, "max_source_positions": 5, "max_target_positions": 12, "pad_token_id": 0,
        "decoder_start_token_id": 1,
    });
    extend(&mut config, more);
    config
}

/// Configurations of an architecture that compute differently, and keys it may have.
pub(crate) fn configs(name: &str) -> (Vec<Value>, &'static [&'static str]) {
    let model_type = name;
    match name {
        "bart" | "mbart" | "plbart" => {
            let config = |scaled: bool, heads: usize| {
                json!({
                    "model_type": model_type, "vocab_size": 24, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1,
                    "encoder_attention_heads": 4, "decoder_attention_heads": heads, "encoder_ffn_dim": 20,
                    "decoder_ffn_dim": 12, "max_position_embeddings": 40, "scale_embedding": scaled, "pad_token_id": 0,
                })
            };
            (vec![config(false, 4), config(true, 2)], &["final_logits_bias"])
        }
        "bert" => (
            vec![encoder("bert", json!({}))],
            &["pooler.dense.weight", "cls.predictions.transform.dense.weight"],
        ),
        // The contract pads with token 0.
        "roberta" | "xlm-roberta" | "xlm_roberta" => (
            vec![encoder(
                model_type,
                json!({"max_position_embeddings": 12, "type_vocab_size": 1, "pad_token_id": 0}),
            )],
            &["pooler.dense.weight", "lm_head.dense.weight"],
        ),
        "xmod" => {
            let config = |more: Value| {
                let mut config = encoder("xmod", json!({"max_position_embeddings": 12, "pad_token_id": 0}));
                extend(&mut config, more);
                config
            };
            let languages = json!(["en_XX", "de_DE"]);
            let behind = json!({
                "languages": languages, "default_language": "de_DE", "ln_before_adapter": false,
                "adapter_layer_norm": true,
            });
            let before = json!({"languages": languages, "default_language": "en_XX", "pre_norm": true});
            (
                vec![config(json!({})), config(behind), config(before)],
                &["pooler.dense.weight", "lm_head.dense.weight"],
            )
        }
        "bert-generation" => (vec![encoder(model_type, json!({"type_vocab_size": 2}))], &[]),
        "electra" => {
            let config = |width: usize| encoder("electra", json!({"embedding_size": width}));
            (vec![config(12), config(16)], &["generator_predictions.dense.weight"])
        }
        "deberta" => {
            let config = |more: Value| {
                let mut config = encoder("deberta", json!({"relative_attention": true, "type_vocab_size": 2}));
                extend(&mut config, more);
                config
            };
            let near = json!({"pos_att_type": ["c2p", "p2c"], "max_relative_positions": 4, "embedding_size": 12});
            let absent = json!({"relative_attention": false, "pos_att_type": "c2p", "intermediate_size": 24});
            let one_way = json!({"pos_att_type": "p2c", "position_biased_input": false, "intermediate_size": 28});
            (
                vec![config(near), config(absent), config(one_way)],
                &["pooler.dense.weight", "cls.predictions.transform.dense.weight"],
            )
        }
        "deberta-v2" => {
            let config = |more: Value| {
                let mut config = encoder(
                    "deberta-v2",
                    json!({
                        "relative_attention": true, "position_buckets": 3, "pos_att_type": "p2c|c2p",
                        "position_biased_input": false,
                    }),
                );
                extend(&mut config, more);
                config
            };
            let shared = json!({"share_att_key": true, "norm_rel_ebd": "layer_norm"});
            let convolved =
                json!({"conv_kernel_size": 3, "conv_groups": 2, "position_buckets": -1, "max_relative_positions": 3});
            (
                vec![config(shared), config(convolved)],
                &["pooler.dense.weight", "cls.predictions.transform.dense.weight"],
            )
        }
        "modernbert" => {
            let config = |more: Value| {
                let mut config = encoder(
                    "modernbert",
                    json!({
                        "num_hidden_layers": 3, "global_attn_every_n_layers": 2, "local_attention": 3, "pad_token_id": 0,
                    }),
                );
                extend(&mut config, more);
                config
            };
            let listed = json!({
                "norm_bias": true, "attention_bias": true, "mlp_bias": true,
                "classifier_pooling": "mean", "classifier_activation": "relu", "classifier_bias": true,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 500.0},
                    "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0},
                },
            });
            (vec![config(json!({})), config(listed)], &["head.dense.weight"])
        }
        // Three layers of two groups: the first group runs twice.
        "albert" => {
            let config = |groups: usize, inner: usize| {
                let shared = json!({
                    "embedding_size": 12, "num_hidden_layers": 3, "num_hidden_groups": groups, "inner_group_num": inner,
                });
                encoder("albert", shared)
            };
            (vec![config(1, 1), config(2, 2)], &["pooler.weight"])
        }
        "distilbert" => (
            vec![json!({
                "model_type": "distilbert", "vocab_size": 24, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 20,
                "max_position_embeddings": 40,
            })],
            &["vocab_transform.weight"],
        ),
        "gpt2" => {
            let config = |tied: bool, by_layer: bool| {
                json!({
                    "model_type": "gpt2", "vocab_size": 24, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40,
                    "tie_word_embeddings": tied, "scale_attn_by_inverse_layer_idx": by_layer,
                })
            };
            (vec![config(true, false), config(false, true)], &[])
        }
        "mixtral" => {
            let more = json!({"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 3});
            (vec![rotary("mixtral", more)], &[])
        }
        "qwen3_moe" => {
            let config = |normalized: bool, dense: Value| {
                let more = json!({
                    "head_dim": 6, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6,
                    "norm_topk_prob": normalized, "mlp_only_layers": dense,
                });
                rotary("qwen3_moe", more)
            };
            (vec![config(true, json!([])), config(false, json!([0]))], &[])
        }
        "gpt_oss" => {
            let more = json!({
                "head_dim": 6, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 3,
                "rope_scaling": {
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10, "truncate": false,
                },
            });
            (vec![rotary("gpt_oss", more)], &[])
        }
        "gpt_neox" => {
            let config = |parallel: bool, rotary: f64, more: Value| {
                let mut config = json!({
                    "model_type": "gpt_neox", "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "intermediate_size": 20, "max_position_embeddings": 40,
                    "use_parallel_residual": parallel, "rotary_pct": rotary,
                });
                config
                    .as_object_mut()
                    .unwrap()
                    .extend(more.as_object().unwrap().clone());
                config
            };
            let other = json!({"tie_word_embeddings": true, "attention_bias": false});
            (vec![config(true, 0.25, json!({})), config(false, 1.0, other)], &[])
        }
        "gptj" => {
            let config = |tied: bool, turned: usize| {
                json!({
                    "model_type": "gptj", "vocab_size": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40,
                    "rotary_dim": turned, "tie_word_embeddings": tied,
                })
            };
            (vec![config(false, 4), config(true, 8)], &[])
        }
        "opt" => {
            let config = |first: bool, width: usize, tied: bool| {
                json!({
                    "model_type": "opt", "vocab_size": 24, "hidden_size": 16, "word_embed_proj_dim": width,
                    "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 20, "max_position_embeddings": 40,
                    "do_layer_norm_before": first, "tie_word_embeddings": tied, "enable_bias": tied, "pad_token_id": 0,
                })
            };
            (
                vec![config(true, 16, true), config(false, 8, true), config(true, 16, false)],
                &[],
            )
        }
        // The spellings of transformers 5 next to the older ones.
        "llama" => {
            let newer = json!({
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}, "dtype": "bfloat16",
                "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": true,
            });
            let yarn = json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}});
            // Every text of the contract is a long one.
            let long = json!({"original_max_position_embeddings": 2, "rope_scaling": {
                "rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0],
            }});
            let configs = [json!({}), newer, yarn, long];
            (configs.map(|more| rotary("llama", more)).into(), &[])
        }
        "mistral" => (vec![rotary("mistral", json!({"sliding_window": 3}))], &[]),
        "qwen2" => (vec![rotary("qwen2", json!({}))], &[]),
        "qwen3" => (
            vec![rotary("qwen3", json!({"head_dim": 6, "attention_bias": true}))],
            &[],
        ),
        // A window in one layer of two.
        "gemma2" => {
            let listed = json!({
                "head_dim": 6, "query_pre_attn_scalar": 5, "sliding_window": 3, "final_logit_softcapping": null,
                "layer_types": ["full_attention", "sliding_attention"], "tie_word_embeddings": false,
            });
            let published = json!({"head_dim": 4, "sliding_window": 2, "attn_logit_softcapping": 2.0});
            (vec![rotary("gemma2", published), rotary("gemma2", listed)], &[])
        }
        "gemma3_text" => {
            let newer = json!({
                "head_dim": 4, "sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"],
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                },
                "tie_word_embeddings": true,
            });
            let older = json!({"head_dim": 6, "sliding_window": 2, "sliding_window_pattern": 2});
            (vec![rotary("gemma3_text", newer), rotary("gemma3_text", older)], &[])
        }
        "phi" => {
            let normed = json!({"qk_layernorm": true, "partial_rotary_factor": 1.0});
            (vec![rotary("phi", json!({})), rotary("phi", normed)], &[])
        }
        "phi3" => {
            let part = json!({"partial_rotary_factor": 0.5, "sliding_window": 3, "num_key_value_heads": 4});
            (vec![rotary("phi3", json!({})), rotary("phi3", part)], &[])
        }
        "smollm3" => {
            let window = json!({
                "use_sliding_window": true, "sliding_window": 3, "no_rope_layers": [0, 1], "attention_bias": true,
            });
            let published = json!({"no_rope_layer_interval": 2});
            (vec![rotary("smollm3", published), rotary("smollm3", window)], &[])
        }
        "olmo2" => (
            vec![
                rotary("olmo2", json!({"num_key_value_heads": 4})),
                rotary("olmo2", json!({})),
            ],
            &[],
        ),
        "granite" => {
            let factors = json!({
                "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.4,
                "attention_multiplier": 0.2, "mlp_bias": true,
            });
            (vec![rotary("granite", factors)], &[])
        }
        "t5" | "mt5" => {
            let config = |ffn: &str, tied: bool| {
                json!({
                    "model_type": model_type, "vocab_size": 24, "d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 2,
                    "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
                    "feed_forward_proj": ffn, "tie_word_embeddings": tied,
                })
            };
            (vec![config("relu", true), config("gated-gelu", false)], &[])
        }
        "vit" => {
            let config = |bias: bool, image: usize| {
                json!({
                    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "intermediate_size": 20, "image_size": image, "patch_size": 2, "qkv_bias": bias,
                })
            };
            (vec![config(true, 4), config(false, 7)], &["pooler.dense.weight"])
        }
        "beit" => {
            let config = |own: bool, shared: bool, mean: bool, scale: f64| {
                json!({
                    "model_type": "beit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "intermediate_size": 20, "image_size": 5, "patch_size": 2, "use_relative_position_bias": own,
                    "use_shared_relative_position_bias": shared, "use_absolute_position_embeddings": !own,
                    "use_mean_pooling": mean, "layer_scale_init_value": scale, "drop_path_rate": 0.0,
                })
            };
            let configs = vec![config(true, false, true, 0.1), config(false, true, false, 0.0)];
            (configs, &["pooler.layernorm.weight"])
        }
        "dinov2" => {
            let config = |swiglu: bool, bias: bool| {
                json!({
                    "model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "mlp_ratio": 2, "image_size": 5, "patch_size": 2, "use_swiglu_ffn": swiglu, "qkv_bias": bias,
                })
            };
            (vec![config(false, true), config(true, false)], &[])
        }
        "siglip_vision_model" | "clip_vision_model" => (
            vec![json!({
                "model_type": model_type, "hidden_size": 16, "num_hidden_layers": 2,
                "num_attention_heads": 4, "intermediate_size": 20, "image_size": 5, "patch_size": 2,
            })],
            match model_type {
                "siglip_vision_model" => &["vision_model.head.probe"],
                _ => &[],
            },
        ),
        "clip_text_model" => (
            vec![json!({
                "model_type": "clip_text_model", "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2,
                "num_attention_heads": 4, "intermediate_size": 20, "max_position_embeddings": 12, "pad_token_id": 0,
            })],
            &[],
        ),
        "clip" => (
            vec![json!({
                "model_type": "clip", "projection_dim": 12,
                "text_config": {
                    "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "intermediate_size": 20, "max_position_embeddings": 12, "pad_token_id": 0, "eos_token_id": 2,
                },
                "vision_config": {
                    "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 20,
                    "image_size": 5, "patch_size": 2,
                },
            })],
            &[],
        ),
        "whisper" => (vec![of_speech(json!({}))], &[]),
        "WhisperForAudioClassification" => {
            let class = json!({"architectures": [name]});
            let sum = json!({"architectures": [name], "use_weighted_layer_sum": true});
            (vec![of_speech(class), of_speech(sum)], &["layer_weights"])
        }
        "wav2vec2" => {
            let config = |norm: &str, stable: bool, kernel: usize| {
                json!({
                    "model_type": "wav2vec2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "intermediate_size": 20, "feat_extract_norm": norm, "do_stable_layer_norm": stable,
                    "conv_dim": [10, 12], "conv_kernel": [5, 3], "conv_stride": [3, 2], "conv_bias": stable,
                    "num_conv_pos_embeddings": kernel, "num_conv_pos_embedding_groups": 2, "layerdrop": 0.0,
                })
            };
            let mut sum = config("layer", true, 4);
            extend(&mut sum, json!({"use_weighted_layer_sum": true}));
            let mut language = config("layer", true, 3);
            extend(&mut language, json!({"adapter_attn_dim": 6}));
            let shorter = |width: usize| {
                let mut shorter = config("group", false, 4);
                let adapter = json!({
                    "add_adapter": true, "num_adapter_layers": 2, "adapter_stride": 1, "adapter_kernel_size": 2,
                    "output_hidden_size": width,
                });
                extend(&mut shorter, adapter);
                shorter
            };
            let plain = vec![config("group", false, 4), config("layer", true, 3), sum];
            let adapted = [language, shorter(16), shorter(12)];
            (plain.into_iter().chain(adapted).collect(), &["layer_weights"])
        }
        "encoder-decoder" => {
            let stack = |width: usize, decoder: bool| {
                json!({
                    "model_type": "bert", "vocab_size": 24, "hidden_size": width, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "intermediate_size": 20, "max_position_embeddings": 40,
                    "is_decoder": decoder, "add_cross_attention": decoder,
                })
            };
            let config = |width: usize| {
                json!({
                    "model_type": "encoder-decoder", "encoder": stack(width, false), "decoder": stack(16, true),
                    "decoder_start_token_id": 1, "pad_token_id": 0,
                })
            };
            (vec![config(16), config(24)], &[])
        }
        other => panic!("{other} has no tiny configuration here"),
    }
}
