//! What a method crate implements for one site: a Burn module that transforms the state of its hook.

use std::borrow::Cow;

use burn::module::ParamId;
use burn::tensor::Tensor;

use crate::erased::Erased;
use crate::fusion::FusionLayer;
use crate::method::shared::Shared;
use crate::pass::ctx::Call;
use crate::pass::state::{
    EmbeddingState, HiddenState, HookState, KeyValueState, LinearState, NormState, OutputState, TableState,
};

/// A method's layer at one site. `S` says which hook it serves.
///
/// An ordinary `#[derive(Module)]` struct implements this and [`NamedParams`]; everything else (erasure,
/// composition, storage, optimizer) follows from that.
pub trait SiteAdapter<S: HookState>: NamedParams {
    /// Prepares the state: what happens before this adapter, or before a block that it leads.
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

    /// Closes the site; called on the last adapter of a composition.
    fn finish(&self, state: S, _call: &Call<'_>) -> S::Output {
        state.finish()
    }

    /// Undoes, before the language-model head, what [`apply`](Self::apply) did to the embeddings. The identity where
    /// there is nothing to undo.
    fn undo(&self, hidden: Tensor<3>, _call: &Call<'_>) -> Tensor<3> {
        hidden
    }

    /// Whether it leaves the frozen layer and its input alone and only adds to what comes out: what an `Average` of adapters
    /// can take the mean of.
    fn keeps_layer(&self) -> bool {
        true
    }

    /// Whether what it does at a position depends on no later one, so that the keys and values of a position stay what they
    /// are while a text grows.
    fn is_causal(&self) -> bool {
        true
    }

    /// Whether [`finish`](Self::finish) is left as it is, so that adapters of different rows can be closed together. A layer
    /// that implements `finish` at a linear site must say no.
    fn closes_plainly(&self) -> bool {
        true
    }

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

/// What a fusion asks its questions with.
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
    Fusion(FusionLayer),
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
    /// See [`SiteAdapter::is_causal`].
    pub(crate) fn is_causal(&self) -> bool {
        match self {
            Self::Linear(layer) => layer.is_causal(),
            Self::Norm(layer) => layer.is_causal(),
            Self::Table(layer) => layer.is_causal(),
            Self::Hidden(layer) => layer.is_causal(),
            Self::KeyValue(layer) => layer.is_causal(),
            Self::Embedding(layer) => layer.is_causal(),
            Self::Output(layer) => layer.is_causal(),
            // A fusion mixes what its adapters did at one position.
            Self::Fusion(_) | Self::Shared(_) => true,
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
}
