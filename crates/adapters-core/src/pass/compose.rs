//! Composition, written once over [`HookState`]: what a block of adapters does to the state of a site.
//!
//! A method contributes what a single adapter does; the blocks are here. [`Active`] is the proof that a composition was
//! checked, so that what can be known before a forward pass does not go wrong in it.
//!
//! Two rules of the reference decide how blocks open and close a site where adapters join the residual stream
//! ([`HookState::LED`]): a block whose children act side by side is opened once, by its first adapter, and closed by its
//! last. `MultiTask` is the exception: its children need not be of one method, and each opens and closes for its own rows.
//! At other sites every adapter closes the rows it acted on, and a child without a layer at a site leaves its share alone.

mod fuse;
mod shares;

use std::fmt;

use burn::tensor::Tensor;

use crate::composition::Composition;
use crate::erased::Erased;
use crate::error::Error;
use crate::method::shared::Shared;
use crate::pass::ctx::{Call, Pass};
use crate::pass::positions::Positions;
use crate::pass::state::{EmbeddingState, HookState, Rows};
use crate::set::AdapterSet;
use crate::site::Site;

pub(crate) use shares::check_shares;
use shares::{Share, places};

/// A composition that was validated against a set and can run. Made by
/// [`AdapterSet::composition`](crate::AdapterSet::composition).
#[derive(Clone, Debug, PartialEq)]
pub struct Active(Composition);

impl Active {
    /// Checks nesting; whether every block has a meaning for its adapters is checked by the set.
    pub(crate) fn new(composition: Composition) -> Result<Self, Error> {
        composition.validate()?;
        Ok(Self(composition))
    }

    /// The composition.
    pub fn composition(&self) -> &Composition {
        &self.0
    }

    /// The first adapter: the only one to act where a sequence is changed as a whole.
    pub fn first(&self) -> &str {
        // A validated composition has at least one.
        self.adapters().next().unwrap_or_default()
    }

    /// How many tasks its `MultiTask` block tells apart; `None` without such a block.
    pub fn tasks(&self) -> Option<usize> {
        let block = self.0.parts().find(|part| matches!(part, Composition::MultiTask(_)));
        block.map(|block| block.children().len())
    }

    /// How many copies of the batch its `Parallel` block needs; one without such a block.
    pub fn replicas(&self) -> usize {
        self.0.parallel_channels()
    }

    /// Names of the adapters in it, in order.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.0.adapters()
    }
}

impl fmt::Display for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An adapter's layer at a site, and what the adapter shares among all its sites.
pub(crate) struct Acting<'s, S: HookState> {
    pub(crate) name: &'s str,
    pub(crate) layer: &'s Erased<S>,
    pub(crate) shared: &'s Shared,
}

impl<S: HookState> Clone for Acting<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: HookState> Copy for Acting<'_, S> {}

/// The state after a block, and for each row the layer that closes the site, if one acted.
struct Acted<'s, S: HookState> {
    state: S,
    closers: Vec<Option<Acting<'s, S>>>,
}

impl<'s, S: HookState> Acted<'s, S> {
    fn new(state: S, closer: Option<Acting<'s, S>>) -> Self {
        Self {
            closers: vec![closer; state.rows()],
            state,
        }
    }

    /// The last layer that acted, whatever the row.
    fn last(&self) -> Option<Acting<'s, S>> {
        self.closers.iter().rev().find_map(|closer| *closer)
    }

    /// The same state, closed by `last` wherever an adapter acted.
    fn led(mut self, last: Option<Acting<'s, S>>) -> Self {
        if S::LED {
            for closer in self.closers.iter_mut().filter(|closer| closer.is_some()) {
                *closer = last;
            }
        }
        self
    }
}

