#![doc = include_str!("../README.md")]

pub mod atomic;
mod attach;
mod average;
pub mod compose;
pub mod composition;
pub mod config;
mod config_string;
pub mod copies;
mod ctx;
mod door;
pub mod draw;
mod dropout;
mod erased;
mod error;
mod frozen;
mod host;
mod layer;
mod merge;
mod method;
pub mod ops;
mod quantize;
mod regime;
mod set;
mod shared;
mod site;
mod state;
pub mod store;
pub mod target;
mod torch_rng;
mod union;

pub use attach::AttachReport;
pub use average::{ParamValues, normalised};
pub use compose::Active;
pub use composition::{Composition, CompositionError};
pub use config::ConfigError;
pub use config_string::{ConfigPart, ConfigString};
pub use ctx::{Call, Ctx, Pass};
pub use door::{ForPaths, WeightAdapter, WeightDoor};
pub use dropout::Dropout;
pub use erased::Erased;
pub use error::{Error, did_you_mean, nearest};
pub use frozen::{Adapted, Frozen};
pub use host::Host;
pub use layer::{NamedParams, NotMergeable, SiteAdapter, SiteLayer};
pub use merge::{MergeReport, Merged, merge};
pub use method::{Build, Method, MethodFamily, Registry, StoredConfig};
pub use quantize::{Quantization, QuantizeReport, float_weight, quantize};
pub use regime::Regime;
pub use set::{AdapterSet, Attached, AttachedLayer, ParamPlace, with_fresh_ids};
pub use shared::{Shared, SharedParam};
pub use site::{Role, Site, SiteInfo, SiteKind, Stack};
pub use state::{
    EmbeddingState, HiddenState, HookState, KeyValueState, LinearState, LinearWeight, NoWeight, NormState, NormWeight,
    OutputState, Rows, TableState,
};
pub use torch_rng::TorchRng;
pub use union::Union;
