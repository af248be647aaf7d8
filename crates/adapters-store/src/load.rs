//! Reading an adapter folder: everything is checked, then the set is touched.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use burn::module::ParamId;
use burn::tensor::{Device, TensorData};
use serde::de::Error as _;
use serde_json::{Map, Value};

use crate::key_names::{renew, without_adapter_name, without_second_names};
use crate::larger_class::LargerClass;
use crate::tensors::with_shape;
use crate::{StoreError, TensorProblem, is_there, mlx, read_json, read_pytorch, read_safetensors};
use adapters_core::{
    AdapterSet, AnyMethod, AttachReport, Attached, Format, Host, Role, Site, SiteInfo, SiteKind, StoredConfig,
    StoredSize, Tensors, build_for_file, is_outside, target::Selection,
};
use adapters_methods::Registry;
use adapters_nn::nearest;

/// Name of the configuration file.
const CONFIG: &str = "adapter_config.json";

/// How to load an adapter folder.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Name in the set; without it the name in the folder, or the folder's own.
    pub name: Option<String>,
    /// Whether `pytorch_adapter.bin` may be read, by Burn's non-executing reader.
    pub allow_bin: bool,
    /// Further safetensors files with tensors of the adapter that the folder lacks: the reference does not write the
    /// shared parameters of headless models.
    pub extra: Vec<PathBuf>,
    /// Fields to read in place of those of the configuration, or in addition to them: the reference does not write all of them.
    pub config: Map<String, Value>,
}

/// What loading did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// The format of the folder.
    pub format: Format,
    /// The weights file that was read.
    pub weights: PathBuf,
    /// What was attached.
    pub attached: AttachReport,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.attached, self.format, self.weights.display())
    }
}

/// The folder's configuration, before any tensor is read.
struct Folder {
    format: Format,
    method: AnyMethod,
    /// The name the keys are built with.
    stored_name: String,
    /// Modules of `modules_to_save` that are a head, which is read elsewhere.
    head_modules: Vec<String>,
}

/// Loads the adapter in the folder `dir` into `set`, trainable and not active.
///
/// # Errors
///
/// [`StoreError`] for files, [`StoreError::ConfigFile`] for the configuration, [`StoreError::Mismatch`] listing every
/// missing, unexpected, misshapen or non-finite tensor, [`Error::NoTarget`](adapters_core::Error::NoTarget) where tensors are left over because the
/// model lacks a site the adapter was trained at. The set is unchanged on error.
pub fn load_adapter(
    dir: &Path,
    set: &mut AdapterSet,
    host: &dyn Host,
    registry: &Registry,
    options: &LoadOptions,
    device: &Device,
) -> Result<LoadReport, StoreError> {
    let (mut folder, weights, mut tensors) = read_folder(dir, registry, options, host)?;
    if let Some(method) = folder.method.adjusted_to(folder.format, &tensors) {
        folder.method = method;
    }
    let name = options.name.clone().unwrap_or_else(|| folder.stored_name.clone());
    let routed = set.routed(&folder.method, host)?;
    if let Some((method, _)) = &routed {
        folder.method = method.clone();
    }
    let target = folder.method.target();
    // Whether the class that an adapter was trained on has a layer of a head the file tells, and not the names of modules.
    let is_of_head = |info: &SiteInfo| info.site.role == Role::HeadTransform;
    let of_head: Vec<SiteInfo> = match folder.format {
        Format::Peft => {
            let outside = host.sites().into_iter().filter(is_of_head);
            outside.filter(|info| adapts(&tensors, &info.path)).collect()
        }
        Format::AdapterHub => Vec::new(),
    };
    let larger = match folder.format {
        Format::Peft => LargerClass::named_by(&folder.method, &target, !of_head.is_empty(), host)?,
        Format::AdapterHub => None,
    };
    let host = larger.as_ref().map_or(host, |larger| larger as &dyn Host);
    let is_router = routed.is_some();
    let mut selection = match routed {
        Some((_, sites)) => sites,
        None => target.select(host)?,
    };
    selection.sites.retain(|info| !is_of_head(info));
    if folder.format == Format::Peft {
        leave_out_what_is_absent(&mut selection, &tensors, host);
    }
    if !is_router {
        selection.sites.extend(of_head);
    }
    let file = StoredSize {
        format: folder.format,
        elements: tensors.values().map(TensorData::num_elements).sum(),
    };
    let built = build_for_file(&name, folder.method, host, selection.clone(), file, device);
    let (adapter, attached) = built.map_err(|source| StoreError::ConfigFile {
        path: dir.join(CONFIG),
        source: Box::new(source),
    })?;
    if folder.format == Format::Peft {
        let keys = adapter
            .params_by_all_names()
            .flat_map(|param| param.keys(Format::Peft, &folder.stored_name, host));
        tensors = without_second_names(without_adapter_name(tensors, &keys.collect()));
    }
    let adapter = match fill(adapter, folder.format, &folder.stored_name, host, &weights, tensors) {
        // Tensors are left over because the model has no such site: say that rather than list them.
        Err(StoreError::Mismatch { problems, .. }) if !attached.unmatched.is_empty() && all_unexpected(&problems) => {
            return Err(match selection.require(&target, host) {
                Err(no_target) => no_target.into(),
                Ok(_) => StoreError::Mismatch {
                    path: weights,
                    problems,
                },
            });
        }
        filled => filled?,
    };
    set.insert_any(adapter.as_trained())?;
    Ok(LoadReport {
        format: folder.format,
        weights,
        attached,
    })
}

