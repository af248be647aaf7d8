//! Whether every block of a composition has a meaning for the adapters in it.

use crate::error::Error;
use crate::method::site_layer::SiteLayer;
use crate::set::AdapterSet;
use crate::set::active::Active;
use crate::set::attached::Attached;
use adapters_config::Composition;

/// Why a kind of block has no meaning for a layer.
type Refusal = Option<&'static str>;

const TOGETHER: Refusal = Some("`Split` is not defined for prefix adapters: every query attends to all keys");
const NO_MEAN: Refusal = Some("prefixes cannot be averaged at run time; average their parameters instead");
const UNLIKE: &str = "an adapter that multiplies the output cannot be averaged with one that adds to it";
const OWN_TASKS: &str = "it selects parameters by the task of each row, so it must see the whole batch";
const ONE_NORM: Refusal = Some("it replaces the parameters of a normalization, which are the same for all rows");
const CHANGES: Refusal = Some("it changes the frozen layer or its input, which all rows of the batch share");

impl AdapterSet {
    /// Refuses what cannot run, by block and adapter.
    pub(crate) fn check_blocks(&self, composition: &Composition) -> Result<(), Error> {
        let mut root = composition;
        while let Composition::Stack(children) = root
            && let [only] = children.as_slice()
        {
            root = only;
        }
        for node in composition.nodes() {
            // The ranges of an outermost Split are finished one by one.
            let inside = !std::ptr::eq(node, root);
            self.check_block(node, inside)?;
            if let Composition::Fuse { children, .. } = node {
                self.check_fuse(node, children, inside)?;
            }
        }
        self.check_branches(composition)
    }

    /// Checks that every row has a task which each adapter that tells tasks apart knows.
    pub(crate) fn check_tasks(&self, active: &Active, rows: usize, tasks: &[Option<usize>]) -> Result<(), Error> {
        for adapter in active.adapters().filter_map(|name| self.get(name)) {
            let Some(known) = adapter.method().capabilities().tasks.map(|known| known.tasks()) else {
                continue;
            };
            let with_task = tasks.iter().flatten().count();
            if with_task != rows || tasks.len() != rows {
                return Err(Error::WrongSizes {
                    block: adapter.name().to_owned(),
                    what: "rows with a task (see `Ctx::with_tasks`)",
                    assigned: with_task,
                    found: rows,
                });
            }
            if let Some(task) = tasks.iter().flatten().find(|task| **task >= known) {
                return Err(Error::NoSuchTask {
                    task: *task,
                    tasks: known,
                });
            }
        }
        Ok(())
    }

    fn check_block(&self, block: &Composition, inside: bool) -> Result<(), Error> {
        let reason = |layer: &SiteLayer| match (block, layer) {
            (Composition::Adapter(_) | Composition::Stack(_) | Composition::Fuse { .. }, _) => None,
            (Composition::Split { .. }, SiteLayer::KeyValue(_)) => TOGETHER,
            (Composition::Average { .. }, SiteLayer::KeyValue(_)) => NO_MEAN,
            (_, SiteLayer::Norm(_)) => ONE_NORM,
            (_, SiteLayer::Matrices(_)) => CHANGES,
            (Composition::Average { .. }, SiteLayer::Linear(layer)) if layer.effect().changes() => CHANGES,
            (Composition::Average { .. }, SiteLayer::Table(layer))
                if layer.effect().changes() || layer.has_finisher() =>
            {
                CHANGES
            }
            (Composition::Split { .. }, SiteLayer::Table(layer)) if inside && layer.has_finisher() => CHANGES,
            (Composition::Split { .. }, SiteLayer::Linear(layer))
                if inside && (layer.effect().changes() || layer.has_finisher()) =>
            {
                CHANGES
            }
            _ => None,
        };
        for adapter in block.adapters().filter_map(|name| self.get(name)) {
            let by_row = matches!(block, Composition::BatchSplit { .. } | Composition::MultiTask(_));
            if by_row && adapter.method().capabilities().tasks.is_some() {
                return Err(refuse(block, adapter.name(), OWN_TASKS));
            }
            if let Some(reason) = adapter.layers().find_map(|l| reason(&l.layer)) {
                return Err(refuse(block, adapter.name(), reason));
            }
        }
        if matches!(block, Composition::Average { .. }) {
            let mut adapters = block.adapters().filter_map(|name| self.get(name));
            if let Some(first) = adapters.next()
                && let Some(other) = adapters.find(|other| !first.finishes_like(other))
            {
                return Err(refuse(block, other.name(), UNLIKE));
            }
        }
        Ok(())
    }

    /// A fusion needs a layer wherever one of its adapters acts, and only such adapters.
    fn check_fuse(&self, block: &Composition, children: &[Composition], inside: bool) -> Result<(), Error> {
        let fusion = self.fusion(&block.fusion_name().unwrap_or_default())?;
        if let Some(router) = fusion.method().capabilities().routes {
            let names: Vec<String> = children.iter().map(ToString::to_string).collect();
            if names != router.adapters() {
                return Err(refuse(
                    block,
                    fusion.name(),
                    "it weighs other adapters, or in another order",
                ));
            }
            if router.reads_base().is_some() && inside {
                return Err(refuse(
                    block,
                    fusion.name(),
                    "it reads the whole batch, and is no part of another block",
                ));
            }
        }
        let adapters = children.iter().flat_map(Composition::adapters);
        for adapter in adapters.filter_map(|name| self.get(name)) {
            for l in adapter.layers() {
                let reason = match &l.layer {
                    SiteLayer::Hidden(layer) if layer.fusion_query().is_none() => {
                        "its layer cannot be fused: AdapterFusion needs adapters that add to the residual stream"
                    }
                    SiteLayer::Hidden(_) if !fusion.layers.contains_key(&l.info.site) => {
                        "it adapts a layer where the fusion has none"
                    }
                    SiteLayer::Hidden(_) | SiteLayer::Embedding(_) => continue,
                    // That it adds was checked when the router was attached.
                    SiteLayer::Linear(_) if fusion.layers.contains_key(&l.info.site) => continue,
                    _ => "a fusion attends to what adapters add to the residual stream",
                };
                return Err(refuse(block, adapter.name(), reason));
            }
        }
        Ok(())
    }

    /// Two blocks that repeat the batch have to repeat it as often.
    fn check_branches(&self, composition: &Composition) -> Result<(), Error> {
        let wanted = composition.parallel_channels();
        let parallel = |node: &&Composition| matches!(node, Composition::Parallel(_));
        match composition
            .nodes()
            .filter(parallel)
            .find(|node| node.children().len() != wanted)
        {
            Some(node) => {
                let adapter = node.first().unwrap_or_default();
                Err(refuse(node, adapter, "another Parallel block has more branches"))
            }
            None => Ok(()),
        }
    }
}

fn refuse(block: &Composition, adapter: &str, reason: &'static str) -> Error {
    Error::BlockNotRunnable {
        block: block.to_string(),
        adapter: adapter.to_owned(),
        reason,
    }
}

impl Attached {
    /// Whether two adapters can be averaged at linear layers: both add to the output, or both do something else to it.
    pub(crate) fn finishes_like(&self, other: &Self) -> bool {
        self.layers()
            .all(|l| match (&l.layer, other.layers.get(&l.info.site).map(|o| &o.layer)) {
                (SiteLayer::Linear(mine), Some(SiteLayer::Linear(theirs))) => {
                    mine.has_finisher() == theirs.has_finisher()
                }
                _ => true,
            })
    }
}
