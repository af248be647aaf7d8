//! TensorBoard event files: the figures of a run as TensorBoard reads them.
//!
//! A file is a list of records, each `length u64 | masked crc32c of the length u32 | bytes | masked crc32c of the bytes u32`, all
//! little-endian, and each a protocol buffer `Event`:
//! <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto>.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::RunFileError;

/// An open event file.
#[derive(Debug)]
pub(super) struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A new file in `dir`. TensorBoard drops what earlier files of the folder say of steps after `step`, where a resumed run
    /// continues.
    pub(super) fn create(dir: &Path, step: u64) -> Result<Self, RunFileError> {
        let time = seconds();
        // Two within a second would be one file.
        let path = dir.join(format!("events.out.tfevents.{time:.6}.{}", std::process::id()));
        let refused = |source| RunFileError::Append {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(dir).map_err(refused)?;
        let file = File::options().append(true).create(true).open(&path).map_err(refused)?;
        let mut events = Self { file, path };
        events.record(&[field_bytes(3, b"brain.Event:2")].concat(), 0)?;
        // `SessionLog { status: START }`.
        events.record(&field_bytes(7, &field_varint(1, 1)), step + 1)?;
        Ok(events)
    }

    /// Adds values of a step, by name.
    pub(super) fn push(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), RunFileError> {
        let mut summary = Vec::new();
        for (name, value) in values {
            let mut of_value = field_bytes(1, name.as_bytes());
            // `simple_value`, field 2 of four bytes.
            of_value.push(2 << 3 | 5);
            of_value.extend((*value as f32).to_le_bytes());
            summary.extend(field_bytes(1, &of_value));
        }
        self.record(&field_bytes(5, &summary), step)
    }

    /// Appends an event of a step with this content.
    fn record(&mut self, content: &[u8], step: u64) -> Result<(), RunFileError> {
        // `wall_time`, field 1 of eight bytes.
        let mut event = vec![1 << 3 | 1];
        event.extend(seconds().to_le_bytes());
        event.extend(field_varint(2, step));
        event.extend(content);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc(&event).to_le_bytes());
        let written = self.file.write_all(&record).and_then(|()| self.file.flush());
        written.map_err(|source| RunFileError::Append {
            path: self.path.clone(),
            source,
        })
    }
}

fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

/// The checksum as TensorFlow stores it: rotated and shifted, so that it is no checksum of itself.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A field of a protocol buffer that holds bytes.
fn field_bytes(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    varint(bytes.len() as u64, &mut field);
    field.extend(bytes);
    field
}

/// A field of a protocol buffer that holds a number.
fn field_varint(number: u8, value: u64) -> Vec<u8> {
    let mut field = vec![number << 3];
    varint(value, &mut field);
    field
}

/// A number in groups of seven bits, the last ones first.
fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a file, by the record format alone.
    fn events(path: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&rest[..8]));
            assert_eq!(crc(12 + length), masked_crc(&rest[12..12 + length]));
            events.push(rest[12..12 + length].to_vec());
            rest = &rest[16 + length..];
        }
        events
    }

    #[test]
    fn a_file_has_the_published_records() {
        // The known record: `crc32c("123456789")` is e3069283.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let dir = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(dir.path(), 300).unwrap();
        file.push(301, &[("train_loss", 0.5), ("learning_rate", 1e-3)]).unwrap();
        let events = events(&file.path);
        assert_eq!(events.len(), 3);
        // Behind `wall_time` of nine bytes: step 0 and the version.
        assert_eq!(&events[0][9..], b"\x10\x00\x1a\x0dbrain.Event:2");
        // Step 301 is 0b10_0101101.
        assert_eq!(&events[1][9..], b"\x10\xad\x02\x3a\x02\x08\x01");
        let mut expected = b"\x10\xad\x02\x2a\x29\x0a\x11\x0a\x0atrain_loss\x15".to_vec();
        expected.extend(0.5f32.to_le_bytes());
        expected.extend(b"\x0a\x14\x0a\x0dlearning_rate\x15");
        expected.extend(1e-3f32.to_le_bytes());
        assert_eq!(events[2][9..], expected);
    }
}
