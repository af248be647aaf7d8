//! What both versions of DeBERTa have in common: the configuration, and the encoder of their layers.

use serde_json::{Map, Value, json};

use crate::bert::BertConfig;
use crate::checkpoint_folder::object;
use crate::disentangled::{DisentangledLayer, DisentangledStack, Distances, Projections};
use crate::encoder::{Encoder, EncoderFacts, EncoderNames, Pooler};
use crate::modeling::*;
use crate::standard_layer::{AttentionOutput, FeedForwardBlock, StandardOptions};
use crate::text_embeddings::{Counting, EmbeddingOptions, TextEmbeddings};

/// The configuration: BERT's, and what concerns distances. The classes have defaults of their own for all fields.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DebertaConfig {
    /// Whether distances have scores.
    pub(crate) relative_attention: bool,
    /// Distances that are told apart; `max_position_embeddings` if it is not positive.
    pub(crate) max_relative_positions: i64,
    /// Whether positions are added to the embeddings.
    position_biased_input: bool,
    /// Which scores of distances there are.
    pos_att_type: Option<ScoresOfDistances>,
    /// Width of the embeddings, `hidden_size` without it.
    embedding_size: Option<usize>,
    /// Activation of the pooler in classes that have one.
    pooler_hidden_act: String,
    /// Width of that pooler.
    pooler_hidden_size: Option<usize>,
    /// Which of two heads the masked language model has.
    legacy: bool,
    /// Projections between heads, which the first version has.
    talking_head: bool,
    /// What BERT has too.
    #[serde(flatten)]
    pub(crate) bert: BertConfig,
}

/// `["c2p", "p2c"]`, or `"c2p|p2c"` in older files: of a query with a distance's key, of a distance's query with a key.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of names, or names with `|` between them")]
enum ScoresOfDistances {
    Listed(Vec<String>),
    Joined(String),
}

/// What a version builds its layers of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked {
    /// What layers have in common with those of BERT.
    pub(crate) layers: StandardOptions,
    /// Whether queries have a score with keys of distances, and keys with their queries.
    pub(crate) scores: [bool; 2],
    /// The factor of all scores.
    pub(crate) scale: f64,
    /// Distances told apart.
    pub(crate) most: usize,
    /// The activation of the pooler.
    pub(crate) pooler: Activation,
    /// Whether heads are projected to heads.
    pub(crate) talking_head: bool,
}

/// The defaults of the published classes, where they have the same.
pub(crate) fn defaults(more: Value) -> Map<String, Value> {
    let mut defaults = object(json!({
        "type_vocab_size": 0, "layer_norm_eps": 1e-7, "relative_attention": false, "max_relative_positions": -1,
        "position_biased_input": true, "pos_att_type": null, "embedding_size": null, "pooler_hidden_act": "gelu",
        "pooler_hidden_size": null, "legacy": true, "talking_head": false,
    }));
    defaults.extend(object(more));
    defaults
}

impl DebertaConfig {
    /// Checks what both versions have.
    pub(crate) fn check(&self, path: &Path) -> Result<Checked, ModelError> {
        let (check, bert) = (ConfigCheck::new(path), &self.bert);
        let layers = bert.layers(bert.check(Counting::FromZero, path)?);
        let named: Vec<String> = match &self.pos_att_type {
            Some(ScoresOfDistances::Listed(names)) => names.clone(),
            Some(ScoresOfDistances::Joined(names)) => names.split('|').map(|name| name.trim().to_lowercase()).collect(),
            None => Vec::new(),
        };
        for name in &named {
            check.require(
                ["c2p", "p2c"].contains(&&**name),
                "pos_att_type",
                "`c2p` and `p2c`",
                name,
            )?;
        }
        let scores = ["c2p", "p2c"].map(|score| named.iter().any(|name| name == score));
        let twice = named.len() > scores.iter().filter(|score| **score).count();
        check.require(!twice, "pos_att_type", "each name once", named.join("|"))?;
        check.sizes([("embedding_size", self.embedding_size.unwrap_or(bert.hidden_size))])?;
        let pooled = self.pooler_hidden_size.unwrap_or(bert.hidden_size);
        let expected = format!("hidden_size = {}", bert.hidden_size);
        check.require(pooled == bert.hidden_size, "pooler_hidden_size", expected, pooled)?;
        let most = match self.max_relative_positions {
            most @ 1.. => most as usize,
            _ => bert.max_position_embeddings,
        };
        check.sizes([("max_relative_positions", most)])?;
        let kinds = 1 + named.len();
        Ok(Checked {
            layers,
            scores,
            scale: ((layers.d_head() * kinds) as f64).sqrt().recip(),
            most,
            pooler: check.activation("pooler_hidden_act", &self.pooler_hidden_act)?,
            talking_head: self.talking_head,
        })
    }

