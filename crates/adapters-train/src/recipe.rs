//! Recipes: a whole run as one TOML file.

mod fusion;
mod names;
mod overrides;
mod schema;
mod train;

use std::fs;
use std::path::{Path, PathBuf};

use adapters_core::nearest_field;
use adapters_methods::Registry;
use adapters_models::heads::Pooling;
use adapters_models::{ChatTime, Pretrained};
use adapters_nn::Precision;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::batches::Order;
use crate::data::{Fields, Labels, Shard, decode};
use crate::error::TrainError;
use crate::tasks::{ANSWERS, TASKS, TaskName, TaskOptions, Template};

pub(crate) use fusion::FUSION;
pub use fusion::FusionSection;
pub use schema::RECIPE_SCHEMA;
pub use train::{Batching, ClassWeights, Keep, TrainSection};

/// A run as a TOML file. Paths in the file are relative to its folder; [`Recipe::read`] makes them absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The base model.
    pub model: ModelSection,
    /// The data.
    pub data: DataSection,
    /// The adapter.
    pub adapter: AdapterSection,
    /// Several adapters on shards of the data, and their fusion, in place of one adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionSection>,
    /// The head.
    #[serde(default)]
    pub head: HeadSection,
    /// How to train.
    #[serde(default)]
    pub train: TrainSection,
    /// Where to write.
    #[serde(default)]
    pub output: OutputSection,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Checkpoint folder, or a name that the program finds one by.
    pub path: String,
    /// Longest input in tokens; longer ones are cut.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Form the linear weights of the base are held in: `f32`, `bf16` or `int8`.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Whether weights in `pytorch_model.bin` are accepted. The file is parsed, never executed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_bin: bool,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Training data, `.jsonl`, `.json`, `.csv` or `.tsv`, or a folder of images.
    pub train: PathBuf,
    /// Data for choosing the best weights; without it a fraction of the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// The fraction of the training data, drawn by the seed of the run, that is kept for validation where no file is named; a tenth
    /// without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_fraction: Option<f64>,
    /// Data for the final figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// The number of classes, or their names in order; without it those of the training data, where a task has classes.
    #[serde(default = "no_labels")]
    pub labels: Labels,
    /// Names of the fields.
    #[serde(default)]
    pub fields: Fields,
    /// How a prompt becomes the text that a completion follows; without it, as the tokenizer's chat template has it
    /// where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// Whether rows are filled up to the longest input with several prompts and completions.
    #[serde(default)]
    pub pack: bool,
    /// The shard of the training data that is used; all of it without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
}

/// `[adapter]`: a name, and either a config string or a method with its fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AdapterSection {
    /// Name of the adapter.
    #[serde(default = "default_adapter_name")]
    pub name: String,
    /// A config string, e.g. `lora[r=8,alpha=16]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// An identifier, with the method's fields next to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Folder of an adapter, in either format, that is trained further, with its head where the task has the same one, in place of a
    /// new adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Folder of an adapter to stack this one on: loaded, frozen, and active below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_on: Option<PathBuf>,
    /// Folders of adapters that are loaded and frozen, and fused: the fusion trains in place of a new adapter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fuse: Vec<PathBuf>,
    /// How they are fused, `dynamic` or `static`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<String>,
    /// The method's fields.
    #[serde(flatten)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// `[head]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadSection {
    /// The task.
    pub kind: TaskName,
    /// Fraction of the tokens that are hidden, for `masked_lm`.
    pub mask_probability: f64,
    /// How hidden states become one vector; without it the mean for an encoder of text, the first position for one of images,
    /// and the last token for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Dropout before the head, in training.
    pub dropout: f64,
}

/// `[output]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputSection {
    /// The run folder, relative to the folder the command runs in; without it `runs/<recipe>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Whether the manifest's fingerprint of the base is of every byte of its weights, and not of a sample.
    pub whole_fingerprint: bool,
}

impl Default for HeadSection {
    fn default() -> Self {
        Self {
            kind: TaskName::default(),
            mask_probability: 0.15,
            pooling: None,
            dropout: 0.1,
        }
    }
}

/// What an adapter section holds.
const EITHER: &str = "either `config`, a config string, or `method` with its fields, not both";

fn no_labels() -> Labels {
    Labels::Count(0)
}

fn is_false(value: &bool) -> bool {
    !value
}

fn default_max_length() -> usize {
    128
}

fn default_adapter_name() -> String {
    "adapter".to_owned()
}

