//! What can be wrong with a composition, and where.

use super::BlockKind;
use crate::text::Unexpected;
use adapters_nn::did_you_mean;

/// A composition that cannot be read, or that is not allowed.
///
/// The variants with `column`, counted in characters from 1, come from reading text. Those with `path` come from
/// [`Composition::validate`](super::Composition::validate): the path says which child to take from the root on, as in
/// `Stack[1].Fuse[0]`, and `node` is the offending node as it prints.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CompositionError {
    /// Something else was expected.
    #[error("column {column}: expected {expected}, found {found}")]
    Unexpected {
        /// Where.
        column: usize,
        /// What would have been right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// No block has this name.
    #[error("column {column}: unknown composition block `{found}`{}", did_you_mean(.nearest))]
    UnknownBlock {
        /// Where.
        column: usize,
        /// The name that is there.
        found: String,
        /// The nearest right spelling, if one is near.
        nearest: Option<String>,
    },
    /// A block does not take this keyword argument.
    #[error("column {column}: {block} {}, found `{found}`{}", takes(*block), did_you_mean(.nearest))]
    UnknownArgument {
        /// Where.
        column: usize,
        /// The block.
        block: BlockKind,
        /// The argument that is there.
        found: String,
        /// The nearest right spelling, if one is near.
        nearest: Option<String>,
    },
    /// A block lacks an argument that it needs.
    #[error("column {column}: {block} needs the argument `{argument}`")]
    MissingArgument {
        /// Where.
        column: usize,
        /// The block.
        block: BlockKind,
        /// The argument.
        argument: &'static str,
    },
    /// Nested deeper than is read.
    #[error("column {column}: nested more than {limit} levels deep")]
    TooNested {
        /// Where.
        column: usize,
        /// The limit, [`MAX_NESTING`](super::MAX_NESTING).
        limit: usize,
    },
    /// A block that its parent does not accept.
    #[error("`{node}` at {path}: {parent} cannot hold {child}, only {}", names(parent.allowed_children()))]
    NotAllowed {
        /// Which child it is, from the root on.
        path: String,
        /// The offending node.
        node: String,
        /// The block it is in.
        parent: BlockKind,
        /// What it is.
        child: BlockKind,
    },
    /// A block other than `Stack` below the second level.
    #[error(
        "`{node}` at {path}: too deep, only Stack and single adapters may be at level {level} (the root is level 0)"
    )]
    TooDeep {
        /// Which child it is, from the root on.
        path: String,
        /// The offending node.
        node: String,
        /// Its level.
        level: usize,
    },
    /// A block without children.
    #[error("`{node}` at {path}: a block needs at least one child, found none")]
    Empty {
        /// Which child it is, from the root on.
        path: String,
        /// The offending node.
        node: String,
    },
    /// An adapter whose name is empty.
    #[error("the adapter at {path} has an empty name")]
    EmptyName {
        /// Which child it is, from the root on.
        path: String,
    },
    /// A list that has not one entry for each child.
    #[error("`{node}` at {path}: expected {expected} {argument}, one for each child, found {found}")]
    Length {
        /// Which child it is, from the root on.
        path: String,
        /// The offending node.
        node: String,
        /// Which list.
        argument: &'static str,
        /// The number of children.
        expected: usize,
        /// The number of entries.
        found: usize,
    },
    /// A weight that is infinite or not a number, for instance because weights that add up to zero were normalized.
    #[error("`{node}` at {path}: expected finite weights, found {weight} for child {index}")]
    Weight {
        /// Which child it is, from the root on.
        path: String,
        /// The offending node.
        node: String,
        /// Which of its children the weight is for.
        index: usize,
        /// The weight.
        weight: f64,
    },
}

impl From<Unexpected> for CompositionError {
    fn from(
        Unexpected {
            column,
            expected,
            found,
        }: Unexpected,
    ) -> Self {
        Self::Unexpected {
            column,
            expected,
            found,
        }
    }
}

fn takes(block: BlockKind) -> String {
    match block.arguments() {
        [] => "takes no arguments".to_owned(),
        names => format!("takes `{}`", names.join("` and `")),
    }
}

fn names(kinds: &[BlockKind]) -> String {
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_sentences() {
        let error = CompositionError::UnknownArgument {
            column: 9,
            block: BlockKind::Average,
            found: "weight".into(),
            nearest: Some("weights".to_owned()),
        };
        let expected = "column 9: Average takes `weights` and `normalize`, found `weight`; did you mean `weights`?";
        assert_eq!(error.to_string(), expected);
    }
}
