//! BART, from the published configuration to the last hidden state and the scores of the vocabulary.
//!
//! Paper: *BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
//! Comprehension*, Lewis et al., 2019, <https://arxiv.org/abs/1910.13461>. Behavior follows `BartModel` and
//! `BartForConditionalGeneration` of Hugging Face transformers.

use burn::module::Param;
use serde_json::{Map, Value};

use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardOptions};
use crate::two_stacks::{DecoderFrame, TwoStacks};

/// Rows of the position tables in front of that of position zero.
const POSITION_OFFSET: usize = 2;

/// That of all norms: no configuration has another.
const NORM_EPSILON: f64 = 1e-5;

/// `config.json` of a BART checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the published names of transformers' `BartConfig`")]
pub(crate) struct BartConfig {
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) d_model: usize,
    pub(crate) encoder_layers: usize,
    pub(crate) encoder_attention_heads: usize,
    pub(crate) encoder_ffn_dim: usize,
    pub(crate) decoder_layers: usize,
    pub(crate) decoder_attention_heads: usize,
    pub(crate) decoder_ffn_dim: usize,
    pub(crate) activation_function: String,
    pub(crate) dropout: f64,
    pub(crate) attention_dropout: f64,
    pub(crate) activation_dropout: f64,
    pub(crate) classifier_dropout: f64,
    /// Whether token embeddings are multiplied by the root of their width.
    pub(crate) scale_embedding: bool,
    pub(crate) pad_token_id: usize,
    pub(crate) decoder_start_token_id: usize,
    /// Fields not named here, of which some are refused.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

impl Default for BartConfig {
    /// The defaults of the published class (BART large).
    fn default() -> Self {
        Self {
            vocab_size: 50265,
            max_position_embeddings: 1024,
            d_model: 1024,
            encoder_layers: 12,
            encoder_attention_heads: 16,
            encoder_ffn_dim: 4096,
            decoder_layers: 12,
            decoder_attention_heads: 16,
            decoder_ffn_dim: 4096,
            activation_function: "gelu".to_owned(),
            dropout: 0.1,
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            classifier_dropout: 0.0,
            scale_embedding: false,
            pad_token_id: 1,
            decoder_start_token_id: 2,
            other: Map::new(),
        }
    }
}

impl BartConfig {
    /// Checks the values against each other and against what is computed here.
    fn check(&self, variant: &Variant, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        let heads = [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ];
        check.sizes(heads)?;
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("d_model", self.d_model),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
        ])?;
        let layers = ("encoder_layers", self.encoder_layers);
        check.layers([layers, ("decoder_layers", self.decoder_layers)])?;
        for heads in heads {
            check.multiple(("d_model", self.d_model), heads)?;
        }
        check.dropouts([
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
            ("classifier_dropout", self.classifier_dropout),
        ])?;
        check.switches(&self.other, variant.off, variant.on)?;
        check.activation("activation_function", &self.activation_function)
    }
}

/// What the relatives of BART change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// The published `model_type`.
    pub(crate) model_type: &'static str,
    /// The published class.
    pub(crate) class_name: &'static str,
    /// Whether norms come before the blocks, and another one after the last layer of a stack.
    pub(crate) norm_first: bool,
    /// Fields of old configurations that a family has off.
    pub(crate) off: &'static [&'static str],
    /// Those that it has on.
    pub(crate) on: &'static [&'static str],
}

pub(crate) const BART: Variant = Variant {
    model_type: "bart",
    class_name: "BartModel",
    norm_first: false,
    off: &[
        "encoder_layerdrop",
        "decoder_layerdrop",
        "normalize_before",
        "add_final_layer_norm",
        "add_bias_logits",
        "static_position_embeddings",
        "is_decoder",
    ],
    on: &["tie_word_embeddings", "normalize_embedding"],
};

/// BART: two stacks of layers over one embedding table, which is the language-model head, too.
#[derive(Module, Sites, Debug)]
pub(crate) struct BartModel {
    shared: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    encoder: BartStack,
    embedding: Point<EmbeddingHook>,
    decoder: BartStack,
    /// `[1, vocab]`, added to the scores; `None` where the checkpoint was saved from a class without scores.
    final_logits_bias: Option<Param<Tensor<2>>>,
    #[module(skip)]
    config: BartConfig,
    #[module(skip)]
    variant: Variant,
}

#[derive(Module, Sites, Debug)]
struct BartStack {
    positions: Embedding,
    norm: Sited<LayerNorm>,
    layers: Vec<StandardLayer>,
    /// Where norms come before the blocks.
    last_norm: Option<Sited<LayerNorm>>,
}

/// Second names of the embedding table, versions in old checkpoints, and the heads of larger classes.
const UNUSED: &[&str] = &[
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
    "encoder.version",
    "decoder.version",
    "classification_head.",
    "qa_outputs.",
];

impl FromCheckpoint for BartModel {
    type Config = BartConfig;
    const PREFIX: &'static str = "model.";

    fn build(config: BartConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        Self::build_variant(BART, config, path, weights)
    }

    fn is_unused(&self, key: &str) -> bool {
        UNUSED.iter().any(|known| key.starts_with(known))
    }
}

