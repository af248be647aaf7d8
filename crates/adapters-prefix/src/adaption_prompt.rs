//! Adaption prompts (LLaMA-Adapter): a second, gated attention to a few trained vectors in the upper layers.

use std::borrow::Cow;

use adapters_core::config::{from_fields, to_fields};
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, Build, Call, Causality, Codec, ConfigError, Erased, Error, Host, KeyValueState, Method, NamedParams,
    Peft, Role, SiteAdapter, SiteInfo, SiteKind, SiteLayer, StoredConfig,
};
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, activation::softmax};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Trained vectors `P` of which the frozen key and value projections make keys and values without positions, and what the queries
/// `q` of the text read of them, times a gate `g` that begins at zero: `g softmax(s q (P W_k)^T) P W_v` is added to what the attention
/// reads, with `s` as in the attention.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `adapter_len` | 10 | vectors of a layer | >= 1 |
/// | `adapter_layers` | none | how many layers have them, counted from the last; without it all | >= 1 |
/// | `target_modules` | none | name of the attention in files; without it that of the model | |
///
/// Paper: *LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention*, Zhang et al., 2023,
/// <https://arxiv.org/abs/2303.16199>, as peft 0.21.2 computes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdaptionPromptConfig {
    /// Vectors of a layer.
    pub adapter_len: usize,
    /// How many layers have them, counted from the last; without it all.
    pub adapter_layers: Option<usize>,
    /// Name of the attention in files.
    pub target_modules: Option<String>,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

const PEFT_TYPE: &str = "ADAPTION_PROMPT";

impl Default for AdaptionPromptConfig {
    fn default() -> Self {
        Self {
            adapter_len: 10,
            adapter_layers: None,
            target_modules: None,
            extra: Map::new(),
        }
    }
}

impl Method for AdaptionPromptConfig {
    const NAME: &'static str = "adaption_prompt";
    const DESCRIPTION: &'static str = "A gated attention of its own to trained vectors, in the last layers.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("adapter_len", self.adapter_len)?;
        ConfigError::size("adapter_layers", self.adapter_layers.unwrap_or(1))
    }

    fn target(&self) -> Target {
        Target::Last {
            role: Role::KeyValue,
            count: self.adapter_layers,
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let SiteKind::KeyValue { heads, d_head } = site.kind else {
            return Err(Self::refuse(site, "it acts on the keys and values of an attention"));
        };
        let [key, value] = projections(site, heads * d_head, build)?;
        let d_model = build.host.d_model_of(site.site.stack);
        let prompt = draw::normal(&mut build.rng(None, site.site), [1, self.adapter_len, d_model], 1.0);
        Ok(SiteLayer::KeyValue(Erased::new(AdaptionPrompt {
            prompt: Param::from_tensor(Tensor::from_data(prompt, build.device)),
            gate: Param::from_tensor(Tensor::zeros([1], build.device)),
            key,
            value,
            heads,
        })))
    }
}

/// The frozen key and value projections next to a site.
fn projections(site: &SiteInfo, width: usize, build: &Build<'_>) -> Result<[Projection; 2], Error> {
    let sites = build.host.sites();
    let in_layer = sites.iter().filter(|info| {
        let other = info.site;
        (other.stack, other.layer) == (site.site.stack, site.site.layer) && info.linear_dims().is_some()
    });
    let missing = || AdaptionPromptConfig::refuse(site, "the model gives no access to its key and value projections");
    let of = |info: &SiteInfo, from_end: Option<usize>| {
        let layer = build.host.linear(info.site).ok_or_else(missing)?;
        let (weight, bias) = (float_weight(layer), layer.bias.as_ref().map(|bias| bias.val()));
        let Some(from_end) = from_end else {
            return Ok::<_, Error>(Projection { weight, bias });
        };
        let start = weight.dims()[1] - from_end * width;
        Ok(Projection {
            weight: weight.slice_dim(1, start..start + width),
            bias: bias.map(|bias| bias.slice_dim(0, start..start + width)),
        })
    };
    let fused = [Role::QueryKeyValue, Role::GroupedQueryKeyValue];
    if let Some(info) = in_layer.clone().find(|info| fused.contains(&info.site.role)) {
        if info.interleaved.is_some() {
            let reason = "its query, key and value projections lie head by head in one matrix";
            return Err(AdaptionPromptConfig::refuse(site, reason));
        }
        return Ok([of(info, Some(2))?, of(info, Some(1))?]);
    }
    let with_role = |role| in_layer.clone().find(|info| info.site.role == role).ok_or_else(missing);
    Ok([of(with_role(Role::Key)?, None)?, of(with_role(Role::Value)?, None)?])
}

