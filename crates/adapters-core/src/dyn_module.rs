//! A Burn [`Module`] behind object-safe calls.
//!
//! A module is not object safe: its visitors and mappers have const-generic methods. The boundary is crossed twice:
//!
//! - *outward*: [`Outward`] turns the rank-generic calls a concrete module makes into calls on the object-safe
//!   [`DynVisitor`] / [`DynMapper`], carrying each parameter as [`Any`] with its rank;
//! - *inward*: [`Inward`] takes the rank back to a const and calls the caller's own visitor or mapper.
//!
//! An adapter's layers use it ([`Erased`](crate::Erased)), and so can any other boxed module: a trait with methods that take
//! `&mut dyn DynVisitor`, `Box<Self>` with `&mut dyn DynMapper`, and a [`Transform`], implemented for every module.

use std::any::Any;
use std::fmt::Debug;

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor};

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

impl Transform<'_> {
    /// The module after the operation.
    pub fn of<M: Module>(self, module: M) -> M {
        match self {
            Self::Fork(device) => module.fork(device),
            Self::ToDevice(device) => module.to_device(device),
            Self::Train => module.train(),
            Self::Materialize => module.materialize(),
        }
    }
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
pub struct Outward<T>(pub T);
/// From the object-safe side to the caller's generic visitor or mapper.
#[derive(Debug)]
pub struct Inward<'a, T>(pub &'a mut T);

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
