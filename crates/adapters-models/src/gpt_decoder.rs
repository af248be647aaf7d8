//! A decoder with rotary positions and layer normalizations. What a family adds is its configuration, its layers and a few
//! names: GPT-J and GPT-NeoX.

use std::fmt::Debug;

use burn::module::ModuleDisplay;

use crate::lm_head::LmHead;
use crate::modeling::*;
use crate::packing::causal_bias;
use crate::rotary::{self, Rotary, Rotation};

/// The published names of a family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GptNames {
    /// The published `model_type`.
    pub(crate) model_type: &'static str,
    /// The published class.
    pub(crate) class_name: &'static str,
    /// Prefix of the keys of all but the head.
    pub(crate) prefix: &'static str,
    /// The table of the token embeddings.
    pub(crate) table: &'static str,
    /// The list of layers.
    pub(crate) layers: &'static str,
    /// The last normalization.
    pub(crate) norm: &'static str,
    /// The head.
    pub(crate) head: &'static str,
    /// Whether the head has a bias.
    pub(crate) head_bias: bool,
    /// Ends of the keys of old checkpoints that nothing needs.
    pub(crate) unused: &'static [&'static str],
}

/// What a configuration says of a decoder in addition to its layers.
#[derive(Clone, Debug)]
pub(crate) struct GptFacts {
    /// Width of the residual stream.
    pub(crate) d_model: usize,
    /// Epsilon of the last normalization.
    pub(crate) norm_epsilon: f64,
    /// Dropout on embeddings, in training.
    pub(crate) embedding_dropout: f64,
    /// Whether the head's weight is the table of the token embeddings.
    pub(crate) is_tied: bool,
    /// Activation of the feed-forward blocks.
    pub(crate) activation: Activation,
    /// The angles of positions.
    pub(crate) rotary: Rotary,
    /// What heads, tokenizers and reports need.
    pub(crate) info: ModelInfo,
}

/// What the layers of a pass have in common.
pub(crate) struct GptFrame {
    /// The rotation of each position.
    pub(crate) rotation: Rotation,
    /// What queries may see.
    pub(crate) mask: Tensor<4>,
}

/// A layer of a family, and its configuration.
pub(crate) trait GptLayer: Block<Frame = GptFrame> + Module + ModuleDisplay + Sites + Debug + Sync {
    /// `config.json`.
    type Config;

    /// The published names.
    const NAMES: GptNames;

    /// Checks a configuration; `path` is that of its file.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for values the family cannot have.
    fn facts(config: &Self::Config, path: &Path) -> Result<GptFacts, ModelError>;

    /// The layer at a location in the checkpoint.
    fn build(config: &Self::Config, activation: Activation, at: Scope<'_>) -> Self;
}

/// A decoder with the layers `L`.
#[derive(Module, Sites, Debug)]
pub(crate) struct GptDecoder<L: GptLayer> {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    embedding: Point<EmbeddingHook>,
    layers: Vec<L>,
    norm: Sited<LayerNorm>,
    head: LmHead,
    #[module(skip)]
    facts: GptFacts,
}

impl<L: GptLayer + 'static> FromCheckpoint for GptDecoder<L> {
    type Config = L::Config;
    const PREFIX: &'static str = L::NAMES.prefix;
    const LARGER_CLASS: bool = true;

    fn build(config: L::Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let facts = L::facts(&config, path)?;
        let (names, d, vocab) = (L::NAMES, facts.d_model, facts.info.vocab_size);
        let layers = (0..facts.info.num_layers)
            .map(|index| {
                let location = Location::layer(Stack::Decoder, index);
                let at = weights.at(location, format!("{}.{index}", names.layers));
                L::build(&config, facts.activation, at)
            })
            .collect();
        let mut at = weights.at(Location::outside(Stack::Decoder), "");
        let words = at.table(names.table, [vocab, d], None);
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, names.table, d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "", d);
        let norm = at.layer_norm(NormRole::FinalNorm, names.norm, d, facts.norm_epsilon);
        let tied = facts.is_tied.then_some(&words);
        Ok(Self {
            head: LmHead::build(names.head, names.head_bias, tied, [d, vocab], weights),
            words,
            embedded,
            embedding,
            layers,
            norm,
            facts,
        })
    }

    /// What old checkpoints have, and the table a second time.
    fn is_unused(&self, key: &str) -> bool {
        let second = self.facts.is_tied && key.strip_suffix(".weight") == Some(L::NAMES.head);
        second || L::NAMES.unused.iter().any(|end| key.ends_with(end))
    }
}

impl<L: GptLayer> Transformer for GptDecoder<L> {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        self.facts.info.clone()
    }

    fn chain(&self, input: TextInput, cache: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (begun, cx) = Begun::new(self, input, cache, cx)?;
        let Embedded {
            state, packing, past, ..
        } = begun.embed(&self.words, &self.embedded, |rows| rows, cx);
        let hidden = cx.dropout(state.hidden, self.facts.embedding_dropout);
        let EmbeddingState { hidden, padding, .. } = cx.embedding(&self.embedding, EmbeddingState { hidden, ..state });
        let ([_, seq, _], device) = (hidden.dims(), hidden.device());
        let positions = rotary::positions([seq, past], padding.as_ref(), packing.as_ref(), &device, cx);
        let frame = GptFrame {
            rotation: self.facts.rotary.at(positions, &device),
            mask: causal_bias([seq, past], None, padding.as_ref(), packing.as_ref(), &device),
        };
        let chain = Chain::new(hidden).layers(&self.layers, frame);
        Ok(chain.then(|x, cx| cx.norm(&self.norm, x)))
    }

    fn causal_lm(&self) -> Option<&dyn CausalLm> {
        Some(self)
    }
}

impl<L: GptLayer> CausalLm for GptDecoder<L> {
    fn keeps(&self, past: usize, all: usize) -> bool {
        self.facts.rotary.keeps(past, all)
    }

    fn scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> LinearScores {
        self.head.scores(hidden, cx.hooks())
    }
}

impl<L: GptLayer> Host for GptDecoder<L> {
    fn architecture(&self) -> &str {
        L::NAMES.model_type
    }

    fn class_name(&self) -> &str {
        L::NAMES.class_name
    }

    fn d_model(&self) -> usize {
        self.facts.d_model
    }

    fn base_prefix(&self) -> &str {
        L::NAMES.prefix
    }

    fn is_larger_class(&self) -> bool {
        true
    }
}
