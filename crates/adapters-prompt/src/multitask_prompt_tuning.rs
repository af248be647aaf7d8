//! Multitask prompt tuning: one prompt for all tasks, times a low-rank matrix of each.

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AnyMethod, Build, Call, Capabilities, Causality, Codec, ConfigError, EmbeddingState, Encode, Erased,
    Error, Host, KnowsTasks, Method, NamedParams, NeedsTokenizer, ParamId, Peft, Shared, SharedParameters, SiteAdapter,
    SiteInfo, SiteKind, SiteLayer, StoredConfig, named_params,
};
use adapters_nn::draw;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;

use crate::peft_file;
use crate::peft_prompt_tuning::{PeftPromptInit, PeftPromptTuningConfig};
use crate::start::{Start, Starting, starting};
use crate::virtual_tokens::{PROMPT, VirtualTokens};

/// Multitask prompt tuning: learned rows `P` in front of those of the token table, which are `P o (C_t R_t)` for a row of task
/// `t`, `o` the elementwise product.
///
/// *Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning*, Wang et al., 2023,
/// <https://arxiv.org/abs/2303.02861>, as peft 0.21.2 computes it. The fields are those of its `adapter_config.json`; one that a
/// file leaves out, or that is null, has the default given below. Every row needs a task:
/// [`Ctx::with_tasks`](adapters_core::Ctx::with_tasks).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MultitaskPromptTuningConfig {
    /// How many rows there are.
    #[serde(flatten)]
    pub tokens: VirtualTokens,
    /// Tasks, at least 1. Default 1.
    pub num_tasks: usize,
    /// Rank of the matrix of a task, at least 1. Default 1.
    pub num_ranks: usize,
    /// What the rows begin as. Default `RANDOM`.
    pub prompt_tuning_init: MultitaskInit,
    /// The text of `TEXT`, not empty. Default none.
    pub prompt_tuning_init_text: Option<String>,
    /// Name of the tokenizer, which peft requires with `TEXT`; here it is only kept. Default none.
    pub tokenizer_name_or_path: Option<String>,
    /// Whether the rows begin as `prompt_tuning_init` describes; in no file.
    #[serde(skip)]
    pub start: Start,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the rows begin as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MultitaskInit {
    /// Normal with standard deviation one.
    #[default]
    Random,
    /// The embeddings of a text's tokens, repeated or cut to their number.
    Text,
    /// The parameters of another adapter, the mean over its tasks. Read and kept; a new adapter does not begin so.
    AverageSourceTasks,
    /// Those of one of its tasks. As the one before.
    ExactSourceTask,
    /// Its rows alone. As the one before.
    OnlySourceShared,
}

const PEFT_TYPE: &str = "MULTITASK_PROMPT_TUNING";

impl Default for MultitaskPromptTuningConfig {
    fn default() -> Self {
        Self {
            tokens: VirtualTokens::default(),
            num_tasks: 1,
            num_ranks: 1,
            prompt_tuning_init: MultitaskInit::Random,
            prompt_tuning_init_text: None,
            tokenizer_name_or_path: None,
            start: Start::Configured,
            extra: Map::new(),
        }
    }
}

impl MultitaskPromptTuningConfig {
    /// Prompt tuning with the same rows.
    fn of_one_task(&self) -> PeftPromptTuningConfig {
        PeftPromptTuningConfig {
            tokens: self.tokens.clone(),
            prompt_tuning_init: match self.prompt_tuning_init {
                MultitaskInit::Text => PeftPromptInit::Text,
                _ => PeftPromptInit::Random,
            },
            prompt_tuning_init_text: self.prompt_tuning_init_text.clone(),
            tokenizer_name_or_path: self.tokenizer_name_or_path.clone(),
            start: self.start.clone(),
            extra: Map::new(),
        }
    }
}

starting!(MultitaskPromptTuningConfig);

