//! Super-tuning: the largest or smallest elements of a weight, trained, with or without LoRA in addition.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method, NamedParams,
    NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::sparse::{dense, stored};

/// `W + S + (lora_alpha / r) B A`, where `S` is zero but at the fraction `1 - sparsity` of the elements whose size in `W` is largest;
/// the product only with `r`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `sparsity` | 0.99 | fraction of the elements that stay as they are | `0 <= s < 1`, one element at least is left |
/// | `select_top` | true | the largest elements; the smallest without it | |
/// | `r` | none | rank of the product | >= 1 |
/// | `lora_alpha` | `2 r` | numerator of its scale | finite, only with `r` |
/// | `lora_dropout` | 0 | dropout on the input of the product, in training | `0 <= p < 1` |
/// | `init_weights` | true | begin at zero; random values without it | |
/// | `save_precomputed_indices` | true | store the indices; without it they are chosen again from the base when the file is read | |
///
/// Source: *Super-tuning*, <https://arxiv.org/abs/2607.09287>, as peft computes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Supertuning {
    /// Fraction of the elements that stay as they are.
    pub sparsity: f64,
    /// The largest elements; the smallest without it.
    pub select_top: bool,
    /// Rank of the product next to them.
    pub r: Option<usize>,
    /// Numerator of its scale; `2 r` if none.
    pub lora_alpha: Option<f64>,
    /// Dropout probability on the input of the product, in training.
    pub lora_dropout: f64,
    /// Whether the update begins at zero.
    pub init_weights: bool,
    /// Whether files hold the indices.
    pub save_precomputed_indices: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Supertuning {
    fn default() -> Self {
        Self {
            sparsity: 0.99,
            select_top: true,
            r: None,
            lora_alpha: None,
            lora_dropout: 0.0,
            init_weights: true,
            save_precomputed_indices: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Supertuning {
    const NAME: &'static str = "supertuning";
    const DESCRIPTION: &'static str =
        "The largest or the smallest elements of the weight, trained, with or without LoRA.";

    fn check(&self) -> Result<(), ConfigError> {
        let (sparsity, dropout) = (self.sparsity, self.lora_dropout);
        ConfigError::probability("sparsity", sparsity)?;
        ConfigError::size("r", self.r.unwrap_or(1))?;
        let alpha = self.lora_alpha.unwrap_or_default();
        ConfigError::finite("lora_alpha", alpha)?;
        let fits = self.lora_alpha.is_none() || self.r.is_some();
        ConfigError::unless(fits, "lora_alpha", "none without r", alpha)?;
        ConfigError::probability("lora_dropout", dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let frozen = build.host.linear(site.site);
        let frozen = frozen.ok_or_else(|| Self::refuse(site, "the model gives no access to this weight"))?;
        let n = ((d_in * d_out) as f64 * (1.0 - self.sparsity)) as usize;
        if n == 0 {
            let reason = format!(
                "sparsity = {} leaves none of its {} elements",
                self.sparsity,
                d_in * d_out
            );
            return Err(Self::refuse(site, reason));
        }
        let sizes: Vec<f32> = float_weight(frozen).transpose().abs().into_data().iter().collect();
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by(|a, b| match self.select_top {
            true => sizes[*b].total_cmp(&sizes[*a]),
            false => sizes[*a].total_cmp(&sizes[*b]),
        });
        let indices: Vec<i64> = order.iter().take(n).map(|index| *index as i64).collect();
        let indices = TensorData::new(indices, [n]);
        let mut rng = build.rng(None, site.site);
        let values = match self.init_weights {
            true => draw::constant([n], 0.0),
            false => draw::normal(&mut rng, [n], 1.0),
        };
        let (a, b) = match self.r {
            Some(r) => {
                let a = draw::linear(&mut rng, [r, d_in], d_in);
                let b = match self.init_weights {
                    true => draw::constant([d_out, r], 0.0),
                    false => draw::linear(&mut rng, [d_out, r], r),
                };
                (Some(a), Some(b))
            }
            None => (None, None),
        };
        let param = |data: TensorData| Param::from_data(data, build.device);
        Ok(SiteLayer::Linear(Erased::new(LargestElements {
            indices: match self.save_precomputed_indices {
                true => Indices::Stored(stored(indices, build.device)),
                false => Indices::Computed(Tensor::from_data(indices, build.device)),
            },
            values: Param::from_data(values, build.device),
            a: a.map(param),
            b: b.map(param),
            scale: self
                .r
                .map_or(1.0, |r| self.lora_alpha.unwrap_or(2.0 * r as f64) / r as f64),
            dropout: self.lora_dropout,
            d_out,
            d_in,
        })))
    }
}

peft_modules!(Supertuning: "SUPERTUNING" {
    /// The indices under the name of a live module, which follow from the base.
    fn is_computed(key: &str) -> bool {
        key.contains(".supertuning_indices.")
    }
});

/// Which elements of a weight are trained, counted along its rows of inputs.
#[derive(Module, Debug)]
pub enum Indices {
    /// Files hold them, `[n]`.
    Stored(Param<Tensor<1, Int>>),
    /// They follow from the base, `[n]`.
    Computed(Tensor<1, Int>),
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct LargestElements {
    /// The elements.
    pub(crate) indices: Indices,
    /// What is added to them, `[n]`.
    pub(crate) values: Param<Tensor<1>>,
    /// `[r, d_in]`.
    pub(crate) a: Option<Param<Tensor<2>>>,
    /// `[d_out, r]`.
    pub(crate) b: Option<Param<Tensor<2>>>,
    /// `lora_alpha / r`.
    pub(crate) scale: f64,
    /// Dropout probability on the input of the product.
    pub(crate) dropout: f64,
    /// Output features of the layer.
    pub(crate) d_out: usize,
    /// Input features of the layer.
    pub(crate) d_in: usize,
}

impl LargestElements {
    /// The update of single elements, `[d_out, d_in]`.
    fn sparse(&self) -> Tensor<2> {
        let indices = match &self.indices {
            Indices::Stored(indices) => indices.val(),
            Indices::Computed(indices) => indices.clone(),
        };
        dense(self.values.val(), indices, [self.d_out, self.d_in])
    }

    /// A and B times the scale.
    fn factors(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        Some((self.a.as_ref()?.val(), self.b.as_ref()?.val() * self.scale))
    }
}

impl SiteAdapter<LinearState> for LargestElements {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let state = state.plus(|x| project(x, self.sparse()));
        match self.factors() {
            Some((a, b)) => state.plus(|x| project(project(call.dropout(x, self.dropout), a), b)),
            None => state,
        }
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let base = base.plus(self.sparse());
        Ok(match self.factors() {
            Some((a, b)) => base.plus(b.matmul(a)),
            None => base,
        })
    }
}

impl NamedParams for LargestElements {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params: Vec<(Cow<'static, str>, ParamId)> = Vec::new();
        if let Indices::Stored(indices) = &self.indices {
            params.push(("supertuning_indices".into(), indices.id));
        }
        params.push(("supertuning_values".into(), self.values.id));
        params.extend(self.a.iter().map(|a| ("supertuning_lora_A.weight".into(), a.id)));
        params.extend(self.b.iter().map(|b| ("supertuning_lora_B.weight".into(), b.id)));
        params
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.index_limits().into_iter().map(|(id, _)| id).collect()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        match &self.indices {
            Indices::Stored(indices) => vec![(indices.id, vec![self.d_out * self.d_in])],
            Indices::Computed(_) => Vec::new(),
        }
    }
}
