//! Tasks: what a data file holds, what a model predicts of a batch of it, and how well the outputs fit.
//!
//! A task is a type that implements [`Task`], in a file of its own, and one line in [`TASKS`]. Nothing else names it: recipes,
//! checkpoints and the command line find it by its name in that list.

mod answers;
mod audio_classification;
mod causal_lm;
mod classification;
mod context;
mod erased;
mod example_store;
mod image_classification;
mod labeled;
mod masked_lm;
mod masking;
mod multi_label;
mod multiple_choice;
mod prompts;
mod question_answering;
mod regression;
mod seq2seq_lm;
mod tagging;
mod task;
mod text;
mod text_classification;
mod tokens;
mod usage;

pub(crate) use self::answers::FIGURES as ANSWERS;
use self::classification::Classification;
#[cfg(feature = "learner")]
pub(crate) use self::context::default_pooling;
pub use self::context::{TaskContext, TaskOptions, Template, tokenizer_of};
pub use self::erased::{OpenTask, TaskData, TaskKind, TaskName};
pub(crate) use self::prompts::chat_template;
pub(crate) use self::task::EVALUATION;
pub use self::task::{Example, Join, Task};
pub use self::usage::Usage;

/// Every task. The first is the default.
pub const TASKS: &[TaskKind] = &[
    TaskKind::of::<Classification<text_classification::Texts>>(),
    TaskKind::of::<multi_label::MultiLabel>(),
    TaskKind::of::<regression::Regression>(),
    TaskKind::of::<tagging::Tagging>(),
    TaskKind::of::<question_answering::QuestionAnswering>(),
    TaskKind::of::<multiple_choice::MultipleChoice>(),
    TaskKind::of::<Classification<image_classification::Images>>(),
    TaskKind::of::<Classification<audio_classification::Sounds>>(),
    TaskKind::of::<masked_lm::MaskedLm>(),
    TaskKind::of::<causal_lm::CausalLmTask>(),
    TaskKind::of::<seq2seq_lm::Seq2SeqLm>(),
];
