//! Decoders: how their checkpoints may look, which modules AdapterHub's configurations mean, and merging next to a tied head.

use std::fs;
use std::path::{Path, PathBuf};

use adapters::core::Tensors;
use adapters::merge;
use adapters::models::{LinearScores, Model, PaddingSide, Pretrained, TextInput, save_checkpoint};
use adapters::nn::ops::cross_entropy;
use adapters::store::{read_safetensors, write_safetensors};
use adapters::{AdapterSet, Ctx, Host, method};
use adapters_testkit::contract::{gradients_of, randomized, relative_error};
use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData, Tolerance};
use serde_json::{Value, json};

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/llama/base")
}

/// The configuration of the golden model with other values.
fn config(changes: Value) -> Value {
    let mut config: Value = serde_json::from_slice(&fs::read(base().join("config.json")).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A checkpoint folder of the golden model with other values and tensors.
fn checkpoint(dir: &Path, changes: Value, tensors: &Tensors) {
    fs::write(dir.join("config.json"), config(changes).to_string()).unwrap();
    write_safetensors(&dir.join("model.safetensors"), tensors, []).unwrap();
}

fn tensors() -> Tensors {
    read_safetensors(&base().join("model.safetensors")).unwrap().0
}

fn load(dir: &Path) -> Model {
    Pretrained::open(dir).unwrap().causal_lm(&Device::flex()).unwrap()
}

fn logits(lm: &Model, set: &AdapterSet) -> TensorData {
    let rows: [&[u32]; 2] = [&[5, 17, 42, 8, 61], &[33, 7]];
    let mut cx = Ctx::new(set);
    let hidden = lm
        .forward(
            TextInput::padded(&rows, 0, PaddingSide::Right, &Device::flex()),
            &mut cx,
        )
        .unwrap();
    lm.logits(hidden, &mut cx).unwrap().into_data()
}

fn attached(lm: &Model, config: &str) -> AdapterSet {
    let mut set = AdapterSet::new();
    set.attach("a", method(config).unwrap(), lm, 1, &Device::flex())
        .unwrap();
    set.activate("a").unwrap();
    randomized(set, 7)
}

/// The loss needs no matrix of all scores, unless an adapter acts on the head.
#[test]
fn the_loss_of_a_vocabulary_is_that_of_its_scores() {
    let device = Device::flex();
    let goldens = base().join("../..");
    for (name, config, deferred) in [
        ("llama", "lora[r=2,alpha=4]", true),
        ("llama", "lora[r=2,alpha=4,target_modules=[q_proj,lm_head]]", false),
        ("qwen2_tied", "lora[r=2,alpha=4]", true),
    ] {
        let lm = load(&goldens.join(name).join("base"));
        let set = attached(&lm, config).train();
        let targets = Tensor::<1, Int>::from_data(TensorData::from([17i64, 42, 8, 61, 0]), &device);
        let run = |loss: fn(LinearScores, Tensor<1, Int>) -> Tensor<1>| {
            let mut cx = Ctx::new(&set);
            let input = TextInput::padded(&[&[5u32, 17, 42, 8, 61]], 0, PaddingSide::Right, &device);
            let hidden = lm.forward(input, &mut cx).unwrap();
            let scores = lm.scores(hidden, &mut cx).unwrap();
            let is_deferred = matches!(scores, LinearScores::Deferred { .. });
            assert_eq!(is_deferred, deferred, "{name}, {config}");
            let loss = loss(scores, targets.clone()).mean();
            (loss.clone(), gradients_of(&set, &loss.backward()))
        };
        let (own, own_grads) = run(LinearScores::cross_entropy);
        let (wanted, wanted_grads) = run(|scores, targets| cross_entropy(scores.whole().squeeze_dim(0), targets));
        own.into_data()
            .assert_approx_eq::<f32>(&wanted.into_data(), Tolerance::absolute(2e-5));
        for (id, wanted) in wanted_grads {
            let (own, wanted) = (own_grads[&id].as_ref().unwrap(), wanted.unwrap());
            assert!(relative_error(own, &wanted) < 1e-4, "{name}, {config}");
        }
    }
}

/// A layer below the first one with an adapter enters no graph, so that the backward pass ends above it.
#[test]
fn the_graph_begins_at_the_first_adapter() {
    let lm = load(&base());
    for (config, first) in [
        ("seq_bn[reduction_factor=2]", 0),
        ("seq_bn[reduction_factor=2,leave_out=[0]]", 1),
    ] {
        let set = attached(&lm, config).train();
        let mut cx = Ctx::new(&set);
        let input = TextInput::padded(&[&[5u32, 17, 42, 8, 61]], 0, PaddingSide::Right, &Device::flex());
        let chain = lm.chain(input, &mut cx).unwrap();
        let mut flow = chain.entered;
        let mut tracked = vec![flow.hidden.is_tracked()];
        for step in &chain.steps {
            flow = step(flow, None, cx.hooks());
            tracked.push(flow.hidden.is_tracked());
        }
        // What enters layer 0, what it returns, and so on.
        let wanted: Vec<bool> = (0..tracked.len()).map(|entered| entered > first).collect();
        assert_eq!(tracked, wanted, "{config}");
    }
}

/// Half-precision weights in shards are the same numbers, rounded.
#[test]
fn half_precision_shards_load() {
    for dtype in [DType::F16, DType::BF16] {
        let (halves, rounded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let half: Tensors = tensors()
            .into_iter()
            .map(|(key, data)| (key, data.convert_dtype(dtype)))
            .collect();
        let whole = half
            .iter()
            .map(|(key, data)| (key.clone(), data.clone().convert_dtype(DType::F32)));
        checkpoint(rounded.path(), json!({}), &whole.collect());

        fs::write(halves.path().join("config.json"), config(json!({})).to_string()).unwrap();
        let mut map = serde_json::Map::new();
        for (part, name) in [
            (0, "model-00001-of-00002.safetensors"),
            (1, "model-00002-of-00002.safetensors"),
        ] {
            let shard: Tensors = half
                .clone()
                .into_iter()
                .enumerate()
                .filter(|(i, _)| i % 2 == part)
                .map(|(_, t)| t)
                .collect();
            map.extend(shard.keys().map(|key| (key.clone(), name.into())));
            write_safetensors(&halves.path().join(name), &shard, []).unwrap();
        }
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(halves.path().join("model.safetensors.index.json"), index.to_string()).unwrap();

        let (got, want) = (
            logits(&load(halves.path()), &AdapterSet::new()),
            logits(&load(rounded.path()), &AdapterSet::new()),
        );
        assert_eq!(got, want, "{dtype:?}");
        assert!(relative_error(&got, &logits(&load(&base()), &AdapterSet::new())) > 0.0);
    }
}

#[test]
fn a_checkpoint_must_fit_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let error = |changes: Value, tensors: &Tensors| {
        checkpoint(dir.path(), changes, tensors);
        Pretrained::open(dir.path())
            .unwrap()
            .causal_lm(&Device::flex())
            .unwrap_err()
            .to_string()
    };
    for (changes, parts) in [
        (
            json!({"num_key_value_heads": 3}),
            &["num_key_value_heads", "a divisor of num_attention_heads = 4"][..],
        ),
        (json!({"head_dim": 7}), &["head_dim", "even"]),
        (
            json!({"rope_scaling": {"rope_type": "warp", "factor": 2.0}}),
            &["rope_scaling", "warp"],
        ),
        (json!({"rope_scaling": {"type": "linear"}}), &["rope_scaling.factor"]),
        (json!({"attention_bias": true}), &["layers.0.self_attn.q_proj.bias"]),
    ] {
        let error = error(changes, &tensors());
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let mut more = tensors();
    more.insert(
        "model.layers.0.self_attn.q_norm.weight".to_owned(),
        TensorData::from([1.0f32]),
    );
    assert!(error(json!({}), &more).contains("q_norm"));
    let encoder = Pretrained::open(base())
        .unwrap()
        .encoder(&Device::flex())
        .unwrap_err()
        .to_string();
    assert!(
        encoder.contains("`llama` is not of the expected kind, encoder"),
        "{encoder}"
    );
}

/// A query sees itself and one key before it: the last token of five knows nothing of the first.
#[test]
fn a_window_hides_what_is_far_away() {
    let dir = tempfile::tempdir().unwrap();
    let last = |window: Value, first: u32| {
        let changes = json!({"model_type": "mistral", "sliding_window": window, "num_hidden_layers": 2});
        checkpoint(dir.path(), changes, &tensors());
        let lm = load(dir.path());
        let row: &[u32] = &[first, 17, 42, 8, 61];
        let mut cx = Ctx::plain();
        let hidden = lm
            .forward(
                TextInput::padded(&[row], 0, PaddingSide::Right, &Device::flex()),
                &mut cx,
            )
            .unwrap();
        hidden.slice_dim(1, 4..5).into_data()
    };
    // Two layers, each one key back: two tokens of the past at most.
    assert_eq!(last(json!(2), 5), last(json!(2), 90));
    assert_ne!(last(Value::Null, 5), last(Value::Null, 90));
    assert_ne!(last(json!(4), 5), last(json!(4), 90));
}

/// On Llama AdapterHub's `intermediate` is the second projection of the feed-forward block, on Qwen2 the first.
#[test]
fn adapterhub_means_the_places_it_wraps() {
    let llama = load(&base());
    let paths = |lm: &Model, config: &str| -> Vec<String> {
        let set = attached(lm, config);
        let layers = set.get("a").unwrap().layers();
        layers
            .filter(|l| l.info.site.layer == Some(0))
            .map(|l| l.info.path.clone())
            .collect()
    };
    let only = |module: &str| format!("lora[selfattn_lora=false,{module}=true]");
    assert_eq!(
        paths(&llama, &only("intermediate_lora")),
        ["model.layers.0.mlp.down_proj"]
    );
    assert_eq!(paths(&llama, &only("output_lora")), ["model.layers.0.mlp.up_proj"]);
    let modules = "lora[target_modules=[gate_proj]]";
    assert_eq!(paths(&llama, modules), ["model.layers.0.mlp.gate_proj"]);

    let dir = tempfile::tempdir().unwrap();
    let mut with_biases = tensors();
    for layer in 0..2 {
        for (name, size) in [("q", 32), ("k", 16), ("v", 16)] {
            let key = format!("model.layers.{layer}.self_attn.{name}_proj.bias");
            with_biases.insert(key, TensorData::new(vec![0.1f32; size], [size]));
        }
    }
    checkpoint(dir.path(), json!({"model_type": "qwen2"}), &with_biases);
    let qwen2 = load(dir.path());
    assert_eq!(
        paths(&qwen2, &only("intermediate_lora")),
        ["model.layers.0.mlp.up_proj"]
    );
    assert_eq!(qwen2.class_name(), "Qwen2ForCausalLM");
}

/// A head that is the table of the embeddings keeps its weight when an adapter is merged into the table.
#[test]
fn merging_into_a_tied_table_leaves_the_head() {
    let (tied, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut weights = tensors();
    weights.remove("lm_head.weight");
    checkpoint(tied.path(), json!({"tie_word_embeddings": true}), &weights);
    let lm = load(tied.path());
    let set = attached(&lm, "lora[r=4,target_modules=[embed_tokens,q_proj]]");
    let adapted = logits(&lm, &set);
    let mut model = lm.clone();
    let merged = merge(&mut model, &set, "a").unwrap();
    let plain = AdapterSet::new();
    assert!(relative_error(&logits(&model, &plain), &adapted) < 1e-5);
    save_checkpoint(&model, &Pretrained::open(tied.path()).unwrap(), out.path(), None).unwrap();
    assert!(relative_error(&logits(&load(out.path()), &plain), &adapted) < 1e-5);
    merged.reset(&mut model);
    assert_eq!(logits(&model, &plain), logits(&lm, &plain));
    assert_ne!(logits(&lm, &plain), adapted);
}
