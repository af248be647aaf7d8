#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod erased;
mod error;
mod host;
mod method;
mod mirror;
mod pass;
mod set;

pub use adapters_config::{
    AdapterHub, Composition, CompositionError, ConfigError, ConfigStringError, Format, PatternError, Peft, Preset,
    StoredConfig, composition, fields as config, nearest_field,
};
pub use adapters_derive::Sites;
pub use adapters_sites::{
    EmbeddingHook, EmbeddingRole, KeyValueHook, LinearRole, Location, NormRole, OutputHook, Point, ResidualHook,
    ResidualRole, Role, Site, SiteInfo, SiteKind, Sited, Sites, Stack,
};
pub use burn::module::ParamId;
pub use erased::Erased;
pub use error::Error;
pub use host::{Host, is_outside};
pub use method::Method;
pub use method::any::AnyMethod;
pub use method::build::Build;
pub use method::capability::{
    Capabilities, ConvertsForStorage, EditsEmbeddings, KnowsTasks, LearnsFaster, ModulePatterns, NeedsTokenizer,
    Penalized, ScalesUpdate, Scheduled, SharedParameters, TiesHead,
};
pub use method::codec::{BaseField, Codec, Tensors};
pub use method::erase::IntoMethod;
pub use method::layer::{Causality, Finisher, NotMergeable, SiteAdapter};
pub use method::named_params::{NamedParams, ParamValues};
pub use method::schedule::TrainingSchedule;
pub use method::shared::Shared;
pub use method::site_layer::SiteLayer;
pub use method::target;
pub use pass::batch::Batch;
pub use pass::call::{Call, Pass};
pub use pass::ctx::Ctx;
pub use pass::forward::Forward;
pub use pass::hooks::Hooks;
pub use pass::record::{Record, Recorded};
pub use pass::state::{
    Effect, EmbeddingState, HiddenState, HookState, Inserted, Join, KeyValueState, LinearState, LinearWeight,
    NormState, OutputState, Positions, Rows, Source, TableState,
};
pub use set::AdapterSet;
pub use set::active::Active;
pub use set::attach::AttachReport;
pub use set::attached::{Attached, AttachedLayer, ParamInfo, ParamShape, StoredSize};

// For the crates of this workspace: what few models and single methods need.
#[doc(hidden)]
pub use adapters_config::{ConfigString, FileFormat, LARGEST_SIZE, MemberConfig};
#[doc(hidden)]
pub use adapters_nn::{NormParameters, NormWeight, Normalization};
#[doc(hidden)]
pub use adapters_sites::{
    Adaptable, BareParameter, ConvolutionRole, GroupedConvolution, LayerMut, LayerRef, Matrices, MatricesRole,
    TableRole, convolved,
};
#[doc(hidden)]
pub use erased::ErasedLayer;
#[doc(hidden)]
pub use method::any::{Encode, ErasedMethod};
#[doc(hidden)]
pub use method::capability::{
    BasePass, BeginsWhereInvoked, ContextTarget, LearnsContext, RoutesAdapters, StartsFromInputs,
};
#[doc(hidden)]
pub use mirror::{Mirror, MirrorInput, MirrorPlan};
#[doc(hidden)]
pub use pass::batch::Sequence;
#[doc(hidden)]
pub use pass::record::Recorder;
#[doc(hidden)]
pub use pass::state::{AnyNorm, ConvolutionState, FusionQuery, FusionState, MatricesState, NoWeight, Window};
#[doc(hidden)]
pub use set::attach::{build, build_for_file};
