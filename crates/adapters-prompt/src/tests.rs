//! Configurations as files and config strings hold them.

use adapters_core::config::{to_fields, write_architecture};
use adapters_core::{AdapterHub, AnyMethod, Codec, ConfigError, Error, FileFormat, Method, Peft, StoredConfig};
use adapters_methods::{MethodEntry, Registry};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{PTuningConfig, PeftPromptTuningConfig, PromptTuningConfig, Start};

/// `PromptTuningConfig().to_dict()` of the `adapters` library.
const DEFAULT: &str = r#"{"architecture": "prompt_tuning", "combine": "prefix", "init_weights_seed": null,
    "prompt_init": "random_uniform", "prompt_init_text": null, "prompt_length": 10}"#;

/// The fields `of` with some changed or added.
fn changed(of: &str, changes: Value) -> Map<String, Value> {
    let mut all: Map<String, Value> = serde_json::from_str(of).unwrap();
    all.extend(changes.as_object().unwrap().clone());
    all
}

/// Reads and checks the object of a file.
fn read<F: FileFormat, M: Method + Codec<F>>(fields: &Map<String, Value>) -> Option<Result<M, ConfigError>> {
    let read = <M as Codec<F>>::read(&StoredConfig {
        format: F::FORMAT,
        fields,
        version: None,
        versioned: true,
    });
    read.map(|config| config.and_then(|config| config.check().map(|()| config)))
}

fn parse(text: &str) -> Result<AnyMethod, Error> {
    let registry = Registry::default()
        .with(MethodEntry::of::<PromptTuningConfig>())
        .with(MethodEntry::of::<PeftPromptTuningConfig>())
        .with(MethodEntry::of::<PTuningConfig>());
    registry.parse(text)
}

#[test]
fn the_default_is_that_of_the_adapters_library() {
    let stored = PromptTuningConfig {
        start: Start::Stored,
        ..PromptTuningConfig::default()
    };
    assert_eq!(read::<AdapterHub, _>(&changed(DEFAULT, json!({}))), Some(Ok(stored)));
    let lora = changed(DEFAULT, json!({"architecture": "lora"}));
    assert!(read::<AdapterHub, PromptTuningConfig>(&lora).is_none());
}

#[test]
fn adapterhub_files_are_written_back_as_read() {
    for changes in [
        json!({}),
        json!({"prompt_length": 4, "combine": "prefix_after_bos", "init_weights_seed": 42}),
        json!({"prompt_init": "from_string", "prompt_init_text": "Is this review positive?"}),
        json!({"prompt_init": "from_string", "prompt_init_text": "x", "random_uniform_scale": 0.5}),
        json!({"prompt_init_text": "not used", "random_uniform_scale": 0.25}),
        json!({"unknown": {"kept": [1, null]}}),
    ] {
        let fields = changed(DEFAULT, changes);
        let config: PromptTuningConfig = read::<AdapterHub, _>(&fields).unwrap().unwrap();
        let unset = ["random_uniform_scale"];
        assert_eq!(write_architecture(PromptTuningConfig::NAME, &config, &unset), fields);
    }
}

