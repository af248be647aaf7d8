//! A plain checkpoint with the weights a model has now, as Hugging Face transformers saves one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use adapters_adapted::FrozenLayer;
use adapters_core::{Host, Site, SiteInfo, is_outside};
use adapters_nn::float_weight;
use adapters_store::{StoreError, TensorOutline, TensorProblem, atomic, read_json, write_each, write_json};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use serde_json::{Map, Value, json};

use crate::checkpoint_folder::VOCABULARY;
use crate::error::ModelError;
use crate::pretrained::Pretrained;
use crate::weights::vocabulary::Vocabulary;

/// Bytes of a shard, as in transformers.
const SHARD: usize = 5_000_000_000;

/// Endings of files that hold weights.
const WEIGHTS: [&str; 11] = [
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".ot",
    ".index.json",
];

/// Files of a tokenizer, which an adapter's folder may have too.
const TOKENIZER: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

/// The folder of chat templates with names of their own.
const ADDITIONAL_TEMPLATES: &str = "additional_chat_templates";

/// Writes a plain checkpoint: everything `source` has, with the weights `model` holds now. What Python loads after an adapter
/// was merged into `model`. The tokens are those of the adapter that `source` was opened [for](Pretrained::for_adapter). One tensor at a
/// time is in memory in addition to the model.
///
/// Each tensor has the element type it has in `source`, or `dtype`; a compact checkpoint is restored to 32 bits. The values are
/// those of the model, rounded once. Weights of more than 5 GB become shards. The other files directly in `source` are copied.
///
/// # Errors
///
/// [`ModelError::Store`], also for a value that is beyond the range of the element type; [`ModelError::NotACheckpoint`] if `out`
/// is the source folder; [`ModelError::Layers`] for a model with replicated layers, which no published configuration describes.
pub fn save_checkpoint(
    model: &impl Host,
    source: &Pretrained,
    out: &Path,
    dtype: Option<FloatDType>,
) -> Result<(), ModelError> {
    let mut layers = |info: &SiteInfo| Ok(FrozenLayer::of(model, info.site));
    write_checkpoint(model, &mut layers, source, out, dtype)
}

/// The layer that a checkpoint gets at a site; `None` to leave its tensors as they are.
pub(crate) type Layers<'a> = dyn FnMut(&SiteInfo) -> Result<Option<FrozenLayer>, ModelError> + 'a;

