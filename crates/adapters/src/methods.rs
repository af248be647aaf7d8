//! The methods of this build: the list through which a method enters the system; and what methods have in common.

use adapters_core::{AnyMethod, Error};
pub use adapters_methods::*;

/// Every method this build has. A program adds its own with [`Registry::with`].
pub const METHODS: Registry = Registry::from_static(ENTRIES);

const ENTRIES: &[MethodEntry] = &[
    #[cfg(feature = "bottleneck")]
    MethodEntry::of::<adapters_bottleneck::BottleneckConfig>(),
    #[cfg(feature = "bottleneck")]
    MethodEntry::of::<adapters_bottleneck::Shadow>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Adalora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Adamss>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Alora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Arrow>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Bdlora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Deft>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Delora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::DoraConfig>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::DvoraConfig>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Frod>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Glora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Gralora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Hira>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Ia3Config>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Kasa>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Lily>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Loha>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Lokr>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::LoraConfig>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Miss>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Monteclora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::MtlLoraConfig>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Osf>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Peanut>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Poly>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Pvera>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Randlora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Tinylora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Unilora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Vblora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Velora>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::VeraConfig>(),
    #[cfg(feature = "lora")]
    MethodEntry::of::<adapters_lora::Xlora>(),
    #[cfg(feature = "orthogonal")]
    MethodEntry::of::<adapters_orthogonal::Boft>(),
    #[cfg(feature = "orthogonal")]
    MethodEntry::of::<adapters_orthogonal::Hra>(),
    #[cfg(feature = "orthogonal")]
    MethodEntry::of::<adapters_orthogonal::Oft>(),
    #[cfg(feature = "orthogonal")]
    MethodEntry::of::<adapters_orthogonal::Psoft>(),
    #[cfg(feature = "orthogonal")]
    MethodEntry::of::<adapters_orthogonal::Road>(),
    #[cfg(feature = "prefix")]
    MethodEntry::of::<adapters_prefix::PrefixTuningConfig>(),
    #[cfg(feature = "prefix")]
    MethodEntry::of::<adapters_prefix::CartridgeConfig>(),
    #[cfg(feature = "prefix")]
    MethodEntry::of::<adapters_prefix::AdaptionPromptConfig>(),
    #[cfg(feature = "prompt")]
    MethodEntry::of::<adapters_prompt::PromptTuningConfig>(),
    #[cfg(feature = "prompt")]
    MethodEntry::of::<adapters_prompt::PeftPromptTuningConfig>(),
    #[cfg(feature = "prompt")]
    MethodEntry::of::<adapters_prompt::PTuningConfig>(),
    #[cfg(feature = "prompt")]
    MethodEntry::of::<adapters_prompt::MultitaskPromptTuningConfig>(),
    #[cfg(feature = "prompt")]
    MethodEntry::of::<adapters_prompt::CptConfig>(),
    #[cfg(feature = "reft")]
    MethodEntry::of::<adapters_reft::ReftConfig>(),
    #[cfg(feature = "selective")]
    MethodEntry::of::<adapters_selective::Beft>(),
    #[cfg(feature = "selective")]
    MethodEntry::of::<adapters_selective::LnTuning>(),
    #[cfg(feature = "selective")]
    MethodEntry::of::<adapters_selective::Shira>(),
    #[cfg(feature = "selective")]
    MethodEntry::of::<adapters_selective::Supertuning>(),
    #[cfg(feature = "selective")]
    MethodEntry::of::<adapters_selective::TrainableTokens>(),
    #[cfg(feature = "spectral")]
    MethodEntry::of::<adapters_spectral::C3a>(),
    #[cfg(feature = "spectral")]
    MethodEntry::of::<adapters_spectral::Fourierft>(),
    #[cfg(feature = "spectral")]
    MethodEntry::of::<adapters_spectral::Waveft>(),
    // *Towards a Unified View of Parameter-Efficient Transfer Learning*, He et al., 2022,
    // <https://arxiv.org/abs/2110.04366>.
    #[cfg(all(feature = "bottleneck", feature = "prefix"))]
    MethodEntry::union("mam", "prefix_tuning[bottleneck_size=800]|par_bn"),
    // *UniPELT: A Unified Framework for Parameter-Efficient Language Model Tuning*, Mao et al., 2022,
    // <https://arxiv.org/abs/2110.07577>.
    #[cfg(all(feature = "bottleneck", feature = "lora", feature = "prefix"))]
    MethodEntry::union(
        "unipelt",
        "prefix_tuning[prefix_length=10,use_gating=true]|seq_bn[reduction_factor=16,use_gating=true]\
         |lora[r=8,alpha=2,use_gating=true]",
    ),
];

/// A method from a config string, e.g. `lora[r=8,alpha=16]`.
///
/// # Errors
///
/// As [`Registry::parse`].
pub fn method(config: &str) -> Result<AnyMethod, Error> {
    METHODS.parse(config)
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
