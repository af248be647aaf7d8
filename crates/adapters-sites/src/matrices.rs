//! Matrices that lie in one bare parameter of a checkpoint, `[count, rows, cols]`: those of experts, without a module of their own.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::site::{BareParameter, MatricesRole, SiteKind};
use crate::sited::{Adaptable, LayerMut, LayerRef, Location, Sited};

/// Matrices in one parameter.
#[derive(Module, Debug)]
pub struct Matrices {
    /// `[count, rows, cols]`, as published.
    pub weight: Param<Tensor<3>>,
}

impl Adaptable for Matrices {
    type Role = MatricesRole;

    fn kind(&self) -> SiteKind {
        let [count, rows, cols] = self.weight.lazy_shape().dims();
        SiteKind::Matrices { count, rows, cols }
    }

    fn layer(&self) -> LayerRef<'_> {
        LayerRef::Matrices(self)
    }

    fn layer_mut(&mut self) -> LayerMut<'_> {
        LayerMut::Matrices(self)
    }
}

impl Sited<Matrices> {
    /// The parameter `parameter` of the module at `path`.
    pub fn parameter(
        location: Location,
        role: MatricesRole,
        path: impl Into<String>,
        parameter: BareParameter,
        layer: Matrices,
    ) -> Self {
        let sited = Self::new(location, role, path, layer);
        let mut info = sited.info().clone();
        info.parameter = Some(parameter);
        Self::at(info, Matrices::clone(&sited))
    }
}