/// As [`save_checkpoint`], with the layers of `layers` in place of those of `model`. All are asked for before anything is written,
/// and each again when it is.
pub(crate) fn write_checkpoint(
    model: &impl Host,
    layers: &mut Layers<'_>,
    source: &Pretrained,
    out: &Path,
    dtype: Option<FloatDType>,
) -> Result<(), ModelError> {
    let (folder, source) = (source.folder(), source.dir());
    if !model.layer_replication().is_empty() {
        return Err(ModelError::Layers {
            architecture: model.architecture().to_owned(),
            ranges: format!("{:?}", model.layer_replication()),
            reason: "its layers are not those of a checkpoint, so that it cannot be saved as one".to_owned(),
        });
    }
    if let (Ok(a), Ok(b)) = (source.canonicalize(), out.canonicalize())
        && a == b
    {
        return Err(ModelError::NotACheckpoint {
            path: out.to_owned(),
            missing: "it is the base checkpoint itself, which is never overwritten; choose another folder",
        });
    }
    let (checkpoint, vocabulary) = (folder.checkpoint()?, folder.vocabulary());
    let stored: BTreeMap<String, TensorOutline> = checkpoint
        .outlines()
        .map(|outline| (outline.key.clone(), resized_outline(outline, vocabulary)))
        .collect();
    let common = dtype.map_or_else(|| most_common(stored.values()), DType::from);
    let mut replaced = Replaced {
        model,
        layers,
        stored: &stored,
        untied: false,
    };
    let (mut outlines, mut sites) = (stored.clone(), BTreeMap::new());
    for info in model.sites() {
        for (key, data) in replaced.tensors(&info)? {
            let outline = TensorOutline {
                key: key.clone(),
                dtype: stored.get(&key).map_or(common, |outline| outline.dtype),
                shape: data.shape().to_vec(),
            };
            outlines.insert(key.clone(), outline);
            sites.insert(key, info.clone());
        }
    }
    for outline in outlines.values_mut().filter(|outline| outline.dtype.is_float()) {
        outline.dtype = dtype.map_or(outline.dtype, DType::from);
    }
    let untied = replaced.untied;
    let mut config: Map<String, Value> = read_json(&source.join("config.json"))?;
    let key = match config.contains_key("dtype") {
        true => "dtype",
        false => "torch_dtype",
    };
    config.insert(key.to_owned(), python_name(common).into());
    if let Some(vocabulary) = folder.vocabulary() {
        config.insert(VOCABULARY.to_owned(), vocabulary.to.into());
    }
    if untied {
        config.insert("tie_word_embeddings".to_owned(), false.into());
    }
    fs::create_dir_all(out).map_err(|e| StoreError::Folder {
        path: out.to_owned(),
        source: e,
    })?;
    // Weight and bias of a layer follow one another.
    let mut last: Option<(Site, Vec<(String, TensorData)>)> = None;
    write_shards(out, outlines.into_values().collect(), SHARD, &mut |outline| {
        let site = sites.get(&outline.key);
        let data = match site {
            None => {
                let stored = checkpoint.read_stored(&outline.key)?;
                check(&stored, outline, out, |value| !value.is_nan())?;
                resized(stored, outline, vocabulary)
            }
            Some(info) => {
                let tensors = match last.take() {
                    Some((site, tensors)) if site == info.site => tensors,
                    _ => replaced.tensors(info)?,
                };
                let (asked, others): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(key, _)| *key == outline.key);
                last = Some((info.site, others));
                let asked = asked.into_iter().next().map(|(_, data)| data);
                asked.ok_or_else(|| missing(out, &outline.key))?
            }
        };
        let data = converted(data, outline, out)?;
        if site.is_some() {
            check_finite(&data, outline, out)?;
        }
        Ok(Cow::Owned(data))
    })?;
    copy_side_files(source, out)?;
    copy_templates(source, out)?;
    Ok(write_json(&out.join("config.json"), &config)?)
}

/// Copies the tokenizer that an adapter was saved with, and its chat template, over those of a checkpoint in `out`.
///
/// # Errors
///
/// [`ModelError::Store`]
pub fn copy_tokenizer(adapter: &Path, out: &Path) -> Result<(), ModelError> {
    for name in TOKENIZER.iter().filter(|name| adapter.join(name).is_file()) {
        copy(&adapter.join(name), &out.join(name))?;
    }
    copy_templates(adapter, out)
}

/// Copies the chat templates with names of their own.
fn copy_templates(source: &Path, out: &Path) -> Result<(), ModelError> {
    let (from, to) = (source.join(ADDITIONAL_TEMPLATES), out.join(ADDITIONAL_TEMPLATES));
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&to).map_err(|source| StoreError::Folder {
        path: to.clone(),
        source,
    })?;
    Ok(copy_side_files(&from, &to)?)
}

/// A tensor with a row or a number a token has those of the added tokens.
fn resized_outline(outline: TensorOutline, vocabulary: Option<&Vocabulary>) -> TensorOutline {
    let vocabulary = vocabulary.filter(|_| outline.dtype.is_float());
    match vocabulary.and_then(|vocabulary| vocabulary.new_shape(&outline.key, &outline.shape)) {
        Some(shape) => TensorOutline { shape, ..outline },
        None => outline,
    }
}

/// The tensor in the size that its outline has.
fn resized(data: TensorData, outline: &TensorOutline, vocabulary: Option<&Vocabulary>) -> TensorData {
    let found = data.shape().to_vec();
    let Some(vocabulary) = vocabulary.filter(|_| found != outline.shape) else {
        return data;
    };
    let (dtype, values) = (data.dtype(), data.iter::<f32>().collect());
    match vocabulary.resized(&outline.key, &found, &outline.shape, values) {
        Some(values) => TensorData::new(values, outline.shape.clone()).convert_dtype(dtype),
        None => data,
    }
}

/// What a checkpoint has in place of the tensors of its source.
struct Replaced<'a, M> {
    model: &'a M,
    layers: &'a mut Layers<'a>,
    stored: &'a BTreeMap<String, TensorOutline>,
    /// Whether a head that was the table of the embeddings has another weight now.
    untied: bool,
}

