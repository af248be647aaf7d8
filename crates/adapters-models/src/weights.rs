//! A checkpoint's tensors, taken one by one; strict at the end.
//!
//! A model asks for each tensor under its published key. Nothing fails on the way: every missing, misshapen or
//! left-over key is collected, and [`Weights::finish`] reports all of them at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use adapters_core::Tensors;
use adapters_nn::{draw, nearest};
use adapters_store::{StoreError, TensorProblem, read_json, read_safetensors};
use burn::module::Param;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, RmsNorm, RmsNormConfig};
use burn::tensor::{DType, Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Map, Value};

use crate::error::ModelError;

/// Metadata key that marks a compact checkpoint, and its value: matrices as `I8` rows with `<key>.scale`.
const QUANTIZATION: (&str, &str) = ("adapters.quantization", "int8-rows");

/// The tensors of a checkpoint folder, on their way into a model.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    tensors: Tensors,
    device: Device,
    problems: Vec<TensorProblem>,
    /// Draws what is asked for instead of reading it.
    random: Option<ChaCha8Rng>,
}

impl Weights {
    /// Reads `model.safetensors`, or the shards that `model.safetensors.index.json` lists, from a folder. `prefix`
    /// (`"bert."`) is taken off keys that a larger class put it on.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`], [`ModelError::Store`] for damaged files and tensors that are not finite.
    pub fn read(dir: &Path, prefix: &str, device: &Device) -> Result<Self, ModelError> {
        let (path, tensors) = read_checkpoint(dir)?;
        Ok(Self::from_tensors(path, tensors, prefix, device))
    }

    /// Tensors that were read from `path` already.
    pub fn from_tensors(path: PathBuf, tensors: Tensors, prefix: &str, device: &Device) -> Self {
        let mut problems = Vec::new();
        let mut stripped = Tensors::new();
        for (key, data) in tensors {
            let rest = key.strip_prefix(prefix).unwrap_or(&key).to_owned();
            // With and without the prefix: which of the two is meant cannot be told.
            if stripped.insert(rest, data).is_some() {
                problems.push(TensorProblem::Unexpected { key });
            }
        }
        Self {
            path,
            tensors: stripped,
            device: device.clone(),
            problems,
            random: None,
        }
    }

    /// Random tensors in place of a checkpoint's, for measurements and for training from nothing: matrices normal with
    /// standard deviation 0.02, biases zero, the weights of normalizations one.
    pub fn random(seed: u64, device: &Device) -> Self {
        Self {
            path: PathBuf::new(),
            tensors: Tensors::new(),
            device: device.clone(),
            problems: Vec::new(),
            random: Some(ChaCha8Rng::seed_from_u64(seed)),
        }
    }

    /// A vector by its key.
    pub fn vector(&mut self, key: &str, size: usize) -> Param<Tensor<1>> {
        frozen(self.take::<1>(key, [size], same))
    }

    /// A matrix by its key, as it lies in the file.
    pub fn matrix(&mut self, key: &str, rows: usize, cols: usize) -> Param<Tensor<2>> {
        frozen(self.take::<2>(key, [rows, cols], same))
    }

    /// Leaves out the tensors of these keys, which the model has no use for.
    pub fn ignore(&mut self, unused: impl Fn(&str) -> bool) {
        self.tensors.retain(|key, _| !unused(key));
    }

    /// Whether a key is there and was not taken yet.
    pub fn has(&self, key: &str) -> bool {
        self.random.is_some() || self.tensors.contains_key(key)
    }

    /// A linear layer: `<path>.weight [d_out, d_in]`, transposed here, and `<path>.bias [d_out]`.
    pub fn linear(&mut self, path: &str, d_in: usize, d_out: usize) -> Linear {
        Linear {
            weight: frozen(self.take::<2>(&format!("{path}.weight"), [d_out, d_in], transposed)),
            bias: Some(frozen(self.take::<1>(&format!("{path}.bias"), [d_out], same))),
        }
    }

    /// A linear layer without a bias: `<path>.weight [d_out, d_in]`, transposed here.
    pub fn linear_without_bias(&mut self, path: &str, d_in: usize, d_out: usize) -> Linear {
        Linear {
            weight: frozen(self.take::<2>(&format!("{path}.weight"), [d_out, d_in], transposed)),
            bias: None,
        }
    }

