//! LN tuning: the parameters of the normalizations, trained in copies.

use adapters_core::target::Target;
use adapters_core::{Build, ConfigError, Error, Method, SiteInfo, SiteLayer};
use adapters_methods::ModuleFields;
use adapters_methods::copies::copy_of;
use adapters_methods::peft_modules;
use serde::{Deserialize, Serialize};

/// Weight and bias of layer normalizations, trained; all normalizations without `target_modules`.
///
/// Paper: *Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning*, Zhao et al., 2023,
/// <https://arxiv.org/abs/2312.11420>.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LnTuning {
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Method for LnTuning {
    const NAME: &'static str = "ln_tuning";
    const DESCRIPTION: &'static str = "The parameters of the normalization layers, trained in copies.";

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn target(&self) -> Target {
        self.targets.target_or(Target::Norms)
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        match build
            .host
            .norm(site.site)
            .and_then(|_| copy_of(build.host, site, build.device))
        {
            Some(copy) => Ok(copy),
            None => Err(Self::refuse(site, "it adapts normalizations only")),
        }
    }
}

peft_modules!(LnTuning: "LN_TUNING" {
    fn param_key(param: &str) -> String {
        format!("ln_tuning_layers.{param}")
    }
});
