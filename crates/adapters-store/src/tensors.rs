//! Tensor files as host data.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::store::pytorch::PytorchReader;
use burn::tensor::{DType, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::atomic::AtomicWriteError;
use crate::files::{check_regular, read_file};
use crate::pickle::check_names;
use crate::unique_keys::check_unique;
use crate::{StoreError, TensorProblem, atomic};
use adapters_core::Tensors;

/// Reads a safetensors file. Header, offsets and lengths are checked by the `safetensors` crate.
///
/// # Errors
///
/// [`StoreError::Read`], [`StoreError::Safetensors`] for a damaged file, [`StoreError::Mismatch`] for tensors with
/// NaN or infinite elements.
pub fn read_safetensors(path: &Path) -> Result<(Tensors, HashMap<String, String>), StoreError> {
    let bytes = read_file(path)?;
    let damaged = |reason: String| StoreError::Safetensors {
        path: path.to_owned(),
        reason,
    };
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
    if let Some(header) = bytes.get(8..8 + header) {
        check_unique(header).map_err(|e| damaged(e.to_string()))?;
    }
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let mut tensors = Tensors::new();
    for (key, view) in file.tensors() {
        let dtype =
            burn_dtype(view.dtype()).ok_or_else(|| damaged(format!("`{key}` has element type {:?}", view.dtype())))?;
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
        tensors.insert(key, data);
    }
    check_finite(path, &tensors)?;
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

/// Reads the PyTorch state dict of an adapter, as [`read_pickle`] does.
///
/// # Errors
///
/// Those of [`read_pickle`], [`StoreError::Mismatch`] for NaN or infinite elements.
pub fn read_pytorch(path: &Path) -> Result<Tensors, StoreError> {
    let tensors = read_pickle(path)?;
    check_finite(path, &tensors)?;
    Ok(tensors)
}

/// Reads a PyTorch state dict with Burn's reader, which parses the pickle without executing it. The values are not looked at: older
/// checkpoints have buffers that nothing uses.
///
/// # Errors
///
/// [`StoreError::Read`], [`StoreError::Pytorch`].
pub fn read_pickle(path: &Path) -> Result<Tensors, StoreError> {
    check_regular(path)?;
    let refuse = |reason: String| StoreError::Pytorch {
        path: path.to_owned(),
        reason,
    };
    check_names(path).map_err(refuse)?;
    let reader = PytorchReader::new(path).map_err(|e| refuse(e.to_string()))?;
    let mut tensors = Tensors::new();
    for (key, tensor) in reader.tensors() {
        let dtype = match format!("{:?}", tensor.dtype()).as_str() {
            "F32" => DType::F32,
            "F64" => DType::F64,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "I64" => DType::I64,
            "I32" => DType::I32,
            "I16" => DType::I16,
            "I8" => DType::I8,
            // The masks of older checkpoints.
            "U8" | "Bool" => DType::U8,
            other => return Err(refuse(format!("`{key}` has element type {other}"))),
        };
        let bytes = tensor.read().map_err(|e| refuse(e.to_string()))?;
        tensors.insert(
            key.clone(),
            TensorData::from_bytes_vec(bytes, tensor.shape().to_vec(), dtype),
        );
    }
    Ok(tensors)
}

/// Writes a safetensors file, atomically, with `format: pt` and `metadata` in its header.
///
/// # Errors
///
/// [`StoreError::Write`]; the file that was there is then unchanged.
pub fn write_safetensors(
    path: &Path,
    tensors: &Tensors,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<(), StoreError> {
    let outlines = tensors.iter().map(|(key, data)| TensorOutline {
        key: key.clone(),
        dtype: data.dtype(),
        shape: data.shape().to_vec(),
    });
    let data = |outline: &TensorOutline| Ok::<_, StoreError>(Cow::Borrowed(&tensors[&outline.key]));
    write_each(path, outlines.collect(), metadata, data)
}

/// A tensor of a file before its elements are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorOutline {
    /// Its key.
    pub key: String,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl TensorOutline {
    /// Bytes of its elements.
    pub fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// As [`write_safetensors`], with one tensor in memory at a time: `data` is asked for each when it is written.
///
/// # Errors
///
/// [`StoreError::Write`], [`StoreError::Safetensors`] for a tensor that is not as outlined, and whatever `data` returns; the
/// file that was there is then unchanged.
pub fn write_each<'t, E: From<StoreError> + From<AtomicWriteError>>(
    path: &Path,
    mut tensors: Vec<TensorOutline>,
    metadata: impl IntoIterator<Item = (String, String)>,
    mut data: impl FnMut(&TensorOutline) -> Result<Cow<'t, TensorData>, E>,
) -> Result<(), E> {
    let damaged = |reason: String| StoreError::Safetensors {
        path: path.to_owned(),
        reason,
    };
    let file_type = |outline: &TensorOutline| {
        let unknown = || damaged(format!("`{}` has type {:?}", outline.key, outline.dtype));
        file_dtype(outline.dtype).ok_or_else(unknown)
    };
    // In the order of the crate: wide elements first, so that all are aligned.
    let order = |outline: &TensorOutline| (Reverse(file_dtype(outline.dtype)), outline.key.clone());
    tensors.sort_by_cached_key(order);
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for outline in &tensors {
        let start = end;
        end += outline.size();
        let info = TensorInfo {
            dtype: file_type(outline)?,
            shape: outline.shape.clone(),
            data_offsets: (start, end),
        };
        infos.push((outline.key.clone(), info));
    }
    let mut marks = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    marks.extend(metadata);
    let header = Metadata::new(Some(marks), infos).map_err(|e| damaged(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| damaged(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic::write_checked(path, |file| {
        let failed = |source| StoreError::from(AtomicWriteError::new(path, source));
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(&header).map_err(failed)?;
        for outline in &tensors {
            let data = data(outline)?;
            if data.dtype() != outline.dtype || data.shape().to_vec() != outline.shape {
                let TensorOutline { key, dtype, shape } = outline;
                let found = format!("{:?} {:?}", data.dtype(), data.shape().to_vec());
                return Err(damaged(format!("`{key}` is {found}, expected {dtype:?} {shape:?}")).into());
            }
            file.write_all(data.as_bytes()).map_err(failed)?;
        }
        Ok(file.flush().map_err(failed)?)
    })
}

pub(crate) fn check_finite(path: &Path, tensors: &Tensors) -> Result<(), StoreError> {
    let problems: Vec<TensorProblem> = tensors
        .iter()
        .filter(|(_, data)| data.dtype().is_float())
        .filter_map(|(key, data)| {
            let index = match data.dtype() {
                DType::F32 => data.as_slice::<f32>().ok()?.iter().position(|x| !x.is_finite()),
                _ => data.iter::<f32>().position(|x| !x.is_finite()),
            }?;
            Some(TensorProblem::NotFinite {
                key: key.clone(),
                index,
            })
        })
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(StoreError::Mismatch {
        path: path.to_owned(),
        problems,
    })
}

const DTYPES: [(Dtype, DType); 12] = [
    (Dtype::F64, DType::F64),
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::I16, DType::I16),
    (Dtype::I8, DType::I8),
    (Dtype::U64, DType::U64),
    (Dtype::U32, DType::U32),
    (Dtype::U16, DType::U16),
    (Dtype::U8, DType::U8),
];

/// The type in memory of an element type of the file format; `None` for one that memory has no equal of.
pub fn burn_dtype(dtype: Dtype) -> Option<DType> {
    DTYPES.iter().find(|(file, _)| *file == dtype).map(|(_, burn)| *burn)
}

/// The element type of the file format for a type in memory.
pub fn file_dtype(dtype: DType) -> Option<Dtype> {
    DTYPES.iter().find(|(_, burn)| *burn == dtype).map(|(file, _)| *file)
}

/// The same values in another shape, where it holds as many.
pub fn with_shape(data: TensorData, shape: Vec<usize>) -> TensorData {
    match data.shape().to_vec() != shape && data.num_elements() == shape.iter().product::<usize>() {
        true => {
            let dtype = data.dtype();
            TensorData::from_bytes(data.into_bytes(), shape, dtype)
        }
        false => data,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sample() -> Tensors {
        Tensors::from([("w".to_owned(), TensorData::from([[1.0f32, 2.0], [3.0, 4.0]]))])
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        write_safetensors(&path, &sample(), [("a".to_owned(), "b".to_owned())]).unwrap();
        let (tensors, metadata) = read_safetensors(&path).unwrap();
        assert_eq!(tensors, sample());
        assert_eq!(metadata["a"], "b");
        assert_eq!(metadata["format"], "pt");
    }

    #[test]
    fn a_truncated_file_and_an_oversized_header_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        write_safetensors(&path, &sample(), []).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in [0, 4, 8, 20, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(
                matches!(read_safetensors(&path), Err(StoreError::Safetensors { .. })),
                "{cut}"
            );
        }
        let mut huge = whole.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(&path, &huge).unwrap();
        assert!(matches!(read_safetensors(&path), Err(StoreError::Safetensors { .. })));
    }

    #[test]
    fn nan_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let tensors = Tensors::from([("w".to_owned(), TensorData::from([1.0, f32::NAN]))]);
        write_safetensors(&path, &tensors, []).unwrap();
        let error = read_safetensors(&path).unwrap_err().to_string();
        assert!(error.contains("`w` is not finite at element 1"), "{error}");
    }
}
