//! The loss of context-aware prompt tuning over the outputs in its context, with its gradient, equals peft's.

use std::fs;
use std::path::Path;

use adapters::models::heads::Targets;
use adapters::models::{ChatTime, Pretrained, TextInput};
use adapters::store::read_safetensors;
use adapters::train::{
    Batch, Fields, Labels, Records, TaskContext, TaskKind, TaskModel, TaskOptions, Template, hidden_states,
    tokenizer_of,
};
use adapters::{Adapted, Ctx, method};
use adapters_testkit::contract::relative_error;
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

#[test]
fn the_outputs_of_a_context_are_learned_as_in_peft() {
    let device = Device::flex();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (wanted, _) = read_safetensors(&here.join("tests/context/expected.safetensors")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(here.join("golden/llama/base").join(file), dir.path().join(file)).unwrap();
    }
    let words = r#"{"version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"}}"#;
    fs::write(dir.path().join("tokenizer.json"), words).unwrap();
    fs::write(dir.path().join("data.jsonl"), r#"{"prompt": "a", "completion": "b c"}"#).unwrap();
    let pretrained = Pretrained::open(dir.path()).unwrap();
    let base = pretrained.model(&device).unwrap();

    // The task alone is needed, whatever its data.
    let options = TaskOptions {
        labels: Labels::Count(0),
        fields: Fields::default(),
        pooling: None,
        head_dropout: 0.0,
        mask_probability: 0.0,
        class_weights: None,
        max_length: 16,
        template: Some(Template::Plain),
        answers: false,
        time: ChatTime::now(),
        pack: false,
    };
    let tokenizer = tokenizer_of(&pretrained, 16).unwrap();
    let cx = TaskContext {
        options: &options,
        pretrained: &pretrained,
        model: &base,
        tokenizer: tokenizer.as_ref(),
    };
    let task = TaskKind::find("causal_lm").unwrap().open(&cx).unwrap();
    let records = Records::read(dir.path().join("data.jsonl"), &options.fields).unwrap();
    let task = task.examples(&records, true, &cx).unwrap();

    let rows = [[5, 9, 3, 14, 7, 11], [8, 2, 11, 6, 1, 4]];
    let batch = Batch {
        input: TextInput::new(Tensor::from_data(TensorData::from(rows), &device)).into(),
        target_positions: (0..2).flat_map(|row| (3..6).map(move |t| (row, t - 1))).collect(),
        targets: Some(Targets::Classes(Tensor::from_data([14, 7, 11, 6, 1, 4], &device))),
        predictions: 6,
        tasks: Vec::new(),
    };
    for kind in ["none", "decay"] {
        let config = format!(
            "cpt[cpt_token_ids=[7,9,8,30,31,6,12,40,41,5],cpt_tokens_type_mask=[1,2,2,3,4,5,6,7,8,8],\
             opt_weighted_loss_type={kind},opt_loss_decay_factor=0.6]"
        );
        let mut adapted = Adapted::new(base.clone());
        adapted.attach("a", method(&config).unwrap()).unwrap();
        adapted.activate("a").unwrap();
        let model = TaskModel { adapted, head: None }.train();
        let mut cx = Ctx::new(&model.adapted.set);
        let hidden = hidden_states(model.adapted.base(), batch.input.clone(), &mut cx).unwrap();
        let loss = task.loss(&model, hidden, &batch, &mut cx).unwrap();
        let error = relative_error(&loss.clone().into_data(), &wanted[&format!("{kind}.loss")]);
        assert!(error < 1e-5, "{kind}: the loss is off by {error:e}");
        let gradients = adapters_testkit::contract::gradients_of(&model.adapted.set, &loss.backward());
        let delta = model
            .adapted
            .set
            .params()
            .find(|param| param.param.contains("delta"))
            .unwrap();
        let gradient = gradients[&delta.id].clone().unwrap();
        let error = relative_error(&gradient, &wanted[&format!("{kind}.gradient")]);
        assert!(error < 1e-4, "{kind}: the gradient is off by {error:e}");
    }
}
