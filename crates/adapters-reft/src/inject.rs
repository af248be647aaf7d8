//! How ReFT enters the system: the family that reads configurations, the method that builds layers.

use std::fmt;

use adapters_core::target::Target;
use adapters_core::{
    AnyMethod, Attached, Build, ConfigError, ConfigPart, Erased, ErasedMethod, Error, Format, Host, MethodFamily, Role,
    SiteInfo, SiteKind, SiteLayer, StoredConfig, config,
};
use adapters_nn::ops::Activation;
use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};

use crate::compat::ReftWire;
use crate::module::{NonLinearity, ReftLayer, Unit};
use crate::{Layers, ReftConfig, ReftError, init};

/// The family's name.
const FAMILY: &str = "reft";
/// The presets, which are the identifiers of config strings.
const IDENTIFIERS: &[&str] = &["loreft", "noreft", "direft"];
/// The end of the name of a parameter with signs on its diagonal.
const ORIGINAL: &str = "parametrizations.weight.original";

/// A checked [`ReftConfig`], which can be attached.
#[derive(Clone, Debug, PartialEq)]
pub struct Reft {
    config: ReftConfig,
    /// `None` for `prelu`, which learns its slope and is no plain function.
    activation: Option<Activation>,
}

impl ReftConfig {
    /// The checked form, which can be attached.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: as [`check`](Self::check), and [`ConfigError::Unsupported`] for a `dtype` that is not of 32
    /// bits.
    pub fn into_method(self) -> Result<Reft, Error> {
        Error::in_config(FAMILY, self.check())?;
        if let Some(dtype) = self
            .dtype
            .as_deref()
            .filter(|name| !["float32", "float"].contains(name))
        {
            let (field, found) = ("dtype", dtype.to_owned());
            return Err(Error::config(FAMILY, ConfigError::Unsupported { field, found }));
        }
        let name = self.non_linearity.as_deref().unwrap_or("linear").to_lowercase();
        Ok(Reft {
            activation: name.parse().ok(),
            config: self,
        })
    }
}

impl Reft {
    /// The configuration.
    pub fn config(&self) -> &ReftConfig {
        &self.config
    }

    fn unit(&self, d_model: usize, build: &Build<'_>, rng: &mut ChaCha8Rng) -> Unit {
        let (rank, device) = (self.config.r, build.device);
        Unit {
            source: init::linear(rng, [rank, d_model], d_model, device),
            bias: init::linear(rng, [rank], d_model, device),
            non_linearity: NonLinearity {
                slope: self
                    .activation
                    .is_none()
                    .then(|| Param::from_tensor(Tensor::from_floats([0.25], device))),
                function: self.activation.unwrap_or(Activation::Linear),
            },
            projection: match self.config.orthogonality {
                true => init::orthonormal(rng, rank, d_model, device),
                false => init::free(rng, rank, d_model, device),
            },
            subtracts: self.config.subtracts_projection(),
            dropout: self.config.dropout,
        }
    }

    /// The seed of the initial values, if the configuration has one; zero means none, as in the reference.
    fn seed(&self) -> Option<u64> {
        self.config.init_seed.filter(|seed| *seed != 0).map(|seed| seed as u64)
    }

    /// The adapter with `change` made of each sign on the diagonal of an orthogonal projection; `None` where all stay.
    fn with_signs(&self, adapter: &Attached, change: impl Fn(f32) -> f32) -> Option<Attached> {
        if !self.config.orthogonality {
            return None;
        }
        let mut values = adapter.values();
        values.retain(|(_, param), data| {
            let [rank, d_model] = data.shape()[..] else {
                return false;
            };
            // A square projection is an exponential, which has no use for its diagonal.
            if !param.ends_with(ORIGINAL) || rank >= d_model {
                return false;
            }
            let mut all: Vec<f32> = data.iter().collect();
            let mut changed = false;
            for sign in all.iter_mut().step_by(d_model + 1).take(rank) {
                let new = change(*sign);
                changed |= new != *sign;
                *sign = new;
            }
            *data = TensorData::new(all, [rank, d_model]);
            changed
        });
        (!values.is_empty()).then(|| adapter.clone().with_values(values))
    }
}

impl fmt::Display for Reft {
    /// The config string: the preset with the fewest differences, and those.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = fields_of(&self.config);
        // What a file said beyond the known fields is no part of a config string.
        fields.retain(|key, _| !self.config.extra.contains_key(key));
        let parts = IDENTIFIERS.iter().filter_map(|identifier| {
            let preset = fields_of(&ReftConfig::preset(identifier).ok()?);
            let differing = fields.iter().filter(|(key, value)| preset.get(*key) != Some(value));
            Some(ConfigPart {
                identifier: (*identifier).to_owned(),
                fields: differing.map(|(k, v)| (k.clone(), v.clone())).collect(),
            })
        });
        match parts.min_by_key(|part| part.fields.len()) {
            Some(part) => part.fmt(f),
            None => f.write_str(FAMILY),
        }
    }
}