/// Runs the active composition on the state of one site and closes the site. An adapter without a layer at this site
/// leaves the state alone.
///
/// # Panics
///
/// Panics where a block's shares do not fit the batch ([`Ctx::for_input`](crate::Ctx::for_input) checks it before), where
/// rows of a `MultiTask` have no task, and where a `Parallel` runs in a model that did not ask for
/// [`Ctx::replicas`](crate::Ctx::replicas).
pub(crate) fn run<S: HookState>(active: &Active, state: S, set: &AdapterSet, site: Site, pass: &Pass) -> S::Output {
    let at = At::new(active, set, site, pass);
    if !S::FIRST_ONLY {
        return at.root(&active.0, state);
    }
    let rows = state.rows();
    at.by_first(&active.0, state, rows, &|name, state: S| match at.acting(name) {
        Some(acting) => {
            let state = acting.layer.apply(acting.layer.open(state), &at.call(&acting));
            acting.layer.finish(state, &at.call(&acting))
        }
        None => state.finish(),
    })
}

/// Undoes, before the language-model head, what adapters did to the embeddings at `site`.
pub(crate) fn undo(active: &Active, hidden: Tensor<3>, set: &AdapterSet, site: Site, pass: &Pass) -> Tensor<3> {
    let at = At::<EmbeddingState>::new(active, set, site, pass);
    let [rows, ..] = hidden.dims();
    at.by_first(
        &active.0,
        hidden,
        rows,
        &|name, hidden: Tensor<3>| match at.acting(name) {
            Some(acting) => acting.layer.undo(hidden, &at.call(&acting)),
            None => hidden,
        },
    )
}

/// A site in a pass: everything a block has to know.
struct At<'s, 'p, S> {
    set: &'s AdapterSet,
    site: Site,
    pass: &'p Pass,
    replicas: usize,
    kind: std::marker::PhantomData<S>,
}

impl<'s, 'p, S: HookState> At<'s, 'p, S> {
    fn new(active: &Active, set: &'s AdapterSet, site: Site, pass: &'p Pass) -> Self {
        Self {
            set,
            site,
            pass,
            replicas: active.replicas(),
            kind: std::marker::PhantomData,
        }
    }

    /// The same site inside a child of this block: below a `Parallel` the batch is there once.
    fn inside(&self, block: &Composition) -> Self {
        Self {
            replicas: match block {
                Composition::Parallel(_) => 1,
                _ => self.replicas,
            },
            ..*self
        }
    }

