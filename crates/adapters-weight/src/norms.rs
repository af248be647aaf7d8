//! LN tuning: the parameters of the normalisations, trained in copies.

use adapters_core::{
    Build, Call, ConfigError, Erased, Error, NamedParams, NormState, NormWeight, NotMergeable, Role, Shared,
    SiteAdapter, SiteInfo, SiteLayer,
};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::tuner::{Targets, Tuner, has_targets};

/// Weight and bias of layer normalisations, trained; all normalisations without `target_modules`.
///
/// Paper: *Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning*, Zhao et al., 2023,
/// <https://arxiv.org/abs/2312.11420>.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LnTuning {
    /// Which modules.
    #[serde(flatten)]
    pub targets: Targets,
}

impl Tuner for LnTuning {
    const NAME: &'static str = "ln_tuning";
    const PEFT_TYPE: &'static str = "LN_TUNING";
    const ROLES: &'static [Role] = &[Role::EmbeddingNorm, Role::AttentionNorm, Role::FfnNorm];

    has_targets!();

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let Some(frozen) = build.host.norm(site.site) else {
            return Err(Self::refuse(site, "it adapts normalisations only"));
        };
        let copy = |param: &Param<Tensor<1>>| Param::from_data(param.val().into_data(), build.device);
        Ok(SiteLayer::Norm(Erased::new(TunedNorm {
            weight: copy(&frozen.gamma),
            bias: frozen.beta.as_ref().map(copy),
        })))
    }
}

/// What one normalisation runs with.
#[derive(Module, Debug)]
pub struct TunedNorm {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
    /// `[d_model]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl SiteAdapter<NormState> for TunedNorm {
    fn apply(&self, _state: NormState, _call: &Call<'_>) -> NormState {
        NormState {
            weight: self.weight.val(),
            bias: self.bias.as_ref().map(|bias| bias.val()),
        }
    }

    fn merged(&self, _base: NormWeight, _shared: &Shared) -> Result<NormWeight, NotMergeable> {
        Ok(NormWeight {
            weight: self.weight.val(),
            bias: self.bias.as_ref().map(|bias| bias.val()),
        })
    }
}

impl NamedParams for TunedNorm {
    fn named_params(&self) -> Vec<(std::borrow::Cow<'static, str>, ParamId)> {
        let mut params = vec![("ln_tuning_layers.weight".into(), self.weight.id)];
        params.extend(self.bias.iter().map(|bias| ("ln_tuning_layers.bias".into(), bias.id)));
        params
    }
}