    /// A linear layer whose weight is published the other way round: `<path>.weight [d_in, d_out]`, which is Burn's layout,
    /// and `<path>.bias [d_out]`.
    pub fn linear_input_first(&mut self, path: &str, d_in: usize, d_out: usize) -> Linear {
        Linear {
            weight: self.matrix(&format!("{path}.weight"), d_in, d_out),
            bias: Some(self.vector(&format!("{path}.bias"), d_out)),
        }
    }

    /// An embedding: `<path>.weight [entries, d_model]`.
    pub fn embedding(&mut self, path: &str, entries: usize, d_model: usize) -> Embedding {
        let mut embedding = EmbeddingConfig::new(entries, d_model).init(&self.device);
        embedding.weight = frozen(self.take::<2>(&format!("{path}.weight"), [entries, d_model], same));
        embedding
    }

    /// A layer normalization: `<path>.weight [d_model]` and `<path>.bias [d_model]`, or `gamma` and `beta` in the
    /// oldest checkpoints.
    pub fn layer_norm(&mut self, path: &str, d_model: usize, epsilon: f64) -> LayerNorm {
        let mut norm = LayerNormConfig::new(d_model).with_epsilon(epsilon).init(&self.device);
        if self.random.is_some() {
            return norm;
        }
        let (gamma, beta) = match self.has(&format!("{path}.gamma")) {
            true => ("gamma", "beta"),
            false => ("weight", "bias"),
        };
        norm.gamma = frozen(self.take::<1>(&format!("{path}.{gamma}"), [d_model], same));
        norm.beta = Some(frozen(self.take::<1>(&format!("{path}.{beta}"), [d_model], same)));
        norm
    }

    /// A root-mean-square normalization: `<path>.weight [d_model]`. `epsilon` is above zero.
    pub fn rms_norm(&mut self, path: &str, d_model: usize, epsilon: f64) -> RmsNorm {
        let mut norm = RmsNormConfig::new(d_model).with_epsilon(epsilon).init(&self.device);
        if self.random.is_some() {
            return norm;
        }
        norm.gamma = frozen(self.take::<1>(&format!("{path}.weight"), [d_model], same));
        norm
    }

    /// Ends loading.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mismatch`] listing every missing, misshapen and unused key; keys that start with one of
    /// `known_unused` are the published extras of larger classes and are no problem.
    pub fn finish(mut self, known_unused: &[&str]) -> Result<(), ModelError> {
        let left: BTreeSet<String> = std::mem::take(&mut self.tensors).into_keys().collect();
        for problem in &mut self.problems {
            if let TensorProblem::Missing { key, nearest: near } = problem {
                *near = nearest(key, left.iter().map(String::as_str));
            }
        }
        let unused = left
            .into_iter()
            .filter(|key| !known_unused.iter().any(|known| key.starts_with(known)));
        self.problems
            .extend(unused.map(|key| TensorProblem::Unexpected { key }));
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(StoreError::Mismatch {
            path: self.path,
            problems: self.problems,
        }
        .into())
    }

    /// The tensor of a key, or zeros and a noted problem.
    fn take<const D: usize>(
        &mut self,
        key: &str,
        shape: [usize; D],
        layout: fn(Vec<f32>, &[usize]) -> TensorData,
    ) -> Tensor<D> {
        if let Some(rng) = &mut self.random {
            let data = match D {
                1 => draw::constant(shape, 0.0),
                _ => draw::normal(rng, shape, 0.02),
            };
            return Tensor::from_data(layout(data.iter::<f32>().collect(), &shape), &self.device);
        }
        let problem = match self.tensors.remove(key) {
            None => TensorProblem::Missing {
                key: key.to_owned(),
                nearest: None,
            },
            Some(data) if !data.dtype().is_float() => TensorProblem::DType {
                key: key.to_owned(),
                found: format!("{:?}", data.dtype()),
            },
            Some(data) if data.shape().to_vec() != shape => TensorProblem::Shape {
                key: key.to_owned(),
                expected: shape.to_vec(),
                found: data.shape().to_vec(),
            },
            Some(data) => {
                let values: Vec<f32> = data.iter::<f32>().collect();
                return Tensor::from_data(layout(values, &shape), &self.device);
            }
        };
        self.problems.push(problem);
        // `finish` will refuse the model: no need for a tensor of the right size, whatever a config asks for.
        Tensor::zeros([1; D], &self.device)
    }
}

