//! Context-aware prompt tuning: the embeddings of a context, which move within a small ball.

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AnyMethod, Attached, Build, Call, Capabilities, Causality, Codec, ConfigError, ContextTarget,
    ConvertsForStorage, EditsEmbeddings, EmbeddingState, Erased, Error, Format, Host, Inserted, LearnsContext, Method,
    NamedParams, ParamId, Peft, Shared, SharedParameters, SiteAdapter, SiteInfo, SiteKind, SiteLayer, StoredConfig,
    Tensors,
};
use adapters_nn::draw;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::peft_file;
use crate::start::{Start, Starting, starting, token_rows};
use crate::virtual_tokens::{PROMPT, VirtualTokens};

/// Context-aware prompt tuning: the embeddings `E` of the tokens of a context in front of the text, plus `D`, which trains. Each
/// row of `D` is projected onto a ball around zero before it is added.
///
/// *Context-aware Prompt Tuning: Advancing In-Context Learning with Adversarial Methods*, Blau et al., 2024,
/// <https://arxiv.org/abs/2410.17222>, as peft 0.21.2 computes it. The fields are those of its `adapter_config.json`.
///
/// The projection is part of the forward pass, and its gradient that of the identity; peft also writes the projected rows
/// back before each pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CptConfig {
    /// The tokens of the context, at least one. Default `[0]`.
    pub cpt_token_ids: Vec<u32>,
    /// Which of them are seen; peft stores it and does not read it. As many as tokens; default all.
    pub cpt_mask: Vec<u8>,
    /// What each token is, modulo 4: 1 a template of an input, 2 an input, 3 a template of an output, 0 an output, whose row
    /// does not move. As many as tokens; default 1.
    pub cpt_tokens_type_mask: Vec<usize>,
    /// Radius for inputs, times `sqrt(d_model / 2048)`, at least 0. Default 0.1.
    pub opt_projection_epsilon: f64,
    /// Radius for templates, times the same. Default 0.1.
    pub opt_projection_format_epsilon: f64,
    /// Whether in training the loss of an output counts the less the further it is from the text. Default `none`.
    #[serde(deserialize_with = "none_by_default")]
    pub opt_weighted_loss_type: ContextLoss,
    /// With `decay`, the factor from one output to the one before it, at least 0. Default 1.
    pub opt_loss_decay_factor: f64,
    /// Whether the rows are those of a file; in no file.
    #[serde(skip)]
    pub start: Start,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How the losses of the outputs in a context are weighed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextLoss {
    /// As that of the text.
    #[default]
    None,
    /// Each by a factor less than the one behind it.
    Decay,
}

/// A null is `none`.
fn none_by_default<'de, D: Deserializer<'de>>(field: D) -> Result<ContextLoss, D::Error> {
    Ok(Option::deserialize(field)?.unwrap_or_default())
}

const PEFT_TYPE: &str = "CPT";

impl Default for CptConfig {
    fn default() -> Self {
        Self {
            cpt_token_ids: vec![0],
            cpt_mask: Vec::new(),
            cpt_tokens_type_mask: Vec::new(),
            opt_projection_epsilon: 0.1,
            opt_projection_format_epsilon: 0.1,
            opt_weighted_loss_type: ContextLoss::None,
            opt_loss_decay_factor: 1.0,
            start: Start::Configured,
            extra: Map::new(),
        }
    }
}

impl CptConfig {
    /// What a token is.
    fn kind(&self, token: usize) -> usize {
        self.cpt_tokens_type_mask.get(token).copied().unwrap_or(1)
    }

    /// Radius of each row.
    fn radii(&self, width: usize) -> Vec<f32> {
        let factor = (width as f64 / 2048.0).sqrt();
        let radius = |kind: usize| match kind % 4 {
            1 | 3 => self.opt_projection_format_epsilon * factor,
            2 => self.opt_projection_epsilon * factor,
            _ => 1e-10,
        };
        let tokens = 0..self.cpt_token_ids.len();
        tokens.map(|token| radius(self.kind(token)) as f32).collect()
    }
}

starting!(CptConfig);

impl Method for CptConfig {
    const NAME: &'static str = "cpt";
    const DESCRIPTION: &'static str =
        "The embeddings of a given context, trained within a small distance of where they begin.";