impl BartModel {
    /// BART or a relative of it.
    pub(crate) fn build_variant(
        variant: Variant,
        config: BartConfig,
        path: &Path,
        weights: &mut Weights,
    ) -> Result<Self, ModelError> {
        let activation = config.check(&variant, path)?;
        let (d, vocab) = (config.d_model, config.vocab_size);
        let outside = Location::outside(Stack::Encoder);
        let shared = weights
            .at(outside, "")
            .table("shared", [vocab, d], Some(config.pad_token_id));
        let at = weights.at(outside, "encoder");
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "embed_tokens", d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "layernorm_embedding", d);
        let bias = "final_logits_bias";
        Ok(Self {
            shared,
            embedded,
            encoder: BartStack::build(&config, &variant, activation, Stack::Encoder, weights),
            embedding,
            decoder: BartStack::build(&config, &variant, activation, Stack::Decoder, weights),
            final_logits_bias: weights.has(bias).then(|| weights.matrix(bias, 1, vocab)),
            config,
            variant,
        })
    }

    /// Rows of the table, as both stacks read them.
    fn looked_up(&self, ids: Tensor<2, Int>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let tokens = cx.lookup(&self.shared, ids);
        match self.config.scale_embedding {
            true => tokens * (self.config.d_model as f64).sqrt(),
            false => tokens,
        }
    }
}

impl BartStack {
    fn build(c: &BartConfig, variant: &Variant, activation: Activation, stack: Stack, weights: &mut Weights) -> Self {
        let of_encoder = [c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim];
        let of_decoder = [c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim];
        let (name, first, [count, heads, d_ffn]) = match stack {
            Stack::Encoder | Stack::Image => ("encoder", 0, of_encoder),
            Stack::Decoder | Stack::Cross => ("decoder", c.encoder_layers, of_decoder),
        };
        let d = c.d_model;
        let options = StandardOptions {
            norm_first: variant.norm_first,
            norm_epsilon: NORM_EPSILON,
            dropouts: [c.dropout; 2],
            attention_dropout: c.attention_dropout,
            activation_dropout: c.activation_dropout,
            filler: c.pad_token_id,
            ..StandardOptions::of([d, heads, d_ffn], activation)
        };
        let layers = (0..count).map(|index| {
            let at = weights.at(Location::layer(stack, first + index), format!("{name}.layers.{index}"));
            StandardLayer::build(&options, at)
        });
        let layers = layers.collect();
        let mut at = weights.at(Location::outside(stack), name);
        Self {
            positions: at.embedding("embed_positions", [c.max_position_embeddings + POSITION_OFFSET, d]),
            norm: at.layer_norm(NormRole::EmbeddingNorm, "layernorm_embedding", d, NORM_EPSILON),
            layers,
            last_norm: (variant.norm_first).then(|| at.layer_norm(NormRole::FinalNorm, "layer_norm", d, NORM_EPSILON)),
        }
    }

    /// `norm(tokens + positions)`, for positions from `first` on.
    fn embed(&self, tokens: Tensor<3>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (first, seq) = (first + POSITION_OFFSET, tokens.dims()[1]);
        let positions = self.positions.weight.val().slice_dim(0, first..first + seq);
        cx.norm(&self.norm, tokens + positions.unsqueeze())
    }

    /// Continues with the layers, and the norm after them.
    fn extend<'m>(&'m self, chain: Chain<'m>, masks: [Option<Tensor<4>>; 2]) -> Chain<'m> {
        let chain = chain.layers(&self.layers, masks);
        match &self.last_norm {
            Some(norm) => chain.then(|x, cx| cx.norm(norm, x)),
            None => chain,
        }
    }
}

impl TwoStacks for BartModel {
    type Source = TextInput;

    fn decoder_start(&self) -> usize {
        self.config.decoder_start_token_id
    }

    fn embed(&self, TextInput { ids, padding, .. }: TextInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let tokens = self.looked_up(ids, cx);
        let mut state = cx.embedding(&self.embedded, EmbeddingState::new(tokens, padding));
        state.hidden = self.encoder.embed(state.hidden, 0, cx);
        let mut state = cx.embedding(&self.embedding, state);
        state.hidden = cx.dropout(state.hidden, self.config.dropout);
        state
    }

    fn encoder_layers<'m>(&'m self, chain: Chain<'m>, _: usize, mask: Option<Tensor<4>>) -> Chain<'m> {
        self.encoder.extend(chain, [mask, None])
    }

    fn embed_decoder(&self, ids: Tensor<2, Int>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let tokens = self.looked_up(ids, cx);
        let hidden = self.decoder.embed(tokens, first, cx);
        cx.dropout(hidden, self.config.dropout)
    }

    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, frame: DecoderFrame) -> Chain<'m> {
        self.decoder.extend(chain, [Some(frame.mask), frame.encoded_mask])
    }

    fn vocabulary_scores(&self, hidden: Tensor<3>, _: &mut Hooks<'_>) -> LinearScores {
        let bias = self.final_logits_bias.as_ref().map(|bias| bias.val().squeeze_dim(0));
        LinearScores::projected(hidden, self.shared.weight.val(), bias)
    }
}

impl Transformer for BartModel {
    type Input = ToTextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.encoder_layers + c.decoder_layers,
            max_length: c.max_position_embeddings,
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id,
            token_types: None,
            head_norm_epsilon: 1e-12,
            head_dropout: c.classifier_dropout,
            activation: c.activation_function.clone(),
            masked_lm: None,
        }
    }

    fn chain(&self, input: ToTextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        self.both_stacks(input, cx)
    }

    fn encoder_decoder(&self) -> Option<&dyn EncoderDecoder> {
        Some(self)
    }
}

impl Host for BartModel {
    fn architecture(&self) -> &str {
        self.variant.model_type
    }

    fn class_name(&self) -> &str {
        self.variant.class_name
    }

    fn d_model(&self) -> usize {
        self.config.d_model
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_dropout
    }
}
