//! The state of an unfinished run as one file, written atomically: adapter, head, best weights so far, optimizers,
//! position. No base weights.
//!
//! Dropout of every pass is seeded from the run's seed and the pass's number, so the step number is the generator's state.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use adapters_core::{Tensors, TrainingSchedule};
use adapters_models::ChatTime;
use adapters_store::{is_there, read_safetensors, write_safetensors};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::tensor::{Bytes, Tensor, TensorData};
use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use crate::device_read;
use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::task_model::{TaskModel, head_names};

/// Where a run stands. With the tensors next to it, everything a resumed run needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The recipe, to refuse another one.
    pub(crate) recipe: Recipe,
    /// Fingerprints of the base and the data, to refuse others.
    pub(crate) digests: BTreeMap<String, String>,
    /// When the run began, which a chat template may write.
    pub time: ChatTime,
    /// Rows of a batch, which may have been searched for.
    pub(crate) batch_size: usize,
    /// Optimizer steps done.
    pub(crate) step: u64,
    /// The best evaluation so far.
    pub(crate) best: Option<Best>,
    /// Evaluations since the best.
    pub(crate) stale: usize,
    /// Seconds spent before this process.
    pub(crate) seconds: f64,
    /// Whether the run ended early.
    pub(crate) stopped: bool,
    /// Burn's ids of the parameters when the optimizer records were written.
    pub(crate) ids: HashMap<String, u64>,
}

/// The figures of an evaluation that others are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// Name of the figure the task is known by, where there is one.
    pub(crate) metric: Option<String>,
    /// That figure.
    pub(crate) score: f64,
    pub(crate) loss: f64,
    /// The figure that decides.
    pub(crate) figure: f64,
}

/// Trained values by name.
pub(crate) type Values = HashMap<String, TensorData>;

/// The two optimizers of a run.
pub(crate) struct Optimizers {
    pub(crate) adapters: ModuleOptimizer,
    pub(crate) head: ModuleOptimizer,
}

const HEADER: &str = "adapters.checkpoint";
const FINGERPRINT: &str = "adapters.optimizers";
const OPTIMIZERS: [&str; 2] = ["optimizer/adapters", "optimizer/head"];

/// Name of every trained parameter, by id: the storage name, not a Rust path.
pub(crate) fn names(model: &TaskModel) -> HashMap<ParamId, String> {
    let set = model
        .adapted
        .set
        .params()
        .map(|p| (p.id, format!("{}/{}/{}", p.adapter, p.path(), p.param)));
    let head = model.head.iter().flat_map(head_names);
    let head = head.map(|(name, id)| (id, format!("head/{name}")));
    set.chain(head).collect()
}

/// The trained values of a model, on the host.
///
/// # Errors
///
/// Those of reading them.
pub(crate) fn values(model: &TaskModel) -> Result<Values, TrainError> {
    struct Collect {
        names: HashMap<ParamId, String>,
        values: Vec<Result<(String, TensorData), TrainError>>,
    }
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(name) = self.names.remove(&param.id) {
                let values = device_read::values(param.val());
                self.values.push(values.map(|values| (name, values)));
            }
        }
    }
    let mut collect = Collect {
        names: names(model),
        values: Vec::new(),
    };
    model.visit(&mut collect);
    collect.values.into_iter().collect()
}

/// `model` with the values given, and with the ids given where there are some.
pub(crate) fn with_values(
    model: TaskModel,
    values: &Values,
    ids: Option<&HashMap<String, u64>>,
) -> Result<TaskModel, String> {
    struct Put<'a> {
        names: HashMap<ParamId, String>,
        values: &'a Values,
        ids: Option<&'a HashMap<String, u64>>,
        wrong: Vec<String>,
    }
    impl ModuleMapper for Put<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(name) = self.names.get(&param.id) else {
                return param;
            };
            let data = match self.values.get(name) {
                Some(data) if data.shape().to_vec() == param.lazy_shape().to_vec() => data.clone(),
                _ => {
                    self.wrong.push(name.clone());
                    return param;
                }
            };
            let new_id = self.ids.and_then(|ids| ids.get(name)).map(|id| ParamId::from(*id));
            let (id, old, mapper) = param.consume();
            let tensor = Tensor::from_data(data, (&old.device(), old.dtype())).set_require_grad(old.is_require_grad());
            Param::from_mapped_value(new_id.unwrap_or(id), tensor, mapper)
        }
    }
    let mut put = Put {
        names: names(&model),
        values,
        ids,
        wrong: Vec::new(),
    };
    let model = model.map(&mut put);
    if put.wrong.is_empty() {
        Ok(model)
    } else {
        Err(format!("no fitting value for {}", put.wrong.join(", ")))
    }
}

/// A checkpoint as read, before it is applied.
pub(crate) struct Checkpoint {
    path: PathBuf,
    pub(crate) position: Position,
    pub(crate) best: Option<Values>,
    values: Values,
    optimizers: [Vec<u8>; 2],
    /// What the schedules of adapters remember, by adapter.
    pub(crate) schedules: HashMap<String, Tensors>,
}

