//! Position-id offset of peft's prefix tuning: adapters whose vectors count as positions before the first token.

use crate::error::Error;
use crate::set::AdapterSet;
use crate::set::active::Active;
use adapters_config::Composition;

impl AdapterSet {
    /// The position of the first token with the adapters of a composition.
    pub(crate) fn first_position(&self, active: &Active) -> usize {
        active.adapters().map(|name| self.first_position_with(name)).sum()
    }

    fn first_position_with(&self, name: &str) -> usize {
        let edits = self
            .get(name)
            .and_then(|adapter| adapter.method().capabilities().embeddings);
        edits.map_or(0, |edits| edits.first_position())
    }

    /// Refuses adapters that move positions where they do not act on all rows: the first token has one position.
    pub(super) fn check_first_position(&self, block: &Composition) -> Result<(), Error> {
        match block {
            Composition::Adapter(_) => Ok(()),
            Composition::Stack(children) => children.iter().try_for_each(|child| self.check_first_position(child)),
            other if other.adapters().all(|name| self.first_position_with(name) == 0) => Ok(()),
            other => {
                let mut moving = other.adapters().filter(|name| self.first_position_with(name) > 0);
                Err(Error::BlockNotRunnable {
                    block: other.to_string(),
                    adapter: moving.next().unwrap_or_default().to_owned(),
                    reason: "it shifts the positions of all tokens, so it can only be used alone or in a Stack",
                })
            }
        }
    }
}
