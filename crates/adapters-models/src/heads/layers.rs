//! The layers of a head, built, run and averaged.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use adapters_core::{Ctx, Host, NamedParams, Role, Site, SiteInfo};
use adapters_module::{values, with_fresh_ids};
use adapters_nn::draw;
use adapters_nn::ops::{self, Activation};
use adapters_store::read_json;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::heads::config::{HeadConfig, HeadKind, refused};
use crate::linear_scores::LinearScores;
use crate::model::Model;
use crate::transformer::MaskedLmLayout;
use crate::weights::Weights;

/// A prediction head with the configuration of a [`HeadConfig`].
///
/// A language model's last layer is tied to the frozen word embeddings of the base.
#[derive(Module, Debug)]
pub struct Head {
    pub(super) hidden: Vec<HiddenLayer>,
    pub(super) last: LastLayer,
    /// Whether an invertible adapter is undone before a language model's last layer: the reference does so in its flexible
    /// heads, and not in the model class of a checkpoint.
    pub(super) flexible: bool,
    #[module(skip)]
    pub(super) activation: Activation,
    #[module(skip)]
    config: HeadConfig,
}

/// A layer before the last: `norm(act(W h + b))`.
#[derive(Module, Debug)]
pub(super) struct HiddenLayer {
    pub(super) dense: Linear,
    pub(super) norm: Option<LayerNorm>,
    /// Where the model has the layer itself, so that adapters act on it: it is read there.
    #[module(skip)]
    pub(super) of_model: Option<Site>,
}

impl HiddenLayer {
    /// A layer of the head itself without a norm.
    pub(super) fn plain(dense: Linear) -> Self {
        Self {
            dense,
            norm: None,
            of_model: None,
        }
    }

    /// The layer of a masked language model before its last.
    pub(crate) fn of_masked_lm(
        layout: &MaskedLmLayout,
        [d_in, d_out]: [usize; 2],
        base: &Model,
        of_model: Option<Site>,
        weights: &mut Weights,
    ) -> Self {
        let epsilon = base.info().head_norm_epsilon;
        Self {
            dense: weights.linear_with(layout.dense_bias, layout.dense, d_in, d_out),
            norm: Some(weights.layer_norm_with(layout.norm_bias, layout.norm, d_out, epsilon)),
            of_model,
        }
    }
}

impl MaskedLmLayout {
    /// The site of its layer before the last, where the model has that layer.
    pub(super) fn site(&self, base: &Model) -> Option<Site> {
        let is = |info: &SiteInfo| info.site.role == Role::HeadTransform && info.path == self.dense;
        Some(base.module_sites().into_iter().find(is)?.site)
    }
}

/// `W h + b`.
#[derive(Module, Debug)]
pub(super) struct LastLayer {
    /// `[outputs, d_model]`; `None` for the word embeddings of the base.
    pub(super) weight: Option<Param<Tensor<2>>>,
    /// `[outputs]`.
    pub(super) bias: Option<Param<Tensor<1>>>,
}

