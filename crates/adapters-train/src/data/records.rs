//! The records of a file, or of a folder of images or sounds.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adapters_store::open_regular;
use flate2::read::MultiGzDecoder;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};

use super::error::{DataError, Location};
use super::fields::{Fields, Labels};
use super::media::{self, Medium};
use super::record::{Record, Source};
use super::shard::{Shard, ShardBy};
use super::{decode, json, table};

/// Bytes that a compressed file may become.
const LONGEST: u64 = 8 << 30;

/// The records of one file, in file order. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// The records.
    pub records: Vec<Record>,
    /// The file they come from.
    pub path: PathBuf,
}

impl Records {
    /// Reads a file, whose extension decides the format, or a folder of images.
    ///
    /// - `.jsonl`, `.json-lines`: one JSON object a line; blank lines are skipped.
    /// - `.json`: a list of JSON objects, or one a line.
    /// - `.csv`: the first row names the fields, `"` quotes; between the cells stand commas, or the semicolons or tabs that a
    ///   first row without a comma has, or what a line `sep=;` in front of it names, as spreadsheets write it.
    /// - `.tsv`: tab-separated, the first row names the fields; `"` is an ordinary character, as in the GLUE files.
    /// - Any of these compressed, with `.gz` behind its extension. Texts are UTF-8, or UTF-16 with a byte order mark.
    /// - `.parquet`, with the feature `parquet`: a row is a record; structs and maps are objects, as in JSON.
    /// - A folder with a folder of `.png`, `.jpg` or `.jpeg` files for each label, `LABEL/NAME.png`, in the order of the names; or
    ///   with such files alone, which then have no label. Records have the fields `fields.image` and `fields.label`. Hidden
    ///   files are skipped. The same with `.wav` files, whose field is `fields.audio`.
    ///
    /// # Errors
    ///
    /// A [`DataError`] for the first thing that is wrong.
    pub fn read(path: impl AsRef<Path>, fields: &Fields) -> Result<Self, DataError> {
        let path = path.as_ref();
        let records = match path.is_dir() {
            true => media::read(path, fields)?,
            false => Self::of_file(path)?,
        };
        if records.is_empty() {
            return Err(DataError::Empty { path: path.to_owned() });
        }
        Ok(Self {
            records,
            path: path.to_owned(),
        })
    }

    fn of_file(path: &Path) -> Result<Vec<Record>, DataError> {
        let extension = |path: &Path| {
            path.extension()
                .map(|extension| extension.to_string_lossy().to_lowercase())
        };
        let compressed = extension(path).as_deref() == Some("gz");
        let extension = match compressed {
            true => extension(&path.with_extension("")),
            false => extension(path),
        };
        let read: fn(&Path, &str) -> Result<Vec<Record>, DataError> = match extension.as_deref() {
            Some("jsonl" | "json-lines") => json::lines,
            Some("json") => json::list,
            Some("csv") => |path, text| table::read(path, text, table::Kind::Csv),
            Some("tsv") => |path, text| table::read(path, text, table::Kind::Tsv),
            #[cfg(feature = "parquet")]
            Some("parquet") if !compressed => return super::parquet::read(path),
            #[cfg(not(feature = "parquet"))]
            Some("parquet") if !compressed => return Err(DataError::WithoutParquet { path: path.to_owned() }),
            _ => return Err(DataError::UnknownExtension { path: path.to_owned() }),
        };
        let unreadable = |source| DataError::Read {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        open_regular(path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(unreadable)?;
        if compressed {
            let mut whole = Vec::new();
            let mut unpacked = MultiGzDecoder::new(bytes.as_slice()).take(LONGEST + 1);
            unpacked.read_to_end(&mut whole).map_err(unreadable)?;
            if whole.len() as u64 > LONGEST {
                return Err(unreadable(io::Error::other(format!(
                    "unpacked, it has more than {} GiB",
                    LONGEST >> 30
                ))));
            }
            bytes = whole;
        }
        read(path, &decode(path, bytes)?)
    }

    /// A record for each of these images and sounds, without a label, whatever the files are called.
    pub fn of_media(images: &[PathBuf], sounds: &[PathBuf], fields: &Fields) -> Self {
        let mut records = media::unlabeled(images, Medium::Image, fields);
        records.extend(media::unlabeled(sounds, Medium::Sound, fields));
        Self {
            records,
            path: images.first().or(sounds.first()).cloned().unwrap_or_default(),
        }
    }

    /// Records that are in no file, as JSON objects; `origin` stands for the file in messages.
    pub fn of_objects(objects: impl IntoIterator<Item = Map<String, Value>>, origin: &str) -> Self {
        let path: Arc<Path> = Path::new(origin).into();
        let records = objects.into_iter().enumerate().map(|(index, object)| Record {
            at: Location::line(&path, index + 1),
            source: Source::Json(object),
        });
        Self {
            records: records.collect(),
            path: path.to_path_buf(),
        }
    }

    /// The labels in a field: a count if all are whole numbers from 0, else the names in the order of the alphabet. `separator`
    /// stands between several in a table.
    ///
    /// # Errors
    ///
    /// [`DataError`] for a field that is missing or holds no labels.
    pub fn labels(&self, field: &str, separator: Option<char>) -> Result<Labels, DataError> {
        let mut names = BTreeSet::new();
        for record in &self.records {
            names.extend(record.label_names(field, separator)?);
        }
        let largest = names
            .iter()
            .map(|name| name.parse::<u16>().ok())
            .try_fold(0, |max, n| Some(max.max(n?)));
        match largest {
            Some(largest) if !names.is_empty() => Ok(Labels::Count(usize::from(largest) + 1)),
            _ => Ok(Labels::Names(names.into_iter().collect())),
        }
    }

    /// Takes a fraction of the records out, drawn by `seed`, in the order of the file: at least one, and leaves at least one; `None`
    /// where there are too few.
    pub fn split_off(&mut self, fraction: f64, seed: u64) -> Option<Self> {
        let count = self.records.len();
        let taken =
            ((count as f64 * fraction).round() as usize).clamp(1, count.checked_sub(1).filter(|left| *left > 0)?);
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let chosen: HashSet<usize> = order.into_iter().take(taken).collect();
        let (out, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.records)
            .into_iter()
            .enumerate()
            .partition(|(index, _)| chosen.contains(index));
        let records = |indexed: Vec<(usize, Record)>| indexed.into_iter().map(|(_, record)| record).collect();
        self.records = records(left);
        Some(Self {
            records: records(out),
            path: self.path.clone(),
        })
    }

    /// One of several disjoint shards of one size, give or take a record, in the order of the file. A shard of fewer records than
    /// shards is all of them. The length of a record is that of its fields without `label`, in characters.
    #[must_use]
    pub fn shard(mut self, shard: Shard, label: &str) -> Self {
        let mut order: Vec<usize> = (0..self.records.len()).collect();
        if shard.by == ShardBy::Length {
            order.sort_by_key(|index| self.records[*index].length(label));
        }
        let bound = |index: usize| order.len() * index / shard.of;
        let mut mine = order[bound(shard.index)..bound(shard.index + 1)].to_vec();
        if mine.is_empty() {
            return self;
        }
        mine.sort_unstable();
        self.records = mine.into_iter().map(|index| self.records[index].clone()).collect();
        self
    }
}
