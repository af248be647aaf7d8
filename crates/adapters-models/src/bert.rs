//! BERT, from the published configuration to the last hidden state.
//!
//! Paper: *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*, Devlin et al., 2018,
//! <https://arxiv.org/abs/1810.04805>. Behavior follows `BertModel` of Hugging Face transformers.

use serde_json::{Map, Value};

use crate::checkpoint_folder::CheckpointFolder;
use crate::model::Model;
use crate::modeling::*;

/// `config.json` of a BERT checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Activation of the feed-forward block.
    pub hidden_act: String,
    /// Dropout on embeddings and block outputs, in training.
    pub hidden_dropout_prob: f64,
    /// Dropout on attention weights, in training.
    pub attention_probs_dropout_prob: f64,
    /// Dropout before a head, in training; `hidden_dropout_prob` without it.
    pub classifier_dropout: Option<f64>,
    /// Longest input in tokens.
    pub max_position_embeddings: usize,
    /// Token types.
    pub type_vocab_size: usize,
    /// Epsilon of the layer normalizations.
    pub layer_norm_eps: f64,
    /// Id of the padding token.
    pub pad_token_id: usize,
    /// Only `absolute` is computed.
    pub position_embedding_type: String,
    /// A decoder attends to the past only; not computed.
    pub is_decoder: bool,
    /// Cross attention; not computed.
    pub add_cross_attention: bool,
}

impl Default for BertConfig {
    /// The defaults of the published class (BERT base, uncased).
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            classifier_dropout: None,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
            position_embedding_type: "absolute".to_owned(),
            is_decoder: false,
            add_cross_attention: false,
        }
    }
}

impl BertConfig {
    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        check.dropouts([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ])?;
        let positions = &self.position_embedding_type;
        check.require(
            positions == "absolute",
            "position_embedding_type",
            "`absolute`",
            positions,
        )?;
        let encoder = !self.is_decoder && !self.add_cross_attention;
        check.require(
            encoder,
            "is_decoder / add_cross_attention",
            "false: this is an encoder",
            "true",
        )?;
        Ok(self.hidden_act.parse()?)
    }
}

/// BERT: embeddings, layers and, where the checkpoint has one, a pooler.
#[derive(Module, Sites, Debug)]
pub struct BertModel {
    embeddings: BertEmbeddings,
    layers: Vec<BertLayer>,
    /// `None` where the checkpoint was saved from a class that has none.
    pooler: Option<Sited<Linear>>,
    #[module(skip)]
    config: BertConfig,
    #[module(skip)]
    variant: Variant,
}

/// What the relatives of BERT change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// The published `model_type`.
    pub model_type: &'static str,
    /// The published class.
    pub class_name: &'static str,
    /// Prefix of the keys in checkpoints of larger classes.
    pub prefix: &'static str,
    /// What the keys begin with that only larger classes have.
    pub unused: &'static [&'static str],
    /// Rows of the position table that come before the first token's.
    pub reserved: fn(&BertConfig) -> usize,
    /// Rows of the position table for what is embedded, `[1 or batch, seq, d_model]`.
    pub positions: fn(&Embedding, &Tokens<'_>) -> Tensor<3>,
    /// The head of its masked language model.
    pub masked_lm: MaskedLmLayout,
}

/// What the positions of a pass depend on.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    /// Token ids of the input, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// What was embedded, with what adapters inserted.
    pub state: &'a EmbeddingState,
    /// Positions that adapters count as taken before the first token.
    pub first: usize,
    /// Id of the padding token.
    pub pad_id: usize,
}

const BERT: Variant = Variant {
    model_type: "bert",
    class_name: "BertModel",
    prefix: BertModel::PREFIX,
    unused: &["embeddings.position_ids", "cls.", "classifier.", "qa_outputs."],
    reserved: |_| 0,
    positions: |table, Tokens { state, first, .. }| {
        let [_, seq, _] = state.hidden.dims();
        table.weight.val().slice_dim(0, *first..first + seq).unsqueeze()
    },
    masked_lm: MaskedLmLayout {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        bias: "cls.predictions.bias",
        activation: None,
    },
};

#[derive(Module, Sites, Debug)]
struct BertEmbeddings {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    norm: Sited<LayerNorm>,
    output: Point<EmbeddingHook>,
    positions: Embedding,
    token_types: Embedding,
}

