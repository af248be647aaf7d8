//! DoRA of an embedding table.

use std::borrow::Cow;

use adapters_core::{Call, Causality, Effect, Finisher, NamedParams, NotMergeable, SiteAdapter, TableState};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::low_rank_table::LowRankTable;

/// A low-rank update of a table with a learned magnitude of each feature: rows `m / |W + s (B A)^T| (W_i + s B A_i)`, the norm
/// taken of each column and without a gradient, as peft defines it.
#[derive(Module, Debug)]
pub(crate) struct DoraTable {
    /// The update.
    pub(crate) inner: LowRankTable,
    /// `m`, `[d_model]`.
    pub(crate) magnitude: Param<Tensor<1>>,
    /// The frozen table, `[rows, d_model]`, for the norms.
    pub(crate) table: Tensor<2>,
}

impl DoraTable {
    /// `m` over the norm of each column, `[d_model]`.
    fn factor(&self) -> Tensor<1> {
        self.magnitude.val() / norms(self.table.clone() + self.inner.update().detach())
    }
}

/// The norm of each column, `[d_model]`.
pub(crate) fn norms(table: Tensor<2>) -> Tensor<1> {
    let [_, d_model] = table.dims();
    let squares = table.square().sum_dim(0).reshape([d_model]);
    squares.clamp_min(f32::MIN_POSITIVE).sqrt()
}

impl SiteAdapter<TableState> for DoraTable {
    fn apply(&self, state: TableState, call: &Call<'_>) -> TableState {
        self.inner.apply(state, call)
    }

    fn effect(&self) -> Effect {
        self.inner.effect()
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn finisher(&self) -> Option<&dyn Finisher<TableState>> {
        Some(self)
    }

    fn merged(&self, base: Tensor<2>, shared: &()) -> Result<Tensor<2>, NotMergeable> {
        Ok(self.inner.merged(base, shared)? * self.factor().unsqueeze())
    }
}

impl Finisher<TableState> for DoraTable {
    fn finish(&self, state: TableState, _call: &Call<'_>) -> Tensor<3> {
        let rows = match state.delta {
            Some(delta) => state.output + delta,
            None => state.output,
        };
        rows * self.factor().unsqueeze()
    }
}

impl NamedParams for DoraTable {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = self.inner.named_params();
        params.push(("lora_magnitude_vector".into(), self.magnitude.id));
        params
    }
}
