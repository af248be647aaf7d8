//! Every reader of files and texts from outside, given inputs that are nearly right: none may panic.

mod mutation;
mod readers;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use adapters::models::{Model, Pretrained};
use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::TempDir;

pub use mutation::mutated;
pub use readers::READERS;

use crate::tiny_task::Task;

/// A reader: where its valid inputs are, and how it reads one.
#[derive(Debug)]
pub struct Reader {
    /// Its name.
    pub name: &'static str,
    /// Makes the valid inputs.
    seeds: fn(&Fixture) -> Vec<Seed>,
    /// Reads the file, which lies in a folder with what belongs to it. Whether it was accepted.
    read: fn(&Fixture, &Path) -> bool,
}

/// What the readers need.
struct Fixture {
    scratch: TempDir,
    task: Task,
    /// The golden models by the names of their folders.
    models: BTreeMap<String, Model>,
    device: Device,
}

/// A valid input: a file that will be overwritten with changed ones.
struct Seed {
    file: PathBuf,
    bytes: Vec<u8>,
}

/// What became of an input.
#[derive(Debug)]
pub enum Verdict {
    /// It was read.
    Accepted,
    /// It was refused by an error.
    Refused,
    /// The reader panicked.
    Panicked {
        /// What the panic said.
        message: String,
        /// The file whose change it was.
        file: PathBuf,
        /// The input.
        input: Vec<u8>,
    },
}

/// A reader that is ready to read.
pub struct Subject {
    reader: &'static Reader,
    fixture: Fixture,
    seeds: Vec<Seed>,
}

impl Subject {
    /// Prepares the valid inputs of a reader.
    pub fn new(reader: &'static Reader) -> Self {
        let device = Device::flex();
        let model = |(name, folder): (String, PathBuf)| {
            let loaded = Pretrained::open(folder.join("base")).and_then(|found| found.model(&device));
            (name, loaded.expect("the golden models load"))
        };
        let fixture = Fixture {
            scratch: tempfile::tempdir().expect("a temporary folder can be made"),
            task: Task::new(),
            models: golden_models().map(model).collect(),
            device: device.clone(),
        };
        let seeds = (reader.seeds)(&fixture);
        for seed in &seeds {
            assert!(
                (reader.read)(&fixture, &seed.file),
                "{}: {} is refused unchanged: {}",
                reader.name,
                seed.file.display(),
                String::from_utf8_lossy(&seed.bytes[..seed.bytes.len().min(200)])
            );
        }
        Self { reader, fixture, seeds }
    }

    /// Reads the input that a number makes.
    pub fn read(&self, number: u64) -> Verdict {
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let seed = &self.seeds[(rng.next_u64() % self.seeds.len() as u64) as usize];
        self.read_in_place_of(seed, mutated(&seed.bytes, &mut rng))
    }

    /// Reads an input whose first byte chooses the valid one in whose place the others are read.
    pub fn read_bytes(&self, input: &[u8]) -> Verdict {
        let (place, input) = input.split_first().unwrap_or((&0, &[]));
        let seed = &self.seeds[usize::from(*place) % self.seeds.len()];
        self.read_in_place_of(seed, input.to_vec())
    }

    /// The valid inputs as [`read_bytes`](Self::read_bytes) takes them; no more than a byte can choose among.
    pub fn seeds(&self) -> impl Iterator<Item = Vec<u8>> {
        let numbered = (0..=u8::MAX).zip(&self.seeds);
        numbered.map(|(place, seed)| [&[place], &seed.bytes[..]].concat())
    }

    fn read_in_place_of(&self, seed: &Seed, input: Vec<u8>) -> Verdict {
        write(&seed.file, &input);
        let read = catch_unwind(AssertUnwindSafe(|| (self.reader.read)(&self.fixture, &seed.file)));
        write(&seed.file, &seed.bytes);
        match read {
            Ok(true) => Verdict::Accepted,
            Ok(false) => Verdict::Refused,
            Err(payload) => Verdict::Panicked {
                message: match (payload.downcast_ref::<String>(), payload.downcast_ref::<&str>()) {
                    (Some(message), _) => message.clone(),
                    (None, Some(message)) => (*message).to_owned(),
                    (None, None) => "a panic without a text".to_owned(),
                },
                file: seed.file.clone(),
                input,
            },
        }
    }
}

impl Fixture {
    /// A copy of a folder, a new one each time; `name` is in its path.
    fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.folder(name);
        for entry in fs::read_dir(from).expect("the folder can be read") {
            let entry = entry.expect("the folder can be read");
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).expect("the file can be copied");
            }
        }
        to
    }

    /// A new folder.
    fn folder(&self, name: &str) -> PathBuf {
        let count = fs::read_dir(self.scratch.path()).map_or(0, Iterator::count);
        let to = self.scratch.path().join(format!("{count}-{name}"));
        fs::create_dir(&to).expect("a folder can be made");
        to
    }

    /// A valid input that is a text, in a folder of its own.
    fn text(&self, name: &str, text: &str) -> Seed {
        let file = self.folder("text").join(name);
        write(&file, text.as_bytes());
        Seed::new(file)
    }
}

impl Seed {
    fn new(file: PathBuf) -> Self {
        Self {
            bytes: fs::read(&file).expect("the file can be read"),
            file,
        }
    }
}

fn write(file: &Path, bytes: &[u8]) {
    fs::write(file, bytes).expect("the scratch folder can be written");
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Names and folders of the golden models, in the order of their names.
fn golden_models() -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(golden()).expect("the folder can be read").flatten();
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    let models: BTreeMap<String, PathBuf> = named.filter(|(_, folder)| folder.join("base").is_dir()).collect();
    models.into_iter()
}
