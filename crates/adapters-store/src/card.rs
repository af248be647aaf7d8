//! What makes an adapter folder complete for other programs: the name of its base, the task type, and a model card.

use std::path::Path;

use adapters_core::Format;
use serde_json::{Map, Value, json};

use crate::origin::Origin;
use crate::save::opens_in_masked_lm;
use crate::{StoreError, atomic, read_json, write_json};

/// The name under which other programs find a base: the Hub id of a folder that was downloaded or is in the Hub's cache, else the name
/// as it is.
pub fn base_name(model: &str) -> String {
    if let Ok(Some(origin)) = Origin::read(Path::new(model)) {
        return origin.id;
    }
    let cached = model.split(['/', '\\']).find_map(|part| part.strip_prefix("models--"));
    cached.map_or_else(|| model.to_owned(), |id| id.replacen("--", "/", 1))
}

/// Writes the name of the base into the configuration of an adapter folder, and in PEFT's format the `task_type`, which decides
/// the class that opens the folder; one that is there stays where none is given, and so does the class of a masked language model.
/// Without any, a `class` that is for a task itself is named, as PEFT does. Returns the `task_type` that the folder has.
///
/// # Errors
///
/// [`StoreError`] if the configuration cannot be read or written.
pub fn name_base(
    dir: &Path,
    format: Format,
    base: &str,
    class: &str,
    task_type: Option<&str>,
) -> Result<Option<String>, StoreError> {
    let path = dir.join("adapter_config.json");
    let mut config: Map<String, Value> = read_json(&path)?;
    match format {
        Format::AdapterHub => {
            config.insert("model_name".to_owned(), base.into());
        }
        Format::Peft => {
            config.insert("base_model_name_or_path".to_owned(), base.into());
            if let Some(task_type) = task_type.filter(|_| !opens_in_masked_lm(&config)) {
                config.insert("task_type".to_owned(), task_type.into());
            }
            if config.get("task_type").is_none_or(Value::is_null) && class.contains("For") {
                let mapping = json!({"base_model_class": class, "parent_library": "transformers"});
                config.insert("auto_mapping".to_owned(), mapping);
            }
        }
    }
    write_json(&path, &config)?;
    Ok(config.get("task_type").and_then(Value::as_str).map(str::to_owned))
}

/// The card of an adapter folder, `README.md`: what the Hub shows, what was measured, and how to open the folder.
#[derive(Clone, Debug)]
pub struct ModelCard {
    /// Name of the adapter.
    pub name: String,
    /// Format of the folder.
    pub format: Format,
    /// Hub id or folder of the base.
    pub base: String,
    /// `model_type` of the base.
    pub architecture: String,
    /// The config string of the adapter.
    pub config: String,
    /// PEFT's `task_type`, if the folder has one.
    pub task_type: Option<String>,
    /// The Hub's name of the task.
    pub pipeline: Option<String>,
    /// Classes of the head, in order.
    pub labels: Vec<String>,
    /// Whether the other library finds the head in the folder.
    pub with_head: bool,
    /// The command that uses the folder.
    pub command: String,
    /// Names and values of what was measured.
    pub figures: Vec<(String, String)>,
}

impl ModelCard {
    /// Name of the file.
    pub const FILE: &'static str = "README.md";

    /// Writes the card into an adapter folder.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`].
    pub fn write(&self, dir: &Path) -> Result<(), StoreError> {
        Ok(atomic::write(&dir.join(Self::FILE), self.text().as_bytes())?)
    }

    /// The text of the card.
    pub fn text(&self) -> String {
        // A JSON string is a YAML string.
        let quoted = |text: &str| Value::from(text).to_string();
        let (library, tags) = match self.format {
            Format::Peft => ("peft", vec!["peft"]),
            Format::AdapterHub => ("adapters", vec!["adapter-transformers"]),
        };
        let method = self.config.split(['[', '|']).next().unwrap_or_default();
        let mut text = format!("---\nlibrary_name: {library}\nbase_model: {}\n", quoted(&self.base));
        if let Some(pipeline) = &self.pipeline {
            text.push_str(&format!("pipeline_tag: {pipeline}\n"));
        }
        text.push_str("tags:\n");
        for tag in tags.into_iter().chain([method, self.architecture.as_str()]) {
            text.push_str(&format!("- {}\n", quoted(tag)));
        }
        text.push_str(&format!(
            "---\n\n# {}\n\nAn adapter for `{}` (`{}`): `{}`.\n\n| | |\n|---|---|\n",
            self.name, self.base, self.architecture, self.config
        ));
        for (name, value) in &self.figures {
            text.push_str(&format!("| {name} | {value} |\n"));
        }
        if !self.labels.is_empty() {
            text.push_str(&format!("\nClasses, in order: {}.\n", self.labels.join(", ")));
        }
        text.push_str(&format!(
            "\n## Use\n\n```sh\nadapters {}\n```\n\n```python\n{}\n```\n",
            self.command,
            self.python()
        ));
        text
    }

