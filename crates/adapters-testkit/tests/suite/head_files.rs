//! Heads in peft's files and in manifests, and pooling over the tokens of a text.

use std::path::Path;

use adapters::core::Tensors;
use adapters::models::heads::{HeadKind, Pooling, Scores};
use adapters::models::{
    Head, HeadConfig, ImageInput, Input, Model, Pretrained, SoundInput, Source, SpeechInput, TextInput, ToTextInput,
};
use adapters::store::{
    LoadOptions, load_adapter, read_json, read_safetensors, save_adapter, write_json, write_safetensors,
};
use adapters::train::hidden_states;
use adapters::{AdapterSet, Ctx, Host, METHODS};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::Value;

use crate::head_cases::{case, close, encoder, input};

/// The input of a case. The decoder of an encoder-decoder reads the text shifted by one position, as in the classes of
/// transformers.
fn model_input(inputs: &Tensors, base: &Model, device: &Device) -> Input {
    if let Some(pixels) = inputs.get("pixel_values") {
        let pixels = Tensor::from_data(pixels.clone(), device);
        return ImageInput { pixels }.into();
    }
    let mask = inputs
        .get("attention_mask")
        .map(|mask| Tensor::<2, Int>::from_data(mask.clone(), device));
    if let Some(features) = inputs.get("input_features") {
        let features = Tensor::from_data(features.clone(), device);
        return SpeechInput { features }.into();
    }
    if let Some(samples) = inputs.get("input_values") {
        return SoundInput {
            samples: Tensor::from_data(samples.clone(), device),
            padding: mask.map(|mask| mask.equal_elem(0)),
        }
        .into();
    }
    let (ids, padding) = (
        Tensor::from_data(inputs["input_ids"].clone(), device),
        mask.map(|mask| mask.equal_elem(0)),
    );
    let Ok(decoder) = base.encoder_decoder() else {
        return TextInput {
            padding,
            ..TextInput::new(ids)
        }
        .into();
    };
    let [rows, seq] = Tensor::<2, Int>::dims(&ids);
    let starts = Tensor::full([rows, 1], decoder.start_id() as i64, device);
    let decoder_ids = Tensor::cat(vec![starts, ids.clone().slice_dim(1, 0..seq - 1)], 1);
    ToTextInput {
        source: Source::Text(TextInput {
            padding,
            ..TextInput::new(ids)
        }),
        decoder_ids,
    }
    .into()
}

#[test]
fn heads_in_pefts_files_are_those_of_the_classes_of_transformers() {
    let device = Device::flex();
    for (name, family, output) in [
        ("bert_lora_seq_cls", "bert", "rows"),
        ("bert_ia3_seq_cls", "bert", "rows"),
        ("bert_lora_token_cls", "bert", "tokens"),
        // The pooler reads the first virtual token, as it does in transformers.
        ("bert_prompt_tuning_seq_cls", "bert", "rows"),
        ("llama_lora_seq_cls", "llama", "rows"),
        ("roberta_lora_seq_cls", "roberta", "rows"),
        ("distilbert_lora_seq_cls", "distilbert", "rows"),
        ("bart_lora_seq_cls", "bart", "rows"),
        ("t5_lora_seq_cls", "t5", "rows"),
        ("vit_lora_image_cls", "vit", "rows"),
        ("wav2vec2_lora_audio_cls", "wav2vec2", "rows"),
        ("whisper_lora_audio_cls", "whisper", "rows"),
        // The sum of all layers, with weights that the checkpoint has.
        ("wav2vec2_lora_weighted_audio_cls", "wav2vec2", "rows"),
        ("whisper_lora_weighted_audio_cls", "whisper", "rows"),
        // Below the last layer are those of the masked language model: the checkpoint's, and the file's own.
        ("modernbert_lora_token_cls", "modernbert_mlm", "tokens"),
        ("modernbert_lora_question_ans", "modernbert_mlm", "spans"),
    ] {
        let dir = case("peft").join(name);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(family);
        let (expected, _) = read_safetensors(&dir.join("expected.safetensors")).unwrap();
        let weighted = tempfile::tempdir().unwrap();
        let base_dir = match expected.get("layer_weights") {
            None => golden.join("base"),
            Some(weights) => {
                let (mut tensors, _) = read_safetensors(&golden.join("base/model.safetensors")).unwrap();
                tensors.insert("layer_weights".to_owned(), weights.clone());
                write_safetensors(&weighted.path().join("model.safetensors"), &tensors, []).unwrap();
                let mut config: Value = read_json(&golden.join("base/config.json")).unwrap();
                config["use_weighted_layer_sum"] = true.into();
                write_json(&weighted.path().join("config.json"), &config).unwrap();
                weighted.path().to_owned()
            }
        };
        let base = Pretrained::open(&base_dir).unwrap().as_class_of(&dir).unwrap();
        let base = base.model(&device).unwrap();
        let mut set = AdapterSet::new();
        let report = load_adapter(&dir, &mut set, &base, &METHODS, &LoadOptions::default(), &device).unwrap();
        set.activate(report.attached.adapter.as_str()).unwrap();
        let head = Head::load_peft(&dir, &base_dir, &base, &device).unwrap().unwrap();
        let (mut inputs, _) = read_safetensors(&golden.join("inputs.safetensors")).unwrap();
        inputs.extend(expected.clone());
        let input = model_input(&inputs, &base, &device);
        let score = |set: &AdapterSet, head: &Head| {
            let mut cx = Ctx::new(set);
            let hidden = hidden_states(&base, input.clone(), &mut cx).unwrap();
            let padding = cx.pass().padding.clone();
            match head.forward(hidden, padding, &base, &mut cx) {
                Scores::Rows(rows) => ("rows", rows.into_data()),
                Scores::Tokens(tokens) => ("tokens", tokens.into_data()),
                Scores::Spans { start, end } => {
                    let both = [start, end].map(|scores| scores.unsqueeze_dim::<3>(2));
                    ("spans", Tensor::cat(both.to_vec(), 2).into_data())
                }
            }
        };
        let (kind, own) = score(&set, &head);
        assert_eq!(kind, output, "{name}");
        close(name, &own, &expected["output"]);

        // Written and read again, the same comes out.
        let out = tempfile::tempdir().unwrap();
        let (out, adapter) = (out.path().join("again"), report.attached.adapter.clone());
        save_adapter(&out, report.format, &set, &adapter, &base).unwrap();
        assert!(head.save_peft(&out, &base).unwrap(), "{name}");
        let keys = |dir: &Path| {
            let (tensors, _) = read_safetensors(&dir.join("adapter_model.safetensors")).unwrap();
            let mut keys: Vec<String> = tensors.into_keys().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&out), keys(&dir), "{name}");
        let mut again = AdapterSet::new();
        load_adapter(&out, &mut again, &base, &METHODS, &LoadOptions::default(), &device).unwrap();
        again.activate("again").unwrap();
        let head = Head::load_peft(&out, &base_dir, &base, &device).unwrap().unwrap();
        assert_eq!(score(&again, &head).1, own, "{name}");
    }
}

