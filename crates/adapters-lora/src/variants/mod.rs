//! The relatives of LoRA, one type each.

mod dora;
mod ia3;
mod mtl;
mod vera;

use adapters_core::ConfigError;

use crate::config::LoraConfig;
use crate::inject::Lora;
use crate::places::LoraTarget;

pub use dora::{DoraConfig, DoraForm, Magnitude, Strength};
pub use ia3::{Ia3Config, InputScale, OutputScale};
pub use mtl::{MtlLora, MtlLoraConfig, TaskMatrix, TaskParam};
pub use vera::{Projection, VeraConfig, VeraForm, VeraMatrices, VeraVectors};

/// A configuration of whichever member of the family.
#[derive(Clone, Debug, PartialEq)]
pub enum Variant {
    /// LoRA.
    Lora(LoraConfig),
    /// DoRA.
    Dora(DoraConfig),
    /// VeRA.
    Vera(VeraConfig),
    /// VeRA with DoRA's magnitudes.
    Dvora(VeraConfig),
    /// MTL-LoRA.
    MtlLora(MtlLoraConfig),
    /// (IA)3.
    Ia3(Ia3Config),
}

impl Variant {
    /// The name a config string begins with.
    pub const fn identifier(&self) -> &'static str {
        match self {
            Self::Lora(_) => "lora",
            Self::Dora(_) => "dora",
            Self::Vera(_) => "vera",
            Self::Dvora(_) => "dvora",
            Self::MtlLora(_) => "mtl_lora",
            Self::Ia3(_) => "ia3",
        }
    }

    /// The variant of that name with its defaults.
    pub fn preset(identifier: &str) -> Option<Self> {
        Some(match identifier {
            "lora" => Self::Lora(LoraConfig::default()),
            "dora" => Self::Dora(DoraConfig::default()),
            "vera" => Self::Vera(VeraConfig::default()),
            "dvora" => Self::Dvora(VeraConfig::default()),
            "mtl_lora" => Self::MtlLora(MtlLoraConfig::default()),
            "ia3" => Self::Ia3(Ia3Config::default()),
            _ => return None,
        })
    }

    /// The low-rank part; `None` for (IA)3, which has none.
    pub fn low_rank(&self) -> Option<&LoraConfig> {
        match self {
            Self::Lora(config) => Some(config),
            Self::Dora(config) => Some(&config.lora),
            Self::Vera(config) | Self::Dvora(config) => Some(&config.lora),
            Self::MtlLora(config) => Some(&config.lora),
            Self::Ia3(_) => None,
        }
    }

    /// Which layers are adapted.
    pub fn target(&self) -> &LoraTarget {
        match self {
            Self::Lora(config) => &config.target,
            Self::Dora(config) => &config.lora.target,
            Self::Vera(config) | Self::Dvora(config) => &config.lora.target,
            Self::MtlLora(config) => &config.lora.target,
            Self::Ia3(config) => &config.target,
        }
    }

    /// The checked form, which can be attached.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] naming the first field outside its range.
    pub fn check(self) -> Result<Lora, ConfigError> {
        match &self {
            Self::Lora(config) => config.check_fields()?,
            Self::Dora(config) => config.check_fields()?,
            Self::Vera(config) => config.check_fields()?,
            Self::Dvora(config) => {
                config.check_fields()?;
                if config.form == VeraForm::Vectors {
                    return Err(ConfigError::Unsupported {
                        field: "use_dora",
                        found: "true with peft's form of VeRA".to_owned(),
                    });
                }
            }
            Self::MtlLora(config) => config.check_fields()?,
            Self::Ia3(config) => config.check_fields()?,
        }
        if let Some(lora) = self.low_rank().filter(|_| !matches!(self, Self::Lora(_))) {
            lora.only_plain()?;
        }
        Ok(Lora::from_checked(self))
    }
}

impl LoraConfig {
    /// Refuses what only plain LoRA computes.
    fn only_plain(&self) -> Result<(), ConfigError> {
        let unsupported = |field, found: String| Err(ConfigError::Unsupported { field, found });
        if self.up_bias {
            return unsupported("lora_bias", "true with a variant of LoRA".to_owned());
        }
        if self.init.takes_from_base() {
            return unsupported("init_lora_weights", format!("{:?} with a variant of LoRA", self.init));
        }
        if self.bias != crate::config::BiasTraining::None {
            return unsupported("bias", format!("{:?} with a variant of LoRA", self.bias));
        }
        match &self.modules_to_save {
            Some(_) => unsupported("modules_to_save", "set with a variant of LoRA".to_owned()),
            None => Ok(()),
        }
    }
}
