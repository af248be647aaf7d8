//! What a data file asks a model to predict.

use std::path::Path;

use adapters_models::{Model, Pretrained, TextTokenizer};
use burn::tensor::Device;

use crate::completions::{Completions, Layout, Pairs};
use crate::data::{Dataset, Fields};
use crate::error::TrainError;
use crate::evaluate::{EncodedData, targets};
use crate::masking::Masking;
use crate::recipe::{HeadKind, Part, Recipe};
use crate::task::{Batch, Input};

/// What is to be predicted, of one data file.
#[derive(Debug)]
pub(crate) enum Examples {
    /// The class, the number or the labels of each text, and how many labels there are.
    Labelled(EncodedData, usize),
    /// Tokens that are hidden, others in every pass.
    Hidden(EncodedData, Masking),
    /// What follows each prompt in its row.
    Completions(Completions),
    /// What is to be written of each prompt.
    Pairs(Pairs),
}

impl Examples {
    /// Reads a file, or a part of it, as the recipe's head needs it; `model` is of the kind that head has.
    ///
    /// # Errors
    ///
    /// Those of the data, the tokenizer and the chat template.
    pub fn read(
        recipe: &Recipe,
        path: &Path,
        part: Option<Part>,
        pretrained: &Pretrained,
        model: &Model,
        tokenizer: &TextTokenizer,
    ) -> Result<Self, TrainError> {
        let (fields, labels) = (&recipe.data.fields, &recipe.data.labels);
        // A text is its own label there; what the file says of classes is not read.
        let unlabeled = Fields {
            label: String::new(),
            ..fields.clone()
        };
        let prompts = Fields {
            text: fields.prompt.clone(),
            text_pair: Some(fields.completion.clone()),
            ..unlabeled.clone()
        };
        let data = match (recipe.head.kind, model) {
            (HeadKind::MaskedLm, _) => Dataset::read_texts(path, &unlabeled, labels),
            (kind, Model::Encoder(_)) => Dataset::read_as(kind.labels(), path, fields, labels),
            (_, Model::CausalLm(_) | Model::EncoderDecoder(_)) => Dataset::read_texts(path, &prompts, labels),
        }?;
        let data = match part {
            Some(part) => data.part(part),
            None => data,
        };
        let max_length = recipe.model.max_length;
        let layout = || Layout::new(recipe.data.template, pretrained, tokenizer);
        Ok(match model {
            Model::Encoder(encoder) => {
                let encoded = EncodedData::new(&data, tokenizer, encoder)?;
                match recipe.head.kind {
                    HeadKind::MaskedLm => {
                        let masking = Masking::new(recipe.head.mask_probability, tokenizer, encoder)?;
                        Self::Hidden(encoded, masking)
                    }
                    HeadKind::Regression => Self::Labelled(encoded, 1),
                    _ => Self::Labelled(encoded, labels.count()),
                }
            }
            Model::CausalLm(lm) => {
                let (pack, vocab) = (recipe.data.pack, lm.vocab_size());
                Self::Completions(Completions::new(&data, &layout()?, max_length, pack, vocab)?)
            }
            Model::EncoderDecoder(model) => Self::Pairs(Pairs::new(&data, &layout()?, max_length, model.vocab_size())?),
        })
    }

    /// Lengths in tokens, in the order of the file.
    pub fn lengths(&self) -> &[usize] {
        match self {
            Self::Labelled(data, _) | Self::Hidden(data, _) => &data.lengths,
            Self::Completions(data) => &data.lengths,
            Self::Pairs(data) => &data.lengths,
        }
    }

    /// The rows `indices` as `model` reads them, with what is to be said of them; `seed` hides tokens, where tokens are
    /// hidden.
    pub fn batch(&self, indices: &[usize], model: &Model, seed: u64, device: &Device) -> Batch {
        match (self, model) {
            (Self::Labelled(data, labels), Model::Encoder(encoder)) => Batch {
                input: Input::Encoder(data.input(indices, encoder.pad_id(), device)),
                places: Vec::new(),
                answers: targets(data, indices, *labels, device),
            },
            (Self::Hidden(data, masking), Model::Encoder(encoder)) => {
                let masked = masking.hide(data, indices, seed);
                let all: Vec<usize> = (0..indices.len()).collect();
                let input = masked.rows.input(&all, encoder.pad_id(), device);
                Batch::of_tokens(Input::Encoder(input), masked.places, masked.tokens, device)
            }
            (Self::Completions(data), Model::CausalLm(lm)) => data.batch(indices, lm, device),
            (Self::Pairs(data), Model::EncoderDecoder(model)) => data.batch(indices, model, device),
            _ => unreachable!("examples are read for the model they are batched for"),
        }
    }
}
