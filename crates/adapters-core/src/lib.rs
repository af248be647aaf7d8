#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod convolution;
mod erased;
mod error;
mod host;
mod matrices;
mod method;
mod mirror;
mod pass;
mod set;
mod site;
mod sited;

pub use adapters_config::{
    AdapterHub, Composition, CompositionError, ConfigError, ConfigString, ConfigStringError, FileFormat, Format,
    LARGEST_SIZE, MemberConfig, PatternError, Peft, Preset, StoredConfig, composition, fields as config,
};
pub use adapters_derive::Sites;
pub use adapters_nn::{NormParameters, NormWeight, Normalization};
pub use burn::module::ParamId;
pub use convolution::{GroupedConvolution, convolved};
pub use erased::{Erased, ErasedLayer};
pub use error::Error;
pub use host::Host;
pub use matrices::Matrices;
pub use method::Method;
pub use method::any::{AnyMethod, Encode, ErasedMethod};
pub use method::build::Build;
pub use method::capability::{
    BasePass, BeginsWhereInvoked, Capabilities, ConvertsForStorage, EditsEmbeddings, KnowsTasks, LearnsFaster,
    ModulePatterns, NeedsTokenizer, Penalized, RoutesAdapters, ScalesUpdate, Scheduled, SharedParameters,
    StartsFromInputs, TiesHead,
};
pub use method::codec::{Codec, Tensors};
pub use method::erase::IntoMethod;
pub use method::layer::{Causality, Finisher, NotMergeable, SiteAdapter};
pub use method::named_params::{NamedParams, ParamValues};
pub use method::schedule::TrainingSchedule;
pub use method::shared::Shared;
pub use method::site_layer::SiteLayer;
pub use method::target;
pub use mirror::{Mirror, MirrorInput, MirrorPlan};
pub use pass::batch::{Batch, Sequence};
pub use pass::call::{Call, Pass};
pub use pass::ctx::Ctx;
pub use pass::forward::Forward;
pub use pass::hooks::Hooks;
pub use pass::record::{Record, Recorded, Recorder};
pub use pass::state::{
    AnyNorm, ConvolutionState, Effect, EmbeddingState, FusionQuery, FusionState, HiddenState, HookState, Inserted,
    Join, KeyValueState, LinearState, LinearWeight, MatricesState, NoWeight, NormState, OutputState, Positions, Rows,
    Source, TableState, Window,
};
pub use set::AdapterSet;
pub use set::active::Active;
pub use set::attach::{AttachReport, build, build_for_file};
pub use set::attached::{Attached, AttachedLayer, ParamInfo, ParamShape, StoredSize};
pub use site::{
    BareParameter, ConvolutionRole, EmbeddingRole, LinearRole, MatricesRole, NormRole, ResidualRole, Role, Site,
    SiteInfo, SiteKind, Stack,
};
pub use sited::{
    Adaptable, EmbeddingHook, KeyValueHook, LayerMut, LayerRef, Location, OutputHook, Point, ResidualHook, Sited,
    Sites, TokenTable,
};
