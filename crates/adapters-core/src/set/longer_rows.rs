//! Checks for prompt tuning inside blocks that split the batch or the sequence: its adapters make rows longer.

use crate::error::Error;
use crate::pass::state::Inserted;
use crate::set::AdapterSet;
use adapters_config::Composition;

impl AdapterSet {
    /// Refuses adapters that move or add positions where that has no meaning.
    pub(super) fn check_positions(&self, block: &Composition) -> Result<(), Error> {
        self.check_first_position(block)?;
        self.check_longer_rows(block)
    }

    /// How many of the model's positions its adapters take from the text at most, where those are limited.
    pub fn positions(&self) -> usize {
        let edits = self
            .iter()
            .filter_map(|adapter| adapter.method().capabilities().embeddings);
        edits.map(|edits| edits.positions()).max().unwrap_or(0)
    }

    /// What the first adapter of a composition, the only one to act on the embedded tokens, puts in.
    fn inserted(&self, block: &Composition) -> Option<Inserted> {
        let first = self.get(block.first()?)?;
        first.method().capabilities().embeddings?.inserts()
    }

    /// Refuses adapters that make rows longer where rows would not all become equally long, and where positions are shared
    /// out: the ranges are those of the text.
    fn check_longer_rows(&self, block: &Composition) -> Result<(), Error> {
        let refuse = |adapter: Option<&str>, reason| {
            Err(Error::BlockNotRunnable {
                block: block.to_string(),
                adapter: adapter.unwrap_or_default().to_owned(),
                reason,
            })
        };
        if self.inserted(block).is_some() && splits(block) {
            return refuse(
                block.first(),
                "it makes rows longer, but Split assigns fixed ranges of text positions to its children",
            );
        }
        let children = block.children();
        match block {
            Composition::Parallel(_) | Composition::BatchSplit { .. } => {
                let different = children
                    .iter()
                    .find(|child| self.inserted(child) != self.inserted(&children[0]));
                match different {
                    Some(child) => refuse(
                        child.first(),
                        "its rows would have another length than those of the other adapters",
                    ),
                    None => children.iter().try_for_each(|child| self.check_longer_rows(child)),
                }
            }
            // A row may have no task.
            Composition::MultiTask(_) => match children.iter().find(|child| self.inserted(child).is_some()) {
                Some(child) => refuse(
                    child.first(),
                    "it makes rows longer, while rows of other tasks keep their length",
                ),
                None => Ok(()),
            },
            _ => children.first().map_or(Ok(()), |first| self.check_longer_rows(first)),
        }
    }
}

fn splits(block: &Composition) -> bool {
    matches!(block, Composition::Split { .. }) || block.children().iter().any(splits)
}
