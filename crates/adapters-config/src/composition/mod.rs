//! Which adapters act, and how they are combined: plain data, parsed, printed, checked and stored.
//!
//! A [`Composition`] is a small tree. Its leaves name adapters, its blocks define how the outputs of their children are combined. It holds
//! no tensor and knows no method: the hooks of a model read it while they run. It mirrors `adapters/composition.py` of
//! AdapterHub's library ("Adapters: A Unified Library for Parameter-Efficient and Modular Transfer Learning", Poth et al.,
//! 2023, <https://arxiv.org/abs/2311.11077>).
//!
//! | Block | Output, with children `f_1 .. f_n` and input `x` | Paper |
//! |---|---|---|
//! | `Stack` | `f_n(.. f_2(f_1(x)))` | MAD-X, Pfeiffer et al., 2020, <https://arxiv.org/abs/2005.00052> |
//! | `Fuse` | `sum_i softmax_i(q(x) . k(f_i(x))) v(f_i(x)) + residual` | AdapterFusion, Pfeiffer et al., 2021, <https://arxiv.org/abs/2005.00247> |
//! | `Split` | `concat_seq f_i(x[:, s_i .. s_i + splits_i])` | - |
//! | `BatchSplit` | `concat_batch f_i(x[b_i .. b_i + batch_sizes_i])` | - |
//! | `Parallel` | `concat_batch f_i(x)`, the batch repeated `n` times | AdapterDrop, Rücklé et al., 2021, <https://arxiv.org/abs/2010.11918> |
//! | `Average` | `(1 / n) sum_i w_i f_i(x)` | Efficient Test Time Adapter Ensembling, Wang et al., 2021, <https://arxiv.org/abs/2109.04877> |
//! | `MultiTask` | row `r` goes to `f_t`, `t` the task of the row | MTL-LoRA, Yang et al., 2024, <https://arxiv.org/abs/2410.09437> |
//!
//! Reading the text of a composition (`Stack(a, Fuse(b, c))`, see [`Composition`]'s `FromStr`) checks its shape only;
//! [`Composition::validate`] checks whether the blocks may be nested so. The reference's dictionary, which its files hold, is
//! read and written in `adapters-store`.

mod error;
mod parse;
mod validate;

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use crate::text::{Literal, write_text};

pub use error::CompositionError;

/// How deep text may nest. Valid setups need four levels ([`Composition::validate`]).
pub const MAX_NESTING: usize = 32;

/// The kind of a node of a [`Composition`], without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockKind {
    /// A single adapter.
    Adapter,
    /// [`Composition::Stack`].
    Stack,
    /// [`Composition::Fuse`].
    Fuse,
    /// [`Composition::Split`].
    Split,
    /// [`Composition::BatchSplit`].
    BatchSplit,
    /// [`Composition::Parallel`].
    Parallel,
    /// [`Composition::Average`].
    Average,
    /// [`Composition::MultiTask`].
    MultiTask,
}

impl BlockKind {
    /// Every kind that is a block, that is all but [`BlockKind::Adapter`].
    pub const BLOCKS: [Self; 7] = [
        Self::Stack,
        Self::Fuse,
        Self::Split,
        Self::BatchSplit,
        Self::Parallel,
        Self::Average,
        Self::MultiTask,
    ];

