//! A checkpoint's tensors on disk, read one by one.
//!
//! Opening reads the headers; a tensor is read when it is asked for, converted and, for linear layers, transposed on the way
//! from the file to the device. Loading a model therefore needs the memory of the model and a small buffer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use adapters_store::{
    Fingerprint, StoreError, TensorOutline, TensorProblem, burn_dtype, check_unique, file_dtype, is_there,
    open_regular, read_pickle,
};
use burn::tensor::{Bytes, DType, TensorData, f16};
use fnv::FnvHasher;
use safetensors::tensor::{Dtype, Metadata};

pub(crate) use super::read_errors::ReadError;
use super::shard_index::ShardIndex;
use crate::error::ModelError;

/// Metadata key that marks a compact checkpoint, and its value: matrices as `I8` rows with `<key>.scale`.
const QUANTIZATION: (&str, &str) = ("adapters.quantization", "int8-rows");
/// The longest header that the safetensors format allows.
const LONGEST_HEADER: u64 = 100_000_000;
/// Bytes of a piece of a tensor that goes into a fingerprint, and how many pieces of a tensor do.
const SAMPLE: u64 = 256;
const SAMPLES: u64 = 4;
/// What a checkpoint may be, in the order they are looked for.
const FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// Elements that are read at once.
const BUFFER: usize = 1 << 18;

/// `model.safetensors` or `pytorch_model.bin`, or the shards that their index lists.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    files: Vec<OpenFile>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: Mutex<File>,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    dtype: Dtype,
    shape: Vec<usize>,
    /// One factor a row, in a compact checkpoint.
    scales: Option<Vec<f32>>,
}

#[derive(Clone, Debug)]
enum Place {
    /// In a file of the list, from a byte on.
    File { file: usize, start: u64 },
    /// In memory: a pickle is read as a whole.
    Memory(Bytes),
}

impl Entry {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }

    /// The type of the elements as they are; `None` for those that are restored to 32 bits.
    fn stored(&self) -> Option<DType> {
        burn_dtype(self.dtype).filter(|_| self.scales.is_none())
    }
}

/// How a matrix of the file goes into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As it is in the file.
    Same,
    /// `[rows, cols]` to `[cols, rows]`, so that no step of training meets a strided weight.
    Transposed,
}

impl Checkpoint {
    /// Opens the checkpoint of a folder; with `allow_bin` also one that is a pickle, which is read and not executed.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotACheckpoint`], [`ModelError::Store`] for a damaged file or a pickle without permission.
    pub(crate) fn open(dir: &Path, allow_bin: bool) -> Result<Self, ModelError> {
        let there = |name: &str| Some(dir.join(name)).filter(|path| is_there(path));
        let named = FILES.iter().find_map(|name| there(name));
        let Some(path) = named else {
            return Err(ModelError::NotACheckpoint {
                path: dir.to_owned(),
                missing: "it has no model.safetensors (nor model.safetensors.index.json, nor pytorch_model.bin)",
            });
        };
        if path.extension().is_none_or(|ending| ending != "json") {
            return Ok(Self::of_file(&path, allow_bin)?);
        }
        let mut checkpoint = Self::empty(&path);
        let listed = ShardIndex::read(&path)?;
        for shard in listed.shards() {
            let found = checkpoint.add(&dir.join(shard), allow_bin)?;
            listed.check(shard, &found)?;
        }
        Ok(checkpoint)
    }

