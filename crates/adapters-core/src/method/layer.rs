//! What a method crate implements for one site: a Burn module that transforms the state of its hook.

use std::borrow::Cow;

use burn::module::ParamId;
use burn::tensor::Tensor;

use crate::erased::Erased;
use crate::method::shared::Shared;
use crate::pass::call::Call;
use crate::pass::state::{
    EmbeddingState, FusionState, HiddenState, HookState, KeyValueState, LinearState, NormState, OutputState, TableState,
};

/// A method's layer at one site. `S` says which hook it serves.
///
/// An ordinary `#[derive(Module)]` struct implements this and [`NamedParams`]; everything else (erasure,
/// composition, storage, optimizer) follows from that.
pub trait SiteAdapter<S: HookState>: NamedParams {
    /// Prepares the state: what happens before this adapter, or before a block of which it is the first.
    ///
    /// In a `Stack` every adapter is prepared for; the blocks whose children act side by side are prepared for once,
    /// by the first.
    fn open(&self, state: S) -> S {
        state
    }

    /// What this adapter alone does to the state.
    ///
    /// # Panics
    ///
    /// May panic on tensors whose shapes are not those of the site it was built for.
    fn apply(&self, state: S, call: &Call<'_>) -> S;

    /// The finisher of this layer, for one that computes the output of the hook in its own way. Called for the last
    /// adapter of a composition.
    fn finisher(&self) -> Option<&dyn Finisher<S>> {
        None
    }

    /// Undoes, before the language-model head, what [`apply`](Self::apply) did to the embeddings. The identity where
    /// there is nothing to undo.
    fn undo(&self, hidden: Tensor<3>, _call: &Call<'_>) -> Tensor<3> {
        hidden
    }

    /// What it does to a frozen layer: at sites of linear layers and embedding tables. Composition and activation go by it:
    /// a layer that does something else than it states here gives wrong outputs in blocks. The contract suite of the test
    /// kit compares it with what the layer does.
    fn effect(&self) -> S::Effect;

    /// Whether what it does at a position depends on later ones.
    fn causality(&self) -> Causality;

    /// What a fusion over this adapter asks its questions with; `None` for a layer that does not answer
    /// [`HiddenState::up`](crate::HiddenState) and so cannot be fused.
    fn fusion_query(&self) -> Option<FusionQuery> {
        None
    }

    /// This layer with those parameters of `owner`, a layer of the same method at the same site, that adapters may share;
    /// `None` if the method shares none.
    fn borrowing(&self, _owner: &Self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// The frozen layer with this adapter folded in, so that the plain layer computes the same.
    ///
    /// # Errors
    ///
    /// [`NotMergeable`] where the adapter is not a function of the weight.
    fn merged(&self, _base: S::Weight, _shared: &Shared) -> Result<S::Weight, NotMergeable> {
        Err(NotMergeable {
            reason: "this method changes activations and cannot be merged into a weight",
        })
    }
}

/// Computes the output of a hook from the state after the last adapter, in place of
/// [`HookState::finish`](crate::HookState).
pub trait Finisher<S: HookState> {
    /// The output of the hook.
    fn finish(&self, state: S, call: &Call<'_>) -> S::Output;
}

/// What a layer does at the site of a frozen layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Leaves the frozen layer and its input alone, and adds to what comes out (or, with a [`Finisher`], keeps in `delta`
    /// what that reads).
    Adds(Source),
    /// Changes the frozen layer, its input, or its output as a whole, and adds nothing.
    Changes,
    /// Changes the frozen layer, and adds to what comes out.
    ChangesAndAdds(Source),
}

/// What a layer computes its addition from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The input of the frozen layer: after another adapter the two additions are summed.
    Input,
    /// In a `Stack`, the addition of the adapter before it; the input of the frozen layer where there is none. Follows the
    /// reference. `width` is the number of features it must have, `None` where no addition at this site fits.
    Previous {
        /// Features of the addition it reads.
        width: Option<usize>,
    },
}

impl Effect {
    /// Whether it changes a frozen layer or what goes into it.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Adds(_))
    }

    /// What the addition is computed from; `None` for a layer that adds nothing.
    pub fn source(self) -> Option<Source> {
        match self {
            Self::Adds(source) | Self::ChangesAndAdds(source) => Some(source),
            Self::Changes => None,
        }
    }
}

/// Whether a layer looks ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causality {
    /// What it does at a position depends on no later one, so that the keys and values of a position stay what they are
    /// while a text grows.
    Causal,
    /// What it does at a position may depend on the whole sequence, as a gate does that is a mean over it. A decoder then
    /// generates without a cache.
    LooksAhead,
}

impl Causality {
    /// Looks ahead if there is a gate that is a mean over the sequence.
    pub fn of_gate<G>(gate: &Option<G>) -> Self {
        match gate {
            Some(_) => Self::LooksAhead,
            None => Self::Causal,
        }
    }
}

