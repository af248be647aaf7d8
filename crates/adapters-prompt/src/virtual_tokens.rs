//! How peft's prompts enter the system: the family that reads configurations, the method that builds the layer.

use std::fmt;

use adapters_core::target::Target;
use adapters_core::{
    AnyMethod, Attached, Build, ConfigPart, Encode, Erased, ErasedMethod, Error, Format, Host, Inserted, MethodFamily,
    Pass, Role, Shared, SharedParam, SiteInfo, SiteKind, SiteLayer, StoredConfig, Tensors, config,
};
use adapters_nn::draw;
use burn::module::Param;
use burn::tensor::Tensor;
use rand_chacha::rand_core::Rng;
use serde_json::{Map, Value};

use crate::encoder::{self, NETWORK, PROMPT};
use crate::module::VirtualPrompt;
use crate::peft::{P_TUNING, PROMPT_TUNING, Reparameterisation, Source, VirtualTokensConfig, VirtualTokensWire};
use crate::{PromptError, init};

/// The family's name.
const FAMILY: &str = "virtual_tokens";
/// The identifiers of config strings, and peft's names.
const IDENTIFIERS: [(&str, &str); 2] = [("peft_prompt_tuning", PROMPT_TUNING), ("p_tuning", P_TUNING)];
const TEXT: &str = "prompt_tuning_init_text";

/// A checked [`VirtualTokensConfig`], which can be attached.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualTokens {
    config: VirtualTokensConfig,
    form: Form,
}

/// Which parameters there are, and what they begin as.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// As the configuration says, which may need a tokenizer.
    Configured,
    /// Rows that begin as tokens of the configuration's text.
    Tokens(Vec<u32>),
    /// Rows as a file holds them, whatever made them.
    Stored,
}

impl VirtualTokensConfig {
    /// The checked form, which can be attached; with a `source` of [`Text`](Source::Text) only after
    /// [`ErasedMethod::with_tokens`].
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn into_method(self) -> Result<VirtualTokens, PromptError> {
        self.check()?;
        Ok(VirtualTokens {
            config: self,
            form: Form::Configured,
        })
    }
}

impl VirtualTokens {
    /// The configuration.
    pub fn config(&self) -> &VirtualTokensConfig {
        &self.config
    }

    /// The network that makes the rows here and now.
    fn network(&self) -> Option<&Reparameterisation> {
        match (&self.config.source, &self.form) {
            (Source::Network(network), Form::Configured) => Some(network),
            _ => None,
        }
    }

    fn in_form(&self, form: Form) -> AnyMethod {
        let config = self.config.clone();
        AnyMethod::erased(Self { config, form })
    }
}

impl fmt::Display for VirtualTokens {
    /// The config string: only what differs from the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = fields_of(&self.config);
        let peft_type = fields.shift_remove("peft_type").unwrap_or_default();
        let name = IDENTIFIERS.iter().find(|(_, published)| peft_type == *published);
        let identifier = name.map_or(FAMILY, |(identifier, _)| identifier).to_owned();
        let defaults = defaults(&peft_type);
        fields.retain(|key, value| !self.config.extra.contains_key(key) && defaults.get(key) != Some(value));
        ConfigPart { identifier, fields }.fmt(f)
    }
}

fn fields_of(config: &VirtualTokensConfig) -> Map<String, Value> {
    config::to_fields(&VirtualTokensWire::from(config), &[])
}

/// The fields of a configuration that says nothing but its type.
fn defaults(peft_type: &Value) -> Map<String, Value> {
    let only = Map::from_iter([("peft_type".to_owned(), peft_type.clone())]);
    read(only, Form::Configured).map_or_else(|_| Map::new(), |method| fields_of(&method.config))
}

impl ErasedMethod for VirtualTokens {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn config_string(&self) -> String {
        self.to_string()
    }

    /// Of an encoder-decoder the encoder alone, as in peft, which keeps rows for the decoder and never reads them.
    fn target(&self) -> Target {
        Target::First(Role::EmbeddedTokens)
    }

