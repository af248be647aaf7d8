//! Several heads by name over one model, and which rows of a batch go to which.

use std::path::Path;

use adapters_core::{Composition, Ctx};
use adapters_nn::nearest;
use adapters_store::{HeadSetup, Setup};
use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};

use crate::error::ModelError;
use crate::heads::layers::Head;
use crate::heads::loss::Scores;
use crate::model::Model;

/// Heads by name. A [`Module`] of all their parameters.
#[derive(Module, Debug, Default)]
pub struct Heads {
    heads: Vec<NamedHead>,
}

/// A head under its name.
#[derive(Module, Debug)]
pub struct NamedHead {
    /// The name.
    #[module(skip)]
    pub name: String,
    /// The head.
    pub head: Head,
}

/// Which rows of the hidden states go to which heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// All rows go to each of these heads.
    All(Vec<String>),
    /// Equal ranges of the rows, one after the other, go to a head each: what a `Parallel` composition leaves.
    EqualRanges(Vec<String>),
    /// This many rows go to each head.
    Rows(Vec<(String, usize)>),
}

impl Routing {
    /// The heads of a composition: those named as its last adapter, or as the last of each branch that has rows of its
    /// own. `None` where the last block has no single last adapter.
    pub fn of(composition: &Composition) -> Option<Self> {
        let last = |block: &Composition| block.adapters().last().map(str::to_owned);
        match composition {
            Composition::Stack(children) => Self::of(children.last()?),
            Composition::Adapter(name) => Some(Self::All(vec![name.clone()])),
            Composition::Parallel(children) => {
                Some(Self::EqualRanges(children.iter().map(last).collect::<Option<_>>()?))
            }
            Composition::BatchSplit { children, batch_sizes } => {
                let names = children.iter().map(last).collect::<Option<Vec<_>>>()?;
                Some(Self::Rows(names.into_iter().zip(batch_sizes.iter().copied()).collect()))
            }
            _ => None,
        }
    }

    /// The heads of a saved setup: those it names, or those of its composition, see [`of`](Self::of). Several by name share
    /// the rows among them where the composition runs its branches in parallel, as in the reference.
    pub fn of_setup(setup: &Setup) -> Option<Self> {
        let parallel = |node: &Composition| matches!(node, Composition::Parallel(_));
        match &setup.heads {
            HeadSetup::None => Self::of(&setup.composition),
            HeadSetup::Own => None,
            HeadSetup::One(name) => Some(Self::All(vec![name.clone()])),
            HeadSetup::Several(names) if setup.composition.nodes().any(parallel) => {
                Some(Self::EqualRanges(names.clone()))
            }
            HeadSetup::Several(names) => Some(Self::All(names.clone())),
            HeadSetup::Composed(heads) => Self::of(heads),
        }
    }

    /// Names of the heads, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (names, ranges): (&[String], &[(String, usize)]) = match self {
            Self::All(names) | Self::EqualRanges(names) => (names, &[]),
            Self::Rows(ranges) => (&[], ranges),
        };
        let of_ranges = ranges.iter().map(|(name, _)| name.as_str());
        names.iter().map(String::as_str).chain(of_ranges)
    }
}

impl Heads {
    /// No heads.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a head.
    ///
    /// # Errors
    ///
    /// [`ModelError::HeadTaken`] if there is one of that name.
    pub fn insert(&mut self, name: &str, head: Head) -> Result<(), ModelError> {
        if self.get(name).is_some() {
            return Err(ModelError::HeadTaken { name: name.to_owned() });
        }
        self.heads.push(NamedHead {
            name: name.to_owned(),
            head,
        });
        Ok(())
    }

    /// Takes a head out.
    ///
    /// # Errors
    ///
    /// [`ModelError::NoSuchHead`] with the nearest name.
    pub fn remove(&mut self, name: &str) -> Result<Head, ModelError> {
        let index = self.index(name)?;
        Ok(self.heads.remove(index).head)
    }

    /// The head of that name.
    pub fn get(&self, name: &str) -> Option<&Head> {
        self.heads.iter().find(|h| h.name == name).map(|h| &h.head)
    }