/// LoRA on the layer before the last of a masked language model, which peft names by the end of its path.
#[test]
fn the_layers_of_masked_language_models_are_adapted() {
    let device = Device::flex();
    for (family, path) in [
        ("bert", "cls.predictions.transform.dense"),
        ("distilbert", "vocab_transform"),
    ] {
        let dir = case("masked_lm_lora").join(family);
        let base = Pretrained::open(dir.join("base")).unwrap().encoder(&device).unwrap();
        let (expected, _) = read_safetensors(&dir.join("expected.safetensors")).unwrap();
        let mut set = AdapterSet::new();
        let options = LoadOptions::default();
        let report = load_adapter(&dir, &mut set, &base, &METHODS, &options, &device).unwrap();
        let name = report.attached.adapter;
        assert!(
            report.attached.adapted.contains(&path.to_owned()),
            "{family}: {:?}",
            report.attached.adapted
        );
        set.activate(name.as_str()).unwrap();
        let head = Head::from_checkpoint(&dir.join("base"), &base, false, &device).unwrap();
        let mut cx = Ctx::new(&set);
        let hidden = hidden_states(&base, model_input(&expected, &base, &device), &mut cx).unwrap();
        let scores = head.scores(hidden, &base, &mut cx).whole().into_data();
        close(family, &scores, &expected["output"]);

        // Written again, the file is the same, and so are the names of a new adapter, which the end of the path does not put there.
        let out = tempfile::tempdir().unwrap();
        save_adapter(out.path(), report.format, &set, &name, &base).unwrap();
        let tensors = |dir: &Path| read_safetensors(&dir.join("adapter_model.safetensors")).unwrap().0;
        assert_eq!(tensors(out.path()), tensors(&dir), "{family}");
        let all = adapters::method("lora[target_modules=all-linear]").unwrap();
        let attached = set.attach("new", all, &base, 1, &device).unwrap();
        assert!(!attached.adapted.contains(&path.to_owned()), "{family}");
        let names: Vec<String> = base
            .sites()
            .into_iter()
            .filter(|info| info.linear_dims().is_some())
            .map(|info| info.path)
            .collect();
        let named = adapters::method(&format!("lora[target_modules=[{}]]", names.join(","))).unwrap();
        set.attach("named", named, &base, 1, &device).unwrap();
        let out = tempfile::tempdir().unwrap();
        save_adapter(out.path(), report.format, &set, "named", &base).unwrap();
        let keys: Vec<String> = tensors(out.path()).into_keys().collect();
        assert!(tensors(&dir).keys().all(|key| keys.contains(key)), "{family}: {keys:?}");
    }
}

