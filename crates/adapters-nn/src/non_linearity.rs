//! The activation that a configuration names, with its slope where that is learned.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};

use crate::UnknownName;
use crate::ops::Activation;

/// The name of the one activation that has a parameter.
const PRELU: &str = "prelu";

/// An activation by its published name: one of [`Activation`]'s, or `prelu`, in any letter case.
#[derive(Module, Debug)]
pub struct NonLinearity {
    /// `a` of `prelu`, `max(x, 0) + a min(x, 0)`, `[1]`; `None` for a function without parameters.
    pub slope: Option<Param<Tensor<1>>>,
    #[module(skip)]
    function: Activation,
}

impl From<Activation> for NonLinearity {
    fn from(function: Activation) -> Self {
        Self { slope: None, function }
    }
}

impl NonLinearity {
    /// The activation of that name; the slope of `prelu` begins at 0.25.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn named(name: &str, device: &Device) -> Result<Self, UnknownName> {
        let function = Self::function(name)?;
        Ok(Self {
            slope: function.is_none().then(|| Param::from_data([0.25], device)),
            function: function.unwrap_or(Activation::Linear),
        })
    }

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`UnknownName`] with the nearest known name.
    pub fn check(name: &str) -> Result<(), UnknownName> {
        Self::function(name).map(|_| ())
    }

    /// The function of that name; `None` for `prelu`, which has a parameter.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn function(name: &str) -> Result<Option<Activation>, UnknownName> {
        let lower = name.to_lowercase();
        match lower.parse() {
            Ok(function) => Ok(Some(function)),
            Err(_) if lower == PRELU => Ok(None),
            Err(_) => {
                let known = Activation::NAMES.iter().map(|(known, _)| *known).chain([PRELU]);
                Err(UnknownName::new("activation", name, known))
            }
        }
    }

    /// Applies the function element by element; any shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.slope {
            Some(slope) => activation::prelu(x, slope.val()),
            None => self.function.forward(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_name_in_any_letter_case() {
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([-2.0, 3.0], &device);
        let values = |name: &str| {
            let y = NonLinearity::named(name, &device).unwrap().forward(x.clone());
            y.into_data().iter().collect::<Vec<f32>>()
        };
        assert_eq!(values("ReLU"), [0.0, 3.0]);
        assert_eq!(values("prelu"), [-0.5, 3.0]);
        let error = NonLinearity::check("rellu").unwrap_err();
        assert_eq!(error.nearest.as_deref(), Some("relu"));
        assert!(error.known.ends_with("prelu"), "{error}");
    }
}