    fn build(&self, site: &SiteInfo, _build: &Build<'_>) -> Result<SiteLayer, Error> {
        if !matches!(site.kind, SiteKind::Embedding { .. }) {
            return Err(Error::CannotBuild {
                method: FAMILY,
                path: site.path.clone(),
                reason: "it acts on the rows of the token table".to_owned(),
            });
        }
        Ok(SiteLayer::Embedding(Erased::new(VirtualPrompt {
            rows: self.config.num_virtual_tokens,
            network: self.network().cloned(),
        })))
    }

    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let sites = self.target().select(build.host)?.sites;
        let Some(SiteKind::Embedding { d_model }) = sites.first().map(|info| info.kind) else {
            return Ok(Shared::new());
        };
        let (rows, device) = (self.config.rows(), build.device);
        let mut rng = build.shared_rng(None);
        if let Some(network) = self.network() {
            return Ok(encoder::new(network, rows, d_model, &mut rng, device));
        }
        let vectors = match (&self.config.source, &self.form) {
            (_, Form::Stored) => Param::from_data(draw::constant([rows, d_model], 0.0), device),
            (_, Form::Tokens(tokens)) => init::token_rows(FAMILY, TEXT, tokens, rows, build)?,
            (Source::Text { .. }, Form::Configured) => {
                return Err(Error::config(FAMILY, PromptError::NoTokens { field: TEXT }));
            }
            (Source::SampleVocabulary, Form::Configured) => {
                let entries = init::entries(FAMILY, build)?.max(1) as u64;
                let drawn: Vec<u32> = (0..rows).map(|_| (rng.next_u64() % entries) as u32).collect();
                init::token_rows(FAMILY, "prompt_tuning_init", &drawn, rows, build)?
            }
            (Source::Random | Source::Network(_), Form::Configured) => {
                Param::from_data(draw::normal(&mut rng, [rows, d_model], 1.0), device)
            }
        };
        Ok(Shared::new().with(PROMPT, SharedParam::Two(vectors)))
    }

    fn owns(&self, param: &str) -> bool {
        param == PROMPT || param.starts_with(NETWORK)
    }

    fn shared_key(&self, _format: Format, _adapter: &str, param: &str) -> String {
        param.to_owned()
    }

    /// There is no parameter at a site.
    fn key(&self, _format: Format, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        format!("{}.{param}", site.path)
    }

    /// What a network makes is not read where the network is.
    fn is_duplicate(&self, _format: Format, key: &str) -> bool {
        self.network().is_some() && key == PROMPT
    }

    /// What the network makes, as peft stores it.
    fn to_storage(&self, _format: Format, adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        let Some(network) = self.network() else {
            return Ok(None);
        };
        let pass = Pass::default();
        let vectors = encoder::forward(network, adapter.shared(), |x, prob| pass.dropout(x, prob));
        let device = vectors.device().inner();
        let vectors = Tensor::<2>::from_data(vectors.into_data(), &device);
        let shared = Shared::new().with(PROMPT, SharedParam::Two(Param::from_tensor(vectors)));
        let layers = adapter.layers().cloned().collect();
        Ok(Some(
            adapter.reformed(self.in_form(Form::Stored), layers).with_shared(shared),
        ))
    }

    fn adjusted_to(&self, _format: Format, tensors: &Tensors) -> Option<AnyMethod> {
        let network = matches!(self.config.source, Source::Network(_));
        let there = network && tensors.keys().any(|key| key.starts_with(NETWORK));
        there.then(|| self.in_form(Form::Configured))
    }

    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        let Source::Text { text, .. } = &self.config.source else {
            return Ok(None);
        };
        Ok(Some(
            self.in_form(Form::Tokens(init::tokens(FAMILY, TEXT, text, encode)?)),
        ))
    }

    fn inserts(&self) -> Option<Inserted> {
        let count = self.config.num_virtual_tokens;
        Some(Inserted { at: 0, count })
    }

    fn positions(&self) -> usize {
        self.config.num_virtual_tokens
    }

    fn write(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        if format != Format::Peft {
            let what = "virtual tokens before the embeddings";
            return Err(Error::config(FAMILY, PromptError::NotExpressible { format, what }));
        }
        let mut fields = fields_of(&self.config);
        let all = host.sites();
        let layers = all
            .iter()
            .filter_map(|info| info.site.layer)
            .max()
            .map_or(0, |last| last + 1);
        let heads = all.iter().find_map(|info| match info.kind {
            SiteKind::KeyValue { heads, .. } => Some(heads),
            _ => None,
        });
        let width = sites.iter().find_map(|info| match info.kind {
            SiteKind::Embedding { d_model } => Some(d_model),
            _ => None,
        });
        for (field, value) in [
            // Without one, peft's model puts nothing in.
            ("task_type", Value::from("FEATURE_EXTRACTION")),
            ("inference_mode", true.into()),
            ("token_dim", width.into()),
            ("num_layers", layers.into()),
            ("num_attention_heads", heads.into()),
        ] {
            fields.entry(field).or_insert(value);
        }
        Ok(fields)
    }
}

