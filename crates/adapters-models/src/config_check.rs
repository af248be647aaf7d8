//! Checks of `config.json` that every architecture makes.

use std::fmt::Display;
use std::path::Path;

use adapters_nn::ops::Activation;
use adapters_nn::{UnknownName, did_you_mean};
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::image_size::ImageSize;
use crate::model::Model;
use crate::transformer::ModelInfo;

const PADDING: &str = "pad_token_id";

/// Names of the configurations of the stacks of a model.
const STACKS: [&str; 4] = ["encoder", "decoder", "text_config", "vision_config"];

/// Names of the constants of normalizations.
const EPSILONS: [&str; 5] = [
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "norm_eps",
    "group_norm_eps",
];

/// Checks the values of a configuration file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConfigCheck<'a> {
    path: &'a Path,
}

impl<'a> ConfigCheck<'a> {
    /// Of the file at `path`.
    pub(crate) fn new(path: &'a Path) -> Self {
        Self { path }
    }

    /// An error for a value.
    pub(crate) fn refusal(&self, field: &'static str, expected: impl Into<String>, found: impl Display) -> ModelError {
        ModelError::Config {
            path: self.path.to_owned(),
            field,
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// Checks what every published configuration has in common, whatever its defaults are: constants of normalizations. A padding
    /// token of -1 means none. A checkpoint that another tool quantized is refused by the name of its kind.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] naming the field.
    pub(crate) fn published(&self, config: &mut Map<String, Value>) -> Result<(), ModelError> {
        for field in EPSILONS {
            if let Some(found) = config.get(field).filter(|found| found.is_number()) {
                let holds = found.as_f64().is_some_and(|epsilon| (0.0..=1.0).contains(&epsilon));
                self.require(holds, field, "0 to 1", found)?;
            }
        }
        if let Some(found) = config.get("quantization_config").filter(|found| found.is_object()) {
            let kind = found
                .get("quant_method")
                .and_then(Value::as_str)
                .unwrap_or("an unknown kind");
            let expected = "none: this checkpoint is quantized; name the folder of the unquantized one, and quantize while \
                            loading";
            return Err(self.refusal("quantization_config", expected, kind));
        }
        for stack in STACKS {
            if let Some(Value::Object(config)) = config.get_mut(stack) {
                self.published(config)?;
            }
        }
        if config.get(PADDING).and_then(Value::as_i64) == Some(-1) {
            config.remove(PADDING);
        }
        Ok(())
    }

    /// Special tokens of a model that was built, which are rows of its token table: whether the file has them or they are the defaults
    /// of its family.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] naming the field.
    pub(crate) fn special_tokens(&self, model: &Model) -> Result<(), ModelError> {
        let ModelInfo { pad_id, vocab_size, .. } = model.info();
        if vocab_size == 0 {
            // It reads no text.
            return Ok(());
        }
        let start = model.encoder_decoder().ok();
        let start = start.map(|model| ("decoder_start_token_id", model.start_id()));
        let expected = format!("a token id below vocab_size = {vocab_size}");
        let mut tokens = [(PADDING, pad_id)].into_iter().chain(start);
        tokens.try_for_each(|(field, id)| self.require(id < vocab_size, field, expected.as_str(), id))
    }

    /// An error unless `holds`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`]
    pub(crate) fn require(
        &self,
        holds: bool,
        field: &'static str,
        expected: impl Into<String>,
        found: impl Display,
    ) -> Result<(), ModelError> {
        match holds {
            true => Ok(()),
            false => Err(self.refusal(field, expected, found)),
        }
    }

    /// Sizes of tensors: between 1 and 2^24.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for the first that is not.
    pub(crate) fn sizes<const N: usize>(&self, fields: [(&'static str, usize); N]) -> Result<(), ModelError> {
        fields.into_iter().try_for_each(|(field, value)| {
            let holds = (1..=1 << 24).contains(&value);
            self.require(holds, field, "between 1 and 2^24", value)
        })
    }

    /// Sizes of images and of their patches: each side between 1 and 2^24, and those of a patch at most those of an image.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`]
    pub(crate) fn patches(&self, image: ImageSize, patch: ImageSize) -> Result<(), ModelError> {
        for (field, size) in [("image_size", image), ("patch_size", patch)] {
            self.sizes([(field, size.height), (field, size.width)])?;
        }
        let holds = patch.height <= image.height && patch.width <= image.width;
        self.require(holds, "patch_size", format!("at most image_size = {image}"), patch)
    }

    /// Rows and columns of the patches that learned positions are for, where the published class interpolates them as those of a
    /// square unless the image is one and has as many patches.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] where the published class fails.
    pub(crate) fn position_grid(&self, image: ImageSize, patch: ImageSize) -> Result<[usize; 2], ModelError> {
        let [rows, columns] = image / patch;
        let side = (rows * columns).isqrt();
        let (grid, expected) = match patch.is_square() {
            true => (
                (side * side == rows * columns).then_some([side, side]),
                "as many patches as a square has: positions are interpolated from those of a square",
            ),
            false => (
                image.is_square().then_some([rows, columns]),
                "equal height and width, as those of patch_size differ: positions are not interpolated then",
            ),
        };
        grid.ok_or_else(|| self.refusal("image_size", expected, image))
    }

    /// Numbers of layers: between 1 and 4096.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for the first that is not.
    pub(crate) fn layers<const N: usize>(&self, fields: [(&'static str, usize); N]) -> Result<(), ModelError> {
        fields.into_iter().try_for_each(|(field, value)| {
            let holds = (1..=1 << 12).contains(&value);
            self.require(holds, field, "between 1 and 4096", value)
        })
    }

    /// Probabilities of dropout: at least 0 and below 1.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for the first that is not.
    pub(crate) fn dropouts<const N: usize>(&self, fields: [(&'static str, f64); N]) -> Result<(), ModelError> {
        fields.into_iter().try_for_each(|(field, value)| {
            let holds = (0.0..1.0).contains(&value);
            self.require(holds, field, "at least 0 and below 1", value)
        })
    }

    /// The activation that a field names.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] with the nearest and all that are computed.
    pub(crate) fn activation(&self, field: &'static str, name: &str) -> Result<Activation, ModelError> {
        name.parse().map_err(|unknown: UnknownName| {
            let expected = format!("one of {}{}", unknown.known, did_you_mean(&unknown.nearest));
            self.refusal(field, expected, name)
        })
    }

    /// A width that is a multiple of a number of heads, both of which are above zero.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`]
    pub(crate) fn multiple(
        &self,
        (field, value): (&'static str, usize),
        (of, by): (&str, usize),
    ) -> Result<(), ModelError> {
        let expected = format!("a multiple of {of} = {by}");
        self.require(value.is_multiple_of(by), field, expected, value)
    }

    /// Switches among the `other` fields that must be off or on, where the file has them. Off are `false`, zero and `null`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for the first that is not.
    pub(crate) fn switches(
        &self,
        other: &Map<String, Value>,
        off: &[&'static str],
        on: &[&'static str],
    ) -> Result<(), ModelError> {
        let expected = off.iter().map(|field| (field, false));
        for (field, expected) in expected.chain(on.iter().map(|field| (field, true))) {
            let Some(found) = other.get(*field) else { continue };
            let is_off = found.is_null() || found == false || found.as_f64() == Some(0.0);
            self.require(is_off != expected, field, format!("`{expected}`"), found)?;
        }
        Ok(())
    }
}
