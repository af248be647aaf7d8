//! What a model implements to be run with adapters.

use crate::error::Error;
use crate::host::Host;
use crate::pass::ctx::Ctx;

/// A model whose forward pass calls the hooks of a context, which a base with its adapters runs.
pub trait Forward: Host {
    /// What it reads.
    type Input;
    /// What it computes.
    type Output;

    /// The forward pass with the adapters of `cx`.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`], and [`Error::WrongInput`] for an input that the model does not read.
    ///
    /// # Panics
    ///
    /// May panic on an input of the wrong shape.
    fn forward(&self, input: Self::Input, cx: &mut Ctx<'_>) -> Result<Self::Output, Error>;
}
