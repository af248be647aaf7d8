//! How prefixes enter the system: the family that reads configurations, the method that builds layers.

use std::fmt;

use adapters_core::target::Target;
use adapters_core::{
    AnyMethod, Attached, Build, ConfigPart, Erased, ErasedMethod, Error, Format, Host, MethodFamily, Role, Shared,
    SiteInfo, SiteKind, SiteLayer, Stack, StoredConfig, Tensors, config,
};
use adapters_nn::ops::Activation;
use serde_json::{Map, Value};

use crate::compat::{PrefixTuningWire, from_peft, to_peft};
use crate::config::{Form, Gating, PrefixTuningConfig, Reparametrization};
use crate::eject::flattened;
use crate::error::PrefixError;
use crate::init;
use crate::module::{Gate, Mlp, Names, Place, PrefixLayer, Source};

/// The family's name.
pub(crate) const FAMILY: &str = "prefix_tuning";

/// Identifiers of the reference.
const IDENTIFIERS: &[&str] = &["prefix_tuning", "prefix_tuning_flat"];

/// A checked [`PrefixTuningConfig`], which can be attached.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefix {
    config: PrefixTuningConfig,
}

impl PrefixTuningConfig {
    /// The checked form, which can be attached.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn into_method(self) -> Result<Prefix, PrefixError> {
        self.check()?;
        Ok(Prefix { config: self })
    }
}

impl Prefix {
    /// The configuration.
    pub fn config(&self) -> &PrefixTuningConfig {
        &self.config
    }

    /// Whether an MLP makes the vectors.
    pub fn is_reparametrized(&self) -> bool {
        self.config.reparametrization != Reparametrization::Flat
    }

    /// The same prefix with the vectors themselves as parameters.
    pub(crate) fn flat(&self) -> Self {
        let mut config = self.config.clone();
        if let Reparametrization::Mlp { bottleneck_size, .. } = config.reparametrization
            && config.form == Form::Peft
        {
            let width = Value::from(bottleneck_size);
            config.extra.insert("encoder_hidden_size".to_owned(), width);
        }
        config.reparametrization = Reparametrization::Flat;
        Self { config }
    }

    /// The attentions it is aimed at, stack by stack.
    fn places(&self, host: &dyn Host) -> Result<Vec<Place>, Error> {
        let has = |stack| host.sites().iter().any(|info| info.site.stack == stack);
        let turns = match self.config.form == Form::Peft && has(Stack::Encoder) && has(Stack::Decoder) {
            true => 2,
            false => 1,
        };
        let mut places: Vec<Place> = Vec::new();
        for info in self.target().select(host)?.sites {
            let SiteKind::KeyValue { heads, d_head } = info.kind else {
                continue;
            };
            let stack = info.site.stack;
            match places.iter_mut().find(|place| place.stack == stack) {
                Some(place) => place.sites.push(info.site),
                None => places.push(Place {
                    name: host.attention_name(stack),
                    stack,
                    sites: vec![info.site],
                    turns,
                    heads,
                    d_head,
                }),
            }
        }
        Ok(places)
    }

    /// How the vectors of each place are made.
    pub(crate) fn sources(&self, host: &dyn Host) -> Result<Vec<Source>, Error> {
        let source = |place: Place| {
            let (names, d_in) = match self.config.form {
                Form::AdapterHub => {
                    let at = |part: &str| format!("{}.{part}", place.name);
                    let names = Names {
                        embedding: at("wte.weight"),
                        transform: at("control_trans"),
                        flat: at("control_trans"),
                        rows: false,
                    };
                    (names, host.d_model())
                }
                Form::Peft => {
                    let names = Names {
                        embedding: "prompt_encoder.embedding.weight".to_owned(),
                        transform: "prompt_encoder.transform".to_owned(),
                        flat: "prompt_embeddings".to_owned(),
                        rows: true,
                    };
                    (names, place.heads * place.d_head)
                }
            };
            let mlp = match &self.config.reparametrization {
                Reparametrization::Flat => None,
                Reparametrization::Mlp {
                    bottleneck_size,
                    non_linearity,
                } => Some(Mlp {
                    d_in,
                    width: *bottleneck_size,
                    // `prelu` learns its slope and is no plain function.
                    activation: non_linearity.to_lowercase().parse::<Activation>().ok(),
                }),
            };
            Source {
                length: self.config.prefix_length,
                place,
                names,
                mlp,
            }
        };
        Ok(self.places(host)?.into_iter().map(source).collect())
    }

    /// The seed of the initial values, if the configuration has one; zero means none, as in the reference.
    fn seed(&self) -> Option<u64> {
        self.config.init_seed.filter(|seed| *seed != 0).map(|seed| seed as u64)
    }

    fn gate(&self, site: &SiteInfo, build: &Build<'_>) -> Option<Gate> {
        let outputs = match self.config.gating {
            Gating::Off => return None,
            Gating::Shared => 1,
            Gating::PerMatrix => 2,
        };
        let mut rng = build.rng(self.seed(), site.site);
        let (weight, bias) = init::gate(&mut rng, build.host.d_model(), outputs, build.device);
        Some(Gate { weight, bias })
    }
}

