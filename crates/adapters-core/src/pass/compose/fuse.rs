//! `Fuse`: attention over what several adapters make of one state.

use crate::composition::Composition;
use crate::pass::record::Recorded;
use crate::pass::state::{HookState, Up};

use super::{Acted, At};

impl<'s, S: HookState> At<'s, '_, S> {
    /// The state after a fusion of children, closed by the last adapter among them, which opened it too.
    ///
    /// Where a child has no layer there is one adapter less to attend to. Activation has checked that there is a fusion
    /// layer wherever a child acts, and that every child answers.
    pub(super) fn fuse(&self, block: &Composition, children: &[Composition], mut state: S) -> Acted<'s, S> {
        let names: Vec<&str> = children.iter().flat_map(Composition::occurrences).collect();
        let last = names.into_iter().rev().find_map(|name| self.acting(name));
        let fusion = block
            .fusion_name()
            .and_then(|name| self.set.fusion_at(&name, self.site));
        let (Some(last), Some((name, layer)), Some(hidden)) = (last, fusion, state.fusion()) else {
            return Acted::new(state, None);
        };
        let before = hidden.hidden.clone();
        let mut state = last.layer.open(state);
        let (mut query, mut residual) = (before.clone(), before);
        if let Some(hidden) = state.fusion() {
            query = layer.query_of(last.layer.fusion_query(), query, hidden.hidden.clone());
            residual = hidden.inner.clone().unwrap_or(residual);
            hidden.up = Up::Asked;
        }
        let mut ups = Vec::new();
        for child in children.iter().filter(|child| self.acts(child)) {
            let mut part = self.beside(child, state.clone()).state;
            if let Some(Up::Is(up)) = part.fusion().map(|hidden| std::mem::take(&mut hidden.up)) {
                ups.push(up);
            }
        }
        let (fused, scores) = layer.forward(query, &ups, residual, self.pass);
        if let Some(recorder) = &self.pass.recorder {
            let fusion = name.to_owned();
            recorder.add(self.site, Recorded::FusionAttention { fusion, scores });
        }
        if let Some(hidden) = state.fusion() {
            hidden.hidden = fused;
            hidden.up = Up::Unasked;
        }
        Acted::new(state, Some(last))
    }
}
