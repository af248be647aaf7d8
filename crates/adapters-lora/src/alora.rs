//! Activated LoRA: a low-rank update from the position on where a text invokes it.

use std::borrow::Cow;
use std::ops::Range;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, BeginsWhereInvoked, Build, Call, Capabilities, Causality, Codec, ConfigError, Effect, Error,
    Host, LinearState, LinearWeight, Method, NamedParams, NotMergeable, ParamId, Peft, SiteAdapter, SiteInfo,
    SiteLayer, Source, StoredConfig, config::from_fields,
};
use burn::module::Module;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lora_config::LoraConfig;
use crate::low_rank::LowRank;
use crate::peft;
use crate::site_builder::{SiteBuilder, linear};

/// LoRA on the last occurrence of `alora_invocation_tokens` in the text and all that follows; what is before it, and a text without
/// them, is computed by the base alone. In a text that is continued only the prompt is searched.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `alora_invocation_tokens` | none | the tokens | at least one |
/// | `lora` | rank 8 | everything else | |
///
/// Paper: *Activated LoRA: Fine-tuned LLMs for Intrinsics*, Greenewald et al., 2025, <https://arxiv.org/abs/2504.12397>.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alora {
    /// The tokens that invoke it.
    pub alora_invocation_tokens: Vec<i64>,
    /// Everything else.
    #[serde(flatten)]
    pub lora: LoraConfig,
}

/// The field of peft's LoRA object.
const FIELD: &str = "alora_invocation_tokens";

impl Method for Alora {
    const NAME: &'static str = "alora";
    const DESCRIPTION: &'static str = "A low-rank update that begins where the text contains its invocation tokens.";

    fn check(&self) -> Result<(), ConfigError> {
        let tokens = &self.alora_invocation_tokens;
        ConfigError::unless(!tokens.is_empty(), FIELD, "at least one token", format!("{tokens:?}"))?;
        self.lora.check_for_variant()
    }

    fn target(&self) -> Target {
        self.lora.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let mut builder = SiteBuilder::new(Self::NAME, &self.lora.target, self.lora.seed, site, build);
        Ok(linear(Activated {
            inner: self.lora.low_rank(&mut builder)?,
            invocation: self.alora_invocation_tokens.clone(),
        }))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            invoked: Some(self),
            ..Capabilities::default()
        }
    }
}

impl Codec<AdapterHub> for Alora {}

impl Codec<Peft> for Alora {
    fn base_fields() -> &'static [BaseField] {
        BaseField::ALL
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let read = peft::read_variant(stored, FIELD)?;
        Some(read.and_then(|(lora, tokens)| {
            let fields = Map::from_iter([(FIELD.to_owned(), tokens)]);
            let own: Self = from_fields(fields)?;
            Ok(Self { lora, ..own })
        }))
    }

    fn names() -> &'static peft::Names {
        peft::LORA
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = peft::write_lora(&self.lora, false, sites, host)?;
        fields.insert(FIELD.to_owned(), self.alora_invocation_tokens.clone().into());
        Ok(fields)
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        peft::lora_key(site, param)
    }
}

/// Where the invocation begins the last time.
fn last_occurrence<T: PartialEq>(text: &[T], invocation: &[T]) -> Option<usize> {
    text.windows(invocation.len()).rposition(|tokens| tokens == invocation)
}

impl BeginsWhereInvoked for Alora {
    fn begins(&self, tokens: &[u32]) -> usize {
        let tokens: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        last_occurrence(&tokens, &self.alora_invocation_tokens).unwrap_or(tokens.len())
    }
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Activated {
    /// LoRA.
    pub(crate) inner: LowRank,
    /// The tokens that invoke it.
    #[module(skip)]
    pub(crate) invocation: Vec<i64>,
}

impl Activated {
    /// One from the invocation on, zero before it: `[batch, seq, 1]`.
    fn mask(&self, state: &LinearState, prompt: Option<usize>) -> Tensor<3> {
        let ([batch, seq, _], device) = (state.input.dims(), state.input.device().inner());
        let count = self.invocation.len();
        let text: Vec<Tensor<2, Int>> = state.earlier.iter().chain(&state.tokens).cloned().collect();
        let all: usize = text.iter().map(|text| text.dims()[1]).sum();
        if all < count {
            return Tensor::zeros([batch, seq, 1], &device);
        }
        let text = Tensor::cat(text, 1);
        let columns = |range: Range<usize>| {
            let row = Tensor::<1, Int>::arange(range.start as i64..range.end as i64, &device);
            row.unsqueeze::<2>().expand([batch, range.len()])
        };
        let starts = all - count + 1;
        let mut found = columns(0..starts).greater_equal_elem(0);
        for (at, token) in self.invocation.iter().enumerate() {
            found = found.bool_and(text.clone().slice_dim(1, at..at + starts).equal_elem(*token));
        }
        if let Some(prompt) = prompt {
            // Inserted positions come before the prompt.
            let inserted = text.lower_elem(0).int().sum_dim(1);
            let last = inserted + (prompt as i64 - count as i64);
            found = found.bool_and(columns(0..starts).lower_equal(last.expand([batch, starts])));
        }
        let last = columns(0..starts).mask_fill(found.bool_not(), -1).max_dim(1);
        let begins = last.clone().mask_fill(last.lower_elem(0), all as i64);
        let after = columns(all - seq..all).greater_equal(begins.expand([batch, seq]));
        after.float().reshape([batch, seq, 1])
    }
}

impl SiteAdapter<LinearState> for Activated {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let mask = self.mask(&state, call.prompt);
        let alone = LinearState {
            delta: None,
            ..state.clone()
        };
        match self.inner.apply(alone, call).delta {
            Some(delta) => state.plus(|_| delta * mask),
            None => state,
        }
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    /// Whether a token is the last invocation is known at the end of the prompt.
    fn causality(&self) -> Causality {
        Causality::DependsOnPrompt
    }

    fn merged(&self, _base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Err(NotMergeable {
            reason: "activated LoRA changes only some tokens, and a merged weight would change all of them",
        })
    }
}

impl NamedParams for Activated {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        self.inner.named_params()
    }
}
