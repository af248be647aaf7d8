//! BOFT: the input rotated by a butterfly of blocks, the output scaled.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method,
    NotMergeable, SiteAdapter, SiteInfo, SiteLayer, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::rotation::{cayley, rotate, with_identities};

/// `y = s o (W (x R)) + b`, `R` a block-diagonal rotation and `s` a learned scale of each output.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `boft_block_size` | 4 | size of the blocks; 0 where the number is set | divides `d_in` |
/// | `boft_block_num` | 0 | number of blocks; 0 where the size is set | divides `d_in` |
/// | `boft_n_butterfly_factor` | 1 | factors of the butterfly; one is computed | >= 1 |
/// | `boft_dropout` | 0 | blocks that do not rotate, in training | `0 <= p < 1` |
///
/// Peft computes one factor, whatever `boft_n_butterfly_factor` says, unless its CUDA extension could be compiled. So does
/// this; a file with several factors has tensors of another shape and is refused.
///
/// Paper: *Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization*, Liu et al., 2023,
/// <https://arxiv.org/abs/2311.06243>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Boft {
    /// Size of the blocks; 0 where the number is set.
    pub boft_block_size: usize,
    /// Number of blocks; 0 where the size is set.
    pub boft_block_num: usize,
    /// Factors of the butterfly; one is computed.
    pub boft_n_butterfly_factor: usize,
    /// Probability that a block does not rotate, in training.
    pub boft_dropout: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Boft {
    fn default() -> Self {
        Self {
            boft_block_size: 4,
            boft_block_num: 0,
            boft_n_butterfly_factor: 1,
            boft_dropout: 0.0,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Boft {
    const NAME: &'static str = "boft";
    const DESCRIPTION: &'static str = "The input rotated by a butterfly of block rotations, and the output scaled.";

    fn check(&self) -> Result<(), ConfigError> {
        let (size, num) = (self.boft_block_size, self.boft_block_num);
        let one = (size == 0) != (num == 0);
        ConfigError::unless(
            one,
            "boft_block_size, boft_block_num",
            "one of them 0 and the other not",
            format!("{size} and {num}"),
        )?;
        let factor = self.boft_n_butterfly_factor;
        ConfigError::unless(factor > 0, "boft_n_butterfly_factor", "at least 1", factor)?;
        ConfigError::probability("boft_dropout", self.boft_dropout)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let divisor = self.boft_block_size.max(self.boft_block_num);
        if !d_in.is_multiple_of(divisor) {
            return Err(Self::refuse(
                site,
                format!("its {d_in} inputs are not a multiple of {divisor}"),
            ));
        }
        let size = d_in.checked_div(self.boft_block_num).unwrap_or(self.boft_block_size);
        Ok(SiteLayer::Linear(Erased::new(ScaledRotation {
            blocks: Param::from_data(draw::constant([1, d_in / size, size, size], 0.0), build.device),
            scale: Param::from_data(draw::constant([d_out, 1], 1.0), build.device),
            dropout: self.boft_dropout,
        })))
    }
}

peft_modules!(Boft: "BOFT" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

/// The rotation of one layer's input and the scale of its output.
#[derive(Module, Debug)]
pub(crate) struct ScaledRotation {
    /// `[1, blocks, b, b]`; of each block the skew-symmetric part counts.
    pub(crate) blocks: Param<Tensor<4>>,
    /// `[d_out, 1]`.
    pub(crate) scale: Param<Tensor<2>>,
    /// Probability that a block does not rotate, in training.
    pub(crate) dropout: f64,
}

impl ScaledRotation {
    /// The rotations, `[blocks, b, b]`.
    fn rotations(&self) -> Tensor<3> {
        let [_, blocks, b, _] = self.blocks.dims();
        let free = self.blocks.val().reshape([blocks, b, b]);
        cayley((free.clone() - free.swap_dims(1, 2)) * 0.5)
    }

    /// `[d_out]`.
    fn factor(&self) -> Tensor<1> {
        let [d_out, _] = self.scale.dims();
        self.scale.val().reshape([d_out])
    }
}

impl SiteAdapter<LinearState> for ScaledRotation {
    /// Rotates the input and scales the frozen layer, so that what other adapters add stays as it is.
    fn apply(&self, mut state: LinearState, call: &Call<'_>) -> LinearState {
        let scaled = float_weight(&state.layer) * self.factor().unsqueeze();
        state.layer.weight = Param::initialized(ParamId::new(), scaled);
        state.input = rotate(state.input, with_identities(self.rotations(), self.dropout, call));
        state
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let rotated = rotate(base.weight.transpose(), self.rotations().swap_dims(1, 2)).transpose();
        Ok(LinearWeight {
            weight: rotated * self.factor().unsqueeze(),
            ..base
        })
    }
}

named_params!(ScaledRotation: "boft_R" => blocks, "boft_s" => scale);
