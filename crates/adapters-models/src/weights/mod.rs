//! A checkpoint's tensors on their way into the layers of a model; strict at the end.
//!
//! A model builds its layers in order, each with its role and published path. Nothing fails on the way: every missing,
//! misshapen or left-over key is collected, and [`Weights::finish`] reports all of them at once.

pub(crate) mod checkpoint;
mod read_errors;
mod scope;
mod shard_index;
pub(crate) mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adapters_core::{LayerRef, Location, Sites, Tensors};
use adapters_nn::{draw, nearest};
use adapters_store::{StoreError, TensorProblem};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::ModelError;
use crate::norm::{Norm, NormKind};
use crate::weights::checkpoint::{Checkpoint, Layout, ReadError, Target};
use crate::weights::vocabulary::Vocabulary;

pub use read_errors::ReadErrors;
pub use scope::Scope;

/// The tensors of a checkpoint folder, on their way into a model.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    source: Source,
    /// Keys that were not taken yet, without the prefix, and as they are in the file.
    keys: BTreeMap<String, String>,
    device: Device,
    problems: Vec<TensorProblem>,
    /// The first file that could not be read.
    failed: Option<StoreError>,
    /// Where tensors that are read when they are first needed say that they could not be; `None` where all are read at once.
    on_demand: Option<ReadErrors>,
    /// What the paths of the sites begin with.
    path_prefix: String,
    /// The tokens of an adapter, if they are others than those of the checkpoint.
    vocabulary: Option<Vocabulary>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each load")]
enum Source {
    Checkpoint(Arc<Checkpoint>),
    Tensors(Tensors),
    Random(ChaCha8Rng),
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists, in a folder. `prefix`
    /// (`"bert."`) is taken off keys that a larger class put it on.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`], [`ModelError::Store`] for damaged files.
    pub fn read(dir: &Path, prefix: &str, device: &Device) -> Result<Self, ModelError> {
        Ok(Self::of_checkpoint(Checkpoint::open(dir, false)?, prefix, device))
    }

    pub(crate) fn of_checkpoint(checkpoint: Checkpoint, prefix: &str, device: &Device) -> Self {
        let keys: Vec<String> = checkpoint.keys().map(str::to_owned).collect();
        let path = checkpoint.path().to_owned();
        Self::new(path, Source::Checkpoint(Arc::new(checkpoint)), keys, prefix, device)
    }

    /// With each tensor read when it is first needed; `errors` then has what could not be read.
    #[must_use]
    pub(crate) fn on_demand(mut self, errors: ReadErrors) -> Self {
        self.on_demand = Some(errors);
        self
    }

    /// Tensors that were read from `path` already.
    pub(crate) fn from_tensors(path: PathBuf, tensors: Tensors, prefix: &str, device: &Device) -> Self {
        let keys: Vec<String> = tensors.keys().cloned().collect();
        Self::new(path, Source::Tensors(tensors), keys, prefix, device)
    }

    /// Random tensors in place of a checkpoint's, for measurements and for training from nothing: matrices normal with
    /// standard deviation 0.02, biases zero, the weights of normalizations one.
    pub fn random(seed: u64, device: &Device) -> Self {
        let source = Source::Random(ChaCha8Rng::seed_from_u64(seed));
        Self::new(PathBuf::new(), source, Vec::new(), "", device)
    }

    fn new(path: PathBuf, source: Source, found: Vec<String>, prefix: &str, device: &Device) -> Self {
        let mut problems = Vec::new();
        let mut keys = BTreeMap::new();
        for key in found {
            let rest = key.strip_prefix(prefix).unwrap_or(&key).to_owned();
            // With and without the prefix: which of the two is meant cannot be told.
            if keys.insert(rest, key.clone()).is_some() {
                problems.push(TensorProblem::Unexpected { key });
            }
        }
        Self {
            path,
            source,
            keys,
            device: device.clone(),
            problems,
            failed: None,
            on_demand: None,
            path_prefix: String::new(),
            vocabulary: None,
        }
    }

    /// With token tables in the size of an adapter's.
    #[must_use]
    pub(crate) fn with_vocabulary(mut self, vocabulary: Option<Vocabulary>) -> Self {
        self.vocabulary = vocabulary;
        self
    }

