//! The files of a repository, and which of them a model or an adapter consists of.

use crate::error::HubError;
use crate::repo_id::RepoId;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path in the repository.
    pub path: String,
    /// Size in bytes, where the Hub tells it.
    pub size: Option<u64>,
    /// What the Hub knows of its contents.
    pub checksum: Checksum,
}

/// A checksum as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Of the contents, as large files have it.
    Sha256(String),
    /// Of git's object, as small files have it.
    GitBlob(String),
    /// The Hub has none.
    None,
}

/// Whether weights in pickles are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pickles {
    /// Refused by name where there are no other weights.
    Refused,
    /// Those of adapters, where there are no other weights.
    OfAdapters,
}

/// Names of the files of tokenizers that are not JSON.
const OF_TOKENIZERS: [&str; 4] = ["merges.txt", "spiece.model", "tokenizer.model", "vocab.txt"];

/// Whether a name is one of a pickle.
pub fn is_pickle(path: &str) -> bool {
    const PICKLES: [&str; 6] = ["bin", "ckpt", "pickle", "pkl", "pt", "pth"];
    path.rsplit_once('.')
        .is_some_and(|(_, extension)| PICKLES.contains(&extension))
}

/// The files of a model or an adapter among those of the repository `id`. All are in its main folder but named chat templates; the
/// copies that repositories hold for other programs are left out.
///
/// # Errors
///
/// [`HubError::NeitherModelNorAdapter`] without a configuration; [`HubError::OnlyPickles`] for weights that are not accepted.
pub fn select(id: &RepoId, files: &[RemoteFile], pickles: Pickles) -> Result<Vec<RemoteFile>, HubError> {
    let has = |name: &str| files.iter().any(|file| file.path == name);
    let is_adapter = has("adapter_config.json") || has("adapter_setup.json");
    if !is_adapter && !has("config.json") {
        return Err(HubError::NeitherModelNorAdapter { id: id.to_string() });
    }
    let is_model = has("model.safetensors") || has("model.safetensors.index.json");
    let is_weights = |path: &str| {
        let plain = !is_model || path == "model.safetensors" || (path.starts_with("model-") && path.contains("-of-"));
        path.ends_with(".safetensors") && plain
    };
    let in_main = |path: &str| is_plain(path) && !path.contains('/');
    let mut selected: Vec<RemoteFile> = files
        .iter()
        .filter(|file| {
            let path = file.path.as_str();
            let is_part = path.ends_with(".json") || path.ends_with(".jinja") || OF_TOKENIZERS.contains(&path);
            match path.strip_prefix("additional_chat_templates/") {
                Some(name) => in_main(name) && name.ends_with(".jinja"),
                None => in_main(path) && (is_part || is_weights(path)),
            }
        })
        .cloned()
        .collect();
    let is_there = |file: &&RemoteFile| in_main(&file.path) && is_pickle(&file.path);
    let pickled: Vec<&RemoteFile> = files.iter().filter(is_there).collect();
    if selected.iter().all(|file| !file.path.ends_with(".safetensors")) && !pickled.is_empty() {
        if !is_adapter || pickles == Pickles::Refused {
            let files: Vec<&str> = pickled.iter().map(|file| file.path.as_str()).collect();
            return Err(HubError::OnlyPickles {
                id: id.to_string(),
                files: files.join(", "),
            });
        }
        selected.extend(pickled.into_iter().cloned());
    }
    Ok(selected)
}

/// Whether a path from the Hub names a file below the folder it is joined to.
fn is_plain(path: &str) -> bool {
    !path.contains(['\\', ':', '\0']) && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(paths: &[&str], pickles: Pickles) -> Result<Vec<String>, HubError> {
        let file = |path: &&str| RemoteFile {
            path: (*path).to_owned(),
            size: None,
            checksum: Checksum::None,
        };
        let files: Vec<RemoteFile> = paths.iter().map(file).collect();
        let id = "owner/name".parse().unwrap();
        Ok(select(&id, &files, pickles)?
            .into_iter()
            .map(|file| file.path)
            .collect())
    }

    #[test]
    fn a_model_is_its_weights_once_its_configuration_and_its_tokenizer() {
        let paths = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "vocab.txt",
            "chat_template.jinja",
            "additional_chat_templates/tool.jinja",
        ];
        let others = [
            ".gitattributes",
            "README.md",
            "consolidated.safetensors",
            "model.fp16.safetensors",
            "onnx/config.json",
            "onnx/model.safetensors",
            "pytorch_model.bin",
            "../config.json",
            "..\\other.json",
            "/etc/other.json",
            "C:other.json",
            "additional_chat_templates/../tool.jinja",
        ];
        let all: Vec<&str> = paths.into_iter().chain(others).collect();
        assert_eq!(selected(&all, Pickles::Refused).unwrap(), paths);
    }

    #[test]
    fn pickles_are_refused_by_name() {
        let model = ["config.json", "pytorch_model.bin"];
        for pickles in [Pickles::Refused, Pickles::OfAdapters] {
            let error = selected(&model, pickles).unwrap_err().to_string();
            assert!(error.contains("only in pytorch_model.bin: pickles"), "{error}");
        }
        let adapter = ["adapter_config.json", "pytorch_adapter.bin", "head_config.json"];
        assert!(matches!(
            selected(&adapter, Pickles::Refused),
            Err(HubError::OnlyPickles { .. })
        ));
        assert_eq!(selected(&adapter, Pickles::OfAdapters).unwrap().len(), 3);
        let both = ["adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"];
        assert_eq!(selected(&both, Pickles::OfAdapters).unwrap(), both[..2]);
        let error = selected(&["README.md"], Pickles::Refused).unwrap_err().to_string();
        assert!(error.contains("neither a model nor an adapter"), "{error}");
    }
}