impl<M: Host> Replaced<'_, M> {
    /// The tensors of a site, by their keys.
    fn tensors(&mut self, info: &SiteInfo) -> Result<Vec<(String, TensorData)>, ModelError> {
        let Some(layer) = (self.layers)(info)? else {
            return Ok(Vec::new());
        };
        // The source has the prefix of a larger class or not, whatever this one is.
        let prefix = self.model.base_prefix();
        let inner = info.path.strip_prefix(prefix).unwrap_or(&info.path);
        let named = |name: &str| {
            let names = [format!("{prefix}{inner}.{name}"), format!("{inner}.{name}")];
            let known = names.into_iter().find(|key| self.stored.contains_key(key));
            known.unwrap_or_else(|| format!("{}.{name}", info.path))
        };
        let (weight, bias) = match layer {
            FrozenLayer::Matrices(matrices) => {
                let parameter = info.parameter.as_ref().map(|parameter| named(&parameter.name));
                let data = || matrices.weight.val().into_data();
                return Ok(parameter.map(|key| (key, data())).into_iter().collect());
            }
            FrozenLayer::Norm(norm) => (norm.weight.into_data(), norm.bias),
            FrozenLayer::Table(table) => {
                let data = table.weight.val().into_data();
                match self.table_of(info)? {
                    Some(whole) if whole.clone().into_data() != data => return Err(self.one_weight(info)),
                    Some(_) if !self.stored.contains_key(&named("weight")) => return Ok(Vec::new()),
                    _ => (data, None),
                }
            }
            FrozenLayer::Linear(layer) => {
                let weight = match info.input_first {
                    true => float_weight(&layer),
                    false => float_weight(&layer).transpose(),
                };
                let bias = layer.bias.map(|bias| bias.val());
                let key = named("weight");
                // A head in `bf16` has a rounded copy of the table.
                let rounded = layer.weight.val().dtype() == DType::BF16;
                match self.table_of(info)? {
                    None => (weight.into_data(), bias),
                    Some(table) => {
                        let table = match rounded {
                            true => table.cast(DType::BF16).cast(DType::F32),
                            false => table,
                        };
                        let data = weight.clone().into_data();
                        match table.into_data() == data {
                            true if !self.stored.contains_key(&key) => return Ok(Vec::new()),
                            true => (data, bias),
                            false if is_outside(info, self.model) => return Err(self.one_weight(info)),
                            false => {
                                self.untied = true;
                                ((weight * self.model.tied_head_scale()).into_data(), bias)
                            }
                        }
                    }
                }
            }
        };
        let weight = match info.kernel.is_empty() {
            true => weight,
            // The published kernel is that of a convolution.
            false => {
                let d_out = weight.shape().to_vec().into_iter().take(1);
                let shape: Vec<usize> = d_out.chain(info.kernel.iter().copied()).collect();
                TensorData::new(weight.iter::<f32>().collect(), shape)
            }
        };
        // The oldest checkpoints have other names for those of a normalization.
        let old = named("gamma");
        let (key, bias_key) = match (old.strip_suffix("gamma"), self.stored.contains_key(&old)) {
            (Some(path), true) => (old.clone(), format!("{path}beta")),
            _ => {
                let key = named("weight");
                let path = key.strip_suffix("weight").unwrap_or(&key);
                (key.clone(), format!("{path}bias"))
            }
        };
        let bias = bias.map(|bias| (bias_key, bias.into_data()));
        Ok([(key, weight)].into_iter().chain(bias).collect())
    }

    /// The table that is the weight of this head, or of this table under another name.
    fn table_of(&mut self, info: &SiteInfo) -> Result<Option<Tensor<2>>, ModelError> {
        let Some(table) = info.weight_of else {
            return Ok(None);
        };
        let sites = self.model.sites();
        let Some(info) = sites.iter().find(|other| other.site == table) else {
            return Ok(None);
        };
        Ok(match (self.layers)(info)? {
            Some(FrozenLayer::Table(table)) => Some(table.weight.val()),
            _ => self.model.table(table).map(|table| table.weight.val()),
        })
    }

    /// The refusal of a weight that is no longer the table's.
    fn one_weight(&self, info: &SiteInfo) -> ModelError {
        let sites = self.model.sites();
        let table = sites.into_iter().find(|other| Some(other.site) == info.weight_of);
        ModelError::OneWeight {
            architecture: self.model.architecture().to_owned(),
            path: info.path.clone(),
            table: table.map_or_else(String::new, |table| table.path),
        }
    }
}

