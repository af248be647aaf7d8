//! Values of parameters by their id: reading them out of a module and putting them in.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Int, Tensor, TensorData};

/// Values of all parameters of a module, by id: numbers that train, and integers, which are indices.
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

/// Replaces parameter values by id; a parameter without one keeps its own.
#[derive(Debug)]
pub struct Fill(pub HashMap<ParamId, TensorData>);

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

/// Gives every parameter of a module a fresh id.
///
/// Burn's optimizer and gradients know a parameter by its id, and a loaded or cloned module carries the ids of
/// its source: trained side by side, one would update the other.
pub fn with_fresh_ids<M: Module>(module: M) -> M {
    struct Fresh;
    impl ModuleMapper for Fresh {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (_, tensor, mapper) = param.consume();
            // A leaf of its own too: gradients are found by graph node, and a clone shares it.
            Param::from_mapped_value(ParamId::new(), tensor.detach(), mapper)
        }
        fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
            let (_, tensor, mapper) = param.consume();
            Param::from_mapped_value(ParamId::new(), tensor, mapper)
        }
    }
    module.map(&mut Fresh)
}
