//! What prompt tuning and P-tuning have in common as peft defines them: the sites, and the fields of a file that describe the
//! model.

use adapters_core::config::{from_fields, to_fields};
use adapters_core::target::Target;
use adapters_core::{ConfigError, Host, Role, SiteInfo, SiteKind, StoredConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Name of the vectors, in files too.
pub(crate) const PROMPT: &str = "prompt_embeddings";

/// Of an encoder-decoder model the encoder alone, as in peft, which stores rows for the decoder and never reads them.
pub(crate) fn target() -> Target {
    Target::First(Role::EmbeddedTokens)
}

/// Width of the embeddings at the first of these sites that has any.
pub(crate) fn embedding_width<'a>(sites: impl IntoIterator<Item = &'a SiteInfo>) -> Option<usize> {
    sites.into_iter().find_map(|info| match info.kind {
        SiteKind::Embedding { d_model } => Some(d_model),
        _ => None,
    })
}

/// Checks `num_virtual_tokens` and `num_transformer_submodules`.
pub(crate) fn check_counts(virtual_tokens: usize, submodules: usize) -> Result<(), ConfigError> {
    at_least_one("num_virtual_tokens", virtual_tokens)?;
    let fits = (1..=2).contains(&submodules);
    ConfigError::unless(fits, "num_transformer_submodules", "1 or 2", submodules)
}

/// Refuses zero.
pub(crate) fn at_least_one(field: &'static str, value: usize) -> Result<(), ConfigError> {
    ConfigError::unless(value >= 1, field, "a number of at least 1", value)
}

/// Reads an object whose `peft_type` is `name`. Null means that a field has its default.
pub(crate) fn read<T>(name: &str, stored: &StoredConfig<'_>) -> Option<Result<T, ConfigError>>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mine = stored.fields.get("peft_type")? == name;
    mine.then(|| {
        let known = to_fields(&T::default(), &[]);
        let mut fields = stored.fields.clone();
        fields.retain(|field, value| field != "peft_type" && !(value.is_null() && known.contains_key(field)));
        from_fields(fields)
    })
}

/// The object of a file, with what describes the model where the configuration does not have it.
pub(crate) fn write(name: &str, config: &impl Serialize, sites: &[&SiteInfo], host: &dyn Host) -> Map<String, Value> {
    let mut fields = to_fields(config, &[]);
    for optional in ["prompt_tuning_init_text", "tokenizer_name_or_path", "task_type"] {
        if fields.get(optional).is_some_and(Value::is_null) {
            fields.shift_remove(optional);
        }
    }
    fields.insert("peft_type".to_owned(), name.into());
    let all = host.sites();
    let layers = all.iter().filter_map(|info| info.site.layer).max();
    let heads = all.iter().find_map(|info| match info.kind {
        SiteKind::KeyValue { heads, .. } => Some(heads),
        _ => None,
    });
    for (field, value) in [
        // Without one, peft's model inserts nothing.
        ("task_type", Value::from("FEATURE_EXTRACTION")),
        ("inference_mode", true.into()),
        ("token_dim", embedding_width(sites.iter().copied()).into()),
        ("num_layers", layers.map_or(0, |last| last + 1).into()),
        ("num_attention_heads", heads.into()),
    ] {
        fields.entry(field).or_insert(value);
    }
    fields
}