/// A base parameter: it never asks for a gradient.
fn frozen<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor).set_require_grad(false)
}

fn same(values: Vec<f32>, shape: &[usize]) -> TensorData {
    TensorData::new(values, shape.to_vec())
}

/// `[rows, cols]` to `[cols, rows]`, so that no step of training meets a strided weight.
fn transposed(values: Vec<f32>, shape: &[usize]) -> TensorData {
    let (rows, cols) = (shape[0], shape[1]);
    let mut out = Vec::with_capacity(values.len());
    for col in 0..cols {
        out.extend((0..rows).map(|row| values[row * cols + col]));
    }
    TensorData::new(out, [cols, rows])
}

/// All tensors of a checkpoint folder under their published keys, compact matrices restored to `f32`.
pub(crate) fn read_checkpoint(dir: &Path) -> Result<(PathBuf, Tensors), ModelError> {
    let whole = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    if whole.exists() {
        let tensors = read_file(&whole)?;
        return Ok((whole, tensors));
    }
    if !index.exists() {
        return Err(ModelError::NotACheckpoint {
            path: dir.to_owned(),
            missing: "it has no model.safetensors (nor model.safetensors.index.json)",
        });
    }
    let listing: Map<String, Value> = read_json(&index)?;
    let shards: BTreeSet<&str> = listing
        .get("weight_map")
        .and_then(Value::as_object)
        .map(|map| map.values().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut tensors = Tensors::new();
    for shard in shards {
        // A shard is a file name; anything else would read outside the folder.
        let name = Path::new(shard).file_name().unwrap_or_default();
        tensors.extend(read_file(&dir.join(name))?);
    }
    Ok((index, tensors))
}

fn read_file(path: &Path) -> Result<Tensors, ModelError> {
    let (tensors, metadata) = read_safetensors(path)?;
    if metadata.get(QUANTIZATION.0).map(String::as_str) != Some(QUANTIZATION.1) {
        return Ok(tensors);
    }
    let mut restored = Tensors::new();
    let mut problems = Vec::new();
    for (key, data) in &tensors {
        if data.dtype() != DType::I8 {
            let matrix = key.strip_suffix(".scale").and_then(|matrix| tensors.get(matrix));
            if matrix.is_none_or(|matrix| matrix.dtype() != DType::I8) {
                restored.insert(key.clone(), data.clone());
            }
            continue;
        }
        let scale_key = format!("{key}.scale");
        let Some(rows) = data.shape().to_vec().first().copied() else {
            problems.push(TensorProblem::DType {
                key: key.clone(),
                found: "I8, without rows".to_owned(),
            });
            continue;
        };
        match tensors.get(&scale_key) {
            Some(scale) if scale.shape().to_vec() == [rows] => {
                restored.insert(key.clone(), dequantize(data, scale));
            }
            Some(scale) => problems.push(TensorProblem::Shape {
                key: scale_key,
                expected: vec![rows],
                found: scale.shape().to_vec(),
            }),
            None => problems.push(TensorProblem::Missing {
                key: scale_key,
                nearest: None,
            }),
        }
    }
    if problems.is_empty() {
        return Ok(restored);
    }
    Err(StoreError::Mismatch {
        path: path.to_owned(),
        problems,
    }
    .into())
}

/// `w = q * scale` by row.
fn dequantize(data: &TensorData, scale: &TensorData) -> TensorData {
    let shape = data.shape().to_vec();
    let cols = shape.get(1..).map_or(1, |rest| rest.iter().product::<usize>()).max(1);
    let scales: Vec<f32> = scale.iter::<f32>().collect();
    let values = data
        .iter::<f32>()
        .enumerate()
        .map(|(i, q)| q * scales[i / cols])
        .collect();
    TensorData::new(values, shape)
}