    /// The name in text and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adapter => "adapter",
            Self::Stack => "Stack",
            Self::Fuse => "Fuse",
            Self::Split => "Split",
            Self::BatchSplit => "BatchSplit",
            Self::Parallel => "Parallel",
            Self::Average => "Average",
            Self::MultiTask => "MultiTask",
        }
    }

    /// The keyword arguments its text form takes.
    pub const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Fuse => &["name"],
            Self::Split => &["splits"],
            Self::BatchSplit => &["batch_sizes"],
            Self::Average => &["weights", "normalize"],
            _ => &[],
        }
    }

    /// The block of that name.
    fn block(name: &str) -> Option<Self> {
        Self::BLOCKS.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A setup of adapters: one, or a block of setups.
///
/// # Text
///
/// `Display` and `FromStr` are inverse of each other for all values whose weights are finite and that nest no deeper
/// than [`MAX_NESTING`].
///
/// - A bare name is an adapter: letters, digits and `_ - . / @ : + #`. Any other name is quoted (`"my adapter"`), with
///   the escapes `\"`, `\'`, `\\`, `\n`, `\r`, `\t` and `\u{1f600}`; so is one that is the name of a block.
/// - A block is its name and its children in parentheses, keyword arguments last.
/// - The constructor calls of the Python reference are understood too: quotes of both kinds, one integer for `splits` and
///   `batch_sizes`, `normalize_weights`, `True` and `False`.
///
/// | Argument | Default | Purpose | Range |
/// |---|---|---|---|
/// | `Fuse(.., name=)` | none | name of the fusion layer, see [`Composition::fusion_name`] | a name |
/// | `Split(.., splits=)` | needed | positions each child gets | one integer a child, or one for all |
/// | `BatchSplit(.., batch_sizes=)` | needed | rows each child gets | one integer a child, or one for all |
/// | `Average(.., weights=)` | `1 / n` each | weight of each child | one finite number a child |
/// | `Average(.., normalize=)` | `true` | divide `weights` by their sum | `true`, `false` |
///
/// ```
/// use adapters_config::Composition;
///
/// let setup: Composition = "Stack(lang, Fuse(b, c))".parse()?;
/// assert_eq!(setup, Composition::stack(["lang".into(), Composition::fuse(["b", "c"])]));
/// assert_eq!(setup.adapters().collect::<Vec<_>>(), ["lang", "b", "c"]);
/// setup.validate()?;
/// # Ok::<(), adapters_config::CompositionError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Composition {
    /// One adapter, by name.
    Adapter(String),
    /// One after the other: `f_n(.. f_1(x))` (MAD-X, Pfeiffer et al., 2020: a task adapter on a language adapter).
    Stack(Vec<Composition>),
    /// Attention over the outputs of the children (AdapterFusion, Pfeiffer et al., 2021).
    Fuse {
        /// The fused setups.
        children: Vec<Composition>,
        /// Name of the fusion layer, where it is not the children's names.
        name: Option<String>,
    },
    /// Each child acts on a range of the sequence, from left to right.
    Split {
        /// The setups.
        children: Vec<Composition>,
        /// Positions each child gets; they add up to the sequence length.
        splits: Vec<usize>,
    },
    /// Each child acts on some rows of the batch, from the first row on.
    BatchSplit {
        /// The setups.
        children: Vec<Composition>,
        /// Rows each child gets; they add up to the batch size.
        batch_sizes: Vec<usize>,
    },
    /// Each child acts on its own copy of the batch (AdapterDrop, Rücklé et al., 2021).
    Parallel(Vec<Composition>),
    /// Weighted mean of the children's outputs, `(1 / n) sum_i w_i f_i(x)`. Dividing by `n` as well follows the
    /// reference implementation.
    Average {
        /// The setups.
        children: Vec<Composition>,
        /// The weights that act, that is after any normalization; `1 / n` each by default.
        weights: Vec<f64>,
    },
    /// Each row of the batch goes to the child of its task (MTL-LoRA, Yang et al., 2024).
    MultiTask(Vec<Composition>),
}

fn collect<I: IntoIterator<Item = impl Into<Composition>>>(children: I) -> Vec<Composition> {
    children.into_iter().map(Into::into).collect()
}

/// Divides by the sum, as the reference's constructor does. Not finite if the sum is zero or infinite.
fn normalized(weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    let sum = if sum.is_finite() { sum } else { f64::NAN };
    weights.iter().map(|weight| weight / sum).collect()
}

/// The weights of `n` children for which none were given.
fn equal_weights(n: usize) -> Vec<f64> {
    vec![1.0 / n as f64; n]
}

/// Builders. None checks anything: [`Composition::validate`] does.
impl Composition {
    /// A single adapter.
    pub fn adapter(name: impl Into<String>) -> Self {
        Self::Adapter(name.into())
    }

