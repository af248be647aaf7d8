//! The low-rank update of an embedding table.

use std::borrow::Cow;

use adapters_core::{Call, Causality, Effect, NamedParams, NotMergeable, SiteAdapter, Source, TableState};
use adapters_methods::copies::without_gradient_at;
use adapters_nn::ops::project;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, module};

/// The low-rank update of one table: row `i` gets `s B A_i`, `A_i` the column `i` of A.
#[derive(Module, Debug)]
pub(crate) struct LowRankTable {
    /// `[rank, rows]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_model, rank]`.
    pub(crate) b: Param<Tensor<2>>,
    /// Whether B does not train.
    pub(crate) fixed_b: bool,
    /// The scale `s`.
    pub(crate) scale: f64,
    /// The row of the padding token, whose update gets no gradient.
    pub(crate) padding: Option<usize>,
}

impl LowRankTable {
    /// `s (B A)^T`, `[rows, d_model]`.
    pub(crate) fn update(&self) -> Tensor<2> {
        self.b.val().matmul(self.a.val()).transpose() * self.scale
    }
}

impl SiteAdapter<TableState> for LowRankTable {
    fn apply(&self, state: TableState, _call: &Call<'_>) -> TableState {
        let narrow = module::embedding(self.a.val().transpose(), state.ids.clone());
        let narrow = without_gradient_at(self.padding, &state.ids, narrow);
        let update = project(narrow * self.scale, self.b.val());
        let delta = match state.delta {
            Some(delta) => delta + update,
            None => update,
        };
        TableState {
            delta: Some(delta),
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: Tensor<2>, _shared: &()) -> Result<Tensor<2>, NotMergeable> {
        Ok(base + self.update())
    }
}

impl NamedParams for LowRankTable {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![
            ("lora_embedding_A".into(), self.a.id),
            ("lora_embedding_B".into(), self.b.id),
        ]
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.fixed_b.then_some(self.b.id).into_iter().collect()
    }
}