/// The type of most elements.
fn most_common<'a>(outlines: impl Iterator<Item = &'a TensorOutline> + Clone) -> DType {
    const FLOATS: [DType; 4] = [DType::F32, DType::BF16, DType::F16, DType::F64];
    let elements = |of: &DType| -> usize {
        let of_type = outlines.clone().filter(|outline| outline.dtype == *of);
        of_type.map(|outline| outline.shape.iter().product::<usize>()).sum()
    };
    FLOATS.into_iter().rev().max_by_key(elements).unwrap_or(DType::F32)
}

/// A tensor of the type it is written with.
fn converted(data: TensorData, outline: &TensorOutline, out: &Path) -> Result<TensorData, StoreError> {
    if data.dtype() == outline.dtype {
        return Ok(data);
    }
    let data = data.convert_dtype(outline.dtype);
    if outline.dtype == DType::F16 {
        check_finite(&data, outline, out)?;
    }
    Ok(data)
}

/// Refuses a tensor that is to be written and has an element beyond the range of its type.
fn check_finite(data: &TensorData, outline: &TensorOutline, out: &Path) -> Result<(), StoreError> {
    check(data, outline, out, f32::is_finite)
}

/// Refuses a tensor of floats with an element that is not right.
fn check(
    data: &TensorData,
    outline: &TensorOutline,
    out: &Path,
    is_right: impl Fn(f32) -> bool,
) -> Result<(), StoreError> {
    let floats = outline.dtype.is_float();
    match data.iter::<f32>().position(|value| floats && !is_right(value)) {
        None => Ok(()),
        Some(index) => Err(StoreError::Mismatch {
            path: out.to_owned(),
            problems: vec![TensorProblem::NotFinite {
                key: outline.key.clone(),
                index,
            }],
        }),
    }
}

fn missing(out: &Path, key: &str) -> StoreError {
    StoreError::Mismatch {
        path: out.to_owned(),
        problems: vec![TensorProblem::Missing {
            key: key.to_owned(),
            nearest: None,
        }],
    }
}