impl Recipe {
    /// Reads a recipe, applies overrides (`train.epochs=3`), resolves paths and checks values.
    ///
    /// # Errors
    ///
    /// [`TrainError::ReadRecipe`], [`TrainError::Data`] for a file that is no text, [`TrainError::Recipe`] with line and column,
    /// [`TrainError::Override`], [`TrainError::Value`].
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let bytes = fs::read(path).map_err(|source| TrainError::ReadRecipe {
            path: path.to_owned(),
            source,
        })?;
        let text = decode(path, bytes)?;
        let invalid = |source: toml::de::Error| TrainError::Recipe {
            path: path.to_owned(),
            nearest: meant(source.message()),
            source: Box::new(source),
        };
        // Parsed as the struct first: its errors point into the text.
        let mut recipe: Self = toml::from_str(&text).map_err(invalid)?;
        if !overrides.is_empty() {
            let mut table: Table = toml::from_str(&text).map_err(invalid)?;
            for given in overrides {
                overrides::set(&mut table, given)?;
            }
            recipe = Value::Table(table).try_into().map_err(invalid)?;
        }
        recipe.resolve(path.parent().unwrap_or(Path::new("")));
        recipe.check()?;
        Ok(recipe)
    }

    /// Makes paths absolute, from `dir`, so that the run folder's copy means the same from anywhere. A model path that
    /// is no folder there is left alone: it may be a Hub id.
    fn resolve(&mut self, dir: &Path) {
        let absolute = |path: &Path| {
            let joined = dir.join(path);
            joined
                .canonicalize()
                .or_else(|_| std::path::absolute(&joined))
                .unwrap_or(joined)
        };
        let model = absolute(Path::new(&self.model.path));
        if model.exists() {
            self.model.path = model.to_string_lossy().into_owned();
        }
        self.data.train = absolute(&self.data.train);
        self.data.validation = self.data.validation.take().map(|path| absolute(&path));
        self.data.test = self.data.test.take().map(|test| absolute(&test));
        self.adapter.from = self.adapter.from.take().map(|dir| absolute(&dir));
        self.adapter.stack_on = self.adapter.stack_on.take().map(|dir| absolute(&dir));
        for dir in &mut self.adapter.fuse {
            *dir = absolute(dir);
        }
    }

    pub(crate) fn check(&self) -> Result<(), TrainError> {
        if self.model.max_length == 0 {
            return Err(value("model.max_length", "at least 1", 0));
        }
        names::check_adapter(&self.adapter.name)?;
        self.train.check()?;
        self.check_task()?;
        let fractions = [
            ("head.dropout", self.head.dropout),
            ("head.mask_probability", self.head.mask_probability),
        ];
        if let Some((field, found)) = fractions.into_iter().find(|(_, v)| !(0.0..1.0).contains(v)) {
            return Err(value(field, "at least 0 and below 1", found));
        }
        if let Some(shard) = self.data.shard.filter(|shard| shard.index >= shard.of) {
            return Err(value(
                "data.shard",
                "an index below `of`",
                format!("{} of {}", shard.index, shard.of),
            ));
        }
        if let Some(fusion) = &self.fusion {
            fusion.check(&self.adapter)?;
        }
        if self.adapter.fusion.is_some() || !self.adapter.fuse.is_empty() {
            return self.adapter.check_fuse();
        }
        if self.adapter.from.is_some() {
            return self.adapter.check_from();
        }
        match (&self.adapter.config, &self.adapter.method) {
            (Some(_), Some(_)) => Err(value("adapter", EITHER, "a table with both")),
            (None, None) => Err(value("adapter", "`config`, `method` or `from`", "none of them")),
            (Some(_), None) if !self.adapter.fields.is_empty() => {
                let keys: Vec<_> = self.adapter.fields.keys().cloned().collect();
                Err(value(
                    "adapter",
                    EITHER,
                    format!("a table with `config` and `{}`", keys.join("`, `")),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Checks what only some tasks have.
    fn check_task(&self) -> Result<(), TrainError> {
        let (task, data) = (self.head.kind, &self.data);
        data.check_validation_fraction()?;
        if let Some(metric) = self.train.metric.as_deref()
            && metric != "loss"
            && !task.metrics.contains(&metric)
        {
            let expected = format!("`loss`, `{}` for `head.kind` `{task}`", task.metrics.join("`, `"));
            return Err(value("train.metric", &expected, format!("`{metric}`")));
        }
        if self.train.class_weights.is_some() && !task.weighs_classes {
            let weighing = TASKS.iter().filter(|task| task.weighs_classes).map(|task| task.name);
            let expected = format!("none but for `head.kind` {}", weighing.collect::<Vec<_>>().join(", "));
            return Err(value(
                "train.class_weights",
                &expected,
                format!("`balanced` for `{task}`"),
            ));
        }
        if data.labels.count() < task.labels && task.label_field.is_none() {
            let expected = format!("at least {} for `head.kind` `{task}`", task.labels);
            return Err(value("data.labels", &expected, data.labels.count()));
        }
        names::check_labels(&data.labels)?;
        if data.pack && !task.packs {
            let packing = TASKS.iter().filter(|task| task.packs).map(|task| task.name);
            let packing = packing.collect::<Vec<_>>().join("`, `");
            let expected = format!("false for `head.kind` `{task}`; only `{packing}` packs");
            return Err(value("data.pack", &expected, true));
        }
        if let Some(template) = data.template.filter(|_| !task.is_generative) {
            let expected = format!("none for `head.kind` `{task}`, which reads no prompts");
            let found = format!("{template:?}").to_lowercase();
            return Err(value("data.template", &expected, found));
        }
        if self.fusion.is_some() && task.is_generative {
            let expected = "a task with a head, which `fusion.adapters` needs";
            return Err(value("head.kind", expected, format!("`{task}`")));
        }
        Ok(())
    }

    /// Refuses a model that the task does not work on.
    pub(crate) fn check_model(&self, pretrained: &Pretrained) -> Result<(), TrainError> {
        let (task, kind) = (self.head.kind, pretrained.kind());
        if task.models.contains(&kind) {
            return Ok(());
        }
        let fitting = TASKS.iter().filter(|task| task.models.contains(&kind));
        let fitting: Vec<String> = fitting.map(|task| format!("`{}`", task.name)).collect();
        let why = match task.is_generative {
            true => ", which cannot write text",
            false => "",
        };
        let of_model = format!("a `{}` model{why}", pretrained.model_type());
        let expected = format!("one of {}: the tasks of {of_model}", fitting.join(", "));
        Err(value("head.kind", &expected, format!("`{task}`")))
    }

    /// What the task is told.
    pub(crate) fn task_options(&self) -> TaskOptions {
        let (data, head) = (self.data.clone(), &self.head);
        TaskOptions {
            labels: data.labels,
            fields: data.fields,
            pooling: head.pooling,
            head_dropout: head.dropout,
            mask_probability: head.mask_probability,
            max_length: self.model.max_length,
            class_weights: None,
            template: data.template,
            answers: self
                .train
                .metric
                .as_deref()
                .is_some_and(|metric| ANSWERS.contains(&metric)),
            time: ChatTime::now(),
            pack: data.pack,
        }
    }

    /// The figure that decides which weights are the best; `None` for the one an evaluation is known by.
    pub(crate) fn metric(&self) -> Option<&str> {
        let of_task = self.head.kind.is_generative.then_some("loss");
        self.train.metric.as_deref().or(of_task)
    }

    /// How batches are made.
    pub(crate) fn order(&self) -> Order {
        self.train.batching.order()
    }

    /// The first field in which two recipes differ, as `section.key`.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let tables = [self, other].map(|recipe| Table::try_from(recipe).unwrap_or_default());
        let [mine, theirs] = &tables;
        for section in ["model", "data", "adapter", "fusion", "head", "train"] {
            if let (Some(Value::Table(a)), Some(Value::Table(b))) = (mine.get(section), theirs.get(section)) {
                let keys = a.keys().chain(b.keys());
                if let Some(key) = keys.into_iter().find(|key| a.get(*key) != b.get(*key)) {
                    return Some(format!("{section}.{key}"));
                }
            }
        }
        None
    }
}

impl ModelSection {
    /// A checkpoint, with the defaults of a recipe.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            max_length: default_max_length(),
            precision: Precision::default(),
            allow_bin: false,
        }
    }
}

impl DataSection {
    /// Training data, with the defaults of a recipe.
    pub fn new(train: impl Into<PathBuf>) -> Self {
        Self {
            train: train.into(),
            validation: None,
            validation_fraction: None,
            test: None,
            labels: no_labels(),
            fields: Fields::default(),
            template: None,
            pack: false,
            shard: None,
        }
    }

    /// Refuses a fraction for validation that is none, or that stands next to a file.
    fn check_validation_fraction(&self) -> Result<(), TrainError> {
        let Some(fraction) = self.validation_fraction else {
            return Ok(());
        };
        if self.validation.is_some() {
            return Err(value(
                "data.validation_fraction",
                "none with `data.validation`",
                fraction,
            ));
        }
        match fraction > 0.0 && fraction < 1.0 {
            true => Ok(()),
            false => Err(value("data.validation_fraction", "above 0 and below 1", fraction)),
        }
    }
}

impl AdapterSection {
    /// Refuses a method next to the adapter that has one.
    fn check_from(&self) -> Result<(), TrainError> {
        if self.config.is_none() && self.method.is_none() && self.fields.is_empty() {
            return Ok(());
        }
        let given = ["config", "method"].into_iter().zip([&self.config, &self.method]);
        let given = given.filter(|(_, value)| value.is_some()).map(|(key, _)| key);
        let keys: Vec<&str> = given.chain(self.fields.keys().map(String::as_str)).collect();
        let expected = "no other key than `name` and `stack_on` with `from`, whose adapter has a configuration";
        Err(value("adapter", expected, format!("`{}`", keys.join("`, `"))))
    }

    /// The method this section names.
    ///
    /// # Errors
    ///
    /// As [`Registry::parse`] and [`Registry::configure`].
    pub fn method(&self, registry: &Registry) -> Result<adapters_core::AnyMethod, adapters_core::Error> {
        match (&self.config, &self.method) {
            (Some(config), _) => registry.parse(config),
            (None, method) => registry.configure(method.as_deref().unwrap_or_default(), self.fields.clone()),
        }
    }
}

/// The name that was probably meant where a message of serde says ``unknown field `x`, expected one of `y`, ..``.
fn meant(message: &str) -> Option<String> {
    let mut names = message.split('`').skip(1).step_by(2);
    message.starts_with("unknown").then_some(())?;
    let found = names.next()?;
    nearest_field(found, names)
}

pub(crate) fn value(field: &'static str, expected: &str, found: impl ToString) -> TrainError {
    TrainError::Value {
        field,
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [model]
        path = "model"
        [data]
        train = "train.jsonl"
        validation = "validation.jsonl"
        labels = ["no", "yes"]
        [adapter]
        config = "lora[r=8]"
    "#;

    fn read(text: &str, overrides: &[&str]) -> Result<Recipe, TrainError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        fs::write(&path, text).unwrap();
        Recipe::read(&path, &overrides.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn defaults_and_overrides() {
        let recipe = read(
            TEXT,
            &["train.epochs=7", "data.fields.text=body", "adapter.config=lora[r=2]"],
        )
        .unwrap();
        assert_eq!(recipe.train.epochs, 7);
        assert_eq!(recipe.train.batch_size, 32.into());
        assert_eq!(recipe.data.fields.text, "body");
        assert_eq!(recipe.adapter.config.as_deref(), Some("lora[r=2]"));
        assert_eq!(recipe.data.labels, Labels::Names(vec!["no".into(), "yes".into()]));
        let table = read(TEXT, &["adapter.method=lora", "adapter.r=4"]).unwrap();
        assert_eq!(table.adapter.fields["r"], 4);
    }

    #[test]
    fn slips_are_named() {
        for (overrides, part) in [
            (&["train.epochs=0"][..], "`train.epochs` is 0"),
            (&["train.epoch=3"], "did you mean `epochs`?"),
            (&["train.lr=1e-3"], "did you mean `learning_rate`?"),
            (&["train.num_train_epochs=3"], "did you mean `epochs`?"),
            (&["adapter.r=4"], "not both"),
            (&["train.learning_rate=-1"], "`train.learning_rate` is -1"),
            (&["train.learning_rate_ratio=0"], "`train.learning_rate_ratio` is 0"),
            (&["nonsense"], "not an override"),
            (&["data.validation_fraction=0.2"], "none with `data.validation`"),
            (
                &["data.labels=['a', 'b', 'a']"],
                "`data.labels` is a list with `a` twice",
            ),
            (&["head.dropout=1.0"], "`head.dropout` is 1"),
            (
                &["train.optimizer=adamw_8bit"],
                "unknown variant `adamw_8bit`, expected one of `adamw`, `sgd`, `adafactor`, `lion`",
            ),
            (&["train.schedule=cosin"], "`linear`, `cosine`, `constant`, `wsd`"),
            (&["train.schedule=warmup_stable_decay"], "did you mean `wsd`?"),
            (
                &["train.metric=f2"],
                "`train.metric` is `f2`, expected `loss`, `accuracy`, `f1`, `matthews` for",
            ),
            (
                &["adapter.from=other", "adapter.r=4"],
                "no other key than `name` and `stack_on` with `from`, whose adapter has a configuration",
            ),
            (&["train.momentum=0.9"], "none for `train.optimizer` `adamw`"),
            (&["train.decay=0.1"], "none for `train.schedule` `linear`"),
            (
                &["train.schedule=wsd", "train.warmup=0.5", "train.decay=0.6"],
                "at most 0.5, what `train.warmup` leaves",
            ),
        ] {
            let error = read(TEXT, overrides).unwrap_err();
            let source = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(format!("{error} {source}").contains(part), "{error} {source}");
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let a = read(TEXT, &[]).unwrap();
        let mut b = a.clone();
        assert_eq!(a.difference(&b), None);
        b.output.dir = Some("elsewhere".into());
        assert_eq!(a.difference(&b), None);
        b.train.seed = 5;
        assert_eq!(a.difference(&b).as_deref(), Some("train.seed"));
    }
}
