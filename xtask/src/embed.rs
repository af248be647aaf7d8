//! `cargo xtask embed`: the compact copy of a published BERT checkpoint that is kept in this repository.
//!
//! Every matrix becomes bytes with one scale a row, `w ≈ q * scale` with `scale = max|row| / 127`: the
//! tensor `NAME` has type I8 and shape `[rows, columns]`, `NAME.scale` has type F32 and shape `[rows]`.
//! Everything else stays F32, and the file says so in its metadata
//! (`"adapters.quantization": "int8-rows"`). The copy is written beside its target, read back, compared
//! with the original and only then renamed, so a folder never holds half a checkpoint.

mod distance;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result, WrapErr, ensure, miette};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use distance::{compare, report};

/// Bytes the copy must stay under.
const MAX_BYTES: u64 = 25_000_000;

/// Largest `tokenizer_config.json` that is taken along.
const MAX_TOKENIZER_CONFIG: u64 = 64 * 1024;

/// A buffer of positions that published files carry and nobody needs.
const POSITION_IDS: &str = "embeddings.position_ids";

/// Where the copy goes, from the workspace root.
const OUT: &str = "models/all-MiniLM-L6-v2";

/// Metadata of the written file.
const METADATA: [(&str, &str); 2] = [("format", "pt"), ("adapters.quantization", "int8-rows")];

/// Arguments of `cargo xtask embed`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Checkpoint folder with config.json, model.safetensors and tokenizer.json.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Folder to write [default: models/all-MiniLM-L6-v2 in the workspace].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A tensor to write.
#[derive(Debug, PartialEq)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Makes the copy, checks it against the original and prints what it costs.
///
/// # Errors
///
/// When a file is missing or is not what it should be, when a weight is not a number, when what was
/// written does not read back within half a step of the original, or when the copy is too large.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| root.join(OUT));
    fs::create_dir_all(&out)
        .into_diagnostic()
        .wrap_err_with(|| format!("{}: cannot make the folder", out.display()))?;

    let source = args.from.join("model.safetensors");
    let original = read(&source)?;
    let tensors = parse(&original, &source)?;
    let entries = quantize(&tensors).wrap_err_with(|| source.display().to_string())?;

    let mut staged = vec![Staged::new(&out, "model.safetensors", &file(&entries)?)?];
    for name in ["config.json", "tokenizer.json"] {
        let bytes = read(&args.from.join(name))?;
        staged.push(Staged::new(&out, name, &bytes)?);
    }
    let optional = args.from.join("tokenizer_config.json");
    if fs::metadata(&optional).is_ok_and(|found| found.len() <= MAX_TOKENIZER_CONFIG) {
        staged.push(Staged::new(&out, "tokenizer_config.json", &read(&optional)?)?);
    }

    let written = &staged[0].temporary;
    let copy = read(written)?;
    let errors = compare(&tensors, &parse(&copy, written)?).wrap_err_with(|| staged[0].target.display().to_string())?;
    print!("{}", report(&errors));

    let mut total = 0;
    for file in &staged {
        let bytes = fs::metadata(&file.temporary).into_diagnostic()?.len();
        println!("{bytes:>12} bytes  {}", file.name);
        total += bytes;
    }
    println!("{total:>12} bytes  in all");
    ensure!(
        total < MAX_BYTES,
        "{}: expected less than {MAX_BYTES} bytes, found {total}",
        out.display()
    );
    for file in staged {
        file.publish()?;
    }
    Ok(())
}

/// Reads a file, naming it when that fails.
fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path)
        .into_diagnostic()
        .wrap_err_with(|| format!("{}: cannot read", path.display()))
}

/// Reads the table of a safetensors file.
fn parse<'data>(bytes: &'data [u8], path: &Path) -> Result<SafeTensors<'data>> {
    SafeTensors::deserialize(bytes)
        .into_diagnostic()
        .wrap_err_with(|| format!("{}: expected a safetensors file", path.display()))
}