/// ALBERT's word embeddings are narrower than its layers.
#[test]
fn a_language_model_over_narrow_word_embeddings_is_adapterhubs() {
    let device = Device::flex();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/albert");
    let base = Pretrained::open(golden.join("base")).unwrap().encoder(&device).unwrap();
    let (inputs, _) = read_safetensors(&golden.join("inputs.safetensors")).unwrap();
    let scores = |head: &Head| {
        let mut cx = Ctx::plain();
        let hidden = hidden_states(&base, model_input(&inputs, &base, &device), &mut cx).unwrap();
        match head.forward(hidden, None, &base, &mut cx) {
            Scores::Tokens(tokens) => tokens.into_data(),
            other => panic!("{other:?}"),
        }
    };
    let dir = case("masked_lm_albert");
    let (expected, _) = read_safetensors(&dir.join("expected.safetensors")).unwrap();
    let (name, head) = Head::load(&dir, &base, false, &device).unwrap();
    close("masked_lm_albert", &scores(&head), &expected["output"]);

    let out = tempfile::tempdir().unwrap();
    head.save(out.path(), &name, &base).unwrap();
    let (_, again) = Head::load(out.path(), &base, false, &device).unwrap();
    assert_eq!(scores(&again), scores(&head));
    let new = Head::new(HeadConfig::masked_lm(), &base, 1, &device).unwrap();
    assert_eq!(scores(&new).shape(), expected["output"].shape());
    let one_layer = HeadConfig::masked_lm().with_layers(1);
    let refused = Head::new(one_layer, &base, 1, &device).unwrap_err().to_string();
    assert!(
        refused.contains("the word embeddings are 16 wide, the layers 32"),
        "{refused}"
    );
}

#[test]
fn pooling_leaves_out_what_a_prompt_inserts_and_padding() {
    let device = Device::flex();
    let base = encoder(&device);
    let options = LoadOptions::default();
    let mut set = AdapterSet::new();
    load_adapter(&case("prompt/p"), &mut set, &base, &METHODS, &options, &device).unwrap();
    set.activate("p").unwrap();
    let input = input(&Tensors::new(), &device);
    let [rows, seq] = input.ids.dims();
    let padding: Vec<bool> = input.padding.clone().unwrap().into_data().iter().collect();
    let mut cx = Ctx::new(&set);
    let hidden = base.forward(input, &mut cx).unwrap();
    let (grown, [_, all, width]) = (cx.pass().padding.clone(), hidden.dims());
    let prompt = all - seq;
    assert!(prompt > 0 && padding.contains(&true));
    let values: Vec<f32> = hidden.clone().into_data().iter().collect();
    let at = |row: usize, t: usize, d: usize| values[(row * all + prompt + t) * width + d];
    for pooling in [Pooling::Mean, Pooling::Last] {
        let kind = HeadKind::Classification { pooling };
        let head = Head::new(HeadConfig::new(kind, ["a", "b"]).with_layers(1), &base, 1, &device).unwrap();
        let Scores::Rows(own) = head.forward(hidden.clone(), grown.clone(), &base, &mut cx) else {
            panic!("rows")
        };
        let pooled = (0..rows).flat_map(|row| {
            let text: Vec<usize> = (0..seq).filter(|t| !padding[row * seq + t]).collect();
            let kept = if pooling == Pooling::Mean {
                text
            } else {
                vec![text[text.len() - 1]]
            };
            let mean = move |d: usize| kept.iter().map(|t| at(row, *t, d)).sum::<f32>() / kept.len() as f32;
            (0..width).map(mean).collect::<Vec<_>>()
        });
        let pooled = TensorData::new(pooled.collect::<Vec<f32>>(), [rows, 1, width]);
        let wanted = head
            .scores(Tensor::from_data(pooled, &device), &base, &mut Ctx::plain())
            .whole();
        close(
            &format!("{pooling:?}"),
            &own.into_data(),
            &wanted.squeeze_dim::<2>(1).into_data(),
        );
    }
}

#[test]
fn a_head_in_a_manifest_is_read_back() {
    let device = Device::flex();
    let base = encoder(&device);
    for config in [
        HeadConfig::new(HeadKind::Classification { pooling: Pooling::Mean }, ["no", "yes"]),
        HeadConfig::new(HeadKind::Tagging, ["O", "B-X"]).with_layers(3),
        HeadConfig::new(HeadKind::QuestionAnswering, [""]),
        HeadConfig::masked_lm(),
    ] {
        let head = Head::new(config, &base, 3, &device).unwrap();
        let out = tempfile::tempdir().unwrap();
        let manifest = head.save_manifest(out.path(), &base).unwrap();
        let again = Head::load_manifest(out.path(), &manifest, &base, &device).unwrap();
        assert_eq!(again.config(), head.config());
        let hidden = Tensor::<3>::ones([2, 3, 32], &device) * 0.3;
        let score = |head: &Head| {
            head.scores(hidden.clone(), &base, &mut Ctx::plain())
                .whole()
                .into_data()
        };
        assert_eq!(score(&again), score(&head));
    }
}
