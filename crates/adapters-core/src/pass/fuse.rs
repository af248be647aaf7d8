//! `Fuse`: attention over what several adapters make of one state.

use crate::method::site_layer::SiteState;
use crate::pass::compose::{After, Open, Seen};
use crate::pass::plan::Node;
use crate::pass::state::FusionState;

impl<'a, S: SiteState> Seen<'_, 'a, S> {
    /// The state after a fusion of children, opened and finished by the last adapter among them.
    ///
    /// Where a child has no layer there is one adapter less to attend to. Activation has checked that there is a fusion
    /// layer wherever a child acts, and that every child tells what it adds.
    pub(super) fn fuse(&self, node: &Node, fusion: usize, mut state: S) -> After<'a, S> {
        let (Some(last), Some(hidden)) = (self.at.last(&node.leaves), state.fusion()) else {
            return (state, None);
        };
        let before = hidden.hidden.clone();
        let mut state = last.layer.open(state);
        let mut fused = FusionState::new(before, last.layer.fusion_query());
        if let Some(hidden) = state.fusion() {
            fused.opened = hidden.hidden.clone();
            fused.residual = hidden.inner.clone().unwrap_or(fused.residual);
            (hidden.fused, hidden.addition) = (true, None);
        }
        for child in node.children.iter().filter(|child| self.acts(child)) {
            let (mut after, _) = self.run(child, state.clone(), Open::Done);
            fused
                .additions
                .extend(after.fusion().and_then(|hidden| hidden.addition.take()));
        }
        let fused = self.at.of_kind::<FusionState>().fused(fusion, fused);
        if let (Some(hidden), Some(fused)) = (state.fusion(), fused) {
            hidden.hidden = fused;
            hidden.fused = false;
        }
        (state, Some(last))
    }
}
