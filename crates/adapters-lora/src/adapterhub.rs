//! AdapterHub's `LoRAConfig`: one object, whose fields choose among LoRA and its variants.

use adapters_core::config::{from_fields, to_fields};
use adapters_core::{ConfigError, Format, Host, SiteInfo, StoredConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::init::Init;
use crate::lora_config::{BiasTraining, LoraConfig};
use crate::scaling::Scaling;

/// The fields that choose the method, and all others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Object {
    /// `lora` or `mtl_lora`.
    pub(crate) architecture: String,
    pub(crate) composition_mode: CompositionMode,
    pub(crate) use_dora: bool,
    pub(crate) vera_d: Option<f64>,
    pub(crate) vera_b: Option<f64>,
    #[serde(flatten)]
    pub(crate) fields: Map<String, Value>,
}

/// What becomes of the layer's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CompositionMode {
    /// The delta is added.
    Add,
    /// The output is scaled: (IA)3.
    Scale,
}

const LORA: &str = "lora";
const MTL_LORA: &str = "mtl_lora";

impl Default for Object {
    fn default() -> Self {
        Self {
            architecture: LORA.to_owned(),
            composition_mode: CompositionMode::Add,
            use_dora: false,
            vera_d: None,
            vera_b: None,
            fields: Map::new(),
        }
    }
}

impl Object {
    /// The object of `stored`, if it describes the method `name`. One that is malformed is reported by plain LoRA.
    pub(crate) fn of(name: &str, stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let architecture = stored.fields.get("architecture")?.as_str()?;
        if ![LORA, MTL_LORA].contains(&architecture) {
            return None;
        }
        let mut object: Self = match from_fields(stored.fields.clone()) {
            Ok(object) => object,
            Err(error) => return (name == LORA).then_some(Err(error)),
        };
        if object.method() != name {
            return None;
        }
        // Before 1.1.0 the reference computed with alpha = r, whatever alpha was set to.
        if stored.version.is_none_or(|version| version < (1, 1))
            && let Some(r) = object.fields.get("r").cloned()
        {
            object.fields.insert("alpha".to_owned(), r);
        }
        Some(Ok(object))
    }

    /// The method that the choosing fields describe.
    fn method(&self) -> &'static str {
        let vera = self.vera_d.is_some() || self.vera_b.is_some();
        match (self.composition_mode, self.architecture.as_str(), vera, self.use_dora) {
            (CompositionMode::Scale, ..) => "ia3",
            (_, MTL_LORA, ..) => MTL_LORA,
            (_, _, true, true) => "dvora",
            (_, _, true, false) => "vera",
            (_, _, false, true) => "dora",
            (_, _, false, false) => LORA,
        }
    }

    /// The object of (IA)3.
    pub(crate) fn scale() -> Self {
        Self {
            composition_mode: CompositionMode::Scale,
            ..Self::default()
        }
    }

    /// The object of MTL-LoRA.
    pub(crate) fn mtl_lora() -> Self {
        Self {
            architecture: MTL_LORA.to_owned(),
            ..Self::default()
        }
    }

    /// The whole object for an adapter of `lora` at `sites`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NotExpressible`] for what only peft's configurations have.
    pub(crate) fn write(
        mut self,
        lora: &LoraConfig,
        sites: &[&SiteInfo],
        host: &dyn Host,
    ) -> Result<Map<String, Value>, ConfigError> {
        if !lora.rank_pattern.is_empty() || !lora.alpha_pattern.is_empty() {
            return Err(refuse("ranks or alphas by module path"));
        }
        if lora.bias != BiasTraining::None
            || lora.up_bias
            || lora.modules_to_save.is_some()
            || lora.target_parameters.is_some()
        {
            return Err(refuse("trained biases and modules"));
        }
        let target = lora.target.by_role(sites, host);
        let mut lora = LoraConfig {
            // What a file of peft had besides its known fields has no meaning in this format.
            extra: if target.as_ref() == Some(&lora.target) {
                lora.extra.clone()
            } else {
                Map::new()
            },
            target: target.ok_or_else(|| refuse("this choice of modules"))?,
            ..lora.clone()
        };
        if matches!(
            lora.init,
            Init::Gaussian | Init::Eva | Init::Loftq | Init::Orthogonal | Init::Mica
        ) {
            // How an adapter was initialized has no influence on what it computes.
            lora.init = Init::Lora;
        }
        if lora.scaling == Scaling::RankStabilized {
            // alpha / sqrt(r) = (alpha sqrt(r)) / r.
            lora.alpha *= (lora.rank as f64).sqrt();
            lora.scaling = Scaling::Standard;
        }
        let mut fields = to_fields(&lora, &["alpha"]);
        fields.retain(|field, _| !OURS.contains(&field.as_str()));
        self.fields.extend(fields);
        Ok(to_fields(&self, &[]))
    }
}

