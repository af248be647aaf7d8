//! What only some methods need, each a trait that a method opts into through [`Capabilities`].

use adapters_sites::SiteInfo;
use burn::tensor::Tensor;

use crate::error::Error;
use crate::host::Host;
use crate::method::any::{AnyMethod, Encode};
use crate::method::build::Build;
use crate::method::schedule::TrainingSchedule;
use crate::method::shared::Shared;
use crate::method::site_layer::SiteLayer;
use crate::pass::state::Inserted;
use crate::set::attached::Attached;
use adapters_config::Format;

/// The optional abilities of a method. It implements the trait and returns itself:
/// `Capabilities { shared: Some(self), ..Capabilities::default() }`.
#[derive(Clone, Copy, Default)]
pub struct Capabilities<'a> {
    /// Layers share parameters.
    pub shared: Option<&'a dyn SharedParameters>,
    /// Training follows a schedule.
    pub schedule: Option<&'a dyn Scheduled>,
    /// Training adds a penalty to the loss.
    pub penalty: Option<&'a dyn Penalized>,
    /// Some parameters may learn faster than the rest.
    pub faster: Option<&'a dyn LearnsFaster>,
    /// Some modules have values of their own.
    pub patterns: Option<&'a dyn ModulePatterns>,
    /// The update has a constant for a factor.
    pub scaled: Option<&'a dyn ScalesUpdate>,
    /// Tokens are inserted, or positions shifted.
    pub embeddings: Option<&'a dyn EditsEmbeddings>,
    /// The configuration holds text that only a tokenizer turns into tokens.
    pub tokenizer: Option<&'a dyn NeedsTokenizer>,
    /// What acts at an embedding table acts on a head whose weight it is, too.
    pub tied: Option<&'a dyn TiesHead>,
    /// Files hold the adapter in another way than it trains.
    pub storage: Option<&'a dyn ConvertsForStorage>,
    /// It does something else for each task.
    pub tasks: Option<&'a dyn KnowsTasks>,
    /// Its initial values follow from what its layers read, and are to be computed.
    pub from_inputs: Option<&'a dyn StartsFromInputs>,
    /// It weighs what other adapters add.
    pub routes: Option<&'a dyn RoutesAdapters>,
    /// It acts from some tokens of the text on.
    pub invoked: Option<&'a dyn BeginsWhereInvoked>,
    /// Of the tokens it inserts some are predicted in training.
    pub context: Option<&'a dyn LearnsContext>,
}

/// A method that weighs what other adapters add to the outputs of linear layers. It acts in a `Fuse` block of them, under its own
/// name, and is attached after them.
pub trait RoutesAdapters {
    /// The names of the adapters, in the order of the block.
    fn adapters(&self) -> Vec<String>;

    /// The method with what it takes from its adapters, which act at `sites`.
    ///
    /// # Errors
    ///
    /// [`Error::CannotFuse`] for adapters that it cannot weigh.
    fn over(&self, adapters: &[&Attached], sites: &[SiteInfo]) -> Result<AnyMethod, Error>;

    /// Whether it reads the last hidden state of an earlier pass ([`Pass::base`](crate::Pass::base)): of the model without
    /// adapters, or of one in which the router has no such state and weighs all alike.
    fn reads_base(&self) -> Option<BasePass> {
        None
    }

    /// Whether its adapters train, too.
    fn trains_adapters(&self) -> bool {
        true
    }
}

/// The pass whose last hidden state a router reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasePass {
    /// Of the model without adapters.
    Plain,
    /// With all adapters of the router.
    WithAdapters,
}

/// A method whose layers share parameters.
pub trait SharedParameters {
    /// Builds what the layers share.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] where the model has no sizes for it.
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error>;

    /// Whether a shared parameter of that name belongs to this method. A union looks up the owner of each by it.
    fn owns(&self, param: &str) -> bool;
}

/// A method that changes parameters between optimizer steps.
pub trait Scheduled {
    /// The schedule of an adapter for a training run of `steps` steps.
    fn schedule(&self, adapter: &Attached, steps: u64) -> Box<dyn TrainingSchedule>;
}

/// A method that adds a term to the loss.
pub trait Penalized {
    /// What training adds to the loss; `None` where the configuration turns it off.
    fn penalty(&self, adapter: &Attached) -> Option<Tensor<1>>;
}

