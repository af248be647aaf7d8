//! AdamW with PyTorch's defaults, the schedule, and clipping by the norm of the whole gradient.

use std::collections::{HashMap, HashSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Tensor, TensorData};

/// AdamW with beta 0.9 and 0.999 and epsilon 1e-8. Burn's own defaults differ in epsilon and decay, so both are set.
///
/// *Decoupled Weight Decay Regularization*, Loshchilov and Hutter, 2017, <https://arxiv.org/abs/1711.05101>.
pub fn adamw(weight_decay: f64) -> ModuleOptimizer {
    AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.999)
        .with_epsilon(1e-8)
        .with_weight_decay(weight_decay as f32)
        .init()
}

/// Factor of the learning rate at `step` (from zero) of `steps`: linear rise over `warmup` (a share of the steps, at
/// least one), then linear fall to zero.
pub fn linear_schedule(step: u64, steps: u64, warmup: f64) -> f64 {
    let warm = ((steps as f64 * warmup) as u64).max(1);
    if step < warm {
        (step + 1) as f64 / warm as f64
    } else {
        steps.saturating_sub(step) as f64 / (steps - warm.min(steps)).max(1) as f64
    }
}

/// Scales the gradients of adapters and head so that the norm over all of them is at most `max_norm`. The norm stays on the
/// device: the factor is a tensor, one where nothing is to be scaled.
pub(crate) fn clip<A: Module, B: Module>(
    a: &A,
    b: &B,
    of_a: &mut GradientsParams,
    of_b: &mut GradientsParams,
    max_norm: f64,
) {
    let norms = [squared_norm(a, of_a), squared_norm(b, of_b)];
    let Some(square) = norms.into_iter().flatten().reduce(|sum, square| sum + square) else {
        return;
    };
    let factor = ((square.sqrt() + 1e-6).recip() * max_norm).clamp_max(1.0);
    a.visit(&mut Scale {
        grads: of_a,
        factor: factor.clone(),
    });
    b.visit(&mut Scale { grads: of_b, factor });
}

/// Values of gradients, by parameter.
pub(crate) fn gradient_values<M: Module>(module: &M, grads: &GradientsParams) -> HashMap<ParamId, TensorData> {
    let mut collect = CollectGradients {
        grads,
        found: HashMap::new(),
    };
    module.visit(&mut collect);
    collect.found
}

struct CollectGradients<'a> {
    grads: &'a GradientsParams,
    found: HashMap<ParamId, TensorData>,
}

impl ModuleVisitor for CollectGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            self.found.insert(param.id, grad.into_data());
        }
    }
}

/// The gradients of the parameters in `group`, taken out of `grads`.
pub(crate) fn split<M: Module>(module: &M, grads: &mut GradientsParams, group: &HashSet<ParamId>) -> GradientsParams {
    let mut split = Split {
        from: grads,
        group,
        to: GradientsParams::new(),
    };
    module.visit(&mut split);
    split.to
}

struct Split<'a> {
    from: &'a mut GradientsParams,
    group: &'a HashSet<ParamId>,
    to: GradientsParams,
}

impl ModuleVisitor for Split<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.group.contains(&param.id)
            && let Some(grad) = self.from.remove::<D>(param.id)
        {
            self.to.register(param.id, grad);
        }
    }
}

/// The squared norm of the gradients of `module`; `None` if it has none.
fn squared_norm<M: Module>(module: &M, grads: &GradientsParams) -> Option<Tensor<1>> {
    let mut norm = SquaredNorm { grads, sum: None };
    module.visit(&mut norm);
    norm.sum
}

struct SquaredNorm<'a> {
    grads: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let square = grad.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad * self.factor.clone().unsqueeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::tensor::{Device, Tolerance};

    use super::*;

    #[test]
    fn the_schedule_rises_and_falls() {
        let at: Vec<f64> = (0..10).map(|s| linear_schedule(s, 10, 0.2)).collect();
        assert_eq!(at[0], 0.5);
        assert_eq!(at[1], 1.0);
        assert_eq!(at[2], 1.0);
        assert_eq!(at[9], 0.125);
        assert!((0..3).all(|s| linear_schedule(s, 1, 0.5).is_finite()));
    }

    #[test]
    fn clipping_scales_the_whole_gradient() {
        let device = Device::flex().autodiff();
        let (a, b) = (
            LinearConfig::new(2, 2).init(&device),
            LinearConfig::new(2, 1).init(&device),
        );
        let x = Tensor::<2>::ones([1, 2], &device) * 3.0;
        let mut grads = b.forward(a.forward(x)).sum().backward();
        let (mut of_a, mut of_b) = (
            GradientsParams::from_module(&mut grads, &a),
            GradientsParams::from_module(&mut grads, &b),
        );
        clip(&a, &b, &mut of_a, &mut of_b, 1.0);
        let squares = squared_norm(&a, &of_a).unwrap() + squared_norm(&b, &of_b).unwrap();
        let norm = squares.sqrt().into_scalar::<f32>();
        assert!((norm - 1.0).abs() < 1e-4, "{norm}");
        let before = of_a.get::<2>(a.weight.id).unwrap().into_data();
        clip(&a, &b, &mut of_a, &mut of_b, 2.0);
        assert_eq!(of_a.get::<2>(a.weight.id).unwrap().into_data(), before);
    }

    #[test]
    fn a_group_has_a_rate_of_its_own() {
        let device = Device::flex().autodiff();
        let layer = LinearConfig::new(2, 2).init(&device);
        let mut grads = layer.forward(Tensor::<2>::ones([1, 2], &device)).sum().backward();
        let mut all = GradientsParams::from_module(&mut grads, &layer);
        let group = HashSet::from([layer.weight.id]);
        let split = split(&layer, &mut all, &group);
        assert_eq!((all.len(), split.len()), (1, 1));
        assert!(split.get::<2>(layer.weight.id).is_some());
    }

    /// Two steps of PyTorch's AdamW(lr=0.1, weight_decay=0.01) on w = [1, -2] with gradients [0.5, -1] and [0.25, 2].
    #[test]
    fn adamw_is_pytorchs() {
        let device = Device::flex().autodiff();
        let mut linear = LinearConfig::new(2, 1).with_bias(false).init(&device);
        linear.weight = Param::from_tensor(Tensor::from_data([[1.0], [-2.0]], &device));
        let mut optimizer = adamw(0.01);
        for grad in [[[0.5f32], [-1.0]], [[0.25], [2.0]]] {
            let mut grads = GradientsParams::new();
            grads.register(linear.weight.id, Tensor::<2>::from_data(grad, &device.clone().inner()));
            linear = optimizer.step(0.1, linear, grads);
        }
        let expected = TensorData::from([[0.804_883_06f32], [-1.932_712_4]]);
        linear
            .weight
            .val()
            .into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    }
}
