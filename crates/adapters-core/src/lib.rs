#![doc = include_str!("../README.md")]

pub mod composition;
mod erased;
mod error;
pub mod fusion;
mod host;
mod merge;
mod method;
mod pass;
mod quantize;
mod set;
mod site;

pub use burn::module::ParamId;
pub use composition::{Composition, CompositionError};
pub use erased::Erased;
pub use error::Error;
pub use fusion::{Fusion, FusionConfig};
pub use host::Host;
pub use merge::{MergeReport, Merged, merge};
pub use method::capability::{
    Capabilities, ConvertsForStorage, EditsEmbeddings, Encode, NeedsTokenizer, Penalized, Scheduled, SharedParameters,
};
pub use method::codec::{AdapterHub, Codec, FileFormat, Format, Peft, StoredConfig, Tensors};
pub use method::config::ConfigError;
pub use method::config_string::{ConfigPart, ConfigString};
pub use method::layer::{FusionQuery, NamedParams, NotMergeable, SiteAdapter, SiteLayer};
pub use method::registry::{MethodEntry, Registry};
pub use method::schedule::TrainingSchedule;
pub use method::shared::{Shared, SharedParam};
pub use method::union::Union;
pub use method::{AnyMethod, ErasedMethod, Method};
pub use method::{build::Build, peft_modules::PeftModules, preset::Preset};
pub use method::{config, copies, peft_modules, target};
pub use pass::compose::Active;
pub use pass::ctx::{Call, Ctx, Pass};
pub use pass::norm::Normalization;
pub use pass::positions::Positions;
pub use pass::record::{Record, Recorded, Recorder};
pub use pass::sequence::Inserted;
pub use pass::state::{
    EmbeddingState, HiddenState, HookState, KeyValueState, LinearState, LinearWeight, NoWeight, NormState, NormWeight,
    OutputState, Rows, TableState, Up,
};
pub use quantize::{QuantizeReport, quantize};
pub use set::attach::{AttachReport, build};
pub use set::average::{ParamValues, normalized};
pub use set::frozen::{Adapted, Frozen};
pub use set::{AdapterSet, Attached, AttachedLayer, ParamPlace, values, with_fresh_ids};
pub use site::{Role, Site, SiteInfo, SiteKind, Stack};
