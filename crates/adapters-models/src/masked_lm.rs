//! The masked-language-model head: what language adapters are trained with.

use std::borrow::Cow;
use std::path::Path;

use adapters_core::ops::{self, Activation};
use adapters_core::store::{Tensors, read_json, read_safetensors, write_json, write_safetensors};
use adapters_core::{Ctx, Host, NamedParams, draw};
use burn::module::{Module, Param, ParamId};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::encoder::Encoder;
use crate::error::ModelError;
use crate::weights::Weights;

/// Scores every token of the vocabulary at every position: `norm(act(W h + b)) E^T + c`, where `E` are the frozen
/// word embeddings of the base.
#[derive(Module, Debug)]
pub struct MaskedLmHead {
    /// `W` and `b`; without it the hidden state goes to the decoder as it is.
    transform: Option<Transform>,
    /// A decoder of its own in place of `E`, `[vocab, d_model]`.
    decoder: Option<Param<Tensor<2>>>,
    /// `c`, `[vocab]`.
    bias: Option<Param<Tensor<1>>>,
    /// Whether an invertible adapter is undone before the decoder: the reference does so in its flexible heads, and
    /// not in the model class of the checkpoint.
    flexible: bool,
    #[module(skip)]
    config: FlexibleHead,
}

#[derive(Module, Debug)]
struct Transform {
    dense: Linear,
    norm: Option<LayerNorm>,
    #[module(skip)]
    activation: Activation,
}

/// The `config` of a published `head_config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FlexibleHead {
    head_type: String,
    vocab_size: usize,
    embedding_size: usize,
    layers: usize,
    activation_function: Option<String>,
    layer_norm: bool,
    bias: bool,
    shift_labels: bool,
    label2id: Option<Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

const TYPE: &str = "masked_lm";
const CONFIG: &str = "head_config.json";
const WEIGHTS: &str = "model_head.safetensors";

impl FlexibleHead {
    fn of(encoder: &Encoder) -> Self {
        Self {
            head_type: TYPE.to_owned(),
            vocab_size: encoder.vocab_size(),
            embedding_size: encoder.d_model(),
            layers: 2,
            activation_function: Some("gelu".to_owned()),
            layer_norm: true,
            bias: true,
            shift_labels: false,
            label2id: None,
            extra: Map::new(),
        }
    }

    /// The activation, after checking what this head cannot be.
    fn check(&self, path: &Path, encoder: &Encoder) -> Result<Activation, ModelError> {
        let refuse = |field, expected: String, found: String| {
            Err(ModelError::Config {
                path: path.to_owned(),
                field,
                expected,
                found,
            })
        };
        if self.head_type != TYPE {
            return refuse("head_type", format!("`{TYPE}`"), self.head_type.clone());
        }
        if self.vocab_size != encoder.vocab_size() {
            return refuse(
                "vocab_size",
                encoder.vocab_size().to_string(),
                self.vocab_size.to_string(),
            );
        }
        if self.embedding_size != encoder.d_model() {
            return refuse(
                "embedding_size",
                encoder.d_model().to_string(),
                self.embedding_size.to_string(),
            );
        }
        if !(1..=2).contains(&self.layers) {
            return refuse("layers", "1 or 2".to_owned(), self.layers.to_string());
        }
        let name = self.activation_function.as_deref().unwrap_or("linear").to_lowercase();
        Ok(name.parse::<Activation>()?)
    }

    /// Indices of norm and decoder in the published sequence of modules; the dense layer is at 0.
    fn indices(&self) -> (usize, usize) {
        if self.layers == 1 {
            return (0, 0);
        }
        let norm = 1 + usize::from(self.activation_function.is_some());
        (norm, norm + usize::from(self.layer_norm))
    }
}

