//! The invertible blocks after the embeddings: half of the features changes the other half, so it can be undone.

use std::borrow::Cow;

use adapters_core::{Call, Causality, EmbeddingState, NamedParams, SiteAdapter};
use adapters_nn::NonLinearity;
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::projection::{Dense, Init, Side};

/// A coupling block over the last axis, split into `x1` (the smaller half at odd widths) and `x2`.
#[derive(Module, Debug)]
pub(crate) struct Coupling {
    /// Reads `x2`: `F` of NICE, `s2` of GLOW.
    from_second: Subnet,
    /// Reads the new `x1`: `G` of NICE, `s1` of GLOW.
    from_first: Subnet,
    #[module(skip)]
    kind: CouplingKind,
}

/// `W2 act(W1 x + b1) + b2`.
#[derive(Module, Debug)]
struct Subnet {
    first: Dense,
    non_linearity: NonLinearity,
    second: Dense,
}

/// Which coupling an invertible block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CouplingKind {
    /// `y1 = x1 + F(x2)`, `y2 = x2 + G(y1)`. *NICE*, Dinh et al., 2014, <https://arxiv.org/abs/1410.8516>.
    Nice,
    /// `y1 = e(s(x2)) x1 + t(x2)`, `y2 = e(s(y1)) x2 + t(y1)`. *Glow*, Kingma and Dhariwal, 2018,
    /// <https://arxiv.org/abs/1807.03039>.
    Glow,
}

/// Limit of the logarithm of GLOW's factors.
const CLAMP: f64 = 5.0;

impl Subnet {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.second.forward(self.non_linearity.forward(self.first.forward(x)))
    }

    fn named_params(&self, path: &str) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = self.first.named_params(&format!("{path}.0")).to_vec();
        let slope = self.non_linearity.slope.iter();
        params.extend(slope.map(|s| (format!("{path}.1.f.weight").into(), s.id)));
        params.extend(self.second.named_params(&format!("{path}.2")));
        params
    }
}

impl Coupling {
    /// A block for `d_model` features, whose networks are narrower than their input by `factor`; weights normal with
    /// standard deviation 0.02. Each of the two networks has an activation of its own.
    pub(crate) fn new(
        kind: CouplingKind,
        factor: f64,
        d_model: usize,
        non_linearities: [NonLinearity; 2],
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Self {
        let (first, second) = (d_model / 2, d_model - d_model / 2);
        // GLOW's networks give a factor and an offset each.
        let outputs = if kind == CouplingKind::Glow { 2 } else { 1 };
        let mut subnet = |d_in: usize, d_out: usize, non_linearity: NonLinearity| {
            let width = ((d_in as f64 / factor) as usize).max(1);
            Subnet {
                first: Dense::new(d_in, width, Init::Bert, Side::Down, rng, device),
                non_linearity,
                second: Dense::new(width, d_out * outputs, Init::Bert, Side::Up, rng, device),
            }
        };
        let [reads_second, reads_first] = non_linearities;
        Self {
            from_second: subnet(second, first, reads_second),
            from_first: subnet(first, second, reads_first),
            kind,
        }
    }

    /// `[batch, seq, d_model] -> [batch, seq, d_model]`
    ///
    /// # Panics
    ///
    /// Panics if the last axis has another width than the block was built for.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (x1, x2) = halves(x);
        let y1 = self.change(x1, self.from_second.forward(x2.clone()));
        let y2 = self.change(x2, self.from_first.forward(y1.clone()));
        Tensor::cat(vec![y1, y2], 2)
    }

    /// The inverse of [`forward`](Self::forward).
    pub(crate) fn inverse(&self, y: Tensor<3>) -> Tensor<3> {
        let (y1, y2) = halves(y);
        let x2 = self.restore(y2, self.from_first.forward(y1.clone()));
        let x1 = self.restore(y1, self.from_second.forward(x2.clone()));
        Tensor::cat(vec![x1, x2], 2)
    }

    fn change(&self, x: Tensor<3>, by: Tensor<3>) -> Tensor<3> {
        match self.kind {
            CouplingKind::Nice => x + by,
            CouplingKind::Glow => {
                let (factor, offset) = factor_and_offset(by);
                x * factor + offset
            }
        }
    }

    fn restore(&self, y: Tensor<3>, by: Tensor<3>) -> Tensor<3> {
        match self.kind {
            CouplingKind::Nice => y - by,
            CouplingKind::Glow => {
                let (factor, offset) = factor_and_offset(by);
                (y - offset) / factor
            }
        }
    }
}

/// The last axis in two, the smaller half first.
fn halves(x: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let width = x.dims()[2];
    let (first, second) = (0..width / 2, width / 2..width);
    (x.clone().slice_dim(2, first), x.slice_dim(2, second))
}

/// `e(s)` and `t` of a network's output `[s, t]`, with `e(s) = exp(0.636 clamp atan(s / clamp))`.
fn factor_and_offset(both: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let (s, t) = halves(both);
    (((s / CLAMP).atan() * (CLAMP * 0.636)).exp(), t)
}

impl SiteAdapter<EmbeddingState> for Coupling {
    fn apply(&self, state: EmbeddingState, _call: &Call<'_>) -> EmbeddingState {
        EmbeddingState {
            hidden: self.forward(state.hidden),
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn undo(&self, hidden: Tensor<3>, _call: &Call<'_>) -> Tensor<3> {
        self.inverse(hidden)
    }
}

impl NamedParams for Coupling {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let (second, first) = match self.kind {
            CouplingKind::Nice => ("F", "G"),
            CouplingKind::Glow => ("s2", "s1"),
        };
        let mut params = self.from_second.named_params(second);
        params.extend(self.from_first.named_params(first));
        params
    }
}

#[cfg(test)]
mod tests {
    use adapters_nn::draw;
    use adapters_nn::ops::Activation;
    use burn::module::Param;
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_inverse_undoes_the_forward(width in 2usize..40, glow: bool, seed: u64, factor in 1.0f64..4.0) {
            let device = Device::flex();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let kind = if glow { CouplingKind::Glow } else { CouplingKind::Nice };
            let tanh = || NonLinearity::from(Activation::Tanh);
            let block = Coupling::new(kind, factor, width, [tanh(), tanh()], &mut rng, &device);
            let block = block.map(&mut Redraw(rng.clone()));
            let x = Tensor::<3>::from_data(draw::normal(&mut rng, [2, 3, width], 1.0), &device);
            let there = block.forward(x.clone());
            let changed = (there.clone() - x.clone()).abs().max().into_scalar::<f32>();
            prop_assert!(changed > 1e-3, "forward changes nothing ({changed})");
            let back = block.inverse(there);
            let error = (back - x).abs().max().into_scalar::<f32>();
            prop_assert!(error < 1e-5, "width {width}, glow {glow}: off by {error}");
        }
    }

    /// Weights large enough to matter, small enough for 32 bits.
    struct Redraw(ChaCha8Rng);

    impl burn::module::ModuleMapper for Redraw {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|old| {
                let data = draw::normal(&mut self.0, old.dims(), 0.2);
                Tensor::from_data(data, &old.device())
            })
        }
    }
}
