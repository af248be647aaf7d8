//! Type erasure, all of it.
//!
//! A Burn [`Module`] is not object safe: its visitors and mappers have const-generic methods. A set holds
//! layers of any method, so the boundary is crossed here, twice:
//!
//! - *outward*: [`Outward`] turns the rank-generic calls a concrete module makes into calls on the object-safe
//!   [`DynVisitor`] / [`DynMapper`], carrying each parameter as [`Any`] with its rank;
//! - *inward*: [`Inward`] takes the rank back to a const and calls the caller's own visitor or mapper.
//!
//! Method authors see none of it: [`Erased::new`] takes their module.

use std::any::Any;
use std::borrow::Cow;
use std::fmt::Debug;

use burn::module::{
    Content, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId,
};
use burn::tensor::{Bool, Device, Int, Tensor};

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

/// The module operations that take and return the module.
enum Transform<'a> {
    Fork(&'a Device),
    ToDevice(&'a Device),
    Train,
    Materialize,
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
        Box::new(match transform {
            Transform::Fork(device) => self.fork(device),
            Transform::ToDevice(device) => self.to_device(device),
            Transform::Train => (*self).train(),
            Transform::Materialize => self.materialize(),
        })
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

/// The kind of a tensor parameter in transit.
#[derive(Clone, Copy)]
enum Kind {
    Float,
    Int,
    Bool,
}

/// Object-safe visitor: parameters arrive as `Param<Tensor<rank, kind>>` behind [`Any`].
trait DynVisitor {
    fn tensor(&mut self, kind: Kind, rank: usize, param: &dyn Any);
    fn flag(&mut self, flag: &Param<Flag>);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// Object-safe mapper: takes and returns the same boxed type.
trait DynMapper {
    fn tensor(&mut self, kind: Kind, rank: usize, param: Box<dyn Any>) -> Box<dyn Any>;
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// From a concrete module to the object-safe side.
struct Outward<T>(T);
/// From the object-safe side to the caller's generic visitor or mapper.
struct Inward<'a, T>(&'a mut T);

impl ModuleVisitor for Outward<&mut dyn DynVisitor> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.tensor(Kind::Float, D, param);
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.tensor(Kind::Int, D, param);
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.tensor(Kind::Bool, D, param);
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.flag(flag);
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// The mapper returned what it was given, of the same type: both ends of the crossing are in this file.
fn unbox<T: 'static>(param: Box<dyn Any>) -> T {
    *param
        .downcast()
        .expect("a mapper returns a parameter of the type it was given")
}

impl ModuleMapper for Outward<&mut dyn DynMapper> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        unbox(self.0.tensor(Kind::Float, D, Box::new(param)))
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        unbox(self.0.tensor(Kind::Int, D, Box::new(param)))
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        unbox(self.0.tensor(Kind::Bool, D, Box::new(param)))
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.flag(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// Takes a runtime rank back to a const; Burn has ranks up to eight.
macro_rules! with_rank {
    ($rank:expr, $d:ident => $body:expr) => {
        with_rank!(@ $rank, $d => $body; 0 1 2 3 4 5 6 7 8)
    };
    (@ $rank:expr, $d:ident => $body:expr; $($n:literal)*) => {
        match $rank {
            $($n => { const $d: usize = $n; $body })*
            other => unreachable!("Burn has no parameter of rank {other}"),
        }
    };
}

impl<V: ModuleVisitor> DynVisitor for Inward<'_, V> {
    fn tensor(&mut self, kind: Kind, rank: usize, param: &dyn Any) {
        const SAME: &str = "kind and rank name the parameter's type";
        with_rank!(rank, D => match kind {
            Kind::Float => self.0.visit_float::<D>(param.downcast_ref().expect(SAME)),
            Kind::Int => self.0.visit_int::<D>(param.downcast_ref().expect(SAME)),
            Kind::Bool => self.0.visit_bool::<D>(param.downcast_ref().expect(SAME)),
        });
    }
    fn flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> DynMapper for Inward<'_, M> {
    fn tensor(&mut self, kind: Kind, rank: usize, param: Box<dyn Any>) -> Box<dyn Any> {
        with_rank!(rank, D => match kind {
            Kind::Float => Box::new(self.0.map_float::<D>(unbox(param))),
            Kind::Int => Box::new(self.0.map_int::<D>(unbox(param))),
            Kind::Bool => Box::new(self.0.map_bool::<D>(unbox(param))),
        })
    }
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}
