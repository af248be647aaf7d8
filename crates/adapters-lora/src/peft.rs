//! Peft's names of our fields, and peft's one object for LoRA and DoRA.

use adapters_core::config::{from_fields, to_fields};
use adapters_core::{ConfigError, Format, Host, SiteInfo, StoredConfig};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::init::Init;
use crate::lora_config::LoraConfig;
use crate::scaling::Scaling;
use crate::target::LoraTarget;

/// Our name of a field, and peft's.
pub(crate) type Names = [(&'static str, &'static str)];

/// The fields of peft's `LoraConfig` that are read.
pub(crate) const LORA: &Names = &[
    ("r", "r"),
    ("alpha", "lora_alpha"),
    ("dropout", "lora_dropout"),
    ("rank_pattern", "rank_pattern"),
    ("alpha_pattern", "alpha_pattern"),
    ("use_rslora", "use_rslora"),
    ("lora_bias", "lora_bias"),
    ("bias", "bias"),
    ("modules_to_save", "modules_to_save"),
    ("target_parameters", "target_parameters"),
    ("ensure_weight_tying", "ensure_weight_tying"),
    ("layer_replication", "layer_replication"),
];

pub(crate) fn refuse(what: &'static str) -> ConfigError {
    ConfigError::NotExpressible {
        format: Format::Peft,
        what,
    }
}

/// Gives the fields of a peft object our names.
pub(crate) fn renamed(mut fields: Map<String, Value>, names: &Names) -> Map<String, Value> {
    for (ours, peft) in names {
        if let Some(value) = fields.shift_remove(*peft) {
            fields.insert((*ours).to_owned(), value);
        }
    }
    fields
}

/// Those of our fields that peft has, with peft's names.
pub(crate) fn selected(mut fields: Map<String, Value>, names: &Names) -> Map<String, Value> {
    let named = names
        .iter()
        .map(|(ours, peft)| ((*peft).to_owned(), fields.shift_remove(*ours).unwrap_or_default()));
    named.collect()
}

/// Reads peft's LoRA object, if it has `use_dora` as given.
pub(crate) fn read_lora(stored: &StoredConfig<'_>, use_dora: bool) -> Option<Result<LoraConfig, ConfigError>> {
    let found = match stored.fields.get("use_dora") {
        None | Some(Value::Null) => false,
        Some(value) => *value != Value::Bool(false),
    };
    let variant = |field: &&str| stored.fields.get(*field).is_some_and(|value| !value.is_null());
    if VARIANTS.iter().any(variant) && !use_dora {
        return None;
    }
    (stored.is_peft("LORA") && found == use_dora).then(|| {
        let mut fields = stored.fields.clone();
        let parameters = fields.shift_remove("target_parameters");
        let replication = fields.shift_remove("layer_replication");
        let (target, mut rest) = LoraTarget::from_peft(&fields)?;
        rest.extend(parameters.map(|names| ("target_parameters".to_owned(), names)));
        rest.extend(replication.map(|ranges| ("layer_replication".to_owned(), ranges)));
        rest.shift_remove("use_dora");
        let init = match rest.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => Init::Lora,
            Some(Value::String(name)) if name == "gaussian" => Init::Gaussian,
            // Exact decompositions of the weight, which give the same product again.
            Some(Value::String(name)) if name == "pissa" => Init::Pissa,
            Some(Value::String(name)) if name.eq_ignore_ascii_case("olora") => Init::Olora,
            // The base stays as it is.
            Some(Value::String(name)) if ["orthogonal", "eva"].contains(&name.as_str()) => Init::Lora,
            Some(Value::String(name)) if name.eq_ignore_ascii_case("mica") => Init::Mica,
            // The others change the base weights too: a file that still has one was not converted.
            Some(other) => {
                return Err(ConfigError::Unsupported {
                    field: "init_lora_weights",
                    found: format!("{other}: the base it was trained on is changed; convert it with peft"),
                });
            }
        };
        // Files are written as plain LoRA.
        if init.takes_from_base() || init == Init::Mica {
            rest.shift_remove("init_lora_weights");
        }
        Ok(LoraConfig {
            target,
            init,
            ..from_fields(renamed(rest, LORA))?
        })
    })
}

/// Reads peft's LoRA object where `field` holds something, with what it holds.
pub(crate) fn read_variant(
    stored: &StoredConfig<'_>,
    field: &'static str,
) -> Option<Result<(LoraConfig, Value), ConfigError>> {
    let value = stored.fields.get(field).filter(|value| !value.is_null())?.clone();
    let mut fields = stored.fields.clone();
    fields.shift_remove(field);
    let plain = StoredConfig {
        fields: &fields,
        ..*stored
    };
    let read = read_lora(&plain, false)?;
    Some(read.map(|lora| (lora, value)))
}

/// As [`read_variant`], with the fields of the object `field`.
pub(crate) fn read_section<T: DeserializeOwned>(
    stored: &StoredConfig<'_>,
    field: &'static str,
) -> Option<Result<(LoraConfig, T), ConfigError>> {
    let read = read_variant(stored, field)?;
    Some(read.and_then(|(lora, section)| {
        let section = section.as_object().cloned().unwrap_or_default();
        Ok((lora, from_fields(section)?))
    }))
}

/// Fields that make a method of its own of a LoRA object.
const VARIANTS: &[&str] = &[
    "alora_invocation_tokens",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "velora_config",
];

/// Peft's LoRA object for an adapter at `sites`.
pub(crate) fn write_lora(
    config: &LoraConfig,
    use_dora: bool,
    sites: &[&SiteInfo],
    host: &dyn Host,
) -> Result<Map<String, Value>, ConfigError> {
    if config.scaling == Scaling::Gated {
        return Err(refuse("a gated scale"));
    }
    let target = config.target.to_target();
    let adapted: Vec<&SiteInfo> = sites
        .iter()
        .filter(|site| target.covers(site).unwrap_or(false))
        .copied()
        .collect();
    let mut fields = config.target.to_peft("LORA", &config.extra, &adapted, host)?;
    fields.extend(selected(to_fields(config, &["alpha"]), LORA));
    fields.insert("use_dora".to_owned(), use_dora.into());
    if !host.layer_replication().is_empty() {
        fields.insert("layer_replication".to_owned(), json!(host.layer_replication()));
    }
    // How an adapter was initialized has no influence on what it computes, but MiCA's B is not trained further.
    let init = match config.init {
        Init::Mica => "mica".into(),
        _ => Value::Bool(true),
    };
    fields.entry("init_lora_weights").or_insert(init);
    Ok(fields)
}

/// The axes that the kernel of a convolution adds in files: A has those of the kernel, B and the magnitude have empty ones.
pub(crate) fn lora_shape(site: &SiteInfo, param: &str, shape: Vec<usize>) -> Vec<usize> {
    let Some((_, sizes)) = site.kernel.split_first() else {
        return shape;
    };
    let empty = vec![1; sizes.len()];
    match param {
        "lora_A" => [&shape[..1], &site.kernel].concat(),
        "lora_B" => [shape, empty].concat(),
        "lora_magnitude_vector" => [vec![1], shape, empty].concat(),
        _ => shape,
    }
}

/// The key of a parameter of LoRA or DoRA.
pub(crate) fn lora_key(site: &SiteInfo, param: &str) -> String {
    match param.ends_with("lora_A") || param.ends_with("lora_B") {
        true => format!("{}.{param}.weight", site.path),
        false => format!("{}.{param}", site.path),
    }
}
