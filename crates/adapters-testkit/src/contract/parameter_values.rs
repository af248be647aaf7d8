//! Values of parameters: drawn again, read as gradients, compared.

use std::collections::HashMap;

use adapters::nn::draw;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Every parameter drawn again from a normal distribution.
pub fn randomized<M: Module>(module: M, seed: u64) -> M {
    struct Redraw(ChaCha8Rng);
    impl ModuleMapper for Redraw {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|old| {
                let data = draw::normal(&mut self.0, old.dims(), 0.5);
                Tensor::from_data(data, (&old.device(), old.dtype())).set_require_grad(old.is_require_grad())
            })
        }
    }
    module.map(&mut Redraw(ChaCha8Rng::seed_from_u64(seed)))
}

/// Gradients of all parameters, by id; of integers, none.
pub fn gradients_of(module: &impl Module, gradients: &Gradients) -> HashMap<ParamId, Option<TensorData>> {
    struct Collect<'a>(&'a Gradients, HashMap<ParamId, Option<TensorData>>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            let gradient = value.is_autodiff().then(|| value.grad(self.0)).flatten();
            self.1.insert(param.id, gradient.map(Tensor::into_data));
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.1.insert(param.id, None);
        }
    }
    let mut collect = Collect(gradients, HashMap::new());
    module.visit(&mut collect);
    collect.1
}

/// The largest magnitude.
pub(super) fn largest(data: &TensorData) -> f64 {
    data.iter::<f64>().fold(0.0, |most: f64, x| most.max(x.abs()))
}

/// `max |got - want| / max |want|`; infinite for another shape or an element that is not finite.
pub fn relative_error(got: &TensorData, want: &TensorData) -> f64 {
    if got.shape() != want.shape() || got.iter::<f64>().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let error = got
        .iter::<f64>()
        .zip(want.iter::<f64>())
        .fold(0.0, |most: f64, (g, w)| most.max((g - w).abs()));
    error / largest(want).max(f64::MIN_POSITIVE)
}
