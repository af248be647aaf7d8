//! How AdapterHub's prompts enter the system: the family that reads configurations, the method that builds the layer.

use std::fmt;

use adapters_core::target::Target;
use adapters_core::{
    AnyMethod, Build, ConfigPart, Encode, Erased, ErasedMethod, Error, Format, Host, Inserted, MethodFamily, Role,
    SiteInfo, SiteKind, SiteLayer, StoredConfig, config,
};
use adapters_nn::draw;
use burn::module::Param;
use serde_json::{Map, Value};

use crate::compat::PromptTuningWire;
use crate::module::PromptLayer;
use crate::{Combine, PromptError, PromptInit, PromptTuningConfig, init};

/// The family's name, and the identifier of config strings.
const FAMILY: &str = "prompt_tuning";
const TEXT: &str = "prompt_init_text";

/// A checked [`PromptTuningConfig`], which can be attached.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    config: PromptTuningConfig,
    start: Start,
}

/// What the vectors begin as.
#[derive(Clone, Debug, PartialEq)]
enum Start {
    /// As the configuration says, which may need a tokenizer.
    Configured,
    /// Tokens of the configuration's text.
    Tokens(Vec<u32>),
    /// What a file holds.
    Stored,
}

impl PromptTuningConfig {
    /// The checked form, which can be attached; with an `init` of [`FromString`](PromptInit::FromString) only after
    /// [`ErasedMethod::with_tokens`].
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn into_method(self) -> Result<Prompt, PromptError> {
        self.check()?;
        Ok(Prompt {
            config: self,
            start: Start::Configured,
        })
    }
}

impl Prompt {
    /// The configuration.
    pub fn config(&self) -> &PromptTuningConfig {
        &self.config
    }

    /// Before which position of the text the vectors stand.
    fn at(&self) -> usize {
        match self.config.combine {
            Combine::Prefix => 0,
            Combine::PrefixAfterBos => 1,
        }
    }

    /// The seed of the initial values, if the configuration has one; zero means none, as in the reference.
    fn seed(&self) -> Option<u64> {
        self.config.init_seed.filter(|seed| *seed != 0).map(|seed| seed as u64)
    }
}

impl fmt::Display for Prompt {
    /// The config string: only what differs from the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defaults = fields_of(&PromptTuningConfig::default());
        let mut fields = fields_of(&self.config);
        // What a file said beyond the known fields is no part of a config string.
        fields.retain(|key, value| !self.config.extra.contains_key(key) && defaults.get(key) != Some(value));
        let identifier = FAMILY.to_owned();
        ConfigPart { identifier, fields }.fmt(f)
    }
}

fn fields_of(config: &PromptTuningConfig) -> Map<String, Value> {
    config::to_fields(&PromptTuningWire::from(config), &[])
}

impl ErasedMethod for Prompt {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn config_string(&self) -> String {
        self.to_string()
    }

    fn target(&self) -> Target {
        Target::First(Role::Embedding)
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let SiteKind::Embedding { d_model } = site.kind else {
            return Err(Error::CannotBuild {
                method: FAMILY,
                path: site.path.clone(),
                reason: "it acts after the embeddings".to_owned(),
            });
        };
        let length = self.config.prompt_length;
        let vectors = match (&self.start, &self.config.init) {
            (Start::Tokens(tokens), _) => init::token_rows(FAMILY, TEXT, tokens, length, build)?,
            (Start::Configured, PromptInit::FromString { .. }) => {
                return Err(Error::config(FAMILY, PromptError::NoTokens { field: TEXT }));
            }
            (Start::Stored, PromptInit::FromString { .. }) => {
                Param::from_data(draw::constant([length, d_model], 0.0), build.device)
            }
            (_, PromptInit::RandomUniform { scale }) => {
                let mut rng = build.rng(self.seed(), site.site);
                Param::from_data(draw::uniform(&mut rng, [length, d_model], *scale as f32), build.device)
            }
        };
        let at = self.at();
        Ok(SiteLayer::Embedding(Erased::new(PromptLayer { vectors, at })))
    }

    fn key(&self, _format: Format, _site: &SiteInfo, adapter: &str, param: &str) -> String {
        format!("prompt_tuning.prompt_tunings.{adapter}.{param}")
    }