impl Method for MultitaskPromptTuningConfig {
    const NAME: &'static str = "multitask_prompt_tuning";
    const DESCRIPTION: &'static str =
        "A trained prompt that all tasks share, multiplied by a low-rank matrix of each task.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("num_tasks", self.num_tasks)?;
        ConfigError::size("num_ranks", self.num_ranks)?;
        let axes = [self.num_tasks, self.num_ranks, self.tokens.num_virtual_tokens];
        ConfigError::elements("num_tasks x num_ranks x num_virtual_tokens", axes)?;
        let of_source = !matches!(self.prompt_tuning_init, MultitaskInit::Random | MultitaskInit::Text);
        ConfigError::unless(
            !of_source || self.start == Start::Stored,
            "prompt_tuning_init",
            "RANDOM or TEXT for a new adapter: load the source adapter and train it further",
            format!("{:?}", self.prompt_tuning_init),
        )?;
        self.of_one_task().check()
    }

    fn target(&self) -> Target {
        VirtualTokens::target()
    }

    fn build(&self, site: &SiteInfo, _build: &Build<'_>) -> Result<SiteLayer, Error> {
        match site.kind {
            SiteKind::Embedding { .. } => Ok(SiteLayer::Embedding(Erased::new(TaskTokensLayer {
                rows: self.tokens.num_virtual_tokens,
            }))),
            _ => Err(Self::refuse(site, "it adapts the rows of the token table only")),
        }
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            embeddings: Some(&self.tokens),
            tokenizer: Some(self),
            tasks: Some(self),
            ..Capabilities::default()
        }
    }
}

impl KnowsTasks for MultitaskPromptTuningConfig {
    fn tasks(&self) -> usize {
        self.num_tasks
    }
}

impl SharedParameters for MultitaskPromptTuningConfig {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let Some([rows, width]) = self.tokens.shape(build.host)? else {
            return Ok(Shared::new());
        };
        let mut rng = build.shared_rng(None);
        let prompt = self.of_one_task().vectors([rows, width], &mut rng, build)?;
        let (tasks, ranks) = (self.num_tasks, self.num_ranks);
        let cols = draw::normal(&mut rng, [tasks, rows, ranks], 0.02);
        let matrix_rows = draw::normal(&mut rng, [tasks, ranks, width], 0.02);
        Ok(Shared::of(TaskPrompts {
            prompt,
            cols: Param::from_data(cols, build.device),
            rows: Param::from_data(matrix_rows, build.device),
        }))
    }

    fn owns(&self, param: &str) -> bool {
        [PROMPT, COLS, ROWS].contains(&param)
    }
}

impl NeedsTokenizer for MultitaskPromptTuningConfig {
    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        self.with_start(self.of_one_task().tokenized(encode)?)
    }
}

impl Codec<AdapterHub> for MultitaskPromptTuningConfig {}

impl Codec<Peft> for MultitaskPromptTuningConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        peft_file::read(PEFT_TYPE, stored).map(Self::stored)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        Ok(peft_file::write(PEFT_TYPE, self, sites, host))
    }

    fn shared_key(&self, _adapter: &str, param: &str) -> String {
        param.to_owned()
    }
}

const COLS: &str = "prefix_task_cols";
const ROWS: &str = "prefix_task_rows";

/// The rows of all tasks, and what each task makes of them.
#[derive(Module, Debug)]
pub(crate) struct TaskPrompts {
    /// `P`, `[rows, d_model]`.
    pub(crate) prompt: Param<Tensor<2>>,
    /// `C`, `[tasks, rows, ranks]`.
    pub(crate) cols: Param<Tensor<3>>,
    /// `R`, `[tasks, ranks, d_model]`.
    pub(crate) rows: Param<Tensor<3>>,
}

named_params!(TaskPrompts: "prompt_embeddings" => prompt, "prefix_task_cols" => cols, "prefix_task_rows" => rows);

/// `[P o (C_t R_t); x]`.
#[derive(Module, Debug)]
pub(crate) struct TaskTokensLayer {
    /// Rows of `P` that are inserted.
    pub(crate) rows: usize,
}

impl SiteAdapter<EmbeddingState, TaskPrompts> for TaskTokensLayer {
    /// # Panics
    ///
    /// Panics if the last axis is not the width of the token table.
    fn apply(&self, state: EmbeddingState, call: &Call<'_, TaskPrompts>) -> EmbeddingState {
        let shared = call.shared;
        let tasks = call.tasks_of(state.hidden.dims()[0], &state.hidden.device());
        let cols = shared.cols.val().slice_dim(1, 0..self.rows).select(0, tasks.clone());
        let of_tasks = cols.matmul(shared.rows.val().select(0, tasks));
        let prompt = shared.prompt.val().slice_dim(0, 0..self.rows).unsqueeze::<3>();
        state.insert_by_row(0, prompt * of_tasks)
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

/// All its parameters are shared.
impl NamedParams for TaskTokensLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        Vec::new()
    }
}
