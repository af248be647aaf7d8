//! What a PyTorch file names. PyTorch's `weights_only` loading refuses a file that names anything but tensors and what they are
//! made of; so does this library, before the file is read.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Names that tensors are made of, by module.
const ALLOWED: &[(&str, &[&str])] = &[
    ("collections", &["OrderedDict"]),
    (
        "torch._utils",
        &[
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
        ],
    ),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch.nn.parameter", &["Parameter"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch.storage", &["TypedStorage", "UntypedStorage"]),
];

/// Whether a name of `torch` itself is a type of storage, an element type, or the shape of a tensor.
fn is_allowed(module: &str, name: &str) -> bool {
    let listed = ALLOWED.iter().find(|(of, _)| *of == module);
    let in_torch = || {
        const TYPES: [&str; 8] = ["float", "bfloat", "half", "double", "int", "uint", "bool", "long"];
        let plain = matches!(name, "Size" | "device" | "Tensor") || name.ends_with("Storage");
        plain
            || TYPES.iter().any(|of| {
                name.strip_prefix(of)
                    .is_some_and(|bits| bits.bytes().all(|b| b.is_ascii_digit()))
            })
    };
    listed.is_some_and(|(_, names)| names.contains(&name)) || (module == "torch" && in_torch())
}

/// Refuses a PyTorch file that names something else than tensors, in words.
///
/// # Errors
///
/// What is wrong.
pub(crate) fn check_names(path: &Path) -> Result<(), String> {
    let open = || File::open(path).map_err(|error| error.to_string());
    match zip::ZipArchive::new(BufReader::new(open()?)) {
        Ok(mut archive) => {
            let mut names = archive.file_names().flatten();
            let name = names
                .find(|name| name.ends_with("data.pkl"))
                .map(|name| name.into_owned());
            drop(names);
            let name = name.ok_or("it has no data.pkl, as PyTorch's files have")?;
            let mut bytes = Vec::new();
            let mut file = archive.by_name(&name).map_err(|error| error.to_string())?;
            file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            Pickle { bytes: &bytes, at: 0 }.check()
        }
        // Files of before 2020: five pickles in a row, then the numbers.
        Err(_) => {
            let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
            let mut pickle = Pickle { bytes: &bytes, at: 0 };
            (0..5).try_for_each(|_| pickle.check())
        }
    }
}

/// The instructions of a pickle, which are looked through and not run.
struct Pickle<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Pickle<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("the pickle is cut off")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A text that begins with its length, of so many bytes.
    fn counted(&mut self, width: usize) -> Result<&'a [u8], String> {
        let length = self
            .take(width)?
            .iter()
            .rev()
            .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        self.take(usize::try_from(length).map_err(|_| "the pickle is cut off")?)
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("the pickle is cut off")?;
        let line = self.take(length + 1)?;
        Ok(String::from_utf8_lossy(&line[..length]).into_owned())
    }

    /// Looks through one pickle, to its end.
    fn check(&mut self) -> Result<(), String> {
        loop {
            let [instruction] = *self.take(1)? else { return Ok(()) };
            match instruction {
                b'.' => return Ok(()),
                b'c' | b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    if !is_allowed(&module, &name) {
                        return Err(format!("it names `{module}.{name}`, which is not a tensor"));
                    }
                }
                0x93 => return Err("it names something in a way that PyTorch does not write (STACK_GLOBAL)".to_owned()),
                0x82..=0x84 => return Err("it names something by a number of its own (EXT)".to_owned()),
                b'F' | b'I' | b'L' | b'P' | b'S' | b'V' | b'g' | b'p' => drop(self.line()?),
                b'K' | b'h' | b'q' | 0x80 => drop(self.take(1)?),
                b'M' => drop(self.take(2)?),
                b'J' | b'j' | b'r' => drop(self.take(4)?),
                b'G' | 0x95 => drop(self.take(8)?),
                b'U' | b'C' | 0x8a | 0x8c => drop(self.counted(1)?),
                b'T' | b'X' | b'B' | 0x8b => drop(self.counted(4)?),
                0x8d | 0x8e | 0x96 => drop(self.counted(8)?),
                b'('
                | b'0'
                | b'1'
                | b'2'
                | b'N'
                | b'Q'
                | b'R'
                | b'a'
                | b'b'
                | b'd'
                | b'}'
                | b'e'
                | b'l'
                | b']'
                | b'o'
                | b's'
                | b't'
                | b')'
                | b'u'
                | 0x81
                | 0x85..=0x89
                | 0x8f..=0x92
                | 0x94
                | 0x97
                | 0x98 => {}
                other => {
                    return Err(format!(
                        "it has the instruction {other:#04x}, which pickles do not have"
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<(), String> {
        Pickle { bytes, at: 0 }.check()
    }

    #[test]
    fn tensors_are_allowed_and_functions_are_not() {
        check(b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02ctorch\nFloatStorage\n.").unwrap();
        check(b"\x80\x02ctorch\nfloat32\nctorch\nbfloat16\n}X\x01\x00\x00\x00aK\x01s.").unwrap();
        for (pickle, named) in [
            (
                &b"\x80\x02X\x04\x00\x00\x00evilcposix\nsystem\nX\x02\x00\x00\x00ls\x85R."[..],
                "posix.system",
            ),
            (b"\x80\x02ctorch\nload\n.", "torch.load"),
            (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "STACK_GLOBAL"),
            (b"\x80\x02X\xff\xff\xff\xffa", "cut off"),
            (b"\xff", "0xff"),
        ] {
            let error = check(pickle).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
