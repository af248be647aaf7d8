//! A Burn [`Module`] behind object-safe calls.
//!
//! A module is not object safe: its visitors and mappers have const-generic methods. The boundary is crossed twice:
//!
//! - *outward*: [`Outward`] turns the rank-generic calls a concrete module makes into calls on the object-safe
//!   [`DynVisitor`] / [`DynMapper`], carrying each parameter as [`Any`] with its rank;
//! - *inward*: [`Inward`] takes the rank back to a const and calls the caller's own visitor or mapper.
//!
//! [`Boxed`] is a module in a box, of any trait whose supertrait is [`DynModule`]: an adapter's layer,
//! what its layers share, a model. [`transparent_module!`](crate::transparent_module) makes a
//! struct the module that one of its fields is.

use std::any::Any;
use std::fmt::{self, Debug};
use std::ops::{Deref, DerefMut};

use burn::module::{Content, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor};

/// Names a trait whose objects are modules, for [`Boxed`].
pub trait BoxedKind: 'static {
    /// The trait object.
    type Dyn: ?Sized + DynModule<Self>;
}

/// A kind of boxes that modules of type `M` can be put in.
pub trait Boxes<M>: BoxedKind {
    /// The module in a box.
    fn boxed(module: M) -> Box<Self::Dyn>;
}

/// A [`Module`] of a type that is not known. Implemented for every module that can be put in the box.
pub trait DynModule<K: BoxedKind + ?Sized>: Debug + Send + Sync {
    /// [`Clone::clone`]
    fn clone_dyn(&self) -> Box<K::Dyn>;
    /// [`Module::valid`]
    fn valid_dyn(&self) -> Box<K::Dyn>;
    /// [`Module::collect_devices`]
    fn collect_devices_dyn(&self, devices: Vec<Device>) -> Vec<Device>;
    /// The module after an operation.
    fn transform_dyn(self: Box<Self>, transform: Transform<'_>) -> Box<K::Dyn>;
    /// [`Module::visit`]
    fn visit_dyn(&self, visitor: &mut dyn DynVisitor);
    /// [`Module::map`]
    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<K::Dyn>;
}

impl<K: Boxes<M>, M: Module + Sync> DynModule<K> for M {
    fn clone_dyn(&self) -> Box<K::Dyn> {
        K::boxed(self.clone())
    }

    fn valid_dyn(&self) -> Box<K::Dyn> {
        K::boxed(self.valid())
    }

    fn collect_devices_dyn(&self, devices: Vec<Device>) -> Vec<Device> {
        self.collect_devices(devices)
    }

    fn transform_dyn(self: Box<Self>, transform: Transform<'_>) -> Box<K::Dyn> {
        let module = *self;
        K::boxed(match transform {
            Transform::Fork(device) => module.fork(device),
            Transform::ToDevice(device) => module.to_device(device),
            Transform::Train => module.train(),
            Transform::Materialize => module.materialize(),
        })
    }

    fn visit_dyn(&self, visitor: &mut dyn DynVisitor) {
        self.visit(&mut Outward(visitor));
    }

    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<K::Dyn> {
        K::boxed((*self).map(&mut Outward(mapper)))
    }
}

/// A module in a box, which is itself a [`Module`]. It dereferences to the trait of its kind.
pub struct Boxed<K: BoxedKind>(Box<K::Dyn>);

impl<K: BoxedKind> Boxed<K> {
    /// Boxes a module.
    pub fn of<M>(module: M) -> Self
    where
        K: Boxes<M>,
    {
        Self(K::boxed(module))
    }
}

impl<K: BoxedKind> Deref for Boxed<K> {
    type Target = K::Dyn;

    fn deref(&self) -> &K::Dyn {
        &self.0
    }
}

impl<K: BoxedKind> DerefMut for Boxed<K> {
    fn deref_mut(&mut self) -> &mut K::Dyn {
        &mut self.0
    }
}

impl<K: BoxedKind> Clone for Boxed<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone_dyn())
    }
}

