//! The two file formats. Neither can express the other's prefix, since they differ in what is computed.

use adapters_core::config::{from_fields, read_architecture, write_architecture};
use adapters_core::{
    AdapterHub, Codec, ConfigError, Format, Host, Method, Peft, SiteInfo, Stack, StoredConfig, Tensors,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::prefix_tuning::{Definition, PrefixTuningConfig};
use crate::vectors::FLAT_PEFT;

impl Codec<AdapterHub> for PrefixTuningConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        read_architecture(Self::NAME, stored.fields)
    }

    fn write(&self, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        if self.definition == Definition::Peft {
            return Err(ConfigError::NotExpressible {
                format: Format::AdapterHub,
                what: "a prefix after which the positions of the tokens begin (`form=peft`)",
            });
        }
        let mut fields = write_architecture(Self::NAME, self, &[]);
        fields.shift_remove("form");
        Ok(fields)
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        let param = param.trim_start_matches("gate.");
        format!("{}.prefix_tuning.prefix_gates.{adapter}.{param}", site.path)
    }

    fn shared_key(&self, adapter: &str, param: &str) -> String {
        match param.split_once('/') {
            Some((holder, param)) => format!("{holder}.prefix_tuning.prefix_tunings.{adapter}.{param}"),
            None => format!("prefix_tuning.prefix_tunings.{adapter}.{param}"),
        }
    }

    /// Every layer of the `adapters` library holds what all of them share.
    fn is_duplicate(&self, key: &str) -> bool {
        key.contains(".prefix_tuning.pool.")
    }

    /// The configuration of a prefix that the `adapters` library ejected still says that there is an MLP.
    fn adjusted_to(&self, tensors: &Tensors) -> Option<Self> {
        let flat = tensors.keys().any(|key| key.ends_with(".control_trans"));
        self.flattened().filter(|_| flat)
    }
}

/// `peft_type` of peft's `PrefixTuningConfig`.
const PEFT_TYPE: &str = "PREFIX_TUNING";

/// Peft's name of the MLP's width.
const WIDTH: &str = "encoder_hidden_size";

/// The fields of peft's `PrefixTuningConfig` that are read. The others are kept and written back, except those that
/// describe the model.
#[derive(Deserialize)]
struct PeftFields {
    num_virtual_tokens: usize,
    #[serde(default)]
    prefix_projection: bool,
    encoder_hidden_size: Option<usize>,
    num_transformer_submodules: Option<usize>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl TryFrom<PeftFields> for PrefixTuningConfig {
    type Error = ConfigError;

    fn try_from(file: PeftFields) -> Result<Self, ConfigError> {
        if let Some(stacks @ 3..) = file.num_transformer_submodules {
            return Err(ConfigError::Unsupported {
                field: "num_transformer_submodules",
                found: stacks.to_string(),
            });
        }
        let mut config = Self {
            definition: Definition::Peft,
            flat: !file.prefix_projection,
            prefix_length: file.num_virtual_tokens,
            extra: file.extra,
            ..Self::prefix_tuning()
        };
        for field in ["peft_type", "num_layers", "num_attention_heads", "token_dim"] {
            config.extra.shift_remove(field);
        }
        match (file.prefix_projection, file.encoder_hidden_size) {
            (true, Some(width)) => config.bottleneck_size = width,
            (true, None) => {
                return Err(ConfigError::OutOfRange {
                    field: WIDTH,
                    expected: "a number where `prefix_projection` is true",
                    found: "none".to_owned(),
                });
            }
            (false, width) => config.extra.extend(width.map(|width| (WIDTH.to_owned(), width.into()))),
        }
        Ok(config)
    }
}

impl Codec<Peft> for PrefixTuningConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        stored
            .is_peft(PEFT_TYPE)
            .then(|| from_fields::<PeftFields>(stored.fields.clone())?.try_into())
    }

    fn names() -> &'static [(&'static str, &'static str)] {
        &[("prefix_length", "num_virtual_tokens"), ("bottleneck_size", WIDTH)]
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let refused = |what| ConfigError::NotExpressible {
            format: Format::Peft,
            what,
        };
        if self.definition == Definition::AdapterHub {
            return Err(refused(
                "a prefix that leaves the positions of the tokens as they are (needs `form=peft`)",
            ));
        }
        let stacks = self.stacks(sites.iter().copied(), host);
        let attentions = stacks
            .first()
            .ok_or_else(|| refused("a prefix without attention layers"))?;
        let mut fields = self.extra.clone();
        let kept_width = fields.shift_remove(WIDTH).unwrap_or_default();
        // Without the kind of task peft's loader makes a model that ignores the prefix.
        let task = match (attentions.stack, attentions.submodules) {
            (Stack::Decoder, 1) => "CAUSAL_LM",
            (Stack::Decoder, _) => "SEQ_2_SEQ_LM",
            (Stack::Encoder | Stack::Cross | Stack::Image, _) => "FEATURE_EXTRACTION",
        };
        fields.entry("task_type").or_insert(task.into());
        fields.entry("inference_mode").or_insert(true.into());
        let width = match self.flat {
            true => kept_width,
            false => self.bottleneck_size.into(),
        };
        fields.extend([
            ("peft_type".to_owned(), PEFT_TYPE.into()),
            ("num_virtual_tokens".to_owned(), self.prefix_length.into()),
            ("prefix_projection".to_owned(), (!self.flat).into()),
            (WIDTH.to_owned(), width),
            ("num_layers".to_owned(), attentions.sites.len().into()),
            ("num_attention_heads".to_owned(), attentions.heads.into()),
            ("token_dim".to_owned(), (attentions.heads * attentions.d_head).into()),
            ("num_transformer_submodules".to_owned(), attentions.submodules.into()),
        ]);
        Ok(fields)
    }

    fn shared_key(&self, _adapter: &str, param: &str) -> String {
        param.to_owned()
    }

    /// What the MLP computes is not read where the MLP is.
    fn is_duplicate(&self, key: &str) -> bool {
        key == FLAT_PEFT && !self.flat
    }

    /// Peft saves what the MLP computes in its place.
    fn adjusted_to(&self, tensors: &Tensors) -> Option<Self> {
        let flat = !tensors.keys().any(|key| key.starts_with("prompt_encoder."));
        self.flattened().filter(|_| flat)
    }
}