    /// Names sites as a larger class does, whose keys have `prefix`.
    #[must_use]
    pub(crate) fn naming_sites_with(mut self, prefix: &str) -> Self {
        prefix.trim_end_matches('.').clone_into(&mut self.path_prefix);
        self
    }

    /// The layers at `location` whose keys begin with `path`.
    pub fn at(&mut self, location: Location, path: impl Into<String>) -> Scope<'_> {
        let path_prefix = self.path_prefix.clone();
        Scope::new(self, location, path.into(), path_prefix)
    }

    /// The same for layers of the larger class itself, such as a language-model head: their sites have no prefix.
    pub(crate) fn at_top(&mut self, location: Location, path: impl Into<String>) -> Scope<'_> {
        Scope::new(self, location, path.into(), String::new())
    }

    /// A vector by its key.
    pub fn vector(&mut self, key: &str, size: usize) -> Param<Tensor<1>> {
        self.take(key, [size], Layout::Same)
    }

    /// A vector by its key; zeros where the checkpoint has none.
    pub(crate) fn vector_or_zeros(&mut self, key: &str, size: usize) -> Param<Tensor<1>> {
        match self.has(key) {
            true => self.vector(key, size),
            false => frozen(Tensor::zeros([size], &self.device)),
        }
    }

    /// A matrix by its key, as it lies in the file.
    pub fn matrix(&mut self, key: &str, rows: usize, cols: usize) -> Param<Tensor<2>> {
        self.take(key, [rows, cols], Layout::Same)
    }

    /// A number by its key.
    pub(crate) fn scalar(&mut self, key: &str) -> Param<Tensor<1>> {
        self.take_as(key, &[], Layout::Same, [1])
    }

    /// A tensor of any rank by its key, as it lies in the file: the kernel of a convolution, for one.
    pub fn tensor<const D: usize>(&mut self, key: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        self.take(key, shape, Layout::Same)
    }

    /// Leaves out the tensors of these keys, which the model has no use for.
    pub fn ignore(&mut self, unused: impl Fn(&str) -> bool) {
        self.keys.retain(|key, _| !unused(key));
    }

    /// Whether a key is there and was not taken yet.
    pub fn has(&self, key: &str) -> bool {
        self.is_random() || self.keys.contains_key(key)
    }

    /// Whether tensors are drawn and not read.
    pub(crate) fn is_random(&self) -> bool {
        matches!(self.source, Source::Random(_))
    }

    /// A linear layer: `<path>.weight [d_out, d_in]`, transposed here, and `<path>.bias [d_out]`.
    pub fn linear(&mut self, path: &str, d_in: usize, d_out: usize) -> Linear {
        self.linear_with(true, path, d_in, d_out)
    }

    /// The same with a bias or without.
    pub(crate) fn linear_with(&mut self, bias: bool, path: &str, d_in: usize, d_out: usize) -> Linear {
        Linear {
            weight: self.take(&format!("{path}.weight"), [d_out, d_in], Layout::Transposed),
            bias: bias.then(|| self.vector(&format!("{path}.bias"), d_out)),
        }
    }

    /// A linear layer whose weight is published the other way round: `<path>.weight [d_in, d_out]`, which is Burn's layout,
    /// and `<path>.bias [d_out]`.
    pub(crate) fn linear_input_first(&mut self, path: &str, d_in: usize, d_out: usize) -> Linear {
        Linear {
            weight: self.matrix(&format!("{path}.weight"), d_in, d_out),
            bias: Some(self.vector(&format!("{path}.bias"), d_out)),
        }
    }

    /// An embedding: `<path>.weight [entries, d_model]`.
    pub fn embedding(&mut self, path: &str, entries: usize, d_model: usize) -> Embedding {
        // Of the smallest size: its weight is replaced.
        let mut embedding = EmbeddingConfig::new(1, 1).init(&self.device);
        embedding.weight = self.matrix(&format!("{path}.weight"), entries, d_model);
        embedding
    }

    /// A convolution, as the product of its kernel with a patch: `<path>.weight [d_out, kernel..]`, and `<path>.bias [d_out]`
    /// unless it has none. The kernel is `[channels, sizes..]`.
    pub fn convolution(&mut self, path: &str, bias: bool, kernel: &[usize], d_out: usize) -> Linear {
        let shape = [&[d_out], kernel].concat();
        // A product beyond `usize` is the size of no tensor of a file, and is refused with it.
        let laid_out = [
            kernel.iter().fold(1, |all: usize, size| all.saturating_mul(*size)),
            d_out,
        ];
        Linear {
            weight: self.take_as(&format!("{path}.weight"), &shape, Layout::Transposed, laid_out),
            bias: bias.then(|| self.vector(&format!("{path}.bias"), d_out)),
        }
    }

    /// A layer normalization: `<path>.weight [d_model]` and `<path>.bias [d_model]`, or `gamma` and `beta` in the
    /// oldest checkpoints.
    pub fn layer_norm(&mut self, path: &str, d_model: usize, epsilon: f64) -> LayerNorm {
        self.layer_norm_with(true, path, d_model, epsilon)
    }

    /// The same with a bias or without.
    pub(crate) fn layer_norm_with(&mut self, bias: bool, path: &str, d_model: usize, epsilon: f64) -> LayerNorm {
        let config = LayerNormConfig::new(d_model).with_epsilon(epsilon).with_bias(bias);
        let mut norm = config.init(&self.device);
        if self.is_random() {
            return norm;
        }
        let (gamma, beta) = match self.has(&format!("{path}.gamma")) {
            true => ("gamma", "beta"),
            false => ("weight", "bias"),
        };
        norm.gamma = self.vector(&format!("{path}.{gamma}"), d_model);
        norm.beta = bias.then(|| self.vector(&format!("{path}.{beta}"), d_model));
        norm
    }

    /// A root-mean-square normalization: `<path>.weight [d_model]`. `epsilon` is above zero.
    pub fn rms_norm(&mut self, path: &str, d_model: usize, epsilon: f64) -> RmsNorm {
        let mut norm = RmsNormConfig::new(d_model).with_epsilon(epsilon).init(&self.device);
        if !self.is_random() {
            norm.gamma = self.vector(&format!("{path}.weight"), d_model);
        }
        norm
    }

    /// A normalization of any of the formulas of decoders.
    pub(crate) fn norm(&mut self, kind: NormKind, path: &str, d_model: usize, epsilon: f64) -> Norm {
        match kind {
            NormKind::Layer => Norm::Layer(self.layer_norm(path, d_model, epsilon)),
            NormKind::Rms => Norm::Rms(self.rms_norm(path, d_model, epsilon)),
            NormKind::OnePlusRms => {
                let mut norm = self.rms_norm(path, d_model, epsilon);
                if self.is_random() {
                    norm.gamma = frozen(Tensor::zeros([d_model], &self.device));
                }
                Norm::OnePlusRms(norm)
            }
        }
    }

    /// Ends loading.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mismatch`] listing every missing, misshapen, non-finite and unused key, of tensors that were read; keys that start with one of
    /// `known_unused` are the published extras of larger classes and are no problem. [`StoreError::Read`] for a file that
    /// ended or failed while it was read.
    pub fn finish(mut self, known_unused: &[&str]) -> Result<(), ModelError> {
        if let Some(error) = self.failed {
            return Err(error.into());
        }
        let left: BTreeSet<String> = std::mem::take(&mut self.keys).into_keys().collect();
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

    /// The parameter of a key, or zeros and a noted problem.
    fn take<const D: usize>(&mut self, key: &str, shape: [usize; D], layout: Layout) -> Param<Tensor<D>> {
        let mut laid_out = shape;
        if layout == Layout::Transposed {
            laid_out.reverse();
        }
        self.take_as(key, &shape, layout, laid_out)
    }

    /// The parameter of a key of this shape, with its values in the shape `laid_out`.
    fn take_as<const D: usize>(
        &mut self,
        key: &str,
        shape: &[usize],
        layout: Layout,
        laid_out: [usize; D],
    ) -> Param<Tensor<D>> {
        // What does not fit, or has another size with an adapter, is read at once.
        if let (Source::Checkpoint(checkpoint), Some(errors)) = (&self.source, &self.on_demand)
            && let Some(full) = self.keys.get(key)
            && checkpoint.has_floats(full, shape)
        {
            let parameter = self.pending(Arc::clone(checkpoint), full.clone(), layout, laid_out, errors.clone());
            self.keys.remove(key);
            return parameter;
        }
        match self.values(key, shape, layout) {
            Ok(values) => frozen(Tensor::from_data(TensorData::new(values, laid_out), &self.device)),
            Err(error) => {
                match error {
                    ReadError::Problem(problem) => self.problems.push(problem),
                    ReadError::File(error) => {
                        self.failed.get_or_insert(error);
                    }
                }
                // `finish` will refuse the model: no need for a tensor of the right size, whatever a config asks for.
                frozen(Tensor::zeros([1; D], &self.device))
            }
        }
    }

    /// A parameter that is read when it is first needed.
    fn pending<const D: usize>(
        &self,
        checkpoint: Arc<Checkpoint>,
        key: String,
        layout: Layout,
        laid_out: [usize; D],
        errors: ReadErrors,
    ) -> Param<Tensor<D>> {
        let read = move |device: &Device, _: bool| match checkpoint.read(&key, layout) {
            Ok(values) => Tensor::from_data(TensorData::new(values, laid_out), device),
            Err(error) => {
                errors.add(checkpoint.path(), error);
                Tensor::zeros(laid_out, device)
            }
        };
        Param::uninitialized(ParamId::new(), read, self.device.clone(), false, laid_out.into())
    }

    fn values(&mut self, key: &str, shape: &[usize], layout: Layout) -> Result<Vec<f32>, ReadError> {
        if let Source::Random(rng) = &mut self.source {
            let data = match shape.len() {
                0 | 1 => draw::constant([shape.iter().product()], 0.0),
                _ => draw::normal(rng, [shape[0], shape[1..].iter().product()], 0.02),
            };
            return Ok(laid_out(data.iter::<f32>().collect(), shape, layout));
        }
        let problem = |problem| Err(ReadError::Problem(problem));
        let missing = || TensorProblem::Missing {
            key: key.to_owned(),
            nearest: None,
        };
        let misshapen = |found: &[usize]| TensorProblem::Shape {
            key: key.to_owned(),
            expected: shape.to_vec(),
            found: found.to_vec(),
        };
        let Some(full) = self.keys.remove(key) else {
            return problem(missing());
        };
        match &mut self.source {
            Source::Checkpoint(checkpoint) => match checkpoint.shape(&full) {
                Some(found) if found != shape => {
                    let found = found.to_vec();
                    let Some(vocabulary) = &self.vocabulary else {
                        return problem(misshapen(&found));
                    };
                    let values = checkpoint.read(&full, Layout::Same)?;
                    match vocabulary.resized(&full, &found, shape, values) {
                        Some(values) => Ok(laid_out(values, shape, layout)),
                        None => problem(misshapen(&found)),
                    }
                }
                _ => checkpoint.read(&full, layout),
            },
            Source::Tensors(tensors) => match tensors.remove(&full) {
                None => problem(missing()),
                Some(data) if !data.dtype().is_float() => problem(TensorProblem::DType {
                    key: key.to_owned(),
                    found: format!("{:?}", data.dtype()),
                }),
                Some(data) if data.shape().to_vec() != shape => problem(misshapen(&data.shape().to_vec())),
                Some(data) => Ok(laid_out(data.iter::<f32>().collect(), shape, layout)),
            },
            Source::Random(_) => problem(missing()),
        }
    }
}

/// Reads every tensor of a model that was not needed yet.
pub(crate) fn read_all(model: &(impl Module + Sites)) {
    struct Reader;

    impl ModuleVisitor for Reader {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }

    model.visit(&mut Reader);
    // A tied head is no parameter of its own.
    model.visit_sites(&mut |_, layer| {
        if let LayerRef::Linear(layer) = layer {
            layer.weight.val();
        }
    });
}

/// A base parameter: it never asks for a gradient.
fn frozen<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor).set_require_grad(false)
}

fn laid_out(values: Vec<f32>, shape: &[usize], layout: Layout) -> Vec<f32> {
    match layout {
        Layout::Same => values,
        Layout::Transposed => {
            let cols = shape[1..].iter().product::<usize>().max(1);
            let mut target = Target::new(layout, values.len(), cols);
            target.put(0, &values);
            target.values
        }
    }
}
