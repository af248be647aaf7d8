#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

pub mod composition;
pub mod dyn_module;
mod erased;
mod error;
mod host;
mod matrices;
mod merge;
mod method;
mod pass;
mod quantize;
mod set;
mod site;
mod sited;
mod text;

pub use adapters_derive::Sites;
pub use burn::module::ParamId;
pub use composition::{Composition, CompositionError};
pub use erased::{Erased, ErasedLayer};
pub use error::Error;
pub use host::Host;
pub use matrices::Matrices;
pub use merge::{MergeReport, Merged, merge};
pub use method::Method;
pub use method::any::{AnyMethod, Encode, ErasedMethod};
pub use method::capability::{
    Capabilities, ConvertsForStorage, EditsEmbeddings, KnowsTasks, LearnsFaster, ModulePatterns, NeedsTokenizer,
    Penalized, ScalesUpdate, Scheduled, SharedParameters, TiesHead,
};
pub use method::codec::{AdapterHub, Codec, FileFormat, Format, Peft, StoredConfig, Tensors};
pub use method::config::{ConfigError, LARGEST_SIZE};
pub use method::config_string::{ConfigPart, ConfigString};
pub use method::erase::IntoMethod;
pub use method::layer::{Causality, Finisher, NotMergeable, SiteAdapter};
pub use method::named_params::NamedParams;
pub use method::schedule::TrainingSchedule;
pub use method::shared::Shared;
pub use method::site_layer::SiteLayer;
pub use method::{build::Build, preset::Preset};
pub use method::{config, target};
pub use pass::batch::{Batch, Sequence};
pub use pass::call::{Call, Pass};
pub use pass::ctx::Ctx;
pub use pass::hooks::Hooks;
pub use pass::record::{Record, Recorded, Recorder};
pub use pass::state::{
    AnyNorm, Effect, EmbeddingState, FusionQuery, FusionState, HiddenState, HookState, Inserted, Join, KeyValueState,
    LinearState, LinearWeight, MatricesState, NoWeight, NormParameters, NormState, NormWeight, Normalization,
    OutputState, Positions, Rows, Source, TableState, Up, Window,
};
pub use quantize::{QuantizeReport, quantize};
pub use set::AdapterSet;
pub use set::active::Active;
pub use set::adapted::{Adapted, AttachOptions, Forward};
pub use set::attach::{AttachReport, build};
pub use set::attached::{Attached, AttachedLayer, ParamPlace, ParamShape};
pub use set::average::normalized;
pub use set::frozen::Frozen;
pub use set::values::{ParamValues, values, with_fresh_ids};
pub use site::{
    BareParameter, EmbeddingRole, LinearRole, MatricesRole, NormRole, ResidualRole, Role, Site, SiteInfo, SiteKind,
    Stack,
};
pub use sited::{
    Adaptable, EmbeddingHook, KeyValueHook, LayerMut, LayerRef, Location, OutputHook, Point, ResidualHook, Sited,
    Sites, TokenTable,
};