    /// See [`Composition::Stack`].
    pub fn stack<C: Into<Self>>(children: impl IntoIterator<Item = C>) -> Self {
        Self::Stack(collect(children))
    }

    /// See [`Composition::Fuse`]; the fusion layer is named after the children.
    pub fn fuse<C: Into<Self>>(children: impl IntoIterator<Item = C>) -> Self {
        let (children, name) = (collect(children), None);
        Self::Fuse { children, name }
    }

    /// See [`Composition::Fuse`]; the fusion layer has a name of its own.
    pub fn named_fuse<C: Into<Self>>(name: impl Into<String>, children: impl IntoIterator<Item = C>) -> Self {
        let (children, name) = (collect(children), Some(name.into()));
        Self::Fuse { children, name }
    }

    /// See [`Composition::Split`].
    pub fn split<C: Into<Self>>(children: impl IntoIterator<Item = C>, splits: impl Into<Vec<usize>>) -> Self {
        let (children, splits) = (collect(children), splits.into());
        Self::Split { children, splits }
    }

    /// See [`Composition::BatchSplit`].
    pub fn batch_split<C: Into<Self>>(
        children: impl IntoIterator<Item = C>,
        batch_sizes: impl Into<Vec<usize>>,
    ) -> Self {
        let (children, batch_sizes) = (collect(children), batch_sizes.into());
        Self::BatchSplit { children, batch_sizes }
    }

    /// See [`Composition::Parallel`].
    pub fn parallel<C: Into<Self>>(children: impl IntoIterator<Item = C>) -> Self {
        Self::Parallel(collect(children))
    }

    /// See [`Composition::Average`]; every weight is `1 / n`.
    pub fn average<C: Into<Self>>(children: impl IntoIterator<Item = C>) -> Self {
        let children = collect(children);
        let weights = equal_weights(children.len());
        Self::Average { children, weights }
    }

    /// See [`Composition::Average`]; the weights are divided by their sum, the reference's default.
    pub fn weighted_average<C: Into<Self>>(
        children: impl IntoIterator<Item = C>,
        weights: impl Into<Vec<f64>>,
    ) -> Self {
        let (children, weights) = (collect(children), normalized(&weights.into()));
        Self::Average { children, weights }
    }

    /// See [`Composition::Average`]; the weights act as they are (`normalize_weights=False` in the reference).
    pub fn unnormalized_average<C: Into<Self>>(
        children: impl IntoIterator<Item = C>,
        weights: impl Into<Vec<f64>>,
    ) -> Self {
        let (children, weights) = (collect(children), weights.into());
        Self::Average { children, weights }
    }

    /// The sum of what adapters contribute, as several active adapters of peft: an average whose weights undo its
    /// division.
    pub fn sum<I: IntoIterator<Item = impl Into<Composition>>>(children: I) -> Self {
        let children = collect(children);
        let weights = vec![children.len() as f64; children.len()];
        Self::Average { children, weights }
    }

    /// See [`Composition::MultiTask`].
    pub fn multi_task<C: Into<Self>>(children: impl IntoIterator<Item = C>) -> Self {
        Self::MultiTask(collect(children))
    }

    /// The setup the reference activates: a single adapter becomes a `Stack` of one, a block stays as it is.
    #[must_use]
    pub fn into_block(self) -> Self {
        match self {
            Self::Adapter(_) => Self::Stack(vec![self]),
            block => block,
        }
    }
}

/// Questions.
impl Composition {
    /// Which kind of node this is.
    pub const fn kind(&self) -> BlockKind {
        match self {
            Self::Adapter(_) => BlockKind::Adapter,
            Self::Stack(_) => BlockKind::Stack,
            Self::Fuse { .. } => BlockKind::Fuse,
            Self::Split { .. } => BlockKind::Split,
            Self::BatchSplit { .. } => BlockKind::BatchSplit,
            Self::Parallel(_) => BlockKind::Parallel,
            Self::Average { .. } => BlockKind::Average,
            Self::MultiTask(_) => BlockKind::MultiTask,
        }
    }