impl<K: BoxedKind> Debug for Boxed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: BoxedKind> Module for Boxed<K> {
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

impl<K: BoxedKind> ModuleDisplayDefault for Boxed<K> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_debug_attribute("module", &self.0).optional()
    }
}

impl<K: BoxedKind> ModuleDisplay for Boxed<K> {}

/// Makes a struct the [`Module`] that one of its fields is: the paths of its parameters are those of the field.
/// `transparent_module!(impl[L: Module] Sited<L>, layer);` for `struct Sited<L> { layer: L, .. }`.
#[macro_export]
macro_rules! transparent_module {
    (impl[$($generics:tt)*] $type:ty, $field:tt) => {
        #[allow(clippy::needless_update, reason = "the field may be the only one")]
        impl<$($generics)*> burn::module::Module for $type {
            fn collect_devices(&self, devices: Vec<burn::tensor::Device>) -> Vec<burn::tensor::Device> {
                self.$field.collect_devices(devices)
            }

            fn fork(self, device: &burn::tensor::Device) -> Self {
                Self { $field: self.$field.fork(device), ..self }
            }

            fn to_device(self, device: &burn::tensor::Device) -> Self {
                Self { $field: self.$field.to_device(device), ..self }
            }

            fn train(self) -> Self {
                Self { $field: self.$field.train(), ..self }
            }

            fn valid(&self) -> Self {
                Self { $field: self.$field.valid(), ..self.clone() }
            }

            fn materialize(self) -> Self {
                Self { $field: self.$field.materialize(), ..self }
            }

            fn visit<V: burn::module::ModuleVisitor>(&self, visitor: &mut V) {
                self.$field.visit(visitor);
            }

            fn map<M: burn::module::ModuleMapper>(self, mapper: &mut M) -> Self {
                Self { $field: self.$field.map(mapper), ..self }
            }
        }
    };
}

/// The module operations that take and return the module.
#[derive(Clone, Copy, Debug)]
pub enum Transform<'a> {
    /// [`Module::fork`]
    Fork(&'a Device),
    /// [`Module::to_device`]
    ToDevice(&'a Device),
    /// [`Module::train`]
    Train,
    /// [`Module::materialize`]
    Materialize,
}

/// The kind of a tensor parameter in transit.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Floats.
    Float,
    /// Integers.
    Int,
    /// Booleans.
    Bool,
}

/// Object-safe visitor: parameters arrive as `Param<Tensor<rank, kind>>` behind [`Any`].
pub trait DynVisitor {
    /// A tensor parameter.
    fn tensor(&mut self, kind: Kind, rank: usize, param: &dyn Any);
    /// A flag.
    fn flag(&mut self, flag: &Param<Flag>);
    /// [`ModuleVisitor::enter_module`]
    fn enter(&mut self, name: &str, container: &str);
    /// [`ModuleVisitor::exit_module`]
    fn exit(&mut self, name: &str, container: &str);
}

/// Object-safe mapper: takes and returns the same boxed type.
pub trait DynMapper {
    /// A tensor parameter.
    fn tensor(&mut self, kind: Kind, rank: usize, param: Box<dyn Any>) -> Box<dyn Any>;
    /// A flag.
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    /// [`ModuleVisitor::enter_module`]
    fn enter(&mut self, name: &str, container: &str);
    /// [`ModuleVisitor::exit_module`]
    fn exit(&mut self, name: &str, container: &str);
}

/// From a concrete module to the object-safe side.
#[derive(Debug)]
pub(crate) struct Outward<T>(pub T);
/// From the object-safe side to the caller's generic visitor or mapper.
#[derive(Debug)]
pub(crate) struct Inward<'a, T>(pub &'a mut T);

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

/// The parameter in a box.
#[expect(
    clippy::expect_used,
    reason = "a mapper returns what it was given: both ends of the crossing are in this file"
)]
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
            // The rank is that of a tensor.
            other => unreachable!("Burn has no parameter of rank {other}"),
        }
    };
}

impl<V: ModuleVisitor> DynVisitor for Inward<'_, V> {
    #[expect(
        clippy::expect_used,
        reason = "the visitor at the other end named the kind and rank of this parameter"
    )]
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
