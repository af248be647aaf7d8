//! Every encoder-decoder behind one type. A new one adds a variant here and a name in [`SUPPORTED`](crate::SUPPORTED).

use adapters_core::{Batch, Ctx, Error, Host, NormWeight, Sequence, Site, SiteInfo};
use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Bool, Int, Tensor};

use crate::cache::KeyValueCache;
use crate::host::host_of;
use crate::staged::{Blocks, Staged};
use crate::t5::T5Model;

/// A pretrained encoder-decoder with its language-model head.
///
/// The variant names never reach a file: a base is not recorded, and its keys are the published paths.
#[derive(Module, Debug)]
pub enum EncoderDecoder {
    /// T5 and its gated form.
    T5(T5Model),
}

/// What an encoder-decoder reads.
#[derive(Clone, Debug)]
pub struct EncoderDecoderInput {
    /// Token ids of the encoder, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// True at padding of the encoder, `[batch, seq]`; `None` when no row is padded.
    pub padding: Option<Tensor<2, Bool>>,
    /// Token ids of the decoder, `[batch, decoder_seq]`, from its start token on. Padded on the right, where no earlier
    /// position sees it.
    pub decoder_ids: Tensor<2, Int>,
}

/// What the decoder reads of the encoder, once for all its steps.
#[derive(Clone, Debug)]
pub struct EncodedInput {
    /// `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// True at padding, `[batch, seq]`; `None` when there is none.
    pub padding: Option<Tensor<2, Bool>>,
}

/// What the decoder reads. Adapters count positions by the encoder's text, as in the reference.
pub(crate) struct DecoderInput<'e> {
    pub(crate) ids: Tensor<2, Int>,
    /// Of a batch that was repeated already.
    pub(crate) encoded: &'e EncodedInput,
    pub(crate) past: usize,
}

impl Batch for DecoderInput<'_> {
    fn size(&self) -> [usize; 2] {
        self.ids.dims()
    }

    fn repeated(self, times: usize) -> Self {
        Self {
            ids: self.ids.repeat_dim(0, times),
            ..self
        }
    }

    fn sequence(&mut self) -> Sequence {
        Sequence {
            padding: self.encoded.padding.clone(),
            past: self.past,
        }
    }
}

/// What a decoder keeps from one step to the next: keys and values of its own positions, and those of the encoder's output,
/// which never change.
#[derive(Clone, Debug, Default)]
pub struct DecoderCache {
    pub(crate) own: KeyValueCache,
    across: Vec<(Tensor<4>, Tensor<4>)>,
}

impl DecoderCache {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Positions seen.
    pub fn columns(&self) -> usize {
        self.own.columns()
    }

    /// Keys and values of the encoder's output in a layer, computed in the first step. Layers come in order.
    pub(crate) fn across(
        &mut self,
        layer: usize,
        compute: impl FnOnce() -> (Tensor<4>, Tensor<4>),
    ) -> (Tensor<4>, Tensor<4>) {
        if let Some(kept) = self.across.get(layer) {
            return kept.clone();
        }
        let computed = compute();
        self.across.push(computed.clone());
        computed
    }
}

/// Runs the same expression on whichever architecture it is.
macro_rules! each {
    ($model:expr, $inner:ident => $body:expr) => {
        match $model {
            EncoderDecoder::T5($inner) => $body,
        }
    };
}

impl Blocks for EncoderDecoder {
    type Input = EncoderDecoderInput;

    fn staged(&self, input: EncoderDecoderInput, cx: &mut Ctx<'_>) -> Result<Staged<'_>, Error> {
        each!(self, model => model.staged(input, cx))
    }
}

impl EncoderDecoder {
    /// Scores of the vocabulary at every position of the decoder.
    ///
    /// # Shapes
    ///
    /// `[batch, seq]` and `[batch, decoder_seq]` to `[batch, decoder_seq, vocab]`
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics on an id outside the vocabulary.
    pub fn forward(&self, input: EncoderDecoderInput, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        let encoded = self.encode(input.ids, input.padding, cx)?;
        let hidden = self.decode(input.decoder_ids, &encoded, None, cx)?;
        Ok(self.logits(hidden, cx))
    }

    /// The encoder's last hidden state, `[batch, seq]` to `[batch, seq, d_model]`; an adapter may make `seq` longer.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics on an id outside the vocabulary.
    pub fn encode(
        &self,
        ids: Tensor<2, Int>,
        padding: Option<Tensor<2, Bool>>,
        cx: &mut Ctx<'_>,
    ) -> Result<EncodedInput, Error> {
        each!(self, model => model.encode(ids, padding, cx))
    }

    /// The decoder's last hidden state, `[batch, decoder_seq]` to `[batch, decoder_seq, d_model]`. With a cache, `ids` are
    /// those that follow the positions it has seen, and it takes them in.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics on an id outside the vocabulary, and on a cache of another batch or model.
    pub fn decode(
        &self,
        ids: Tensor<2, Int>,
        encoded: &EncodedInput,
        cache: Option<&mut DecoderCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<3>, Error> {
        each!(self, model => model.decode(ids, encoded, cache, cx))
    }

    /// Scores of the vocabulary, `[batch, seq, d_model]` to `[batch, seq, vocab]`.
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    pub fn logits(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Tensor<3> {
        each!(self, model => model.logits(hidden, cx))
    }

    /// Longest input in tokens; no limit where positions are distances.
    pub fn max_length(&self) -> usize {
        match self {
            Self::T5(_) => usize::MAX,
        }
    }

    /// Id of the padding token.
    pub fn pad_id(&self) -> usize {
        each!(self, model => model.config().pad_token_id)
    }

    /// Id the decoder starts with.
    pub fn start_id(&self) -> usize {
        each!(self, model => model.config().decoder_start_token_id)
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        each!(self, model => model.config().vocab_size)
    }

    /// Number of layers, of both stacks.
    pub fn num_layers(&self) -> usize {
        each!(self, model => model.config().num_layers + model.config().decoder_layers())
    }
}

host_of!(EncoderDecoder, each);
