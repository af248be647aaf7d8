//! Tasks without their type: the entries of the list, and the examples of a file.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use adapters_core::Ctx;
use adapters_models::heads::HeadConfig;
use adapters_models::{Model, ModelKind};
use adapters_nn::nearest;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::TASKS;
use super::context::TaskContext;
use super::example_store::ExampleStore;
use super::prompts::best_fit;
use super::task::{Example, LabelField, Task, of_examples};
use super::usage::Usage;
use crate::data::Records;
use crate::error::TrainError;
use crate::evaluate::{Evaluation, Outputs, Prediction};
use crate::inputs::Batch;
use crate::task_model::TaskModel;

/// Records that are encoded at a time.
const AT_ONCE: usize = 1 << 14;

/// An entry of [`TASKS`].
#[derive(Clone, Copy)]
pub struct TaskKind {
    /// Its name in recipes.
    pub name: &'static str,
    /// The Hub's name of the task.
    pub pipeline: Option<&'static str>,
    /// Fields of a data file.
    pub data: &'static str,
    /// Models it works on.
    pub models: &'static [ModelKind],
    /// Names of its figures in addition to the loss; the first is the one it is known by.
    pub metrics: &'static [&'static str],
    /// Whether the model learns to write text.
    pub is_generative: bool,
    /// What a trained adapter is used for.
    pub usage: Usage,
    /// Whether a prediction repeats its input.
    pub repeats_input: bool,
    /// Whether several examples may share a row.
    pub packs: bool,
    /// Whether its loss takes `train.class_weights`.
    pub weighs_classes: bool,
    /// Fewest labels a recipe names.
    pub labels: usize,
    /// The field of the labels, where a recipe need not name them.
    pub(crate) label_field: Option<LabelField>,
    serves: fn(&HeadConfig) -> bool,
    open: fn(&TaskContext<'_>) -> Result<Box<dyn OpenTask>, TrainError>,
}

/// A task with its options.
pub trait OpenTask: fmt::Debug + Send + Sync {
    /// The head that is trained; `None` where the model's own serves.
    fn head(&self) -> Option<HeadConfig>;

    /// Encodes the records of a file. Where `labeled` is false, targets may be absent.
    ///
    /// # Errors
    ///
    /// Those of the data and the tokenizer.
    fn examples(&self, records: &Records, labeled: bool, cx: &TaskContext<'_>)
    -> Result<Box<dyn TaskData>, TrainError>;
}

/// The encoded examples of one file. Those that do not fit into a fixed part of the memory are in a temporary file.
pub trait TaskData: fmt::Debug + Send + Sync {
    /// Lengths in tokens, in the order of the file.
    fn lengths(&self) -> &[usize];

    /// Whether what a model reads of an example changes from pass to pass.
    fn changes(&self) -> bool;

    /// Texts of which the longest input cut something off.
    fn truncated(&self) -> usize;

    /// The examples `indices` and their targets; `seed` hides tokens, where tokens are hidden.
    ///
    /// # Errors
    ///
    /// As [`Task::batch`].
    fn batch(&self, indices: &[usize], seed: u64, model: &Model, device: &Device) -> Result<Batch, TrainError>;

    /// Mean loss of a batch from its last hidden state; see [`Task::loss`].
    ///
    /// # Errors
    ///
    /// As [`Task::loss`].
    fn loss(
        &self,
        model: &TaskModel,
        hidden: Tensor<3>,
        batch: &Batch,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<1>, TrainError>;

    /// Scores all examples with a model whose set is on a plain device.
    ///
    /// # Errors
    ///
    /// As [`Task::evaluate`].
    fn evaluate(&self, model: &TaskModel, batch_size: usize, device: &Device) -> Result<Evaluation, TrainError>;

    /// The prediction for the example `index` in words.
    ///
    /// # Errors
    ///
    /// [`TrainError::TemporaryFile`] where the temporary file of the examples cannot be read.
    fn describe(&self, index: usize, outputs: &Outputs) -> Result<Prediction, TrainError>;
}

#[derive(Debug)]
struct Opened<T>(Arc<T>);

#[derive(Debug)]
struct Examples<T: Task> {
    task: Arc<T>,
    store: ExampleStore<T::Example>,
    /// The examples of each row, where rows are filled up.
    rows: Option<Vec<Vec<usize>>>,
    lengths: Vec<usize>,
    truncated: usize,
    /// What adapters are told of each; none where the data names no task.
    tasks: Vec<Option<usize>>,
}

impl TaskKind {
    /// The entry of a task.
    pub const fn of<T: Task>() -> Self {
        Self {
            name: T::NAME,
            pipeline: T::PIPELINE,
            data: T::DATA,
            models: T::MODELS,
            metrics: T::METRICS,
            is_generative: T::IS_GENERATIVE,
            usage: T::USAGE,
            repeats_input: T::REPEATS_INPUT,
            packs: T::JOIN.is_some(),
            weighs_classes: T::WEIGHS_CLASSES,
            labels: T::LABELS,
            label_field: T::LABEL_FIELD,
            serves: T::serves,
            open: |cx| Ok(Box::new(Opened(Arc::new(T::new(cx)?)))),
        }
    }

    /// The task of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TASKS.iter().find(|task| task.name == name)
    }

    /// The task that trains such a head on a model of this kind.
    pub fn of_head(head: &HeadConfig, model: ModelKind) -> Option<&'static Self> {
        TASKS
            .iter()
            .find(|task| task.models.contains(&model) && (task.serves)(head))
    }

