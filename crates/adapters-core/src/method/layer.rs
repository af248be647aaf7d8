//! What a method crate implements for one site: a Burn module that transforms the state of its hook.

use burn::tensor::Tensor;

use crate::method::named_params::NamedParams;
use crate::pass::call::Call;
use crate::pass::state::{FusionQuery, HookState};

/// A method's layer at one site. `S` says which hook it serves, and `P` is the type of the parameters that it shares with the
/// other layers of its adapter: what [`SharedParameters::build_shared`](crate::SharedParameters::build_shared) builds; `()`
/// for most methods, whose layers share nothing.
///
/// An ordinary `#[derive(Module)]` struct implements this and [`NamedParams`]; everything else (erasure,
/// composition, storage, optimizer) follows from that.
pub trait SiteAdapter<S: HookState, P = ()>: NamedParams {
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
    fn apply(&self, state: S, call: &Call<'_, P>) -> S;

    /// The finisher of this layer, for one that computes the output of the hook in its own way. Called for the last
    /// adapter of a composition.
    fn finisher(&self) -> Option<&dyn Finisher<S, P>> {
        None
    }

    /// Undoes, before the language-model head, what [`apply`](Self::apply) did to the embeddings. The identity where
    /// there is nothing to undo.
    fn undo(&self, hidden: Tensor<3>, _call: &Call<'_, P>) -> Tensor<3> {
        hidden
    }

    /// What it does to a frozen layer: at sites of linear layers and embedding tables. Composition and activation go by it:
    /// a layer that does something else than it states here gives wrong outputs in blocks. The contract suite of the test
    /// kit compares it with what the layer does.
    fn effect(&self) -> S::Effect;

    /// Whether what it does at a position depends on later ones.
    fn causality(&self) -> Causality;

    /// What a fusion over this adapter computes its queries from; `None` for a layer that does not set
    /// [`HiddenState::addition`](crate::HiddenState) and so cannot be fused.
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
    fn merged(&self, _base: S::Weight, _shared: &P) -> Result<S::Weight, NotMergeable> {
        Err(NotMergeable {
            reason: "this method changes activations and cannot be merged into a weight",
        })
    }
}

/// Computes the output of a hook from the state after the last adapter, in place of
/// [`HookState::finish`](crate::HookState).
pub trait Finisher<S: HookState, P = ()> {
    /// The output of the hook.
    fn finish(&self, state: S, call: &Call<'_, P>) -> S::Output;
}

/// What of a text a layer reads to change a position, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Causality {
    /// What it does at a position depends on no later one, so that the keys and values of a position stay what they are
    /// while a text grows.
    Causal,
    /// What it does at a position depends on no later one, but on where the prompt ends, as with positions that are counted from
    /// its end. A decoder keeps keys and values while it generates, and not for a longer prompt.
    DependsOnPrompt,
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

/// Why a layer cannot be folded into the base weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotMergeable {
    /// The reason, in the method's words.
    pub reason: &'static str,
}
