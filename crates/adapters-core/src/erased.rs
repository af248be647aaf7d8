//! Layers of any method behind one type. Method authors see none of it: [`Erased::new`] takes their module.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::Deref;

use adapters_module::{Boxed, BoxedKind, Boxes, DynModule, transparent_module};
use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ParamId};
use burn::tensor::Tensor;

use crate::method::layer::{Causality, NotMergeable, SiteAdapter};
use crate::method::named_params::NamedParams;
use crate::method::shared::Shared;
use crate::pass::call::Call;
use crate::pass::state::{FusionQuery, HookState};

/// A boxed layer that is itself a [`Module`]. It dereferences to [`ErasedLayer`], which has every function.
#[derive(Clone, Debug)]
pub struct Erased<S: HookState>(Boxed<Layer<S>>);

transparent_module!(impl[S: HookState] Erased<S>, 0);

impl<S: HookState> ModuleDisplayDefault for Erased<S> {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content(content)
    }
}

impl<S: HookState> ModuleDisplay for Erased<S> {}

impl<S: HookState> Deref for Erased<S> {
    type Target = dyn ErasedLayer<S>;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// [`ErasedLayer`] as a kind of boxed module.
#[derive(Debug)]
pub struct Layer<S>(PhantomData<fn() -> S>);

impl<S: HookState> BoxedKind for Layer<S> {
    type Dyn = dyn ErasedLayer<S>;
}

impl<S: HookState> Erased<S> {
    /// Boxes a method's layer.
    pub fn new<L, P>(layer: L) -> Self
    where
        L: Module + SiteAdapter<S, P> + Sync + 'static,
        P: 'static,
    {
        let reads = PhantomData::<fn() -> P>;
        Self(Boxed::of(Reading { layer, reads }))
    }

    /// The layer, if it is of this type.
    pub fn downcast_ref<L: 'static>(&self) -> Option<&L> {
        self.layer().downcast_ref()
    }

    /// See [`SiteAdapter::borrowing`]; `None` for a layer of another type too.
    pub(crate) fn borrowing(&self, owner: &Self) -> Option<Self> {
        self.borrowing_dyn(owner.layer())
    }
}

/// What a layer of any type does: the functions of [`SiteAdapter`], with the shared parameters of the whole adapter.
pub trait ErasedLayer<S: HookState>: NamedParams + DynModule<Layer<S>> {
    /// The layer.
    fn layer(&self) -> &dyn Any;

    /// Whether `shared` has the parameters that the layer reads. Without them it leaves the state as it is.
    fn reads(&self, shared: &Shared) -> bool;

    /// See [`SiteAdapter::open`].
    fn open(&self, state: S) -> S;

    /// See [`SiteAdapter::apply`].
    fn apply(&self, state: S, call: &Call<'_, Shared>) -> S;

    /// The output of the hook, by the layer's own finisher or that of the state.
    fn finish(&self, state: S, call: &Call<'_, Shared>) -> S::Output;

    /// Whether the layer has a finisher of its own.
    fn has_finisher(&self) -> bool;

    /// See [`SiteAdapter::undo`].
    fn undo(&self, hidden: Tensor<3>, call: &Call<'_, Shared>) -> Tensor<3>;

    /// See [`SiteAdapter::effect`].
    fn effect(&self) -> S::Effect;

    /// See [`SiteAdapter::causality`].
    fn causality(&self) -> Causality;

    /// See [`SiteAdapter::fusion_query`].
    fn fusion_query(&self) -> Option<FusionQuery>;

    /// See [`SiteAdapter::borrowing`]; `None` for a layer of another type too.
    fn borrowing_dyn(&self, owner: &dyn Any) -> Option<Erased<S>>;

    /// See [`SiteAdapter::merged`].
    ///
    /// # Errors
    ///
    /// [`NotMergeable`] where the adapter is not a function of the weight.
    fn merged(&self, base: S::Weight, shared: &Shared) -> Result<S::Weight, NotMergeable>;
}

/// A layer that reads shared parameters of type `P`.
struct Reading<L, P> {
    layer: L,
    reads: PhantomData<fn() -> P>,
}

impl<L: Clone, P> Clone for Reading<L, P> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            reads: PhantomData,
        }
    }
}

impl<L: Debug, P> Debug for Reading<L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.layer.fmt(f)
    }
}

transparent_module!(impl[L: Module, P] Reading<L, P>, layer);

impl<L: NamedParams, P> NamedParams for Reading<L, P> {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        self.layer.named_params()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.layer.fixed_params()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        self.layer.index_limits()
    }
}

impl<S, L, P> Boxes<Reading<L, P>> for Layer<S>
where
    S: HookState,
    L: Module + SiteAdapter<S, P> + Sync + 'static,
    P: 'static,
{
    fn boxed(layer: Reading<L, P>) -> Box<dyn ErasedLayer<S>> {
        Box::new(layer)
    }
}

impl<S, L, P> ErasedLayer<S> for Reading<L, P>
where
    S: HookState,
    L: Module + SiteAdapter<S, P> + Sync + 'static,
    P: 'static,
{
    fn layer(&self) -> &dyn Any {
        &self.layer
    }

    fn reads(&self, shared: &Shared) -> bool {
        shared.get::<P>().is_some()
    }

    fn open(&self, state: S) -> S {
        self.layer.open(state)
    }

    fn apply(&self, state: S, call: &Call<'_, Shared>) -> S {
        match call.reading() {
            Some(call) => self.layer.apply(state, &call),
            None => state,
        }
    }

    fn finish(&self, state: S, call: &Call<'_, Shared>) -> S::Output {
        match (self.layer.finisher(), call.reading()) {
            (Some(finisher), Some(call)) => finisher.finish(state, &call),
            _ => state.finish(),
        }
    }

    fn has_finisher(&self) -> bool {
        self.layer.finisher().is_some()
    }

    fn undo(&self, hidden: Tensor<3>, call: &Call<'_, Shared>) -> Tensor<3> {
        match call.reading() {
            Some(call) => self.layer.undo(hidden, &call),
            None => hidden,
        }
    }

    fn effect(&self) -> S::Effect {
        self.layer.effect()
    }

    fn causality(&self) -> Causality {
        self.layer.causality()
    }

    fn fusion_query(&self) -> Option<FusionQuery> {
        self.layer.fusion_query()
    }

    fn borrowing_dyn(&self, owner: &dyn Any) -> Option<Erased<S>> {
        self.layer.borrowing(owner.downcast_ref()?).map(Erased::new)
    }

    fn merged(&self, base: S::Weight, shared: &Shared) -> Result<S::Weight, NotMergeable> {
        self.layer.merged(base, shared.get().ok_or(NOT_SHARED)?)
    }
}

/// Why a layer cannot be merged without the shared parameters that it reads.
const NOT_SHARED: NotMergeable = NotMergeable {
    reason: "its adapter has no shared parameters of the type that its layers read",
};
