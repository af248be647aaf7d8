//! BART, from the published configuration to the last hidden state and the scores of the vocabulary.
//!
//! Paper: *BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
//! Comprehension*, Lewis et al., 2019, <https://arxiv.org/abs/1910.13461>. Behavior follows `BartModel` and
//! `BartForConditionalGeneration` of Hugging Face transformers.

use burn::module::Param;
use serde_json::{Map, Value, json};

use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::model::Model;
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardOptions};
use crate::standard_stacks::{self, NORM_EPSILON, StacksConfig};
use crate::two_stacks::{DecoderFrame, TwoStacks};

/// Rows of the position tables in front of that of position zero.
const POSITION_OFFSET: usize = 2;

/// `config.json` of a BART checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct BartConfig {
    #[serde(flatten)]
    pub(crate) stacks: StacksConfig,
    pub(crate) max_position_embeddings: usize,
    pub(crate) classifier_dropout: f64,
    /// Whether token embeddings are multiplied by the root of their width.
    pub(crate) scale_embedding: bool,
    /// Fields not named here, of which some are refused.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    load_variant(BART, json!({}), source, device)
}

/// Loads a checkpoint of a relative, with the defaults of its published class where they are not those of BART (large).
pub(crate) fn load_variant(
    variant: Variant,
    of_variant: Value,
    source: &CheckpointFolder,
    device: &Device,
) -> Result<Model, ModelError> {
    let mut defaults = object(json!({
        "vocab_size": 50265, "max_position_embeddings": 1024, "d_model": 1024, "encoder_layers": 12,
        "encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_layers": 12, "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096, "activation_function": "gelu", "dropout": 0.1, "attention_dropout": 0.0,
        "activation_dropout": 0.0, "classifier_dropout": 0.0, "scale_embedding": false, "pad_token_id": 1,
        "decoder_start_token_id": 2,
    }));
    defaults.extend(object(of_variant));
    load_relative(source, device, defaults, |config, path, weights| {
        BartModel::build_variant(variant, config, path, weights)
    })
}

impl BartConfig {
    /// Checks the values against each other and against what is computed here.
    fn check(&self, variant: &Variant, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        let activation = self.stacks.check(&check)?;
        check.sizes([("max_position_embeddings", self.max_position_embeddings)])?;
        check.dropouts([("classifier_dropout", self.classifier_dropout)])?;
        check.switches(&self.other, variant.off, variant.on)?;
        Ok(activation)
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
    encoder_tokens: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    encoder: BartStack,
    embedding: Point<EmbeddingHook>,
    decoder_tokens: Sited<Embedding>,
    decoder: BartStack,
    lm_head: Sited<Linear>,
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
        let StacksConfig {
            d_model: d,
            vocab_size: vocab,
            pad_token_id,
            ..
        } = config.stacks;
        let outside = Location::outside(Stack::Encoder);
        let shared = weights
            .at(outside, "")
            .shared_table("shared", [vocab, d], Some(pad_token_id));
        let decoder_tokens =
            weights
                .at(Location::outside(Stack::Decoder), "decoder")
                .reads(&shared, "embed_tokens", true);
        let lm_head =
            weights
                .at_top(Location::outside(Stack::Decoder), "lm_head")
                .head(false, Some(&shared), [d, vocab]);
        let at = weights.at(outside, "encoder");
        let encoder_tokens = at.reads(&shared, "embed_tokens", true);
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "embed_tokens", d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "layernorm_embedding", d);
        let bias = "final_logits_bias";
        Ok(Self {
            shared,
            encoder_tokens,
            embedded,
            encoder: BartStack::build(&config, &variant, activation, Stack::Encoder, weights),
            embedding,
            decoder_tokens,
            decoder: BartStack::build(&config, &variant, activation, Stack::Decoder, weights),
            lm_head,
            final_logits_bias: weights.has(bias).then(|| weights.matrix(bias, 1, vocab)),
            config,
            variant,
        })
    }

    /// Rows of the table, as a stack reads them.
    fn looked_up(&self, table: &Sited<Embedding>, ids: Tensor<2, Int>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let tokens = cx.lookup(table, ids);
        match self.config.scale_embedding {
            true => tokens * (self.config.stacks.d_model as f64).sqrt(),
            false => tokens,
        }
    }
}

impl BartStack {
    fn build(c: &BartConfig, variant: &Variant, activation: Activation, stack: Stack, weights: &mut Weights) -> Self {
        let d = c.stacks.d_model;
        let options = StandardOptions {
            norm_first: variant.norm_first,
            ..c.stacks.options(stack, activation)
        };
        let layers = c.stacks.layers(&options, stack, weights);
        let mut at = weights.at(Location::outside(stack), standard_stacks::name(stack));
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
        self.config.stacks.decoder_start_token_id
    }

    fn embed(&self, TextInput { ids, padding, .. }: TextInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let tokens = self.looked_up(&self.encoder_tokens, ids, cx);
        let mut state = cx.embedding(&self.embedded, EmbeddingState::new(tokens, padding));
        state.hidden = self.encoder.embed(state.hidden, 0, cx);
        let mut state = cx.embedding(&self.embedding, state);
        state.hidden = cx.dropout(state.hidden, self.config.stacks.dropout);
        state
    }

    fn encoder_layers<'m>(&'m self, chain: Chain<'m>, _: usize, mask: Option<Tensor<4>>) -> Chain<'m> {
        self.encoder.extend(chain, [mask, None])
    }

    fn embed_decoder(&self, ids: Tensor<2, Int>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let tokens = self.looked_up(&self.decoder_tokens, ids, cx);
        let hidden = self.decoder.embed(tokens, first, cx);
        cx.dropout(hidden, self.config.stacks.dropout)
    }

    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, frame: DecoderFrame) -> Chain<'m> {
        self.decoder.extend(chain, [Some(frame.mask), frame.encoded_mask])
    }

    fn vocabulary_scores(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> LinearScores {
        let scores = LinearScores::of(&self.lm_head, hidden, cx);
        match &self.final_logits_bias {
            Some(bias) => scores.plus(bias.val().squeeze_dim(0)),
            None => scores,
        }
    }
}

impl Transformer for BartModel {
    type Input = ToTextInput;

    fn info(&self) -> ModelInfo {
        let stacks = &self.config.stacks;
        ModelInfo {
            num_layers: stacks.encoder_layers + stacks.decoder_layers,
            max_length: Some(self.config.max_position_embeddings),
            vocab_size: stacks.vocab_size,
            pad_id: stacks.pad_token_id,
            head_norm_epsilon: 1e-12,
            head_dropout: self.config.classifier_dropout,
            activation: stacks.activation_function.clone(),
            ..ModelInfo::default()
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
        self.config.stacks.d_model
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.stacks.attention_dropout
    }
}
