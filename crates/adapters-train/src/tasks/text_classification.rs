//! Classification of a text, or of a pair of texts.

use adapters_models::{Encoded, Input, Model, ModelKind};
use burn::tensor::Device;

use super::classification::Modality;
use super::context::TaskContext;
use super::task::ANY_TEXT_MODEL;
use super::text::texts;
use super::usage::Usage;
use crate::data::Record;
use crate::error::TrainError;
use crate::inputs::text_input;

/// Texts, encoded when the file is read.
#[derive(Debug)]
pub(super) struct Texts;

impl Modality for Texts {
    const NAME: &'static str = "classification";
    const PIPELINE: &'static str = "text-classification";
    const DATA: &'static str =
        "`text` and, with `data.fields.text_pair`, a second text; `label`, a class by its name or number";
    const MODELS: &'static [ModelKind] = ANY_TEXT_MODEL;
    const USAGE: Usage = Usage::Text;

    type Source = Encoded;

    fn new(_cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        Ok(Self)
    }

    fn sources(records: &[Record], cx: &TaskContext<'_>) -> Result<Vec<Encoded>, TrainError> {
        texts(records, cx)
    }

    fn input(&self, rows: &[&Encoded], model: &Model, device: &Device) -> Result<Input, TrainError> {
        Ok(text_input(rows, model, device))
    }
}