/// The fields of recipes and config strings.
fn fields_of(config: &PrefixTuningConfig) -> Map<String, Value> {
    config::to_fields(&PrefixTuningWire::from(config), &[])
}

impl fmt::Display for Prefix {
    /// The config string: only what differs from the preset.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (identifier, preset) = match self.is_reparametrized() {
            true => (IDENTIFIERS[0], PrefixTuningConfig::prefix_tuning()),
            false => (IDENTIFIERS[1], PrefixTuningConfig::prefix_tuning_flat()),
        };
        let preset = fields_of(&preset);
        let mut fields = fields_of(&self.config);
        // What a file said beyond the fields that apply is no part of a config string.
        fields.retain(|key, value| preset.get(key) != Some(value) && !self.config.extra.contains_key(key));
        let part = ConfigPart {
            identifier: identifier.to_owned(),
            fields,
        };
        part.fmt(f)
    }
}

impl ErasedMethod for Prefix {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn config_string(&self) -> String {
        self.to_string()
    }

    fn target(&self) -> Target {
        let target = Target::Roles {
            roles: vec![Role::KeyValue],
            leave_out: self.config.leave_out.clone(),
        };
        // Peft's are in the decoder's own attention alone.
        let hub = self.config.form == Form::AdapterHub;
        let places = [
            (hub && self.config.encoder_prefix, Stack::Encoder),
            (hub && self.config.cross_prefix, Stack::Cross),
        ];
        let stacks: Vec<Stack> = places.iter().filter(|(on, _)| !on).map(|(_, stack)| *stack).collect();
        match stacks.is_empty() {
            true => target,
            false => Target::Outside {
                stacks,
                target: Box::new(target),
            },
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        for source in self.sources(build.host)? {
            if let Some(index) = source.place.sites.iter().position(|other| *other == site.site) {
                let layer = PrefixLayer::new(source, index, self.gate(site, build), self.config.dropout);
                return Ok(SiteLayer::KeyValue(Erased::new(layer)));
            }
        }
        Err(Error::CannotBuild {
            method: FAMILY,
            path: site.path.clone(),
            reason: "it acts on keys and values".to_owned(),
        })
    }

    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let mut rng = build.shared_rng(self.seed());
        let sources = self.sources(build.host)?;
        Ok(sources.iter().fold(Shared::new(), |shared, source| {
            shared.and(source.draw(&mut rng, build.device))
        }))
    }

    fn owns(&self, param: &str) -> bool {
        let parts = [".wte.weight", ".control_trans", "prompt_encoder.", "prompt_embeddings"];
        parts.iter().any(|part| param.contains(part))
    }

    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        match format {
            Format::AdapterHub => format!("prefix_tuning.prefix_tunings.{adapter}.{param}"),
            Format::Peft => param.to_owned(),
        }
    }

    fn key(&self, _format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        let part = param.trim_start_matches("gate.");
        format!("{}.prefix_tuning.prefix_gates.{adapter}.{part}", site.path)
    }

    fn is_duplicate(&self, _format: Format, key: &str) -> bool {
        // Every layer of the reference holds what all of them share; peft's file holds what the MLP makes.
        key.contains(".prefix_tuning.pool.") || (key == "prompt_embeddings" && self.is_reparametrized())
    }

    fn adjusted_to(&self, _format: Format, tensors: &Tensors) -> Option<AnyMethod> {
        let mut keys = tensors.keys();
        let flat = match self.config.form {
            // The reference's configuration of an ejected prefix still says that there is an MLP.
            Form::AdapterHub => keys.any(|key| key.ends_with(".control_trans")),
            // Peft saves what the MLP makes in its place.
            Form::Peft => !keys.any(|key| key.starts_with("prompt_encoder.")),
        };
        (flat && self.is_reparametrized()).then(|| AnyMethod::erased(self.flat()))
    }

    fn positions(&self) -> usize {
        self.first_position()
    }

    fn first_position(&self) -> usize {
        match self.config.form {
            Form::AdapterHub => 0,
            Form::Peft => self.config.prefix_length,
        }
    }

    fn to_storage(&self, format: Format, adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
        match (format, self.config.form) {
            (Format::Peft, Form::Peft) => flattened(adapter, host),
            _ => Ok(None),
        }
    }

    fn write(&self, format: Format, _sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        let because = match (format, self.config.form) {
            (Format::AdapterHub, Form::AdapterHub) => return Ok(fields_of(&self.config)),
            (Format::Peft, Form::Peft) => {
                let places = self.places(host)?;
                let place = places.first().ok_or_else(|| Error::CannotBuild {
                    method: FAMILY,
                    path: host.class_name().to_owned(),
                    reason: "the model has no attention it acts on".to_owned(),
                })?;
                return Ok(to_peft(&self.config, place));
            }
            (Format::AdapterHub, Form::Peft) => "the tokens keep their positions",
            (Format::Peft, Form::AdapterHub) => "the tokens' positions begin after the prefix",
        };
        Err(Error::config(FAMILY, PrefixError::NotExpressible { format, because }))
    }
}

