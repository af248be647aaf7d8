//! The most memory that commands hold: what they read is read tensor by tensor.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use adapters::core::Tensors;
use adapters::models::Pretrained;
use adapters::store::{write_json, write_safetensors};
use adapters::{Adapted, AdapterFiles, method};
use adapters_testkit::random_bert::write_checkpoint;
use burn::tensor::{Device, TensorData};
use serde_json::json;

use crate::common::Task;

const MIB: usize = 1 << 20;

/// The most memory that the command holds in the folder of the task, in bytes: the most of some runs, as a short one may end between
/// two looks at it.
fn peak(task: &Task, arguments: &str) -> usize {
    const RUNS: usize = 4;
    (0..RUNS).map(|_| peak_of_run(task, arguments)).max().unwrap_or(0)
}

fn peak_of_run(task: &Task, arguments: &str) -> usize {
    // What a run before this one wrote.
    let _ = fs::remove_dir_all(task.path("merged"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_adapters"))
        .args(arguments.split_whitespace())
        .args(["--threads", "1"])
        .current_dir(task.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    // The kernel keeps the maximum, so that the last look has it.
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kilobytes) = line.and_then(|line| line.trim().strip_suffix(" kB")) {
            peak = kilobytes.trim().parse::<usize>().unwrap() * 1024;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(child.wait().unwrap().success(), "{arguments}");
    assert!(peak > MIB, "{arguments}: {peak}");
    peak
}

/// An adapter of the model that was not trained; bytes of the model's checkpoint.
fn adapter(task: &Task) -> usize {
    let config = "lora[r=2,init_weights=bert,intermediate_lora=true,output_lora=true]";
    let model = task.path("model");
    let mut adapted = Adapted::new(Pretrained::open(&model).unwrap().model(&Device::flex()).unwrap());
    adapted.attach("a", method(config).unwrap()).unwrap();
    adapted.save(task.path("adapter")).unwrap();
    fs::metadata(model.join("model.safetensors")).unwrap().len() as usize
}

/// A BERT with an adapter and a head; bytes of its checkpoint.
fn bert(task: &Task, large: bool) -> usize {
    let (heads, d_head) = if large { (12, 64) } else { (2, 8) };
    write_checkpoint(&task.path("model"), heads, d_head, 1);
    let width = heads * d_head;
    let head = Tensors::from([
        (
            "weight".to_owned(),
            TensorData::new(vec![0.1f32; 2 * width], [2, width]),
        ),
        ("bias".to_owned(), TensorData::from([0.0f32, 0.1])),
    ]);
    write_safetensors(&task.path("head.safetensors"), &head, []).unwrap();
    adapter(task)
}

/// A Llama with the tokenizer of the task, and an adapter; bytes of its checkpoint.
fn llama(task: &Task, large: bool) -> usize {
    let (model, width, layers) = (task.path("model"), if large { 768 } else { 16 }, 3);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16, "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 4 * width, "max_position_embeddings": 64,
        "tie_word_embeddings": true, "eos_token_id": 3,
    });
    let wide = 4 * width;
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![16, width]),
        ("model.norm".to_owned(), vec![width]),
    ];
    for layer in 0..layers {
        let at = |rest: &str, shape: &[usize]| (format!("model.layers.{layer}.{rest}"), shape.to_vec());
        shapes.extend([
            at("input_layernorm", &[width]),
            at("post_attention_layernorm", &[width]),
            at("self_attn.q_proj", &[width, width]),
            at("self_attn.k_proj", &[width, width]),
            at("self_attn.v_proj", &[width, width]),
            at("self_attn.o_proj", &[width, width]),
            at("mlp.gate_proj", &[wide, width]),
            at("mlp.up_proj", &[wide, width]),
            at("mlp.down_proj", &[width, wide]),
        ]);
    }
    let tensors = shapes.into_iter().map(|(path, shape)| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|index| (index % 1009) as f32 / 1e5 + 0.001).collect();
        (format!("{path}.weight"), TensorData::new::<f32, _>(values, shape))
    });
    write_safetensors(&model.join("model.safetensors"), &tensors.collect(), []).unwrap();
    write_json(&model.join("config.json"), &config).unwrap();
    adapter(task)
}

/// What a command holds beyond what it holds for a model of a few kilobytes, and the bytes of the large model.
fn beyond(arguments: &str, prepare: impl Fn(&Task, bool) -> usize) -> (usize, usize) {
    let measured = [false, true].map(|large| {
        let task = Task::new();
        let bytes = prepare(&task, large);
        (peak(&task, arguments), bytes)
    });
    let [(small, _), (large, bytes)] = measured;
    assert!(bytes > 30 * MIB, "{bytes}");
    (large.saturating_sub(small), bytes)
}

#[test]
fn info_reads_headers() {
    for arguments in ["info model", "info adapter --model model"] {
        let (peak, model) = beyond(arguments, bert);
        assert!(peak < model / 4, "{arguments}: {peak} of {model}");
    }
}

/// The model, its largest tensor, and what a pass over four tokens takes.
#[test]
fn predict_and_generate_hold_the_model_once() {
    let predict = "predict --text good --adapter adapter --model model --head head.safetensors";
    let (peak, model) = beyond(predict, bert);
    assert!(peak < model + model / 4, "{peak} of {model}");
    let (peak, model) = beyond(&format!("{predict} --precision int8"), bert);
    assert!(peak < model / 2, "int8: {peak} of {model}");
    let (peak, model) = beyond("generate --prompt good --model model --max-tokens 2", llama);
    assert!(peak < model + model / 4, "{peak} of {model}");
}

/// Of the base a few layers are kept, and of what is written one tensor; both are less than a shard.
#[test]
fn merge_holds_a_few_layers() {
    let (peak, model) = beyond("merge --adapter adapter --model model --out merged", llama);
    assert!(peak < model * 3 / 4, "{peak} of {model}");
}