impl MaskedLmHead {
    /// A new head: dense layer normal with standard deviation 0.02, norm one and zero, bias zero.
    pub fn new(encoder: &Encoder, seed: u64, device: &Device) -> Self {
        let config = FlexibleHead::of(encoder);
        let (d, vocab) = (config.embedding_size, config.vocab_size);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::MAX - 1);
        let zeros = |size: usize| Param::from_tensor(Tensor::<1>::zeros([size], device));
        let dense = Linear {
            weight: Param::from_tensor(Tensor::from_data(draw::normal(&mut rng, [d, d], 0.02), device)),
            bias: Some(zeros(d)),
        };
        Self {
            transform: Some(Transform {
                dense,
                norm: Some(
                    LayerNormConfig::new(d)
                        .with_epsilon(encoder.norm_epsilon())
                        .init(device),
                ),
                activation: Activation::Gelu,
            }),
            decoder: None,
            bias: Some(zeros(vocab)),
            flexible: true,
            config,
        }
    }

    /// The head of a published masked language model, from the folder of its checkpoint; `flexible` undoes an
    /// invertible adapter before the decoder.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] listing what is missing: many checkpoints come without this head.
    pub fn from_checkpoint(dir: &Path, encoder: &Encoder, flexible: bool, device: &Device) -> Result<Self, ModelError> {
        let mut config = FlexibleHead::of(encoder);
        config.activation_function = Some(encoder.activation_name().to_owned());
        let activation = config.check(&dir.join("config.json"), encoder)?;
        let (d, vocab) = (config.embedding_size, config.vocab_size);
        let mut w = Weights::read(dir, "cls.predictions.", device)?;
        let head = Self {
            transform: Some(Transform {
                dense: w.linear("transform.dense", d, d),
                norm: Some(w.layer_norm("transform.LayerNorm", d, encoder.norm_epsilon())),
                activation,
            }),
            // Tied to the word embeddings; a copy in the file is the same numbers.
            decoder: None,
            bias: Some(w.vector("bias", vocab)),
            flexible,
            config,
        };
        // The rest of the checkpoint is the encoder's business.
        w.finish(&[""])?;
        Ok(head)
    }

    /// A flexible head from a folder of AdapterHub's library (`head_config.json`, `model_head.safetensors`). A decoder
    /// that equals the word embeddings is tied to them again.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for files, [`ModelError::Config`] for a head of another type or another model.
    pub fn load(dir: &Path, encoder: &Encoder, device: &Device) -> Result<Self, ModelError> {
        let path = dir.join(CONFIG);
        let file: Map<String, Value> = read_json(&path)?;
        let config = file.get("config").cloned().unwrap_or_default();
        let config: FlexibleHead =
            serde_json::from_value(config).map_err(|source| adapters_core::store::StoreError::Json {
                path: path.clone(),
                source,
            })?;
        let activation = config.check(&path, encoder)?;
        let name = file.get("name").and_then(Value::as_str).unwrap_or("default");
        let weights = dir.join(WEIGHTS);
        let (tensors, _) = read_safetensors(&weights)?;
        let mut w = Weights::from_tensors(weights, tensors, &format!("heads.{name}."), device);
        let (d, vocab) = (config.embedding_size, config.vocab_size);
        let (norm, decoder) = config.indices();
        let transform = (config.layers == 2).then(|| Transform {
            dense: w.linear("0", d, d),
            norm: config
                .layer_norm
                .then(|| w.layer_norm(&norm.to_string(), d, encoder.norm_epsilon())),
            activation,
        });
        let own = w.matrix(&format!("{decoder}.weight"), vocab, d);
        let bias = config.bias.then(|| w.vector(&format!("{decoder}.bias"), vocab));
        w.finish(&[])?;
        let tied = own.val().into_data() == encoder.word_embeddings().into_data();
        Ok(Self {
            transform,
            decoder: (!tied).then_some(own),
            bias,
            flexible: true,
            config,
        })
    }

    /// Writes the head as AdapterHub's library does, under the name `name`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`].
    pub fn save(&self, dir: &Path, name: &str, encoder: &Encoder) -> Result<(), ModelError> {
        std::fs::create_dir_all(dir).map_err(|source| adapters_core::store::StoreError::Folder {
            path: dir.to_owned(),
            source,
        })?;
        let (norm, decoder) = self.config.indices();
        let mut tensors = Tensors::new();
        let mut add = |key: String, data| tensors.insert(format!("heads.{name}.{key}"), data);
        if let Some(transform) = &self.transform {
            add(
                "0.weight".to_owned(),
                transform.dense.weight.val().transpose().into_data(),
            );
            if let Some(bias) = &transform.dense.bias {
                add("0.bias".to_owned(), bias.val().into_data());
            }
            if let Some(layer) = &transform.norm {
                add(format!("{norm}.weight"), layer.gamma.val().into_data());
                if let Some(beta) = &layer.beta {
                    add(format!("{norm}.bias"), beta.val().into_data());
                }
            }
        }
        add(format!("{decoder}.weight"), self.decoder_weight(encoder).into_data());
        if let Some(bias) = &self.bias {
            add(format!("{decoder}.bias"), bias.val().into_data());
        }
        write_safetensors(&dir.join(WEIGHTS), &tensors, [])?;
        let file = serde_json::json!({
            "config": self.config,
            "hidden_size": encoder.d_model(),
            "model_class": "BertAdapterModel",
            "model_name": "",
            "model_type": encoder.architecture(),
            "name": name,
            "version": "adapters.1.3.0",
        });
        Ok(write_json(&dir.join(CONFIG), &file)?)
    }

    /// Logits over the vocabulary.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, vocab]`
    ///
    /// # Panics
    ///
    /// Panics if the last axis is not the encoder's width.
    pub fn forward(&self, hidden: Tensor<3>, encoder: &Encoder, cx: &mut Ctx<'_>) -> Tensor<3> {
        let hidden = match &self.transform {
            Some(Transform {
                dense,
                norm,
                activation,
            }) => {
                let hidden = activation.forward(dense.forward(hidden));
                match norm {
                    Some(norm) => ops::layer_norm(norm, hidden),
                    None => hidden,
                }
            }
            None => hidden,
        };
        let hidden = match self.flexible {
            true => cx.before_lm_head(encoder.embedding_site(), hidden),
            false => hidden,
        };
        let logits = ops::project(hidden, self.decoder_weight(encoder));
        match &self.bias {
            Some(bias) => logits + bias.val().unsqueeze(),
            None => logits,
        }
    }

    fn decoder_weight(&self, encoder: &Encoder) -> Tensor<2> {
        match &self.decoder {
            Some(own) => own.val(),
            None => encoder.word_embeddings(),
        }
    }
}

impl NamedParams for MaskedLmHead {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params: Vec<(Cow<'static, str>, ParamId)> = Vec::new();
        if let Some(transform) = &self.transform {
            params.push(("transform.dense.weight".into(), transform.dense.weight.id));
            let bias = transform.dense.bias.iter();
            params.extend(bias.map(|b| ("transform.dense.bias".into(), b.id)));
            if let Some(norm) = &transform.norm {
                params.push(("transform.LayerNorm.weight".into(), norm.gamma.id));
                params.extend(norm.beta.iter().map(|b| ("transform.LayerNorm.bias".into(), b.id)));
            }
        }
        params.extend(self.decoder.iter().map(|d| ("decoder.weight".into(), d.id)));
        params.extend(self.bias.iter().map(|b| ("bias".into(), b.id)));
        params
    }
}
