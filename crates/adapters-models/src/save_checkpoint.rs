//! A plain checkpoint with the weights a model has now, as Hugging Face transformers saves one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use adapters_core::{Host, SiteKind, Tensors};
use adapters_nn::float_weight;
use adapters_store::{StoreError, TensorProblem, atomic, read_json, write_json, write_safetensors};
use burn::nn::Linear;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
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
/// was merged into `model`. The tokens are those of the adapter that `source` was opened [for](Pretrained::for_adapter).
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
    let (folder, source) = (source.folder(), source.dir());
    if !model.layer_replication().is_empty() {
        return Err(ModelError::Layers {
            architecture: model.architecture().to_owned(),
            ranges: format!("{:?}", model.layer_replication()),
            reason: "its layers are not those of a checkpoint, so that it cannot be saved as one".to_owned(),
        });
    }
    fs::create_dir_all(out).map_err(|e| StoreError::Folder {
        path: out.to_owned(),
        source: e,
    })?;
    if let (Ok(a), Ok(b)) = (source.canonicalize(), out.canonicalize())
        && a == b
    {
        return Err(ModelError::NotACheckpoint {
            path: out.to_owned(),
            missing: "it is the base checkpoint itself, which is never overwritten; choose another folder",
        });
    }
    let mut tensors = folder.checkpoint()?.read_all()?;
    if let Some(vocabulary) = folder.vocabulary() {
        resize(&mut tensors, vocabulary);
    }
    let types = tensors.iter().map(|(key, data)| (key.clone(), data.dtype())).collect();
    let untied = replace(&mut tensors, model);
    let common = convert(&mut tensors, &types, dtype.map(DType::from), out)?;
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
    copy_side_files(source, out)?;
    copy_templates(source, out)?;
    write_json(&out.join("config.json"), &config)?;
    Ok(write_shards(out, tensors, SHARD)?)
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

/// Gives tensors with a number a token, which no site has, those of the added tokens: zeros, as in transformers.
fn resize(tensors: &mut Tensors, vocabulary: &Vocabulary) {
    for (key, data) in tensors.iter_mut().filter(|(_, data)| data.dtype().is_float()) {
        let found = data.shape().to_vec();
        let Some(wanted) = vocabulary.shape(&found) else {
            continue;
        };
        let (dtype, values) = (data.dtype(), data.iter::<f32>().collect());
        if let Some(values) = vocabulary.resized(key, &found, &wanted, values) {
            *data = TensorData::new(values, wanted).convert_dtype(dtype);
        }
    }
}

