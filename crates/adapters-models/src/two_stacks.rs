//! What encoder-decoders have in common: the encoder reads once, the decoder at once or step by step.

use adapters_core::{Batch, Ctx, EmbeddingState, Error, Hooks, Sequence};
use adapters_nn::ops;
use burn::tensor::{Bool, Int, Tensor};

use crate::cache::KeyValueCache;
use crate::chain::Chain;
use crate::input::{Source, ToTextInput};
use crate::linear_scores::LinearScores;
use crate::transformer::{EncodedInput, EncoderDecoder, Transformer};

/// An encoder-decoder by its two stacks. Whatever implements this is an [`EncoderDecoder`], and its
/// [`Transformer::chain`] is [`both_stacks`](Self::both_stacks).
pub trait TwoStacks: Transformer<Input = ToTextInput> + Sized {
    /// What the encoder reads.
    type Source: Batch + Into<Source> + TryFrom<Source, Error = Source>;

    /// Whether that is speech.
    const READS_SPEECH: bool = false;

    /// Whether adapters count positions in the decoder by its own rows, as in a model of two that AdapterHub's library runs one after
    /// the other, and not by the encoder's text.
    const DECODER_COUNTS_ITS_ROWS: bool = false;

    /// Id the decoder starts with.
    fn decoder_start(&self) -> usize;

    /// What enters the encoder's first layer.
    fn embed(&self, input: Self::Source, cx: &mut Hooks<'_>) -> EmbeddingState;

    /// Goes on with the encoder's layers, for `seq` positions. `mask` is what queries may see.
    fn encoder_layers<'m>(&'m self, chain: Chain<'m>, seq: usize, mask: Option<Tensor<4>>) -> Chain<'m>;

    /// What enters the decoder's first layer, `[batch, seq] -> [batch, seq, d_model]`; the first of `ids` is at position
    /// `first`.
    fn embed_decoder(&self, ids: Tensor<2, Int>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3>;

    /// Goes on with the decoder's layers.
    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, seen: DecoderFrame) -> Chain<'m>;

    /// Scores of the vocabulary, of the decoder's hidden state `[batch, seq, d_model]`.
    fn vocabulary_scores(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> LinearScores;

    /// The pass over whole sequences, through both stacks.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    fn both_stacks(&self, input: ToTextInput, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let ToTextInput { source, decoder_ids } = input;
        // The decoder's input is checked before anything is computed.
        let (_, decoder_ids) = cx.begin(self, decoder_ids)?;
        let (cx, state) = self.begin_encoder(source, cx)?;
        let padding = state.padding.clone();
        let frame = DecoderFrame::new(&decoder_ids, padding.clone(), 0, cx);
        let first = frame.first;
        let counted = padding.filter(|_| !Self::DECODER_COUNTS_ITS_ROWS);
        let chain = self.encoder_chain(state).decoding(move |cx| {
            cx.next_stack(counted.clone());
            self.embed_decoder(decoder_ids.clone(), first, cx)
        });
        Ok(self.decoder_layers(chain, frame))
    }

    /// Begins the encoder's pass.
    ///
    /// # Errors
    ///
    /// [`Error::WrongInput`] for a source of another kind; those of [`Ctx::begin`].
    fn begin_encoder<'h, 'a>(
        &self,
        source: Source,
        cx: &'h mut Ctx<'a>,
    ) -> Result<(&'h mut Hooks<'a>, EmbeddingState), Error> {
        let input = Self::Source::try_from(source).map_err(|other| Error::WrongInput {
            architecture: self.architecture().to_owned(),
            found: other.kind(),
        })?;
        let (cx, input) = cx.begin(self, input)?;
        let state = self.embed(input, cx);
        Ok((cx, state))
    }

    /// The encoder's pass.
    fn encoder_chain(&self, state: EmbeddingState) -> Chain<'_> {
        let seq = state.hidden.dims()[1];
        let mask = state.padding.map(ops::padding_bias);
        self.encoder_layers(Chain::new(state.hidden), seq, mask)
    }
}

/// What the layers of a decoder read in a pass.
#[derive(Clone, Debug)]
pub struct DecoderFrame {
    /// Positions of this pass.
    pub seq: usize,
    /// The position of the first of them, what adapters count in front of it included.
    pub first: usize,
    /// What queries may see of the decoder's own positions.
    pub mask: Tensor<4>,
    /// What queries may see of the encoder's output.
    pub encoded_mask: Option<Tensor<4>>,
}

impl DecoderFrame {
    /// For `ids` behind `past` others.
    fn new(ids: &Tensor<2, Int>, encoder_padding: Option<Tensor<2, Bool>>, past: usize, cx: &Hooks<'_>) -> Self {
        let seq = ids.dims()[1];
        Self {
            seq,
            first: past + cx.first_position(),
            mask: ops::causal_bias(seq, past, None, None, &ids.device()),
            encoded_mask: encoder_padding.map(ops::padding_bias),
        }
    }
}

impl<M: TwoStacks> EncoderDecoder for M {
    fn reads_speech(&self) -> bool {
        M::READS_SPEECH
    }

    fn start_id(&self) -> usize {
        self.decoder_start()
    }

    fn encode(&self, source: Source, cx: &mut Ctx<'_>) -> Result<EncodedInput, Error> {
        let (cx, state) = self.begin_encoder(source, cx)?;
        let padding = state.padding.clone();
        let hidden = self.encoder_chain(state).run(None, cx);
        Ok(EncodedInput { hidden, padding })
    }

    fn decoder_chain(
        &self,
        ids: Tensor<2, Int>,
        encoded: &EncodedInput,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Chain<'_>, Error> {
        let past = cache.map_or(0, |cache| {
            cache.read(&ids, None);
            cache.columns()
        });
        let counted = encoded.padding.clone().filter(|_| !M::DECODER_COUNTS_ITS_ROWS);
        let (cx, DecoderInput { ids, .. }) = cx.begin(self, DecoderInput { ids, counted, past })?;
        let frame = DecoderFrame::new(&ids, encoded.padding.clone(), past, cx);
        let hidden = self.embed_decoder(ids, frame.first, cx);
        Ok(self.decoder_layers(Chain::reading(hidden, encoded.hidden.clone()), frame))
    }

    fn scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> LinearScores {
        self.vocabulary_scores(hidden, cx.hooks())
    }
}

/// What the decoder reads in a step.
struct DecoderInput {
    ids: Tensor<2, Int>,
    /// The padding of the text by which adapters count positions, as in the reference: the encoder's, if any.
    counted: Option<Tensor<2, Bool>>,
    past: usize,
}

impl Batch for DecoderInput {
    fn size(&self) -> [usize; 2] {
        self.ids.dims()
    }

    /// The encoder's output is repeated already.
    fn repeated(self, times: usize) -> Self {
        Self {
            ids: self.ids.repeat_dim(0, times),
            ..self
        }
    }

    fn sequence(&mut self) -> Sequence {
        Sequence {
            padding: self.counted.clone(),
            past: self.past,
            tokens: Some(self.ids.clone()),
            earlier: None,
        }
    }
}