    fn inserts(&self) -> Option<Inserted> {
        let (at, count) = (self.at(), self.config.prompt_length);
        Some(Inserted { at, count })
    }

    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        let PromptInit::FromString { text } = &self.config.init else {
            return Ok(None);
        };
        let start = Start::Tokens(init::tokens(FAMILY, TEXT, text, encode)?);
        let config = self.config.clone();
        Ok(Some(AnyMethod::erased(Self { config, start })))
    }

    fn write(&self, format: Format, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, Error> {
        match format {
            Format::AdapterHub => Ok(fields_of(&self.config)),
            Format::Peft => {
                let what = "a prompt after the embeddings";
                Err(Error::config(FAMILY, PromptError::NotExpressible { format, what }))
            }
        }
    }
}

/// Reads AdapterHub's prompt tuning configurations.
#[derive(Clone, Copy, Debug)]
pub struct PromptFamily;

impl MethodFamily for PromptFamily {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn identifiers(&self) -> &'static [&'static str] {
        &[FAMILY]
    }

    fn configure(&self, _identifier: &str, fields: Map<String, Value>) -> Result<AnyMethod, Error> {
        let mut all = fields_of(&PromptTuningConfig::default());
        let mut known: Vec<String> = all.keys().cloned().collect();
        known.push("random_uniform_scale".to_owned());
        Error::in_config(FAMILY, config::refuse_unknown(&fields, known.iter()))?;
        all.extend(fields);
        Ok(AnyMethod::erased(method(all, Start::Configured)?))
    }

    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<AnyMethod, Error>> {
        let mine = stored.format == Format::AdapterHub && stored.fields.get("architecture")? == FAMILY;
        mine.then(|| Ok(AnyMethod::erased(method(stored.fields.clone(), Start::Stored)?)))
    }
}

/// From a wire object to a checked method.
fn method(fields: Map<String, Value>, start: Start) -> Result<Prompt, Error> {
    let wire: PromptTuningWire = Error::in_config(FAMILY, config::from_fields(fields))?;
    let checked = PromptTuningConfig::try_from(wire).and_then(PromptTuningConfig::into_method);
    let prompt = Error::in_config(FAMILY, checked)?;
    Ok(Prompt { start, ..prompt })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AnyMethod, Error> {
        adapters_core::Registry::default()
            .with(adapters_core::MethodEntry::family(FAMILY, &PromptFamily))
            .parse(text)
    }

    #[test]
    fn config_strings_read_and_print() {
        for text in [
            "prompt_tuning",
            "prompt_tuning[prompt_length=4]",
            "prompt_tuning[combine=prefix_after_bos,prompt_length=3]",
            "prompt_tuning[random_uniform_scale=0.1]",
            "prompt_tuning[prompt_init=from_string,prompt_init_text='a film']",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn slips_are_named() {
        for (text, part) in [
            ("prompt_tuning[length=4]", "unknown field `length`"),
            ("prompt_tuning[promt_length=4]", "did you mean `prompt_length`?"),
            ("prompt_tuning[prompt_length=0]", "`prompt_length` is out of range"),
            (
                "prompt_tuning[prompt_init=from_string]",
                "`prompt_init_text` is missing",
            ),
            ("prompt_tuning[combine=suffix]", "found `suffix`"),
        ] {
            let error = parse(text).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(part), "{text}: {source}");
        }
    }

    #[test]
    fn texts_become_tokens_once() {
        let text = parse("prompt_tuning[prompt_init=from_string,prompt_init_text='a film']").unwrap();
        let tokens = text
            .with_tokens(&|text| Ok(text.bytes().map(u32::from).collect()))
            .unwrap();
        assert_eq!(tokens.unwrap().to_string(), text.to_string());
        assert!(text.with_tokens(&|_| Ok(Vec::new())).is_err());
        assert!(text.with_tokens(&|_| Err("no tokenizer".into())).is_err());
        let drawn = parse("prompt_tuning").unwrap();
        assert!(drawn.with_tokens(&|_| Err("not asked".into())).unwrap().is_none());
    }
}
