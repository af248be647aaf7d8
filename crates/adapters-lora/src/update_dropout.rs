//! Dropout of the updates of LyCORIS, in training: of single output features, and of an update as a whole.
//!
//! Source: LyCORIS, *Navigating Text-To-Image Customization*, Yeh et al., 2023, <https://arxiv.org/abs/2309.14859>.

use adapters_core::{Call, ConfigError};
use burn::tensor::Tensor;

/// The probabilities, and what becomes of the features that are left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpdateDropout {
    /// `rank_dropout`: of each output feature.
    pub(crate) rank: f64,
    /// Whether the features that are left are divided by their share.
    pub(crate) rescales: bool,
    /// `module_dropout`: of the whole update.
    pub(crate) module: f64,
}

impl UpdateDropout {
    /// Checks the values against their ranges.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        ConfigError::probability("rank_dropout", self.rank)?;
        ConfigError::probability("module_dropout", self.module)
    }

    /// What is left of an update, `[batch, seq, d_out]`.
    pub(crate) fn forward(&self, mut update: Tensor<3>, call: &Call<'_>) -> Tensor<3> {
        let ([_, _, d_out], device) = (update.dims(), update.device());
        if let Some(kept) = call.kept([1, 1, d_out], self.rank, &device) {
            let factors = match self.rescales {
                // Where nothing is left, nothing is divided.
                true => kept.clone() / kept.mean_dim(2).clamp_min((d_out as f64).recip()),
                false => kept,
            };
            update = update * factors;
        }
        match call.kept([1, 1, 1], self.module, &device) {
            Some(kept) => update * kept,
            None => update,
        }
    }
}
