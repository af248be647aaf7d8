//! Bytes of a file to text: UTF-8, or UTF-16 with a byte order mark, as spreadsheets and PowerShell write it.

use std::path::Path;

use super::error::DataError;

/// The text of a file, without a byte order mark.
pub(crate) fn decode(path: &Path, bytes: Vec<u8>) -> Result<String, DataError> {
    let wrong = |encoding: &'static str, line: usize| DataError::NotText {
        path: path.to_owned(),
        line,
        encoding,
    };
    match bytes.as_slice() {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Err(wrong("utf-8 but utf-32", 1)),
        [0xFF, 0xFE, rest @ ..] => utf_16(rest, u16::from_le_bytes).map_err(|line| wrong(UTF_16, line)),
        [0xFE, 0xFF, rest @ ..] => utf_16(rest, u16::from_be_bytes).map_err(|line| wrong(UTF_16, line)),
        // Every other byte of English text is zero then.
        [first, 0, second, 0, ..] | [0, first, 0, second, ..] if *first != 0 && *second != 0 => {
            Err(wrong("utf-8 but utf-16 without a byte order mark", 1))
        }
        _ => {
            let text = String::from_utf8(bytes).map_err(|error| {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                wrong("utf-8", 1 + valid.iter().filter(|byte| **byte == b'\n').count())
            })?;
            Ok(match text.strip_prefix('\u{feff}') {
                Some(text) => text.to_owned(),
                None => text,
            })
        }
    }
}

const UTF_16: &str = "utf-16, which its byte order mark says it is,";

/// The text of some bytes, or the line that is none.
fn utf_16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, usize> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let mut text = String::with_capacity(pairs.len());
    let line = |text: &str| 1 + text.bytes().filter(|byte| *byte == b'\n').count();
    for read in char::decode_utf16(pairs.iter().copied().map(unit)) {
        match read {
            Ok(letter) => text.push(letter),
            Err(_) => return Err(line(&text)),
        }
    }
    match odd {
        [] => Ok(text),
        _ => Err(line(&text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<String, String> {
        decode(Path::new("a.csv"), bytes.to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn utf_16_is_read_by_its_mark() {
        let text = "text;label\nGrüße 😀;1\n";
        let units: Vec<u16> = "\u{feff}".encode_utf16().chain(text.encode_utf16()).collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for bytes in [&little, &big, &[b"\xEF\xBB\xBF", text.as_bytes()].concat()] {
            assert_eq!(decoded(bytes).as_deref(), Ok(text));
        }
        assert_eq!(decoded(&little[..2]).as_deref(), Ok(""));
        let odd = decoded(&little[..little.len() - 1]).unwrap_err();
        assert!(odd.starts_with("a.csv:2 is not utf-16"), "{odd}");
        let alone = decoded(&[&little[..], &[0x00, 0xD8]].concat()).unwrap_err();
        assert!(alone.starts_with("a.csv:3 is not utf-16"), "{alone}");
        for unmarked in [&little[2..], &big[2..]] {
            let refused = decoded(unmarked).unwrap_err();
            assert!(refused.contains("utf-16 without a byte order mark"), "{refused}");
        }
        let wide = decoded(b"\xFF\xFE\0\0t\0\0\0").unwrap_err();
        assert!(wide.contains("utf-32"), "{wide}");
        let other = decoded(b"text\nGr\xFC").unwrap_err();
        assert_eq!(other, "a.csv:2 is not utf-8; convert the file to utf-8");
    }
}
