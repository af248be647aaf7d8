//! ALBERT: the layers of BERT, few of them and each run several times, over embeddings of a width of their own.
//!
//! Paper: *ALBERT: A Lite BERT for Self-supervised Learning of Language Representations*, Lan et al., 2019,
//! <https://arxiv.org/abs/1909.11942>. Behavior follows `AlbertModel` of Hugging Face transformers.

use serde_json::json;

use crate::bert::{self, BertConfig};
use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::distance_scores::DistanceOptions;
use crate::encoder::{self, Encoder, EncoderNames, EncoderStack, Pooler};
use crate::model::Model;
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};
use crate::text_embeddings::{Counting, TextEmbeddings};

const ALBERT: EncoderNames = EncoderNames {
    model_type: "albert",
    class_name: "AlbertModel",
    prefix: "albert.",
    unused: &[
        "embeddings.position_ids",
        "predictions.",
        "sop_classifier.",
        "classifier.",
        "qa_outputs.",
    ],
    ..bert::NAMES
};

const LAYER: StandardNames = StandardNames {
    attention: "attention",
    projections: ["query", "key", "value", "dense"],
    keys_first: false,
    attention_norm: "attention.LayerNorm",
    up: "ffn",
    down: "ffn_output",
    ffn_norm: "full_layer_layer_norm",
    after: ["attention.attention_adapters", "", "output_adapters"],
    ..StandardNames::BART
};

/// The configuration: BERT's, and how layers are shared.
#[derive(Deserialize)]
struct AlbertConfig {
    /// Width of the embeddings.
    embedding_size: usize,
    /// Groups of layers; each runs `num_hidden_layers / num_hidden_groups` times.
    num_hidden_groups: usize,
    /// Layers of a group.
    inner_group_num: usize,
    /// Dropout before a head, in training.
    classifier_dropout_prob: f64,
    #[serde(flatten)]
    bert: BertConfig,
}

/// The layers that there are, and the order in which they run.
#[derive(Module, Sites, Debug)]
struct SharedLayers {
    layers: Vec<StandardLayer>,
    #[module(skip)]
    order: Vec<usize>,
}

impl EncoderStack for SharedLayers {
    fn chain(&self, embedded: EmbeddingState, bias: Option<Tensor<4>>, _: &mut Hooks<'_>) -> Chain<'_> {
        let layers = self.order.iter().map(|index| &self.layers[*index]);
        Chain::new(embedded.hidden).layers(layers, [bias, None])
    }
}

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "vocab_size": 30000, "embedding_size": 128, "hidden_size": 4096, "num_hidden_groups": 1,
        "num_attention_heads": 64, "intermediate_size": 16384, "inner_group_num": 1, "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout_prob": 0.1,
    }));
    encoder::load(&ALBERT, defaults, (source, device), build)
}

fn build(config: AlbertConfig, path: &Path, weights: &mut Weights) -> Result<Encoder<SharedLayers>, ModelError> {
    let (groups, inner, mut bert) = (config.num_hidden_groups, config.inner_group_num, config.bert);
    bert.classifier_dropout = Some(config.classifier_dropout_prob);
    let activation = bert.check(Counting::FromZero, path)?;
    let check = ConfigCheck::new(path);
    check.sizes([("embedding_size", config.embedding_size)])?;
    check.layers([("num_hidden_groups", groups), ("inner_group_num", inner)])?;
    let passes = bert.num_hidden_layers;
    check.require(
        groups <= passes,
        "num_hidden_groups",
        format!("at most num_hidden_layers = {passes}"),
        groups,
    )?;
    check.layers([("num_hidden_groups * inner_group_num", groups * inner)])?;
    let options = StandardOptions {
        names: LAYER,
        // As AdapterHub's library calls its adapters there.
        swaps_residual: true,
        // Only the attention's output drops out.
        dropouts: [bert.hidden_dropout_prob, 0.0],
        distances: bert.distances().map(|distances| DistanceOptions {
            scaled: false,
            ..distances
        }),
        ..bert.layers(activation)
    };
    let (d, width, outside) = (
        bert.hidden_size,
        config.embedding_size,
        Location::outside(Stack::Encoder),
    );
    let layer = |index: usize, weights: &mut Weights| {
        let path = format!(
            "encoder.albert_layer_groups.{}.albert_layers.{}",
            index / inner,
            index % inner
        );
        StandardLayer::build(&options, weights.at(Location::layer(Stack::Encoder, index), path))
    };
    let in_group = |pass: usize| pass * groups / passes * inner..(pass * groups / passes + 1) * inner;
    let mut facts = bert.facts(
        ALBERT,
        Counting::FromZero,
        Some(MaskedLmLayout {
            dense: "predictions.dense",
            norm: "predictions.LayerNorm",
            decoder: "predictions.decoder",
            bias: Some("predictions.bias"),
            ..MaskedLmLayout::BIASED
        }),
    );
    // Whatever the file says of decoders, the published class has none.
    facts.causal = false;
    facts.info.num_layers = groups * inner;
    let projection = "encoder.embedding_hidden_mapping_in";
    Ok(Encoder {
        embeddings: TextEmbeddings::build(
            ["word_embeddings", "LayerNorm"],
            bert.embeddings(width, Counting::FromZero),
            weights.at(outside, "embeddings"),
        ),
        projection: Some(
            weights
                .at(outside, projection)
                .linear(LinearRole::EmbeddingProjection, "", [width, d]),
        ),
        stack: SharedLayers {
            layers: (0..groups * inner).map(|index| layer(index, weights)).collect(),
            order: (0..passes).flat_map(in_group).collect(),
        },
        pooler: Pooler::build("pooler", d, Activation::Tanh, weights),
        head_transform: None,
        facts,
    })
}
