//! The codec of AdapterHub's head files: `head_config.json` and `model_head.safetensors`.

use std::fs;
use std::path::Path;

use adapters_core::{Host, Tensors};
use adapters_store::{
    REFERENCE_VERSION, StoreError, is_there, read_json, read_pytorch, read_safetensors, write_json, write_weights,
};
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::heads::config::{HeadConfig, refused};
use crate::heads::layers::{Head, HiddenLayer, LastLayer};
use crate::heads::pooling::Pooling;
use crate::model::Model;
use crate::weights::Weights;

const CONFIG: &str = "head_config.json";
const WEIGHTS: &str = "model_head.safetensors";
const PICKLE: &str = "pytorch_model_head.bin";

impl Head {
    /// Whether AdapterHub's library reads this head from its files over `base`: it has no pooling but the pooler and the
    /// default of the model.
    pub(crate) fn fits_adapterhub(&self, base: &Model) -> bool {
        let pooling = self.config().kind.pooling();
        pooling.is_none_or(|pooling| pooling == Pooling::Pooler || pooling == base.default_pooling())
    }

    /// Whether a folder holds such files, of its own or next to an adapter.
    pub(crate) fn is_in(dir: &Path) -> bool {
        is_there(&dir.join(CONFIG))
    }

    /// A head and its name from a folder of AdapterHub's library, a language model's last layer tied to the word embeddings where
    /// it equals them. `allow_bin` permits weights in a PyTorch pickle, with a reader that does not execute it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for files, missing, left-over and misshapen tensors; [`ModelError::Config`] for a head that is not
    /// computed here, or of another model.
    pub fn load(dir: &Path, base: &Model, allow_bin: bool, device: &Device) -> Result<(String, Self), ModelError> {
        let path = dir.join(CONFIG);
        let mut file: Map<String, Value> = read_json(&path)?;
        let Some(Value::Object(mut fields)) = file.remove("config") else {
            // A model class of transformers with a head of its own is saved without one.
            return Err(refused(&path, "config", "the configuration of a flexible head", "none"));
        };
        let vocab = base.vocab_size();
        // Only a model of tokens has word embeddings.
        let width = if vocab > 0 { base.word_width() } else { 0 };
        for (field, expected) in [("vocab_size", vocab), ("embedding_size", width)] {
            if let Some(found) = fields.remove(field).filter(|found| !found.is_null())
                && found.as_u64() != Some(expected as u64)
            {
                return Err(refused(&path, field, &expected.to_string(), found.to_string()));
            }
        }
        let config = HeadConfig::from_fields(fields, base, &path)?;
        let activation = config.check(base, &path)?;
        let name = file.get("name").and_then(Value::as_str).unwrap_or("default").to_owned();

        let (weights, pickle) = (dir.join(WEIGHTS), dir.join(PICKLE));
        let (weights, tensors) = match allow_bin && !is_there(&weights) && is_there(&pickle) {
            true => {
                let tensors = read_pytorch(&pickle)?;
                (pickle, tensors)
            }
            false => {
                let (tensors, _) = read_safetensors(&weights)?;
                (weights, tensors)
            }
        };
        let mut w = Weights::from_tensors(weights, tensors, &format!("heads.{name}."), device);
        let (indices, last) = config.indices();
        let widths = config.widths(base);
        let hidden = indices
            .into_iter()
            .zip(widths.windows(2))
            .map(|((dense, norm), widths)| HiddenLayer {
                dense: w.linear(&dense.to_string(), widths[0], widths[1]),
                norm: config
                    .has_norm()
                    .then(|| w.layer_norm(&norm.to_string(), widths[1], base.info().head_norm_epsilon)),
                of_model: None,
            })
            .collect();
        let outputs = config.outputs(vocab);
        let own = w.matrix(&format!("{last}.weight"), outputs, widths[widths.len() - 1]);
        let bias = config.bias.then(|| w.vector(&format!("{last}.bias"), outputs));
        w.finish(&[])?;
        let words = base.word_embeddings().filter(|_| config.kind.is_language_model());
        let tied = words.is_some_and(|words| own.val().into_data() == words.into_data());
        let last = LastLayer {
            weight: (!tied).then_some(own),
            bias,
        };
        Ok((name, Self::from_layers(hidden, last, activation, config).trainable()))
    }

    /// Writes the head as AdapterHub's library does, under the name `name`, into a folder of its own or next to an adapter.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`].
    pub fn save(&self, dir: &Path, name: &str, base: &Model) -> Result<(), ModelError> {
        fs::create_dir_all(dir).map_err(|source| StoreError::Folder {
            path: dir.to_owned(),
            source,
        })?;
        let mut tensors = Tensors::new();
        let mut put = |index: usize, weight: Tensor<2>, bias: Option<Tensor<1>>| {
            let key = |rest| format!("heads.{name}.{index}.{rest}");
            tensors.insert(key("weight"), weight.into_data());
            if let Some(bias) = bias {
                tensors.insert(key("bias"), bias.into_data());
            }
        };
        let (indices, last) = self.config().indices();
        let mut norms = Vec::new();
        for (HiddenLayer { dense, norm, .. }, (at, norm_at)) in self.hidden.iter().zip(indices) {
            let bias = dense.bias.as_ref().map(|b| b.val());
            put(at, dense.weight.val().transpose(), bias);
            norms.extend(norm.iter().map(|norm| (norm_at, norm)));
        }
        put(
            last,
            self.last_weight(base),
            self.last.bias.as_ref().map(|bias| bias.val()),
        );
        for (at, norm) in norms {
            tensors.insert(format!("heads.{name}.{at}.weight"), norm.gamma.val().into_data());
            if let Some(beta) = &norm.beta {
                tensors.insert(format!("heads.{name}.{at}.bias"), beta.val().into_data());
            }
        }
        write_weights(&dir.join(WEIGHTS), &tensors)?;
        let file = serde_json::json!({
            "config": self.config().to_fields(base),
            "hidden_size": base.d_model(),
            "model_class": model_class(base.class_name()),
            "model_name": "",
            "model_type": base.architecture(),
            "name": name,
            "version": REFERENCE_VERSION,
        });
        Ok(write_json(&dir.join(CONFIG), &file)?)
    }
}

/// The reference's class with flexible heads over a published class: `BertModel` to `BertAdapterModel`.
fn model_class(class: &str) -> String {
    let stem = ["LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "Model"]
        .iter()
        .find_map(|end| class.strip_suffix(end))
        .unwrap_or(class);
    format!("{stem}AdapterModel")
}
