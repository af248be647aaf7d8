//! Optimizers by name with the constants of their Python counterparts, and clipping by the norm of the whole gradient.

use std::collections::{HashMap, HashSet};
use std::fmt;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdafactorConfig, AdamWConfig, GradientsParams, LionConfig, ModuleOptimizer, SgdConfig};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::device_read::values;
use crate::error::TrainError;

/// An optimizer of Burn, by its name in recipes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Optimizer {
    /// See [`adamw`].
    #[default]
    Adamw,
    /// Stochastic gradient descent, with momentum if a recipe gives one, and the weight decay added to the gradient, as PyTorch's.
    Sgd,
    /// With the learning rate of the schedule: neither relative steps nor scaled by the parameter, as the `Trainer` of transformers
    /// has it. *Adafactor: Adaptive Learning Rates with Sublinear Memory Cost*, Shazeer and Stern, 2018,
    /// <https://arxiv.org/abs/1804.04235>.
    Adafactor,
    /// With beta 0.9 and 0.99. *Symbolic Discovery of Optimization Algorithms*, Chen et al., 2023,
    /// <https://arxiv.org/abs/2302.06675>.
    Lion,
}

impl Optimizer {
    /// A new optimizer of this name; `momentum` is that of [`Optimizer::Sgd`].
    pub fn init(self, weight_decay: f64, momentum: Option<f64>) -> ModuleOptimizer {
        let decay = weight_decay as f32;
        match self {
            Self::Adamw => adamw(weight_decay),
            Self::Sgd => SgdConfig::new()
                .with_weight_decay((decay > 0.0).then(|| WeightDecayConfig::new(decay)))
                .with_momentum(momentum.map(|momentum| {
                    // Burn dampens by 0.1 unless told otherwise.
                    MomentumConfig::new().with_momentum(momentum).with_dampening(0.0)
                }))
                .init(),
            Self::Adafactor => AdafactorConfig::new()
                .with_relative_step(false)
                .with_scale_parameter(false)
                .with_weight_decay(decay)
                .init(),
            Self::Lion => LionConfig::new()
                .with_beta_1(0.9)
                .with_beta_2(0.99)
                .with_weight_decay(decay)
                .init(),
        }
    }
}

impl fmt::Display for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adamw => "adamw",
            Self::Sgd => "sgd",
            Self::Adafactor => "adafactor",
            Self::Lion => "lion",
        })
    }
}

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
///
/// # Errors
///
/// Those of reading them.
pub(crate) fn gradient_values<M: Module>(
    module: &M,
    grads: &GradientsParams,
) -> Result<HashMap<ParamId, TensorData>, TrainError> {
    let mut collect = CollectGradients {
        grads,
        found: Vec::new(),
    };
    module.visit(&mut collect);
    collect.found.into_iter().collect()
}

struct CollectGradients<'a> {
    grads: &'a GradientsParams,
    found: Vec<Result<(ParamId, TensorData), TrainError>>,
}

impl ModuleVisitor for CollectGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            self.found.push(values(grad).map(|values| (param.id, values)));
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
pub(crate) fn squared_norm<M: Module>(module: &M, grads: &GradientsParams) -> Option<Tensor<1>> {
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

    /// Two steps with a rate and a decay of PyTorch's SGD, without and with momentum 0.9, of transformers' Adafactor
    /// (`scale_parameter=False, relative_step=False`), and of Lion as its paper states it, on a matrix and a bias.
    #[test]
    fn optimizers_are_those_of_python() {
        let device = Device::flex().autodiff();
        let plain = device.clone().inner();
        for (optimizer, momentum, weight, bias) in [
            (
                Optimizer::Sgd,
                None,
                [[0.923_051f32, 0.398_900_5], [-1.970_977, -0.050_299_76]],
                [0.349_100_5f32, -0.973_051],
            ),
            (
                Optimizer::Sgd,
                Some(0.9),
                [[0.877_151, 0.488_450_5], [-1.991_677, -0.230_524_76]],
                [0.258_650_5, -0.927_151],
            ),
            (
                Optimizer::Adafactor,
                None,
                [[0.781_021_5, 0.455_727_5], [-1.907_969_1, 0.097_127_01]],
                [0.332_829_6, -0.964_371_9],
            ),
            (
                Optimizer::Lion,
                None,
                [[0.798_100_95, 0.498_900_5], [-1.995_902, 0.049_600_25]],
                [0.299_100_52, -0.998_101],
            ),
        ] {
            let mut linear = LinearConfig::new(2, 2).init(&device);
            linear.weight = Param::from_tensor(Tensor::from_data([[1.0, 0.5], [-2.0, 0.25]], &device));
            linear.bias = Some(Param::from_tensor(Tensor::from_data([0.5, -1.0], &device)));
            let mut stepped = optimizer.init(0.01, momentum);
            for (of_weight, of_bias) in [
                ([[0.5f32, -1.0], [0.25, 2.0]], [1.0f32, -0.5]),
                ([[0.25, 2.0], [-0.5, 1.0]], [0.5, 0.25]),
            ] {
                let mut grads = GradientsParams::new();
                grads.register(linear.weight.id, Tensor::<2>::from_data(of_weight, &plain));
                let id = linear.bias.as_ref().unwrap().id;
                grads.register(id, Tensor::<1>::from_data(of_bias, &plain));
                linear = stepped.step(0.1, linear, grads);
            }
            for (found, expected) in [
                (linear.weight.val().into_data(), TensorData::from(weight)),
                (linear.bias.unwrap().val().into_data(), TensorData::from(bias)),
            ] {
                found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
            }
        }
    }
}
