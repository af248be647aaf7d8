//! BERT, from the published configuration to the last hidden state.
//!
//! Paper: *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*, Devlin et al., 2018,
//! <https://arxiv.org/abs/1810.04805>. Behavior follows `BertModel` of Hugging Face transformers.

use crate::checkpoint_folder::CheckpointFolder;
use crate::distance_scores::{DistanceOptions, PositionEmbeddingType};
use crate::encoder::{self, Encoder, EncoderFacts, EncoderNames, Pooler};
use crate::model::Model;
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};
use crate::text_embeddings::{Counting, EmbeddingOptions, TextEmbeddings};

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
    /// Where the order of tokens comes from.
    pub position_embedding_type: PositionEmbeddingType,
    /// Whether a token sees no later ones.
    pub is_decoder: bool,
    /// Cross attention; not computed without an encoder.
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
            position_embedding_type: PositionEmbeddingType::Absolute,
            is_decoder: false,
            add_cross_attention: false,
        }
    }
}

impl BertConfig {
    /// Checks the values against each other and against what is computed here.
    pub(crate) fn check(&self, counting: Counting, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        check.dropouts([
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ])?;
        let (reserved, positions) = (counting.reserved(), self.max_position_embeddings);
        let expected = format!("more than {reserved}");
        check.require(positions > reserved, "max_position_embeddings", expected, positions)?;
        let expected = "false: there is no encoder to attend to; an `encoder-decoder` has one";
        check.require(!self.add_cross_attention, "add_cross_attention", expected, true)?;
        check.activation("hidden_act", &self.hidden_act)
    }

    /// What its layers have in common.
    pub(crate) fn layers(&self, activation: Activation) -> StandardOptions {
        StandardOptions {
            names: StandardNames::BERT,
            norm_first: false,
            norm_epsilon: self.layer_norm_eps,
            dropouts: [self.hidden_dropout_prob; 2],
            attention_dropout: self.attention_probs_dropout_prob,
            filler: self.pad_token_id,
            distances: self.distances(),
            ..StandardOptions::of(
                [self.hidden_size, self.num_attention_heads, self.intermediate_size],
                activation,
            )
        }
    }

    /// The scores of distances in its attention, if it has any.
    pub(crate) fn distances(&self) -> Option<DistanceOptions> {
        self.position_embedding_type.distances(self.max_position_embeddings)
    }

    /// Its embeddings, `width` wide.
    pub(crate) fn embeddings(&self, width: usize, counting: Counting) -> EmbeddingOptions {
        EmbeddingOptions {
            vocab_size: self.vocab_size,
            width,
            normalized: width,
            positions: self.max_position_embeddings,
            adds_positions: self.position_embedding_type == PositionEmbeddingType::Absolute,
            counting,
            token_types: self.type_vocab_size,
            pad_id: self.pad_token_id,
            norm_bias: true,
            epsilon: self.layer_norm_eps,
            dropout: self.hidden_dropout_prob,
            zeroes_padding: false,
        }
    }

    /// What heads, tokenizers and reports need.
    pub(crate) fn facts(
        &self,
        names: EncoderNames,
        counting: Counting,
        masked_lm: Option<MaskedLmLayout>,
    ) -> EncoderFacts {
        EncoderFacts {
            names,
            d_model: self.hidden_size,
            attention_dropout: self.attention_probs_dropout_prob,
            causal: self.is_decoder,
            info: ModelInfo {
                num_layers: self.num_hidden_layers,
                max_length: Some(self.max_position_embeddings - counting.reserved()),
                vocab_size: self.vocab_size,
                pad_id: self.pad_token_id,
                token_types: Some(self.type_vocab_size).filter(|types| *types > 0),
                head_norm_epsilon: self.layer_norm_eps,
                head_dropout: self.classifier_dropout.unwrap_or(self.hidden_dropout_prob),
                activation: self.hidden_act.clone(),
                masked_lm,
            },
        }
    }
}

/// BERT, and every relative whose layers are like its own.
pub type BertModel = Encoder<Vec<StandardLayer>>;

/// What the relatives of BERT change.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    /// The published names.
    pub(crate) names: EncoderNames,
    /// Width of the embeddings, and the path of the projection from there to the layers.
    pub(crate) projection: Option<(usize, &'static str)>,
    /// Where tokens stand.
    pub(crate) counting: Counting,
    /// Whether positions are added to the embeddings whatever the configuration says.
    pub(crate) adds_positions: bool,
    /// The head of its masked language model.
    pub(crate) masked_lm: Option<MaskedLmLayout>,
}

pub(crate) const NAMES: EncoderNames = EncoderNames {
    model_type: "bert",
    class_name: "BertModel",
    prefix: BertModel::PREFIX,
    unused: &["embeddings.position_ids", "cls.", "classifier.", "qa_outputs."],
    attention: "self_prefix",
    classifier: ClassifierLayout::of(ModelKind::Encoder),
};

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    encoder::load(&NAMES, Default::default(), (source, device), BertModel::build)
}

impl FromCheckpoint for BertModel {
    type Config = BertConfig;
    const PREFIX: &'static str = "bert.";

    fn build(config: BertConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let variant = Variant {
            names: NAMES,
            projection: None,
            counting: Counting::FromZero,
            adds_positions: false,
            masked_lm: Some(MaskedLmLayout {
                dense: "cls.predictions.transform.dense",
                norm: "cls.predictions.transform.LayerNorm",
                decoder: "cls.predictions.decoder",
                bias: Some("cls.predictions.bias"),
                ..MaskedLmLayout::BIASED
            }),
        };
        variant.build(config, path, weights)
    }

    fn is_unused(&self, key: &str) -> bool {
        self.facts.names.is_unused(key)
    }
}

impl Variant {
    /// BERT or a relative of it.
    pub(crate) fn build(self, config: BertConfig, path: &Path, weights: &mut Weights) -> Result<BertModel, ModelError> {
        let options = config.layers(config.check(self.counting, path)?);
        let outside = Location::outside(Stack::Encoder);
        let (d, layers) = (config.hidden_size, config.num_hidden_layers);
        let width = self.projection.map_or(d, |(width, _)| width);
        let mut embeddings = config.embeddings(width, self.counting);
        embeddings.adds_positions |= self.adds_positions;
        Ok(Encoder {
            embeddings: TextEmbeddings::build(
                ["word_embeddings", "LayerNorm"],
                embeddings,
                weights.at(outside, "embeddings"),
            ),
            projection: (self.projection).map(|(width, name)| {
                weights
                    .at(outside, "")
                    .linear(LinearRole::EmbeddingProjection, name, [width, d])
            }),
            stack: StandardLayer::stack(&options, (Stack::Encoder, "encoder.layer"), layers, weights),
            pooler: Pooler::build("pooler.dense", d, Activation::Tanh, weights),
            head_transform: None,
            facts: config.facts(self.names, self.counting, self.masked_lm),
        })
    }
}
