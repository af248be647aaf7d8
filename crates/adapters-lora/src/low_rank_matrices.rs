//! The low-rank update of matrices that lie in one bare parameter.

use adapters_core::{Call, Causality, MatricesState, NotMergeable, SiteAdapter, named_params};
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// The low-rank updates of the matrices of one parameter: `W_e + s B_e A_e`.
///
/// As in peft, the matrices' A lie one below the other, and their B interleaved: column `r * count + e` of B is column `r` of
/// matrix `e`.
#[derive(Module, Debug)]
pub(crate) struct LowRankMatrices {
    /// `[count * rank, cols]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[rows, rank * count]`.
    pub(crate) b: Param<Tensor<2>>,
    /// How many matrices there are.
    pub(crate) count: usize,
    /// The scale `s`.
    pub(crate) scale: f64,
}

impl LowRankMatrices {
    fn plus_update(&self, weight: Tensor<3>) -> Tensor<3> {
        let (a, b) = (self.a.val(), self.b.val());
        let ([ranks, cols], [rows, _]) = (a.dims(), b.dims());
        let rank = ranks / self.count;
        let a = a.reshape([self.count, rank, cols]);
        let b = b.reshape([rows, rank, self.count]).permute([2, 0, 1]);
        weight + b.matmul(a) * self.scale
    }
}

impl SiteAdapter<MatricesState> for LowRankMatrices {
    fn apply(&self, state: MatricesState, _call: &Call<'_>) -> MatricesState {
        MatricesState {
            weight: self.plus_update(state.weight),
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: Tensor<3>, _shared: &()) -> Result<Tensor<3>, NotMergeable> {
        Ok(self.plus_update(base))
    }
}

named_params!(LowRankMatrices: "lora_A" => a, "lora_B" => b);
