//! Masked language modeling: tokens that are hidden from the model.

use adapters_core::Ctx;
use adapters_models::heads::HeadConfig;
use adapters_models::{Encoded, Model, ModelKind};
use burn::tensor::{Device, Tensor};

use super::context::TaskContext;
use super::masking::Masking;
use super::task::Task;
use super::text::{TextExample, examples};
use super::tokens::{self, of_tokens};
use super::usage::Usage;
use crate::data::Record;
use crate::error::TrainError;
use crate::evaluate::{Evaluation, Outputs, Prediction};
use crate::inputs::{Batch, text_input};
use crate::metrics::Figures;
use crate::task_model::TaskModel;

/// Cross entropy of the hidden tokens; the metric is the fraction of them that is predicted right.
#[derive(Debug)]
pub(super) struct MaskedLm {
    masking: Masking,
}

impl Task for MaskedLm {
    const NAME: &'static str = "masked_lm";
    const PIPELINE: Option<&'static str> = Some("fill-mask");
    const DATA: &'static str = "`text`";
    const MODELS: &'static [ModelKind] = &[ModelKind::Encoder];
    const METRICS: &'static [&'static str] = &["accuracy", "perplexity"];
    const CHANGES: bool = true;
    const USAGE: Usage = Usage::Stacking;

    type Example = TextExample<()>;

    fn new(cx: &TaskContext<'_>) -> Result<Self, TrainError> {
        Ok(Self {
            masking: Masking::new(cx.options.mask_probability, cx.tokenizer()?, cx.model.vocab_size())?,
        })
    }

    fn head(&self) -> Option<HeadConfig> {
        Some(HeadConfig::masked_lm())
    }

    fn serves(head: &HeadConfig) -> bool {
        head.kind.name() == "masked_lm"
    }

    fn examples(
        &self,
        records: &[Record],
        _labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Vec<Self::Example>, TrainError> {
        examples(records, cx, |_| Ok(None))
    }

    fn batch(
        &self,
        examples: &[(usize, &Self::Example)],
        seed: u64,
        model: &Model,
        device: &Device,
    ) -> Result<Batch, TrainError> {
        let rows: Vec<(usize, &Encoded)> = examples.iter().map(|(index, e)| (*index, &e.source)).collect();
        let masked = self.masking.hide(&rows, seed);
        let rows: Vec<&Encoded> = masked.rows.iter().collect();
        let input = text_input(&rows, model, device);
        Ok(tokens::batch(input, masked.positions, masked.tokens, device))
    }

    of_tokens!();
}
