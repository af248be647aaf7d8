//! DistilBERT, from the published configuration to the last hidden state.
//!
//! Paper: *DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter*, Sanh et al., 2019,
//! <https://arxiv.org/abs/1910.01108>. Behavior follows `DistilBertModel` of Hugging Face transformers.

use crate::checkpoint_folder::CheckpointFolder;
use crate::encoder::{self, Encoder, EncoderFacts, EncoderNames};
use crate::model::Model;
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};
use crate::text_embeddings::{Counting, EmbeddingOptions, TextEmbeddings};

/// Epsilon of the layer normalizations, which the published class does not configure.
const EPSILON: f64 = 1e-12;

/// `config.json` of a DistilBERT checkpoint: the fields that change what is computed. Others are ignored, among them
/// `sinusoidal_pos_embds`, since the checkpoint holds the position table either way.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct DistilBertConfig {
    /// Tokens in the vocabulary.
    pub(crate) vocab_size: usize,
    /// Width of the residual stream.
    pub(crate) dim: usize,
    /// Layers.
    pub(crate) n_layers: usize,
    /// Attention heads.
    pub(crate) n_heads: usize,
    /// Width of the feed-forward block.
    pub(crate) hidden_dim: usize,
    /// Activation of the feed-forward block.
    pub(crate) activation: String,
    /// Dropout on embeddings and the output of the feed-forward block, in training.
    pub(crate) dropout: f64,
    /// Dropout on attention weights, in training.
    pub(crate) attention_dropout: f64,
    /// Dropout before a head, in training.
    pub(crate) seq_classif_dropout: f64,
    /// Longest input in tokens.
    pub(crate) max_position_embeddings: usize,
    /// Id of the padding token.
    pub(crate) pad_token_id: usize,
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
        check.activation("activation", &self.activation)
    }
}

const NAMES: EncoderNames = EncoderNames {
    model_type: "distilbert",
    class_name: "DistilBertModel",
    prefix: "distilbert.",
    unused: &[
        "embeddings.position_ids",
        "vocab_",
        "pre_classifier.",
        "classifier.",
        "qa_outputs.",
    ],
    attention: "self",
    classifier: ClassifierLayout {
        hidden: Some(("pre_classifier", "relu")),
        last: "classifier",
        bias: true,
        reads_pooler: false,
        prefixed: true,
    },
};

const LAYER: StandardNames = StandardNames {
    attention: "attention",
    projections: ["q_lin", "k_lin", "v_lin", "out_lin"],
    keys_first: false,
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    ffn_norm: "output_layer_norm",
    ..StandardNames::BART
};

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    encoder::load(&NAMES, Default::default(), (source, device), build)
}

/// Embeddings without token types, and layers. It has no pooler.
fn build(
    config: DistilBertConfig,
    path: &Path,
    weights: &mut Weights,
) -> Result<Encoder<Vec<StandardLayer>>, ModelError> {
    let activation = config.check(path)?;
    let options = StandardOptions {
        names: LAYER,
        norm_first: false,
        norm_epsilon: EPSILON,
        // Nothing drops out of what the attention returns.
        dropouts: [0.0, config.dropout],
        attention_dropout: config.attention_dropout,
        filler: config.pad_token_id,
        ..StandardOptions::of([config.dim, config.n_heads, config.hidden_dim], activation)
    };
    let embeddings = EmbeddingOptions {
        vocab_size: config.vocab_size,
        width: config.dim,
        normalized: config.dim,
        positions: config.max_position_embeddings,
        adds_positions: true,
        counting: Counting::FromZero,
        token_types: 0,
        pad_id: config.pad_token_id,
        norm_bias: true,
        epsilon: EPSILON,
        dropout: config.dropout,
        zeroes_padding: false,
    };
    let at = weights.at(Location::outside(Stack::Encoder), "embeddings");
    Ok(Encoder {
        embeddings: TextEmbeddings::build(["word_embeddings", "LayerNorm"], embeddings, at),
        projection: None,
        stack: StandardLayer::stack(
            &options,
            (Stack::Encoder, "transformer.layer"),
            config.n_layers,
            weights,
        ),
        pooler: None,
        head_transform: None,
        facts: EncoderFacts {
            names: NAMES,
            d_model: config.dim,
            attention_dropout: config.attention_dropout,
            causal: false,
            info: ModelInfo {
                num_layers: config.n_layers,
                max_length: Some(config.max_position_embeddings),
                vocab_size: config.vocab_size,
                pad_id: config.pad_token_id,
                token_types: None,
                head_norm_epsilon: EPSILON,
                head_dropout: config.seq_classif_dropout,
                activation: config.activation,
                masked_lm: Some(MaskedLmLayout {
                    dense: "vocab_transform",
                    norm: "vocab_layer_norm",
                    decoder: "vocab_projector",
                    bias: Some("vocab_projector.bias"),
                    ..MaskedLmLayout::BIASED
                }),
            },
        },
    })
}
