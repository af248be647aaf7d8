//! What an architecture implements: its pass as a chain of blocks, and what heads, generation and trainers need of its kind.

use std::borrow::Cow;
use std::fmt::Debug;

use adapters_core::{Ctx, Error, Host};
use burn::tensor::{Bool, Int, Tensor};

use crate::cache::{KeyValueCache, row_index};
use crate::chain::Chain;
use crate::input::{ImageInput, Input, Source, TextAndImageInput, TextInput, ToTextInput};
use crate::kind::ModelKind;
use crate::linear_scores::LinearScores;

/// Facts of a model that heads, tokenizers and reports need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// Number of layers, of all stacks.
    pub num_layers: usize,
    /// Longest input in positions; `None` where there is no limit.
    pub max_length: Option<usize>,
    /// Tokens in the vocabulary; zero for a model that reads none.
    pub vocab_size: usize,
    /// Id of the padding token; zero where the checkpoint has none.
    pub pad_id: usize,
    /// Token types; `None` for a model that reads none.
    pub token_types: Option<usize>,
    /// Epsilon of the normalizations of a head; 1e-12 where the configuration has no `layer_norm_eps`.
    pub head_norm_epsilon: f64,
    /// Dropout probability of a head that names none; zero where the configuration has none for it.
    pub head_dropout: f64,
    /// Published name of the activation in the feed-forward blocks.
    pub activation: String,
    /// Where checkpoints keep the head of a masked language model; `None` where none is published.
    pub masked_lm: Option<MaskedLmLayout>,
}

/// Where a published checkpoint keeps the head of its masked language model, `E norm(act(W h + b)) + c` with the word
/// embeddings `E`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedLmLayout {
    /// Path of `W` and `b`.
    pub dense: &'static str,
    /// Path of the normalization.
    pub norm: &'static str,
    /// Path of the last layer, whose weight is `E` unless `tie_word_embeddings` is switched off.
    pub decoder: &'static str,
    /// Key of `c`; `None` without it.
    pub bias: Option<&'static str>,
    /// Published name of the activation; `None` for that of the feed-forward blocks.
    pub activation: Option<Cow<'static, str>>,
    /// Whether there is `b`.
    pub dense_bias: bool,
    /// Whether the normalization has a bias.
    pub norm_bias: bool,
    /// Whether the published classes for tags and for answers have these layers below their last one, too.
    pub below_tags: bool,
}

impl MaskedLmLayout {
    /// Without paths, with all biases.
    pub const BIASED: Self = Self {
        dense: "",
        norm: "",
        decoder: "",
        bias: None,
        activation: None,
        dense_bias: true,
        norm_bias: true,
        below_tags: false,
    };
}

/// Where the published class for a class of a whole text or image (`BertForSequenceClassification` and its relatives) keeps its
/// head, and what that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifierLayout {
    /// Path of a layer before the last, of any width, and the published name of the activation behind it; `None` where there
    /// is none.
    pub hidden: Option<(&'static str, &'static str)>,
    /// Path of the last layer.
    pub last: &'static str,
    /// Whether the last layer has a bias.
    pub bias: bool,
    /// Whether it reads what the pooler makes; else the first position of an encoder of texts or images, the mean of one of sounds,
    /// and the last token of others.
    pub reads_pooler: bool,
    /// Whether it names the modules of the model with the prefix of larger classes.
    pub prefixed: bool,
}

impl ClassifierLayout {
    /// What most models of a kind have.
    pub const fn of(kind: ModelKind) -> Self {
        let plain = Self {
            hidden: None,
            last: "classifier",
            bias: true,
            reads_pooler: false,
            prefixed: true,
        };
        match kind {
            ModelKind::Encoder => Self {
                reads_pooler: true,
                ..plain
            },
            ModelKind::ImageEncoder | ModelKind::SpeechToText | ModelKind::TextAndImage => plain,
            ModelKind::SoundEncoder => Self {
                hidden: Some(("projector", "linear")),
                ..plain
            },
            ModelKind::CausalLm => Self {
                last: "score",
                bias: false,
                ..plain
            },
            ModelKind::EncoderDecoder => Self {
                hidden: Some(("classification_head.dense", "tanh")),
                last: "classification_head.out_proj",
                ..plain
            },
        }
    }
}

