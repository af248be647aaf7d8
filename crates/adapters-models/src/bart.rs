//! BART, from the published configuration to the last hidden state and the scores of the vocabulary.
//!
//! Paper: *BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
//! Comprehension*, Lewis et al., 2019, <https://arxiv.org/abs/1910.13461>. Behavior follows `BartModel` and
//! `BartForConditionalGeneration` of Hugging Face transformers.

use burn::module::Param;
use serde_json::{Map, Value};

use crate::attention::ProjectedAttention;
use crate::input::TextToTextInput;
use crate::modeling::*;
use crate::transformer::EncoderDecoder;
use crate::two_stacks::{DecoderFrame, TwoStacks};

/// Rows of the position tables in front of that of position zero.
const POSITION_OFFSET: usize = 2;

/// That of all norms: no configuration has another.
const NORM_EPSILON: f64 = 1e-5;

/// `config.json` of a BART checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The published names of transformers' `BartConfig`.
pub struct BartConfig {
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub d_model: usize,
    pub encoder_layers: usize,
    pub encoder_attention_heads: usize,
    pub encoder_ffn_dim: usize,
    pub decoder_layers: usize,
    pub decoder_attention_heads: usize,
    pub decoder_ffn_dim: usize,
    pub activation_function: String,
    pub dropout: f64,
    pub attention_dropout: f64,
    pub activation_dropout: f64,
    pub classifier_dropout: f64,
    /// Whether token embeddings are multiplied by the root of their width.
    pub scale_embedding: bool,
    pub pad_token_id: usize,
    pub decoder_start_token_id: usize,
    /// Fields not named here, of which some are refused.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What only relatives of BART switch on, and what all of BART is.
const OFF: &[&str] = &[
    "encoder_layerdrop",
    "decoder_layerdrop",
    "normalize_before",
    "add_final_layer_norm",
    "add_bias_logits",
    "static_position_embeddings",
    "is_decoder",
];
const ON: &[&str] = &["tie_word_embeddings", "normalize_embedding"];

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
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
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
        check.switches(&self.other, OFF, ON)?;
        Ok(self.activation_function.parse()?)
    }
}

/// BART: two stacks of layers over one embedding table, which is the language-model head, too.
#[derive(Module, Sites, Debug)]
pub struct BartModel {
    shared: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    encoder: BartStack,
    embedding: Point<EmbeddingHook>,
    decoder: BartStack,
    /// `[1, vocab]`, added to the scores; `None` where the checkpoint was saved from a class without scores.
    final_logits_bias: Option<Param<Tensor<2>>>,
    #[module(skip)]
    config: BartConfig,
}

#[derive(Module, Sites, Debug)]
struct BartStack {
    positions: Embedding,
    norm: Sited<LayerNorm>,
    layers: Vec<BartLayer>,
}

#[derive(Module, Sites, Debug)]
struct BartLayer {
    attention: BartAttention,
    /// In the decoder.
    cross: Option<BartAttention>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    ffn_norm: Sited<LayerNorm>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    dropout: f64,
    activation_dropout: f64,
    #[module(skip)]
    activation: Activation,
}

/// An attention, and the norm after its residual connection.
#[derive(Module, Sites, Debug)]
struct BartAttention {
    attention: ProjectedAttention,
    norm: Sited<LayerNorm>,
    after: Point<ResidualHook>,
    dropout: f64,
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
        let activation = config.check(path)?;
        let (d, vocab) = (config.d_model, config.vocab_size);
        let outside = Location::outside(Stack::Encoder);
        let shared = weights
            .at(outside, "")
            .table("shared", [vocab, d], Some(config.pad_token_id));
        let at = weights.at(outside, "encoder");
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "embed_tokens", d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "", d);
        let bias = "final_logits_bias";
        Ok(Self {
            shared,
            embedded,
            encoder: BartStack::build(&config, activation, Stack::Encoder, weights),
            embedding,
            decoder: BartStack::build(&config, activation, Stack::Decoder, weights),
            final_logits_bias: weights.has(bias).then(|| weights.matrix(bias, 1, vocab)),
            config,
        })
    }

    fn is_unused(&self, key: &str) -> bool {
        UNUSED.iter().any(|known| key.starts_with(known))
    }
}

impl BartStack {
    fn build(config: &BartConfig, activation: Activation, stack: Stack, weights: &mut Weights) -> Self {
        let (name, first, count) = match stack {
            Stack::Encoder => ("encoder", 0, config.encoder_layers),
            Stack::Decoder | Stack::Cross => ("decoder", config.encoder_layers, config.decoder_layers),
        };
        let layers = (0..count).map(|index| {
            let at = weights.at(Location::layer(stack, first + index), format!("{name}.layers.{index}"));
            BartLayer::build(config, activation, stack, at)
        });
        let layers = layers.collect();
        let mut at = weights.at(Location::outside(stack), name);
        let rows = config.max_position_embeddings + POSITION_OFFSET;
        Self {
            positions: at.embedding("embed_positions", [rows, config.d_model]),
            norm: at.layer_norm(
                NormRole::EmbeddingNorm,
                "layernorm_embedding",
                config.d_model,
                NORM_EPSILON,
            ),
            layers,
        }
    }

