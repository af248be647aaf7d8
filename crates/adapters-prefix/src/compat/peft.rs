//! Peft's `PrefixTuningConfig`.

use adapters_core::config::{from_fields, to_fields};
use adapters_core::{ConfigError, Error, Stack};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Form, PrefixTuningConfig, Reparametrization};
use crate::error::PrefixError;
use crate::inject::FAMILY;
use crate::module::Place;

/// The part of peft's `PrefixTuningConfig` that is read. The other fields are kept and written back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeftPrefixWire {
    /// Always `PREFIX_TUNING`.
    pub peft_type: String,
    /// Vectors a layer.
    pub num_virtual_tokens: usize,
    /// Whether an MLP makes the vectors.
    pub prefix_projection: bool,
    /// Width of the MLP.
    pub encoder_hidden_size: Option<usize>,
    /// Layers of the model.
    pub num_layers: Option<usize>,
    /// Key and value heads.
    pub num_attention_heads: Option<usize>,
    /// Width of all key and value heads.
    pub token_dim: Option<usize>,
    /// Stacks with vectors; two in encoder-decoder models.
    pub num_transformer_submodules: Option<usize>,
    /// Every other field.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for PeftPrefixWire {
    fn default() -> Self {
        Self {
            peft_type: TYPE.to_owned(),
            num_virtual_tokens: 0,
            prefix_projection: false,
            encoder_hidden_size: None,
            num_layers: None,
            num_attention_heads: None,
            token_dim: None,
            num_transformer_submodules: None,
            extra: Map::new(),
        }
    }
}

const TYPE: &str = "PREFIX_TUNING";

/// Name under which the width of an MLP that is not there is kept.
const WIDTH: &str = "encoder_hidden_size";

/// The configuration of a peft file, `None` if it is another method's.
pub(crate) fn from_peft(fields: &Map<String, Value>) -> Option<Result<PrefixTuningConfig, Error>> {
    (fields.get("peft_type")? == TYPE).then(|| {
        let wire: PeftPrefixWire = Error::in_config(FAMILY, from_fields(fields.clone()))?;
        if let Some(stacks @ 3..) = wire.num_transformer_submodules {
            let refused = ConfigError::Unsupported {
                field: "num_transformer_submodules",
                found: stacks.to_string(),
            };
            return Err(Error::config(FAMILY, refused));
        }
        let mut extra = wire.extra;
        let reparametrization = match (wire.prefix_projection, wire.encoder_hidden_size) {
            (true, Some(bottleneck_size)) => Reparametrization::Mlp {
                bottleneck_size,
                non_linearity: "tanh".to_owned(),
            },
            (true, None) => return Err(Error::config(FAMILY, PrefixError::Missing { field: WIDTH })),
            (false, width) => {
                extra.extend(width.map(|width| (WIDTH.to_owned(), width.into())));
                Reparametrization::Flat
            }
        };
        Ok(PrefixTuningConfig {
            form: Form::Peft,
            reparametrization,
            extra,
            ..PrefixTuningConfig::new(wire.num_virtual_tokens)
        })
    })
}

/// The fields of a peft file, for a model whose attentions are those of `place`.
pub(crate) fn to_peft(config: &PrefixTuningConfig, place: &Place) -> Map<String, Value> {
    let mut extra = config.extra.clone();
    let kept = extra.shift_remove(WIDTH).and_then(|width| width.as_u64());
    for (field, value) in [
        // Without the kind of task peft's loader makes a model that ignores the prefix.
        (
            "task_type",
            match (place.stack, place.turns) {
                (Stack::Decoder, 1) => "CAUSAL_LM".into(),
                (Stack::Decoder, _) => "SEQ_2_SEQ_LM".into(),
                (Stack::Encoder | Stack::Cross, _) => "FEATURE_EXTRACTION".into(),
            },
        ),
        ("inference_mode", true.into()),
    ] {
        extra.entry(field).or_insert(value);
    }
    let width = match &config.reparametrization {
        Reparametrization::Mlp { bottleneck_size, .. } => Some(*bottleneck_size),
        Reparametrization::Flat => kept.map(|width| width as usize),
    };
    let wire = PeftPrefixWire {
        peft_type: TYPE.to_owned(),
        num_virtual_tokens: config.prefix_length,
        prefix_projection: config.reparametrization != Reparametrization::Flat,
        encoder_hidden_size: width,
        num_layers: Some(place.sites.len()),
        num_attention_heads: Some(place.heads),
        token_dim: Some(place.heads * place.d_head),
        num_transformer_submodules: Some(place.turns),
        extra,
    };
    to_fields(&wire, &[])
}
