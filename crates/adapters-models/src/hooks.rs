//! The hooks of a pass for layers that know their site.

use adapters_core::{
    Ctx, EmbeddingHook, EmbeddingState, KeyValueHook, KeyValueState, Normalization, OutputHook, Point, ResidualHook,
    Sited,
};
use burn::nn::{Embedding, LayerNorm, Linear, RmsNorm};
use burn::tensor::{Int, Tensor};

/// A normalization that runs.
pub(crate) trait Norm: Normalization {
    fn run(&self, x: Tensor<3>) -> Tensor<3>;
}

impl Norm for LayerNorm {
    fn run(&self, x: Tensor<3>) -> Tensor<3> {
        adapters_nn::ops::layer_norm(self, x)
    }
}

impl Norm for RmsNorm {
    fn run(&self, x: Tensor<3>) -> Tensor<3> {
        adapters_nn::ops::rms_norm(self, x)
    }
}

/// The hooks of [`Ctx`], at the site of the layer.
pub(crate) trait Hooks {
    fn linear_at(&mut self, layer: &Sited<Linear>, x: Tensor<3>) -> Tensor<3>;
    fn norm_at<N: Norm>(&mut self, norm: &Sited<N>, x: Tensor<3>) -> Tensor<3>;
    fn lookup_at(&mut self, table: &Sited<Embedding>, ids: Tensor<2, Int>) -> Tensor<3>;
    fn residual_at(
        &mut self,
        point: &Point<ResidualHook>,
        hidden: Tensor<3>,
        residual: Tensor<3>,
        norm: Option<&Sited<LayerNorm>>,
    ) -> Tensor<3>;
    fn key_value_at(&mut self, point: &Point<KeyValueHook>, state: KeyValueState) -> KeyValueState;
    fn embedding_at(&mut self, point: &Point<EmbeddingHook>, state: EmbeddingState) -> EmbeddingState;
    fn output_at(&mut self, point: &Point<OutputHook>, hidden: Tensor<3>) -> Tensor<3>;
}

impl Hooks for Ctx<'_> {
    fn linear_at(&mut self, layer: &Sited<Linear>, x: Tensor<3>) -> Tensor<3> {
        self.linear(layer.site(), layer, x)
    }

    fn norm_at<N: Norm>(&mut self, norm: &Sited<N>, x: Tensor<3>) -> Tensor<3> {
        self.norm(norm.site(), &**norm).run(x)
    }

    fn lookup_at(&mut self, table: &Sited<Embedding>, ids: Tensor<2, Int>) -> Tensor<3> {
        self.lookup(table.site(), table, ids)
    }

    fn residual_at(
        &mut self,
        point: &Point<ResidualHook>,
        hidden: Tensor<3>,
        residual: Tensor<3>,
        norm: Option<&Sited<LayerNorm>>,
    ) -> Tensor<3> {
        let norm = norm.map(|norm| self.norm(norm.site(), &**norm));
        self.hidden(point.site(), hidden, residual, norm.as_ref())
    }

    fn key_value_at(&mut self, point: &Point<KeyValueHook>, state: KeyValueState) -> KeyValueState {
        self.key_value(point.site(), state)
    }

    fn embedding_at(&mut self, point: &Point<EmbeddingHook>, state: EmbeddingState) -> EmbeddingState {
        self.embedding(point.site(), state)
    }

    fn output_at(&mut self, point: &Point<OutputHook>, hidden: Tensor<3>) -> Tensor<3> {
        self.output(point.site(), hidden)
    }
}