/// Leaves out, where the file has nothing for them, a head that is outside the class an adapter may have been trained on, and tables under
/// another name: T5's stacks have their table in common with the model, and `target_modules` of peft then finds it by one name alone.
fn leave_out_what_is_absent(selection: &mut Selection, tensors: &Tensors, host: &dyn Host) {
    let selected: Vec<Site> = selection.sites.iter().map(|info| info.site).collect();
    let is_absent = |info: &mut SiteInfo| {
        let is_second_name = info.weight_of.is_some() && info.is_table();
        (is_second_name || is_outside(info, host))
            && !tensors.keys().any(|key| key.contains(&format!("{}.", info.path)))
    };
    for info in selection.sites.extract_if(.., is_absent) {
        // What is at the table acts here, too.
        if !info.tied_to.is_some_and(|table| selected.contains(&table)) {
            selection.skipped.push(info.path);
        }
    }
}

/// The configuration of a folder, its file of weights, and the tensors in it that are of the adapter and not of a head.
fn read_folder(
    dir: &Path,
    registry: &Registry,
    options: &LoadOptions,
    host: &dyn Host,
) -> Result<(Folder, PathBuf, Tensors), StoreError> {
    let path = dir.join(CONFIG);
    if !is_there(&path) {
        return Err(StoreError::NotAnAdapter {
            path: dir.to_owned(),
            missing: CONFIG,
        });
    }
    let (config, of_mlx) = match mlx::read(dir)? {
        Some(read) => (read.config, Some((read.weights, read.tensors))),
        None => (read_json(&path)?, None),
    };
    let folder = read_config(dir, config, registry, &options.config, host)?;
    let (weights, mut tensors) = match of_mlx {
        Some(read) => read,
        None => read_weights(dir, folder.format, options.allow_bin)?,
    };
    if folder.format == Format::AdapterHub {
        tensors = renew(tensors);
    }
    let of_head = |key: &str| {
        // Around a prompt there is one module less.
        let path = ["base_model.model.", "base_model."]
            .iter()
            .find_map(|prefix| key.strip_prefix(prefix));
        let path = path.unwrap_or(key);
        let mut modules = folder.head_modules.iter();
        modules.any(|module| {
            path.strip_prefix(module.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        })
    };
    tensors.retain(|key, _| !of_head(key));
    for path in &options.extra {
        tensors.extend(read_safetensors(path)?.0);
    }
    Ok((folder, weights, tensors))
}

/// The ranges of layers that the base of the adapter in the folder `dir` is made of (peft's `layer_replication`); `None` for an
/// adapter of a model as it is published.
///
/// # Errors
///
/// [`StoreError`] for a configuration that cannot be read, or whose `layer_replication` is no list of pairs.
pub fn layer_replication(dir: &Path) -> Result<Option<Vec<[usize; 2]>>, StoreError> {
    let path = dir.join(CONFIG);
    let mut config: Map<String, Value> = read_json(&path)?;
    let ranges = config.remove("layer_replication").unwrap_or_default();
    let refused = |error: serde_json::Error| StoreError::Json {
        source: serde_json::Error::custom(format!("`layer_replication`: {error}")),
        path,
    };
    serde_json::from_value(ranges).map_err(refused)
}

fn read_config(
    dir: &Path,
    file: Map<String, Value>,
    registry: &Registry,
    more: &Map<String, Value>,
    host: &dyn Host,
) -> Result<Folder, StoreError> {
    let path = dir.join(CONFIG);
    let text = |key| file.get(key).and_then(Value::as_str).map(str::to_owned);
    let (format, mut fields) = match file.get("config").and_then(Value::as_object) {
        Some(config) => (Format::AdapterHub, config.clone()),
        None => (Format::Peft, file.clone()),
    };
    fields.extend(more.clone());
    let head_modules = match format {
        Format::AdapterHub => Vec::new(),
        Format::Peft => take_head_modules(&mut fields, host),
    };
    let version = text("version");
    let stored = StoredConfig {
        format,
        fields: &fields,
        version: version.as_deref().and_then(major_minor),
        versioned: version.is_some(),
    };
    Ok(Folder {
        format,
        method: registry.read(&stored).map_err(|source| StoreError::ConfigFile {
            path,
            source: Box::new(source),
        })?,
        head_modules,
        stored_name: match format {
            Format::AdapterHub => text("name").unwrap_or_else(|| folder_name(dir)),
            Format::Peft => folder_name(dir),
        },
    })
}

/// Modules that classes of transformers have for their heads.
const HEADS: [&str; 7] = [
    "classifier",
    "head",
    "pre_classifier",
    "classification_head",
    "projector",
    "score",
    "qa_outputs",
];

/// Whether a file has parameters of an adapter at a module, and not only a copy of the module.
fn adapts(tensors: &Tensors, path: &str) -> bool {
    let own = ["weight", "bias", "modules_to_save", "original_module"];
    tensors.keys().any(|key| {
        let rest = key.split_once(&format!("{path}.")).map(|(_, rest)| rest);
        rest.is_some_and(|rest| !rest.split('.').next().is_some_and(|first| own.contains(&first)))
    })
}

/// Takes the names of modules out of `modules_to_save` that a class of transformers has for its head and this host has
/// not: those of [`HEADS`] next to an adapter. What reads heads reads them.
fn take_head_modules(fields: &mut Map<String, Value>, host: &dyn Host) -> Vec<String> {
    let Some(Value::Array(names)) = fields.get_mut("modules_to_save") else {
        return Vec::new();
    };
    let sites = host.sites();
    let of_host = |name: &str| {
        sites
            .iter()
            .filter(|info| info.site.role != Role::HeadTransform)
            .any(|info| info.path.split('.').any(|segment| segment == name))
    };
    let of_head = |name: &Value| {
        let name = name.as_str()?;
        (HEADS.contains(&name) && !of_host(name)).then(|| name.to_owned())
    };
    let taken = names.iter().filter_map(of_head).collect();
    names.retain(|name| of_head(name).is_none());
    if names.is_empty() {
        fields.remove("modules_to_save");
    }
    taken
}

/// `(1, 3)` of `adapters.1.3.0`; a bare version number is that of the library's predecessor.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("adapters.")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn folder_name(dir: &Path) -> String {
    dir.file_name()
        .map_or_else(|| "adapter".to_owned(), |n| n.to_string_lossy().into_owned())
}