    /// The task that trains the language-model head a model of this kind has itself.
    pub fn of_writer(model: ModelKind) -> Option<&'static Self> {
        TASKS
            .iter()
            .find(|task| task.is_generative && task.models.contains(&model))
    }

    /// The task with its options.
    ///
    /// # Errors
    ///
    /// As [`Task::new`].
    pub fn open(&self, cx: &TaskContext<'_>) -> Result<Box<dyn OpenTask>, TrainError> {
        (self.open)(cx)
    }
}

impl<T: Task> OpenTask for Opened<T> {
    fn head(&self) -> Option<HeadConfig> {
        self.0.head()
    }

    fn examples(
        &self,
        records: &Records,
        labeled: bool,
        cx: &TaskContext<'_>,
    ) -> Result<Box<dyn TaskData>, TrainError> {
        let mut store = ExampleStore::default();
        let (mut lengths, mut truncated) = (Vec::new(), 0);
        for records in records.records.chunks(AT_ONCE) {
            for example in self.0.examples(records, labeled, cx)? {
                let length = example.length();
                lengths.push(length);
                truncated += example.truncated();
                store.push(example, length)?;
            }
        }
        let rows = (cx.options.pack && T::JOIN.is_some()).then(|| best_fit(&lengths, cx.options.max_length));
        if let Some(rows) = &rows {
            lengths = rows
                .iter()
                .map(|row| row.iter().map(|index| lengths[*index]).sum())
                .collect();
        }
        let tasks = match &cx.options.fields.task {
            Some(field) => records
                .records
                .iter()
                .map(|record| record.optional_index(field))
                .collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        if !tasks.is_empty() && tasks.len() != lengths.len() {
            let found = format!("{} records in {} rows", tasks.len(), lengths.len());
            return Err(TrainError::Value {
                field: "data.pack",
                expected: "false with `data.fields.task`".to_owned(),
                found,
            });
        }
        Ok(Box::new(Examples {
            task: self.0.clone(),
            store,
            rows,
            lengths,
            truncated,
            tasks,
        }))
    }
}

impl dyn OpenTask {
    /// Reads a labeled file.
    pub(crate) fn read(&self, path: &Path, cx: &TaskContext<'_>) -> Result<Box<dyn TaskData>, TrainError> {
        self.examples(&Records::read(path, &cx.options.fields)?, true, cx)
    }
}

impl<T: Task> Examples<T> {
    /// An example, or those of a row as one.
    fn example(&self, index: usize) -> Result<Cow<'_, T::Example>, TrainError> {
        match (&self.rows, T::JOIN) {
            (Some(rows), Some(join)) => {
                let examples = rows[index].iter().map(|index| Ok(self.store.get(*index)?.into_owned()));
                Ok(Cow::Owned(join(examples.collect::<Result<_, TrainError>>()?)))
            }
            _ => self.store.get(index),
        }
    }
}

impl<T: Task> TaskData for Examples<T> {
    fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    fn changes(&self) -> bool {
        T::CHANGES
    }

    fn truncated(&self) -> usize {
        self.truncated
    }

    fn batch(&self, indices: &[usize], seed: u64, model: &Model, device: &Device) -> Result<Batch, TrainError> {
        let examples = indices.iter().map(|index| self.example(*index));
        let examples = examples.collect::<Result<Vec<_>, _>>()?;
        let rows: Vec<_> = indices.iter().copied().zip(examples.iter().map(|e| &**e)).collect();
        let batch = self.task.batch(&rows, seed, model, device)?;
        Ok(batch.with_tasks(&of_examples(&self.tasks, indices)))
    }

    fn loss(
        &self,
        model: &TaskModel,
        hidden: Tensor<3>,
        batch: &Batch,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<1>, TrainError> {
        self.task.loss(model, hidden, batch, cx)
    }

    fn evaluate(&self, model: &TaskModel, batch_size: usize, device: &Device) -> Result<Evaluation, TrainError> {
        let all = match self.store.in_memory().filter(|_| self.rows.is_none()) {
            Some(examples) => Cow::Borrowed(examples),
            None => {
                let each = (0..self.lengths.len()).map(|index| Ok(self.example(index)?.into_owned()));
                Cow::Owned(each.collect::<Result<Vec<_>, TrainError>>()?)
            }
        };
        self.task.evaluate(model, &all, &self.tasks, batch_size, device)
    }

    fn describe(&self, index: usize, outputs: &Outputs) -> Result<Prediction, TrainError> {
        Ok(self.task.describe(outputs, &*self.example(index)?))
    }
}

/// A task by its name, as a recipe has it in `head.kind`.
#[derive(Clone, Copy)]
pub struct TaskName(&'static TaskKind);

impl Default for TaskName {
    fn default() -> Self {
        Self(&TASKS[0])
    }
}

impl TaskName {
    /// The task of that name; else what names there are, and the nearest.
    fn named(name: &str) -> Result<Self, String> {
        TaskKind::find(name).map(Self).ok_or_else(|| {
            let names: Vec<&str> = TASKS.iter().map(|task| task.name).collect();
            let near = nearest(name, names.iter().copied());
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            format!("one of {}{near}", names.join(", "))
        })
    }
}

impl FromStr for TaskName {
    type Err = TrainError;

    fn from_str(name: &str) -> Result<Self, TrainError> {
        Self::named(name).map_err(|expected| TrainError::Value {
            field: "head.kind",
            expected,
            found: format!("`{name}`"),
        })
    }
}

impl Deref for TaskName {
    type Target = TaskKind;

    fn deref(&self) -> &TaskKind {
        self.0
    }
}

impl PartialEq for TaskName {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TaskKind").field(&self.name).finish()
    }
}

impl Serialize for TaskName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for TaskName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name)
            .map_err(|expected| serde::de::Error::custom(format!("unknown task `{name}`, expected {expected}")))
    }
}
