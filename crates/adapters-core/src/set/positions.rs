//! Positions that adapters take up before the first token.

use crate::compose::Active;
use crate::composition::Composition;
use crate::error::Error;
use crate::set::AdapterSet;

impl AdapterSet {
    /// How many positions the adapters of a composition take up before the first token.
    pub(crate) fn positions_before(&self, active: &Active) -> usize {
        active.adapters().map(|name| self.positions_of(name)).sum()
    }

    fn positions_of(&self, name: &str) -> usize {
        self.get(name).map_or(0, |adapter| adapter.method().positions())
    }

    /// Refuses adapters that take up positions where they do not act on all rows: the first token has one position.
    pub(super) fn check_positions(&self, block: &Composition) -> Result<(), Error> {
        match block {
            Composition::Adapter(_) => Ok(()),
            Composition::Stack(children) => children.iter().try_for_each(|child| self.check_positions(child)),
            other if other.adapters().all(|name| self.positions_of(name) == 0) => Ok(()),
            other => Err(Error::BlockNotRunnable {
                block: other.to_string(),
                runnable: "a single adapter and Stack, of adapters that take up positions before the first token",
            }),
        }
    }
}
