//! The active composition, resolved once for a pass: from each site to the layers that act there.

use std::collections::HashMap;
use std::ops::Range;

use adapters_sites::Site;

use crate::method::site_layer::SiteLayer;
use crate::pass::rows::{Group, Partition, within};
use crate::set::AdapterSet;
use crate::set::attached::Attached;
use adapters_config::Composition;

/// A node of a composition, with its adapters and fusions as numbers.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) block: Block,
    pub(crate) children: Vec<Node>,
    /// Its adapters, from left to right. That of a single adapter is the first.
    pub(crate) leaves: Range<usize>,
}

/// What a [`Node`] does with its children.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    Adapter,
    Stack,
    /// The weights.
    Average(Vec<f64>),
    /// Positions of each child.
    Split(Vec<usize>),
    /// Which of the fusions of the composition.
    Fuse(usize),
    /// Chooses a child for each row, as the partition says; `choice` is the index of this block among those of its kind.
    Rows {
        choice: usize,
        partition: Partition,
    },
}

/// A layer of an active adapter or fusion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf<'a> {
    pub(crate) adapter: &'a Attached,
    pub(crate) layer: &'a SiteLayer,
}

/// A composition, ready to run on the batch of a pass.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) root: Node,
    /// The rows of the batch by what they see of the composition; one group where all see the same.
    pub(crate) groups: Vec<Group>,
    /// For each row of the batch, where it is once the groups are joined.
    pub(crate) order: Vec<usize>,
    /// Where the layers of a site begin in `layers`.
    sites: HashMap<Site, usize>,
    /// As many a site as there are adapters and fusions in the composition, in its order, fusions last.
    layers: Vec<Option<Leaf<'a>>>,
    /// How many that is.
    width: usize,
    /// How many of them are adapters.
    pub(crate) adapters: usize,
}

/// What the rows of a batch are, for the blocks that choose by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchRows<'t> {
    /// Rows, copies for the branches of a `Parallel` included.
    pub(crate) count: usize,
    /// The task of each row of the input.
    pub(crate) tasks: &'t [Option<usize>],
}

impl<'a> Plan<'a> {
    /// Resolves `composition`, which was checked against `set`, for a batch of these rows; without layers at the
    /// `skipped` layers of the model.
    pub(crate) fn new(set: &'a AdapterSet, composition: &Composition, rows: BatchRows<'_>, skipped: &[usize]) -> Self {
        let mut numbering = Numbering::default();
        let mut root = numbering.node(composition);
        // A Stack of one is what it holds.
        while let (Block::Stack, 1) = (&root.block, root.children.len()) {
            root = root.children.remove(0);
        }
        let adapters = numbering.adapters.iter().map(|name| set.get(name));
        let fusions = numbering.fusions.iter().map(|name| set.fusion(name).ok());
        let width = numbering.adapters.len() + numbering.fusions.len();
        let (mut sites, mut layers) = (HashMap::new(), Vec::new());
        for (column, adapter) in adapters.chain(fusions).enumerate() {
            for l in adapter.iter().flat_map(|adapter| adapter.layers()) {
                let site = l.info.site;
                if site.layer.is_some_and(|layer| skipped.contains(&layer)) {
                    continue;
                }
                let start = *sites.entry(site).or_insert_with(|| {
                    let start = layers.len();
                    layers.resize(start + width, None);
                    start
                });
                layers[start + column] = adapter.map(|adapter| Leaf {
                    adapter,
                    layer: &l.layer,
                });
            }
        }
        let (groups, order) = root.groups(rows, numbering.choices);
        Self {
            root,
            groups,
            order,
            sites,
            layers,
            width,
            adapters: numbering.adapters.len(),
        }
    }

    /// Leaves only some rows of the batch; what there was before.
    pub(super) fn keep_rows(&mut self, rows: &Range<usize>) -> (Vec<Group>, Vec<usize>) {
        let kept = match self.order.is_empty() {
            // All rows see the same.
            true => (self.groups.clone(), Vec::new()),
            false => within(&self.groups, rows),
        };
        self.put_rows(kept)
    }

    /// Replaces the groups of rows and their order; what there was before.
    pub(super) fn put_rows(&mut self, (groups, order): (Vec<Group>, Vec<usize>)) -> (Vec<Group>, Vec<usize>) {
        let groups = std::mem::replace(&mut self.groups, groups);
        (groups, std::mem::replace(&mut self.order, order))
    }

    /// The layers at `site`: of each adapter of the composition, then of each fusion; `None` where none has one.
    pub(crate) fn at(&self, site: Site) -> Option<&[Option<Leaf<'a>>]> {
        let start = *self.sites.get(&site)?;
        self.layers.get(start..start + self.width)
    }
}

/// Gives the adapters, the fusions and the blocks that choose by row their numbers.
#[derive(Default)]
struct Numbering<'c> {
    adapters: Vec<&'c str>,
    fusions: Vec<String>,
    choices: usize,
}

impl<'c> Numbering<'c> {
    fn node(&mut self, composition: &'c Composition) -> Node {
        let start = self.adapters.len();
        let block = match composition {
            Composition::Adapter(name) => {
                self.adapters.push(name);
                Block::Adapter
            }
            Composition::Stack(_) => Block::Stack,
            Composition::Average { weights, .. } => Block::Average(weights.clone()),
            Composition::Split { splits, .. } => Block::Split(splits.clone()),
            Composition::Fuse { .. } => {
                self.fusions.extend(composition.fusion_name());
                Block::Fuse(self.fusions.len() - 1)
            }
            Composition::Parallel(_) => self.rows(Partition::Branches),
            Composition::MultiTask(_) => self.rows(Partition::Tasks),
            Composition::BatchSplit { batch_sizes, .. } => self.rows(Partition::Sizes(batch_sizes.clone())),
        };
        let children = composition.children().iter().map(|child| self.node(child)).collect();
        Node {
            block,
            children,
            leaves: start..self.adapters.len(),
        }
    }

    fn rows(&mut self, partition: Partition) -> Block {
        self.choices += 1;
        Block::Rows {
            choice: self.choices - 1,
            partition,
        }
    }
}