fn fields_of(config: &ReftConfig) -> Map<String, Value> {
    config::to_fields(&ReftWire::from(config), &[])
}

impl ErasedMethod for Reft {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn config_string(&self) -> String {
        self.to_string()
    }

    fn target(&self) -> Target {
        match &self.config.layers {
            Layers::All => Target::Roles {
                roles: vec![Role::LayerOutput],
                leave_out: Vec::new(),
            },
            Layers::Only(layers) => Target::Layers {
                role: Role::LayerOutput,
                layers: layers.clone(),
            },
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let SiteKind::LayerOutput { d_model } = site.kind else {
            return Err(Error::CannotBuild {
                method: FAMILY,
                path: site.path.clone(),
                reason: "it acts on what a layer returns".to_owned(),
            });
        };
        if self.config.orthogonality && self.config.r > d_model {
            let source = ReftError::Conflict {
                field: "r",
                expected: "at most the model's width, as there are no more orthonormal rows",
                found: format!("{}, and the width is {d_model}", self.config.r),
            };
            return Err(Error::config(FAMILY, source));
        }
        let mut rng = build.rng(self.seed(), site.site);
        let units = if self.config.tied_weights { 1 } else { 2 };
        let units = (0..units).map(|_| self.unit(d_model, build, &mut rng)).collect();
        Ok(SiteLayer::Output(Erased::new(ReftLayer {
            units,
            prefix: self.config.prefix_positions,
            suffix: self.config.suffix_positions,
        })))
    }

    fn key(&self, _format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        format!("{}.reft_layer.refts.{adapter}.{param}", site.path)
    }

    /// Signs as the reference wants them: whole numbers, which weight decay may have made smaller.
    fn to_storage(&self, _format: Format, adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        Ok(self.with_signs(adapter, |sign| if sign == 0.0 { 0.0 } else { sign.signum() }))
    }

    /// Signs as the reference reads them: cut to whole numbers.
    fn from_storage(&self, adapter: &Attached) -> Option<Attached> {
        self.with_signs(adapter, f32::trunc)
    }

    fn write(&self, format: Format, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, Error> {
        match format {
            Format::AdapterHub => Ok(fields_of(&self.config)),
            Format::Peft => Err(Error::config(FAMILY, ReftError::NotExpressible { format })),
        }
    }
}

/// Reads ReFT configurations.
#[derive(Clone, Copy, Debug)]
pub struct ReftFamily;

impl MethodFamily for ReftFamily {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn identifiers(&self) -> &'static [&'static str] {
        IDENTIFIERS
    }

    fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<AnyMethod, Error> {
        let preset = Error::in_config(FAMILY, ReftConfig::preset(identifier))?;
        let mut all = fields_of(&preset);
        Error::in_config(FAMILY, config::refuse_unknown(&fields, all.keys()))?;
        all.extend(fields);
        method(all)
    }

    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<AnyMethod, Error>> {
        let mine = stored.format == Format::AdapterHub && stored.fields.get("architecture")? == FAMILY;
        mine.then(|| method(stored.fields.clone()))
    }
}

/// From a wire object to a checked method.
fn method(fields: Map<String, Value>) -> Result<AnyMethod, Error> {
    let wire: ReftWire = Error::in_config(FAMILY, config::from_fields(fields))?;
    let config = Error::in_config(FAMILY, ReftConfig::try_from(wire))?;
    Ok(AnyMethod::erased(config.into_method()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AnyMethod, Error> {
        adapters_core::Registry::default()
            .with(adapters_core::MethodEntry::family(FAMILY, &ReftFamily))
            .parse(text)
    }

    #[test]
    fn config_strings_read_and_print() {
        for text in [
            "loreft",
            "noreft",
            "direft",
            "loreft[r=4,suffix_positions=2]",
            "direft[layers=[0,2],tied_weights=true]",
            "noreft[non_linearity=prelu]",
        ] {
            assert_eq!(parse(text).unwrap().to_string().replace(", ", ","), text);
        }
    }

    #[test]
    fn slips_are_named() {
        for (text, part) in [
            ("loreft[rank=4]", "unknown field `rank`"),
            ("loreft[suffix_position=4]", "did you mean `suffix_positions`?"),
            ("loreft[r=0]", "`r` is out of range"),
            ("noreft[prefix_positions=0]", "`prefix_positions`"),
            ("noreft[dtype=float16]", "`dtype` = float16 is not supported yet"),
        ] {
            let error = parse(text).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(part), "{text}: {source}");
        }
    }
}
