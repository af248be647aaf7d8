//! Data: one record a line of a `.jsonl` file, one an item of a `.json` list, one a row of a `.csv`, `.tsv` or, with the feature
//! `parquet`, `.parquet` file, or one an image or a sound of a folder; text files may be compressed, `.gz`.
//!
//! A task reads the fields of each [`Record`] that it needs. A file is read and checked as a whole before the run starts; every
//! error names the file and the line.

mod encoding;
mod error;
mod fields;
mod json;
mod media;
#[cfg(feature = "parquet")]
mod parquet;
mod passage;
mod record;
mod records;
mod shard;
mod table;

pub(crate) use self::encoding::decode;
pub(crate) use self::error::shortened;
pub use self::error::{DataError, Location};
pub use self::fields::{Fields, Labels};
pub use self::passage::Passage;
pub use self::record::Record;
pub use self::records::Records;
pub use self::shard::{Shard, ShardBy};

#[cfg(test)]
mod tests;
