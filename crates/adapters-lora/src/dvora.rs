//! DVoRA: VeRA with the learned magnitudes of DoRA.

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, Build, Capabilities, Codec, ConfigError, Error, Host, Method, Peft, SiteInfo, SiteLayer, StoredConfig,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapterhub::{self, Object};
use crate::dora::{DoraDefinition, DoraLayer};
use crate::site_builder::{SiteBuilder, linear};
use crate::vera::{VeraConfig, VeraDefinition};

/// VeRA with a learned magnitude for each output feature: `y = m / |W + b B d A| (W x + c + s b B d A x)`, by AdapterHub's
/// definitions of both.
///
/// Papers: those of [`VeraConfig`] and [`DoraConfig`](crate::DoraConfig).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DvoraConfig {
    /// The update.
    #[serde(flatten)]
    pub vera: VeraConfig,
}

impl Method for DvoraConfig {
    const NAME: &'static str = "dvora";
    const DESCRIPTION: &'static str = "VeRA with the learned magnitudes of DoRA.";

    fn check(&self) -> Result<(), ConfigError> {
        self.vera.check_fields()?;
        match self.vera.definition {
            VeraDefinition::Matrices => Ok(()),
            VeraDefinition::Vectors(_) => Err(ConfigError::Unsupported {
                field: "form",
                found: "peft with the magnitudes of DoRA".to_owned(),
            }),
        }
    }

    fn target(&self) -> Target {
        self.vera.target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let lora = &self.vera.lora;
        let mut builder = SiteBuilder::new(Self::NAME, &lora.target, lora.seed, site, build);
        let inner = self.vera.matrices(&mut builder)?;
        let layer = DoraLayer::new(inner, DoraDefinition::AdapterHub, lora.dtype, &builder)?;
        Ok(linear(layer))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        self.vera.capabilities()
    }
}

impl Codec<AdapterHub> for DvoraConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let object = Object::of(Self::NAME, stored)?;
        let vera = object.and_then(VeraConfig::from_adapterhub);
        Some(vera.map(|vera| Self { vera }))
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        self.vera.to_adapterhub(true, sites, host)
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        adapterhub::key(site, adapter, param)
    }
}

impl Codec<Peft> for DvoraConfig {}
