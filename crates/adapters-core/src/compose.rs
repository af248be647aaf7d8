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
use crate::state::HookState;

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
        Composition::Stack(children) => children.iter().try_for_each(check_runnable),
        other => Err(Error::BlockNotRunnable {
            block: other.to_string(),
            runnable: "a single adapter and Stack",
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
    let (state, last) = if S::FIRST_ONLY {
        single(active.first(), state, &acting, pass)
    } else {
        apply(&active.0, state, &acting, pass)
    };
    match last {
        Some(last) => last.finish(state),
        None => state.finish(),
    }
}

/// The state after a block, and the last layer that acted in it.
fn apply<'s, S: HookState>(
    block: &Composition,
    state: S,
    acting: &impl Fn(&str) -> Option<Acting<'s, S>>,
    pass: &Pass,
) -> (S, Option<&'s Erased<S>>) {
    match block {
        Composition::Adapter(name) => single(name, state, acting, pass),
        Composition::Stack(children) => children.iter().fold((state, None), |(state, last), child| {
            let (state, acted) = apply(child, state, acting, pass);
            (state, acted.or(last))
        }),
        other => unreachable!("{other} was refused when it was activated"),
    }
}

/// The state after one adapter.
fn single<'s, S: HookState>(
    name: &str,
    state: S,
    acting: &impl Fn(&str) -> Option<Acting<'s, S>>,
    pass: &Pass,
) -> (S, Option<&'s Erased<S>>) {
    match acting(name) {
        Some((layer, shared)) => (layer.apply(layer.open(state), &Call { pass, shared }), Some(layer)),
        None => (state, None),
    }
}
