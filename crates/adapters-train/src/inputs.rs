//! The three things training needs of a model, whichever architecture it is: the hidden states of a batch, the logits of its
//! own language-model head, and the gradients of a loss with the memory of one block.

use adapters_core::{AdapterSet, Ctx, Error};
use adapters_models::{Encoded, Input, Model, Source, TextInput, ToTextInput};
use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::recompute::LossGradients;

/// The token ids a model reads, of any kind.
#[derive(Clone, Debug)]
pub struct ModelInput {
    /// Token ids, `[batch, seq]`, padded on the right.
    pub ids: Tensor<2, Int>,
    /// Token types, `[batch, seq]`, which only encoders read; `None` for all zero.
    pub token_types: Option<Tensor<2, Int>>,
    /// True at padding, `[batch, seq]`; `None` when no row is padded.
    pub padding: Option<Tensor<2, Bool>>,
    /// Token ids of the decoder of an encoder-decoder, `[batch, decoder_seq]`; without them it reads `ids`, shifted by one
    /// position behind its start token, as for a head over a text.
    pub decoder_ids: Option<Tensor<2, Int>>,
}

impl ModelInput {
    /// Rows padded on the right to the longest of them.
    pub fn padded(rows: &[&Encoded], model: &Model, device: &Device) -> Self {
        let TextInput {
            ids,
            token_types,
            padding,
        } = TextInput::encoded(rows, model.info().pad_id, device);
        Self {
            ids,
            token_types,
            padding,
            decoder_ids: None,
        }
    }

    /// Tokens of a row, padding included.
    pub fn seq(&self) -> usize {
        self.ids.dims()[1]
    }
}

/// The last hidden state, `[batch, positions, d_model]`; of an encoder-decoder that of its decoder. Afterwards the padding
/// and the inserted positions that `cx` knows are those of this hidden state.
///
/// # Errors
///
/// Those of [`Ctx::begin`].
pub fn hidden_states(model: &Model, input: ModelInput, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
    let padding = input.padding.clone();
    let hidden = model.forward(model_input(model, input), cx)?;
    if model.encoder_decoder().is_ok() {
        cx.hooks().next_stack(padding);
    }
    Ok(hidden)
}

/// Gradients of `loss` with the memory of one block; see [`LossGradients::by_block`].
pub(crate) fn gradients_by_block<H: Module>(
    model: &Model,
    input: ModelInput,
    set: &AdapterSet,
    head: &H,
    cx: &Ctx<'_>,
    loss: impl FnOnce(Tensor<3>, &mut Ctx<'_>) -> Tensor<1>,
) -> Result<LossGradients, Error> {
    let padding = input.padding.clone();
    let loss = |hidden, cx: &mut Ctx<'_>| {
        if model.encoder_decoder().is_ok() {
            // What adapters inserted stands in front of the encoder's text, not of the decoder's.
            cx.hooks().next_stack(padding);
        }
        loss(hidden, cx)
    };
    let input = model_input(model, input);
    LossGradients::by_block(|cx| model.chain(input.clone(), cx), set, head, cx, loss)
}

/// The input of the kind the model reads.
fn model_input(model: &Model, input: ModelInput) -> Input {
    let ModelInput {
        ids,
        token_types,
        padding,
        decoder_ids,
    } = input;
    let Ok(model) = model.encoder_decoder() else {
        return Input::Text(TextInput {
            ids,
            token_types,
            padding,
        });
    };
    let decoder_ids = decoder_ids.unwrap_or_else(|| {
        let [rows, seq] = ids.dims();
        let starts = vec![model.start_id() as i64; rows];
        let starts = Tensor::<2, Int>::from_data(TensorData::new(starts, [rows, 1]), &ids.device());
        Tensor::cat(vec![starts, ids.clone().slice_dim(1, 0..seq - 1)], 1)
    });
    Input::ToText(ToTextInput {
        source: Source::Text(TextInput {
            padding,
            ..TextInput::new(ids)
        }),
        decoder_ids,
    })
}
