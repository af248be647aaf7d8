//! What every layer of this crate is built with: random numbers, parameters and the sizes of its site.

use adapters_core::Erased;
use adapters_core::{Build, Error, LinearState, SiteAdapter, SiteInfo, SiteLayer};
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;

use crate::dtype::Dtype;
use crate::fused_projection::FusedProjection;
use crate::gate::Gate;
use crate::lora_config::LoraConfig;
use crate::scaling::Scaling;
use crate::target::LoraTarget;

/// Builds the layer of one adapter at one site.
pub(crate) struct SiteBuilder<'a> {
    method: &'static str,
    pub(crate) site: &'a SiteInfo,
    pub(crate) build: &'a Build<'a>,
    pub(crate) rng: ChaCha8Rng,
    /// Which projections of a fused one are adapted.
    pub(crate) fused: Option<FusedProjection>,
    dims: Option<(usize, usize)>,
}

impl<'a> SiteBuilder<'a> {
    pub(crate) fn new(
        method: &'static str,
        target: &LoraTarget,
        seed: Option<u64>,
        site: &'a SiteInfo,
        build: &'a Build<'a>,
    ) -> Self {
        Self {
            method,
            site,
            build,
            rng: build.rng(seed, site.site),
            fused: target.fused(site),
            dims: target.dims(site),
        }
    }

    pub(crate) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::CannotBuild {
            method: self.method,
            path: self.site.path.clone(),
            reason: reason.into(),
        }
    }

    /// Input and output features of what is adapted.
    pub(crate) fn dims(&self) -> Result<(usize, usize), Error> {
        self.dims
            .ok_or_else(|| self.refuse("it adapts linear layers, and plain LoRA embedding tables too"))
    }

    pub(crate) fn param<const D: usize>(&self, data: TensorData, dtype: Option<Dtype>) -> Param<Tensor<D>> {
        Dtype::param(dtype, Tensor::from_data(data, self.build.device))
    }

    /// How many products there are: one for each adapted projection of a fused one.
    pub(crate) fn groups(&self) -> usize {
        self.fused.as_ref().map_or(1, FusedProjection::count)
    }

    pub(crate) fn gate(&mut self, d_in: usize) -> Gate {
        let gates = self.groups();
        let weight = draw::normal(&mut self.rng, [gates, d_in], 0.02);
        let bias = draw::linear(&mut self.rng, [gates], d_in);
        Gate {
            weight: self.param(weight, None),
            bias: self.param(bias, None),
            fused: self.fused.clone(),
        }
    }

    pub(crate) fn gate_of(&mut self, config: &LoraConfig, d_in: usize) -> Option<Gate> {
        (config.scaling == Scaling::Gated).then(|| self.gate(d_in))
    }

    /// The frozen layer of the site.
    pub(crate) fn frozen(&self) -> Result<&'a Linear, Error> {
        let frozen = self.build.host.linear(self.site.site);
        frozen.ok_or_else(|| self.refuse("the model gives no access to this weight"))
    }

    /// The frozen weight of the site, `[d_in, d_out]`.
    pub(crate) fn frozen_weight(&self) -> Result<Tensor<2>, Error> {
        self.frozen().map(float_weight)
    }
}

/// A layer that acts at a linear layer.
pub(crate) fn linear<P: 'static>(layer: impl Module + SiteAdapter<LinearState, P> + Sync + 'static) -> SiteLayer {
    SiteLayer::Linear(Erased::new(layer))
}
