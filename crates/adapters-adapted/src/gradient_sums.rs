//! The sums of the gradients of adapters over several losses.

use std::collections::HashMap;

use adapters_core::AdapterSet;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor, TensorData};

/// Of each parameter that a loss depended on.
#[derive(Default)]
pub(crate) struct GradientSums(HashMap<ParamId, Vec<f32>>);

impl GradientSums {
    /// Adds those of a loss.
    pub(crate) fn add(&mut self, set: &AdapterSet, gradients: &Gradients) {
        struct Add<'a>(&'a mut GradientSums, &'a Gradients);
        impl ModuleVisitor for Add<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let Some(gradient) = param.val().grad(self.1) else {
                    return;
                };
                let data = gradient.into_data();
                let sum = self
                    .0
                    .0
                    .entry(param.id)
                    .or_insert_with(|| vec![0.0; data.num_elements()]);
                sum.iter_mut().zip(data.iter::<f32>()).for_each(|(sum, x)| *sum += x);
            }
        }
        set.visit(&mut Add(self, gradients));
    }

    /// The adapters with the sums in place of their parameters, on their devices.
    pub(crate) fn in_place_of_parameters(mut self, set: AdapterSet) -> AdapterSet {
        set.map(&mut self)
    }
}

impl ModuleMapper for GradientSums {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.remove(&param.id) {
            Some(sum) => param.map(|old| Tensor::from_data(TensorData::new(sum, old.shape()), &old.device())),
            None => param,
        }
    }
}
