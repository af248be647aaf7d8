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
    modules: Vec<Boxed<SharedModule>>,
}

/// [`ErasedShared`] as a kind of boxed module.
#[derive(Clone, Copy, Debug)]
enum SharedModule {}

impl BoxedKind for SharedModule {
    type Dyn = dyn ErasedShared;
}

/// The shared parameters of one method, whatever their type.
trait ErasedShared: NamedParams + DynModule<SharedModule> {
    fn as_any(&self) -> &dyn Any;
}

impl<P: Module + NamedParams + Sync + 'static> ErasedShared for P {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<P: Module + NamedParams + Sync + 'static> Boxes<P> for SharedModule {
    fn boxed(params: P) -> Box<dyn ErasedShared> {
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
            modules: vec![Boxed::of(params)],
        }
    }

    /// These parameters and those of another method of the adapter. Of two of one type, those of the first that has any: a
    /// union refuses members that share the same parameters.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for module in other.modules {
            let mut own = self.modules.iter_mut();
            match own.find(|own| own.as_any().type_id() == module.as_any().type_id()) {
                Some(own) if own.named_params().is_empty() => *own = module,
                Some(_) => {}
                None => self.modules.push(module),
            }
        }
        self
    }

    /// The parameters of type `P`; `None` for an adapter that was built without them. `()` is always there, for
    /// layers that share nothing, and so is [`Shared`](Self) itself, for a layer that wraps a layer of another method.
    pub fn get<P: 'static>(&self) -> Option<&P> {
        const NOTHING: &dyn Any = &();
        let modules = self.modules.iter().map(|module| module.as_any());
        modules.chain([NOTHING, self]).find_map(|module| module.downcast_ref())
    }

    /// Whether any of these parameters trains.
    pub fn trains(&self) -> bool {
        self.fixed_params().len() < self.named_params().len()
    }
}

impl NamedParams for Shared {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        self.modules.iter().flat_map(|module| module.named_params()).collect()
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        self.modules.iter().flat_map(|module| module.fixed_params()).collect()
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        self.modules.iter().flat_map(|module| module.index_limits()).collect()
    }
}
