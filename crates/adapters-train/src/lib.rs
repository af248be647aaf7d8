#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod attach;
mod batch_size;
mod batches;
mod checkpoint;
#[cfg(feature = "plots")]
mod curve;
mod data;
mod device_read;
mod digest;
mod drop_layers;
mod error;
mod evaluate;
mod export;
mod fitting_batch;
mod frozen_layers;
mod fusion_run;
mod inputs;
#[cfg(feature = "learner")]
mod learner;
mod losses;
mod metrics;
mod optimizer;
mod prepare;
mod recipe;
mod recompute;
mod report;
mod run;
mod run_data;
mod run_files;
mod run_folder;
#[cfg(feature = "plots")]
mod run_pictures;
mod schedule;
mod seeds;
mod step;
mod step_batches;
mod task_model;
mod tasks;
mod trainer;
mod training_loop;

pub use batch_size::BatchSize;
pub use batches::{Order, epoch_batches};
pub use data::{DataError, Fields, Labels, Location, Passage, Record, Records, Shard, ShardBy};
pub use drop_layers::DropLayers;
pub use error::TrainError;
pub use evaluate::{Evaluation, Outputs, Prediction};
pub use inputs::Batch;
#[cfg(feature = "learner")]
pub use learner::{ClassBatch, Classifier, LabeledText, TextBatcher};
pub use metrics::{Confusion, Figures};
pub use optimizer::{Optimizer, adamw};
pub use recipe::{
    AdapterSection, Batching, ClassWeights, DataSection, FusionSection, HeadSection, Keep, ModelSection, OutputSection,
    RECIPE_SCHEMA, Recipe, TrainSection,
};
pub use recompute::LossGradients;
pub use report::{Event, Outcome};
pub use run::Run;
pub use run_files::{RunFileError, Summary, Truncated};
pub use schedule::Schedule;
pub use task_model::TaskModel;
pub use tasks::{
    Example, Join, OpenTask, TASKS, Task, TaskContext, TaskData, TaskKind, TaskName, TaskOptions, Template, Usage,
};
pub use trainer::Trainer;
pub use training_loop::train;

// For the command and for benchmarks.
#[cfg(feature = "plots")]
#[doc(hidden)]
pub use curve::{CurveError, draw_confusion};
#[doc(hidden)]
pub use inputs::{hidden_states, text_input};
#[doc(hidden)]
pub use run_files::{MetricsLog, machine_memory_bytes, peak_rss_bytes};
#[doc(hidden)]
pub use tasks::tokenizer_of;