/// Fields of a [`LoraConfig`] that AdapterHub's object does not have.
const OURS: &[&str] = &[
    "target_modules",
    "exclude_modules",
    "layers",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "bias",
    "lora_bias",
    "modules_to_save",
    "ensure_weight_tying",
    "target_parameters",
    "layer_replication",
    "eva_rho",
    "corda_method",
    "ga_direction",
    "ga_gamma",
    "ga_scale",
];

pub(crate) fn refuse(what: &'static str) -> ConfigError {
    ConfigError::NotExpressible {
        format: Format::AdapterHub,
        what,
    }
}

/// The key of a parameter, the same for all methods of the object.
pub(crate) fn key(site: &SiteInfo, adapter: &str, param: &str) -> String {
    format!("{}.loras.{adapter}.{param}", site.path)
}

#[cfg(test)]
mod tests {
    use adapters_core::{AnyMethod, Error};
    use adapters_methods::{MethodEntry, Registry};
    use serde_json::json;

    use super::*;
    use crate::{DoraConfig, DvoraConfig, Ia3Config, MtlLoraConfig, VeraConfig};

    fn methods() -> Registry {
        Registry::default()
            .with(MethodEntry::of::<LoraConfig>())
            .with(MethodEntry::of::<DoraConfig>())
            .with(MethodEntry::of::<DvoraConfig>())
            .with(MethodEntry::of::<Ia3Config>())
            .with(MethodEntry::of::<MtlLoraConfig>())
            .with(MethodEntry::of::<VeraConfig>())
    }

    fn read(format: Format, fields: &Value) -> Result<AnyMethod, Error> {
        methods().read(&StoredConfig {
            format,
            fields: fields.as_object().unwrap(),
            version: Some((1, 3)),
            versioned: true,
        })
    }

    #[test]
    fn the_fields_of_the_object_choose_the_method() {
        for (fields, name) in [
            (json!({"architecture": "lora"}), "lora"),
            (json!({"architecture": "lora", "use_dora": true}), "dora"),
            (json!({"architecture": "lora", "vera_d": 0.1, "vera_b": 0}), "vera"),
            (
                json!({"architecture": "lora", "vera_d": 0.1, "use_dora": true}),
                "dvora",
            ),
            (
                json!({"architecture": "lora", "composition_mode": "scale", "r": 1}),
                "ia3",
            ),
            (json!({"architecture": "mtl_lora", "n_up_projection": 2}), "mtl_lora"),
        ] {
            assert_eq!(read(Format::AdapterHub, &fields).unwrap().name(), name);
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let hub = Format::AdapterHub;
        for (format, fields, named) in [
            (
                hub,
                json!({"architecture": "mtl_lora", "use_dora": true}),
                "mtl_lora with use_dora",
            ),
            (
                hub,
                json!({"architecture": "lora", "composition_mode": "scale", "r": 2}),
                "`r` is 2",
            ),
            (
                hub,
                json!({"architecture": "lora", "composition_mode": "scale", "use_dora": true}),
                "use_dora",
            ),
            (
                hub,
                json!({"architecture": "lora", "use_dora": true, "lora_bias": true}),
                "lora_bias",
            ),
            (
                hub,
                json!({"architecture": "lora", "vera_d": 0.1, "rank_pattern": {"x": 2}}),
                "rank_pattern",
            ),
            (
                Format::Peft,
                json!({"peft_type": "VERA", "target_modules": ["q"], "projection_prng_key": 4294967296u64}),
                "projection_prng_key",
            ),
            (Format::Peft, json!({"peft_type": "IA3"}), "target_modules"),
        ] {
            let error = read(format, &fields).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(named), "{source}");
        }
    }

    #[test]
    fn definitions_are_part_of_the_config_string() {
        for text in [
            "dora[form=peft]",
            "vera[form=peft,save_projection=false,projection_prng_key=7]",
            "mtl_lora[n_up_projection=3]",
            "ia3[attn_matrices=[v],intermediate_lora=false]",
        ] {
            assert_eq!(methods().parse(text).unwrap().to_string(), text);
        }
        assert!(methods().parse("dvora[form=peft]").is_err());
        assert!(methods().parse("vera[save_projection=false]").is_err());
    }
}
