//! PyTorch files of tensors, as `torch.save` writes a dictionary: AdapterHub's library opens them by default.
//!
//! A file is a zip archive whose entries are not compressed: `data.pkl`, a pickle of protocol 2 with the dictionary, and `data/N`, the
//! bytes of its `N`th tensor. The pickle names nothing but tensors, so that PyTorch reads it with `weights_only`.

use std::io::Write;
use std::path::Path;

use adapters_core::Tensors;
use burn::tensor::DType;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::tensors::check_finite;
use crate::{StoreError, atomic, write_safetensors};

/// The pickle's instructions that are used here.
mod op {
    pub(super) const PROTOCOL_2: [u8; 2] = [0x80, 2];
    pub(super) const EMPTY_DICT: u8 = b'}';
    pub(super) const MARK: u8 = b'(';
    pub(super) const TEXT: u8 = b'X';
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const INT: u8 = b'J';
    pub(super) const LONG: [u8; 2] = [0x8a, 8];
    pub(super) const FALSE: u8 = 0x89;
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const PERSISTENT_ID: u8 = b'Q';
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const SET_ITEMS: u8 = b'u';
    pub(super) const STOP: u8 = b'.';
}

/// What AdapterHub's library opens, unless it is told to use safetensors, in place of the file in front.
const PICKLES: [(&str, &str); 3] = [
    ("adapter.safetensors", "pytorch_adapter.bin"),
    ("model_head.safetensors", "pytorch_model_head.bin"),
    ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin"),
];

/// Writes a safetensors file, and where it is one of AdapterHub's, what that library opens by default next to it.
///
/// # Errors
///
/// Those of writing the files; [`StoreError::Mismatch`] for tensors with NaN or infinite elements, as
/// values beyond the range of their type become, which no reader accepts.
pub fn write_weights(path: &Path, tensors: &Tensors) -> Result<(), StoreError> {
    check_finite(path, tensors)?;
    write_safetensors(path, tensors, [])?;
    let pickle = PICKLES.iter().find(|(safe, _)| path.ends_with(safe));
    pickle.map_or(Ok(()), |(_, pickle)| {
        write_pytorch(&path.with_file_name(pickle), tensors)
    })
}

/// Writes a PyTorch file, atomically.
///
/// # Errors
///
/// [`StoreError::NotInPytorch`], [`StoreError::Write`]; the file that was there is then unchanged.
pub(crate) fn write_pytorch(path: &Path, tensors: &Tensors) -> Result<(), StoreError> {
    let pickle = pickle(tensors).map_err(|(key, found)| StoreError::NotInPytorch {
        path: path.to_owned(),
        key: key.to_owned(),
        found: format!("{found:?}"),
    })?;
    let folder = path.file_stem().unwrap_or_default().to_string_lossy();
    // The archive is the same whenever it is written. Tensors begin at multiples of 64 bytes, as PyTorch's do.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .with_alignment(64);
    Ok(atomic::write_with(path, |file| {
        let mut archive = ZipWriter::new(file);
        let mut put = |name: &str, bytes: &[u8]| {
            let is_large = u32::try_from(bytes.len()).is_err();
            archive.start_file(format!("{folder}/{name}"), options.large_file(is_large))?;
            archive.write_all(bytes)
        };
        put("data.pkl", &pickle)?;
        put("byteorder", b"little")?;
        for (index, data) in tensors.values().enumerate() {
            put(&format!("data/{index}"), data.as_bytes())?;
        }
        put("version", b"3\n")?;
        archive.finish()?;
        Ok(())
    })?)
}

/// The dictionary, or the key of a tensor whose element type PyTorch has not.
fn pickle(tensors: &Tensors) -> Result<Vec<u8>, (&str, DType)> {
    let mut pickle = op::PROTOCOL_2.to_vec();
    pickle.extend([op::EMPTY_DICT, op::MARK]);
    for (index, (key, data)) in tensors.iter().enumerate() {
        let storage = storage(data.dtype()).ok_or((key.as_str(), data.dtype()))?;
        let shape = data.shape().to_vec();
        text(&mut pickle, key);
        global(&mut pickle, "torch._utils", "_rebuild_tensor_v2");
        pickle.push(op::MARK);
        // The storage: its element type, the name of its entry, its device and its length.
        pickle.push(op::MARK);
        text(&mut pickle, "storage");
        global(&mut pickle, "torch", storage);
        text(&mut pickle, &index.to_string());
        text(&mut pickle, "cpu");
        int(&mut pickle, shape.iter().product());
        pickle.extend([op::TUPLE, op::PERSISTENT_ID]);
        // Offset, shape and strides; no gradient and no hooks.
        int(&mut pickle, 0);
        let strides = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product());
        tuple(&mut pickle, shape.iter().copied());
        tuple(&mut pickle, strides);
        pickle.push(op::FALSE);
        global(&mut pickle, "collections", "OrderedDict");
        pickle.extend([op::EMPTY_TUPLE, op::REDUCE]);
        pickle.extend([op::TUPLE, op::REDUCE]);
    }
    pickle.extend([op::SET_ITEMS, op::STOP]);
    Ok(pickle)
}

/// PyTorch's name of a storage.
fn storage(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "DoubleStorage",
        DType::F32 => "FloatStorage",
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::I64 => "LongStorage",
        DType::I32 => "IntStorage",
        DType::I16 => "ShortStorage",
        DType::I8 => "CharStorage",
        DType::U8 => "ByteStorage",
        _ => return None,
    })
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(op::TEXT);
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn global(pickle: &mut Vec<u8>, module: &str, name: &str) {
    pickle.push(op::GLOBAL);
    pickle.extend(format!("{module}\n{name}\n").as_bytes());
}

fn int(pickle: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value) => {
            pickle.push(op::INT);
            pickle.extend(value.to_le_bytes());
        }
        Err(_) => {
            pickle.extend(op::LONG);
            pickle.extend((value as i64).to_le_bytes());
        }
    }
}

fn tuple(pickle: &mut Vec<u8>, values: impl Iterator<Item = usize>) {
    pickle.push(op::MARK);
    values.for_each(|value| int(pickle, value));
    pickle.push(op::TUPLE);
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::read_pytorch;

    #[test]
    fn what_is_written_is_read_and_written_alike() {
        let dir = tempfile::tempdir().unwrap();
        let [path, again] = ["a.bin", "b/a.bin"].map(|name| dir.path().join(name));
        std::fs::create_dir(dir.path().join("b")).unwrap();
        let halves = TensorData::from([1.5f32, -2.0]).convert_dtype(DType::F16);
        let tensors = Tensors::from([
            (
                "x.w".to_owned(),
                TensorData::from([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]]),
            ),
            ("x.half".to_owned(), halves),
            ("x.index".to_owned(), TensorData::from([7i64, 8])),
        ]);
        write_pytorch(&path, &tensors).unwrap();
        assert_eq!(read_pytorch(&path).unwrap(), tensors);
        write_pytorch(&again, &tensors).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
    }

    #[test]
    fn an_element_type_that_pytorch_has_not_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let tensors = Tensors::from([("counts".to_owned(), TensorData::from([1u64]))]);
        let error = write_pytorch(&path, &tensors).unwrap_err().to_string();
        assert!(error.contains("`counts` has element type U64"), "{error}");
        assert!(!path.exists());
    }
}
