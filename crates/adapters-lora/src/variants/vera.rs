//! VeRA: shared frozen matrices, small trained ones between them.

use std::borrow::Cow;

use adapters_core::{
    Call, Causality, ConfigError, Effect, LinearState, LinearWeight, NamedParams, NotMergeable, Shared, SiteAdapter,
    Source,
};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::config::{Init, LoraConfig};
use crate::fused::{FusedParts, placed_rows};
use crate::module::{Factored, Gate, apply_factors};

/// Random matrices A and B, shared by all layers and never trained, with trained scalings around them:
/// `delta = s b B d A x`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `lora` | rank 8, init `vera` | rank, places, dropout, seed | |
/// | `d` | 0.1 | initial value of the inner scaling | finite |
/// | `b` | 0 | initial value of the outer scaling | finite |
/// | `form` | matrices | whose scalings | |
/// | `projection` | stored | whether files hold A and B | |
///
/// Paper: *VeRA: Vector-based Random Matrix Adaptation*, Kopiczko et al., 2023, <https://arxiv.org/abs/2310.11454>.
#[derive(Clone, Debug, PartialEq)]
pub struct VeraConfig {
    /// The low-rank part.
    pub lora: LoraConfig,
    /// Initial value of the inner scaling.
    pub d: f64,
    /// Initial value of the outer scaling.
    pub b: f64,
    /// Whose scalings.
    pub form: VeraForm,
    /// Where the shared matrices of peft's form come from.
    pub projection: Projection,
}

/// Where the shared matrices come from; peft's `projection_prng_key` is the seed in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// From the adapter's file.
    Stored(u32),
    /// Drawn again from PyTorch's generator: they are in no file (`save_projection = false`).
    Drawn(u32),
}

/// The two definitions that checkpoints are trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VeraForm {
    /// AdapterHub's: `d` `[r, r]` and `b` `[d_out, d_out]` are full matrices, with the scale `alpha / r`. All layers have
    /// the shape of the first.
    #[default]
    Matrices,
    /// Peft's: vectors `d` `[r]` and `b` `[d_out]`, without a scale. A and B have the largest shape, and each layer takes
    /// its part.
    Vectors,
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            lora: LoraConfig::new(8).with_init(Init::Vera),
            d: 0.1,
            b: 0.0,
            form: VeraForm::Matrices,
            projection: Projection::Stored(0),
        }
    }
}

impl VeraConfig {
    pub(crate) fn check_fields(&self) -> Result<(), ConfigError> {
        ConfigError::unless(self.d.is_finite(), "vera_d", "a finite number", self.d)?;
        ConfigError::unless(self.b.is_finite(), "vera_b", "a finite number", self.b)?;
        let patterns = self.lora.rank_pattern.is_empty();
        ConfigError::unless(patterns, "rank_pattern", "none: all layers share A and B", "some")?;
        self.lora.check_fields()
    }
}

/// The update of one layer with AdapterHub's full matrices.
#[derive(Module, Debug)]
pub struct VeraMatrices {
    /// `[r, r]`.
    pub d: Param<Tensor<2>>,
    /// `[d_out, d_out]`.
    pub b: Param<Tensor<2>>,
    /// Input features of this layer.
    pub d_in: usize,
    /// Replaces the constant scale where there is one.
    pub gate: Option<Gate>,
    /// The constant scale `s`.
    pub scale: f64,
    /// Dropout probability on the input.
    pub dropout: f64,
    /// The parts of a fused projection that are adapted.
    #[module(skip)]
    pub parts: Option<FusedParts>,
}

impl Factored for VeraMatrices {
    fn factors(&self, shared: &Shared) -> (Tensor<2>, Tensor<2>) {
        (
            placed_rows(self.parts.as_ref(), self.b.val().matmul(shared.matrix("lora_B"))),
            self.d.val().matmul(shared.matrix("lora_A")),
        )
    }

    fn scale(&self) -> Option<f64> {
        self.gate.is_none().then_some(self.scale)
    }
}

impl SiteAdapter<LinearState> for VeraMatrices {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        apply_factors(self, state, call, self.dropout, self.gate.as_ref())
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Previous { width: Some(self.d_in) })
    }

    fn causality(&self) -> Causality {
        Causality::of_gate(&self.gate)
    }

    fn merged(&self, base: LinearWeight, shared: &Shared) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.update(shared)?))
    }
}

impl NamedParams for VeraMatrices {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("vera_D".into(), self.d.id), ("vera_B".into(), self.b.id)];
        params.extend(self.gate.iter().flat_map(Gate::named_params));
        params
    }
}

/// The update of one layer with peft's vectors.
#[derive(Module, Debug)]
pub struct VeraVectors {
    /// `[r]`.
    pub d: Param<Tensor<1>>,
    /// `[d_out]`.
    pub b: Param<Tensor<1>>,
    /// Input features of this layer: it takes as many columns of A.
    pub d_in: usize,
    /// Dropout probability on the input.
    pub dropout: f64,
    /// The parts of a fused projection that are adapted.
    #[module(skip)]
    pub parts: Option<FusedParts>,
}

impl Factored for VeraVectors {
    fn factors(&self, shared: &Shared) -> (Tensor<2>, Tensor<2>) {
        let [d_out] = self.b.dims();
        let left = shared.matrix("vera_B").slice_dim(0, 0..d_out) * self.b.val().unsqueeze_dim(1);
        let right = shared.matrix("vera_A").slice_dim(1, 0..self.d_in) * self.d.val().unsqueeze_dim(1);
        (placed_rows(self.parts.as_ref(), left), right)
    }

    fn scale(&self) -> Option<f64> {
        Some(1.0)
    }
}

impl SiteAdapter<LinearState> for VeraVectors {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        apply_factors(self, state, call, self.dropout, None)
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Previous { width: Some(self.d_in) })
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &Shared) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.update(shared)?))
    }
}

impl NamedParams for VeraVectors {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![("vera_lambda_b".into(), self.b.id), ("vera_lambda_d".into(), self.d.id)]
    }
}
