//! DeBERTa, second and third version: distances in buckets, projections that serve distances too, a convolution behind the first
//! layer.
//!
//! Paper: *DeBERTaV3: Improving DeBERTa using ELECTRA-Style Pre-Training with Gradient-Disentangled Embedding Sharing*, He et
//! al., 2021, <https://arxiv.org/abs/2111.09543>. Behavior follows `DebertaV2Model` of Hugging Face transformers.

use burn::nn::PaddingConfig1d;
use burn::nn::conv::Conv1d;
use serde_json::json;

use crate::checkpoint_folder::CheckpointFolder;
use crate::deberta::DEBERTA_V2;
use crate::deberta_config::{DebertaConfig, defaults};
use crate::disentangled::{Convolution, DisentangledStack, Distances, Projections};
use crate::encoder::{self, Encoder};
use crate::model::Model;
use crate::modeling::*;

/// The configuration: that of the first version, and what the second one added.
#[derive(Deserialize)]
struct DebertaV2Config {
    /// Buckets of distances on each side; a row each if it is not positive.
    position_buckets: i64,
    /// Whether the projections of contents serve distances too.
    share_att_key: bool,
    /// `none`, or `layer_norm` for a norm on the rows of distances.
    norm_rel_ebd: String,
    /// Width of the convolution behind the first layer; zero for none.
    conv_kernel_size: usize,
    /// Groups of its channels.
    conv_groups: usize,
    /// Its activation.
    conv_act: String,
    /// Width of a head, which is not read where it is the usual one.
    attention_head_size: Option<usize>,
    #[serde(flatten)]
    common: DebertaConfig,
}

/// Query, key and value in three matrices.
#[derive(Module, Sites, Debug)]
struct SeparateProjections {
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
    distance_key: Option<Sited<Linear>>,
    distance_query: Option<Sited<Linear>>,
    /// Whether queries have a score with keys of distances that the layers of contents make, and keys with their queries.
    #[module(skip)]
    shared: [bool; 2],
}

impl Projections for SeparateProjections {
    fn contents(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> [Tensor<3>; 3] {
        [&self.query, &self.key, &self.value].map(|layer| cx.linear(layer, x.clone()))
    }

    fn distances(&self, table: Tensor<3>, cx: &mut Hooks<'_>) -> [Option<Tensor<3>>; 2] {
        let shared = |index: usize, layer| self.shared[index].then_some(layer);
        let layers = [
            self.distance_key.as_ref().or(shared(0, &self.key)),
            self.distance_query.as_ref().or(shared(1, &self.query)),
        ];
        layers.map(|layer| layer.map(|layer| cx.linear(layer, table.clone())))
    }
}

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = defaults(json!({
        "vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24,
        "intermediate_size": 6144, "position_buckets": -1, "share_att_key": false, "norm_rel_ebd": "none",
        "conv_kernel_size": 0, "conv_groups": 1, "conv_act": "tanh", "attention_head_size": null,
    }));
    encoder::load(&DEBERTA_V2, defaults, (source, device), build)
}

impl DebertaV2Config {
    /// Whether rows of distances are normalized.
    fn normalizes(&self, path: &Path) -> Result<bool, ModelError> {
        let named = self.norm_rel_ebd.to_lowercase();
        let mut names = named.split('|').map(str::trim);
        let known = names.clone().all(|name| ["none", "layer_norm"].contains(&name));
        let expected = "`none` or `layer_norm`";
        ConfigCheck::new(path).require(known, "norm_rel_ebd", expected, &self.norm_rel_ebd)?;
        Ok(names.any(|name| name == "layer_norm"))
    }

    /// How distances become rows, where `most` are told apart.
    fn distances(&self, most: usize, path: &Path) -> Result<Distances, ModelError> {
        let buckets = usize::try_from(self.position_buckets)
            .ok()
            .filter(|buckets| *buckets > 0);
        if let Some(buckets) = buckets {
            let expected = format!(
                "between 2 and {}, for max_relative_positions = {most}",
                2 * most.saturating_sub(2)
            );
            let grows = buckets > 1 && most > buckets / 2 + 1;
            ConfigCheck::new(path).require(grows, "position_buckets", expected, buckets)?;
        }
        Ok(Distances {
            most,
            buckets,
            reached_only: false,
        })
    }

    /// The convolution behind the first layer.
    fn convolution(&self, path: &Path, weights: &mut Weights) -> Result<Option<Convolution>, ModelError> {
        let (d, kernel, groups) = (self.common.bert.hidden_size, self.conv_kernel_size, self.conv_groups);
        if kernel == 0 {
            return Ok(None);
        }
        let check = ConfigCheck::new(path);
        check.sizes([("conv_kernel_size", kernel), ("conv_groups", groups)])?;
        check.require(kernel % 2 == 1, "conv_kernel_size", "an odd number", kernel)?;
        check.multiple(("hidden_size", d), ("conv_groups", groups))?;
        let mut at = weights.at(Location::outside(Stack::Encoder), "encoder.conv");
        Ok(Some(Convolution {
            convolution: Conv1d {
                weight: at.tensor("conv.weight", [d, d / groups, kernel]),
                bias: Some(at.tensor("conv.bias", [d])),
                stride: 1,
                kernel_size: kernel,
                dilation: 1,
                groups,
                padding: PaddingConfig1d::Explicit(kernel / 2, kernel / 2),
            },
            norm: at.layer_norm(
                NormRole::ConvolutionNorm,
                "LayerNorm",
                d,
                self.common.bert.layer_norm_eps,
            ),
            dropout: self.common.bert.hidden_dropout_prob,
            activation: check.activation("conv_act", &self.conv_act)?,
        }))
    }
}

fn build(
    config: DebertaV2Config,
    path: &Path,
    weights: &mut Weights,
) -> Result<Encoder<DisentangledStack<SeparateProjections>>, ModelError> {
    let common = &config.common;
    let checked = common.check(path)?;
    let (d, d_head) = (checked.layers.d_model, checked.layers.d_head());
    let found = config.attention_head_size.unwrap_or(d_head);
    let expected = format!("hidden_size / num_attention_heads = {d_head}");
    ConfigCheck::new(path).require(found == d_head, "attention_head_size", expected, found)?;
    let scores = checked.scores.map(|score| score && common.relative_attention);
    let [keys, queries] = scores.map(|score| score && !config.share_att_key);
    let mut layers: Vec<_> = (0..common.bert.num_hidden_layers)
        .map(|index| {
            let location = Location::layer(Stack::Encoder, index);
            let mut at = weights.at(location, format!("encoder.layer.{index}"));
            let mut inside = at.within("attention.self");
            let mut linear = |role, name| inside.linear(role, name, [d, d]);
            let separate = SeparateProjections {
                query: linear(LinearRole::Query, "query_proj"),
                key: linear(LinearRole::Key, "key_proj"),
                value: linear(LinearRole::Value, "value_proj"),
                distance_key: keys.then(|| linear(LinearRole::DistanceKey, "pos_key_proj")),
                distance_query: queries.then(|| linear(LinearRole::DistanceQuery, "pos_query_proj")),
                shared: scores.map(|score| score && config.share_att_key),
            };
            checked.layer(separate, &mut at)
        })
        .collect();
    if let Some(first) = layers.first_mut() {
        first.convolution = config.convolution(path, weights)?;
    }
    let distances = config.distances(checked.most, path)?;
    common.encoder(
        DEBERTA_V2,
        checked.pooler,
        distances,
        config.normalizes(path)?,
        layers,
        weights,
    )
}
