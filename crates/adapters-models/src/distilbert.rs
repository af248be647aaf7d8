//! DistilBERT, from the published configuration to the last hidden state.
//!
//! Paper: *DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter*, Sanh et al., 2019,
//! <https://arxiv.org/abs/1910.01108>. Behavior follows `DistilBertModel` of Hugging Face transformers.

use crate::bert::BertLayer;
use crate::modeling::*;

/// Epsilon of the layer normalizations, which the published class does not configure.
const EPSILON: f64 = 1e-12;

/// `config.json` of a DistilBERT checkpoint: the fields that change what is computed. Others are ignored, among them
/// `sinusoidal_pos_embds`, since the checkpoint holds the position table either way.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct DistilBertConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Layers.
    pub n_layers: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Width of the feed-forward block.
    pub hidden_dim: usize,
    /// Activation of the feed-forward block.
    pub activation: String,
    /// Dropout on embeddings and the output of the feed-forward block, in training.
    pub dropout: f64,
    /// Dropout on attention weights, in training.
    pub attention_dropout: f64,
    /// Dropout before a head, in training.
    pub seq_classif_dropout: f64,
    /// Longest input in tokens.
    pub max_position_embeddings: usize,
    /// Id of the padding token.
    pub pad_token_id: usize,
}

impl Default for DistilBertConfig {
    /// The defaults of the published class.
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            dim: 768,
            n_layers: 6,
            n_heads: 12,
            hidden_dim: 3072,
            activation: "gelu".to_owned(),
            dropout: 0.1,
            attention_dropout: 0.1,
            seq_classif_dropout: 0.2,
            max_position_embeddings: 512,
            pad_token_id: 0,
        }
    }
}

impl DistilBertConfig {
    /// Checks the values against each other.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("dim", self.dim),
            ("n_heads", self.n_heads),
            ("hidden_dim", self.hidden_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        check.layers([("n_layers", self.n_layers)])?;
        check.multiple(("dim", self.dim), ("n_heads", self.n_heads))?;
        check.dropouts([
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("seq_classif_dropout", self.seq_classif_dropout),
        ])?;
        Ok(self.activation.parse()?)
    }
}

/// DistilBERT: embeddings without token types, and layers. It has no pooler.
#[derive(Module, Sites, Debug)]
pub struct DistilBertModel {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    norm: Sited<LayerNorm>,
    embedding: Point<EmbeddingHook>,
    positions: Embedding,
    layers: Vec<BertLayer>,
    #[module(skip)]
    config: DistilBertConfig,
}

impl FromCheckpoint for DistilBertModel {
    type Config = DistilBertConfig;
    const PREFIX: &'static str = "distilbert.";

    fn build(config: DistilBertConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let activation = config.check(path)?;
        let (d, positions) = (config.dim, config.max_position_embeddings);
        let mut at = weights.at(Location::outside(Stack::Encoder), "embeddings");
        Ok(Self {
            words: at.table("word_embeddings", [config.vocab_size, d], Some(config.pad_token_id)),
            embedded: at.embedded(EmbeddingRole::EmbeddedTokens, "word_embeddings", d),
            norm: at.layer_norm(NormRole::EmbeddingNorm, "LayerNorm", d, EPSILON),
            embedding: at.embedded(EmbeddingRole::Embedding, "", d),
            positions: at.embedding("position_embeddings", [positions, d]),
            layers: (0..config.n_layers)
                .map(|index| layer(&config, activation, index, weights))
                .collect(),
            config,
        })
    }

    fn is_unused(&self, key: &str) -> bool {
        let larger = ["vocab_", "pre_classifier.", "classifier.", "qa_outputs."];
        key == "embeddings.position_ids" || larger.iter().any(|known| key.starts_with(known))
    }
}

/// A layer under the published names. Nothing drops out of what the attention returns.
fn layer(config: &DistilBertConfig, activation: Activation, index: usize, weights: &mut Weights) -> BertLayer {
    let location = Location::layer(Stack::Encoder, index);
    let mut at = weights.at(location, format!("transformer.layer.{index}"));
    let (d, ffn, d_head) = (config.dim, config.hidden_dim, config.dim / config.n_heads);
    BertLayer {
        query: at.linear(LinearRole::Query, "attention.q_lin", [d, d]),
        key: at.linear(LinearRole::Key, "attention.k_lin", [d, d]),
        value: at.linear(LinearRole::Value, "attention.v_lin", [d, d]),
        key_value: at.key_value("attention", config.n_heads, d_head),
        attention_output: at.linear(LinearRole::AttentionOutput, "attention.out_lin", [d, d]),
        attention_norm: at.layer_norm(NormRole::AttentionNorm, "sa_layer_norm", d, EPSILON),
        after_attention: at.residual(ResidualRole::AfterAttention, "attention_adapters", d),
        up: at.linear(LinearRole::FfnUp, "ffn.lin1", [d, ffn]),
        down: at.linear(LinearRole::FfnDown, "ffn.lin2", [ffn, d]),
        ffn_norm: at.layer_norm(NormRole::FfnNorm, "output_layer_norm", d, EPSILON),
        after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
        output: at.layer_output(d),
        attention_output_dropout: 0.0,
        ffn_dropout: config.dropout,
        attention: AttentionOptions::new(d_head, config.attention_dropout, config.pad_token_id),
        activation,
    }
}

impl Transformer for DistilBertModel {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.n_layers,
            max_length: c.max_position_embeddings,
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id,
            token_types: None,
            head_norm_epsilon: EPSILON,
            head_dropout: c.seq_classif_dropout,
            activation: c.activation.clone(),
            masked_lm: Some(MaskedLmLayout {
                dense: "vocab_transform",
                norm: "vocab_layer_norm",
                bias: "vocab_projector.bias",
                activation: None,
            }),
        }
    }

    fn chain(&self, input: TextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (cx, input) = cx.begin(self, input)?;
        let words = cx.lookup(&self.words, input.ids);
        let state = cx.embedding(&self.embedded, EmbeddingState::new(words, input.padding));
        let ([_, seq, _], first) = (state.hidden.dims(), cx.first_position());
        let positions = self.positions.weight.val().slice_dim(0, first..first + seq).unsqueeze();
        let normalized = cx.norm(&self.norm, state.hidden + positions);
        let hidden = cx.dropout(normalized, self.config.dropout);
        let state = cx.embedding(&self.embedding, EmbeddingState { hidden, ..state });
        Ok(Chain::new(state.hidden).layers(&self.layers, state.padding.map(ops::padding_bias)))
    }

    fn text_encoder(&self) -> Option<&dyn TextEncoder> {
        Some(self)
    }

    fn classifier(&self) -> Option<ClassifierLayout> {
        Some(ClassifierLayout {
            hidden: Some(("pre_classifier", "relu")),
            last: "classifier",
            bias: true,
            reads_pooler: false,
        })
    }
}

impl TextEncoder for DistilBertModel {}

impl Host for DistilBertModel {
    fn architecture(&self) -> &str {
        "distilbert"
    }

    fn class_name(&self) -> &str {
        "DistilBertModel"
    }

    fn d_model(&self) -> usize {
        self.config.dim
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_dropout
    }

    fn attention_name(&self, _: Stack) -> &'static str {
        "self"
    }
}
