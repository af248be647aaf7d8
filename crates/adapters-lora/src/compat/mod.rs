//! The published forms of the family's configurations.

mod adapterhub;
mod peft;

pub(crate) use adapterhub::to_adapterhub;
pub use adapterhub::{LoraWire, WireMode};
pub use peft::{PeftIa3Wire, PeftLoraWire, PeftVeraWire};
pub(crate) use peft::{from_peft, to_peft};

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::config::LoraConfig;
    use crate::variants::Variant;

    #[test]
    fn json_and_toml_round_trip_with_unknown_fields() {
        let written = json!({"r": 4, "alpha": 6, "attn_matrices": ["q", "k"], "later": {"x": [1]}});
        let config: LoraConfig = serde_json::from_value(written).unwrap();
        assert_eq!((config.rank, config.alpha), (4, 6.0));
        let back: LoraConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
        assert_eq!(back.extra["later"], json!({"x": [1]}));
        let config = LoraConfig {
            extra: Map::new(),
            ..config
        };
        let back: LoraConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
        let toml_extra: LoraConfig = toml::from_str("r = 2\nlater = 1").unwrap();
        assert_eq!(toml_extra.extra["later"], json!(1));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (fields, named) in [
            (json!({"use_gating": true, "use_rslora": true}), "use_rslora"),
            (
                json!({"architecture": "mtl_lora", "use_dora": true}),
                "mtl_lora with use_dora",
            ),
            (json!({"composition_mode": "scale", "r": 2}), "`r` is 2"),
            (json!({"use_dora": true, "lora_bias": true}), "lora_bias"),
            (json!({"vera_d": 0.1, "rank_pattern": {"x": 2}}), "rank_pattern"),
        ] {
            let wire: LoraWire = serde_json::from_value(fields).unwrap();
            let error = Variant::try_from(wire)
                .and_then(Variant::check)
                .unwrap_err()
                .to_string();
            assert!(error.contains(named), "{error}");
        }
        for (fields, named) in [
            (
                json!({"peft_type": "LORA", "target_modules": ["q"], "init_lora_weights": "pissa"}),
                "init_lora_weights",
            ),
            (
                json!({"peft_type": "LORA", "target_modules": ["q"], "use_qalora": true}),
                "use_qalora",
            ),
            (
                json!({"peft_type": "VERA", "target_modules": ["q"], "projection_prng_key": 4294967296u64}),
                "projection_prng_key",
            ),
            (json!({"peft_type": "IA3"}), "target_modules"),
        ] {
            let Value::Object(fields) = fields else { unreachable!() };
            let error = from_peft(&fields).unwrap().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn each_variant_is_read_from_what_it_writes() {
        for identifier in ["lora", "dora", "vera", "dvora", "mtl_lora", "ia3"] {
            let variant = Variant::preset(identifier).unwrap();
            assert_eq!(variant.identifier(), identifier);
            assert_eq!(Variant::try_from(LoraWire::from(variant.clone())).unwrap(), variant);
        }
    }
}
