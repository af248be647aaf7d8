#![doc = include_str!("../README.md")]

mod batches;
mod checkpoint;
mod curve;
mod data;
mod error;
mod evaluate;
mod optimizer;
mod recipe;
mod report;
mod run_files;
mod task;
mod trainer;

pub use batches::{Order, epoch_batches, eval_batches};
pub use curve::{Curve, CurveError, draw};
pub use data::{DataError, Dataset, Example, Fields, Label, LabelKind, Labels};
pub use error::TrainError;
pub use evaluate::{EncodedData, Evaluation, cross_entropy, evaluate, evaluate_head};
pub use optimizer::{adamw, linear_schedule};
pub use recipe::{
    AdapterSection, Batching, DataSection, HeadKind, HeadSection, Keep, ModelSection, OutputSection, Recipe,
    TrainSection,
};
pub use report::{Event, Outcome};
pub use run_files::{MetricsLog, RunFileError, Summary, peak_rss_bytes};
pub use trainer::{Run, train};
