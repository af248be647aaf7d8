//! The layer: an edit of a layer's output at a few positions.

use std::borrow::Cow;

use adapters_core::{Call, Causality, NamedParams, OutputState, SiteAdapter};
use adapters_nn::{NonLinearity, ops};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::orthogonal::Projection;
use crate::positions::Span;

/// The edit at the first and at the last positions of each row.
#[derive(Module, Debug)]
pub(crate) struct ReftLayer {
    /// One unit for both ends, or one for the first positions and one for the last.
    pub(crate) units: Vec<Unit>,
    /// Positions edited at the start.
    pub(crate) prefix: usize,
    /// Positions edited at the end.
    pub(crate) suffix: usize,
}

/// `dropout(h + (f(R h + b) - W h) W)`.
#[derive(Module, Debug)]
pub struct Unit {
    /// `R`, `[r, d_model]`.
    pub(crate) source: Param<Tensor<2>>,
    /// `b`, `[r]`.
    pub(crate) bias: Param<Tensor<1>>,
    /// `f`.
    pub(crate) non_linearity: NonLinearity,
    /// `W`.
    pub(crate) projection: Projection,
    /// Whether `W h` is subtracted.
    pub(crate) subtracts: bool,
    /// Dropout probability on the edited states, in training.
    pub(crate) dropout: f64,
}

impl Unit {
    /// The edited states, `[batch, n, d_model] -> [batch, n, d_model]`.
    fn forward(&self, h: Tensor<3>, call: &Call<'_>) -> Tensor<3> {
        let weight = self.projection.weight();
        let read = ops::affine(h.clone(), self.source.val(), self.bias.val());
        let mut source = self.non_linearity.forward(read);
        if self.subtracts {
            source = source - ops::project(h.clone(), weight.clone());
        }
        call.dropout(ops::add(h, ops::project(source, weight.transpose())), self.dropout)
    }

    fn named_params(&self, index: usize) -> Vec<(Cow<'static, str>, ParamId)> {
        let at = |rest: &str| format!("units.{index}.{rest}");
        let mut params = vec![
            (at("learned_source.weight").into(), self.source.id),
            (at("learned_source.bias").into(), self.bias.id),
        ];
        let slope = self.non_linearity.slope.iter();
        params.extend(slope.map(|s| (at("non_linearity.f.weight").into(), s.id)));
        params.extend(self.projection.named_params(&at("projection")));
        params
    }
}

impl SiteAdapter<OutputState> for ReftLayer {
    /// Edits the first `prefix` and the last `suffix` positions that are not padding, from the states as they were; the
    /// edit at the end counts where both want a position. Rows shorter than that are edited as far as they go.
    ///
    /// # Panics
    ///
    /// Panics if the last axis is not the model's width.
    fn apply(&self, state: OutputState, call: &Call<'_>) -> OutputState {
        let span = Span::new(&state.hidden, state.padding.as_ref(), call.pass);
        let (prefix, suffix) = (span.at_most_all(self.prefix), span.at_most_all(self.suffix));
        let first = (prefix > 0).then(|| span.prefix(prefix, suffix));
        let last = (suffix > 0).then(|| span.suffix(suffix));
        let edits = match self.units.as_slice() {
            [both] => {
                let positions = match (first, last) {
                    (Some(first), Some(last)) => Some(first.and(last)),
                    (first, last) => first.or(last),
                };
                vec![(both, positions)]
            }
            units => units.iter().zip([first, last]).collect(),
        };
        let before = state.hidden.clone();
        let hidden = edits.into_iter().fold(state.hidden, |hidden, (unit, positions)| {
            let Some(positions) = positions else { return hidden };
            let h = positions.gather(&before);
            let change = unit.forward(h.clone(), call) - h;
            positions.add(hidden, change)
        });
        OutputState { hidden, ..state }
    }

    fn effect(&self) {}

    /// The edited positions are those of the prompt, or where it is known, of the text.
    fn causality(&self) -> Causality {
        Causality::DependsOnPrompt
    }
}

