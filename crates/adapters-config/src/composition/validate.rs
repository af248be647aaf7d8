//! Which blocks may be nested in which, and what they need.
//!
//! The rules are those of `validate_composition` in the reference (`adapters/composition.py`), plus those that it leaves
//! to fail while a model runs: no empty block, no empty name, and one entry a child in every list.

use super::{BlockKind, Composition, CompositionError};

impl BlockKind {
    /// What this block may hold directly; nothing for a single adapter.
    ///
    /// | | adapter | Stack | Fuse | Split | BatchSplit | Parallel | Average | MultiTask |
    /// |---|---|---|---|---|---|---|---|---|
    /// | Stack | x | | x | x | x | x | x | x |
    /// | Fuse | x | x | | | | | | |
    /// | Split | x | x | | x | x | | x | |
    /// | BatchSplit | x | x | | x | x | | x | |
    /// | Parallel | x | x | | | x | | x | |
    /// | Average | x | x | | x | x | | | |
    /// | MultiTask | x | x | x | | | | x | |
    pub const fn allowed_children(self) -> &'static [Self] {
        use BlockKind::*;
        match self {
            Adapter => &[],
            Stack => &[Adapter, Fuse, Split, Parallel, BatchSplit, Average, MultiTask],
            Fuse => &[Adapter, Stack],
            Split => &[Adapter, Split, Stack, BatchSplit, Average],
            Parallel => &[Adapter, Stack, BatchSplit, Average],
            MultiTask => &[Adapter, Stack, Average, Fuse],
            BatchSplit => &[Adapter, Stack, Split, BatchSplit, Average],
            Average => &[Adapter, Stack, Split, BatchSplit],
        }
    }
}

/// The last level (the root is 0) that any block may be at; below it only `Stack` may.
const DEEPEST_BLOCK: usize = 1;

impl Composition {
    /// Checks the nesting rules, and that every block has what it needs.
    ///
    /// - A child's kind is one of [`BlockKind::allowed_children`] of its parent.
    /// - Below level 1 (the root is level 0) there are only `Stack`s and single adapters.
    /// - Every block has a child; `Fuse` may have a single one, as in the reference.
    /// - `splits`, `batch_sizes` and `weights` have one entry for each child; weights are finite.
    /// - No adapter's name is empty.
    ///
    /// Whether `splits` and `batch_sizes` add up to the sequence and the batch shows when a model runs.
    ///
    /// # Errors
    /// The first node in reading order that breaks a rule, as it prints and with its path from the root.
    pub fn validate(&self) -> Result<(), CompositionError> {
        check(self, &mut Vec::new())
    }
}

/// Parents of the node being checked, each with the index of the child that leads on.
type Path = Vec<(BlockKind, usize)>;

fn print(path: &Path) -> String {
    if path.is_empty() {
        return "the root".to_owned();
    }
    path.iter()
        .map(|(kind, index)| format!("{kind}[{index}]"))
        .collect::<Vec<_>>()
        .join(".")
}

// The recursion is shallow whatever it is given: level 2 holds Stacks only, and no Stack holds a Stack.
fn check(node: &Composition, path: &mut Path) -> Result<(), CompositionError> {
    let level = path.len();
    let kind = node.kind();
    if let Composition::Adapter(name) = node {
        return match name.as_str() {
            "" => Err(CompositionError::EmptyName { path: print(path) }),
            _ => Ok(()),
        };
    }
    if level > DEEPEST_BLOCK && kind != BlockKind::Stack {
        return Err(CompositionError::TooDeep {
            path: print(path),
            node: node.to_string(),
            level,
        });
    }
    check_lists(node, path)?;
    for (index, child) in node.children().iter().enumerate() {
        path.push((kind, index));
        if !kind.allowed_children().contains(&child.kind()) {
            return Err(CompositionError::NotAllowed {
                path: print(path),
                node: child.to_string(),
                parent: kind,
                child: child.kind(),
            });
        }
        check(child, path)?;
        path.pop();
    }
    Ok(())
}