/// A method that has parameters for which a higher learning rate than that of the rest is published.
pub trait LearnsFaster {
    /// Whether the parameter of that name is one of them.
    fn learns_faster(&self, param: &str) -> bool;
}

/// A method whose configuration gives some modules values of their own, as LoRA's `rank_pattern` does.
pub trait ModulePatterns {
    /// The field and the pattern of each such value, as [`pattern_value`](crate::target::pattern_value) reads them.
    fn patterns(&self) -> Vec<(&'static str, &str)>;
}

/// A method whose update is the product of parameters and a constant, which follows from the configuration.
pub trait ScalesUpdate {
    /// The constant at a site, if the update is linear in the parameter of that name; `None` for others, so that the constant is
    /// counted once.
    ///
    /// # Errors
    ///
    /// [`Error::TargetPattern`] for a pattern that is not a regular expression.
    fn update_scale(&self, site: &SiteInfo, param: &str) -> Result<Option<f64>, Error>;
}

/// A method that changes how many positions a sequence has.
pub trait EditsEmbeddings {
    /// What an adapter inserts among the embedded tokens of every row.
    fn inserts(&self) -> Option<Inserted> {
        None
    }

    /// The position id of the first token: how many positions count as taken although no token is there.
    fn first_position(&self) -> usize {
        0
    }

    /// How many of the model's positions an adapter takes from the text, where those are limited.
    fn positions(&self) -> usize;
}

/// A method whose configuration may hold text.
pub trait NeedsTokenizer {
    /// This configuration with its text as token ids of the model; `None` where it has no text.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a text without a token, or what `encode` returns.
    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error>;
}

/// A method whose layers at an embedding table act on a language-model head, too, where the head has the table for its weight.
pub trait TiesHead {
    /// The layer, with the same parameters, at such a head; `None` where the head is left alone.
    fn on_tied_head(&self, table: &SiteLayer, head: &SiteInfo) -> Option<SiteLayer>;

    /// The layer, with the same parameters, where the table is read under another name; `None` where it does not act there.
    fn on_tied_table(&self, _table: &SiteLayer) -> Option<SiteLayer> {
        None
    }
}

/// A method whose adapters are stored in another way than they train.
pub trait ConvertsForStorage {
    /// The adapter as files of a format hold it; `None` where that is how it trains.
    ///
    /// # Errors
    ///
    /// Those of building the adapter that is stored.
    fn to_storage(&self, _format: Format, _adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        Ok(None)
    }

    /// The adapter as it trains, from one whose values are those of files or were computed from them, as averages are;
    /// `None` where the two are the same.
    fn restored(&self, _adapter: &Attached) -> Option<Attached> {
        None
    }
}

/// A method whose initial values follow from what the layers it adapts read, or from the gradients of their weights.
pub trait StartsFromInputs {
    /// A method that computes nothing, and whose layers remember what the layers that this one adapts read.
    ///
    /// # Errors
    ///
    /// Those of a configuration.
    fn recorder(&self) -> Result<AnyMethod, Error>;

    /// Whether what it follows from are gradients. The recorder's parameters are zero and stand for changes of the weights; what
    /// [`started`](Self::started) gets in their place are the sums of their gradients.
    fn reads_gradients(&self) -> bool {
        false
    }

    /// The method with its initial values, from an adapter of the [`recorder`](Self::recorder) that was active in some passes.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] for a layer that nothing has reached.
    fn started(&self, recorded: &Attached, host: &dyn Host) -> Result<AnyMethod, Error>;
}

/// A method that acts on the end of a text, from tokens on that invoke it: what is before is computed by the model alone.
pub trait BeginsWhereInvoked {
    /// The first token of a prompt that it acts on; their number where it does not.
    fn begins(&self, tokens: &[u32]) -> usize;
}

/// A method whose inserted tokens hold answers, which are predicted in training as those of the text are.
pub trait LearnsContext {
    /// The inserted tokens that are predicted, each from the one before it.
    fn predicted(&self) -> Vec<ContextTarget>;
}

/// An inserted token that is predicted in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContextTarget {
    /// Its place among the inserted tokens, at least 1.
    pub index: usize,
    /// Its id.
    pub token: u32,
    /// What its loss counts next to that of a token of the text.
    pub weight: f64,
}

/// A method that needs to be told the task of each row, by [`Ctx::with_tasks`](crate::Ctx::with_tasks).
pub trait KnowsTasks {
    /// How many tasks it tells apart.
    fn tasks(&self) -> usize;
}