/// Reads prefix tuning configurations.
#[derive(Clone, Copy, Debug)]
pub struct PrefixFamily;

impl MethodFamily for PrefixFamily {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn identifiers(&self) -> &'static [&'static str] {
        IDENTIFIERS
    }

    fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<AnyMethod, Error> {
        let mut all = fields_of(&Error::in_config(FAMILY, PrefixTuningConfig::preset(identifier))?);
        let form = "form".to_owned();
        Error::in_config(FAMILY, config::refuse_unknown(&fields, all.keys().chain([&form])))?;
        all.extend(fields);
        method(all)
    }

    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<AnyMethod, Error>> {
        match stored.format {
            Format::AdapterHub => {
                let mine = stored.fields.get("architecture")? == FAMILY;
                mine.then(|| method(stored.fields.clone()))
            }
            Format::Peft => from_peft(stored.fields).map(|config| checked(config?)),
        }
    }
}

/// From a wire object to a checked method.
fn method(fields: Map<String, Value>) -> Result<AnyMethod, Error> {
    let wire: PrefixTuningWire = Error::in_config(FAMILY, config::from_fields(fields))?;
    checked(Error::in_config(FAMILY, PrefixTuningConfig::try_from(wire))?)
}

fn checked(config: PrefixTuningConfig) -> Result<AnyMethod, Error> {
    Ok(AnyMethod::erased(Error::in_config(FAMILY, config.into_method())?))
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<AnyMethod, Error> {
        adapters_core::Registry::default()
            .with(adapters_core::MethodEntry::family(FAMILY, &PrefixFamily))
            .parse(text)
    }

    #[test]
    fn config_strings_read_and_print() {
        for text in [
            "prefix_tuning",
            "prefix_tuning_flat[prefix_length=5]",
            "prefix_tuning[bottleneck_size=800,non_linearity=prelu,prefix_length=10]",
            "prefix_tuning[shared_gating=false,use_gating=true]",
            "prefix_tuning[cross_prefix=false,leave_out=[0,3]]",
            "prefix_tuning_flat[form=peft]",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let flat = parse("prefix_tuning[flat=true]").unwrap();
        assert_eq!(flat.to_string(), "prefix_tuning_flat");
    }

    #[test]
    fn slips_are_named() {
        for (text, part) in [
            ("prefix_tuning[prefix_lenght=4]", "did you mean `prefix_length`?"),
            ("prefix_tuning[prefix_length=0]", "`prefix_length` is out of range"),
            ("prefix_tuning[non_linearity=tan]", "found `tan`"),
            ("prefix_tuning[form=hub]", "unknown variant `hub`"),
            ("prefix_tuning[form=peft,dropout=0.5]", "`dropout`"),
        ] {
            let error = parse(text).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(part), "{text}: {source}");
        }
    }

    #[test]
    fn peft_files_are_read_or_refused_by_name() {
        let read = |fields: Value| {
            let Value::Object(fields) = fields else { unreachable!() };
            let stored = StoredConfig {
                format: Format::Peft,
                fields: &fields,
                version: None,
                versioned: false,
            };
            PrefixFamily.read(&stored)
        };
        let method = read(json!({
            "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "prefix_projection": true, "encoder_hidden_size": 9,
            "task_type": "CAUSAL_LM",
        }));
        let method = method.unwrap().unwrap();
        assert_eq!(
            method.to_string(),
            "prefix_tuning[bottleneck_size=9,prefix_length=4,form=peft]"
        );
        assert_eq!((method.positions(), method.first_position()), (4, 4));
        let file = |key: &str| Tensors::from([(key.to_owned(), TensorData::from([0.0f32]))]);
        let flat = method.adjusted_to(Format::Peft, &file("prompt_embeddings")).unwrap();
        assert_eq!(flat.to_string(), "prefix_tuning_flat[prefix_length=4,form=peft]");
        assert!(
            method
                .adjusted_to(Format::Peft, &file("prompt_encoder.embedding.weight"))
                .is_none()
        );
        assert!(read(json!({"peft_type": "LORA"})).is_none());
        for (fields, named) in [
            (json!({"num_virtual_tokens": 0}), "prefix_length"),
            (
                json!({"num_virtual_tokens": 1, "prefix_projection": true}),
                "encoder_hidden_size",
            ),
            (
                json!({"num_virtual_tokens": 1, "num_transformer_submodules": 3}),
                "num_transformer_submodules",
            ),
        ] {
            let mut fields = fields;
            fields["peft_type"] = "PREFIX_TUNING".into();
            let error = read(fields).unwrap().unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(named), "{source}");
        }
    }
}