fn read_weights(dir: &Path, format: Format, allow_bin: bool) -> Result<(PathBuf, Tensors), StoreError> {
    let safe = dir.join(format.weights_file());
    if is_there(&safe) {
        let (tensors, _) = read_safetensors(&safe)?;
        return Ok((safe, tensors));
    }
    let (bin, missing) = match format {
        Format::AdapterHub => ("pytorch_adapter.bin", "adapter.safetensors (or pytorch_adapter.bin)"),
        Format::Peft => ("adapter_model.bin", "adapter_model.safetensors (or adapter_model.bin)"),
    };
    let bin = dir.join(bin);
    let missing = match dir.join("adapter_0.pt").exists() || dir.join("adapter_model.pt").exists() {
        true => {
            "adapter_model.safetensors; it has an adapter in torchtune's own format, whose checkpointer for Hugging Face models writes \
             PEFT's files next to it"
        }
        false => missing,
    };
    match (is_there(&bin), allow_bin) {
        (true, true) => Ok((bin.clone(), read_pytorch(&bin)?)),
        (true, false) => Err(StoreError::PickleNotAllowed { path: bin }),
        (false, _) => Err(StoreError::NotAnAdapter {
            path: dir.to_owned(),
            missing,
        }),
    }
}

/// Puts the file's tensors into a built adapter.
pub(crate) fn fill(
    mut adapter: Attached,
    format: Format,
    stored_name: &str,
    host: &dyn Host,
    path: &Path,
    mut tensors: Tensors,
) -> Result<Attached, StoreError> {
    let mut problems = Vec::new();
    let mut wanted: Vec<(ParamId, String)> = Vec::new();
    let mut found: HashMap<ParamId, TensorData> = HashMap::new();
    let shapes = adapter.shapes();
    for param in adapter.params_by_all_names() {
        // The class that saved decides the prefix: its own, or that of a larger class around it.
        let candidates = param.keys(format, stored_name, host);
        match candidates.iter().find_map(|k| Some((k, tensors.remove(k)?))) {
            Some((key, data)) => {
                let (own, integers) = match shapes.get(&param.id) {
                    Some(shape) => (shape.dims.clone(), shape.integers),
                    None => (Vec::new(), false),
                };
                let expected = param.stored_shape(format, own.clone());
                if data.dtype().is_float() == integers {
                    let (key, found) = (key.clone(), format!("{:?}", data.dtype()));
                    problems.push(match integers {
                        true => TensorProblem::NotIntegers { key, found },
                        false => TensorProblem::DType { key, found },
                    });
                } else if data.shape().to_vec() != expected {
                    problems.push(TensorProblem::Shape {
                        key: key.clone(),
                        expected,
                        found: data.shape().to_vec(),
                    });
                } else if let Some((index, limit)) = outside(&data, &param.limits) {
                    problems.push(TensorProblem::Index {
                        key: key.clone(),
                        index,
                        limit,
                    });
                }
                let data = with_shape(data, own);
                // A parameter that acts at two sites, stored under both names with two values.
                if found.get(&param.id).is_some_and(|first| *first != data) {
                    problems.push(TensorProblem::Unexpected { key: key.clone() });
                }
                found.insert(param.id, data);
            }
            None if param.method.may_lack(format, &param.param) => {}
            None => wanted.push((param.id, candidates[0].clone())),
        }
    }
    // A parameter that acts at two sites may be stored under one of the names.
    let mut told = HashSet::new();
    wanted.retain(|(id, _)| !found.contains_key(id) && told.insert(*id));
    problems.extend(wanted.into_iter().map(|(_, key)| TensorProblem::Missing {
        nearest: nearest(&key, tensors.keys().map(String::as_str)),
        key,
    }));
    if format == Format::Peft {
        forget_tables(host, &mut tensors);
    }
    tensors.retain(|key, _| !adapter.method().is_duplicate(format, key));
    problems.extend(tensors.into_keys().map(|key| TensorProblem::Unexpected { key }));
    if !problems.is_empty() {
        return Err(StoreError::Mismatch {
            path: path.to_owned(),
            problems,
        });
    }
    adapter.fill(found);
    Ok(adapter)
}

