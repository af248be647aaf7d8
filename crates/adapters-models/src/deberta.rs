//! DeBERTa: BERT with scores of distances, and query, key and value from one matrix.
//!
//! Paper: *DeBERTa: Decoding-enhanced BERT with Disentangled Attention*, He et al., 2020,
//! <https://arxiv.org/abs/2006.03654>. Behavior follows `DebertaModel` of Hugging Face transformers.

use serde_json::json;

use crate::bert;
use crate::checkpoint_folder::CheckpointFolder;
use crate::deberta_config::{DebertaConfig, defaults};
use crate::disentangled::{DisentangledStack, Distances, Projections, TalkingHeads};
use crate::encoder::{self, Encoder, EncoderNames};
use crate::model::Model;
use crate::modeling::*;

const DEBERTA: EncoderNames = EncoderNames {
    model_type: "deberta",
    class_name: "DebertaModel",
    prefix: "deberta.",
    unused: &[
        "embeddings.position_ids",
        "embeddings.position_embeddings.",
        "encoder.LayerNorm.",
        "cls.",
        "lm_predictions.",
        "mask_predictions.",
        "classifier.",
        "qa_outputs.",
    ],
    ..bert::NAMES
};

/// The names of the second version.
pub(crate) const DEBERTA_V2: EncoderNames = EncoderNames {
    model_type: "deberta-v2",
    class_name: "DebertaV2Model",
    ..DEBERTA
};

/// Query, key and value of each head side by side in one matrix, whose query and value have biases of their own.
#[derive(Module, Sites, Debug)]
struct FusedProjections {
    fused: Sited<Linear>,
    query_bias: Param<Tensor<1>>,
    value_bias: Param<Tensor<1>>,
    distance_key: Option<Sited<Linear>>,
    distance_query: Option<Sited<Linear>>,
    heads: usize,
}

impl Projections for FusedProjections {
    fn contents(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> [Tensor<3>; 3] {
        let fused = cx.linear(&self.fused, x);
        let [batch, seq, width] = fused.dims();
        let by_head = fused.reshape([batch, seq, self.heads, 3, width / 3 / self.heads]);
        let projection = |index: usize| {
            by_head
                .clone()
                .slice_dim(3, index..index + 1)
                .reshape([batch, seq, width / 3])
        };
        [
            projection(0) + self.query_bias.val().unsqueeze(),
            projection(1),
            projection(2) + self.value_bias.val().unsqueeze(),
        ]
    }

    fn distances(&self, table: Tensor<3>, cx: &mut Hooks<'_>) -> [Option<Tensor<3>>; 2] {
        [&self.distance_key, &self.distance_query]
            .map(|layer| layer.as_ref().map(|layer| cx.linear(layer, table.clone())))
    }
}

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = defaults(json!({"vocab_size": 50265}));
    encoder::load(&DEBERTA, defaults, (source, device), build)
}

fn build(
    config: DebertaConfig,
    path: &Path,
    weights: &mut Weights,
) -> Result<Encoder<DisentangledStack<FusedProjections>>, ModelError> {
    let checked = config.check(path)?;
    let (d, [keys, queries]) = (
        checked.layers.d_model,
        checked.scores.map(|score| score && config.relative_attention),
    );
    let layers = (0..config.bert.num_hidden_layers).map(|index| {
        let location = Location::layer(Stack::Encoder, index);
        let mut at = weights.at(location, format!("encoder.layer.{index}"));
        let mut inside = at.within("attention.self");
        let fused = FusedProjections {
            fused: inside.linear_with(false, LinearRole::QueryKeyValue, "in_proj", [d, 3 * d]),
            query_bias: inside.tensor("q_bias", [d]),
            value_bias: inside.tensor("v_bias", [d]),
            distance_key: keys.then(|| inside.linear_with(false, LinearRole::DistanceKey, "pos_proj", [d, d])),
            distance_query: queries.then(|| inside.linear(LinearRole::DistanceQuery, "pos_q_proj", [d, d])),
            heads: checked.layers.heads,
        };
        let mut layer = checked.layer(fused, &mut at);
        layer.talking = checked.talking_head.then(|| {
            let path = format!("encoder.layer.{index}.attention.self");
            let [scores, of_weights] = ["head_logits_proj", "head_weights_proj"].map(|name| {
                let heads = checked.layers.heads;
                weights.linear_with(false, &format!("{path}.{name}"), heads, heads)
            });
            TalkingHeads {
                scores,
                weights: of_weights,
            }
        });
        layer
    });
    let layers = layers.collect();
    let distances = Distances {
        most: checked.most,
        buckets: None,
        reached_only: true,
    };
    config.encoder(DEBERTA, checked.pooler, distances, false, layers, weights)
}
