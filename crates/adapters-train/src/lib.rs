#![doc = include_str!("../README.md")]

mod attach;
mod batches;
mod checkpoint;
mod completions;
mod curve;
mod data;
mod drop_layers;
mod error;
mod evaluate;
mod examples;
mod leave;
mod masking;
mod optimizer;
mod parts;
mod recipe;
mod recompute;
mod report;
mod run_files;
mod task;
mod trainer;

pub use batches::{Order, epoch_batches, eval_batches};
pub use curve::{Curve, CurveError, Shares, draw, draw_shares};
pub use data::{DataError, Dataset, Example, Fields, ImageDataset, ImageExample, Label, LabelKind, Labels};
pub use drop_layers::DropLayers;
pub use error::TrainError;
pub use evaluate::{EncodedData, Evaluation, cross_entropy, evaluate, evaluate_head};
pub use optimizer::{adamw, linear_schedule};
pub use recipe::{
    AdapterSection, Batching, DataSection, FusionSection, HeadKind, HeadSection, Keep, ModelSection, OutputSection,
    Part, PartBy, Recipe, Template, TrainSection,
};
pub use recompute::LossGradients;
pub use report::{Event, Outcome};
pub use run_files::{MetricsLog, RunFileError, Summary, peak_rss_bytes};
pub use trainer::{Run, train};
