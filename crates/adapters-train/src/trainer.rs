//! A run of typed values, without a recipe file.

use std::ops::ControlFlow;
use std::path::PathBuf;

use adapters_core::IntoMethod;
use adapters_methods::Registry;
use burn::tensor::Device;

use crate::error::TrainError;
use crate::recipe::{AdapterSection, DataSection, HeadSection, ModelSection, OutputSection, Recipe, TrainSection};
use crate::report::{Event, Outcome};
use crate::run::Run;
use crate::training_loop::train;

/// Trains an adapter and a head on a frozen checkpoint, into a run folder. A run that was stopped or killed continues when the
/// same values are trained again, with the result of a run that was never stopped.
///
/// It is a [`Recipe`] of values: the defaults are those of a recipe, and the folder that a run leaves is the same.
#[derive(Clone, Debug)]
pub struct Trainer(Run);

impl Trainer {
    /// Trains `task`, by its name in [`TASKS`](crate::TASKS), on the checkpoint in the folder `base` with `data`, into the folder
    /// `dir`.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] for an unknown task.
    pub fn new(
        task: &str,
        base: impl Into<PathBuf>,
        data: DataSection,
        dir: impl Into<PathBuf>,
    ) -> Result<Self, TrainError> {
        let (model_dir, dir) = (base.into(), dir.into());
        let recipe = Recipe {
            model: ModelSection::new(model_dir.to_string_lossy()),
            data,
            adapter: AdapterSection::default(),
            fusion: None,
            head: HeadSection {
                kind: task.parse()?,
                ..HeadSection::default()
            },
            train: TrainSection::default(),
            output: OutputSection::default(),
        };
        Ok(Self(Run {
            recipe,
            model_dir,
            dir,
            registry: Registry::default(),
            device: Device::default(),
        }))
    }

    /// The adapter that is trained; `methods` know its method.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] for a field outside its range.
    pub fn adapter(mut self, name: &str, method: impl IntoMethod, methods: Registry) -> Result<Self, TrainError> {
        self.0.registry = methods;
        self.0.recipe.adapter = AdapterSection {
            name: name.to_owned(),
            config: Some(method.into_method()?.to_string()),
            ..AdapterSection::default()
        };
        Ok(self)
    }

    /// Longest input in tokens; 128 without it.
    #[must_use]
    pub fn max_length(mut self, tokens: usize) -> Self {
        self.0.recipe.model.max_length = tokens;
        self
    }

    /// How the head reads the model, and its dropout; the task stays.
    #[must_use]
    pub fn head(mut self, head: HeadSection) -> Self {
        let kind = self.0.recipe.head.kind;
        self.0.recipe.head = HeadSection { kind, ..head };
        self
    }

    /// How to train.
    #[must_use]
    pub fn settings(mut self, settings: TrainSection) -> Self {
        self.0.recipe.train = settings;
        self
    }

    /// The device, without autodiff; Burn's default without it.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.0.device = device;
        self
    }

    /// Trains to the end, or until `on_event` breaks: then the run stops where it is, as if it were killed, and the next call
    /// continues from the last checkpoint.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] for a value outside its range; as [`train`].
    pub fn train(&self, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Outcome, TrainError> {
        self.0.recipe.check()?;
        train(&self.0, on_event)
    }
}
