//! Composition, written once over [`HookState`]: what a block of adapters does to the state of a site.
//!
//! A method contributes what a single adapter does; the blocks are here. [`Active`] is the proof that a
//! composition was checked, so that nothing can go wrong in the middle of a forward pass.

use std::fmt;

use crate::composition::Composition;
use crate::ctx::Call;
use crate::erased::Erased;
use crate::error::Error;
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

/// Runs the active composition on the state of one site and closes the site.
///
/// `layer` finds an adapter's layer at this site; an adapter without one leaves the state alone.
pub(crate) fn run<'s, S: HookState>(
    active: &Active,
    state: S,
    layer: impl Fn(&str) -> Option<&'s Erased<S>>,
    call: &Call,
) -> S::Output {
    let (state, last) = apply(&active.0, state, &layer, call);
    match last {
        Some(last) => last.finish(state),
        None => state.finish(),
    }
}

/// The state after a block, and the last layer that acted in it.
fn apply<'s, S: HookState>(
    block: &Composition,
    state: S,
    layer: &impl Fn(&str) -> Option<&'s Erased<S>>,
    call: &Call,
) -> (S, Option<&'s Erased<S>>) {
    match block {
        Composition::Adapter(name) => match layer(name) {
            Some(layer) => (layer.apply(state, call), Some(layer)),
            None => (state, None),
        },
        Composition::Stack(children) => children.iter().fold((state, None), |(state, last), child| {
            let (state, acted) = apply(child, state, layer, call);
            (state, acted.or(last))
        }),
        other => unreachable!("{other} was refused when it was activated"),
    }
}
