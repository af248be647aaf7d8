//! What can go wrong between a configuration and an attached adapter.

use std::error::Error as StdError;

use adapters_config::{CompositionError, ConfigStringError, PatternError};
use adapters_nn::{UnknownName, did_you_mean};

/// Errors of configuration, targeting, attaching, activating and merging. Files have an error type in `adapters-store`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A method refuses its configuration.
    #[error("invalid {method} configuration")]
    Config {
        /// The method's family.
        method: &'static str,
        /// The method's own error, which names the field.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A name from a closed list was not in it.
    #[error(transparent)]
    UnknownName(#[from] UnknownName),
    /// A config string does not parse.
    #[error(transparent)]
    ConfigString(#[from] ConfigStringError),
    /// Two members of a union target the same module.
    #[error("`{first}` and `{second}` both target `{target}`; the members of a union must target disjoint modules")]
    UnionConflict {
        /// Config string of the earlier member.
        first: String,
        /// Config string of the later member.
        second: String,
        /// The module, role or shared parameter.
        target: String,
    },
    /// Adapters whose parameters cannot be tied.
    #[error(
        "the parameters of `{borrower}` cannot be tied to those of `{owner}`: both must be of one method with shared parameters, at the same modules"
    )]
    CannotTie {
        /// Whose parameters were to be used.
        owner: String,
        /// Who was to use them.
        borrower: String,
    },
    /// Adapters that cannot be averaged.
    #[error("cannot average `{first}` and `{other}`: {reason}")]
    CannotAverage {
        /// The first adapter.
        first: String,
        /// The adapter that does not fit it.
        other: String,
        /// Why not.
        reason: String,
    },
    /// A row belongs to a task that no adapter is for.
    #[error("there is no task {task}: tasks are counted from 0, and there are {tasks}")]
    NoSuchTask {
        /// The task.
        task: usize,
        /// How many there are.
        tasks: usize,
    },
    /// The rows, positions or tasks that a block assigns to its children are not those of the input.
    #[error("`{block}` covers {assigned} {what}, but the input has {found}")]
    WrongSizes {
        /// The block.
        block: String,
        /// Rows, positions or tasks.
        what: &'static str,
        /// How many it assigns.
        assigned: usize,
        /// How many there are.
        found: usize,
    },
    /// Adapters that cannot be fused.
    #[error("cannot fuse {adapters}: {reason}")]
    CannotFuse {
        /// The adapters.
        adapters: String,
        /// Why not.
        reason: String,
    },
    /// The set has no fusion of that name.
    #[error("no fusion named `{name}`{}; attached: {attached}", did_you_mean(.nearest))]
    NoSuchFusion {
        /// The name.
        name: String,
        /// The nearest attached name.
        nearest: Option<String>,
        /// All attached names.
        attached: String,
    },
    /// A target pattern is not a regular expression.
    #[error(transparent)]
    TargetPattern(#[from] PatternError),
    /// A target matched no site of the model.
    #[error("target `{target}` matches nothing in this {architecture} model{}; it has: {available}", did_you_mean(.nearest))]
    NoTarget {
        /// The target.
        target: String,
        /// The model's architecture.
        architecture: String,
        /// The nearest name that would match.
        nearest: Option<String>,
        /// Names that would match.
        available: String,
    },
    /// A pattern of a configuration matched no module that is adapted.
    #[error(
        "the pattern `{pattern}` in `{field}` matches no adapted module of this {architecture} model{}; adapted modules: {adapted}",
        did_you_mean(.nearest)
    )]
    NoModule {
        /// The field.
        field: &'static str,
        /// The pattern.
        pattern: String,
        /// The model's architecture.
        architecture: String,
        /// The nearest name that would match.
        nearest: Option<String>,
        /// Names of the modules that are adapted.
        adapted: String,
    },
    /// A configuration names a layer that the model lacks.
    #[error("`{field}` names layer {layer}; expected 0 to {last}, the layers of this {architecture} model")]
    NoSuchLayer {
        /// The field of the configuration.
        field: &'static str,
        /// The layer.
        layer: usize,
        /// The last layer of the model.
        last: usize,
        /// The model's architecture.
        architecture: String,
    },
    /// A method has no layer for a kind of site that it targets.
    #[error("{method} cannot act at `{path}`: {reason}")]
    CannotBuild {
        /// The method's family.
        method: &'static str,
        /// The site's path.
        path: String,
        /// The reason.
        reason: String,
    },
    /// The set has an adapter of that name.
    #[error("an adapter named `{name}` is already attached")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The set has no adapter of that name.
    #[error("no adapter named `{name}`{}; attached: {attached}", did_you_mean(.nearest))]
    NoSuchAdapter {
        /// The name.
        name: String,
        /// The nearest attached name.
        nearest: Option<String>,
        /// All attached names.
        attached: String,
    },
    /// A composition breaks the rules of nesting.
    #[error(transparent)]
    Composition(#[from] CompositionError),
    /// A composition is well formed, but one of its blocks has no meaning for one of its adapters.
    #[error("`{block}` cannot run with `{adapter}`: {reason}")]
    BlockNotRunnable {
        /// The block.
        block: String,
        /// The adapter.
        adapter: String,
        /// Why not.
        reason: &'static str,
    },
    /// A `Stack` puts an adapter on another whose addition it cannot read.
    #[error(
        "`{adapter}` cannot be stacked at `{path}`: {reason}; to add several adapters up, use an Average or \
         `Composition::sum`"
    )]
    CannotStack {
        /// The adapter on top.
        adapter: String,
        /// The site's path.
        path: String,
        /// What the adapter on top reads, and what the one below it in the `Stack` adds.
        reason: String,
    },
    /// A composition was checked against other adapters than those of the set.
    #[error(
        "`{composition}` was checked against another adapter set, or against this one before adapters were added, replaced \
         or removed; call `AdapterSet::composition` again"
    )]
    StaleComposition {
        /// The composition.
        composition: String,
    },
    /// A set is used on another model than its adapters were attached to.
    #[error("adapter `{adapter}` was attached to another model: expected {expected}, found {found}")]
    OtherModel {
        /// The adapter.
        adapter: String,
        /// What the model had that the adapter was attached to.
        expected: String,
        /// What this model has.
        found: String,
    },
    /// A model was given an input of another kind than it reads.
    #[error("a `{architecture}` model does not read {found}")]
    WrongInput {
        /// The model's architecture.
        architecture: String,
        /// What it was given, in words.
        found: &'static str,
    },
    /// Images are of another size than the model was made for.
    #[error(
        "a `{architecture}` model reads images of channels, height and width {expected:?}, found {found:?}; its positions \
         are not interpolated to other sizes"
    )]
    ImageSize {
        /// The model's architecture.
        architecture: String,
        /// Channels, height and width it reads.
        expected: [usize; 3],
        /// Those of the images.
        found: [usize; 3],
    },
    /// An adapter cannot be folded into the base weights.
    #[error("adapter `{adapter}` cannot be merged at `{path}`: {reason}")]
    NotMergeable {
        /// The adapter.
        adapter: String,
        /// The site's path.
        path: String,
        /// The reason.
        reason: &'static str,
    },
    /// Another adapter is already folded into the base weights.
    #[error("adapter `{merged}` is merged into this model; reset the model before `{adapter}` is merged or activated")]
    AlreadyMerged {
        /// The adapter to merge.
        adapter: String,
        /// The adapter that is merged.
        merged: String,
    },
}

impl Error {
    /// Wraps a method's own configuration error.
    pub fn config(method: &'static str, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::Config {
            method,
            source: Box::new(source),
        }
    }

    /// [`Error::Config`] for a method of this family.
    pub fn in_config<T, E>(family: &'static str, result: Result<T, E>) -> Result<T, Self>
    where
        E: StdError + Send + Sync + 'static,
    {
        result.map_err(|source| Self::config(family, source))
    }
}
