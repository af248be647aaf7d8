//! What a batch holds, and the three things training needs of a model, whichever architecture it is: its input, the hidden states
//! of a batch, and the gradients of a loss with the memory of one block.

use adapters_core::{AdapterSet, Ctx, Error};
use adapters_models::heads::Targets;
use adapters_models::{Encoded, Input, Model, Source, TextInput, ToTextInput};
use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::error::TrainError;
use crate::recompute::LossGradients;

/// A batch and its targets.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What the model reads.
    pub input: Input,
    /// Row and position of the hidden state that predicts each target token; none where a head reads rows.
    pub target_positions: Vec<(usize, usize)>,
    /// Targets; `None` where an example has none.
    pub targets: Option<Targets>,
    /// How many predictions the loss is the mean of.
    pub predictions: usize,
    /// The task of each row, for adapters that know tasks; none where the data names none.
    pub tasks: Vec<Option<usize>>,
}

impl Batch {
    /// A batch without targets.
    pub(crate) fn unlabeled(input: Input, predictions: usize) -> Self {
        Self {
            input,
            target_positions: Vec::new(),
            targets: None,
            predictions,
            tasks: Vec::new(),
        }
    }

    /// With the task of each of its examples, which have as many rows each.
    #[must_use]
    pub(crate) fn with_tasks(mut self, tasks: &[Option<usize>]) -> Self {
        let rows = match &self.input {
            Input::Text(text) => text.ids.dims()[0],
            Input::ToText(both) => both.decoder_ids.dims()[0],
            _ => tasks.len(),
        };
        let each = rows / tasks.len().max(1);
        self.tasks = tasks.iter().flat_map(|task| std::iter::repeat_n(*task, each)).collect();
        self
    }

    /// True at the padding of the texts, `[batch, seq]`; `None` when no row is padded, and of images.
    pub fn padding(&self) -> Option<Tensor<2, Bool>> {
        padding(&self.input)
    }

    /// Tokens of a text, padding included; zero for images.
    pub fn seq(&self) -> usize {
        match &self.input {
            Input::Text(text)
            | Input::ToText(ToTextInput {
                source: Source::Text(text),
                ..
            }) => text.ids.dims()[1],
            _ => 0,
        }
    }

    /// The targets.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] if an example has none.
    pub(crate) fn needed_targets(&self) -> Result<Targets, TrainError> {
        self.targets.clone().ok_or_else(|| TrainError::Value {
            field: "data",
            expected: "a target in every example".to_owned(),
            found: "one without".to_owned(),
        })
    }
}

fn padding(input: &Input) -> Option<Tensor<2, Bool>> {
    match input {
        Input::Text(text)
        | Input::ToText(ToTextInput {
            source: Source::Text(text),
            ..
        }) => text.padding.clone(),
        _ => None,
    }
}

/// Texts as the model reads them, padded on the right to the longest of them. The decoder of an encoder-decoder reads them too,
/// shifted by one position behind its start token, as for a head over a text.
pub fn text_input(rows: &[&Encoded], model: &Model, device: &Device) -> Input {
    let text = TextInput::encoded(rows, model.info().pad_id, device);
    let Ok(decoder) = model.encoder_decoder() else {
        return text.into();
    };
    let [count, seq] = text.ids.dims();
    let starts = TensorData::new(vec![decoder.start_id() as i64; count], [count, 1]);
    let starts = Tensor::<2, Int>::from_data(starts, device);
    let decoder_ids = Tensor::cat(vec![starts, text.ids.clone().slice_dim(1, 0..seq - 1)], 1);
    ToTextInput {
        source: Source::Text(text),
        decoder_ids,
    }
    .into()
}

/// The last hidden state, `[batch, positions, d_model]`; of an encoder-decoder that of its decoder. Afterwards the padding
/// and the inserted positions that `cx` knows are those of this hidden state.
///
/// # Errors
///
/// Those of [`Ctx::begin`].
pub fn hidden_states(model: &Model, input: Input, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
    let padding = padding(&input);
    let hidden = model.forward(input, cx)?;
    if model.encoder_decoder().is_ok() {
        cx.hooks().next_stack(padding);
    }
    Ok(hidden)
}

/// Gradients of `loss` with the memory of one block; see [`LossGradients::by_block`].
pub(crate) fn gradients_by_block<H: Module>(
    model: &Model,
    input: Input,
    set: &AdapterSet,
    head: &H,
    cx: &Ctx<'_>,
    loss: impl FnOnce(Tensor<3>, &mut Ctx<'_>) -> Tensor<1>,
) -> Result<LossGradients, Error> {
    let padding = padding(&input);
    let loss = |hidden, cx: &mut Ctx<'_>| {
        if model.encoder_decoder().is_ok() {
            // What adapters inserted stands in front of the encoder's text, not of the decoder's.
            cx.hooks().next_stack(padding);
        }
        loss(hidden, cx)
    };
    LossGradients::by_block(|cx| model.chain(input.clone(), cx), set, head, cx, loss)
}
