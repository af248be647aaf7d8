//! Names for unions of methods that papers proposed together.

use std::sync::Arc;

use adapters_core::{ConfigPart, ConfigString, Error, Method, MethodFamily, StoredConfig, Union};
use serde_json::{Map, Value};

use crate::METHODS;

/// A name and the config string it stands for.
struct Preset {
    identifier: &'static str,
    config: &'static str,
}

const PRESETS: &[Preset] = &[
    // *Towards a Unified View of Parameter-Efficient Transfer Learning*, He et al., 2022,
    // <https://arxiv.org/abs/2110.04366>.
    #[cfg(all(feature = "bottleneck", feature = "prefix"))]
    Preset {
        identifier: "mam",
        config: "prefix_tuning[bottleneck_size=800]|par_bn",
    },
    // *UniPELT: A Unified Framework for Parameter-Efficient Language Model Tuning*, Mao et al., 2022,
    // <https://arxiv.org/abs/2110.07577>.
    #[cfg(all(feature = "bottleneck", feature = "lora", feature = "prefix"))]
    Preset {
        identifier: "unipelt",
        config: "prefix_tuning[prefix_length=10,use_gating=true]|seq_bn[reduction_factor=16,use_gating=true]\
                 |lora[r=8,alpha=2,use_gating=true]",
    },
];

/// Reads the names of unions. A field written behind one goes to each of its parts, as in the reference; files hold the
/// parts.
pub(crate) struct UnionNames;

impl MethodFamily for UnionNames {
    fn name(&self) -> &'static str {
        "union"
    }

    fn identifiers(&self) -> &'static [&'static str] {
        const NAMES: [&str; PRESETS.len()] = {
            let mut names = [""; PRESETS.len()];
            let mut index = 0;
            while index < PRESETS.len() {
                names[index] = PRESETS[index].identifier;
                index += 1;
            }
            names
        };
        &NAMES
    }

    fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<Arc<dyn Method>, Error> {
        let preset = PRESETS.iter().find(|preset| preset.identifier == identifier);
        // The registry asks for identifiers of this family only.
        let ConfigString { parts } = preset.map_or(identifier, |preset| preset.config).parse()?;
        let configure = |part: ConfigPart| {
            let mut all = part.fields;
            all.extend(fields.clone());
            METHODS.configure(&part.identifier, all)
        };
        Union::method(parts.into_iter().map(configure).collect::<Result<_, _>>()?)
    }

    fn read(&self, _stored: &StoredConfig<'_>) -> Option<Result<Arc<dyn Method>, Error>> {
        None
    }
}

#[cfg(all(test, feature = "bottleneck", feature = "lora", feature = "prefix"))]
mod tests {
    use crate::method;

    #[test]
    fn names_stand_for_unions() {
        assert_eq!(
            method("mam").unwrap().to_string(),
            "prefix_tuning[bottleneck_size=800]|par_bn"
        );
        assert_eq!(
            method("unipelt").unwrap().to_string(),
            "prefix_tuning[prefix_length=10,use_gating=true]|seq_bn[use_gating=true]|lora[alpha=2,use_gating=true]"
        );
    }

    #[test]
    fn a_field_goes_to_each_part() {
        assert_eq!(
            method("mam[leave_out=[1]]").unwrap().to_string(),
            "prefix_tuning[bottleneck_size=800,leave_out=[1]]|par_bn[leave_out=[1]]"
        );
        // Only the prefix has it.
        assert!(method("mam[prefix_length=5]").is_err());
    }

    #[test]
    fn a_union_in_a_union_is_one_union() {
        let text = method("mam|lora").unwrap().to_string();
        assert_eq!(text, "prefix_tuning[bottleneck_size=800]|par_bn|lora");
    }
}
