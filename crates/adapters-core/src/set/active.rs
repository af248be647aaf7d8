//! The proof that a composition was checked against a set.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::host::Host;
use crate::method::layer::Causality;
use crate::set::AdapterSet;
use crate::set::attached::Attached;
use crate::set::model_shape::ModelShape;
use adapters_config::Composition;

/// The state of a set: what adapters and fusions it has. No two states of any two sets have the same, unless one set is a
/// copy of the other and neither was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Generation {
    /// A new one.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self::next()
    }
}

/// A composition that was checked against a set and can run on it, until the set has other adapters. Made by
/// [`AdapterSet::composition`].
#[derive(Clone, Debug)]
pub struct Active {
    composition: Composition,
    generation: Generation,
}

/// The same composition, whatever the set.
impl PartialEq for Active {
    fn eq(&self, other: &Self) -> bool {
        self.composition == other.composition
    }
}

impl Active {
    /// The composition.
    pub fn composition(&self) -> &Composition {
        &self.composition
    }

    /// The first adapter: the only one to act where a sequence is changed as a whole.
    pub fn first(&self) -> &str {
        // A validated composition has at least one.
        self.adapters().next().unwrap_or_default()
    }

    /// How many tasks its `MultiTask` block tells apart; `None` without such a block.
    pub fn tasks(&self) -> Option<usize> {
        let block = self
            .composition
            .nodes()
            .find(|node| matches!(node, Composition::MultiTask(_)));
        block.map(|block| block.children().len())
    }

    /// How many copies of the batch its `Parallel` block needs; one without such a block.
    pub fn replicas(&self) -> usize {
        self.composition.parallel_channels()
    }

    /// Names of the adapters in it, in order.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.composition.adapters()
    }
}

impl fmt::Display for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.composition.fmt(f)
    }
}

impl AdapterSet {
    /// Checks a composition against this set, without activating it. The result is valid until an adapter or a fusion is
    /// added, replaced or removed.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`] with the nearest name, a [`CompositionError`](crate::CompositionError) for a
    /// forbidden nesting, [`Error::NoSuchFusion`] for a `Fuse` without its layers, [`Error::BlockNotRunnable`] for a block
    /// that has no meaning for one of its adapters, [`Error::CannotStack`] for a `Stack` whose adapters do not fit on each
    /// other.
    pub fn composition(&self, composition: impl Into<Composition>) -> Result<Active, Error> {
        let composition = composition.into();
        composition.validate()?;
        for name in composition.adapters() {
            self.attached(name)?;
        }
        self.check_blocks(&composition)?;
        self.check_stacks(&composition)?;
        self.check_positions(&composition)?;
        Ok(Active {
            composition,
            generation: self.generation,
        })
    }

    /// Activates a composition. Copies no weight.
    ///
    /// # Errors
    ///
    /// As [`composition`](Self::composition); the active composition then stays as it was.
    pub fn activate(&mut self, composition: impl Into<Composition>) -> Result<(), Error> {
        self.active = Some(self.composition(composition)?);
        Ok(())
    }

    /// Leaves the base model alone.
    pub fn deactivate(&mut self) {
        self.active = None;
    }

    /// What is active.
    pub fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    /// Refuses a composition that was checked against other adapters than those of this set.
    pub(crate) fn check_active(&self, active: &Active) -> Result<(), Error> {
        match active.generation == self.generation {
            true => Ok(()),
            false => Err(Error::StaleComposition {
                composition: active.to_string(),
            }),
        }
    }

    /// Refuses a model whose layers are not those of the model that the adapters of a composition were attached to.
    pub(crate) fn check_model(&self, active: &Active, model: &dyn Host) -> Result<(), Error> {
        let mut checked: Option<&Arc<ModelShape>> = None;
        for name in active.composition().occurrences() {
            let Some(adapter) = self.get(name) else { continue };
            if checked.is_some_and(|checked| checked == &adapter.model) {
                continue;
            }
            if let Some((expected, found)) = adapter.model.difference(model) {
                return Err(Error::OtherModel {
                    adapter: name.to_owned(),
                    expected,
                    found,
                });
            }
            checked = Some(&adapter.model);
        }
        Ok(())
    }

    /// That of the adapter of a composition that reads the most.
    pub(crate) fn causality(&self, active: &Active) -> Causality {
        active
            .adapters()
            .filter_map(|name| self.get(name))
            .flat_map(Attached::layers)
            .map(|attached| attached.layer.causality())
            .max()
            .unwrap_or(Causality::Causal)
    }

    /// Called when adapters or fusions were added, replaced or removed: compositions that were checked before are stale, and
    /// the active one is checked again. It is deactivated if it cannot run any more.
    pub(super) fn changed(&mut self) {
        self.generation = Generation::next();
        if let Some(active) = self.active.take() {
            self.active = self.composition(active.composition).ok();
        }
    }
}