/// Puts the weights of the model's sites in place of those of its checkpoint; whether a head that was the table of the embeddings
/// has another weight now.
fn replace(tensors: &mut Tensors, model: &impl Host) -> bool {
    let mut untied = false;
    for info in model.sites() {
        // The source has the prefix of a larger class or not, whatever this one is.
        let prefix = model.base_prefix();
        let inner = info.path.strip_prefix(prefix).unwrap_or(&info.path).to_owned();
        let prefixed = format!("{prefix}{inner}");
        let has = |path: &String| tensors.contains_key(&format!("{path}.weight"));
        let path = match [&prefixed, &inner].into_iter().find(|path| has(path)) {
            Some(path) => path.clone(),
            None => info.path.clone(),
        };
        let (weight, bias) = match info.kind {
            SiteKind::Matrices { .. } => {
                if let (Some(matrices), Some(parameter)) = (model.matrices(info.site), &info.parameter) {
                    let bare = |path: &String| format!("{path}.{}", parameter.name);
                    let known = [&prefixed, &inner]
                        .into_iter()
                        .map(bare)
                        .find(|key| tensors.contains_key(key));
                    let key = known.unwrap_or_else(|| bare(&info.path));
                    tensors.insert(key, matrices.weight.val().into_data());
                }
                continue;
            }
            SiteKind::Norm { .. } => match model.norm(info.site) {
                Some(norm) => (norm.weight.into_data(), norm.bias),
                None => continue,
            },
            SiteKind::Table { .. } => match model.table(info.site) {
                Some(table) => (table.weight.val().into_data(), None),
                None => continue,
            },
            _ => match model.linear(info.site) {
                Some(layer) => (
                    match model.stores_input_first(info.site) {
                        true => float_weight(layer).into_data(),
                        false => float_weight(layer).transpose().into_data(),
                    },
                    layer.bias.as_ref().map(|bias| bias.val()),
                ),
                None => continue,
            },
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
        let key = format!("{path}.weight");
        let table = info.tied_to.and_then(|table| model.table(table));
        // A head in `bf16` has a rounded copy of the table.
        let is_rounded = |layer: &Linear| layer.weight.val().dtype() == DType::BF16;
        let rounded = info.tied_to.is_some() && model.linear(info.site).is_some_and(is_rounded);
        let table = table.map(|table| match rounded {
            true => table.weight.val().cast(DType::BF16).cast(DType::F32),
            false => table.weight.val(),
        });
        let weight = match table.map(|table| table.into_data() == weight) {
            Some(true) if !tensors.contains_key(&key) => continue,
            Some(false) => {
                untied = true;
                let weight = Tensor::<2>::from_data(weight, &Device::default());
                (weight * model.tied_head_scale()).into_data()
            }
            Some(true) | None => weight,
        };
        tensors.insert(key, weight);
        if let Some(bias) = bias {
            tensors.insert(format!("{path}.bias"), bias.into_data());
        }
    }
    untied
}

/// Gives every float the type `dtype`, or that in `types`; returns the type of most elements.
fn convert(
    tensors: &mut Tensors,
    types: &BTreeMap<String, DType>,
    dtype: Option<DType>,
    path: &Path,
) -> Result<DType, StoreError> {
    const FLOATS: [DType; 4] = [DType::F32, DType::BF16, DType::F16, DType::F64];
    let elements = |of: &DType| -> usize {
        let of_type = tensors.iter().filter(|(key, _)| types.get(*key) == Some(of));
        of_type.map(|(_, data)| data.num_elements()).sum()
    };
    let most = FLOATS.into_iter().rev().max_by_key(elements).unwrap_or(DType::F32);
    let mut problems = Vec::new();
    for (key, data) in tensors.iter_mut().filter(|(_, data)| data.dtype().is_float()) {
        let wanted = dtype.or_else(|| types.get(key).copied()).unwrap_or(most);
        if data.dtype() == wanted {
            continue;
        }
        *data = data.clone().convert_dtype(wanted);
        if wanted == DType::F16
            && let Some(index) = data.iter::<f32>().position(|value| !value.is_finite())
        {
            problems.push(TensorProblem::NotFinite {
                key: key.clone(),
                index,
            });
        }
    }
    match problems.is_empty() {
        true => Ok(dtype.unwrap_or(most)),
        false => Err(StoreError::Mismatch {
            path: path.to_owned(),
            problems,
        }),
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

/// Writes `model.safetensors`, or shards of at most `limit` bytes with their index; a larger tensor has a shard of its own.
fn write_shards(out: &Path, tensors: Tensors, limit: usize) -> Result<(), StoreError> {
    let (mut shards, mut filled, mut total) = (vec![Tensors::new()], 0, 0);
    for (key, data) in tensors {
        let size = data.as_bytes().len();
        if filled > 0 && filled + size > limit {
            shards.push(Tensors::new());
            filled = 0;
        }
        (filled, total) = (filled + size, total + size);
        if let Some(shard) = shards.last_mut() {
            shard.insert(key, data);
        }
    }
    let count = shards.len();
    if let [whole] = shards.as_slice() {
        return write_safetensors(&out.join("model.safetensors"), whole, []);
    }
    let mut weight_map = Map::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        write_safetensors(&out.join(&name), &shard, [])?;
        weight_map.extend(shard.into_keys().map(|key| (key, Value::from(name.clone()))));
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    write_json(&out.join("model.safetensors.index.json"), &index)
}

#[cfg(test)]
mod tests {
    use burn::tensor::bf16;

    use super::*;
    use crate::weights::checkpoint::Checkpoint;

    #[test]
    fn shards_are_read_as_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let tensor = |of: f32| TensorData::from([of; 6]);
        let tensors: Tensors = (0..5)
            .map(|index| (format!("w{index}"), tensor(index as f32)))
            .collect();
        write_shards(dir.path(), tensors.clone(), 50).unwrap();
        let index: Value = read_json(&dir.path().join("model.safetensors.index.json")).unwrap();
        assert_eq!(index["metadata"]["total_size"], 120);
        assert_eq!(index["weight_map"]["w4"], "model-00003-of-00003.safetensors");
        assert_eq!(
            Checkpoint::open(dir.path(), false).unwrap().read_all().unwrap(),
            tensors
        );
    }

    #[test]
    fn tensors_keep_the_types_of_their_checkpoint() {
        let types = BTreeMap::from([("w".to_owned(), DType::BF16), ("n".to_owned(), DType::F32)]);
        let of = || -> Tensors {
            let keys = ["w", "n", "new"].into_iter().zip([4, 2, 1]);
            keys.map(|(key, count)| (key.to_owned(), TensorData::from(&vec![1.003f32; count][..])))
                .collect()
        };
        let mut tensors = of();
        assert_eq!(
            convert(&mut tensors, &types, None, Path::new("out")).unwrap(),
            DType::BF16
        );
        let found = ["w", "n", "new"].map(|key| tensors[key].dtype());
        assert_eq!(found, [DType::BF16, DType::F32, DType::BF16]);
        assert_eq!(tensors["w"].as_slice::<bf16>().unwrap()[0], bf16::from_f32(1.003));
        let mut tensors = of();
        tensors.insert("w".to_owned(), TensorData::from([1e6f32]));
        let refused = convert(&mut tensors, &types, Some(DType::F16), Path::new("out"));
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