    fn acting(&self, name: &str) -> Option<Acting<'s, S>> {
        self.set.acting::<S>(name, self.site)
    }

    fn call<'c>(&'c self, acting: &Acting<'c, S>) -> Call<'c> {
        Call {
            pass: self.pass,
            shared: acting.shared,
            adapter: acting.name,
            site: self.site,
        }
    }

    /// Whether an adapter of this block has a layer here.
    fn acts(&self, block: &Composition) -> bool {
        block.occurrences().any(|name| self.acting(name).is_some())
    }

    /// Whether all adapters of this block only add to what the frozen layer computes.
    fn only_adds(&self, block: &Composition) -> bool {
        let mut acting = block.occurrences().filter_map(|name| self.acting(name));
        acting.all(|acting| acting.layer.keeps_layer() && acting.layer.closes_plainly())
    }

    /// The output of the whole composition. Shares of the outermost block are closed one by one, and only outputs joined,
    /// unless its adapters just add to one frozen layer, which then runs once on the whole batch.
    fn root(&self, block: &Composition, state: S) -> S::Output {
        match block {
            Composition::Stack(children) if children.len() == 1 => self.root(&children[0], state),
            Composition::MultiTask(children)
            | Composition::BatchSplit { children, .. }
            | Composition::Parallel(children)
                if self.acts(block) && !(S::SHARES_LAYER && self.only_adds(block)) =>
            {
                let shares = self.shares(block, state.rows());
                let places = places(&shares);
                let parts = self.act_by_rows(block, children, &shares, &state);
                let outputs = parts.into_iter().map(|part| self.close(part)).collect();
                S::Output::join_rows(outputs).take_rows(&places)
            }
            Composition::Split { children, splits }
                if self.acts(block) && !(S::SHARES_LAYER && self.only_adds(block)) =>
            {
                let parts = self.act_by_positions(children, splits, &state);
                let outputs = parts.map(|parts| parts.into_iter().map(|part| self.close(part)).collect());
                // Activation has refused states whose positions belong together.
                outputs
                    .and_then(S::Output::join_positions)
                    .unwrap_or_else(|| state.finish())
            }
            block => self.close(self.apply(block, state)),
        }
    }

    /// Closes the site, each row by its own closer.
    fn close(&self, acted: Acted<'s, S>) -> S::Output {
        let Acted { state, closers } = acted;
        let same = |a: &Option<Acting<'s, S>>, b: &Option<Acting<'s, S>>| match (a, b) {
            (Some(a), Some(b)) => a.layer.is(b.layer),
            (None, None) => true,
            _ => false,
        };
        let plain = |closer: &Option<Acting<'s, S>>| closer.is_none_or(|closer| closer.layer.closes_plainly());
        if S::SHARES_LAYER && closers.iter().all(plain) {
            return state.finish();
        }
        let close = |state: S, closer: Option<Acting<'s, S>>| match closer {
            Some(acting) => acting.layer.finish(state, &self.call(&acting)),
            None => state.finish(),
        };
        let first = closers.first().copied().flatten();
        if closers.iter().all(|closer| same(closer, &first)) {
            return close(state, first);
        }
        let mut groups: Vec<(Option<Acting<'s, S>>, Vec<usize>)> = Vec::new();
        for (row, closer) in closers.into_iter().enumerate() {
            match groups.iter_mut().find(|(of, _)| same(of, &closer)) {
                Some((_, rows)) => rows.push(row),
                None => groups.push((closer, vec![row])),
            }
        }
        let places = places(groups.iter().map(|(_, rows)| rows));
        let outputs = groups
            .into_iter()
            .map(|(closer, rows)| close(state.take_rows(&rows), closer));
        S::Output::join_rows(outputs.collect()).take_rows(&places)
    }

    /// The state after a block.
    fn apply(&self, block: &Composition, state: S) -> Acted<'s, S> {
        match block {
            Composition::Adapter(name) => match self.acting(name) {
                Some(acting) => {
                    let state = acting.layer.open(state);
                    Acted::new(acting.layer.apply(state, &self.call(&acting)), Some(acting))
                }
                None => Acted::new(state, None),
            },
            _ if !self.acts(block) => Acted::new(state, None),
            Composition::Stack(children) => {
                let start = Acted::new(state, None);
                children.iter().fold(start, |before, child| {
                    let after = self.apply(child, before.state);
                    let closers = after.closers.into_iter().zip(before.closers);
                    Acted {
                        state: after.state,
                        closers: closers.map(|(after, before)| after.or(before)).collect(),
                    }
                })
            }
            Composition::Average { children, weights } => self.average(children, weights, state),
            Composition::Fuse { children, .. } => self.fuse(block, children, state),
            Composition::Split { children, splits } => self.split(children, splits, state),
            Composition::MultiTask(children)
            | Composition::BatchSplit { children, .. }
            | Composition::Parallel(children) => self.by_rows(block, children, state),
        }
    }

    /// The state after one of several children that act side by side, which is opened already.
    fn beside(&self, child: &Composition, state: S) -> Acted<'s, S> {
        match child {
            Composition::Adapter(name) => match self.acting(name) {
                Some(acting) => Acted::new(acting.layer.apply(state, &self.call(&acting)), Some(acting)),
                None => Acted::new(state, None),
            },
            block => self.apply(block, state),
        }
    }

    /// The state opened once for children that act side by side, by the first adapter among them.
    fn opened(&self, children: &[Composition], state: S) -> S {
        let mut names = children.iter().flat_map(Composition::occurrences);
        match names.find_map(|name| self.acting(name)) {
            Some(acting) => acting.layer.open(state),
            None => state,
        }
    }

    /// `(1 / n) sum_i w_i f_i(x)`. The site is closed by the last child that acted.
    fn average(&self, children: &[Composition], weights: &[f64], state: S) -> Acted<'s, S> {
        let state = self.opened(children, state);
        let mut last = None;
        let parts = children
            .iter()
            .zip(weights)
            .map(|(child, weight)| {
                let part = self.beside(child, state.clone());
                last = part.last().or(last);
                (part.state, weight / children.len() as f64)
            })
            .collect();
        Acted::new(S::weighted_sum(parts).unwrap_or(state), last)
    }

    /// Each child on its own rows.
    fn by_rows(&self, block: &Composition, children: &[Composition], state: S) -> Acted<'s, S> {
        let shares = self.shares(block, state.rows());
        let places = places(&shares);
        let parts = self.act_by_rows(block, children, &shares, &state);
        let closers: Vec<_> = parts.iter().flat_map(|part| part.closers.iter().copied()).collect();
        let parts = parts.into_iter().map(|part| part.state).collect();
        Acted {
            closers: places.iter().map(|place| closers[*place]).collect(),
            state: state.with_rows(parts, &places),
        }
    }

    /// What each share of the rows becomes, in the order of the shares.
    fn act_by_rows(
        &self,
        block: &Composition,
        children: &[Composition],
        shares: &[Share],
        state: &S,
    ) -> Vec<Acted<'s, S>> {
        let (apart, inside) = (matches!(block, Composition::MultiTask(_)), self.inside(block));
        let opened = (!apart).then(|| self.opened(children, state.clone()));
        let parts: Vec<_> = shares
            .iter()
            .map(|share| match (share.child.map(|child| &children[child]), &opened) {
                (Some(child), Some(opened)) if self.acts(child) => inside.beside(child, opened.take_rows(&share.rows)),
                (Some(child), None) => inside.apply(child, state.take_rows(&share.rows).apart()),
                (None, None) => Acted::new(state.take_rows(&share.rows).apart(), None),
                _ => Acted::new(state.take_rows(&share.rows), None),
            })
            .collect();
        match apart {
            true => parts,
            false => led(parts),
        }
    }

    /// Each child on its own positions.
    fn split(&self, children: &[Composition], splits: &[usize], state: S) -> Acted<'s, S> {
        let Some(parts) = self.act_by_positions(children, splits, &state) else {
            return Acted::new(state, None);
        };
        let last = parts.iter().rev().find_map(Acted::last);
        let states = parts.into_iter().map(|part| part.state).collect();
        Acted::new(state.with_positions(states).unwrap_or(state), last)
    }

    /// What each part of the sequence becomes; `None` where positions belong together.
    ///
    /// Outside the layers a site may see fewer positions than the sequence has, as a pooler does: the first.
    fn act_by_positions(&self, children: &[Composition], splits: &[usize], state: &S) -> Option<Vec<Acted<'s, S>>> {
        let positions = state.positions()?;
        let shared: usize = splits.iter().sum();
        assert!(
            positions == shared || (self.site.layer.is_none() && positions < shared),
            "Split shares out {shared} positions, and the sequence has {positions} at {}",
            self.site
        );
        let opened = self.opened(children, state.clone());
        let mut start = 0;
        let mut parts = Vec::new();
        for (child, split) in children.iter().zip(splits) {
            let range = start.min(positions)..(start + split).min(positions);
            start += split;
            if range.is_empty() {
                continue;
            }
            parts.push(match self.acts(child) {
                true => self.beside(child, opened.take_positions(range)?),
                false => Acted::new(state.take_positions(range)?, None),
            });
        }
        Some(led(parts))
    }

    /// What the first adapter of a composition makes of `x`, where there is no second one: of each row the first of the
    /// child it belongs to.
    fn by_first<T: Rows, O: Rows>(&self, block: &Composition, x: T, rows: usize, act: &impl Fn(&str, T) -> O) -> O {
        match block {
            Composition::Adapter(name) => act(name, x),
            Composition::MultiTask(children)
            | Composition::BatchSplit { children, .. }
            | Composition::Parallel(children)
                if self.acts(block) && rows > 0 =>
            {
                let shares = self.shares(block, rows);
                let outputs = shares.iter().map(|share| {
                    let part = x.take_rows(&share.rows);
                    match share.child {
                        Some(child) => self
                            .inside(block)
                            .by_first(&children[child], part, share.rows.len(), act),
                        // No adapter has this name: an adapter's name is never empty.
                        None => act("", part),
                    }
                });
                O::join_rows(outputs.collect()).take_rows(&places(&shares))
            }
            block => self.by_first(&block.children()[0], x, rows, act),
        }
    }
}

/// The parts of a block, closed by its last adapter where the reference does so.
fn led<S: HookState>(parts: Vec<Acted<'_, S>>) -> Vec<Acted<'_, S>> {
    let last = parts.iter().rev().find_map(Acted::last);
    parts.into_iter().map(|part| part.led(last)).collect()
}
