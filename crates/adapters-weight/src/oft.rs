//! OFT: the input rotated, block by block.

use adapters_core::target::ModuleFields;
use adapters_core::{
    Build, Call, ConfigError, Erased, Error, LinearState, LinearWeight, NotMergeable, Shared, SiteAdapter, SiteInfo,
    SiteLayer, draw,
};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::rotation::{cayley, rotate, skew, skew_places};
use crate::tuner::{Tuner, has_targets, named};

/// `y = W (x R) + b`, `R` a block-diagonal rotation, each block the Cayley transform of a learned skew-symmetric matrix.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 0 | number of blocks; 0 where `oft_block_size` is set | the nearest divisor of `d_in` is taken |
/// | `oft_block_size` | 32 | size of the blocks; 0 where `r` is set | the nearest divisor of `d_in` is taken |
/// | `block_share` | false | one block for all | |
/// | `use_cayley_neumann` | true | a truncated series in place of the inverse | |
/// | `num_cayley_neumann_terms` | 5 | its terms | >= 1 |
/// | `module_dropout` | 0 | not computed | 0 |
/// | `coft` | false | not computed | false |
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
    /// Only 0 is computed.
    pub module_dropout: f64,
    /// Only `false` is computed.
    pub coft: bool,
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
            targets: ModuleFields::default(),
        }
    }
}

impl Tuner for Oft {
    const NAME: &'static str = "oft";
    const PEFT_TYPE: &'static str = "OFT";

    has_targets!();

    fn check(&self) -> Result<(), ConfigError> {
        let one = (self.r == 0) != (self.oft_block_size == 0);
        let found = format!("{} and {}", self.r, self.oft_block_size);
        ConfigError::unless(one, "r, oft_block_size", "one of them 0 and the other not", found)?;
        let terms = self.num_cayley_neumann_terms;
        ConfigError::unless(terms > 0, "num_cayley_neumann_terms", "at least 1", terms)?;
        ConfigError::unless(self.module_dropout == 0.0, "module_dropout", "0", self.module_dropout)?;
        match self.coft {
            false => Ok(()),
            true => Err(ConfigError::Unsupported {
                field: "coft",
                found: "true".to_owned(),
            }),
        }
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
            return Err(Self::refuse(site, "blocks of one feature do not rotate"));
        }
        Ok(SiteLayer::Linear(Erased::new(Rotation {
            upper: Param::from_data(draw::constant([blocks, elements], 0.0), build.device),
            places: skew_places(size, build.device),
            size,
            terms: match self.use_cayley_neumann {
                true => self.num_cayley_neumann_terms,
                false => 0,
            },
        })))
    }
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
pub struct Rotation {
    /// Upper elements of the skew-symmetric matrices, `[blocks, b (b - 1) / 2]`.
    pub upper: Param<Tensor<2>>,
    /// Where they stand, `[b b]`, constant.
    pub places: Tensor<1, Int>,
    /// Size of a block, `b`.
    pub size: usize,
    /// Terms of the truncated series; 0 for the inverse.
    pub terms: usize,
}

impl Rotation {
    /// The blocks, `[blocks, b, b]`.
    pub fn blocks(&self) -> Tensor<3> {
        let s = skew(self.upper.val(), self.places.clone(), self.size);
        match self.terms {
            0 => cayley(s),
            terms => neumann(s, terms),
        }
    }
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
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        LinearState {
            input: rotate(state.input, self.blocks()),
            ..state
        }
    }

    fn keeps_layer(&self) -> bool {
        false
    }

    fn merged(&self, base: LinearWeight, _shared: &Shared) -> Result<LinearWeight, NotMergeable> {
        // W^T becomes R W^T, so that W becomes W R^T.
        let blocks = self.blocks().swap_dims(1, 2);
        Ok(LinearWeight {
            weight: rotate(base.weight.transpose(), blocks).transpose(),
            ..base
        })
    }
}

named!(Rotation: "oft_R.weight" => upper);

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with peft 0.21.2.
    #[test]
    fn sizes_that_do_not_divide_are_adjusted_as_peft_does() {
        for (d_in, wanted, expected) in [(48, 32, 24), (12, 32, 12), (12, 5, 4), (32, 8, 8)] {
            assert_eq!(nearest_divisor(d_in, wanted), expected, "{d_in}, {wanted}");
        }
    }
}