/// Reads peft's prompt tuning and P-tuning configurations.
#[derive(Clone, Copy, Debug)]
pub struct VirtualTokensFamily;

impl MethodFamily for VirtualTokensFamily {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn identifiers(&self) -> &'static [&'static str] {
        const { &[IDENTIFIERS[0].0, IDENTIFIERS[1].0] }
    }

    fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<AnyMethod, Error> {
        let name = IDENTIFIERS.iter().find(|(known, _)| *known == identifier);
        let peft_type = Value::from(name.map_or(PROMPT_TUNING, |(_, published)| published));
        let mut known: Vec<String> = defaults(&peft_type).into_iter().map(|(key, _)| key).collect();
        known.retain(|key| key != "peft_type");
        known.push("task_type".to_owned());
        if peft_type == PROMPT_TUNING {
            known.extend([TEXT, "tokenizer_name_or_path"].map(str::to_owned));
        }
        Error::in_config(FAMILY, config::refuse_unknown(&fields, known.iter()))?;
        let mut all = Map::from_iter([("peft_type".to_owned(), peft_type)]);
        all.extend(fields);
        Ok(AnyMethod::erased(read(all, Form::Configured)?))
    }

    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<AnyMethod, Error>> {
        let peft_type = stored.fields.get("peft_type")?.as_str()?;
        let mine = stored.format == Format::Peft && IDENTIFIERS.iter().any(|(_, published)| *published == peft_type);
        mine.then(|| Ok(AnyMethod::erased(read(stored.fields.clone(), Form::Stored)?)))
    }
}

/// From a wire object to a checked method.
fn read(fields: Map<String, Value>, form: Form) -> Result<VirtualTokens, Error> {
    let wire: VirtualTokensWire = Error::in_config(FAMILY, config::from_fields(fields))?;
    let checked = VirtualTokensConfig::try_from(wire).and_then(VirtualTokensConfig::into_method);
    let method = Error::in_config(FAMILY, checked)?;
    Ok(VirtualTokens { form, ..method })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AnyMethod, Error> {
        adapters_core::Registry::default()
            .with(adapters_core::MethodEntry::family(FAMILY, &VirtualTokensFamily))
            .parse(text)
    }

    #[test]
    fn config_strings_read_and_print() {
        for text in [
            "peft_prompt_tuning",
            "peft_prompt_tuning[num_virtual_tokens=4,prompt_tuning_init=SAMPLE_VOCAB]",
            "p_tuning",
            "p_tuning[num_virtual_tokens=4,encoder_reparameterization_type=LSTM,encoder_num_layers=1]",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn slips_are_named() {
        for (text, part) in [
            ("peft_prompt_tuning[prompt_length=4]", "unknown field `prompt_length`"),
            (
                "p_tuning[prompt_tuning_init=RANDOM]",
                "unknown field `prompt_tuning_init`",
            ),
            (
                "p_tuning[encoder_dropout=2,encoder_reparameterization_type=LSTM]",
                "`encoder_dropout`",
            ),
            ("p_tuning[num_virtual_tokens=0]", "`num_virtual_tokens` is out of range"),
        ] {
            let error = parse(text).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(part), "{text}: {source}");
        }
    }
}