/// Writes a checkpoint.
pub(crate) fn write(
    path: &Path,
    position: &Position,
    model: &TaskModel,
    best: Option<&Values>,
    optimizers: &Optimizers,
    schedules: &[(String, Box<dyn TrainingSchedule>)],
) -> Result<(), TrainError> {
    let failed = |reason: String| TrainError::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let mut tensors = Tensors::new();
    for (name, data) in values(model)? {
        if data.iter::<f32>().any(|value| !value.is_finite()) {
            return Err(TrainError::NotFinite {
                step: position.step,
                name,
            });
        }
        tensors.insert(format!("value/{name}"), data);
    }
    tensors.extend(
        best.into_iter()
            .flatten()
            .map(|(name, data)| (format!("best/{name}"), data.clone())),
    );
    for (name, schedule) in schedules {
        let state = schedule.state().into_iter();
        tensors.extend(state.map(|(key, data)| (format!("schedule/{name}\n{key}"), data)));
    }
    let mut hasher = FnvHasher::default();
    for (key, optimizer) in OPTIMIZERS.into_iter().zip([&optimizers.adapters, &optimizers.head]) {
        let bytes = optimizer.into_bytes().map_err(|e| failed(e.to_string()))?.to_vec();
        hasher.write(&bytes);
        let len = bytes.len();
        tensors.insert(key.to_owned(), TensorData::new(bytes, [len]));
    }
    let position = Position {
        ids: names(model).into_iter().map(|(id, name)| (name, id.val())).collect(),
        ..position.clone()
    };
    let json = serde_json::to_string(&position).map_err(|e| failed(e.to_string()))?;
    let metadata = [
        (HEADER.to_owned(), json),
        (FINGERPRINT.to_owned(), format!("{:016x}", hasher.finish())),
    ];
    Ok(write_safetensors(path, &tensors, metadata)?)
}

impl Checkpoint {
    /// Reads a checkpoint; `None` if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, TrainError> {
        if !is_there(path) {
            return Ok(None);
        }
        let failed = |reason: String| TrainError::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let (mut tensors, metadata) = read_safetensors(path)?;
        let header = metadata
            .get(HEADER)
            .ok_or_else(|| failed(format!("its header lacks `{HEADER}`")))?;
        let position: Position = serde_json::from_str(header).map_err(|e| failed(e.to_string()))?;
        if position.batch_size == 0 {
            return Err(failed("`batch_size` is 0, expected at least 1".to_owned()));
        }
        let mut optimizers = [Vec::new(), Vec::new()];
        let mut hasher = FnvHasher::default();
        for (key, bytes) in OPTIMIZERS.into_iter().zip(&mut optimizers) {
            let data = tensors.remove(key).ok_or_else(|| failed(format!("it lacks `{key}`")))?;
            *bytes = data.as_bytes().to_vec();
            hasher.write(bytes);
        }
        // Burn panics on the record of an optimizer that is damaged.
        if metadata.get(FINGERPRINT) != Some(&format!("{:016x}", hasher.finish())) {
            return Err(failed(
                "the states of its optimizers are not as they were written".to_owned(),
            ));
        }
        let (mut values, mut best) = (Values::new(), Values::new());
        let mut schedules: HashMap<String, Tensors> = HashMap::new();
        for (key, data) in tensors {
            if let Some(name) = key.strip_prefix("value/") {
                values.insert(name.to_owned(), data);
            } else if let Some(name) = key.strip_prefix("best/") {
                best.insert(name.to_owned(), data);
            } else if let Some((name, key)) = key.strip_prefix("schedule/").and_then(|rest| rest.split_once('\n')) {
                schedules
                    .entry(name.to_owned())
                    .or_default()
                    .insert(key.to_owned(), data);
            }
        }
        Ok(Some(Self {
            path: path.to_owned(),
            position,
            best: (!best.is_empty()).then_some(best),
            values,
            optimizers,
            schedules,
        }))
    }

    /// Puts the checkpoint's values, ids and optimizer states in place.
    pub(crate) fn apply(
        &self,
        model: TaskModel,
        optimizers: Optimizers,
    ) -> Result<(TaskModel, Optimizers), TrainError> {
        let failed = |reason: String| TrainError::Checkpoint {
            path: self.path.clone(),
            reason,
        };
        let model = with_values(model, &self.values, Some(&self.position.ids)).map_err(failed)?;
        let record = |bytes: &Vec<u8>| {
            OptimizerRecord::from_bytes(Bytes::from_bytes_vec(bytes.clone())).map_err(|e| failed(e.to_string()))
        };
        let [adapters, head] = &self.optimizers;
        Ok((
            model,
            Optimizers {
                adapters: optimizers.adapters.load_record(record(adapters)?),
                head: optimizers.head.load_record(record(head)?),
            },
        ))
    }
}
