//! OPT, from the published configuration to the logits.
//!
//! Paper: *OPT: Open Pre-trained Transformer Language Models*, Zhang et al., 2022, <https://arxiv.org/abs/2205.01068>.
//! Behavior follows `OPTForCausalLM` of Hugging Face transformers.

use crate::lm_head::LmHead;
use crate::modeling::*;
use crate::packing::causal_bias;
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};

/// `config.json` of an OPT checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct OptConfig {
    /// Tokens in the vocabulary.
    pub(crate) vocab_size: usize,
    /// Longest input in tokens.
    pub(crate) max_position_embeddings: usize,
    /// Width of the residual stream.
    pub(crate) hidden_size: usize,
    /// Width of the token table; the same without it.
    pub(crate) word_embed_proj_dim: Option<usize>,
    /// Layers.
    pub(crate) num_hidden_layers: usize,
    /// Attention heads.
    pub(crate) num_attention_heads: usize,
    /// Width of the feed-forward block.
    pub(crate) ffn_dim: usize,
    /// Activation of the feed-forward block.
    pub(crate) activation_function: String,
    /// Whether blocks are normalized before and not behind.
    pub(crate) do_layer_norm_before: bool,
    /// Whether the normalization after the last layer is left out.
    #[serde(rename = "_remove_final_layer_norm")]
    pub(crate) remove_final_layer_norm: bool,
    /// Biases of the linear layers.
    pub(crate) enable_bias: bool,
    /// Whether normalizations have weights; without them nothing is computed.
    pub(crate) layer_norm_elementwise_affine: bool,
    /// Dropout on block outputs, in training.
    pub(crate) dropout: f64,
    /// Dropout on attention weights, in training.
    pub(crate) attention_dropout: f64,
    /// Probability that a batch skips a layer, in training.
    pub(crate) layerdrop: f64,
    /// Whether the language-model head is the table of the token embeddings.
    pub(crate) tie_word_embeddings: bool,
    /// Id of the padding token.
    pub(crate) pad_token_id: Option<usize>,
}

impl Default for OptConfig {
    /// The defaults of the published class (OPT-125M).
    fn default() -> Self {
        Self {
            vocab_size: 50272,
            max_position_embeddings: 2048,
            hidden_size: 768,
            word_embed_proj_dim: None,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            ffn_dim: 3072,
            activation_function: "relu".to_owned(),
            do_layer_norm_before: true,
            remove_final_layer_norm: false,
            enable_bias: true,
            layer_norm_elementwise_affine: true,
            dropout: 0.1,
            attention_dropout: 0.0,
            layerdrop: 0.0,
            tie_word_embeddings: true,
            pad_token_id: Some(1),
        }
    }
}

/// Epsilon of the normalizations.
const EPSILON: f64 = 1e-5;

/// Rows of the position table in front of that of the first token.
const OFFSET: usize = 2;

impl OptConfig {
    fn table_width(&self) -> usize {
        self.word_embed_proj_dim.unwrap_or(self.hidden_size)
    }

    /// Checks the values against each other and against what is computed here; returns what the layers have in common.
    fn check(&self, path: &Path) -> Result<StandardOptions, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("hidden_size", self.hidden_size),
            ("word_embed_proj_dim", self.table_width()),
            ("num_attention_heads", self.num_attention_heads),
            ("ffn_dim", self.ffn_dim),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        check.multiple(
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
        )?;
        check.dropouts([
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("layerdrop", self.layerdrop),
        ])?;
        let affine = self.layer_norm_elementwise_affine;
        let expected = "true: normalizations without weights are not supported";
        check.require(affine, "layer_norm_elementwise_affine", expected, affine)?;
        let activation = check.activation("activation_function", &self.activation_function)?;
        Ok(StandardOptions {
            names: StandardNames {
                cross: None,
                ..StandardNames::BART
            },
            norm_first: self.do_layer_norm_before,
            norm_epsilon: EPSILON,
            biases: [self.enable_bias; 4],
            ffn_bias: self.enable_bias,
            dropouts: [self.dropout; 2],
            attention_dropout: self.attention_dropout,
            layer_drop: self.layerdrop,
            filler: self.pad_token_id.unwrap_or(0),
            ..StandardOptions::of([self.hidden_size, self.num_attention_heads, self.ffn_dim], activation)
        })
    }
}

/// OPT: embeddings, layers, norm and head.
#[derive(Module, Sites, Debug)]
pub(crate) struct OptModel {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    /// From the width of the table to that of the layers, where they differ.
    project_in: Option<Sited<Linear>>,
    embedding: Point<EmbeddingHook>,
    positions: Embedding,
    layers: Vec<StandardLayer>,
    norm: Option<Sited<LayerNorm>>,
    /// Back to the width of the table, in front of the head: the last hidden state has the width of the layers.
    project_out: Option<Sited<Linear>>,
    head: LmHead,
    #[module(skip)]
    config: OptConfig,
}