    /// Opens one file, of a checkpoint or of an adapter.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub(crate) fn of_file(path: &Path, allow_bin: bool) -> Result<Self, StoreError> {
        let mut checkpoint = Self::empty(path);
        checkpoint.add(path, allow_bin)?;
        Ok(checkpoint)
    }

    fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
        }
    }

    /// The file, or the index of the shards.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of all tensors.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, key: &str) -> Option<&[usize]> {
        self.entries.get(key).map(|entry| entry.shape.as_slice())
    }

    /// Whether a tensor of this key is there that has this shape and is read as floats.
    pub(crate) fn has_floats(&self, key: &str, shape: &[usize]) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|entry| entry.shape == shape && converter(entry).is_some())
    }

    /// The tensors as [`read_stored`](Self::read_stored) returns them.
    pub(crate) fn outlines(&self) -> impl Iterator<Item = TensorOutline> {
        self.entries.iter().map(|(key, entry)| TensorOutline {
            key: key.clone(),
            dtype: entry.stored().unwrap_or(DType::F32),
            shape: entry.shape.clone(),
        })
    }

    /// Opens a file and notes where its tensors are; returns their keys.
    fn add(&mut self, path: &Path, allow_bin: bool) -> Result<BTreeSet<String>, StoreError> {
        if path.extension().is_some_and(|ending| ending == "bin") {
            return self.add_pickle(path, allow_bin);
        }
        let (file, start, metadata) = read_header(path)?;
        let keys = metadata.offset_keys().into_iter().collect();
        let index = self.files.len();
        let mut found: BTreeMap<String, Entry> = metadata
            .tensors()
            .into_iter()
            .map(|(key, info)| {
                let entry = Entry {
                    place: Place::File {
                        file: index,
                        start: start + info.data_offsets.0 as u64,
                    },
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    scales: None,
                };
                (key, entry)
            })
            .collect();
        self.files.push(OpenFile {
            path: path.to_owned(),
            file: Mutex::new(file),
        });
        let marked = metadata.metadata().as_ref().and_then(|marks| marks.get(QUANTIZATION.0));
        if marked.map(String::as_str) == Some(QUANTIZATION.1) {
            self.attach_scales(path, &mut found)?;
        }
        self.entries.extend(found);
        Ok(keys)
    }

    /// Reads a pickle and keeps its tensors; returns their keys.
    fn add_pickle(&mut self, path: &Path, allow_bin: bool) -> Result<BTreeSet<String>, StoreError> {
        if !allow_bin {
            return Err(StoreError::PickleNotAllowed { path: path.to_owned() });
        }
        let mut keys = BTreeSet::new();
        for (key, data) in read_pickle(path)? {
            let (dtype, shape) = (file_dtype(data.dtype()), data.shape().to_vec());
            let dtype = dtype.ok_or_else(|| StoreError::Pytorch {
                path: path.to_owned(),
                reason: format!("`{key}` has element type {:?}", data.dtype()),
            })?;
            let entry = Entry {
                place: Place::Memory(data.into_bytes()),
                dtype,
                shape,
                scales: None,
            };
            keys.insert(key.clone());
            self.entries.insert(key, entry);
        }
        Ok(keys)
    }

    /// Fills `bytes` with those of a tensor from its byte `at` on.
    fn fetch(&self, entry: &Entry, at: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        match &entry.place {
            Place::File { file, start } => {
                let OpenFile { path, file } = &self.files[*file];
                let mut reader = file.lock().unwrap_or_else(PoisonError::into_inner);
                let read = reader.seek(SeekFrom::Start(start + at));
                let read = read.and_then(|_| reader.read_exact(bytes));
                read.map_err(|source| StoreError::Read {
                    path: path.clone(),
                    source,
                })
            }
            Place::Memory(held) => {
                bytes.copy_from_slice(&held[at as usize..at as usize + bytes.len()]);
                Ok(())
            }
        }
    }

    /// Gives each compact matrix the factors of its rows.
    fn attach_scales(&self, path: &Path, found: &mut BTreeMap<String, Entry>) -> Result<(), StoreError> {
        let compact: Vec<String> = found
            .iter()
            .filter(|(_, entry)| entry.dtype == Dtype::I8)
            .map(|(key, _)| key.clone())
            .collect();
        let mut problems = Vec::new();
        for key in compact {
            let scale_key = format!("{key}.scale");
            let rows = found[&key].shape.first().copied();
            match (rows, found.remove(&scale_key)) {
                (None, _) => problems.push(TensorProblem::DType {
                    key,
                    found: "I8, without rows".to_owned(),
                }),
                (_, None) => problems.push(TensorProblem::Missing {
                    key: scale_key,
                    nearest: None,
                }),
                (Some(rows), Some(scale)) if scale.shape != [rows] => problems.push(TensorProblem::Shape {
                    key: scale_key,
                    expected: vec![rows],
                    found: scale.shape,
                }),
                (Some(_), Some(scale)) => match self.values(&scale_key, &scale, Layout::Same) {
                    Ok(scales) => {
                        if let Some(entry) = found.get_mut(&key) {
                            entry.scales = Some(scales);
                        }
                    }
                    Err(ReadError::Problem(problem)) => problems.push(problem),
                    Err(ReadError::File(error)) => return Err(error),
                },
            }
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(StoreError::Mismatch {
                path: path.to_owned(),
                problems,
            }),
        }
    }

    /// The elements of a tensor in 32 bits.
    pub(crate) fn read(&self, key: &str, layout: Layout) -> Result<Vec<f32>, ReadError> {
        match self.entries.get(key) {
            Some(entry) => self.values(key, entry, layout),
            None => Err(ReadError::Problem(TensorProblem::Missing {
                key: key.to_owned(),
                nearest: None,
            })),
        }
    }

    fn values(&self, key: &str, entry: &Entry, layout: Layout) -> Result<Vec<f32>, ReadError> {
        let convert = converter(entry).ok_or_else(|| {
            ReadError::Problem(TensorProblem::DType {
                key: key.to_owned(),
                found: format!("{:?}", entry.dtype),
            })
        })?;
        let count: usize = entry.shape.iter().product();
        let cols = entry
            .shape
            .get(1..)
            .map_or(1, |rest| rest.iter().product::<usize>())
            .max(1);
        // Whole rows, so that a block of them can be transposed.
        let block = (BUFFER / cols).max(1) * cols;
        let size = entry.dtype.bitsize() / 8;
        let mut target = Target::new(layout, count, cols);
        let mut bytes = vec![0; block.min(count) * size];
        let mut read = 0;
        let mut values = Vec::with_capacity(block.min(count));
        while read < count {
            let now = block.min(count - read);
            let bytes = &mut bytes[..now * size];
            self.fetch(entry, (read * size) as u64, bytes)
                .map_err(ReadError::File)?;
            values.clear();
            convert(bytes, &mut values);
            if let Some(scales) = &entry.scales {
                for (row, values) in values.chunks_mut(cols).enumerate() {
                    let scale = scales[read / cols + row];
                    values.iter_mut().for_each(|value| *value *= scale);
                }
            }
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return Err(ReadError::Problem(TensorProblem::NotFinite {
                    key: key.to_owned(),
                    index: read + at,
                }));
            }
            target.put(read, &values);
            read += now;
        }
        Ok(target.values)
    }

    /// The fingerprint of the tensors: of every byte if `whole`, else of [`SAMPLES`] pieces of each, the first and the last among
    /// them.
    pub(crate) fn fingerprint(&self, whole: bool) -> Result<Fingerprint, StoreError> {
        let (mut shapes, mut values) = (FnvHasher::default(), FnvHasher::default());
        let mut types = BTreeSet::new();
        let mut bytes = Vec::new();
        for (key, entry) in &self.entries {
            key.hash(&mut shapes);
            entry.shape.hash(&mut shapes);
            types.insert(format!("{:?}", entry.dtype));
            let size = entry.bytes() as u64;
            let (pieces, apart) = match whole || size <= SAMPLES * SAMPLE {
                true => (size.div_ceil(SAMPLE), SAMPLE),
                false => (SAMPLES, (size - SAMPLE) / (SAMPLES - 1)),
            };
            for piece in 0..pieces {
                let at = piece * apart;
                bytes.resize(SAMPLE.min(size - at) as usize, 0);
                self.fetch(entry, at, &mut bytes)?;
                values.write(&bytes);
            }
        }
        let hex = |hash: FnvHasher| format!("{:016x}", hash.finish());
        Ok(Fingerprint {
            shapes: hex(shapes),
            types: types.into_iter().collect::<Vec<_>>().join(", "),
            values: hex(values),
            whole,
        })
    }

    /// A tensor as it is in its file, a compact matrix restored to 32 bits.
    pub(crate) fn read_stored(&self, key: &str) -> Result<TensorData, StoreError> {
        let found = self.entries.get(key);
        if let Some((entry, dtype)) = found.and_then(|entry| Some((entry, entry.stored()?))) {
            let mut bytes = vec![0; entry.bytes()];
            self.fetch(entry, 0, &mut bytes)?;
            return Ok(TensorData::from_bytes_vec(bytes, entry.shape.clone(), dtype));
        }
        let shape = found.map(|entry| entry.shape.clone()).unwrap_or_default();
        match self.read(key, Layout::Same) {
            Ok(values) => Ok(TensorData::new(values, shape)),
            Err(ReadError::File(error)) => Err(error),
            Err(ReadError::Problem(problem)) => Err(StoreError::Mismatch {
                path: self.path.clone(),
                problems: vec![problem],
            }),
        }
    }
}