/// A layer with a normalization behind each block. DistilBERT has it too, under other names.
#[derive(Module, Sites, Debug)]
pub(crate) struct BertLayer {
    pub query: Sited<Linear>,
    pub key: Sited<Linear>,
    pub value: Sited<Linear>,
    pub key_value: Point<KeyValueHook>,
    pub attention_output: Sited<Linear>,
    pub attention_norm: Sited<LayerNorm>,
    pub after_attention: Point<ResidualHook>,
    pub up: Sited<Linear>,
    pub down: Sited<Linear>,
    pub ffn_norm: Sited<LayerNorm>,
    pub after_ffn: Point<ResidualHook>,
    pub output: Point<OutputHook>,
    pub attention_output_dropout: f64,
    pub ffn_dropout: f64,
    #[module(skip)]
    pub attention: AttentionOptions,
    #[module(skip)]
    pub activation: Activation,
}

impl FromCheckpoint for BertModel {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert.";

    fn build(config: BertConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        Self::build_variant(BERT, config, path, weights)
    }

    fn is_unused(&self, key: &str) -> bool {
        self.variant.unused.iter().any(|known| key.starts_with(known))
    }
}

impl BertModel {
    /// Loads a checkpoint of a relative of BERT: `defaults` are those of its published class.
    pub(crate) fn load_variant(
        variant: Variant,
        defaults: Map<String, Value>,
        source: &CheckpointFolder,
        device: &Device,
    ) -> Result<Model, ModelError> {
        let config: BertConfig = source.config_with(defaults)?;
        let weights = Weights::read(source.dir(), variant.prefix, device)?;
        let path = source.dir().join("config.json");
        let build = |weights: &mut Weights| Self::build_variant(variant, config, &path, weights);
        Ok(Model::new(Self::finished(weights, build)?))
    }

    /// BERT or a relative of it.
    pub(crate) fn build_variant(
        variant: Variant,
        config: BertConfig,
        path: &Path,
        weights: &mut Weights,
    ) -> Result<Self, ModelError> {
        let activation = config.check(path)?;
        let reserved = (variant.reserved)(&config);
        ConfigCheck::new(path).require(
            config.max_position_embeddings > reserved,
            "max_position_embeddings",
            format!("more than {reserved}"),
            config.max_position_embeddings,
        )?;
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let outside = Location::outside(Stack::Encoder);
        let mut at = weights.at(outside, "embeddings");
        let embeddings = BertEmbeddings {
            words: at.table("word_embeddings", [config.vocab_size, d], Some(config.pad_token_id)),
            embedded: at.embedded(EmbeddingRole::EmbeddedTokens, "word_embeddings", d),
            norm: at.layer_norm(NormRole::EmbeddingNorm, "LayerNorm", d, eps),
            output: at.embedded(EmbeddingRole::Embedding, "", d),
            positions: at.embedding("position_embeddings", [config.max_position_embeddings, d]),
            token_types: at.embedding("token_type_embeddings", [config.type_vocab_size, d]),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| {
                let location = Location::layer(Stack::Encoder, index);
                BertLayer::build(
                    &config,
                    activation,
                    weights.at(location, format!("encoder.layer.{index}")),
                )
            })
            .collect();
        let mut at = weights.at(outside, "pooler");
        let pooler = at
            .has("dense.weight")
            .then(|| at.linear(LinearRole::Pooler, "dense", [d, d]));
        Ok(Self {
            embeddings,
            layers,
            pooler,
            config,
            variant,
        })
    }
}

impl BertLayer {
    fn build(config: &BertConfig, activation: Activation, mut at: Scope<'_>) -> Self {
        let (d, ffn, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let (heads, d_head) = (config.num_attention_heads, d / config.num_attention_heads);
        Self {
            query: at.linear(LinearRole::Query, "attention.self.query", [d, d]),
            key: at.linear(LinearRole::Key, "attention.self.key", [d, d]),
            value: at.linear(LinearRole::Value, "attention.self.value", [d, d]),
            key_value: at.key_value("attention.self", heads, d_head),
            attention_output: at.linear(LinearRole::AttentionOutput, "attention.output.dense", [d, d]),
            attention_norm: at.layer_norm(NormRole::AttentionNorm, "attention.output.LayerNorm", d, eps),
            after_attention: at.residual(ResidualRole::AfterAttention, "attention.output", d),
            up: at.linear(LinearRole::FfnUp, "intermediate.dense", [d, ffn]),
            down: at.linear(LinearRole::FfnDown, "output.dense", [ffn, d]),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, "output.LayerNorm", d, eps),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output", d),
            output: at.layer_output(d),
            attention_output_dropout: config.hidden_dropout_prob,
            ffn_dropout: config.hidden_dropout_prob,
            attention: AttentionOptions::new(d_head, config.attention_probs_dropout_prob, config.pad_token_id),
            activation,
        }
    }
}