/// The tensors of the copy, by name.
fn quantize(tensors: &SafeTensors<'_>) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    for (name, view) in tensors.iter() {
        if name.ends_with(POSITION_IDS) {
            continue;
        }
        ensure!(
            view.dtype() == Dtype::F32,
            "`{name}`: expected type F32, found {:?}",
            view.dtype()
        );
        let shape = view.shape().to_vec();
        let (dtype, bytes) = match shape[..] {
            [rows, columns] => {
                let (codes, scales) =
                    quantize_rows(&floats(view.data()), columns).wrap_err_with(|| format!("`{name}`"))?;
                let scale = Entry {
                    dtype: Dtype::F32,
                    shape: vec![rows],
                    bytes: scales.iter().flat_map(|s| s.to_le_bytes()).collect(),
                };
                entries.insert(format!("{name}.scale"), scale);
                (Dtype::I8, codes.iter().map(|q| q.cast_unsigned()).collect())
            }
            _ => (Dtype::F32, view.data().to_vec()),
        };
        entries.insert(name.to_owned(), Entry { dtype, shape, bytes });
    }
    Ok(entries)
}

/// Codes and scales of a matrix with `columns` columns, a scale a row. A row of zeros has scale 1.
fn quantize_rows(weights: &[f32], columns: usize) -> Result<(Vec<i8>, Vec<f32>)> {
    let mut codes = Vec::with_capacity(weights.len());
    let mut scales = Vec::new();
    for (index, row) in weights.chunks(columns.max(1)).enumerate() {
        if let Some(found) = row.iter().find(|w| !w.is_finite()) {
            return Err(miette!("row {index}: expected finite weights, found {found}"));
        }
        let largest = row.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
        // A row so small that its scale would be zero is a row of zeros.
        let scale = match largest / 127.0 {
            0.0 => 1.0,
            scale => scale,
        };
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the value is a whole number from -127 to 127"
        )]
        codes.extend(row.iter().map(|w| (w / scale).round().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    Ok((codes, scales))
}

/// Little-endian floats.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect()
}

/// The bytes of a safetensors file: length, header, data.
///
/// Written here because the safetensors crate keeps metadata in a hash map, whose order, and with it
/// the bytes of the file, would differ from run to run. F32 tensors come first, so all are aligned.
fn file(entries: &BTreeMap<String, Entry>) -> Result<Vec<u8>> {
    let mut ordered: Vec<(&String, &Entry)> = entries.iter().collect();
    ordered.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.dtype));
    let mut header = Map::new();
    let metadata: Map<String, Value> = METADATA
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    header.insert("__metadata__".into(), metadata.into());
    let mut offset = 0;
    for (name, entry) in &ordered {
        let end = offset + entry.bytes.len();
        let dtype = serde_json::to_value(entry.dtype).into_diagnostic()?;
        let info = json!({"dtype": dtype, "shape": entry.shape, "data_offsets": [offset, end]});
        header.insert((*name).clone(), info);
        offset = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    for (_, entry) in ordered {
        bytes.extend(&entry.bytes);
    }
    Ok(bytes)
}

