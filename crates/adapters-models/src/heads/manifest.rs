//! The codec of this library's own head files: a section of the manifest and a weight file.

use std::path::Path;

use adapters_core::{Format, Tensors};
use adapters_store::{HeadManifest, Manifest, StoreError, read_safetensors, write_weights};
use burn::tensor::Device;

use crate::error::ModelError;
use crate::heads::config::{HeadConfig, HeadKind};
use crate::heads::layers::{Head, HiddenLayer, LastLayer};
use crate::heads::pooling::Pooling;
use crate::model::Model;
use crate::weights::Weights;

impl Head {
    /// Name of the weight file.
    pub const FILE: &'static str = "head.safetensors";

    /// Writes the head into the folder of an adapter, in its format if that has such a head, else into this library's own file,
    /// whose section of the manifest is returned.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`].
    pub fn save_in(
        &self,
        dir: &Path,
        format: Format,
        name: &str,
        base: &Model,
    ) -> Result<Option<HeadManifest>, ModelError> {
        let is_saved = match format {
            Format::AdapterHub if self.fits_adapterhub(base) => {
                self.save(dir, name, base)?;
                true
            }
            Format::AdapterHub => false,
            Format::Peft => self.save_peft(dir, base)?,
        };
        match is_saved {
            true => Ok(None),
            false => Ok(Some(self.save_manifest(dir, base)?)),
        }
    }

    /// The head in the folder of an adapter, wherever it is: in the manifest's file, in AdapterHub's or in peft's; `None` where there
    /// is none. `checkpoint` is the folder of the base, and `allow_bin` permits PyTorch files.
    ///
    /// # Errors
    ///
    /// As [`load_manifest`](Self::load_manifest), [`load`](Self::load) and [`load_peft`](Self::load_peft).
    pub fn find(
        dir: &Path,
        manifest: &Manifest,
        checkpoint: &Path,
        allow_bin: bool,
        base: &Model,
        device: &Device,
    ) -> Result<Option<Self>, ModelError> {
        if let Some(head) = &manifest.head {
            return Self::load_manifest(dir, head, base, device).map(Some);
        }
        if Self::is_in(dir) {
            return Ok(Some(Self::load(dir, base, allow_bin, device)?.1));
        }
        let head = Self::load_peft(dir, checkpoint, base, device)?;
        let head = head.map(|head| head.with_labels(&manifest.labels));
        Ok(match manifest.several_labels {
            true => head.map(Self::with_several_labels),
            false => head,
        })
    }

    /// Writes the weights into `dir`, atomically, and returns the section of the manifest that goes with them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`].
    pub fn save_manifest(&self, dir: &Path, base: &Model) -> Result<HeadManifest, StoreError> {
        let mut tensors = Tensors::new();
        for (index, HiddenLayer { dense, norm, .. }) in self.hidden.iter().enumerate() {
            let key = |rest: &str| format!("hidden.{index}.{rest}");
            tensors.insert(key("weight"), dense.weight.val().transpose().into_data());
            let bias = dense.bias.iter().map(|bias| (key("bias"), bias.val().into_data()));
            tensors.extend(bias);
            if let Some(norm) = norm {
                tensors.insert(key("norm.weight"), norm.gamma.val().into_data());
                let beta = norm.beta.iter().map(|beta| (key("norm.bias"), beta.val().into_data()));
                tensors.extend(beta);
            }
        }
        // A tied weight is that of the base.
        let weight = self
            .last
            .weight
            .iter()
            .map(|weight| ("weight", weight.val().into_data()));
        let bias = self.last.bias.iter().map(|bias| ("bias", bias.val().into_data()));
        tensors.extend(weight.chain(bias).map(|(key, data)| (key.to_owned(), data)));
        write_weights(&dir.join(Self::FILE), &tensors)?;
        let mut config = self.config().to_fields(base);
        if let Some(pooling) = self.config().kind.pooling() {
            config.insert("pooling".to_owned(), serde_json::to_value(pooling).unwrap_or_default());
        }
        Ok(HeadManifest {
            file: Self::FILE.to_owned(),
            config,
        })
    }

    /// The head of a manifest in the folder `dir`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] naming a field; [`ModelError::Store`] for files, missing, left-over and misshapen tensors.
    pub fn load_manifest(
        dir: &Path,
        manifest: &HeadManifest,
        base: &Model,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut fields = manifest.config.clone();
        for derived in ["vocab_size", "embedding_size"] {
            fields.remove(derived);
        }
        let file = dir.join(&manifest.file);
        let is_inside = Path::new(&manifest.file).components().count() == 1
            && std::fs::symlink_metadata(&file).is_ok_and(|file| file.is_file());
        if !is_inside {
            return Err(ModelError::Config {
                path: dir.join(Manifest::FILE),
                field: "head.file",
                expected: "the name of a file in the same folder".to_owned(),
                found: manifest.file.clone(),
            });
        }
        // A manifest that names no more than the file, the labels and the pooling has one linear layer.
        fields.entry("layers").or_insert_with(|| 1.into());
        let path = dir.join(Manifest::FILE);
        let config = HeadConfig::from_fields(fields, base, &path)?;
        Self::load_weights(&file, &path, config, base, device)
    }

    /// A classification head of one layer from a file with nothing but `weight [classes, d_model]` and `bias [classes]`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for the file, missing, left-over and misshapen tensors.
    pub fn load_linear(path: &Path, pooling: Pooling, base: &Model, device: &Device) -> Result<Self, ModelError> {
        let (tensors, _) = read_safetensors(path)?;
        let classes = tensors
            .get("weight")
            .and_then(|weight| weight.shape().to_vec().first().copied());
        let kind = HeadKind::Classification { pooling };
        let labels = (0..classes.unwrap_or(1).max(1)).map(|class| class.to_string());
        let config = HeadConfig::new(kind, labels).with_layers(1).with_dropout(0.0);
        Self::load_weights(path, path, config, base, device)
    }

    /// The weights in the file at `path`; `of_config` is the file that the configuration is of.
    fn load_weights(
        path: &Path,
        of_config: &Path,
        config: HeadConfig,
        base: &Model,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let activation = config.check(base, of_config)?;
        let (tensors, _) = read_safetensors(path)?;
        let (widths, outputs) = (config.widths(base), config.outputs(base.vocab_size()));
        let tied = config.kind.is_language_model() && !tensors.contains_key("weight");
        let mut w = Weights::from_tensors(path.to_owned(), tensors, "", device);
        let hidden = widths
            .windows(2)
            .enumerate()
            .map(|(layer, widths)| HiddenLayer {
                dense: w.linear(&format!("hidden.{layer}"), widths[0], widths[1]),
                norm: config.has_norm().then(|| {
                    w.layer_norm(
                        &format!("hidden.{layer}.norm"),
                        widths[1],
                        base.info().head_norm_epsilon,
                    )
                }),
                of_model: None,
            })
            .collect();
        let last = LastLayer {
            weight: (!tied).then(|| w.matrix("weight", outputs, widths[widths.len() - 1])),
            bias: config.bias.then(|| w.vector("bias", outputs)),
        };
        w.finish(&[])?;
        Ok(Self::from_layers(hidden, last, activation, config).trainable())
    }
}