    /// The encoder of these layers.
    pub(crate) fn encoder<P: Projections>(
        &self,
        names: EncoderNames,
        pooler: Activation,
        distances: Distances,
        normalizes_distances: bool,
        layers: Vec<DisentangledLayer<P>>,
        weights: &mut Weights,
    ) -> Result<Encoder<DisentangledStack<P>>, ModelError> {
        let (bert, outside) = (&self.bert, Location::outside(Stack::Encoder));
        let (d, width) = (bert.hidden_size, self.embedding_size.unwrap_or(bert.hidden_size));
        let embeddings = EmbeddingOptions {
            normalized: d,
            positions: if self.position_biased_input {
                bert.max_position_embeddings
            } else {
                0
            },
            adds_positions: true,
            zeroes_padding: true,
            ..bert.embeddings(width, Counting::FromZero)
        };
        let head = MaskedLmLayout {
            decoder: "cls.predictions.decoder",
            ..MaskedLmLayout::BIASED
        };
        let head = match self.legacy {
            true => MaskedLmLayout {
                dense: "cls.predictions.transform.dense",
                norm: "cls.predictions.transform.LayerNorm",
                bias: Some("cls.predictions.bias"),
                ..head
            },
            false => MaskedLmLayout {
                dense: "lm_predictions.lm_head.dense",
                norm: "lm_predictions.lm_head.LayerNorm",
                bias: Some("lm_predictions.lm_head.bias"),
                ..head
            },
        };
        let mut at = weights.at(outside, "embeddings");
        let embeddings = TextEmbeddings::build(["word_embeddings", "LayerNorm"], embeddings, at.within(""));
        let mut at = weights.at(outside, "encoder");
        let table = self
            .relative_attention
            .then(|| at.embedding("rel_embeddings", [2 * distances.span(), d]));
        let norm = (self.relative_attention && normalizes_distances)
            .then(|| at.layer_norm(NormRole::DistanceNorm, "LayerNorm", d, bert.layer_norm_eps));
        Ok(Encoder {
            embeddings,
            projection: None,
            stack: DisentangledStack {
                table,
                norm,
                layers,
                distances,
            },
            pooler: Pooler::build("pooler.dense", d, pooler, weights),
            head_transform: None,
            // Whatever the file says of decoders, the published classes have none.
            facts: EncoderFacts {
                causal: false,
                ..bert.facts(names, Counting::FromZero, Some(head))
            },
        })
    }
}

impl Checked {
    /// A layer with these projections.
    pub(crate) fn layer<P: Projections>(&self, projections: P, at: &mut Scope<'_>) -> DisentangledLayer<P> {
        let layers = &self.layers;
        DisentangledLayer {
            projections,
            key_value: at.key_value("attention.self", layers.heads, layers.d_head()),
            attention_output: AttentionOutput::build(layers, at),
            feed_forward: FeedForwardBlock::build(layers, at),
            output: at.layer_output(layers.d_model),
            convolution: None,
            talking: None,
            distance_dropout: layers.dropouts[1],
            options: AttentionOptions {
                scale: self.scale,
                ..AttentionOptions::new(layers.d_head(), layers.attention_dropout, layers.filler)
            },
        }
    }
}
