#![doc = include_str!("../README.md")]

pub mod composition;
pub mod dyn_module;
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
mod sited;

pub use adapters_derive::Sites;
pub use composition::{Composition, CompositionError};
pub use erased::Erased;
pub use error::Error;
pub use fusion::{Fusion, FusionConfig};
pub use host::Host;
pub use merge::{MergeReport, Merged, merge};
pub use method::codec::{Format, Tensors};
pub use method::config::ConfigError;
pub use method::config_string::{ConfigPart, ConfigString};
pub use method::layer::{FusionQuery, NamedParams, NotMergeable, SiteAdapter, SiteLayer};
pub use method::regime::Regime;
pub use method::shared::{Shared, SharedParam};
pub use method::union::Union;
pub use method::{Build, Encode, Method, MethodFamily, Registry, StoredConfig};
pub use method::{config, copies, target};
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
pub use site::{EmbeddingRole, LinearRole, NormRole, ResidualRole, Role, Site, SiteInfo, SiteKind, Stack};
pub use sited::{
    Adaptable, EmbeddingHook, KeyValueHook, LayerMut, LayerRef, Location, NormParameters, OutputHook, Point,
    ResidualHook, Sited, Sites, TokenTable,
};
