//! Layers of any method behind one type. Method authors see none of it: [`Erased::new`] takes their module.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Debug;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, ParamId};
use burn::tensor::{Device, Tensor};

use crate::dyn_module::{DynMapper, DynVisitor, Inward, Outward, Transform};
use crate::method::layer::{Causality, Finisher, FusionQuery, NamedParams, NotMergeable, SiteAdapter};
use crate::method::shared::Shared;
use crate::pass::call::Call;
use crate::pass::state::HookState;

/// A boxed layer that is itself a [`Module`].
pub struct Erased<S: HookState>(Box<dyn ErasedLayer<S>>);

impl<S: HookState> Erased<S> {
    /// Boxes a method's layer.
    pub fn new<L>(layer: L) -> Self
    where
        L: Module + SiteAdapter<S> + Sync + 'static,
    {
        Self(Box::new(layer))
    }

    /// The layer, if it is of this type.
    pub fn downcast_ref<L: 'static>(&self) -> Option<&L> {
        self.0.as_any().downcast_ref()
    }

    /// See [`SiteAdapter::open`].
    pub fn open(&self, state: S) -> S {
        self.0.open(state)
    }

    /// See [`SiteAdapter::undo`].
    pub fn undo(&self, hidden: Tensor<3>, call: &Call<'_>) -> Tensor<3> {
        self.0.undo(hidden, call)
    }

    /// See [`SiteAdapter::apply`].
    pub fn apply(&self, state: S, call: &Call<'_>) -> S {
        self.0.apply(state, call)
    }

    /// The output of the hook, by the layer's own finisher or that of the state.
    pub fn finish(&self, state: S, call: &Call<'_>) -> S::Output {
        match self.0.finisher() {
            Some(finisher) => finisher.finish(state, call),
            None => state.finish(),
        }
    }

    /// See [`SiteAdapter::finisher`].
    pub fn finisher(&self) -> Option<&dyn Finisher<S>> {
        self.0.finisher()
    }

    /// See [`SiteAdapter::effect`].
    pub fn effect(&self) -> S::Effect {
        self.0.effect()
    }

    /// See [`SiteAdapter::causality`].
    pub fn causality(&self) -> Causality {
        self.0.causality()
    }

    /// See [`SiteAdapter::fusion_query`].
    pub fn fusion_query(&self) -> Option<FusionQuery> {
        self.0.fusion_query()
    }

    /// See [`SiteAdapter::borrowing`]; `None` for a layer of another type too.
    pub(crate) fn borrowing(&self, owner: &Self) -> Option<Self> {
        self.0.borrowing_dyn(owner.0.as_any()).map(Self)
    }

    /// See [`SiteAdapter::merged`].
    ///
    /// # Errors
    ///
    /// [`NotMergeable`] where the adapter is not a function of the weight.
    pub fn merged(&self, base: S::Weight, shared: &Shared) -> Result<S::Weight, NotMergeable> {
        self.0.merged(base, shared)
    }
}

impl<S: HookState> NamedParams for Erased<S> {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        self.0.named_params()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.0.fixed_params()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        self.0.index_limits()
    }
}

/// The object-safe face of a layer: what it does, and what Burn asks of a module.
trait ErasedLayer<S: HookState>: SiteAdapter<S> + Debug + Send + Sync {
    fn clone_dyn(&self) -> Box<dyn ErasedLayer<S>>;
    fn as_any(&self) -> &dyn Any;
    fn borrowing_dyn(&self, owner: &dyn Any) -> Option<Box<dyn ErasedLayer<S>>>;
    fn visit_dyn(&self, visitor: &mut dyn DynVisitor);
    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<dyn ErasedLayer<S>>;
    fn collect_devices_dyn(&self, devices: Vec<Device>) -> Vec<Device>;
    fn transform_dyn(self: Box<Self>, transform: Transform<'_>) -> Box<dyn ErasedLayer<S>>;
    fn valid_dyn(&self) -> Box<dyn ErasedLayer<S>>;
}

impl<S, L> ErasedLayer<S> for L
where
    S: HookState,
    L: Module + SiteAdapter<S> + Sync + 'static,
{
    fn clone_dyn(&self) -> Box<dyn ErasedLayer<S>> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn borrowing_dyn(&self, owner: &dyn Any) -> Option<Box<dyn ErasedLayer<S>>> {
        let layer = self.borrowing(owner.downcast_ref()?)?;
        Some(Box::new(layer))
    }

    fn visit_dyn(&self, visitor: &mut dyn DynVisitor) {
        self.visit(&mut Outward(visitor));
    }

    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<dyn ErasedLayer<S>> {
        Box::new((*self).map(&mut Outward(mapper)))
    }

    fn collect_devices_dyn(&self, devices: Vec<Device>) -> Vec<Device> {
        self.collect_devices(devices)
    }

    fn transform_dyn(self: Box<Self>, transform: Transform<'_>) -> Box<dyn ErasedLayer<S>> {
        Box::new(transform.of(*self))
    }

    fn valid_dyn(&self) -> Box<dyn ErasedLayer<S>> {
        Box::new(self.valid())
    }
}

impl<S: HookState> Clone for Erased<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone_dyn())
    }
}

impl<S: HookState> Debug for Erased<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

impl<S: HookState> Module for Erased<S> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.collect_devices_dyn(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self(self.0.transform_dyn(Transform::Fork(device)))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(self.0.transform_dyn(Transform::ToDevice(device)))
    }

    fn train(self) -> Self {
        Self(self.0.transform_dyn(Transform::Train))
    }

    fn valid(&self) -> Self {
        Self(self.0.valid_dyn())
    }

    fn materialize(self) -> Self {
        Self(self.0.transform_dyn(Transform::Materialize))
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit_dyn(&mut Inward(visitor));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Self(self.0.map_dyn(&mut Inward(mapper)))
    }
}

impl<S: HookState> ModuleDisplayDefault for Erased<S> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_debug_attribute("layer", &self.0).optional()
    }
}

impl<S: HookState> ModuleDisplay for Erased<S> {}
