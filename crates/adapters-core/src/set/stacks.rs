//! Whether the adapters of a `Stack` fit on each other.

use adapters_sites::Site;

use crate::error::Error;
use crate::method::site_layer::SiteLayer;
use crate::pass::state::Source;
use crate::set::AdapterSet;
use crate::set::attached::AttachedLayer;
use adapters_config::Composition;

/// What an adapter adds at a linear layer.
#[derive(Clone, Debug)]
struct Addition {
    adapter: String,
    width: usize,
}

impl AdapterSet {
    /// Refuses a layer that reads the addition of the adapter before it in a `Stack` where that has other features than the
    /// layer reads.
    pub(super) fn check_stacks(&self, composition: &Composition) -> Result<(), Error> {
        for stack in composition.nodes().filter(|node| matches!(node, Composition::Stack(_))) {
            let mut sites: Vec<Site> = Vec::new();
            for adapter in stack.adapters().filter_map(|name| self.get(name)) {
                sites.extend(adapter.layers().map(|l| l.info.site));
            }
            sites.sort();
            sites.dedup();
            for site in sites {
                self.check_stack(stack, stack, site, None)?;
            }
        }
        Ok(())
    }

    /// Checks one node of a `Stack` at one site, after what `before` adds; what the node adds, or `before` if nothing.
    fn check_stack(
        &self,
        stack: &Composition,
        node: &Composition,
        site: Site,
        before: Option<Addition>,
    ) -> Result<Option<Addition>, Error> {
        match node {
            Composition::Adapter(name) => {
                let layer = self.get(name).and_then(|adapter| adapter.layers.get(&site));
                let Some(AttachedLayer {
                    info,
                    layer: SiteLayer::Linear(layer),
                }) = layer
                else {
                    return Ok(before);
                };
                let (Some(source), Some((_, d_out))) = (layer.effect().source(), info.linear_dims()) else {
                    return Ok(before);
                };
                if let (Some(before), Source::Previous { width }) = (before, source)
                    && width != Some(before.width)
                {
                    let reads = match width {
                        Some(width) => format!("{width} features"),
                        None => "the addition of no other adapter here".to_owned(),
                    };
                    return Err(Error::CannotStack {
                        adapter: name.clone(),
                        path: info.path.clone(),
                        reason: format!(
                            "in `{stack}` it reads {reads}, and `{}` before it adds {} features",
                            before.adapter, before.width
                        ),
                    });
                }
                Ok(Some(Addition {
                    adapter: name.clone(),
                    width: d_out,
                }))
            }
            Composition::Stack(children) => children
                .iter()
                .try_fold(before, |before, child| self.check_stack(stack, child, site, before)),
            // Children act side by side, each after what came before the block.
            block => {
                let mut last = before.clone();
                for child in block.children() {
                    last = self.check_stack(stack, child, site, before.clone())?.or(last);
                }
                Ok(last)
            }
        }
    }
}