    fn check(&self) -> Result<(), ConfigError> {
        let count = self.cpt_token_ids.len();
        ConfigError::size("cpt_token_ids", count)?;
        for (field, found) in [
            ("cpt_mask", self.cpt_mask.len()),
            ("cpt_tokens_type_mask", self.cpt_tokens_type_mask.len()),
        ] {
            let expected = "none, or as many elements as `cpt_token_ids`";
            ConfigError::unless(found == 0 || found == count, field, expected, found)?;
        }
        for (field, number) in [
            ("opt_projection_epsilon", self.opt_projection_epsilon),
            ("opt_projection_format_epsilon", self.opt_projection_format_epsilon),
            ("opt_loss_decay_factor", self.opt_loss_decay_factor),
        ] {
            ConfigError::unless(
                number >= 0.0 && number.is_finite(),
                field,
                "a number of at least 0",
                number,
            )?;
        }
        Ok(())
    }

    fn target(&self) -> Target {
        VirtualTokens::target()
    }

    fn build(&self, site: &SiteInfo, _build: &Build<'_>) -> Result<SiteLayer, Error> {
        match site.kind {
            SiteKind::Embedding { .. } => Ok(SiteLayer::Embedding(Erased::new(ContextLayer {}))),
            _ => Err(Self::refuse(site, "it adapts the rows of the token table only")),
        }
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            embeddings: Some(self),
            storage: Some(self),
            context: Some(self),
            ..Capabilities::default()
        }
    }
}

/// The outputs, in training: the loss is the mean over the targets of the text and of the context.
impl LearnsContext for CptConfig {
    fn predicted(&self) -> Vec<ContextTarget> {
        // The first token follows nothing.
        let outputs = (1..self.cpt_token_ids.len()).filter(|index| {
            let kind = self.kind(*index);
            kind > 0 && kind.is_multiple_of(4)
        });
        let outputs: Vec<usize> = outputs.collect();
        let kinds: BTreeSet<usize> = outputs.iter().map(|index| self.kind(*index)).collect();
        let weight = |kind: usize| match self.opt_weighted_loss_type {
            ContextLoss::None => 1.0,
            // The text has the highest kind of all.
            ContextLoss::Decay => self.opt_loss_decay_factor.powi(kinds.range(kind..).count() as i32),
        };
        let target = |index: usize| ContextTarget {
            index,
            token: self.cpt_token_ids[index],
            weight: weight(self.kind(index)),
        };
        outputs.iter().copied().map(target).collect()
    }
}

impl EditsEmbeddings for CptConfig {
    fn inserts(&self) -> Option<Inserted> {
        let count = self.cpt_token_ids.len();
        Some(Inserted { at: 0, count })
    }

    fn positions(&self) -> usize {
        self.cpt_token_ids.len()
    }
}

impl SharedParameters for CptConfig {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let sites = Self::target(self).select(build.host)?.sites;
        let Some(width) = crate::virtual_tokens::embedding_width(&sites) else {
            return Ok(Shared::new());
        };
        let rows = self.cpt_token_ids.len();
        let zeros = || Param::from_data(draw::constant([rows, width], 0.0), build.device);
        let base = match self.start {
            Start::Stored => return Ok(Shared::of(ContextRows::Stored(zeros()))),
            Start::Tokens(_) => zeros(),
            Start::Configured => token_rows(Self::NAME, "cpt_token_ids", &self.cpt_token_ids, rows, build)?,
        };
        let moves = (0..rows).map(|token| {
            if self.kind(token).is_multiple_of(4) {
                0.0
            } else {
                1.0f32
            }
        });
        let moves = TensorData::new(moves.collect::<Vec<f32>>(), [rows, 1]);
        let radii = TensorData::new(self.radii(width), [rows, 1]);
        Ok(Shared::of(ContextRows::Moving(MovingRows {
            base,
            delta: zeros(),
            moves: Tensor::from_data(moves, build.device),
            radii: Tensor::from_data(radii, build.device),
        })))
    }

    fn owns(&self, param: &str) -> bool {
        param == PROMPT || param.starts_with("prompt_encoder.")
    }
}

/// A file holds the sum.
impl ConvertsForStorage for CptConfig {
    fn to_storage(&self, _format: Format, adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        let Some(ContextRows::Moving(moving)) = adapter.shared().get() else {
            return Ok(None);
        };
        let rows = moving.rows();
        let device = rows.device().inner();
        let rows = Param::from_tensor(Tensor::<2>::from_data(rows.into_data(), &device));
        let stored = self.clone().starting(Start::Stored);
        let layers = adapter.layers().cloned().collect();
        let stored = adapter.reformed(AnyMethod::new(stored)?, layers);
        Ok(Some(stored.with_shared(Shared::of(ContextRows::Stored(rows)))))
    }
}