/// Whether there are children, and a list entry for each.
fn check_lists(node: &Composition, path: &Path) -> Result<(), CompositionError> {
    let expected = node.children().len();
    if expected == 0 {
        return Err(CompositionError::Empty {
            path: print(path),
            node: node.to_string(),
        });
    }
    let (argument, found) = match node {
        Composition::Split { splits, .. } => ("splits", splits.len()),
        Composition::BatchSplit { batch_sizes, .. } => ("batch_sizes", batch_sizes.len()),
        Composition::Average { weights, .. } => ("weights", weights.len()),
        _ => return Ok(()),
    };
    if found != expected {
        let (path, node) = (print(path), node.to_string());
        return Err(CompositionError::Length {
            path,
            node,
            argument,
            expected,
            found,
        });
    }
    if let Composition::Average { weights, .. } = node
        && let Some(index) = weights.iter().position(|weight| !weight.is_finite())
    {
        let (path, node, weight) = (print(path), node.to_string(), weights[index]);
        return Err(CompositionError::Weight {
            path,
            node,
            index,
            weight,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valid block of each kind, and a single adapter.
    fn samples() -> Vec<Composition> {
        vec![
            Composition::adapter("a"),
            Composition::stack(["a"]),
            Composition::fuse(["a"]),
            Composition::split(["a"], [1]),
            Composition::batch_split(["a"], [1]),
            Composition::parallel(["a"]),
            Composition::average(["a"]),
            Composition::multi_task(["a"]),
        ]
    }

    fn hold(parent: &Composition, child: Composition) -> Composition {
        let mut parent = parent.clone();
        match &mut parent {
            Composition::Adapter(_) => {}
            Composition::Stack(children) | Composition::Parallel(children) | Composition::MultiTask(children) => {
                *children = vec![child];
            }
            Composition::Fuse { children, .. }
            | Composition::Split { children, .. }
            | Composition::BatchSplit { children, .. }
            | Composition::Average { children, .. } => *children = vec![child],
        }
        parent
    }

    fn message(text: &str) -> String {
        text.parse::<Composition>().unwrap().validate().unwrap_err().to_string()
    }

    /// `ALLOWED_NESTINGS` of the reference: rows hold columns, in the order of [`samples`].
    #[test]
    fn every_pair_is_allowed_as_in_the_reference() {
        let table = [
            ("Stack", "x.xxxxxx"),
            ("Fuse", "xx......"),
            ("Split", "xx.xx.x."),
            ("BatchSplit", "xx.xx.x."),
            ("Parallel", "xx..x.x."),
            ("Average", "xx.xx..."),
            ("MultiTask", "xxx...x."),
        ];
        for (parent, (name, row)) in samples().iter().skip(1).zip(table) {
            assert_eq!(parent.kind().name(), name);
            for (child, allowed) in samples().into_iter().zip(row.chars()) {
                let setup = hold(parent, child);
                assert_eq!(setup.validate().is_ok(), allowed == 'x', "{setup}");
            }
        }
    }

    #[test]
    fn only_stacks_lie_below_the_second_level() {
        let deep: Composition = "Stack(a, Fuse(Stack(b, c), d))".parse().unwrap();
        assert_eq!(deep.validate(), Ok(()));
        assert_eq!(
            message("Parallel(a, Stack(b, Fuse(c, d)))"),
            "`Fuse(c, d)` at Parallel[1].Stack[1]: too deep, only Stack and single adapters may be at level 2 \
             (the root is level 0)"
        );
        // Built by hand, this would nest too deep to recurse on.
        let mut hostile = Composition::adapter("a");
        for _ in 0..1_000 {
            hostile = Composition::split([hostile], [1]);
        }
        assert!(matches!(
            hostile.validate(),
            Err(CompositionError::TooDeep { level: 2, .. })
        ));
    }

    #[test]
    fn errors_name_the_part_and_its_path() {
        for (text, expected) in [
            (
                "Stack(a, Fuse(b, Parallel(c, d)))",
                "`Parallel(c, d)` at Stack[1].Fuse[1]: Fuse cannot hold Parallel, only adapter, Stack",
            ),
            (
                "Stack()",
                "`Stack()` at the root: a block needs at least one child, found none",
            ),
            ("Stack(a, \"\")", "the adapter at Stack[1] has an empty name"),
            (
                "Stack(Split(a, b, splits=[1]))",
                "`Split(a, b, splits=[1])` at Stack[0]: expected 2 splits, one for each child, found 1",
            ),
        ] {
            assert_eq!(message(text), expected);
        }
        let zero = Composition::weighted_average(["a", "b"], [1.0, -1.0])
            .validate()
            .unwrap_err();
        assert!(matches!(zero, CompositionError::Weight { index: 0, .. }));
    }
}