/// The name that `config.json` has for an element type.
fn python_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "float64",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// Copies what lies next to the weights and the configuration: tokenizers, chat templates, settings of generation and of
/// processors, licenses.
fn copy_side_files(source: &Path, out: &Path) -> Result<(), StoreError> {
    let failed = |e| StoreError::Read {
        path: source.to_owned(),
        source: e,
    };
    for entry in fs::read_dir(source).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let text = name.to_string_lossy();
        let left_out = text.starts_with('.')
            || ["config.json", "adapter_config.json"].contains(&&*text)
            || WEIGHTS.iter().any(|ending| text.ends_with(ending));
        // Of a link, what it points to.
        if !left_out && source.join(&name).is_file() {
            copy(&source.join(&name), &out.join(&name))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let bytes = fs::read(from).map_err(|source| StoreError::Read {
        path: from.to_owned(),
        source,
    })?;
    Ok(atomic::write(to, &bytes)?)
}

/// Writes `model.safetensors`, or shards of at most `limit` bytes with their index; a larger tensor has a shard of its own. After a
/// failure no shard is left.
fn write_shards(
    out: &Path,
    tensors: Vec<TensorOutline>,
    limit: usize,
    data: &mut dyn FnMut(&TensorOutline) -> Result<Cow<'static, TensorData>, ModelError>,
) -> Result<(), ModelError> {
    let (mut shards, mut filled, mut total) = (vec![Vec::new()], 0, 0);
    for outline in tensors {
        let size = outline.size();
        if filled > 0 && filled + size > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        (filled, total) = (filled + size, total + size);
        if let Some(shard) = shards.last_mut() {
            shard.push(outline);
        }
    }
    let count = shards.len();
    let name = |index: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let mut weight_map = Map::new();
    for (index, shard) in shards.into_iter().enumerate() {
        weight_map.extend(
            shard
                .iter()
                .map(|outline| (outline.key.clone(), Value::from(name(index)))),
        );
        if let Err(error) = write_each(&out.join(name(index)), shard, [], &mut *data) {
            (0..index).for_each(|written| drop(fs::remove_file(out.join(name(written)))));
            return Err(error);
        }
    }
    if count == 1 {
        return Ok(());
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    Ok(write_json(&out.join("model.safetensors.index.json"), &index)?)
}

#[cfg(test)]
mod tests {
    use burn::tensor::bf16;

    use super::*;
    use crate::weights::checkpoint::Checkpoint;

    #[test]
    fn shards_are_read_as_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<String> = (0..5).map(|index| format!("w{index}")).collect();
        let outlines = || keys.iter().map(|key| outline(key, DType::F32)).collect();
        let tensor = |key: &str| TensorData::from([key.as_bytes()[1] as f32; 6]);
        write_shards(dir.path(), outlines(), 50, &mut |outline| {
            Ok(Cow::Owned(tensor(&outline.key)))
        })
        .unwrap();
        let index: Value = read_json(&dir.path().join("model.safetensors.index.json")).unwrap();
        assert_eq!(index["metadata"]["total_size"], 120);
        assert_eq!(index["weight_map"]["w4"], "model-00003-of-00003.safetensors");
        let checkpoint = Checkpoint::open(dir.path(), false).unwrap();
        for key in &keys {
            assert_eq!(checkpoint.read_stored(key).unwrap(), tensor(key));
        }
        // After a failure nothing is left of the others.
        let out = tempfile::tempdir().unwrap();
        let failed = write_shards(out.path(), outlines(), 50, &mut |outline| match outline.key.as_str() {
            "w4" => Err(missing(out.path(), "w4").into()),
            key => Ok(Cow::Owned(tensor(key))),
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }

    fn outline(key: &str, dtype: DType) -> TensorOutline {
        TensorOutline {
            key: key.to_owned(),
            dtype,
            shape: vec![6],
        }
    }

    #[test]
    fn tensors_keep_the_types_of_their_checkpoint() {
        let stored =
            [("w", DType::BF16), ("v", DType::BF16), ("n", DType::F32)].map(|(key, dtype)| outline(key, dtype));
        assert_eq!(most_common(stored.iter()), DType::BF16);
        let of = |value: f32, dtype| converted(TensorData::from([value; 6]), &outline("w", dtype), Path::new("out"));
        let rounded = of(1.003, DType::BF16).unwrap();
        assert_eq!(rounded.as_slice::<bf16>().unwrap()[0], bf16::from_f32(1.003));
        let refused = of(1e6, DType::F16);
        assert!(matches!(refused, Err(StoreError::Mismatch { problems, .. }) if problems.len() == 1));
    }

    #[test]
    fn everything_beside_the_weights_is_copied() {
        let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in [
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "x.index.json",
            ".hidden",
            "spiece.model",
            "LICENSE",
        ] {
            fs::write(source.path().join(name), name).unwrap();
        }
        fs::create_dir(source.path().join("folder")).unwrap();
        copy_side_files(source.path(), out.path()).unwrap();
        let mut names: Vec<_> = fs::read_dir(out.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["LICENSE", "spiece.model"]);

        // Templates with names of their own are in a folder; those of an adapter are in place of the base's.
        let adapter = tempfile::tempdir().unwrap();
        for (dir, text) in [(&source, "base"), (&adapter, "adapter")] {
            fs::create_dir(dir.path().join(ADDITIONAL_TEMPLATES)).unwrap();
            fs::write(dir.path().join(ADDITIONAL_TEMPLATES).join("tool_use.jinja"), text).unwrap();
        }
        let copied = || fs::read_to_string(out.path().join(ADDITIONAL_TEMPLATES).join("tool_use.jinja")).unwrap();
        copy_templates(source.path(), out.path()).unwrap();
        assert_eq!(copied(), "base");
        copy_tokenizer(adapter.path(), out.path()).unwrap();
        assert_eq!(copied(), "adapter");
    }
}