impl Head {
    /// A new head: weights normal with standard deviation 0.02, biases zero, normalizations one and zero.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] naming a field that cannot be, [`ModelError::Adapter`] for an unknown activation.
    pub fn new(config: HeadConfig, base: &Model, seed: u64, device: &Device) -> Result<Self, ModelError> {
        let path = Path::new("head");
        let activation = config.check(base, path)?;
        let (widths, outputs) = (config.widths(base), config.outputs(base.vocab_size()));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::MAX);
        let zeros = |size: usize| Param::from_tensor(Tensor::<1>::zeros([size], device));
        let mut matrix =
            |shape| Param::from_tensor(Tensor::<2>::from_data(draw::normal(&mut rng, shape, 0.02), device));
        let hidden = widths
            .windows(2)
            .map(|widths| HiddenLayer {
                dense: Linear {
                    weight: matrix([widths[0], widths[1]]),
                    bias: Some(zeros(widths[1])),
                },
                norm: config.has_norm().then(|| {
                    let norm = LayerNormConfig::new(widths[1]).with_epsilon(base.info().head_norm_epsilon);
                    norm.init(device)
                }),
                of_model: None,
            })
            .collect();
        let last = LastLayer {
            weight: (!config.kind.is_language_model()).then(|| matrix([outputs, base.d_model()])),
            bias: config.bias.then(|| zeros(outputs)),
        };
        Ok(Self::from_layers(hidden, last, activation, config))
    }

    /// The masked language model a published checkpoint was trained with, from its folder; `flexible` undoes an invertible
    /// adapter before the last layer.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] listing what is missing: many checkpoints come without this head. [`ModelError::Config`] for an
    /// architecture that has none.
    pub fn from_checkpoint(dir: &Path, encoder: &Model, flexible: bool, device: &Device) -> Result<Self, ModelError> {
        let (path, info) = (dir.join("config.json"), encoder.info());
        let Some(layout) = info.masked_lm else {
            let expected = "an architecture that has a masked language model";
            return Err(refused(&path, "model_type", expected, encoder.architecture()));
        };
        let activation = layout.activation.as_deref().unwrap_or(&info.activation);
        let mut config = HeadConfig::masked_lm().with_activation(Some(activation));
        config.bias = layout.bias.is_some();
        let activation = config.check(encoder, &path)?;
        let published: Map<String, Value> = read_json(&path)?;
        let tied = published.get("tie_word_embeddings") != Some(&Value::Bool(false));
        let Some(words) = encoder.word_embeddings() else {
            let expected = "an architecture that has a token table";
            return Err(refused(&path, "model_type", expected, encoder.architecture()));
        };
        let (d, [vocab, width]) = (encoder.d_model(), words.dims());
        let mut w = Weights::read(dir, "", device)?;
        let of_model = layout.site(encoder);
        let hidden = vec![HiddenLayer::of_masked_lm(
            &layout,
            [d, width],
            encoder,
            of_model,
            &mut w,
        )];
        // A copy of the word embeddings in the file is the same numbers.
        let last = LastLayer {
            weight: (!tied).then(|| w.matrix(&format!("{}.weight", layout.decoder), vocab, width)),
            bias: layout.bias.map(|key| w.vector(key, vocab)),
        };
        // The rest of the checkpoint is the encoder's business.
        w.finish(&[""])?;
        Ok(Self {
            flexible,
            ..Self::from_layers(hidden, last, activation, config)
        })
    }

    pub(super) fn from_layers(
        hidden: Vec<HiddenLayer>,
        last: LastLayer,
        activation: Activation,
        config: HeadConfig,
    ) -> Self {
        Self {
            hidden,
            last,
            flexible: true,
            activation,
            config,
        }
    }

    /// With parameters that train, but for layers of the model: those read from a file are frozen as a checkpoint's.
    pub(super) fn trainable(mut self) -> Self {
        struct Unfreeze;
        impl ModuleMapper for Unfreeze {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.set_require_grad(true)
            }
        }
        let train = |layer: HiddenLayer| match layer.of_model {
            Some(_) => layer,
            None => layer.map(&mut Unfreeze),
        };
        self.hidden = self.hidden.into_iter().map(train).collect();
        self.last = self.last.map(&mut Unfreeze);
        self
    }

    /// With these names of its labels, where there are as many.
    #[must_use]
    pub(crate) fn with_labels(mut self, labels: &[String]) -> Self {
        if labels.len() == self.config.labels.len() {
            self.config.labels = labels.to_vec();
        }
        self
    }

    /// As a head of which several labels may be right, where it is one of classes.
    #[must_use]
    pub(crate) fn with_several_labels(mut self) -> Self {
        if let HeadKind::Classification { pooling } = self.config.kind {
            self.config.kind = HeadKind::MultiLabel { pooling };
        }
        self
    }

    /// Its configuration.
    pub fn config(&self) -> &HeadConfig {
        &self.config
    }

    /// Its layers at every position given, without pooling: those of a hidden state `[batch, seq, d_model]`.
    ///
    /// # Panics
    ///
    /// Panics if the last axis is not the model's width.
    pub fn scores(&self, mut hidden: Tensor<3>, base: &Model, cx: &mut Ctx<'_>) -> LinearScores {
        let cx = cx.hooks();
        let language_model = self.config.kind.is_language_model();
        let dropout = match language_model {
            true => 0.0,
            false => self.config.dropout.unwrap_or_else(|| base.info().head_dropout),
        };
        for HiddenLayer { dense, norm, of_model } in &self.hidden {
            hidden = cx.dropout(hidden, dropout);
            hidden = match of_model.and_then(|site| Some((site, base.linear(site)?))) {
                Some((site, dense)) => cx.linear_at(site, dense, hidden),
                None => dense.forward(hidden),
            };
            hidden = self.activation.forward(hidden);
            if let Some(norm) = norm {
                hidden = ops::layer_norm(norm, hidden);
            }
        }
        hidden = cx.dropout(hidden, dropout);
        if language_model && self.flexible {
            hidden = cx.before_lm_head(base.embedding_site(), hidden);
        }
        let bias = self.last.bias.as_ref().map(|bias| bias.val());
        LinearScores::projected(hidden, self.last_weight(base), bias)
    }

    #[expect(
        clippy::expect_used,
        reason = "`HeadConfig::check` refuses the head of a language model for a model without a token table"
    )]
    pub(super) fn last_weight(&self, base: &Model) -> Tensor<2> {
        match &self.last.weight {
            Some(own) => own.val(),
            None => base.word_embeddings().expect("the model has a token table"),
        }
    }

    /// The sum of heads times their weights, as a head of its own. Weights are taken as they are; the reference divides them by
    /// their sum first, as [`normalized`](adapters_adapted::normalized) does.
    ///
    /// # Errors
    ///
    /// [`ModelError::CannotAverage`] for no head, or for heads that differ in more than dropout.
    pub fn average(heads: &[(&Self, f64)]) -> Result<Self, ModelError> {
        let refuse = |reason: &str| ModelError::CannotAverage {
            reason: reason.to_owned(),
        };
        let [(first, _), others @ ..] = heads else {
            return Err(refuse("no head is named"));
        };
        for (other, _) in others {
            let same = HeadConfig {
                dropout: first.config.dropout,
                ..other.config.clone()
            } == first.config;
            let tied = other.last.weight.is_some() == first.last.weight.is_some();
            if !same || !tied {
                return Err(refuse("they have different configurations"));
            }
        }
        let mut sums: HashMap<ParamId, Vec<f64>> = HashMap::new();
        for (head, weight) in heads {
            let values = values(*head);
            for ((_, id), (_, of)) in first.named_params().into_iter().zip(head.named_params()) {
                let Some(data) = values.get(&of) else { continue };
                let sum = sums.entry(id).or_insert_with(|| vec![0.0; data.num_elements()]);
                for (sum, x) in sum.iter_mut().zip(data.iter::<f64>()) {
                    *sum += x * weight;
                }
            }
        }
        struct Put(HashMap<ParamId, Vec<f64>>);
        impl ModuleMapper for Put {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let Some(values) = self.0.remove(&param.id) else {
                    return param;
                };
                let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
                param.map(|old| Tensor::from_data(TensorData::new(values, old.shape()), &old.device()))
            }
        }
        Ok(with_fresh_ids((*first).clone().map(&mut Put(sums))))
    }
}