#[test]
fn bad_adapterhub_files_are_refused_by_field() {
    for (changes, field) in [
        (json!({"prompt_length": -4}), "prompt_length"),
        (json!({"prompt_length": 0}), "prompt_length"),
        (json!({"prompt_init": "random"}), "prompt_init"),
        (json!({"random_uniform_scale": -0.5}), "random_uniform_scale"),
        (json!({"combine": "suffix"}), "combine"),
        (json!({"prompt_init": "from_string"}), "prompt_init_text"),
    ] {
        let read = read::<AdapterHub, PromptTuningConfig>(&changed(DEFAULT, changes));
        let error = read.unwrap().unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}

/// The fields of a configuration without those that are null.
fn given(config: &impl Serialize) -> Map<String, Value> {
    let mut fields = to_fields(config, &[]);
    fields.retain(|_, value| !value.is_null());
    fields
}

#[test]
fn peft_files_keep_their_fields() {
    let mut prompt = json!({"num_virtual_tokens": 4, "num_transformer_submodules": 2, "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "a film", "tokenizer_name_or_path": "bert", "task_type": "SEQ_2_SEQ_LM"});
    let mut network = json!({"num_virtual_tokens": 3, "num_transformer_submodules": 1,
        "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 12, "encoder_num_layers": 1,
        "encoder_dropout": 0.1, "unknown": [1]});
    prompt["peft_type"] = "PROMPT_TUNING".into();
    network["peft_type"] = "P_TUNING".into();
    let read_prompt = read::<Peft, PeftPromptTuningConfig>;
    let read_network = read::<Peft, PTuningConfig>;
    let [prompt, network] = [prompt, network].map(|file| file.as_object().unwrap().clone());
    assert!(read_prompt(&network).is_none() && read_network(&prompt).is_none());
    let expected = |file: &Map<String, Value>| {
        let mut file = file.clone();
        file.shift_remove("peft_type");
        file
    };
    assert_eq!(given(&read_prompt(&prompt).unwrap().unwrap()), expected(&prompt));
    assert_eq!(given(&read_network(&network).unwrap().unwrap()), expected(&network));
    // Null means the default.
    let null = changed(r#"{"peft_type": "P_TUNING"}"#, json!({"encoder_hidden_size": null}));
    let defaults = PTuningConfig {
        start: Start::Stored,
        ..PTuningConfig::default()
    };
    assert_eq!(read_network(&null), Some(Ok(defaults)));
}

#[test]
fn config_strings_read_and_print() {
    for text in [
        "prompt_tuning",
        "prompt_tuning[prompt_length=4]",
        "prompt_tuning[combine=prefix_after_bos,prompt_length=3]",
        "prompt_tuning[random_uniform_scale=0.1]",
        "prompt_tuning[prompt_init=from_string,prompt_init_text='a film']",
        "peft_prompt_tuning",
        "peft_prompt_tuning[num_virtual_tokens=4,prompt_tuning_init=SAMPLE_VOCAB]",
        "p_tuning",
        "p_tuning[num_virtual_tokens=4,encoder_reparameterization_type=LSTM,encoder_num_layers=1]",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn mistakes_in_config_strings_are_named() {
    for (text, message) in [
        ("prompt_tuning[length=4]", "unknown field `length`"),
        ("prompt_tuning[promt_length=4]", "did you mean `prompt_length`?"),
        ("prompt_tuning[prompt_length=0]", "`prompt_length` is 0, expected"),
        ("prompt_tuning[prompt_init=from_string]", "`prompt_init_text` is empty"),
        ("prompt_tuning[combine=suffix]", "`combine`: unknown variant `suffix`"),
        ("peft_prompt_tuning[prompt_length=4]", "unknown field `prompt_length`"),
        (
            "peft_prompt_tuning[num_transformer_submodules=3]",
            "`num_transformer_submodules`",
        ),
        ("peft_prompt_tuning[prompt_tuning_init=WORDS]", "`prompt_tuning_init`"),
        (
            "peft_prompt_tuning[prompt_tuning_init=TEXT]",
            "`prompt_tuning_init_text`",
        ),
        (
            "peft_prompt_tuning[prompt_tuning_init=TEXT,prompt_tuning_init_text=a]",
            "`tokenizer_name_or_path`",
        ),
        (
            "p_tuning[prompt_tuning_init=RANDOM]",
            "unknown field `prompt_tuning_init`",
        ),
        ("p_tuning[num_virtual_tokens=0]", "`num_virtual_tokens` is 0, expected"),
        ("p_tuning[encoder_hidden_size=0]", "`encoder_hidden_size`"),
        (
            "p_tuning[encoder_reparameterization_type=GRU]",
            "`encoder_reparameterization_type`",
        ),
        (
            "p_tuning[encoder_dropout=2,encoder_reparameterization_type=LSTM]",
            "`encoder_dropout`",
        ),
    ] {
        let error = parse(text).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(message), "{text}: {source}");
    }
}

#[test]
fn texts_become_tokens_once() {
    let text = parse("prompt_tuning[prompt_init=from_string,prompt_init_text='a film']").unwrap();
    let resolve = text.capabilities().tokenizer.unwrap();
    let tokens = resolve.with_tokens(&|text| Ok(text.bytes().map(u32::from).collect()));
    assert_eq!(tokens.unwrap().unwrap().to_string(), text.to_string());
    assert!(resolve.with_tokens(&|_| Ok(Vec::new())).is_err());
    assert!(resolve.with_tokens(&|_| Err("no tokenizer".into())).is_err());
    let drawn = parse("prompt_tuning").unwrap();
    let resolve = drawn.capabilities().tokenizer.unwrap();
    assert!(resolve.with_tokens(&|_| Err("not called".into())).unwrap().is_none());
}