impl Block for BertLayer {
    /// The bias of padding, `[batch, 1, 1, seq]`.
    type Frame = Option<Tensor<4>>;

    fn forward(&self, x: Tensor<3>, bias: &Option<Tensor<4>>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let heads = &self.attention;
        let query = heads.split(cx.linear(&self.query, x.clone()));
        let key = heads.split(cx.linear(&self.key, x.clone()));
        let value = heads.split(cx.linear(&self.value, x.clone()));
        let attended = heads.attend(
            query,
            (key, value),
            x.clone(),
            bias.clone(),
            (&self.key_value, slot),
            cx,
        );
        let attended = cx.linear(&self.attention_output, attended);
        let attended = cx.dropout(attended, self.attention_output_dropout);
        let x = cx.residual(&self.after_attention, attended, x, Some(&self.attention_norm));

        let up = cx.linear(&self.up, x.clone());
        let down = cx.linear(&self.down, self.activation.forward(up));
        let down = cx.dropout(down, self.ffn_dropout);
        let x = cx.residual(&self.after_ffn, down, x, Some(&self.ffn_norm));
        cx.output(&self.output, x)
    }
}

impl BertEmbeddings {
    fn forward(&self, input: TextInput, model: &BertModel, cx: &mut Hooks<'_>) -> EmbeddingState {
        let words = cx.lookup(&self.words, input.ids.clone());
        let state = cx.embedding(&self.embedded, EmbeddingState::new(words, input.padding));
        let [batch, seq, _] = state.hidden.dims();
        let types = match input.token_types {
            Some(types) => {
                // What is inserted in front of the text is of the first type.
                let more = Tensor::zeros([batch, seq - types.dims()[1]], &types.device());
                self.token_types.forward(Tensor::cat(vec![more, types], 1))
            }
            // All zeros: one row, broadcast.
            None => self.token_types.weight.val().slice_dim(0, 0..1).unsqueeze(),
        };
        let tokens = Tokens {
            ids: input.ids,
            state: &state,
            first: cx.first_position(),
            pad_id: model.config.pad_token_id,
        };
        let positions = (model.variant.positions)(&self.positions, &tokens);
        let hidden = cx.norm(&self.norm, state.hidden + types + positions);
        EmbeddingState { hidden, ..state }
    }
}

impl Transformer for BertModel {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: c.max_position_embeddings - (self.variant.reserved)(c),
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id,
            token_types: Some(c.type_vocab_size),
            head_norm_epsilon: c.layer_norm_eps,
            head_dropout: c.classifier_dropout.unwrap_or(c.hidden_dropout_prob),
            activation: c.hidden_act.clone(),
            masked_lm: Some(self.variant.masked_lm),
        }
    }

    fn chain(&self, input: TextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (cx, input) = cx.begin(self, input)?;
        let mut state = self.embeddings.forward(input, self, cx);
        state.hidden = cx.dropout(state.hidden, self.config.hidden_dropout_prob);
        let state = cx.embedding(&self.embeddings.output, state);
        Ok(Chain::new(state.hidden).layers(&self.layers, state.padding.map(ops::padding_bias)))
    }

    fn text_encoder(&self) -> Option<&dyn TextEncoder> {
        Some(self)
    }

    /// `tanh(W h_0 + b)` of the first position.
    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        let first = hidden.slice_dim(1, 0..1);
        let pooled = cx.hooks().linear(self.pooler.as_ref()?, first).tanh();
        Some(pooled.squeeze_dim(1))
    }

    fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }
}

impl TextEncoder for BertModel {}

impl Host for BertModel {
    fn architecture(&self) -> &str {
        self.variant.model_type
    }

    fn class_name(&self) -> &str {
        self.variant.class_name
    }

    fn d_model(&self) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        self.variant.prefix
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_probs_dropout_prob
    }
}