/// A file written next to its target; it disappears unless it is published.
struct Staged {
    name: &'static str,
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    fn new(folder: &Path, name: &'static str, bytes: &[u8]) -> Result<Self> {
        let staged = Self {
            name,
            temporary: folder.join(format!(".{name}.{}.partial", std::process::id())),
            target: folder.join(name),
        };
        let write = || {
            let mut file = File::create(&staged.temporary)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write()
            .into_diagnostic()
            .wrap_err_with(|| format!("{}: cannot write", staged.temporary.display()))?;
        Ok(staged)
    }

    fn publish(self) -> Result<()> {
        fs::rename(&self.temporary, &self.target)
            .into_diagnostic()
            .wrap_err_with(|| format!("{}: cannot replace", self.target.display()))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already when published; nothing to say about a leftover otherwise.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(shape: &[usize], values: &[f32]) -> Entry {
        Entry {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    /// A small checkpoint folder.
    fn checkpoint(folder: &Path, word: &[f32]) {
        let mut entries = BTreeMap::from([
            ("embeddings.word_embeddings.weight".to_owned(), entry(&[3, 2], word)),
            (
                "encoder.layer.0.output.dense.bias".to_owned(),
                entry(&[2], &[0.3, -7.0]),
            ),
        ]);
        let positions = Entry {
            dtype: Dtype::I64,
            shape: vec![1, 1],
            bytes: vec![0; 8],
        };
        entries.insert(POSITION_IDS.into(), positions);
        let files = [
            ("model.safetensors", file(&entries).expect("a file")),
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{\"a\":1}".to_vec()),
        ];
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).expect("written");
        }
    }

    fn embed(word: &[f32]) -> (tempfile::TempDir, PathBuf, Result<()>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        checkpoint(folder.path(), word);
        let out = folder.path().join("out");
        let args = Args {
            from: folder.path().into(),
            out: Some(out.clone()),
        };
        let result = run(folder.path(), &args);
        (folder, out, result)
    }

    #[test]
    fn rows_have_their_own_scale_and_zeros_have_one() {
        let (codes, scales) = quantize_rows(&[1.27, -0.635, 0.0, 0.0, -12.7, 0.1], 2).expect("finite");
        assert_eq!(codes, [127, -64, 0, 0, -127, 1]);
        for (found, expected) in scales.iter().zip([0.01, 1.0, 0.1]) {
            assert!((found - expected).abs() < 1e-7, "{found} {expected}");
        }
    }

    #[test]
    fn rows_too_small_for_a_scale_are_zeros() {
        let (codes, scales) = quantize_rows(&[f32::from_bits(1), 0.0], 2).expect("finite");
        assert_eq!((codes, scales), (vec![0, 0], vec![1.0]));
    }

    #[test]
    fn a_checkpoint_is_copied_without_positions() {
        let (_folder, out, result) = embed(&[0.5, -0.25, 0.0, 0.0, 3.0, 2.0]);
        result.expect("embedded");
        let bytes = fs::read(out.join("model.safetensors")).expect("read");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut names = tensors.names();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "embeddings.word_embeddings.weight",
                "embeddings.word_embeddings.weight.scale",
                "encoder.layer.0.output.dense.bias",
            ]
        );
        let word = tensors.tensor("embeddings.word_embeddings.weight").expect("there");
        assert_eq!((word.dtype(), word.shape()), (Dtype::I8, &[3, 2][..]));
        let codes: Vec<i8> = word.data().iter().map(|b| b.cast_signed()).collect();
        assert_eq!(codes, [127, -64, 0, 0, 127, 85]);
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("header");
        let metadata = header.metadata().as_ref().expect("metadata");
        assert_eq!(metadata["adapters.quantization"], "int8-rows");
        assert_eq!(metadata["format"], "pt");
        let mut files: Vec<_> = fs::read_dir(&out)
            .expect("listed")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        files.sort();
        assert_eq!(files, ["config.json", "model.safetensors", "tokenizer.json"]);
    }

    #[test]
    fn the_same_checkpoint_gives_the_same_bytes() {
        let (_a, first, _) = embed(&[0.5, -0.25, 0.0, 0.0, 3.0, 2.0]);
        let (_b, second, _) = embed(&[0.5, -0.25, 0.0, 0.0, 3.0, 2.0]);
        let bytes = |out: PathBuf| fs::read(out.join("model.safetensors")).expect("read");
        assert_eq!(bytes(first), bytes(second));
    }

    #[test]
    fn a_weight_that_is_no_number_is_an_error_and_leaves_no_file() {
        let (_folder, out, result) = embed(&[0.5, -0.25, 0.0, f32::NAN, 3.0, 2.0]);
        let error = format!("{:?}", result.expect_err("a weight is not finite"));
        assert!(error.contains("row 1") && error.contains("word_embeddings"), "{error}");
        assert_eq!(fs::read_dir(out).expect("listed").count(), 0);
    }
}
