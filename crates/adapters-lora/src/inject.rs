//! How the family enters the system: what reads its configurations, and the method that builds its layers.

use std::fmt;
use std::sync::Arc;

use adapters_core::target::{ModuleTarget, Target};
use adapters_core::{
    Attached, Build, ConfigError, ConfigPart, Error, Format, Host, Method, MethodFamily, Shared, SiteInfo, SiteLayer,
    StoredConfig, config,
};
use serde_json::{Map, Value};

use crate::build::Builder;
use crate::compat::{LoraWire, from_peft, to_adapterhub, to_peft};
use crate::config::BiasTraining;
use crate::variants::{DoraForm, Variant, VeraForm};

/// The family's name.
pub(crate) const FAMILY: &str = "lora";

/// A checked configuration of the LoRA family. Made by [`LoraConfig::check`](crate::LoraConfig::check) and
/// [`Variant::check`].
#[derive(Clone, Debug, PartialEq)]
pub struct Lora(Variant);

impl Lora {
    pub(crate) fn from_checked(variant: Variant) -> Self {
        Self(variant)
    }

    /// The configuration.
    pub fn variant(&self) -> &Variant {
        &self.0
    }

    /// Modules trained as a whole.
    pub(crate) fn saved_modules(&self) -> Option<ModuleTarget> {
        let modules = self.0.low_rank()?.modules_to_save.clone()?;
        Some(ModuleTarget::new(modules))
    }
}

impl fmt::Display for Lora {
    /// The config string: only what differs from the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identifier = self.0.identifier();
        let defaults = Variant::preset(identifier).map(fields_of).unwrap_or_default();
        let extra = match &self.0 {
            Variant::Ia3(config) => Some(&config.extra),
            other => other.low_rank().map(|lora| &lora.extra),
        };
        let mut fields = fields_of(self.0.clone());
        // What a file said beyond the known fields is no part of a config string.
        fields.retain(|key, value| defaults.get(key) != Some(value) && extra.is_none_or(|e| !e.contains_key(key)));
        let peft = match &self.0 {
            Variant::Dora(config) => config.form == DoraForm::Peft,
            Variant::Vera(config) => config.form == VeraForm::Vectors,
            _ => false,
        };
        if peft {
            fields.insert("form".to_owned(), "peft".into());
        }
        let part = ConfigPart {
            identifier: identifier.to_owned(),
            fields,
        };
        fmt::Display::fmt(&part, f)
    }
}

/// The fields of recipes and config strings.
fn fields_of(variant: Variant) -> Map<String, Value> {
    config::to_fields(&LoraWire::from(variant), &["alpha"])
}

impl Method for Lora {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn target(&self) -> Target {
        let mut targets = vec![self.0.target().to_target()];
        targets.extend(self.saved_modules().map(Target::Modules));
        if self.0.low_rank().is_some_and(|lora| lora.bias == BiasTraining::All) {
            targets.push(Target::Biased);
        }
        match targets.len() {
            1 => targets.remove(0),
            _ => Target::Any(targets),
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        Builder::new(self, site, build).layer()
    }

    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        crate::build::shared(&self.0, build)
    }

    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match (format, param) {
            (Format::AdapterHub, _) => format!("{}.loras.{adapter}.{param}", site.path),
            (Format::Peft, "lora_A" | "lora_B") if matches!(self.0, Variant::Ia3(_)) => format!("{}.ia3_l", site.path),
            (Format::Peft, "lora_A" | "lora_B") => format!("{}.{param}.weight", site.path),
            (Format::Peft, _) => format!("{}.{param}", site.path),
        }
    }

    fn stored(&self, _format: Format, adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
        match &self.0 {
            Variant::Lora(config) if config.init.takes_from_base() => {
                crate::origin::as_plain_lora(config, adapter, host).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn wire(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        let fields = match format {
            Format::AdapterHub => to_adapterhub(&self.0, sites, host).map(|wire| config::to_fields(&wire, &["alpha"])),
            Format::Peft => to_peft(&self.0, sites, host),
        };
        Error::in_config(FAMILY, fields)
    }
}

/// Reads the family's configurations.
#[derive(Clone, Copy, Debug)]
pub struct LoraFamily;

impl MethodFamily for LoraFamily {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn identifiers(&self) -> &'static [&'static str] {
        &["lora", "ia3", "dora", "vera", "dvora", "mtl_lora"]
    }

    fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<Arc<dyn Method>, Error> {
        Error::in_config(FAMILY, config::refuse_unknown(&fields, known_fields().iter()))?;
        let mut all = Variant::preset(identifier).map(fields_of).unwrap_or_default();
        all.extend(fields);
        method(ours(all))
    }

    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<Arc<dyn Method>, Error>> {
        let mut fields = stored.fields.clone();
        match stored.format {
            Format::AdapterHub => {
                let architecture = fields.get("architecture")?.as_str()?;
                ["lora", "mtl_lora"].contains(&architecture).then(|| {
                    // Before 1.1.0 the reference computed with alpha = r, whatever alpha said.
                    if stored.version.is_none_or(|version| version < (1, 1))
                        && let Some(r) = fields.get("r").cloned()
                    {
                        fields.insert("alpha".to_owned(), r);
                    }
                    method(ours(fields))
                })
            }
            Format::Peft => from_peft(&fields).map(method),
        }
    }
}

/// A configuration in the reference's form, with the choice of peft's definitions that is ours.
fn ours(mut fields: Map<String, Value>) -> Result<Variant, ConfigError> {
    let peft = match fields.shift_remove("form") {
        None => false,
        Some(form) if form == "peft" => true,
        Some(form) => {
            return Err(ConfigError::OutOfRange {
                field: "form",
                expected: "`peft`",
                found: form.to_string(),
            });
        }
    };
    let mut variant = config::from_fields::<LoraWire>(fields).and_then(Variant::try_from)?;
    match &mut variant {
        Variant::Dora(config) if peft => config.form = DoraForm::Peft,
        Variant::Vera(config) if peft => config.form = VeraForm::Vectors,
        _ if peft => {
            return Err(ConfigError::Unsupported {
                field: "form",
                found: format!("peft: {} has one definition", variant.identifier()),
            });
        }
        _ => {}
    }
    Ok(variant)
}

/// The checked method of a configuration.
fn method(variant: Result<Variant, ConfigError>) -> Result<Arc<dyn Method>, Error> {
    let lora = variant.and_then(Variant::check);
    Ok(Arc::new(Error::in_config(FAMILY, lora)?))
}

/// Every field a user may write.
fn known_fields() -> Vec<String> {
    let mtl = Variant::preset("mtl_lora").map(fields_of).unwrap_or_default();
    let mut fields: Vec<String> = mtl.into_iter().map(|(k, _)| k).collect();
    fields.extend(
        [
            "target_modules",
            "exclude_modules",
            "layers",
            "rank_pattern",
            "alpha_pattern",
            "use_rslora",
            "bias",
            "lora_bias",
            "modules_to_save",
            "feedforward_modules",
            "form",
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
        adapters_core::Registry(&[&[&LoraFamily]]).parse(text)
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
            ("lora|lora[r=4]", &["`lora` and `lora[r=4]` both at `query`"]),
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
    fn old_files_mean_alpha_equals_r() {
        let written = json!({"architecture": "lora", "r": 2, "alpha": 4, "init_weights": "bert"});
        let Value::Object(map) = written else { unreachable!() };
        let read = |version| {
            let stored = StoredConfig {
                format: Format::AdapterHub,
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
