//! A tiny BERT of any width, with random weights.

use std::path::Path;

use adapters::core::Tensors;
use adapters::nn::draw;
use adapters::store::{write_json, write_safetensors};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;

/// A BERT checkpoint with random weights: nothing in it is zero or one.
pub fn write_checkpoint(dir: &Path, heads: usize, d_head: usize, seed: u64) {
    let (d, ffn, vocab, positions, layers) = (heads * d_head, 2 * heads * d_head + 3, 16, 8, 2);
    let config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": vocab, "hidden_size": d,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": ffn,
        "max_position_embeddings": positions, "type_vocab_size": 2, "hidden_act": "gelu", "pad_token_id": 0,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = Tensors::new();
    let mut matrix = |key: &str, rows: usize, cols: usize| {
        let std = (cols as f32).sqrt().recip();
        tensors.insert(format!("{key}.weight"), draw::normal(&mut rng, [rows, cols], std));
    };
    matrix("embeddings.word_embeddings", vocab, d);
    matrix("embeddings.position_embeddings", positions, d);
    matrix("embeddings.token_type_embeddings", 2, d);
    let mut biased = vec![("pooler.dense".to_owned(), d)];
    matrix("pooler.dense", d, d);
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..layers {
        let at = |rest: &str| format!("encoder.layer.{layer}.{rest}");
        for (path, d_in, d_out) in [
            ("attention.self.query", d, d),
            ("attention.self.key", d, d),
            ("attention.self.value", d, d),
            ("attention.output.dense", d, d),
            ("intermediate.dense", d, ffn),
            ("output.dense", ffn, d),
        ] {
            matrix(&at(path), d_out, d_in);
            biased.push((at(path), d_out));
        }
        norms.extend([at("attention.output.LayerNorm"), at("output.LayerNorm")]);
    }
    for (path, d_out) in biased {
        tensors.insert(format!("{path}.bias"), draw::normal(&mut rng, [d_out], 0.1));
    }
    for path in norms {
        tensors.insert(format!("{path}.weight"), draw::uniform(&mut rng, [d], 1.5));
        tensors.insert(format!("{path}.bias"), draw::normal(&mut rng, [d], 0.1));
    }
    write_json(&dir.join("config.json"), &config)
        .and_then(|()| write_safetensors(&dir.join("model.safetensors"), &tensors, []))
        .expect("the checkpoint can be written");
}
