//! A method's layer of any kind, as a set holds it.

use std::borrow::Cow;

use burn::module::{Module, ParamId};

use crate::erased::Erased;
use crate::method::layer::Causality;
use crate::method::named_params::NamedParams;
use crate::method::shared::Shared;
use crate::pass::state::{
    ConvolutionState, EmbeddingState, FusionState, HiddenState, HookState, KeyValueState, LinearState, MatricesState,
    NormState, OutputState, TableState,
};

/// A method's layer of any kind, ready for an [`AdapterSet`](crate::AdapterSet).
#[derive(Module, Debug)]
pub enum SiteLayer {
    /// Acts at a linear layer.
    Linear(Erased<LinearState>),
    /// Acts on the parameters of a normalization.
    Norm(Erased<NormState>),
    /// Acts at an embedding table.
    Table(Erased<TableState>),
    /// Acts at a convolution in groups.
    Convolution(Erased<ConvolutionState>),
    /// Acts on matrices in one parameter.
    Matrices(Erased<MatricesState>),
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

/// A state whose layers are one kind of [`SiteLayer`].
pub(crate) trait SiteState: HookState {
    /// The layer of this kind that `layer` holds, if it is one.
    fn of(layer: &SiteLayer) -> Option<&Erased<Self>>;
}

/// Runs an expression on the layer of whatever kind, and implements [`SiteState`] for the states of the kinds.
macro_rules! kinds {
    ($($kind:ident: $state:ty),*) => {
        $(impl SiteState for $state {
            fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
                match layer {
                    SiteLayer::$kind(layer) => Some(layer),
                    _ => None,
                }
            }
        })*

        impl SiteLayer {
            /// See [`SiteAdapter::causality`](crate::SiteAdapter::causality).
            pub(crate) fn causality(&self) -> Causality {
                match self {
                    $(Self::$kind(layer) => layer.causality(),)*
                    Self::Shared(_) => Causality::Causal,
                }
            }

            /// Whether `shared` has the parameters that the layer reads.
            pub(crate) fn reads(&self, shared: &Shared) -> bool {
                match self {
                    $(Self::$kind(layer) => layer.reads(shared),)*
                    Self::Shared(_) => true,
                }
            }

            fn named(&self) -> &dyn NamedParams {
                match self {
                    $(Self::$kind(layer) => &**layer,)*
                    Self::Shared(shared) => shared,
                }
            }
        }
    };
}

kinds!(
    Linear: LinearState,
    Norm: NormState,
    Table: TableState,
    Convolution: ConvolutionState,
    Matrices: MatricesState,
    Hidden: HiddenState,
    KeyValue: KeyValueState,
    Embedding: EmbeddingState,
    Output: OutputState,
    Fusion: FusionState
);

impl SiteLayer {
    /// See [`SiteAdapter::borrowing`](crate::SiteAdapter::borrowing).
    pub(crate) fn borrowing(&self, owner: &Self) -> Option<Self> {
        Some(match (self, owner) {
            (Self::Linear(layer), Self::Linear(owner)) => Self::Linear(layer.borrowing(owner)?),
            _ => return None,
        })
    }
}

impl NamedParams for SiteLayer {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        self.named().named_params()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.named().fixed_params()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        self.named().index_limits()
    }
}
