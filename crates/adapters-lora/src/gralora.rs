//! GraLoRA: a low-rank product for each block of the weight.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method, NotMergeable,
    SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::site_builder::linear;

/// The weight is cut into `gralora_k` by `gralora_k` blocks, and each gets a product of rank `r / gralora_k`; with `hybrid_r` the
/// whole weight gets one too. The scale is `alpha / (r + hybrid_r)`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 32 | sum of the ranks of a row of blocks | a multiple of `gralora_k` |
/// | `gralora_k` | 2 | blocks along each axis; divides the features of every layer | >= 1 |
/// | `hybrid_r` | 0 | rank of the product for the whole weight | |
/// | `alpha` | 64 | numerator of the scale | finite |
/// | `gralora_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
/// | `init_weights` | true | begin at zero; random values without it | |
///
/// Paper: *GraLoRA: Granular Low-Rank Adaptation for Parameter-Efficient Fine-Tuning*, Jung et al., 2025,
/// <https://arxiv.org/abs/2505.20355>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gralora {
    /// Sum of the ranks of a row of blocks.
    pub r: usize,
    /// Blocks along each axis.
    pub gralora_k: usize,
    /// Rank of the product for the whole weight; none if zero.
    pub hybrid_r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Dropout probability on the input, in training.
    pub gralora_dropout: f64,
    /// Whether the update begins at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Gralora {
    fn default() -> Self {
        Self {
            r: 32,
            gralora_k: 2,
            hybrid_r: 0,
            alpha: 64.0,
            gralora_dropout: 0.0,
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Gralora {
    const NAME: &'static str = "gralora";
    const DESCRIPTION: &'static str = "A low-rank update for each block of the weight.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("gralora_k", self.gralora_k)?;
        ConfigError::size("r", self.r)?;
        ConfigError::size("hybrid_r", self.hybrid_r.max(1))?;
        let fits = self.r.is_multiple_of(self.gralora_k);
        ConfigError::unless(fits, "r", "a multiple of gralora_k", self.r)?;
        ConfigError::finite("alpha", self.alpha)?;
        ConfigError::probability("gralora_dropout", self.gralora_dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let (k, r) = (self.gralora_k, self.r);
        if !d_in.is_multiple_of(k) || !d_out.is_multiple_of(k) {
            let reason = format!("gralora_k is {k}, which does not divide {d_in} and {d_out}");
            return Err(Self::refuse(site, reason));
        }
        let mut rng = build.rng(None, site.site);
        let a = draw::linear(&mut rng, [k, d_in / k, r], d_in / k);
        let b = match self.init_weights {
            true => draw::constant([k, r, d_out / k], 0.0),
            false => draw::linear(&mut rng, [k, r, d_out / k], r),
        };
        let (whole_a, whole_b) = match self.hybrid_r {
            0 => (None, None),
            h => {
                let a = draw::linear(&mut rng, [h, d_in], d_in);
                let b = match self.init_weights {
                    true => draw::constant([d_out, h], 0.0),
                    false => draw::linear(&mut rng, [d_out, h], h),
                };
                (
                    Some(Param::from_data(a, build.device)),
                    Some(Param::from_data(b, build.device)),
                )
            }
        };
        Ok(linear(Granular {
            a: Param::from_data(a, build.device),
            b: Param::from_data(b, build.device),
            whole_a,
            whole_b,
            scale: self.alpha / (r + self.hybrid_r) as f64,
            dropout: self.gralora_dropout,
        }))
    }
}

peft_modules!(Gralora: "GRALORA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

/// The update of one layer, cut into `k` by `k` blocks.
#[derive(Module, Debug)]
pub(crate) struct Granular {
    /// `[k, d_in / k, r]`: for each piece of the input, `r / k` columns for each piece of the output.
    pub(crate) a: Param<Tensor<3>>,
    /// `[k, r, d_out / k]`: for each piece of the output, `r / k` rows for each piece of the input.
    pub(crate) b: Param<Tensor<3>>,
    /// A of the whole weight, `[hybrid_r, d_in]`.
    pub(crate) whole_a: Option<Param<Tensor<2>>>,
    /// B of the whole weight, `[d_out, hybrid_r]`.
    pub(crate) whole_b: Option<Param<Tensor<2>>>,
    /// `alpha / (r + hybrid_r)`.
    pub(crate) scale: f64,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl Granular {
    /// What the blocks make of rows: `[rows, d_in] -> [rows, d_out]`, without the scale.
    fn blocks(&self, x: Tensor<2>) -> Tensor<2> {
        let ([rows, d_in], [k, _, r], [_, _, out]) = (x.dims(), self.a.dims(), self.b.dims());
        let pieces = x.reshape([rows, k, d_in / k]).swap_dims(0, 1);
        // [piece of the input, row, piece of the output, rank] the other way round.
        let inner = pieces.matmul(self.a.val()).reshape([k, rows, k, r / k]);
        let inner = inner.permute([2, 1, 0, 3]).reshape([k, rows, r]);
        let outer = inner.matmul(self.b.val()).swap_dims(0, 1);
        outer.reshape([rows, k * out])
    }

    /// A and B of the whole weight.
    fn whole(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        Some((self.whole_a.as_ref()?.val(), self.whole_b.as_ref()?.val()))
    }
}

impl SiteAdapter<LinearState> for Granular {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let state = state.plus(|x| {
            let [batch, seq, d_in] = x.dims();
            let y = self.blocks(call.dropout(x, self.dropout).reshape([batch * seq, d_in]));
            let [_, d_out] = y.dims();
            y.reshape([batch, seq, d_out]) * self.scale
        });
        match self.whole() {
            Some((a, b)) => state.plus(|x| project(project(call.dropout(x, self.dropout), a), b) * self.scale),
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
        let [d_in, _] = base.weight.dims();
        let eye = Tensor::<2>::eye(d_in, &base.weight.device());
        let mut delta = self.blocks(eye).transpose();
        if let Some((a, b)) = self.whole() {
            delta = delta + b.matmul(a);
        }
        Ok(base.plus(delta * self.scale))
    }
}

named_params!(Granular: "gralora_A" => a, "gralora_B" => b;
    optional "gralora_A_general.weight" => whole_a, "gralora_B_general.weight" => whole_b);
