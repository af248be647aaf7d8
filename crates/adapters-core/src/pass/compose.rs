//! What a composition does to the state of a site: the algebra of the [module above](crate::pass), line by line.

use std::marker::PhantomData;
use std::ops::Range;

use adapters_sites::Site;
use burn::tensor::Tensor;

use crate::erased::Erased;
use crate::method::shared::Shared;
use crate::method::site_layer::SiteState;
use crate::pass::call::{Call, Pass};
use crate::pass::plan::{Block, Leaf, Node, Plan};
use crate::pass::rows::{Group, Partition};
use crate::pass::state::{EmbeddingState, FusionState, Positions, Rows};

/// An adapter's layer at a site, with what the adapter's layers have in common.
pub(super) struct Acting<'a, S: SiteState> {
    name: &'a str,
    pub(super) layer: &'a Erased<S>,
    shared: &'a Shared,
}

impl<S: SiteState> Clone for Acting<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: SiteState> Copy for Acting<'_, S> {}

/// A state, and the layer whose finisher is due: `(s, e)`.
pub(super) type After<'a, S> = (S, Option<Acting<'a, S>>);

/// A site in a pass where an adapter acts.
pub(crate) struct At<'p, 'a, S> {
    plan: &'p Plan<'a>,
    pub(super) layers: &'p [Option<Leaf<'a>>],
    pub(super) site: Site,
    pub(super) pass: &'p Pass,
    kind: PhantomData<S>,
}

/// What the rows of one group see there.
pub(super) struct Seen<'s, 'a, S> {
    pub(super) at: &'s At<'s, 'a, S>,
    choices: &'s [Option<usize>],
}

impl<'p, 'a, S: SiteState> At<'p, 'a, S> {
    /// The site, if an active adapter has a layer of this kind there.
    pub(crate) fn new(plan: &'p Plan<'a>, site: Site, pass: &'p Pass) -> Option<Self> {
        let layers = plan.at(site)?;
        let at = Self {
            plan,
            layers,
            site,
            pass,
            kind: PhantomData,
        };
        at.plan
            .root
            .leaves
            .clone()
            .any(|leaf| at.layer(leaf).is_some())
            .then_some(at)
    }