/// The first index that is outside its limit, with that limit: one for all, or one for each row.
fn outside(data: &TensorData, limits: &[usize]) -> Option<(i64, usize)> {
    // Floats have none, and may be beyond the range of integers.
    if limits.is_empty() {
        return None;
    }
    let indices: Vec<i64> = data.iter::<i64>().collect();
    let row = indices.len() / limits.len().max(1);
    let mut rows = limits.iter().zip(indices.chunks(row.max(1)));
    rows.find_map(|(limit, row)| {
        let wrong = row
            .iter()
            .find(|index| usize::try_from(**index).map_or(true, |i| i >= *limit));
        wrong.map(|index| (*index, *limit))
    })
}

/// What peft puts behind the path of a table whose copy it stores.
const COPIES: [&str; 4] = [
    ".weight",
    ".base_layer.weight",
    ".original_module.weight",
    ".token_adapter.base_layer.weight",
];

/// Takes out copies of the base's embedding tables and head, which peft writes together with an adapter of theirs. One that is not
/// the base's stays, and is refused with everything else that is not expected.
fn forget_tables(host: &dyn Host, tensors: &mut Tensors) {
    for info in host.sites() {
        let of_base = || match (info.kind, info.site.role) {
            (SiteKind::Table { .. }, _) => host.table(info.site).map(|table| table.weight.val()),
            (SiteKind::Linear { .. }, Role::LmHead) => host.linear(info.site).map(|head| head.weight.val().transpose()),
            _ => None,
        };
        let paths = [info.path.clone(), format!("{}{}", host.base_prefix(), info.path)];
        let names = paths.iter().flat_map(|path| COPIES.map(|end| format!("{path}{end}")));
        for key in names.map(|name| format!("{}{name}", Format::Peft.key_prefix())) {
            // Rounded to the type it is stored in, as it was when it was written.
            let same = |data: &TensorData| {
                of_base().is_some_and(|weight| weight.into_data().convert_dtype(data.dtype()) == *data)
            };
            if tensors.get(&key).is_some_and(same) {
                tensors.remove(&key);
            }
        }
    }
}

fn all_unexpected(problems: &[TensorProblem]) -> bool {
    problems.iter().all(|p| matches!(p, TensorProblem::Unexpected { .. }))
}
