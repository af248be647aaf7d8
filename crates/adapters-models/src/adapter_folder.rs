//! A whole adapter folder: the adapter, what its tokens and its head need, the name of its base and the manifest.

use std::path::Path;

use adapters_core::{AdapterSet, Format, Host, Role, is_outside};
use adapters_store::{Manifest, SavedFiles, base_name, name_base, read_safetensors, save_adapter, write_weights};

use crate::error::ModelError;
use crate::heads::{Head, named_by_larger_class};
use crate::model::Model;
use crate::pretrained::Pretrained;
use crate::save_checkpoint::copy_tokenizer;

/// What an adapter folder is written from, besides the set.
#[derive(Debug)]
pub struct AdapterFolder<'a> {
    /// Name of the adapter, or of the fusion.
    pub name: &'a str,
    /// Format of the files.
    pub format: Format,
    /// The base that was opened, whose token tables an adapter over other tokens takes along.
    pub pretrained: &'a Pretrained,
    /// The base.
    pub base: &'a Model,
    /// The head that was trained with it.
    pub head: Option<&'a Head>,
    /// A folder whose tokenizer and chat template are copied.
    pub tokenizer: Option<&'a Path>,
}

/// What was written.
#[derive(Debug)]
pub struct WrittenAdapter {
    /// The files of the adapter.
    pub files: SavedFiles,
    /// `task_type` of PEFT's configuration.
    pub task_type: Option<String>,
    /// Whether the head, if there is one, is in the files of the format.
    pub holds_head: bool,
}

impl AdapterFolder<'_> {
    /// Writes the adapter of `set` and everything next to it. `base` is the base as the configuration names it, and the manifest has
    /// what does not follow from the adapter, its base and its head.
    ///
    /// # Errors
    ///
    /// The errors of [`save_adapter`] and [`Head::save_in`], and [`ModelError::Store`].
    pub fn write(
        &self,
        dir: &Path,
        set: &AdapterSet,
        base: &str,
        manifest: Manifest,
    ) -> Result<WrittenAdapter, ModelError> {
        let files = save_adapter(dir, self.format, set, self.name, self.base)?;
        self.pretrained.save_token_tables(dir)?;
        let config = set.attached(self.name)?.method().to_string();
        let holds_head = self.write_head(dir, config, manifest)?;
        // A head in PEFT's files has decided it.
        let has_own = self.head.is_some() && holds_head;
        let task_type = self.base.kind().peft_task_type().filter(|_| !has_own);
        // The class that the task type stands for has a head around the base.
        if self.format == Format::Peft && task_type.is_some() && self.head_is_outside() {
            let path = dir.join(Format::Peft.weights_file());
            let (tensors, _) = read_safetensors(&path)?;
            write_weights(&path, &named_by_larger_class(tensors, self.base))?;
        }
        let task_type = name_base(dir, self.format, &base_name(base), self.base.class_name(), task_type)?;
        Ok(WrittenAdapter {
            files,
            task_type,
            holds_head,
        })
    }

    /// Whether the language-model head is one of a class around the base.
    fn head_is_outside(&self) -> bool {
        let mut sites = self.base.sites().into_iter();
        sites.any(|info| info.site.role == Role::LmHead && is_outside(&info, self.base))
    }

    /// Writes the head, the manifest and the tokenizer next to what has this configuration; whether the head, if there is one, is in
    /// the files of the format, and not in this library's own.
    ///
    /// # Errors
    ///
    /// As [`Head::save_in`], and [`ModelError::Store`].
    pub fn write_head(&self, dir: &Path, config: String, manifest: Manifest) -> Result<bool, ModelError> {
        let head = match self.head {
            Some(head) => head.save_in(dir, self.format, self.name, self.base)?,
            None => None,
        };
        let holds_head = head.is_none();
        // What PEFT's files do not say of a head that they hold.
        let in_peft = self.head.map(Head::config);
        let in_peft = in_peft.filter(|_| holds_head && self.format == Format::Peft);
        Manifest {
            name: self.name.to_owned(),
            config,
            base_architecture: self.base.architecture().to_owned(),
            labels: in_peft.map_or_else(Vec::new, |head| head.labels.clone()),
            several_labels: in_peft.is_some_and(|head| head.has_several_labels()),
            head,
            written_by: Manifest::WRITER.to_owned(),
            ..manifest
        }
        .write(dir)?;
        if let Some(from) = self.tokenizer {
            copy_tokenizer(from, dir)?;
        }
        Ok(holds_head)
    }
}
