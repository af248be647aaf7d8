//! Which model an adapter was attached to, as far as it can be told from its layers.

use std::sync::Arc;

use adapters_sites::{Site, SiteKind};

use crate::host::Host;

/// The architecture of a model and the shapes of its linear layers: what a model must have in common with the one an
/// adapter was attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelShape {
    architecture: String,
    d_model: usize,
    /// Input and output features of the linear layers.
    linear: Vec<(Site, [usize; 2])>,
    /// Where a deeper model has a linear layer, and this one has none.
    beyond: Vec<Site>,
}

impl ModelShape {
    pub(crate) fn of(model: &dyn Host) -> Arc<Self> {
        let linear: Vec<(Site, [usize; 2])> = model
            .sites()
            .into_iter()
            .filter(|info| info.site.layer.is_some() && matches!(info.kind, SiteKind::Linear { .. }))
            .filter_map(|info| Some((info.site, model.linear(info.site)?.weight.lazy_shape().dims())))
            .collect();
        let mut beyond: Vec<Site> = Vec::new();
        for (site, _) in &linear {
            let next = Site {
                layer: site.layer.map(|layer| layer + 1),
                ..*site
            };
            // One role a stack is enough.
            if model.linear(next).is_none() && !beyond.iter().any(|other| other.stack == next.stack) {
                beyond.push(next);
            }
        }
        Arc::new(Self {
            architecture: model.architecture().to_owned(),
            d_model: model.d_model(),
            linear,
            beyond,
        })
    }

    /// What `model` has in place of what an adapter was attached to: what was expected, and what was found.
    pub(crate) fn difference(&self, model: &dyn Host) -> Option<(String, String)> {
        if self.architecture != model.architecture() {
            let of = |architecture: &str| format!("a {architecture} model");
            return Some((of(&self.architecture), of(model.architecture())));
        }
        if self.d_model != model.d_model() {
            let of = |d_model: usize| format!("a model of width {d_model}");
            return Some((of(self.d_model), of(model.d_model())));
        }
        for (site, expected) in &self.linear {
            let found = model.linear(*site).map(|layer| layer.weight.lazy_shape().dims());
            if found.as_ref() != Some(expected) {
                let of = |[d_in, d_out]: [usize; 2]| format!("{d_in} input and {d_out} output features at {site}");
                return Some((of(*expected), found.map_or_else(|| format!("no layer at {site}"), of)));
            }
        }
        let extra = self.beyond.iter().find(|site| model.linear(**site).is_some())?;
        Some((format!("no layer at {extra}"), "one".to_owned()))
    }
}
