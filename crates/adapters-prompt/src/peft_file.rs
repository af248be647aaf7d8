//! The files of peft's prompts: their fields, and those that describe the model.

use adapters_core::config::{from_fields, to_fields};
use adapters_core::{ConfigError, Host, SiteInfo, SiteKind, StoredConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::virtual_tokens::embedding_width;

/// Reads an object whose `peft_type` is `name`. Null means that a field has its default.
pub(crate) fn read<T>(name: &str, stored: &StoredConfig<'_>) -> Option<Result<T, ConfigError>>
where
    T: Default + Serialize + DeserializeOwned,
{
    stored.peft_fields(name).map(|mut fields| {
        let known = to_fields(&T::default(), &[]);
        fields.retain(|field, value| !(value.is_null() && known.contains_key(field)));
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
