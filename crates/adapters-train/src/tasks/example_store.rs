//! Encoded examples: in memory up to a size, and beyond it in a temporary file, so that a large file is never in memory as tokens.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::TrainError;

/// Tokens that are held in memory; each takes about nine bytes.
const HELD: usize = 1 << 23;

/// The encoded examples of a file, in its order.
#[derive(Debug)]
pub(super) struct ExampleStore<E> {
    held: Vec<E>,
    /// Tokens that there is still room for.
    room: usize,
    beyond: Option<Beyond>,
}

/// Examples in a temporary file without a name, which ends with the process.
#[derive(Debug)]
struct Beyond {
    file: Mutex<BufWriter<File>>,
    /// Where each ends.
    ends: Vec<u64>,
}

impl<E> Default for ExampleStore<E> {
    fn default() -> Self {
        Self::holding(HELD)
    }
}

impl<E> ExampleStore<E> {
    fn holding(room: usize) -> Self {
        Self {
            held: Vec::new(),
            room,
            beyond: None,
        }
    }
}

impl<E: Clone + Serialize + DeserializeOwned> ExampleStore<E> {
    /// Adds an example of so many tokens.
    ///
    /// # Errors
    ///
    /// [`TrainError::TemporaryFile`] where the temporary file cannot be written.
    pub(super) fn push(&mut self, example: E, tokens: usize) -> Result<(), TrainError> {
        if self.beyond.is_none() && tokens <= self.room {
            self.room -= tokens;
            self.held.push(example);
            return Ok(());
        }
        let beyond = match self.beyond.take() {
            Some(beyond) => Ok(beyond),
            None => Beyond::new(),
        };
        let written = beyond.and_then(|mut beyond| beyond.push(&example).map(|()| beyond));
        self.beyond = Some(written.map_err(failed)?);
        Ok(())
    }

    /// An example by its number.
    ///
    /// # Errors
    ///
    /// [`TrainError::TemporaryFile`] where the temporary file cannot be read.
    pub(super) fn get(&self, index: usize) -> Result<Cow<'_, E>, TrainError> {
        match (self.held.get(index), &self.beyond) {
            (Some(example), _) => Ok(Cow::Borrowed(example)),
            (None, Some(beyond)) => {
                let read = beyond.get(index - self.held.len());
                read.map(Cow::Owned).map_err(failed)
            }
            (None, None) => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }

    /// All examples, if they are in memory.
    pub(super) fn in_memory(&self) -> Option<&[E]> {
        self.beyond.is_none().then_some(self.held.as_slice())
    }
}

impl Beyond {
    fn new() -> io::Result<Self> {
        Ok(Self {
            file: Mutex::new(BufWriter::new(tempfile::tempfile()?)),
            ends: Vec::new(),
        })
    }

    fn push(&mut self, example: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(example)?;
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&bytes)?;
        let start = self.ends.last().copied().unwrap_or_default();
        self.ends.push(start + bytes.len() as u64);
        Ok(())
    }

    fn get<E: DeserializeOwned>(&self, index: usize) -> io::Result<E> {
        let Some(end) = self.ends.get(index) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut bytes = vec![0; (end - start) as usize];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing goes on at the end: what is in the buffer goes there first.
        file.seek(SeekFrom::Start(start))?;
        file.get_mut().read_exact(&mut bytes)?;
        file.seek(SeekFrom::End(0))?;
        drop(file);
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// What was not kept.
fn failed(source: io::Error) -> TrainError {
    TrainError::TemporaryFile {
        folder: std::env::temp_dir(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_beyond_the_room_come_back_in_order() {
        let mut store = ExampleStore::holding(10);
        let example = |index: usize| {
            (
                vec![index as u32; index % 5],
                Some(index as f32 / 3.0),
                format!("é{index}"),
            )
        };
        for index in 0..50 {
            store.push(example(index), index % 5).unwrap();
            // Reading in between leaves the end where it is.
            assert_eq!(*store.get(index / 2).unwrap(), example(index / 2));
        }
        assert_eq!(store.held.len(), 6, "there is no room for a token of the seventh");
        assert!(store.in_memory().is_none());
        for index in [49, 0, 20, 4, 5, 6] {
            assert_eq!(*store.get(index).unwrap(), example(index));
        }
        assert!(store.get(50).is_err());

        let mut small = ExampleStore::default();
        small.push(1u8, 4).unwrap();
        assert_eq!(small.in_memory(), Some([1].as_slice()));
    }
}
