//! How LoRA enters the system: the family that reads its configurations, the method that builds its layers.

use std::fmt;
use std::sync::Arc;

use adapters_core::store::Grammar;
use adapters_core::target::{Target, pattern_value};
use adapters_core::{
    Build, ConfigPart, Erased, Error, Host, Method, MethodFamily, SiteInfo, SiteLayer, StoredConfig, draw, nearest,
};
use burn::module::Param;
use burn::tensor::{FloatDType, Tensor, TensorData};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::compat::{LoraWire, PeftLoraWire, to_adapterhub, to_peft};
use crate::config::{Dtype, LoraConfig, LoraTarget, Mode, Scaling};
use crate::error::LoraError;
use crate::init::{init_a, init_b};
use crate::module::{Gate, LowRank};
use crate::variants::OutputScale;

/// The family's name.
const FAMILY: &str = "lora";

/// A checked [`LoraConfig`]. Made by [`LoraConfig::check`].
#[derive(Clone, Debug, PartialEq)]
pub struct Lora(LoraConfig);

impl Lora {
    pub(crate) fn from_checked(config: LoraConfig) -> Self {
        Self(config)
    }

    /// The configuration.
    pub fn config(&self) -> &LoraConfig {
        &self.0
    }

    /// Rank and scale at a path.
    fn rank_and_scale(&self, path: &str) -> Result<(usize, f64), Error> {
        let config = &self.0;
        let ranks = config.rank_pattern.iter().map(|(k, v)| (k.as_str(), *v));
        let alphas = config.alpha_pattern.iter().map(|(k, v)| (k.as_str(), *v));
        let rank = pattern_value(ranks, path)?.unwrap_or(config.rank);
        let alpha = pattern_value(alphas, path)?.unwrap_or(config.alpha);
        let scale = match config.scaling {
            Scaling::Standard | Scaling::Gated => alpha / rank as f64,
            Scaling::RankStabilised => alpha / (rank as f64).sqrt(),
        };
        Ok((rank, scale))
    }
}

impl fmt::Display for Lora {
    /// The config string: only what differs from the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = object(&LoraWire::from(self.0.clone()));
        // What a file said beyond the known fields is no part of a config string.
        fields.retain(|key, _| !self.0.extra.contains_key(key));
        let defaults = object(&LoraWire::default());
        let fields = fields.into_iter().filter(|(k, v)| defaults.get(k) != Some(v));
        let part = ConfigPart {
            identifier: FAMILY.to_owned(),
            fields: fields.collect(),
        };
        part.fmt(f)
    }
}

impl Method for Lora {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn target(&self) -> Target {
        match &self.0.target {
            LoraTarget::Places(places) => Target::Roles {
                roles: places.roles(),
                leave_out: places.leave_out.clone(),
            },
            LoraTarget::Modules(modules) => Target::Modules(modules.clone()),
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let Some((d_in, d_out)) = site.linear_dims() else {
            return Err(Error::CannotBuild {
                method: FAMILY,
                path: site.path.clone(),
                reason: "it adapts linear layers only".to_owned(),
            });
        };
        let config = &self.0;
        let (rank, scale) = self.rank_and_scale(&site.path)?;
        let mut rng = build.rng(config.seed, site.site);
        let matrix = |data: TensorData| {
            let tensor = Tensor::<2>::from_data(data, build.device);
            Param::from_tensor(match config.dtype {
                Some(dtype) => tensor.cast(float_dtype(dtype)),
                None => tensor,
            })
        };
        let (a, b) = (
            init_a(config.init, &mut rng, rank, d_in),
            init_b(config.init, &mut rng, d_out, rank),
        );
        let gate = (config.scaling == Scaling::Gated).then(|| Gate {
            weight: Param::from_tensor(Tensor::from_data(draw::normal(&mut rng, [1, d_in], 0.02), build.device)),
            bias: Param::from_tensor(Tensor::from_data(
                draw::uniform(&mut rng, [1], (d_in as f32).sqrt().recip()),
                build.device,
            )),
        });
        Ok(SiteLayer::Linear(match config.mode {
            Mode::Add => Erased::new(LowRank {
                a: matrix(a),
                b: matrix(b),
                gate,
                scale,
                dropout: config.dropout,
            }),
            Mode::Scale => Erased::new(OutputScale {
                l: matrix(b),
                gate,
                scale,
            }),
        }))
    }

    fn key(&self, grammar: Grammar, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match grammar {
            Grammar::AdapterHub => format!("{}.loras.{adapter}.{param}", site.path),
            Grammar::Peft => format!("{}.{param}.weight", site.path),
        }
    }

    fn wire(&self, grammar: Grammar, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        match grammar {
            Grammar::AdapterHub => to_adapterhub(&self.0, sites, host).map(|wire| object(&wire)),
            Grammar::Peft => to_peft(&self.0, sites, host).map(|wire| object(&wire)),
        }
        .map_err(|e| Error::config(FAMILY, e))
    }
}

/// A wire struct as a JSON object. Whole numbers stay whole, as the Python libraries write them.
fn object(wire: &impl Serialize) -> Map<String, Value> {
    let mut map = match serde_json::to_value(wire) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    for key in ["alpha", "lora_alpha"] {
        if let Some(whole) = map
            .get(key)
            .and_then(Value::as_f64)
            .filter(|x| x.fract() == 0.0 && x.abs() < 1e15)
        {
            map[key] = Value::from(whole as i64);
        }
    }
    map
}

fn float_dtype(dtype: Dtype) -> FloatDType {
    match dtype {
        Dtype::Float32 => FloatDType::F32,
        Dtype::Float16 => FloatDType::F16,
        Dtype::Bfloat16 => FloatDType::BF16,
    }
}

/// Reads LoRA configurations.
#[derive(Clone, Copy, Debug)]
pub struct LoraFamily;

impl MethodFamily for LoraFamily {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn identifiers(&self) -> &'static [&'static str] {
        &["lora"]
    }