impl Codec<AdapterHub> for AdaptionPromptConfig {}

impl Codec<Peft> for AdaptionPromptConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        stored.peft_fields(PEFT_TYPE).map(from_fields)
    }

    fn write(&self, sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let name = sites.first().and_then(|info| info.path.rsplit('.').next());
        let mut fields = to_fields(
            &Self {
                adapter_layers: Some(sites.len()),
                target_modules: self.target_modules.clone().or_else(|| name.map(str::to_owned)),
                ..self.clone()
            },
            &[],
        );
        fields.insert("peft_type".to_owned(), PEFT_TYPE.into());
        for (field, value) in [("task_type", Value::Null), ("inference_mode", Value::Bool(true))] {
            fields.entry(field).or_insert(value);
        }
        Ok(fields)
    }
}

/// The prompt of one attention.
#[derive(Module, Debug)]
pub struct AdaptionPrompt {
    /// `P`, `[1, n, d_model]`.
    pub prompt: Param<Tensor<3>>,
    /// `g`, `[1]`.
    pub gate: Param<Tensor<1>>,
    key: Projection,
    value: Projection,
    /// Heads of keys and values.
    heads: usize,
}

/// A frozen projection of the model.
#[derive(Module, Debug)]
struct Projection {
    /// `[d_model, heads * d_head]`.
    weight: Tensor<2>,
    /// `[heads * d_head]`.
    bias: Option<Tensor<1>>,
}

impl Projection {
    /// `[1, n, d_model]` to the same vectors for every query head, `[1, query_heads, n, d_head]`.
    fn forward(&self, x: Tensor<3>, heads: usize, query_heads: usize) -> Tensor<4> {
        let projected = x.matmul(self.weight.clone().unsqueeze());
        let projected = match &self.bias {
            Some(bias) => projected + bias.clone().unsqueeze(),
            None => projected,
        };
        let [_, n, width] = projected.dims();
        let (d_head, queries) = (width / heads, query_heads / heads);
        let split: Tensor<4> = projected.reshape([1, n, heads, d_head]).swap_dims(1, 2);
        let shared: Tensor<5> = split.unsqueeze_dim(2);
        shared
            .expand([1, heads, queries, n, d_head])
            .reshape([1, query_heads, n, d_head])
    }
}

impl SiteAdapter<KeyValueState> for AdaptionPrompt {
    fn apply(&self, state: KeyValueState, _: &Call<'_>) -> KeyValueState {
        let Some(query) = state.query.clone() else {
            return state;
        };
        let [batch, heads, seq, d_head] = query.dims();
        let prompt = self.prompt.val();
        let key = self.key.forward(prompt.clone(), self.heads, heads);
        let value = self.value.forward(prompt, self.heads, heads);
        // As in peft, whatever the factor of the model's own scores.
        let scores = query.matmul(key.swap_dims(2, 3)) / (d_head as f64).sqrt();
        let weights = softmax(scores, 3);
        let read = weights.matmul(value) * self.gate.val().unsqueeze();
        state.plus(read.swap_dims(1, 2).reshape([batch, seq, heads * d_head]))
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl NamedParams for AdaptionPrompt {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![
            ("adaption_prompt".into(), self.prompt.id),
            ("adaption_gate".into(), self.gate.id),
        ]
    }
}