    fn python(&self) -> String {
        let base = Value::from(self.base.as_str());
        if self.format == Format::AdapterHub {
            let with_head = if self.with_head { "True" } else { "False" };
            return format!(
                "from adapters import AutoAdapterModel\n\nmodel = AutoAdapterModel.from_pretrained({base})\n\
                 # Without `use_safetensors` that library opens the pickle.\n\
                 model.load_adapter(\n    \"path/to/this/folder\", with_head={with_head}, set_active=True, use_safetensors=True\n)"
            );
        }
        let class = match self.task_type.as_deref() {
            Some("SEQ_CLS") => "AutoPeftModelForSequenceClassification",
            Some("TOKEN_CLS") => "AutoPeftModelForTokenClassification",
            Some("QUESTION_ANS") => "AutoPeftModelForQuestionAnswering",
            Some("CAUSAL_LM") => "AutoPeftModelForCausalLM",
            Some("SEQ_2_SEQ_LM") => "AutoPeftModelForSeq2SeqLM",
            Some("FEATURE_EXTRACTION") => "AutoPeftModelForFeatureExtraction",
            // For images and sounds.
            None if self.with_head => "AutoPeftModel",
            _ => {
                return format!(
                    "from peft import PeftModel\nfrom transformers import AutoModel\n\n\
                     base = AutoModel.from_pretrained({base})\n\
                     model = PeftModel.from_pretrained(base, \"path/to/this/folder\")"
                );
            }
        };
        // The class makes a head of two classes unless it is told otherwise.
        let labels = match self.labels.len() {
            0 | 2 => String::new(),
            count => format!(", num_labels={count}"),
        };
        let note = match self.task_type.as_deref() {
            Some("QUESTION_ANS") => {
                "\n# Called itself, it drops `token_type_ids`: call model.get_base_model()(**inputs)."
            }
            _ => "",
        };
        format!("from peft import {class}\n\nmodel = {class}.from_pretrained(\"path/to/this/folder\"{labels}){note}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_hubs_cache_has_the_id_as_its_name() {
        let cached = "cache/hub/models--owner--a-name/snapshots/0123";
        assert_eq!(base_name(cached), "owner/a-name");
        assert_eq!(base_name("owner/a-name"), "owner/a-name");
        assert_eq!(base_name("models/bert"), "models/bert");
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin {
            id: "owner/name".into(),
            commit: "0123".into(),
        };
        origin.write(dir.path()).unwrap();
        assert_eq!(base_name(dir.path().to_str().unwrap()), "owner/name");
    }

    #[test]
    fn a_card_names_base_library_figures_and_class() {
        let dir = tempfile::tempdir().unwrap();
        let card = ModelCard {
            name: "reviews".into(),
            format: Format::Peft,
            base: "owner/a \"b\"".into(),
            architecture: "bert".into(),
            config: "lora[r=8]".into(),
            task_type: Some("SEQ_CLS".into()),
            pipeline: Some("text-classification".into()),
            labels: vec!["no".into(), "maybe".into(), "yes".into()],
            with_head: true,
            command: "predict --adapter .".into(),
            figures: vec![("test accuracy".into(), "0.8125".into())],
        };
        card.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
        for part in [
            "---\nlibrary_name: peft\nbase_model: \"owner/a \\\"b\\\"\"\npipeline_tag: text-classification\n",
            "- \"lora\"\n- \"bert\"\n---\n",
            "| test accuracy | 0.8125 |",
            "AutoPeftModelForSequenceClassification.from_pretrained(\"path/to/this/folder\", num_labels=3)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