    fn configure(&self, _identifier: &str, fields: Map<String, Value>) -> Result<Arc<dyn Method>, Error> {
        let known = known_fields();
        if let Some(field) = fields.keys().find(|field| !known.contains(field)) {
            let unknown = LoraError::UnknownField {
                field: field.clone(),
                nearest: nearest(field, known.iter().map(String::as_str)),
                known: known.join(", "),
            };
            return Err(Error::config(FAMILY, unknown));
        }
        method::<LoraWire>(fields)
    }

    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<Arc<dyn Method>, Error>> {
        let mut fields = stored.fields.clone();
        match stored.grammar {
            Grammar::AdapterHub => (fields.get("architecture")? == "lora").then(|| {
                // Before 1.1.0 the reference computed with alpha = r, whatever alpha said.
                if stored.version.is_none_or(|version| version < (1, 1))
                    && let Some(r) = fields.get("r").cloned()
                {
                    fields.insert("alpha".to_owned(), r);
                }
                method::<LoraWire>(fields)
            }),
            Grammar::Peft => (fields.get("peft_type")? == "LORA").then(|| method::<PeftLoraWire>(fields)),
        }
    }
}

/// From a wire object of type `W` to a checked method.
fn method<W>(fields: Map<String, Value>) -> Result<Arc<dyn Method>, Error>
where
    W: serde::de::DeserializeOwned,
    LoraConfig: TryFrom<W, Error = LoraError>,
{
    let parse = || {
        let wire: W =
            serde_json::from_value(Value::Object(fields)).map_err(|e| LoraError::Field { reason: e.to_string() })?;
        LoraConfig::try_from(wire)?.check()
    };
    match parse() {
        Ok(lora) => Ok(Arc::new(lora)),
        Err(error) => Err(Error::config(FAMILY, error)),
    }
}

/// Every field a user may write.
fn known_fields() -> Vec<String> {
    let mut fields: Vec<String> = object(&LoraWire::default()).into_iter().map(|(k, _)| k).collect();
    fields.extend(
        [
            "target_modules",
            "exclude_modules",
            "layers",
            "rank_pattern",
            "alpha_pattern",
            "use_rslora",
        ]
        .map(str::to_owned),
    );
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Arc<dyn Method>, Error> {
        adapters_core::Registry(&[&LoraFamily]).parse(text)
    }

    #[test]
    fn config_strings_read_and_print() {
        for text in [
            "lora",
            "lora[r=16,alpha=32]",
            "lora[attn_matrices=[q,k,v],output_lora=true]",
            "lora[target_modules=all-linear]",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn slips_are_named() {
        for (text, parts) in [
            ("lora[rank=4]", &["unknown field `rank`", "known: "][..]),
            ("lora[alhpa=4]", &["did you mean `alpha`?"]),
            ("lora[r=0]", &["`r` is 0, expected at least 1"]),
            ("lora[r=x]", &["invalid type: string"]),
            (
                "lorra",
                &["unknown adapter configuration `lorra`; did you mean `lora`?"],
            ),
            ("lora|lora", &["union of 2"]),
        ] {
            let error = parse(text).unwrap_err();
            let all = format!(
                "{error}: {}",
                std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default()
            );
            for part in parts {
                assert!(all.contains(part), "{text}: {all}");
            }
        }
    }

    #[test]
    fn the_scale_follows_patterns_and_rslora() {
        let mut config = LoraConfig::new(4).with_alpha(8.0);
        config.rank_pattern.insert("query".into(), 16);
        config.alpha_pattern.insert("value".into(), 2.0);
        let lora = config.clone().check().unwrap();
        assert_eq!(lora.rank_and_scale("a.query").unwrap(), (16, 0.5));
        assert_eq!(lora.rank_and_scale("a.value").unwrap(), (4, 0.5));
        let lora = config.with_scaling(Scaling::RankStabilised).check().unwrap();
        assert_eq!(lora.rank_and_scale("a.key").unwrap(), (4, 4.0));
    }

    #[test]
    fn old_files_mean_alpha_equals_r() {
        let written = json!({"architecture": "lora", "r": 2, "alpha": 4, "init_weights": "bert"});
        let Value::Object(map) = written else { unreachable!() };
        let read = |version| {
            let stored = StoredConfig {
                grammar: Grammar::AdapterHub,
                fields: &map,
                version,
                versioned: version.is_some(),
            };
            LoraFamily.read(&stored).unwrap().unwrap().to_string()
        };
        assert_eq!(read(Some((1, 3))), "lora[r=2,alpha=4,init_weights=bert]");
        assert_eq!(read(Some((1, 0))), "lora[r=2,alpha=2,init_weights=bert]");
        assert_eq!(read(None), "lora[r=2,alpha=2,init_weights=bert]");
    }
}
