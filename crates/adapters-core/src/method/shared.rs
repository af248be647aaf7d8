//! Parameters an adapter has once, for its layers at many sites.

use std::borrow::Cow;

use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::method::layer::NamedParams;

/// Parameters of a whole adapter, by name. Its layers find them in [`Call::shared`](crate::Call).
///
/// Burn's optimizer updates one parameter an id, so a parameter used at several sites must live at one place.
#[derive(Module, Debug, Default)]
pub struct Shared {
    params: Vec<SharedParam>,
    #[module(skip)]
    names: Vec<Cow<'static, str>>,
    #[module(skip)]
    fixed: Vec<Cow<'static, str>>,
    /// What follows from the configuration: neither trained nor stored.
    constants: Vec<Tensor<2>>,
    #[module(skip)]
    constant_names: Vec<&'static str>,
}

/// A shared parameter of whatever rank.
#[derive(Module, Debug)]
pub enum SharedParam {
    /// A vector.
    One(Param<Tensor<1>>),
    /// A matrix.
    Two(Param<Tensor<2>>),
    /// A stack of matrices.
    Three(Param<Tensor<3>>),
}

impl SharedParam {
    fn id(&self) -> ParamId {
        match self {
            Self::One(param) => param.id,
            Self::Two(param) => param.id,
            Self::Three(param) => param.id,
        }
    }
}

impl Shared {
    /// Nothing shared.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, param: SharedParam) -> Self {
        self.names.push(name.into());
        self.params.push(param);
        self
    }

    /// The same parameters, stored and never trained.
    #[must_use]
    pub fn fixed(self) -> Self {
        Self {
            params: self.params.set_require_grad(false),
            fixed: self.names.clone(),
            names: self.names,
            ..self
        }
    }

    /// Adds a matrix that follows from the configuration: it is found as the others, and neither trained nor stored.
    #[must_use]
    pub fn with_constant(mut self, name: &'static str, matrix: Tensor<2>) -> Self {
        self.constant_names.push(name);
        self.constants.push(matrix);
        self
    }

    /// These parameters and those of another part of the adapter.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.params.extend(other.params);
        self.names.extend(other.names);
        self.fixed.extend(other.fixed);
        self.constants.extend(other.constants);
        self.constant_names.extend(other.constant_names);
        self
    }

    /// Whether any of these parameters trains.
    pub fn trains(&self) -> bool {
        self.fixed.len() < self.names.len()
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }

    /// Id of the first parameter, which tells the adapters of a set apart.
    pub(crate) fn id(&self) -> Option<ParamId> {
        self.params.first().map(SharedParam::id)
    }

    /// Whether nothing is shared.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty() && self.constants.is_empty()
    }

    /// The vector of that name.
    ///
    /// # Panics
    ///
    /// Panics if the adapter was built without it, which is a mistake of its method.
    pub fn vector(&self, name: &str) -> Tensor<1> {
        match self.get(name) {
            Some(SharedParam::One(param)) => param.val(),
            _ => panic!("the method shares no vector `{name}`"),
        }
    }

    /// The matrix of that name.
    ///
    /// # Panics
    ///
    /// As [`vector`](Self::vector).
    pub fn matrix(&self, name: &str) -> Tensor<2> {
        match self.get(name) {
            Some(SharedParam::Two(param)) => param.val(),
            _ => match self.constant_names.iter().position(|known| *known == name) {
                Some(index) => self.constants[index].clone(),
                None => panic!("the method shares no matrix `{name}`"),
            },
        }
    }

    /// The stack of matrices of that name.
    ///
    /// # Panics
    ///
    /// As [`vector`](Self::vector).
    pub fn matrices(&self, name: &str) -> Tensor<3> {
        match self.get(name) {
            Some(SharedParam::Three(param)) => param.val(),
            _ => panic!("the method shares no matrices `{name}`"),
        }
    }

    /// Whether there is a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn get(&self, name: &str) -> Option<&SharedParam> {
        let index = self.names.iter().position(|known| *known == name)?;
        self.params.get(index)
    }
}

impl NamedParams for Shared {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let ids = self.params.iter().map(SharedParam::id);
        self.names.iter().cloned().zip(ids).collect()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        let named = self.named_params().into_iter();
        named
            .filter(|(name, _)| self.fixed.contains(name))
            .map(|(_, id)| id)
            .collect()
    }
}
