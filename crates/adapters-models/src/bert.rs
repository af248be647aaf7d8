//! BERT, from the published configuration to the last hidden state.
//!
//! Paper: *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*, Devlin et al., 2018,
//! <https://arxiv.org/abs/1810.04805>. Behavior follows `BertModel` of Hugging Face transformers.

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
}

const BERT: Variant = Variant {
    model_type: "bert",
    class_name: "BertModel",
    prefix: BertModel::PREFIX,
    unused: &["embeddings.position_ids", "cls.", "classifier.", "qa_outputs."],
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

#[derive(Module, Sites, Debug)]
struct BertLayer {
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    attention_output: Sited<Linear>,
    attention_norm: Sited<LayerNorm>,
    after_attention: Point<ResidualHook>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    ffn_norm: Sited<LayerNorm>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    dropout: f64,
    #[module(skip)]
    attention: AttentionOptions,
    #[module(skip)]
    activation: Activation,
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
    /// BERT or a relative of it.
    pub(crate) fn build_variant(
        variant: Variant,
        config: BertConfig,
        path: &Path,
        weights: &mut Weights,
    ) -> Result<Self, ModelError> {
        let activation = config.check(path)?;
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
            dropout: config.hidden_dropout_prob,
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
        let attended = cx.dropout(attended, self.dropout);
        let x = cx.residual(&self.after_attention, attended, x, Some(&self.attention_norm));

        let up = cx.linear(&self.up, x.clone());
        let down = cx.linear(&self.down, self.activation.forward(up));
        let down = cx.dropout(down, self.dropout);
        let x = cx.residual(&self.after_ffn, down, x, Some(&self.ffn_norm));
        cx.output(&self.output, x)
    }
}

impl BertEmbeddings {
    fn forward(&self, input: TextInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let words = cx.lookup(&self.words, input.ids);
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
        let first = cx.first_position();
        let positions = self.positions.weight.val().slice_dim(0, first..first + seq).unsqueeze();
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
            max_length: c.max_position_embeddings,
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id,
            token_types: Some(c.type_vocab_size),
            head_norm_epsilon: c.layer_norm_eps,
            head_dropout: c.classifier_dropout.unwrap_or(c.hidden_dropout_prob),
            activation: c.hidden_act.clone(),
        }
    }

    fn chain(&self, input: TextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (cx, input) = cx.begin(self, input)?;
        let mut state = self.embeddings.forward(input, cx);
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