impl NamedParams for ReftLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let units = self.units.iter().enumerate();
        units.flat_map(|(index, unit)| unit.named_params(index)).collect()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        let units = self.units.iter();
        units
            .filter_map(|unit| Some(unit.projection.base.as_ref()?.id))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use adapters_core::{Pass, Role, Site, Stack};
    use adapters_nn::draw;
    use adapters_nn::ops::Activation;
    use burn::optim::{AdamWConfig, GradientsParams};
    use burn::tensor::{Bool, Device, TensorData};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const SITE: Site = Site::new(Stack::Encoder, 0, Role::LayerOutput);

    fn unit(projection: Projection, rng: &mut ChaCha8Rng, device: &Device) -> Unit {
        let [rank, d_model] = projection.original.dims();
        Unit {
            source: draw::linear_param(rng, [rank, d_model], d_model, device),
            bias: draw::linear_param(rng, [rank], d_model, device),
            non_linearity: Activation::Linear.into(),
            projection,
            subtracts: true,
            dropout: 0.0,
        }
    }

    /// Largest distance of `W W^T` from the unit matrix.
    fn distance(projection: &Projection) -> f32 {
        let weight = projection.weight().inner();
        let [rank, _] = weight.dims();
        let gram = weight.clone().matmul(weight.transpose());
        let eye = Tensor::<2>::eye(rank, &gram.device());
        (gram - eye).abs().max().into_scalar::<f32>()
    }

    #[test]
    fn rows_stay_orthonormal_over_a_thousand_steps() {
        let device = Device::flex().autodiff();
        for (rank, d_model) in [(1, 8), (3, 16), (6, 6)] {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let projection = Projection::orthonormal(&mut rng, rank, d_model, &device);
            assert!(distance(&projection) < 1e-5, "rank {rank}: {:e}", distance(&projection));
            let begin = projection.weight().inner().into_data();
            let mut layer = ReftLayer {
                units: vec![unit(projection, &mut rng, &device)],
                prefix: 2,
                suffix: 0,
            };
            let x = Tensor::<3>::from_data(draw::normal(&mut rng, [4, 3, d_model], 1.0), &device);
            let y = Tensor::<3>::from_data(draw::normal(&mut rng, [4, 3, d_model], 1.0), &device);
            // Decay would pull signs to zero.
            let mut optimizer = AdamWConfig::new().with_weight_decay(0.1).init();
            let pass = Pass::default();
            let call = Call {
                pass: &pass,
                shared: &(),
                adapter: "a",
                site: SITE,
            };
            for _ in 0..1000 {
                let (hidden, padding) = (x.clone(), None);
                let out = layer
                    .apply(
                        OutputState {
                            hidden,
                            padding,
                            carried: None,
                        },
                        &call,
                    )
                    .hidden;
                let mut gradients = (out - y.clone()).square().mean().backward();
                let gradients = GradientsParams::from_module(&mut gradients, &layer);
                layer = optimizer.step(1e-2, layer, gradients);
            }
            let projection = &layer.units[0].projection;
            let moved = projection.weight().inner().into_data();
            let change = begin.iter::<f32>().zip(moved.iter::<f32>());
            let change = change.fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(change > 0.05, "rank {rank}: the rows did not move ({change})");
            let distance = distance(projection);
            assert!(distance < 1e-5, "rank {rank} of {d_model}: {distance:e}");
        }
    }

    #[test]
    fn short_rows_one_row_left_padding_and_no_mask() {
        let device = Device::flex();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut new = || {
            let projection = Projection::orthonormal(&mut rng, 2, 4, &device);
            unit(projection, &mut rng, &device)
        };
        let layer = ReftLayer {
            units: vec![new(), new()],
            prefix: 2,
            suffix: 2,
        };
        let pass = Pass::default();
        let call = Call {
            pass: &pass,
            shared: &(),
            adapter: "a",
            site: SITE,
        };
        let text = Tensor::<3>::from_data(draw::normal(&mut rng, [1, 5, 4], 1.0), &device);
        let run = |hidden: Tensor<3>, padding: Option<Tensor<2, Bool>>| {
            layer
                .apply(
                    OutputState {
                        hidden,
                        padding,
                        carried: None,
                    },
                    &call,
                )
                .hidden
        };
        let alone = run(text.clone(), None);
        // The same row in a batch, padded on either side, is edited at the same tokens.
        let pad = Tensor::<3>::ones([1, 2, 4], &device);
        let right = Tensor::cat(vec![text.clone(), pad.clone()], 1);
        let left = Tensor::cat(vec![pad, text.clone()], 1);
        let flags: Vec<bool> = (0..14).map(|i| [5, 6, 7, 8].contains(&i)).collect();
        let padding = Tensor::<2, Bool>::from_data(TensorData::new(flags, [2, 7]), &device);
        let both = run(Tensor::cat(vec![right, left], 0), Some(padding));
        let same = |a: Tensor<3>, b: Tensor<3>| (a - b).abs().max().into_scalar::<f32>();
        let row = |i: usize| both.clone().slice_dim(0, i..i + 1);
        assert!(same(row(0).slice_dim(1, 0..5), alone.clone()) < 1e-6);
        assert!(same(row(1).slice_dim(1, 2..7), alone.clone()) < 1e-6);
        assert_eq!(same(row(1).slice_dim(1, 0..2), Tensor::ones([1, 2, 4], &device)), 0.0);
        // One position only: the edit at the end counts.
        let one = text.slice_dim(1, 0..1);
        let edited = run(one.clone(), None);
        let by_last = layer.units[1].forward(one, &call);
        assert!(same(edited, by_last) < 1e-6);
    }
}