/// A model whose forward pass is a chain of blocks. The same chain runs as a whole, with a cache from token to token, and
/// block by block where a training step computes blocks again.
pub trait Transformer: Host + Debug + Send + Sync {
    /// What it reads.
    type Input: Clone + Into<Input> + TryFrom<Input, Error = Input>;

    /// Facts for heads, tokenizers and reports.
    fn info(&self) -> ModelInfo;

    /// Begins a pass: the embeddings, and the blocks to come. With a `cache`, `input` is what follows the columns it holds;
    /// a model that writes nothing never gets one.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics on an id outside the vocabulary, and where `seq`, with what adapters insert, is beyond the longest input.
    fn chain(
        &self,
        input: Self::Input,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Chain<'_>, Error>;

    /// The last hidden state, `[batch, seq, d_model]`, of the decoder in a model of two stacks. Adapters may make `seq` longer,
    /// and under a `Parallel` block the output has the batch once a branch, one after the other.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// As [`chain`](Self::chain).
    fn forward(&self, input: Self::Input, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        Ok(self.begin(input, None, cx)?.run(None, cx.hooks()))
    }

    /// As [`chain`](Self::chain), after the pass whose last hidden state an active router reads, where one does.
    ///
    /// # Errors
    ///
    /// As [`chain`](Self::chain).
    ///
    /// # Panics
    ///
    /// As [`chain`](Self::chain).
    fn begin(
        &self,
        input: Self::Input,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Chain<'_>, Error> {
        if let Some(mut first) = cx.base_pass() {
            let hidden = self.chain(input.clone(), None, &mut first)?.run(None, first.hooks());
            cx.with_base(hidden.detach());
        }
        self.chain(input, cache, cx)
    }

    /// The model with these of its layers in its stack, each as often as it is listed, as `layer_replication` of peft says;
    /// `None` where that is not supported.
    #[must_use]
    fn with_layers(self, _order: &[usize]) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// The model as an encoder of text, if it is one.
    fn text_encoder(&self) -> Option<&dyn TextEncoder> {
        None
    }

    /// The model as a causal language model, if it is one.
    fn causal_lm(&self) -> Option<&dyn CausalLm> {
        None
    }

    /// The model as an encoder-decoder, if it is one.
    fn encoder_decoder(&self) -> Option<&dyn EncoderDecoder> {
        None
    }

    /// The model as an encoder of images, if it is one.
    fn image_encoder(&self) -> Option<&dyn ImageEncoder> {
        None
    }

    /// The model as one of texts and images, if it is one.
    fn text_and_image(&self) -> Option<&dyn TextAndImage> {
        None
    }

    /// The model as an encoder of sound, if it is one.
    fn sound_encoder(&self) -> Option<&dyn SoundEncoder> {
        None
    }

    /// What the model's pooler makes of its hidden states, `[batch, seq, d_model] -> [batch, d_model]`; `None` for a
    /// checkpoint without one.
    fn pool(&self, _hidden: Tensor<3>, _cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        None
    }

    /// Whether the checkpoint has a pooler.
    fn has_pooler(&self) -> bool {
        false
    }

    /// Where the published class for a class of a whole text or image keeps its head; `None` for where most models of the kind
    /// have it.
    fn classifier(&self) -> Option<ClassifierLayout> {
        None
    }
}

/// Reads a text.
pub trait TextEncoder: Transformer<Input = TextInput> {}

/// Reads images.
pub trait ImageEncoder: Transformer<Input = ImageInput> {
    /// Channels, height and width of the images.
    fn image_size(&self) -> [usize; 3];
}

/// Compares texts and images: [`Transformer::forward`] returns the scores, `[images, texts, 1]`. Under a `Parallel` block each branch's
/// images are compared with each branch's texts, and the scores of one branch are a block on the diagonal.
pub trait TextAndImage: Transformer<Input = TextAndImageInput> {
    /// Channels, height and width of the images.
    fn image_size(&self) -> [usize; 3];

    /// The vectors of texts in the common space, of length one: `[texts, projection]`.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    fn text_vectors(&self, texts: TextInput, cx: &mut Ctx<'_>) -> Result<Tensor<2>, Error>;

