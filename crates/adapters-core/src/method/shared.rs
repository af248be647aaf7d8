//! Parameters an adapter has once, for its layers at many sites.

use std::any::Any;
use std::borrow::Cow;

use adapters_module::{Boxed, BoxedKind, Boxes, DynModule};
use burn::module::{Module, ParamId};

use crate::method::named_params::NamedParams;

/// What the layers of an adapter share: a module of a type of its method, or of each of several methods.
///
/// The type is named by the layers that read it ([`SiteAdapter`](crate::SiteAdapter)), which find it in
/// [`Call::shared`](crate::Call). Burn's optimizer updates one parameter an id, so a parameter used at several sites must
/// be stored once.
#[derive(Module, Debug, Default)]
pub struct Shared {
    parts: Vec<Boxed<Part>>,
}

/// [`ErasedPart`] as a kind of boxed module.
#[derive(Clone, Copy, Debug)]
enum Part {}

impl BoxedKind for Part {
    type Dyn = dyn ErasedPart;
}

/// The shared parameters of one method, whatever their type.
trait ErasedPart: NamedParams + DynModule<Part> {
    fn as_any(&self) -> &dyn Any;
}

impl<P: Module + NamedParams + Sync + 'static> ErasedPart for P {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Module + NamedParams + Sync + 'static> Boxes<P> for Part {
    fn boxed(params: P) -> Box<dyn ErasedPart> {
        Box::new(params)
    }
}

impl Shared {
    /// Nothing shared.
    pub fn new() -> Self {
        Self::default()
    }

    /// The parameters of one method.
    pub fn of(params: impl Module + NamedParams + Sync + 'static) -> Self {
        Self {
            parts: vec![Boxed::of(params)],
        }
    }

    /// These parameters and those of another part of the adapter. Of two of one type, those of the first that has any: a
    /// union refuses members that share the same parameters.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for part in other.parts {
            let mut own = self.parts.iter_mut();
            match own.find(|own| own.as_any().type_id() == part.as_any().type_id()) {
                Some(own) if own.named_params().is_empty() => *own = part,
                Some(_) => {}
                None => self.parts.push(part),
            }
        }
        self
    }

    /// The parameters of type `P`; `None` for an adapter that was built without them. Nothing, `()`, is always there.
    pub fn get<P: 'static>(&self) -> Option<&P> {
        const NOTHING: &dyn Any = &();
        let parts = self.parts.iter().map(|part| part.as_any());
        parts.chain([NOTHING]).find_map(|part| part.downcast_ref())
    }

    /// Whether any of these parameters trains.
    pub fn trains(&self) -> bool {
        self.fixed_params().len() < self.named_params().len()
    }
}

impl NamedParams for Shared {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        self.parts.iter().flat_map(|part| part.named_params()).collect()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.parts.iter().flat_map(|part| part.fixed_params()).collect()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        self.parts.iter().flat_map(|part| part.index_limits()).collect()
    }
}