    /// The layer of an adapter.
    pub(super) fn layer(&self, leaf: usize) -> Option<Acting<'a, S>> {
        let Leaf { adapter, layer } = (*self.layers.get(leaf)?)?;
        Some(Acting {
            name: adapter.name(),
            layer: S::of(layer)?,
            shared: adapter.shared(),
        })
    }

    /// The same site, for layers of another kind.
    pub(super) fn of_kind<T: SiteState>(&self) -> At<'p, 'a, T> {
        At {
            plan: self.plan,
            layers: self.layers,
            site: self.site,
            pass: self.pass,
            kind: PhantomData,
        }
    }

    fn call<'c>(&'c self, acting: &Acting<'c, S>) -> Call<'c, Shared> {
        Call {
            pass: self.pass,
            shared: acting.shared,
            adapter: acting.name,
            site: self.site,
        }
    }

    fn apply(&self, acting: &Acting<'a, S>, state: S) -> S {
        acting.layer.apply(state, &self.call(acting))
    }

    fn finish(&self, (state, last): After<'a, S>) -> S::Output {
        match &last {
            Some(acting) => acting.layer.finish(state, &self.call(acting)),
            None => state.finish(),
        }
    }

    fn seen<'s>(&'s self, group: &'s Group) -> Seen<'s, 'a, S> {
        Seen {
            at: self,
            choices: &group.choices,
        }
    }

    /// The last adapter in a range of the composition that has a layer here.
    pub(super) fn last(&self, leaves: &Range<usize>) -> Option<Acting<'a, S>> {
        leaves.clone().rev().find_map(|leaf| self.layer(leaf))
    }

    /// Whether every adapter here only adds to what the frozen layer computes.
    fn all_add(&self) -> bool {
        let mut acting = self.plan.root.leaves.clone().filter_map(|leaf| self.layer(leaf));
        acting.all(|acting| S::adds(&acting.layer.effect()) && !acting.layer.has_finisher())
    }

    /// The output of the site.
    ///
    /// # Panics
    ///
    /// Panics if the composition chooses adapters by row and the state has other rows than the batch the pass began with:
    /// a model hands its hooks the rows of its batch.
    pub(crate) fn run(&self, state: S) -> S::Output {
        if S::FIRST_ONLY {
            let act = |first: Option<Acting<'a, S>>, state: S| match first {
                Some(acting) => {
                    let state = self.apply(&acting, acting.layer.open(state));
                    self.finish((state, Some(acting)))
                }
                None => state.finish(),
            };
            return self.by_first(state.rows(), state, act);
        }
        if let [group] = self.plan.groups.as_slice() {
            return self.seen(group).output(&self.plan.root, state);
        }
        self.check_rows(state.rows());
        let taken = |group: &Group| match (state.take_rows(&group.rows), group.own_task) {
            (rows, true) => rows.apart(),
            (rows, false) => rows,
        };
        let groups = self.plan.groups.iter();
        if self.all_add() {
            let chunks = groups.map(|group| self.seen(group).run(&self.plan.root, taken(group), Open::Due).0);
            return state.with_rows(chunks.collect(), &self.plan.order).finish();
        }
        let outputs = groups.map(|group| self.seen(group).output(&self.plan.root, taken(group)));
        S::Output::join_rows(outputs.collect()).take_rows(&self.plan.order)
    }

    /// What `act` makes of `x`, of so many rows, with the first adapter of what each row sees.
    fn by_first<T: Rows, O: Rows>(&self, rows: usize, x: T, act: impl Fn(Option<Acting<'a, S>>, T) -> O) -> O {
        let groups = &self.plan.groups;
        let first = |group| {
            let leaf = self.seen(group).first_leaf(&self.plan.root);
            leaf.filter(|leaf| self.layer(*leaf).is_some())
        };
        if let [group, others @ ..] = groups.as_slice()
            && others.iter().all(|other| first(other) == first(group))
        {
            return act(first(group).and_then(|leaf| self.layer(leaf)), x);
        }
        self.check_rows(rows);
        let outputs = groups.iter().map(|group| {
            let acting = first(group).and_then(|leaf| self.layer(leaf));
            act(acting, x.take_rows(&group.rows))
        });
        O::join_rows(outputs.collect()).take_rows(&self.plan.order)
    }

    fn check_rows(&self, rows: usize) {
        let batch = self.plan.order.len();
        assert!(
            rows == batch,
            "the state at {} has {rows} rows, and the pass began with a batch of {batch}: a model begins a pass with \
             `Ctx::begin` and hands its hooks the rows it returns",
            self.site
        );
    }
}

impl At<'_, '_, FusionState> {
    /// What a fusion of the composition makes of what its adapters add.
    pub(super) fn fused(&self, fusion: usize, state: FusionState) -> Option<Tensor<3>> {
        // The layers of fusions come after those of adapters.
        let acting = self.layer(self.plan.adapters + fusion)?;
        Some(self.finish((self.apply(&acting, state), Some(acting))))
    }
}

impl At<'_, '_, EmbeddingState> {
    /// Undoes, before the language-model head, what adapters did to the embeddings at this site.
    pub(crate) fn undo(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.by_first(hidden.dims()[0], hidden, |first, hidden: Tensor<3>| match first {
            Some(acting) => acting.layer.undo(hidden, &self.call(&acting)),
            None => hidden,
        })
    }
}

/// Whether a single adapter opens the site, or the block around it has.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Open {
    Due,
    Done,
}