    /// The direct children; none for a single adapter.
    pub fn children(&self) -> &[Self] {
        match self {
            Self::Adapter(_) => &[],
            Self::Stack(children) | Self::Parallel(children) | Self::MultiTask(children) => children,
            Self::Fuse { children, .. }
            | Self::Split { children, .. }
            | Self::BatchSplit { children, .. }
            | Self::Average { children, .. } => children,
        }
    }

    /// This node and all below it, each before its children, from left to right.
    pub fn nodes(&self) -> impl Iterator<Item = &Self> {
        let mut rest = vec![self];
        std::iter::from_fn(move || {
            let node = rest.pop()?;
            rest.extend(node.children().iter().rev());
            Some(node)
        })
    }

    /// The adapter names from left to right, one for each time it occurs.
    pub fn occurrences(&self) -> impl Iterator<Item = &str> {
        self.nodes().filter_map(|node| match node {
            Self::Adapter(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The adapter names, each once, in the order of their first occurrence.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        let mut seen = HashSet::new();
        self.occurrences().filter(move |name| seen.insert(*name))
    }

    /// The set of adapter names (the reference's `flatten()`).
    pub fn flatten(&self) -> BTreeSet<&str> {
        self.occurrences().collect()
    }

    /// Whether an adapter of that name occurs.
    pub fn contains(&self, adapter: &str) -> bool {
        self.occurrences().any(|name| name == adapter)
    }

    /// The adapter reached by always taking the first child; none where that ends in an empty block.
    pub fn first(&self) -> Option<&str> {
        let mut node = self;
        loop {
            match node {
                Self::Adapter(name) => return Some(name),
                block => node = block.children().first()?,
            }
        }
    }

    /// The adapter reached by always taking the last child; none where that ends in an empty block.
    pub fn last(&self) -> Option<&str> {
        let mut node = self;
        loop {
            match node {
                Self::Adapter(name) => return Some(name),
                block => node = block.children().last()?,
            }
        }
    }

    /// How often the batch is repeated: the children of a `Parallel`, else the most that any child needs, at least 1.
    ///
    /// As in the reference, what is nested inside a `Parallel` does not count.
    pub fn parallel_channels(&self) -> usize {
        match self {
            Self::Parallel(children) => children.len(),
            block => block.children().iter().map(Self::parallel_channels).max().unwrap_or(1),
        }
    }

    /// The name of a `Fuse`'s layer: its own, else the last adapter of each child, joined by commas. None for others.
    pub fn fusion_name(&self) -> Option<String> {
        match self {
            Self::Fuse { name: Some(name), .. } if !name.is_empty() => Some(name.clone()),
            Self::Fuse { children, .. } => {
                let names: Vec<&str> = children.iter().filter_map(Self::last).collect();
                Some(names.join(","))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Composition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Adapter(name) = self {
            // The name of a block would be read as one.
            return write_text(f, name, BlockKind::block(name).is_none(), '"');
        }
        write!(f, "{}(", self.kind())?;
        let mut comma = "";
        for child in self.children() {
            write!(f, "{comma}{child}")?;
            comma = ", ";
        }
        match self {
            Self::Fuse { name: Some(name), .. } => {
                write!(f, "{comma}name={}", Literal(&name.as_str().into()))?;
            }
            Self::Split { splits, .. } => write!(f, "{comma}splits={splits:?}")?,
            Self::BatchSplit { batch_sizes, .. } => write!(f, "{comma}batch_sizes={batch_sizes:?}")?,
            Self::Average { children, weights } if *weights != equal_weights(children.len()) => {
                write!(f, "{comma}weights={weights:?}")?;
                if *weights != normalized(weights) {
                    write!(f, ", normalize=false")?;
                }
            }
            _ => {}
        }
        f.write_str(")")
    }
}

impl From<&str> for Composition {
    /// The adapter of that name. It is not parsed: `"Stack(a, b)".parse()` does that.
    fn from(name: &str) -> Self {
        Self::adapter(name)
    }
}

impl From<String> for Composition {
    /// The adapter of that name. It is not parsed: [`str::parse`] does that.
    fn from(name: String) -> Self {
        Self::Adapter(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any composition with finite weights, valid or not.
    pub(super) fn any_composition() -> impl Strategy<Value = Composition> {
        let name = || {
            prop_oneof![
                "[a-z0-9_./@-]{1,6}",
                any::<String>(),
                Just("Stack".to_owned()),
                Just("1e3".to_owned())
            ]
        };
        let weight = prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL;
        name()
            .prop_map(Composition::Adapter)
            .prop_recursive(4, 24, 4, move |child| {
                let children = || prop::collection::vec(child.clone(), 0..4);
                let sizes = || prop::collection::vec(any::<usize>(), 0..4);
                let weights = prop::collection::vec(weight, 0..4);
                let positive = prop::collection::vec(0.1..1e3, 1..4);
                prop_oneof![
                    children().prop_map(Composition::Stack),
                    (children(), prop::option::of(name()))
                        .prop_map(|(children, name)| Composition::Fuse { children, name }),
                    (children(), sizes()).prop_map(|(children, splits)| Composition::Split { children, splits }),
                    (children(), sizes())
                        .prop_map(|(children, batch_sizes)| { Composition::BatchSplit { children, batch_sizes } }),
                    children().prop_map(Composition::Parallel),
                    children().prop_map(Composition::average),
                    (children(), weights).prop_map(|(children, weights)| Composition::Average { children, weights }),
                    (children(), positive)
                        .prop_map(|(children, weights)| { Composition::weighted_average(children, weights) }),
                    children().prop_map(Composition::MultiTask),
                ]
            })
    }

    #[test]
    fn names_come_in_order_and_once() {
        let setup = Composition::stack([
            "a".into(),
            Composition::fuse(["b".into(), Composition::stack(["c", "a"])]),
            "b".into(),
        ]);
        assert_eq!(setup.occurrences().collect::<Vec<_>>(), ["a", "b", "c", "a", "b"]);
        assert_eq!(setup.adapters().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(setup.flatten().len(), 3);
        assert!(setup.contains("c") && !setup.contains("d"));
        assert_eq!((setup.first(), setup.last()), (Some("a"), Some("b")));
        assert_eq!(Composition::stack([Composition::Stack(vec![])]).first(), None);
    }

    #[test]
    fn fusion_name_is_its_own_or_the_last_of_each_child() {
        let children = || ["a".into(), Composition::stack(["b", "c"])];
        assert_eq!(Composition::fuse(children()).fusion_name().as_deref(), Some("a,c"));
        assert_eq!(
            Composition::named_fuse("f", children()).fusion_name().as_deref(),
            Some("f")
        );
        assert_eq!(Composition::stack(children()).fusion_name(), None);
    }

    #[test]
    fn parallel_channels_are_the_widest_parallel() {
        let parallel = Composition::parallel(["a", "b", "c"]);
        assert_eq!(parallel.parallel_channels(), 3);
        assert_eq!(Composition::stack(["z".into(), parallel]).parallel_channels(), 3);
        assert_eq!(Composition::adapter("a").parallel_channels(), 1);
        assert_eq!(Composition::Stack(vec![]).parallel_channels(), 1);
    }

    #[test]
    fn weights_are_normalized_as_in_the_reference() {
        let Composition::Average { weights, .. } = Composition::weighted_average(["a", "b"], [3.0, 1.0]) else {
            unreachable!()
        };
        assert_eq!(weights, [0.75, 0.25]);
        assert_eq!(Composition::average(["a", "b"]).to_string(), "Average(a, b)");
        assert_eq!(
            Composition::unnormalized_average(["a", "b"], [2.0, -0.5]).to_string(),
            "Average(a, b, weights=[2.0, -0.5], normalize=false)"
        );
    }

    #[test]
    fn a_single_adapter_activates_as_a_stack() {
        assert_eq!(Composition::from("a").into_block(), Composition::stack(["a"]));
        assert_eq!(Composition::fuse(["a"]).into_block(), Composition::fuse(["a"]));
    }
}