impl HeadConfig {
    /// Whether a normalization follows each layer but the last.
    pub(super) fn has_norm(&self) -> bool {
        matches!(self.kind, HeadKind::LanguageModel { layer_norm: true, .. })
    }

    /// The width of what each layer reads: that of the model, and in a language model behind the first layer that of the word
    /// embeddings, which is another one in ALBERT and ELECTRA.
    pub(super) fn widths(&self, base: &Model) -> Vec<usize> {
        let inside = match self.kind.is_language_model() {
            true => base.word_width(),
            false => base.d_model(),
        };
        let mut widths = vec![inside; self.layers];
        widths[0] = base.d_model();
        widths
    }

    /// Indices in the published sequence of modules: of each layer and its normalization, and of the last layer.
    pub(super) fn indices(&self) -> (Vec<(usize, usize)>, usize) {
        let dropout = usize::from(!self.kind.is_language_model());
        let activation = usize::from(self.activation.is_some());
        let mut next = 0;
        let hidden = (1..self.layers)
            .map(|_| {
                let dense = next + dropout;
                let norm = dense + 1 + activation;
                next = norm + usize::from(self.has_norm());
                (dense, norm)
            })
            .collect();
        (hidden, next + dropout)
    }
}

impl NamedParams for Head {
    /// Under their keys in the published sequence of modules.
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params: Vec<(Cow<'static, str>, ParamId)> = Vec::new();
        let mut put = |index: usize, weight: Option<ParamId>, bias: Option<ParamId>| {
            params.extend(weight.map(|id| (format!("{index}.weight").into(), id)));
            params.extend(bias.map(|id| (format!("{index}.bias").into(), id)));
        };
        let (indices, last) = self.config.indices();
        for (layer, (dense, norm)) in self.hidden.iter().zip(indices) {
            put(
                dense,
                Some(layer.dense.weight.id),
                layer.dense.bias.as_ref().map(|b| b.id),
            );
            if let Some(layer) = &layer.norm {
                put(norm, Some(layer.gamma.id), layer.beta.as_ref().map(|b| b.id));
            }
        }
        let LastLayer { weight, bias } = &self.last;
        put(last, weight.as_ref().map(|w| w.id), bias.as_ref().map(|b| b.id));
        params
    }
}