/// The file, where its tensors begin, and what its header lists.
fn read_header(path: &Path) -> Result<(File, u64, Metadata), StoreError> {
    let failed = |source| StoreError::Read {
        path: path.to_owned(),
        source,
    };
    let damaged = |reason: String| StoreError::Safetensors {
        path: path.to_owned(),
        reason,
    };
    let mut file = open_regular(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut size = [0; 8];
    if length < 8 {
        return Err(damaged(format!("it has {length} bytes, and a header needs 8 or more")));
    }
    file.read_exact(&mut size).map_err(failed)?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER || size > length - 8 {
        return Err(damaged(format!("its header has {size} bytes, its file {length}")));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(failed)?;
    // Deserializing checks that the tensors lie one after the other and have the sizes of their shapes.
    let metadata: Metadata = check_unique(&header)
        .and_then(|()| serde_json::from_slice(&header))
        .map_err(|e| damaged(e.to_string()))?;
    let end = metadata
        .tensors()
        .values()
        .map(|info| info.data_offsets.1)
        .max()
        .unwrap_or(0) as u64;
    if 8 + size + end != length {
        let expected = 8 + size + end;
        return Err(damaged(format!(
            "its header lists {expected} bytes, the file has {length}"
        )));
    }
    Ok((file, 8 + size, metadata))
}

/// Where the elements of a tensor go.
pub(super) struct Target {
    layout: Layout,
    rows: usize,
    cols: usize,
    pub(super) values: Vec<f32>,
}

impl Target {
    pub(super) fn new(layout: Layout, count: usize, cols: usize) -> Self {
        Self {
            layout,
            rows: count / cols,
            cols,
            values: match layout {
                Layout::Same => Vec::with_capacity(count),
                Layout::Transposed => vec![0.0; count],
            },
        }
    }

    /// Takes whole rows, the first of which begins at element `start`. Transposed, a block of rows becomes a short run in
    /// each column of the result, so that a run is one or more whole cache lines.
    pub(super) fn put(&mut self, start: usize, values: &[f32]) {
        match self.layout {
            Layout::Same => self.values.extend_from_slice(values),
            Layout::Transposed => {
                const RUN: usize = 16;
                let (cols, first) = (self.cols, start / self.cols);
                for (block, values) in values.chunks(RUN * cols).enumerate() {
                    let count = values.len() / cols;
                    for col in 0..cols {
                        let at = col * self.rows + first + block * RUN;
                        for (row, value) in self.values[at..at + count].iter_mut().enumerate() {
                            *value = values[row * cols + col];
                        }
                    }
                }
            }
        }
    }
}

/// Appends the numbers that bytes hold.
type Convert = fn(&[u8], &mut Vec<f32>);

/// What makes numbers in 32 bits of the bytes of a tensor; `None` for a type that is no float.
fn converter(entry: &Entry) -> Option<Convert> {
    Some(match entry.dtype {
        Dtype::F32 => |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::F64 => |bytes, values| values.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        Dtype::F16 => |bytes, values| {
            values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()));
        },
        // The upper half of the same number in 32 bits.
        Dtype::BF16 => |bytes, values| {
            let wide = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            values.extend(bytes.as_chunks().0.iter().map(wide));
        },
        Dtype::I8 if entry.scales.is_some() => {
            |bytes, values| values.extend(bytes.iter().map(|b| f32::from(i8::from_le_bytes([*b]))))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use adapters_store::BaseMatch;

    use super::*;

    #[test]
    fn blocks_of_rows_are_transposed_as_the_whole() {
        let (rows, cols) = (37, 5);
        let values: Vec<f32> = (0..rows * cols).map(|x| x as f32).collect();
        let mut target = Target::new(Layout::Transposed, rows * cols, cols);
        for (block, part) in values.chunks(20 * cols).enumerate() {
            target.put(block * 20 * cols, part);
        }
        let expected: Vec<f32> = (0..cols)
            .flat_map(|col| (0..rows).map(move |row| (row * cols + col) as f32))
            .collect();
        assert_eq!(target.values, expected);
    }

    #[test]
    fn a_fingerprint_tells_names_types_and_values_apart() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str, dtype: Dtype, bytes: &[u8], whole: bool| {
            let count = bytes.len() * 8 / dtype.bitsize();
            let view = safetensors::tensor::TensorView::new(dtype, vec![count], bytes).unwrap();
            let file = safetensors::serialize([(name, view)], None::<HashMap<String, String>>).unwrap();
            std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
            Checkpoint::open(dir.path(), false).unwrap().fingerprint(whole).unwrap()
        };
        let mut bytes = vec![0u8; 40_000];
        let first = of("w", Dtype::F32, &bytes, false);
        assert_eq!(first.compare(&of("w", Dtype::F32, &bytes, false)), BaseMatch::Same);
        assert_eq!(
            first.compare(&of("v", Dtype::F32, &bytes, false)),
            BaseMatch::OtherShapes
        );
        assert_eq!(
            first.compare(&of("w", Dtype::F32, &bytes[..400], false)),
            BaseMatch::OtherShapes
        );
        assert_eq!(
            first.compare(&of("w", Dtype::F16, &bytes[..20_000], false)),
            BaseMatch::OtherTypes
        );
        // The last byte is in the sample; one between two pieces is in the whole only.
        let whole = of("w", Dtype::F32, &bytes, true);
        bytes[1000] = 1;
        assert_eq!(first.compare(&of("w", Dtype::F32, &bytes, false)), BaseMatch::Same);
        assert_eq!(
            whole.compare(&of("w", Dtype::F32, &bytes, true)),
            BaseMatch::OtherValues
        );
        bytes[39_999] = 1;
        assert_eq!(
            first.compare(&of("w", Dtype::F32, &bytes, false)),
            BaseMatch::OtherValues
        );
    }

    #[test]
    fn half_precision_is_widened_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let numbers = [1.5f32, -0.25, 3.0, 65504.0];
        for (dtype, bytes) in [
            (Dtype::F16, numbers.map(|x| f16::from_f32(x).to_le_bytes()).concat()),
            (
                Dtype::BF16,
                numbers.map(|x| burn::tensor::bf16::from_f32(x).to_le_bytes()).concat(),
            ),
        ] {
            let view = safetensors::tensor::TensorView::new(dtype, vec![2, 2], &bytes).unwrap();
            let file = safetensors::serialize([("w", view)], None::<HashMap<String, String>>).unwrap();
            std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
            let checkpoint = Checkpoint::open(dir.path(), false).unwrap();
            let values = checkpoint.read("w", Layout::Transposed).unwrap();
            let last = if dtype == Dtype::F16 { 65504.0 } else { 65536.0 };
            assert_eq!(values, [1.5, 3.0, -0.25, last]);
        }
    }
}
