//! Checkpoints by Hub id, behind the feature `hub`.

use std::path::PathBuf;

use hf_hub::HFClientSync;

use crate::error::ModelError;

/// Files a checkpoint may have, as patterns; weights are one file, or shards with an index.
const FILES: &[&str] = &[
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "vocab.txt",
];

/// Downloads the checkpoint `owner/name` into the Hub's cache and returns its folder. Files already there are not
/// fetched again.
///
/// # Errors
///
/// [`ModelError::Hub`] with the client's words.
pub fn download(id: &str) -> Result<PathBuf, ModelError> {
    let refuse = |reason: String| ModelError::Hub {
        id: id.to_owned(),
        reason,
    };
    let (owner, name) = id
        .split_once('/')
        .ok_or_else(|| refuse("expected an id like `owner/name`".to_owned()))?;
    let client = HFClientSync::new().map_err(|e| refuse(e.to_string()))?;
    let repository = client.model(owner, name);
    repository
        .snapshot_download()
        .allow_patterns(FILES.iter().map(|f| (*f).to_owned()).collect())
        .send()
        .map_err(|e| refuse(e.to_string()))
}