impl FromCheckpoint for OptModel {
    type Config = OptConfig;
    const PREFIX: &'static str = "model.";
    const LARGER_CLASS: bool = true;

    fn build(config: OptConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let options = config.check(path)?;
        let (d, width, vocab) = (config.hidden_size, config.table_width(), config.vocab_size);
        let outside = Location::outside(Stack::Decoder);
        let layers = (Stack::Decoder, "decoder.layers");
        let layers = StandardLayer::stack(&options, layers, config.num_hidden_layers, weights);
        let mut at = weights.at(outside, "decoder");
        let words = at.table("embed_tokens", [vocab, width], config.pad_token_id);
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "embed_tokens", width);
        let embedding = at.embedded(EmbeddingRole::Embedding, "", d);
        let positions = at.embedding("embed_positions", [config.max_position_embeddings + OFFSET, d]);
        let mut projection = |role, name, dims| (width != d).then(|| at.linear_with(false, role, name, dims));
        let project_in = projection(LinearRole::EmbeddingProjection, "project_in", [width, d]);
        let project_out = projection(LinearRole::HeadProjection, "project_out", [d, width]);
        let last = config.do_layer_norm_before && !config.remove_final_layer_norm;
        let norm = last.then(|| at.layer_norm(NormRole::FinalNorm, "final_layer_norm", d, EPSILON));
        let tied = config.tie_word_embeddings.then_some(&words);
        Ok(Self {
            head: LmHead::build("lm_head", false, tied, [width, vocab], weights),
            words,
            embedded,
            project_in,
            embedding,
            positions,
            layers,
            norm,
            project_out,
            config,
        })
    }

    /// The table a second time.
    fn is_unused(&self, key: &str) -> bool {
        self.config.tie_word_embeddings && key == "lm_head.weight"
    }
}

impl Transformer for OptModel {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: Some(c.max_position_embeddings),
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id.unwrap_or(0),
            token_types: None,
            head_norm_epsilon: 1e-12,
            head_dropout: 0.0,
            activation: c.activation_function.clone(),
            masked_lm: None,
        }
    }

    fn chain(&self, input: TextInput, cache: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (begun, cx) = Begun::new(self, input, cache, cx)?;
        let Embedded {
            state, packing, past, ..
        } = begun.embed(&self.words, &self.embedded, |rows| rows, cx);
        let device = state.hidden.device();
        let hidden = match &self.project_in {
            Some(projection) => cx.linear(projection, state.hidden),
            None => state.hidden,
        };
        let [_, seq, _] = hidden.dims();
        let rows = match &packing {
            Some(packing) => packing.positions() + (cx.first_position() + OFFSET) as i64,
            None => position_rows([seq, past], state.padding.as_ref(), cx.first_position(), &device),
        };
        let hidden = hidden + self.positions.forward(rows);
        let state = cx.embedding(&self.embedding, EmbeddingState { hidden, ..state });
        let [_, seq, _] = state.hidden.dims();
        let mask = causal_bias([seq, past], None, state.padding.as_ref(), packing.as_ref(), &device);
        let chain = Chain::new(state.hidden).layers(&self.layers, [Some(mask), None]);
        Ok(chain.then(|x, cx| match &self.norm {
            Some(norm) => cx.norm(norm, x),
            None => x,
        }))
    }

    fn causal_lm(&self) -> Option<&dyn CausalLm> {
        Some(self)
    }
}

/// Rows of the position table: a token that is no padding has one more than those before it, and padding has the row in front
/// of the first token's. `first` positions are taken before the text.
fn position_rows(
    [seq, past]: [usize; 2],
    padding: Option<&Tensor<2, Bool>>,
    first: usize,
    device: &Device,
) -> Tensor<2, Int> {
    let start = (first + OFFSET) as i64;
    let Some(padding) = padding else {
        return ops::positions(seq, past, None, device) + start;
    };
    let text = padding.clone().bool_not().int();
    let counted = text.clone().cumsum(1) - 1 + start;
    let rows = counted * text.clone() + (text.ones_like() - text) * (OFFSET as i64 - 1);
    rows.slice_dim(1, past..past + seq)
}

impl CausalLm for OptModel {
    fn scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> LinearScores {
        let cx = cx.hooks();
        let hidden = match &self.project_out {
            Some(projection) => cx.linear(projection, hidden),
            None => hidden,
        };
        self.head.scores(hidden, cx)
    }
}

impl Host for OptModel {
    fn architecture(&self) -> &str {
        "opt"
    }

    fn class_name(&self) -> &str {
        "OPTForCausalLM"
    }

    fn d_model(&self) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn is_larger_class(&self) -> bool {
        Self::LARGER_CLASS
    }
}