    /// All heads, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &NamedHead> {
        self.heads.iter()
    }

    /// Adds the head in a folder of AdapterHub's library under its name there, or under `name`; returns the name. See
    /// [`Head::load`].
    ///
    /// # Errors
    ///
    /// As [`Head::load`] and [`insert`](Self::insert).
    pub fn load(
        &mut self,
        dir: &Path,
        name: Option<&str>,
        base: &Model,
        device: &Device,
    ) -> Result<String, ModelError> {
        let (stored, head) = Head::load(dir, base, false, device)?;
        let name = name.map_or(stored, str::to_owned);
        self.insert(&name, head)?;
        Ok(name)
    }

    /// Adds `name`, the sum of other heads times their weights; see [`Head::average`].
    ///
    /// # Errors
    ///
    /// [`ModelError::NoSuchHead`], [`ModelError::HeadTaken`], [`ModelError::CannotAverage`].
    pub fn average(&mut self, name: &str, weights: &[(String, f64)]) -> Result<(), ModelError> {
        let heads = weights
            .iter()
            .map(|(of, weight)| Ok((&self.heads[self.index(of)?].head, *weight)))
            .collect::<Result<Vec<_>, ModelError>>()?;
        let average = Head::average(&heads)?;
        self.insert(name, average)
    }

    /// The outputs of each head for its rows, in the order of the routing.
    ///
    /// # Shapes
    ///
    /// `hidden [batch, seq, d_model]`, `padding [batch, seq]`
    ///
    /// # Errors
    ///
    /// [`ModelError::NoSuchHead`], [`ModelError::Rows`] if the rows do not add up to the batch.
    pub fn forward(
        &self,
        routing: &Routing,
        hidden: Tensor<3>,
        padding: Option<Tensor<2, Bool>>,
        base: &Model,
        cx: &mut Ctx<'_>,
    ) -> Result<Vec<Scores>, ModelError> {
        let [batch, _, _] = hidden.dims();
        let ranges: Vec<(&str, usize, usize)> = match routing {
            Routing::All(names) => names.iter().map(|name| (name.as_str(), 0, batch)).collect(),
            Routing::EqualRanges(names) => {
                let rows = batch / names.len().max(1);
                in_order(names.iter().map(|name| (name.as_str(), rows)))
            }
            Routing::Rows(ranges) => in_order(ranges.iter().map(|(name, rows)| (name.as_str(), *rows))),
        };
        let covered = match routing {
            Routing::All(_) => batch,
            _ => ranges.iter().map(|(_, _, rows)| rows).sum(),
        };
        if covered != batch {
            return Err(ModelError::Rows {
                expected: covered,
                found: batch,
            });
        }
        ranges
            .into_iter()
            .map(|(name, start, rows)| {
                let head = &self.heads[self.index(name)?].head;
                let rows_of_head = hidden.clone().slice_dim(0, start..start + rows);
                let padding = padding.clone().map(|padding| {
                    let [all, _] = padding.dims();
                    // The padding of a batch that was repeated after it was told.
                    let start = if all == batch { start } else { start % all.max(1) };
                    padding.slice_dim(0, start..start + rows)
                });
                Ok(cx.for_rows(start..start + rows, |cx| head.forward(rows_of_head, padding, base, cx)))
            })
            .collect()
    }

    pub(super) fn named(&self, name: &str) -> Result<&NamedHead, ModelError> {
        Ok(&self.heads[self.index(name)?])
    }

    fn index(&self, name: &str) -> Result<usize, ModelError> {
        let index = self.heads.iter().position(|h| h.name == name);
        index.ok_or_else(|| ModelError::NoSuchHead {
            name: name.to_owned(),
            nearest: nearest(name, self.heads.iter().map(|h| h.name.as_str())),
        })
    }
}

/// Names with the first of their rows and how many there are, one range after the other.
fn in_order<'a>(ranges: impl Iterator<Item = (&'a str, usize)>) -> Vec<(&'a str, usize, usize)> {
    let with_start = ranges.scan(0, |next, (name, rows)| {
        let start = *next;
        *next += rows;
        Some((name, start, rows))
    });
    with_start.collect()
}