    /// `norm(tokens + positions)`, for positions from `first` on.
    fn embed(&self, tokens: Tensor<3>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (first, seq) = (first + POSITION_OFFSET, tokens.dims()[1]);
        let positions = self.positions.weight.val().slice_dim(0, first..first + seq);
        cx.norm(&self.norm, tokens + positions.unsqueeze())
    }
}

impl BartLayer {
    fn build(config: &BartConfig, activation: Activation, stack: Stack, mut at: Scope<'_>) -> Self {
        let d = config.d_model;
        let (ffn, heads) = match stack {
            Stack::Encoder => (config.encoder_ffn_dim, config.encoder_attention_heads),
            Stack::Decoder | Stack::Cross => (config.decoder_ffn_dim, config.decoder_attention_heads),
        };
        Self {
            attention: BartAttention::build(config, heads, stack, &mut at),
            cross: (stack == Stack::Decoder).then(|| BartAttention::build(config, heads, Stack::Cross, &mut at)),
            up: at.linear(LinearRole::FfnUp, "fc1", [d, ffn]),
            down: at.linear(LinearRole::FfnDown, "fc2", [ffn, d]),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, "final_layer_norm", d, NORM_EPSILON),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
            output: at.layer_output(d),
            dropout: config.dropout,
            activation_dropout: config.activation_dropout,
            activation,
        }
    }
}

impl BartAttention {
    /// That of the layer at `at` over itself, or over the encoder's output.
    fn build(config: &BartConfig, heads: usize, stack: Stack, at: &mut Scope<'_>) -> Self {
        let d = config.d_model;
        let (name, after, path) = match stack {
            Stack::Cross => (
                "encoder_attn",
                ResidualRole::AfterCrossAttention,
                "cross_attention_adapters",
            ),
            Stack::Encoder | Stack::Decoder => ("self_attn", ResidualRole::AfterAttention, "attention_adapters"),
        };
        // AdapterHub's name: the published checkpoint has no module there.
        let after = at.residual(after, path, d);
        let location = Location { stack, ..at.location() };
        let norm = format!("{name}_layer_norm");
        let names = ["q_proj", "k_proj", "v_proj", "out_proj"];
        let options = AttentionOptions::new(d / heads, config.attention_dropout, config.pad_token_id);
        let mut inside = at.within_at(location, name);
        Self {
            attention: ProjectedAttention::build(names, true, [d, heads], options, &mut inside),
            norm: at
                .within_at(location, "")
                .layer_norm(NormRole::AttentionNorm, &norm, d, NORM_EPSILON),
            after,
            dropout: config.dropout,
        }
    }

    /// Attention over the layer's own positions, or those of `slot.encoded`, and the residual connection.
    fn forward(&self, x: Tensor<3>, mask: &Option<Tensor<4>>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let attended = self.attention.forward(x.clone(), mask.clone(), slot, |state| state, cx);
        let attended = cx.dropout(attended, self.dropout);
        cx.residual(&self.after, attended, x, Some(&self.norm))
    }
}

impl Block for BartLayer {
    /// What queries may see of their own stack, and of the encoder's output.
    type Frame = [Option<Tensor<4>>; 2];

    fn forward(&self, x: Tensor<3>, [own, encoded]: &Self::Frame, mut slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let mut x = self.attention.forward(x, own, slot.own(), cx);
        if let Some(cross) = &self.cross {
            x = cross.forward(x, encoded, slot, cx);
        }
        let up = self.activation.forward(cx.linear(&self.up, x.clone()));
        let up = cx.dropout(up, self.activation_dropout);
        let down = cx.linear(&self.down, up);
        let down = cx.dropout(down, self.dropout);
        let x = cx.residual(&self.after_ffn, down, x, Some(&self.ffn_norm));
        cx.output(&self.output, x)
    }
}

impl BartModel {
    fn looked_up(&self, ids: Tensor<2, Int>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let tokens = cx.lookup(&self.shared, ids);
        match self.config.scale_embedding {
            true => tokens * (self.config.d_model as f64).sqrt(),
            false => tokens,
        }
    }
}

impl TwoStacks for BartModel {
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
        chain.layers(&self.encoder.layers, [mask, None])
    }

    fn embed_decoder(&self, ids: Tensor<2, Int>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let tokens = self.looked_up(ids, cx);
        let hidden = self.decoder.embed(tokens, first, cx);
        cx.dropout(hidden, self.config.dropout)
    }

    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, frame: DecoderFrame) -> Chain<'m> {
        chain.layers(&self.decoder.layers, [Some(frame.mask), frame.encoded_mask])
    }

    fn vocabulary_scores(&self, hidden: Tensor<3>, _: &mut Hooks<'_>) -> Tensor<3> {
        let scores = ops::project(hidden, self.shared.weight.val());
        match &self.final_logits_bias {
            Some(bias) => scores + bias.val().unsqueeze(),
            None => scores,
        }
    }
}

impl Transformer for BartModel {
    type Input = TextToTextInput;

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

    fn chain(
        &self,
        input: TextToTextInput,
        _: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Chain<'_>, Error> {
        self.both_stacks(input, cx)
    }

    fn encoder_decoder(&self) -> Option<&dyn EncoderDecoder> {
        Some(self)
    }
}

impl Host for BartModel {
    fn architecture(&self) -> &str {
        "bart"
    }

    fn class_name(&self) -> &str {
        "BartModel"
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