/// What a fusion computes its query from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusionQuery {
    /// What enters an adapter after its block: the hidden state, before or after the normalization as the fusion's
    /// configuration says.
    Hidden,
    /// What enters an adapter beside its block: what the block read.
    Beside,
}

/// The trained parameters of a layer under the names of its method (`"lora_A"`), which the storage formats
/// turn into keys. Rust field names never reach a file.
pub trait NamedParams {
    /// Name and id of each parameter, in storage order.
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)>;

    /// Which of them are stored and never trained.
    fn fixed_params(&self) -> Vec<ParamId> {
        Vec::new()
    }

    /// How many things each parameter of integers points into: one number, or one for each row of the parameter.
    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        Vec::new()
    }
}

/// Why a layer cannot be folded into the base weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotMergeable {
    /// The reason, in the method's words.
    pub reason: &'static str,
}

/// A method's layer of any kind, ready for an [`AdapterSet`](crate::AdapterSet).
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // One a site, and Burn has no module in a box.
pub enum SiteLayer {
    /// Acts at a linear layer.
    Linear(Erased<LinearState>),
    /// Acts on the parameters of a normalization.
    Norm(Erased<NormState>),
    /// Acts at an embedding table.
    Table(Erased<TableState>),
    /// Acts where a block joins the residual stream.
    Hidden(Erased<HiddenState>),
    /// Acts on keys and values.
    KeyValue(Erased<KeyValueState>),
    /// Acts on embedded tokens.
    Embedding(Erased<EmbeddingState>),
    /// Acts on a layer's output or the input of the language-model head.
    Output(Erased<OutputState>),
    /// Fuses what several adapters make of a hidden state.
    Fusion(Erased<FusionState>),
    /// At no site: what the layers of an adapter share.
    Shared(Shared),
}

/// Runs the same expression on the layer of whatever kind.
macro_rules! each_kind {
    ($value:expr, $layer:ident => $body:expr) => {
        match $value {
            $crate::method::layer::SiteLayer::Linear($layer) => $body,
            $crate::method::layer::SiteLayer::Norm($layer) => $body,
            $crate::method::layer::SiteLayer::Table($layer) => $body,
            $crate::method::layer::SiteLayer::Hidden($layer) => $body,
            $crate::method::layer::SiteLayer::KeyValue($layer) => $body,
            $crate::method::layer::SiteLayer::Embedding($layer) => $body,
            $crate::method::layer::SiteLayer::Output($layer) => $body,
            $crate::method::layer::SiteLayer::Fusion($layer) => $body,
            $crate::method::layer::SiteLayer::Shared($layer) => $body,
        }
    };
}

/// Runs the same expression on the layer of whatever kind and wraps the result in that kind again.
macro_rules! map_kind {
    ($value:expr, $layer:ident => $body:expr) => {
        match $value {
            $crate::method::layer::SiteLayer::Linear($layer) => $crate::method::layer::SiteLayer::Linear($body),
            $crate::method::layer::SiteLayer::Norm($layer) => $crate::method::layer::SiteLayer::Norm($body),
            $crate::method::layer::SiteLayer::Table($layer) => $crate::method::layer::SiteLayer::Table($body),
            $crate::method::layer::SiteLayer::Hidden($layer) => $crate::method::layer::SiteLayer::Hidden($body),
            $crate::method::layer::SiteLayer::KeyValue($layer) => $crate::method::layer::SiteLayer::KeyValue($body),
            $crate::method::layer::SiteLayer::Embedding($layer) => $crate::method::layer::SiteLayer::Embedding($body),
            $crate::method::layer::SiteLayer::Output($layer) => $crate::method::layer::SiteLayer::Output($body),
            $crate::method::layer::SiteLayer::Fusion($layer) => $crate::method::layer::SiteLayer::Fusion($body),
            $crate::method::layer::SiteLayer::Shared($layer) => $crate::method::layer::SiteLayer::Shared($body),
        }
    };
}

pub(crate) use {each_kind, map_kind};

impl SiteLayer {
    /// See [`SiteAdapter::causality`].
    pub(crate) fn causality(&self) -> Causality {
        match self {
            Self::Linear(layer) => layer.causality(),
            Self::Norm(layer) => layer.causality(),
            Self::Table(layer) => layer.causality(),
            Self::Hidden(layer) => layer.causality(),
            Self::KeyValue(layer) => layer.causality(),
            Self::Embedding(layer) => layer.causality(),
            Self::Output(layer) => layer.causality(),
            Self::Fusion(layer) => layer.causality(),
            Self::Shared(_) => Causality::Causal,
        }
    }

    /// See [`SiteAdapter::borrowing`].
    pub(crate) fn borrowing(&self, owner: &Self) -> Option<Self> {
        Some(match (self, owner) {
            (Self::Linear(layer), Self::Linear(owner)) => Self::Linear(layer.borrowing(owner)?),
            _ => return None,
        })
    }
}

impl NamedParams for SiteLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        each_kind!(self, layer => layer.named_params())
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        each_kind!(self, layer => layer.fixed_params())
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        each_kind!(self, layer => layer.index_limits())
    }
}
