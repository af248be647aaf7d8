//! Values of parameters by their id: reading them out of a module and putting them in.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Int, Tensor, TensorData};

/// Values of all parameters of a module, by id: numbers that train, and integers that only say where.
pub fn values(module: &impl Module) -> HashMap<ParamId, TensorData> {
    struct Collect(HashMap<ParamId, TensorData>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.insert(param.id, param.val().into_data());
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.0.insert(param.id, param.val().into_data());
        }
    }
    let mut collect = Collect(HashMap::new());
    module.visit(&mut collect);
    collect.0
}

/// Replaces parameter values by id.
pub(crate) struct Fill(pub(crate) HashMap<ParamId, TensorData>);

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.remove(&param.id) {
            Some(data) => param.map(|old| {
                let new = Tensor::from_data(data, (&old.device(), old.dtype()));
                new.set_require_grad(old.is_require_grad())
            }),
            None => param,
        }
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        match self.0.remove(&param.id) {
            Some(data) => param.map(|old| Tensor::from_data(data, (&old.device(), old.dtype()))),
            None => param,
        }
    }
}
