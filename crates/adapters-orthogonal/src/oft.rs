//! OFT: the input rotated, block by block.

use adapters_core::target::Target;
use adapters_core::{
    Attached, BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Erased, Error, LinearState,
    LinearWeight, Method, NotMergeable, ParamValues, Scheduled, SiteAdapter, SiteInfo, SiteLayer, Tensors,
    TrainingSchedule, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::draw;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::rotation::{cayley, check_terms, rotate, skew, skew_indices, with_identities};

/// `y = W (x R) + b`, `R` a block-diagonal rotation, each block the Cayley transform of a learned skew-symmetric matrix.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 0 | number of blocks; 0 where `oft_block_size` is set | the nearest divisor of `d_in` is taken |
/// | `oft_block_size` | 32 | size of the blocks; 0 where `r` is set | the nearest divisor of `d_in` is taken |
/// | `block_share` | false | one block for all | |
/// | `use_cayley_neumann` | true | a truncated series in place of the inverse | |
/// | `num_cayley_neumann_terms` | 5 | its terms | 1 to 1000 |
/// | `module_dropout` | 0 | blocks that do not rotate, in training | `0 <= p < 1` |
/// | `coft` | false | keeps each `S` within a ball around zero | |
/// | `eps` | 6e-5 | radius of the ball, over the root of the number of blocks, with `coft` | > 0 |
///
/// With `coft` a forward pass uses the point of the ball nearest to each `S`, with the gradient at that point; the trainer puts
/// it in place of `S` after each step, which peft does at the next forward pass.
///
/// Paper: *Controlling Text-to-Image Diffusion by Orthogonal Finetuning*, Qiu et al., 2023,
/// <https://arxiv.org/abs/2306.07280>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Oft {
    /// Number of blocks; 0 where the size is set.
    pub r: usize,
    /// Size of the blocks; 0 where the number is set.
    pub oft_block_size: usize,
    /// One block for all.
    pub block_share: bool,
    /// A truncated series in place of the inverse.
    pub use_cayley_neumann: bool,
    /// Its terms.
    pub num_cayley_neumann_terms: usize,
    /// Probability that a block does not rotate, in training.
    pub module_dropout: f64,
    /// Keeps each skew-symmetric matrix within a ball around zero.
    pub coft: bool,
    /// Radius of the ball, over the root of the number of blocks.
    pub eps: f64,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Oft {
    fn default() -> Self {
        Self {
            r: 0,
            oft_block_size: 32,
            block_share: false,
            use_cayley_neumann: true,
            num_cayley_neumann_terms: 5,
            module_dropout: 0.0,
            coft: false,
            eps: 6e-5,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Oft {
    const NAME: &'static str = "oft";
    const DESCRIPTION: &'static str = "The input rotated block by block.";

    fn check(&self) -> Result<(), ConfigError> {
        let one = (self.r == 0) != (self.oft_block_size == 0);
        let found = format!("{} and {}", self.r, self.oft_block_size);
        ConfigError::unless(one, "r, oft_block_size", "one of them 0 and the other not", found)?;
        let terms = self.num_cayley_neumann_terms;
        check_terms(terms)?;
        ConfigError::probability("module_dropout", self.module_dropout)?;
        ConfigError::positive("eps", self.eps)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, _) = Self::linear_dims(site)?;
        let size = match self.r {
            0 => nearest_divisor(d_in, self.oft_block_size),
            r => d_in / nearest_divisor(d_in, r),
        };
        let blocks = if self.block_share { 1 } else { d_in / size };
        let elements = size * (size - 1) / 2;
        if elements == 0 {
            return Err(Self::refuse(site, "blocks of one feature cannot be rotated"));
        }
        Ok(SiteLayer::Linear(Erased::new(Rotation {
            upper: Param::from_data(draw::constant([blocks, elements], 0.0), build.device),
            indices: skew_indices(size, build.device),
            size,
            terms: match self.use_cayley_neumann {
                true => self.num_cayley_neumann_terms,
                false => 0,
            },
            radius: self.coft.then(|| radius(self.eps, blocks)),
            dropout: self.module_dropout,
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            schedule: self.coft.then_some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Oft: "OFT" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

impl Scheduled for Oft {
    fn schedule(&self, _adapter: &Attached, _steps: u64) -> Box<dyn TrainingSchedule> {
        Box::new(Ball { eps: self.eps })
    }
}

/// Radius of the ball a matrix stays in, one of `blocks`.
fn radius(eps: f64, blocks: usize) -> f64 {
    eps / (blocks as f64).sqrt()
}

/// Puts the matrices back into their ball after each step.
#[derive(Debug)]
struct Ball {
    eps: f64,
}

impl TrainingSchedule for Ball {
    fn after_step(&mut self, _step: u64, values: &ParamValues, _gradients: &ParamValues) -> ParamValues {
        let mut changed = ParamValues::new();
        // Not the copies of modules that train next to the rotations.
        for (key, data) in values.iter().filter(|((_, param), _)| param == "oft_R.weight") {
            let [blocks, elements] = *data.shape().to_vec().as_slice() else {
                continue;
            };
            let mut upper: Vec<f32> = data.iter::<f32>().collect();
            for row in upper.chunks_mut(elements.max(1)) {
                let norm = 2.0f64.sqrt() * row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let factor = (radius(self.eps, blocks) / norm).min(1.0);
                row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
            }
            let projected = TensorData::new(upper, [blocks, elements]);
            if projected != *data {
                changed.insert(key.clone(), projected);
            }
        }
        changed
    }

    fn state(&self) -> Tensors {
        Tensors::new()
    }

    fn restore(&mut self, _state: Tensors) {}
}

/// The divisor of `d_in` nearest to `wanted`, the smaller of two as near, as peft adjusts what does not divide.
fn nearest_divisor(d_in: usize, wanted: usize) -> usize {
    if wanted >= d_in {
        return d_in;
    }
    let lower = (1..=wanted).rev().find(|n| d_in.is_multiple_of(*n)).unwrap_or(1);
    let higher = (wanted..=d_in).find(|n| d_in.is_multiple_of(*n)).unwrap_or(d_in);
    if wanted - lower <= higher - wanted {
        lower
    } else {
        higher
    }
}

/// The rotation of one layer's input.
#[derive(Module, Debug)]
pub(crate) struct Rotation {
    /// Upper elements of the skew-symmetric matrices, `[blocks, b (b - 1) / 2]`.
    pub(crate) upper: Param<Tensor<2>>,
    /// Where they stand, `[b b]`, constant.
    pub(crate) indices: Tensor<1, Int>,
    /// Size of a block, `b`.
    pub(crate) size: usize,
    /// Terms of the truncated series; 0 for the inverse.
    pub(crate) terms: usize,
    /// Largest norm of a matrix.
    pub(crate) radius: Option<f64>,
    /// Probability that a block does not rotate, in training.
    pub(crate) dropout: f64,
}

impl Rotation {
    /// The blocks, `[blocks, b, b]`.
    pub(crate) fn blocks(&self) -> Tensor<3> {
        let upper = match self.radius {
            Some(radius) => within(self.upper.val(), radius),
            None => self.upper.val(),
        };
        let s = skew(upper, self.indices.clone(), self.size);
        match self.terms {
            0 => cayley(s),
            terms => neumann(s, terms),
        }
    }
}

/// The upper elements of the matrices of at most this norm that are nearest to the given ones; the gradient passes unchanged.
fn within(upper: Tensor<2>, radius: f64) -> Tensor<2> {
    let fixed = upper.clone().detach();
    // The norm of the whole matrix: every element stands in it twice.
    let norm = (fixed.clone().square().sum_dim(1) * 2.0).sqrt();
    let factor = (norm.clamp_min(f32::MIN_POSITIVE).recip() * radius).clamp_max(1.0);
    // Zero, and the way back.
    let through = upper - fixed.clone();
    fixed * factor + through
}

/// `I + 2 S + 2 S^2 + .. + S^n`, cut as peft cuts it.
fn neumann(s: Tensor<3>, terms: usize) -> Tensor<3> {
    let [_, b, _] = s.dims();
    let mut sum = Tensor::<2>::eye(b, &s.device()).unsqueeze() + s.zeros_like();
    if terms > 1 {
        sum = sum + s.clone() * 2.0;
    }
    if terms > 2 {
        let mut power = s.clone().matmul(s.clone());
        sum = sum + power.clone() * 2.0;
        for _ in 3..terms.saturating_sub(1) {
            power = power.matmul(s.clone());
            sum = sum + power.clone() * 2.0;
        }
        sum = sum + power.matmul(s);
    }
    sum
}

impl SiteAdapter<LinearState> for Rotation {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        LinearState {
            input: rotate(state.input, with_identities(self.blocks(), self.dropout, call)),
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        // W^T becomes R W^T, so that W becomes W R^T.
        let blocks = self.blocks().swap_dims(1, 2);
        Ok(LinearWeight {
            weight: rotate(base.weight.transpose(), blocks).transpose(),
            ..base
        })
    }
}

named_params!(Rotation: "oft_R.weight" => upper);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_out_of_the_ball_is_taken_back_to_its_edge() {
        let key = |name: &str| (None, name.to_owned());
        let data = TensorData::from([[3.0f32, 4.0], [0.01, 0.0]]);
        let values = ParamValues::from([(key("oft_R.weight"), data)]);
        let changed = Ball { eps: 1.0 }.after_step(1, &values, &ParamValues::new());
        let after: Vec<f32> = changed[&key("oft_R.weight")].iter().collect();
        // The norm of the whole matrix is sqrt(2) times that of its upper half.
        let edge = 1.0 / 2.0f32.sqrt() / 2.0f32.sqrt();
        for (x, expected) in after.iter().zip([0.6 * edge, 0.8 * edge, 0.01, 0.0]) {
            assert!((x - expected).abs() < 1e-6, "{after:?}");
        }
        assert!(
            Ball { eps: 1.0 }
                .after_step(2, &changed, &ParamValues::new())
                .is_empty()
        );
    }

    /// Computed with peft 0.21.2.
    #[test]
    fn sizes_that_do_not_divide_are_adjusted_as_peft_does() {
        for (d_in, wanted, expected) in [(48, 32, 24), (12, 32, 12), (12, 5, 4), (32, 8, 8)] {
            assert_eq!(nearest_divisor(d_in, wanted), expected, "{d_in}, {wanted}");
        }
    }
}