impl<'a, S: SiteState> Seen<'_, 'a, S> {
    /// Whether an adapter of a node acts on these rows.
    pub(super) fn acts(&self, node: &Node) -> bool {
        match node.block {
            Block::Adapter => self.at.layer(node.leaves.start).is_some(),
            Block::Rows { choice, .. } => self.chosen(node, choice).is_some_and(|child| self.acts(child)),
            _ => node.children.iter().any(|child| self.acts(child)),
        }
    }

    fn chosen<'n>(&self, node: &'n Node, choice: usize) -> Option<&'n Node> {
        node.children.get((*self.choices.get(choice)?)?)
    }

    /// The first adapter of what these rows see, whether or not it acts here.
    fn first_leaf(&self, node: &Node) -> Option<usize> {
        match node.block {
            Block::Adapter => Some(node.leaves.start),
            Block::Rows { choice, .. } => self.first_leaf(self.chosen(node, choice)?),
            _ => self.first_leaf(node.children.first()?),
        }
    }

    /// The output of a composition. The ranges of an outermost `Split` finish by themselves.
    fn output(&self, root: &Node, state: S) -> S::Output {
        if let Block::Split(splits) = &root.block
            && self.acts(root)
            && !self.at.all_add()
        {
            let chunks = self.ranges(root, splits, &state);
            let finished = |chunks: Vec<_>| chunks.into_iter().map(|chunk| self.at.finish(chunk)).collect();
            // Activation has refused a Split where the positions of a state belong together.
            let outputs = chunks.map(finished).and_then(S::Output::join_positions);
            return outputs.unwrap_or_else(|| state.finish());
        }
        self.at.finish(self.run(root, state, Open::Due))
    }

    /// `[[B]](s)`: the state after a node, and the layer that finishes it.
    pub(super) fn run(&self, node: &Node, state: S, open: Open) -> After<'a, S> {
        if !self.acts(node) {
            return (state, None);
        }
        match &node.block {
            Block::Adapter => {
                let acting = self.at.layer(node.leaves.start);
                let state = match (&acting, open) {
                    (Some(acting), Open::Due) => self.at.apply(acting, acting.layer.open(state)),
                    (Some(acting), Open::Done) => self.at.apply(acting, state),
                    (None, _) => state,
                };
                (state, acting)
            }
            Block::Stack => node.children.iter().fold((state, None), |(state, before), child| {
                let (state, last) = self.run(child, state, Open::Due);
                (state, last.or(before))
            }),
            Block::Average(weights) => {
                let (state, mut last) = (self.opened(node, state), None);
                let states = node.children.iter().zip(weights).map(|(child, weight)| {
                    let (after, finisher) = self.run(child, state.clone(), Open::Done);
                    last = finisher.or(last);
                    (after, weight / node.children.len() as f64)
                });
                let mean = S::weighted_sum(states.collect());
                (mean.unwrap_or(state), last)
            }
            Block::Split(splits) => {
                let chunks = self.ranges(node, splits, &state).unwrap_or_default();
                let last = chunks.iter().rev().find_map(|(_, last)| *last);
                let chunks: Vec<S> = chunks.into_iter().map(|(chunk, _)| chunk).collect();
                let joined = (!chunks.is_empty()).then(|| state.with_positions(chunks)).flatten();
                (joined.unwrap_or(state), last)
            }
            Block::Fuse(fusion) => self.fuse(node, *fusion, state),
            Block::Rows { choice, partition } => match (self.chosen(node, *choice), partition) {
                (None, _) => (state, None),
                (Some(child), Partition::Tasks) => self.run(child, state, Open::Due),
                (Some(child), _) => {
                    let (state, last) = self.run(child, self.opened(node, state), Open::Done);
                    (state, self.finisher_of(node, last))
                }
            },
        }
    }

    /// The state opened once for a block, by the first of its adapters.
    fn opened(&self, node: &Node, state: S) -> S {
        match node.leaves.clone().find_map(|leaf| self.at.layer(leaf)) {
            Some(acting) => acting.layer.open(state),
            None => state,
        }
    }

    /// Which layer finishes a child of a block.
    fn finisher_of(&self, node: &Node, last: Option<Acting<'a, S>>) -> Option<Acting<'a, S>> {
        match S::ONE_FINISHER {
            true => last.and(self.at.last(&node.leaves)),
            false => last,
        }
    }

    /// Each child on its own range of positions; `None` where positions belong together.
    ///
    /// Some sites see fewer positions than the input has, as a pooler does: the first. Positions beyond all ranges, which
    /// the check of the input leaves for sites outside the layers only, go to no child.
    fn ranges(&self, node: &Node, splits: &[usize], state: &S) -> Option<Vec<After<'a, S>>> {
        let positions = state.positions()?;
        let opened = self.opened(node, state.clone());
        let (mut start, mut chunks) = (0, Vec::new());
        let children = node.children.iter().map(Some).chain([None]);
        for (child, split) in children.zip(splits.iter().chain([&positions])) {
            let range = start.min(positions)..(start + split).min(positions);
            start += split;
            if range.is_empty() {
                continue;
            }
            chunks.push(match child.filter(|child| self.acts(child)) {
                Some(child) => {
                    let (chunk, last) = self.run(child, opened.take_positions(range)?, Open::Done);
                    (chunk, self.finisher_of(node, last))
                }
                None => (state.take_positions(range)?, None),
            });
        }
        Some(chunks)
    }
}