    /// The vectors of images in the common space, of length one: `[images, projection]`.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] for images of another size; those of [`Ctx::begin`].
    fn image_vectors(&self, images: ImageInput, cx: &mut Ctx<'_>) -> Result<Tensor<2>, Error>;
}

/// Hears sounds.
pub trait SoundEncoder: Debug {
    /// The form that it reads them in.
    fn reads(&self) -> SoundForm;
}

/// The form in which a model reads sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundForm {
    /// Samples, as a [`SoundInput`](crate::SoundInput).
    Samples {
        /// Those that the shortest sound has.
        shortest: usize,
    },
    /// Spectrograms of one length, as a [`SpeechInput`](crate::SpeechInput).
    Spectrograms {
        /// Of frequencies.
        bands: usize,
        /// Of time.
        frames: usize,
    },
}

/// Continues a text.
pub trait CausalLm: Transformer<Input = TextInput> {
    /// Whether keys and values of the first `past` columns of a text stay what they are when it has grown to `all`. Where
    /// angles depend on the length of a text, a cache starts again.
    fn keeps(&self, _past: usize, _all: usize) -> bool {
        true
    }

    /// Scores of all tokens, of a hidden state `[batch, seq, d_model]`.
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    fn scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> LinearScores;

    /// Scores of all tokens as they are, `[batch, seq, d_model] -> [batch, seq, vocab]`.
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    fn logits(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Tensor<3> {
        self.scores(hidden, cx).whole()
    }

    /// The last hidden state of what follows the columns of a cache, which takes it in.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// As [`Transformer::chain`], and on a cache of another batch or model.
    fn forward_cached(
        &self,
        input: TextInput,
        cache: &mut KeyValueCache,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<3>, Error> {
        Ok(self.chain(input, Some(&mut *cache), cx)?.run(Some(cache), cx.hooks()))
    }
}

/// What a decoder reads of the encoder, once for all its steps.
#[derive(Clone, Debug)]
pub struct EncodedInput {
    /// `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// True at padding, `[batch, seq]`; `None` when there is none.
    pub padding: Option<Tensor<2, Bool>>,
}

impl EncodedInput {
    /// Each row `times` times, one copy after the other.
    pub(crate) fn each_repeated(self, times: usize) -> Self {
        let rows = self.hidden.dims()[0];
        let index: Vec<usize> = (0..rows * times).map(|row| row / times.max(1)).collect();
        let index = row_index(&index, &self.hidden.device());
        Self {
            hidden: self.hidden.select(0, index.clone()),
            // By way of integers: `select` of booleans returns a tensor of bytes in Burn 0.22.1's flex backend, which does not
            // concatenate with booleans.
            padding: self.padding.map(|padding| padding.int().select(0, index).equal_elem(1)),
        }
    }
}

/// Reads a text, or speech, and writes a text.
pub trait EncoderDecoder: Transformer<Input = ToTextInput> {
    /// Whether it reads speech.
    fn reads_speech(&self) -> bool;

    /// Id the decoder starts with.
    fn start_id(&self) -> usize;

    /// The encoder's last hidden state, `[batch, seq, d_model]`; an adapter may make `seq` longer than a text.
    ///
    /// # Errors
    ///
    /// [`Error::WrongInput`] for a source of another kind than it reads; those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics on an id outside the vocabulary.
    fn encode(&self, source: Source, cx: &mut Ctx<'_>) -> Result<EncodedInput, Error>;

    /// The decoder's pass, `[batch, decoder_seq]`. With a cache, `ids` are those that follow the positions it has seen.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics on an id outside the vocabulary, and on a cache of another batch or model.
    fn decoder_chain(
        &self,
        ids: Tensor<2, Int>,
        encoded: &EncodedInput,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Chain<'_>, Error>;

    /// The decoder's last hidden state, `[batch, decoder_seq]` to `[batch, decoder_seq, d_model]`; a cache takes it in.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// As [`decoder_chain`](Self::decoder_chain).
    fn decode(
        &self,
        ids: Tensor<2, Int>,
        encoded: &EncodedInput,
        mut cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<3>, Error> {
        let chain = self.decoder_chain(ids, encoded, cache.as_deref_mut(), cx)?;
        Ok(chain.run(cache, cx.hooks()))
    }

    /// Scores of all tokens, of the decoder's hidden state `[batch, seq, d_model]`.
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    fn scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> LinearScores;

    /// Scores of all tokens as they are, `[batch, seq, d_model] -> [batch, seq, vocab]`.
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    fn logits(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Tensor<3> {
        self.scores(hidden, cx).whole()
    }
}
