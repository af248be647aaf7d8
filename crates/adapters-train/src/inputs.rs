//! The three things training needs of a model, whichever architecture it is: the hidden states of a batch, the logits of its
//! own language-model head, and the gradients of a loss with the memory of one block.

use adapters_core::{AdapterSet, Ctx};
use adapters_models::{CausalInput, Encoded, EncoderDecoderInput, EncoderInput, Model, ModelKind};
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
        let EncoderInput {
            ids,
            token_types,
            padding,
        } = EncoderInput::padded(rows, pad_id(model), device);
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

/// The kind of a model.
pub(crate) fn kind(model: &Model) -> ModelKind {
    match model {
        Model::Encoder(_) => ModelKind::Encoder,
        Model::CausalLm(_) => ModelKind::CausalLm,
        Model::EncoderDecoder(_) => ModelKind::EncoderDecoder,
    }
}

/// Id of the padding token.
pub(crate) fn pad_id(model: &Model) -> usize {
    match model {
        Model::Encoder(model) => model.pad_id(),
        Model::CausalLm(model) => model.pad_id(),
        Model::EncoderDecoder(model) => model.pad_id(),
    }
}

/// Token types the model has; `None` where it reads none.
pub(crate) fn token_types(model: &Model) -> Option<usize> {
    match model {
        Model::Encoder(model) => Some(model.token_types()),
        Model::CausalLm(_) | Model::EncoderDecoder(_) => None,
    }
}

/// The id an encoder-decoder's decoder starts with; zero for other models, which have no such token.
pub(crate) fn start_id(model: &Model) -> usize {
    match model {
        Model::EncoderDecoder(model) => model.start_id(),
        Model::Encoder(_) | Model::CausalLm(_) => 0,
    }
}

/// The last hidden state, `[batch, positions, d_model]`; of an encoder-decoder that of its decoder. Afterwards the padding
/// and the inserted positions that `cx` knows are those of this hidden state.
pub fn hidden_states(model: &Model, input: ModelInput, cx: &mut Ctx<'_>) -> Tensor<3> {
    match model {
        Model::Encoder(model) => model.forward(encoder_input(input), cx),
        Model::CausalLm(model) => model.forward(causal_input(input), cx),
        Model::EncoderDecoder(inner) => {
            let padding = input.padding.clone();
            let input = pair_input(input, start_id(model));
            let encoded = inner.encode(input.ids, input.padding, cx);
            let hidden = inner.decode(input.decoder_ids, &encoded, None, cx);
            of_decoder(padding, cx);
            hidden
        }
    }
}

/// Scores of the vocabulary by the model's own head, `[batch, seq, d_model] -> [batch, seq, vocab]`; `None` for an encoder,
/// which has none.
pub(crate) fn logits(model: &Model, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<3>> {
    match model {
        Model::Encoder(_) => None,
        Model::CausalLm(model) => Some(model.logits(hidden, cx)),
        Model::EncoderDecoder(model) => Some(model.logits(hidden, cx)),
    }
}

/// Gradients of `loss` with the memory of one block; see [`LossGradients::by_block`].
pub(crate) fn gradients_by_block<H: Module>(
    model: &Model,
    input: ModelInput,
    set: &AdapterSet,
    head: &H,
    cx: &Ctx<'_>,
    loss: impl FnOnce(Tensor<3>, &mut Ctx<'_>) -> Tensor<1>,
) -> LossGradients {
    match model {
        Model::Encoder(model) => LossGradients::by_block(model, encoder_input(input), set, head, cx, loss),
        Model::CausalLm(model) => LossGradients::by_block(model, causal_input(input), set, head, cx, loss),
        Model::EncoderDecoder(inner) => {
            let padding = input.padding.clone();
            let loss = |hidden, cx: &mut Ctx<'_>| {
                of_decoder(padding, cx);
                loss(hidden, cx)
            };
            LossGradients::by_block(inner, pair_input(input, start_id(model)), set, head, cx, loss)
        }
    }
}

/// What adapters inserted stands in front of the encoder's text: the decoder's positions are those of its own ids.
fn of_decoder(padding: Option<Tensor<2, Bool>>, cx: &mut Ctx<'_>) {
    cx.set_padding(padding);
}

fn encoder_input(input: ModelInput) -> EncoderInput {
    EncoderInput {
        ids: input.ids,
        token_types: input.token_types,
        padding: input.padding,
    }
}

fn causal_input(input: ModelInput) -> CausalInput {
    CausalInput {
        ids: input.ids,
        padding: input.padding,
    }
}

fn pair_input(input: ModelInput, start: usize) -> EncoderDecoderInput {
    let decoder_ids = input.decoder_ids.unwrap_or_else(|| {
        let [rows, seq] = input.ids.dims();
        let starts = vec![start as i64; rows];
        let starts = Tensor::<2, Int>::from_data(TensorData::new(starts, [rows, 1]), &input.ids.device());
        Tensor::cat(vec![starts, input.ids.clone().slice_dim(1, 0..seq - 1)], 1)
    });
    EncoderDecoderInput {
        ids: input.ids,
        padding: input.padding,
        decoder_ids,
    }
}
