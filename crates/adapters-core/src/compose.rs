//! Composition, written once over [`HookState`]: what a block of adapters does to the state of a site.
//!
//! A method contributes what a single adapter does; the blocks are here. [`Active`] is the proof that a
//! composition was checked, so that nothing can go wrong in the middle of a forward pass.

use std::fmt;

use crate::composition::Composition;
use crate::ctx::{Call, Pass};
use crate::erased::Erased;
use crate::error::Error;
use crate::shared::Shared;
use crate::state::{HookState, Rows};

/// A composition that was validated against a set and can run. Made by
/// [`AdapterSet::composition`](crate::AdapterSet::composition).
#[derive(Clone, Debug, PartialEq)]
pub struct Active(Composition);

impl Active {
    /// Checks nesting and that every block can run.
    pub(crate) fn new(composition: Composition) -> Result<Self, Error> {
        composition.validate()?;
        check_runnable(&composition)?;
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
        fn tasks(block: &Composition) -> Option<usize> {
            match block {
                Composition::MultiTask(children) => Some(children.len()),
                other => other.children().iter().find_map(tasks),
            }
        }
        tasks(&self.0)
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

/// Refuses, before any forward pass, the blocks that do not run yet.
fn check_runnable(block: &Composition) -> Result<(), Error> {
    match block {
        Composition::Adapter(_) => Ok(()),
        Composition::Stack(children) | Composition::MultiTask(children) | Composition::Average { children, .. } => {
            children.iter().try_for_each(check_runnable)
        }
        other => Err(Error::BlockNotRunnable {
            block: other.to_string(),
            runnable: "a single adapter, Stack, Average and MultiTask",
        }),
    }
}

/// An adapter's layer at a site, and what the adapter shares among all its sites.
pub(crate) type Acting<'s, S> = (&'s Erased<S>, &'s Shared);

/// Runs the active composition on the state of one site and closes the site.
///
/// `acting` finds an adapter's layer at this site; an adapter without one leaves the state alone.
pub(crate) fn run<'s, S: HookState>(
    active: &Active,
    state: S,
    acting: impl Fn(&str) -> Option<Acting<'s, S>>,
    pass: &Pass,
) -> S::Output {
    let close = |(state, last): (S, Option<Acting<'s, S>>)| match last {
        Some((last, shared)) => last.finish(state, &Call { pass, shared }),
        None => state.finish(),
    };
    if S::FIRST_ONLY {
        return close(single(active.first(), state, &acting, pass));
    }
    match &active.0 {
        // Each task closes the site for its own rows, so that the tasks need not be of one method.
        Composition::MultiTask(children) => by_task(children, state, &acting, pass, close),
        block => close(apply(block, state, &acting, pass)),
    }
}

/// The state after a block, and the last layer that acted in it.
fn apply<'s, S: HookState>(
    block: &Composition,
    state: S,
    acting: &impl Fn(&str) -> Option<Acting<'s, S>>,
    pass: &Pass,
) -> (S, Option<Acting<'s, S>>) {
    match block {
        Composition::Adapter(name) => single(name, state, acting, pass),
        Composition::Stack(children) => children.iter().fold((state, None), |(state, last), child| {
            let (state, acted) = apply(child, state, acting, pass);
            (state, acted.or(last))
        }),
        Composition::MultiTask(children) => {
            let mut last = None;
            let state = by_task(children, state, acting, pass, |(state, acted)| {
                last = acted.or(last);
                state
            });
            (state, last)
        }
        Composition::Average { children, weights } => average(children, weights, state, acting, pass),
        other => unreachable!("{other} was refused when it was activated"),
    }
}

/// `(1 / n) sum_i w_i f_i(x)`. The site is closed by the last child that acted.
fn average<'s, S: HookState>(
    children: &[Composition],
    weights: &[f64],
    state: S,
    acting: &impl Fn(&str) -> Option<Acting<'s, S>>,
    pass: &Pass,
) -> (S, Option<Acting<'s, S>>) {
    if !children
        .iter()
        .flat_map(Composition::adapters)
        .any(|name| acting(name).is_some())
    {
        return (state, None);
    }
    let state = opened(children, state, acting);
    let mut last = None;
    let parts = children
        .iter()
        .zip(weights)
        .map(|(child, weight)| {
            let (part, acted) = beside(child, state.clone(), acting, pass);
            last = acted.or(last);
            (part, weight / children.len() as f64)
        })
        .collect();
    (S::weighted_sum(parts).unwrap_or(state), last)
}

/// What `close` makes of the state after each row went through the child of its task; a row without a task goes through
/// none.
///
/// # Panics
///
/// Panics unless there is a task for each row; [`Ctx::with_tasks`](crate::Ctx::with_tasks) has checked that each task
/// has a child.
fn by_task<'s, S: HookState, T: Rows>(
    children: &[Composition],
    state: S,
    acting: &impl Fn(&str) -> Option<Acting<'s, S>>,
    pass: &Pass,
    mut close: impl FnMut((S, Option<Acting<'s, S>>)) -> T,
) -> T {
    let tasks = &pass.tasks;
    assert_eq!(
        tasks.len(),
        state.rows(),
        "MultiTask needs a task for each row of the batch"
    );
    let state = opened(children, state, acting);
    let (mut parts, mut order) = (Vec::new(), Vec::new());
    let with_child = children
        .iter()
        .map(Some)
        .enumerate()
        .map(|(task, child)| (Some(task), child));
    for (task, child) in with_child.chain([(None, None)]) {
        let rows: Vec<usize> = (0..tasks.len()).filter(|row| tasks[*row] == task).collect();
        if rows.is_empty() {
            continue;
        }
        let part = state.take_rows(&rows);
        parts.push(close(match child {
            Some(child) => beside(child, part, acting, pass),
            None => (part, None),
        }));
        order.extend(rows);
    }
    // Where each row of the batch went.
    let mut places = vec![0; order.len()];
    for (place, row) in order.into_iter().enumerate() {
        places[row] = place;
    }
    T::join_rows(parts).take_rows(&places)
}

/// The state prepared once for children that act side by side, by the first adapter among them.
fn opened<'s, S: HookState>(children: &[Composition], state: S, acting: &impl Fn(&str) -> Option<Acting<'s, S>>) -> S {
    match children.iter().flat_map(Composition::adapters).find_map(acting) {
        Some((layer, _)) => layer.open(state),
        None => state,
    }
}

/// The state after one of several children that act side by side, which is prepared already.
fn beside<'s, S: HookState>(
    child: &Composition,
    state: S,
    acting: &impl Fn(&str) -> Option<Acting<'s, S>>,
    pass: &Pass,
) -> (S, Option<Acting<'s, S>>) {
    match child {
        Composition::Adapter(name) => match acting(name) {
            Some((layer, shared)) => (layer.apply(state, &Call { pass, shared }), Some((layer, shared))),
            None => (state, None),
        },
        block => apply(block, state, acting, pass),
    }
}

/// The state after one adapter.
fn single<'s, S: HookState>(
    name: &str,
    state: S,
    acting: &impl Fn(&str) -> Option<Acting<'s, S>>,
    pass: &Pass,
) -> (S, Option<Acting<'s, S>>) {
    match acting(name) {
        Some((layer, shared)) => (
            layer.apply(layer.open(state), &Call { pass, shared }),
            Some((layer, shared)),
        ),
        None => (state, None),
    }
}