impl Codec<AdapterHub> for CptConfig {}

impl Codec<Peft> for CptConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        peft_file::read(PEFT_TYPE, stored).map(Self::stored)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = peft_file::write(PEFT_TYPE, self, sites, host);
        let count = self.cpt_token_ids.len();
        for (field, value) in [
            ("num_virtual_tokens", Value::from(count)),
            ("num_transformer_submodules", 1.into()),
        ] {
            fields.entry(field).or_insert(value);
        }
        // Peft trains it on causal language models alone, and needs both masks.
        fields.insert("task_type".to_owned(), "CAUSAL_LM".into());
        if self.cpt_mask.is_empty() {
            fields.insert("cpt_mask".to_owned(), vec![1; count].into());
        }
        if self.cpt_tokens_type_mask.is_empty() {
            fields.insert("cpt_tokens_type_mask".to_owned(), vec![1; count].into());
        }
        Ok(fields)
    }

    fn shared_key(&self, _adapter: &str, param: &str) -> String {
        param.to_owned()
    }

    /// The sum is not read where its terms are.
    fn is_duplicate(&self, key: &str) -> bool {
        self.start != Start::Stored && key == PROMPT
    }

    /// A file that holds the terms, too.
    fn adjusted_to(&self, tensors: &Tensors) -> Option<Self> {
        let terms = || self.clone().starting(Start::Tokens(self.cpt_token_ids.clone()));
        tensors.contains_key(DELTA).then(terms)
    }
}

const BASE: &str = "prompt_encoder.embedding.weight";
const DELTA: &str = "prompt_encoder.delta_embedding.weight";

/// The rows of a context.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One an adapter, and Burn has no module in a box.
pub(crate) enum ContextRows {
    /// Those of a file, `[rows, d_model]`.
    Stored(Param<Tensor<2>>),
    /// The embeddings of tokens, and what moves them.
    Moving(MovingRows),
}

/// `E + D`, each row of `D` in its ball.
#[derive(Module, Debug)]
pub(crate) struct MovingRows {
    /// `E`, `[rows, d_model]`; not trained.
    pub(crate) base: Param<Tensor<2>>,
    /// `D`, `[rows, d_model]`.
    pub(crate) delta: Param<Tensor<2>>,
    /// One for rows that move, `[rows, 1]`.
    moves: Tensor<2>,
    /// Radius of each ball, `[rows, 1]`.
    radii: Tensor<2>,
}

impl MovingRows {
    /// `[rows, d_model]`.
    fn rows(&self) -> Tensor<2> {
        let delta = self.delta.val();
        let norms = delta.clone().detach().square().sum_dim(1).sqrt();
        let factor = self.radii.clone() / norms.max_pair(self.radii.clone());
        let projected = delta.clone().detach() * factor;
        // The value of the projection and the gradient of the rows that move.
        let moving = delta * self.moves.clone();
        let missing = projected - moving.clone().detach();
        self.base.val().detach() + moving + missing
    }
}

impl NamedParams for ContextRows {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        match self {
            Self::Stored(rows) => vec![(PROMPT.into(), rows.id)],
            Self::Moving(moving) => vec![(BASE.into(), moving.base.id), (DELTA.into(), moving.delta.id)],
        }
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        match self {
            Self::Stored(_) => Vec::new(),
            Self::Moving(moving) => vec![moving.base.id],
        }
    }
}

/// `[E + D; x]`.
#[derive(Module, Debug)]
pub(crate) struct ContextLayer {}

impl SiteAdapter<EmbeddingState, ContextRows> for ContextLayer {
    /// # Panics
    ///
    /// Panics if the last axis is not the width of the token table.
    fn apply(&self, state: EmbeddingState, call: &Call<'_, ContextRows>) -> EmbeddingState {
        let rows = match call.shared {
            ContextRows::Stored(rows) => rows.val(),
            ContextRows::Moving(moving) => moving.rows(),
        };
        state.insert(0, rows)
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

/// All its parameters are shared.
impl NamedParams for ContextLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        Vec::new()
    }
}
