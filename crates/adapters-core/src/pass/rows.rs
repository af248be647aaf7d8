//! Which child of a block each row of the batch goes to.

use std::ops::Range;

use crate::error::Error;
use crate::pass::plan::{BatchRows, Block, Node};
use adapters_config::Composition;

/// How a block chooses a child for a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Partition {
    /// By the task of the row.
    Tasks,
    /// So many rows for each child, from the first row on; copies of the batch are partitioned alike.
    Sizes(Vec<usize>),
    /// Each child has its own copy of the batch.
    Branches,
}

impl Partition {
    /// The child of the `index`th of `count` rows that a block of `children` children sees.
    fn child(&self, index: usize, count: usize, children: usize, tasks: &[Option<usize>]) -> Option<usize> {
        match self {
            Self::Tasks => *tasks.get(index % tasks.len().max(1))?,
            Self::Branches => Some(index / (count / children.max(1)).max(1)),
            Self::Sizes(sizes) => {
                let index = index % total(sizes).max(1);
                let mut end = 0;
                sizes.iter().position(|size| {
                    end = size.saturating_add(end);
                    index < end
                })
            }
        }
    }
}

/// Rows of a batch that see the same composition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// Which rows, rising. Left empty where there is one group.
    pub(crate) rows: Vec<usize>,
    /// For each block that chooses by row, the child of these rows; `None` for no adapter, and for a block these rows do
    /// not reach.
    pub(crate) choices: Vec<Option<usize>>,
    /// Whether these rows are of a task of their own, and must not notice those they are joined with.
    pub(crate) own_task: bool,
}

impl Node {
    /// The rows of a batch in groups, and for each row where it is once the groups are joined.
    pub(super) fn groups(&self, rows: BatchRows<'_>, choices: usize) -> (Vec<Group>, Vec<usize>) {
        let whole = Group {
            choices: vec![None; choices],
            ..Group::default()
        };
        if choices == 0 {
            return (vec![whole], Vec::new());
        }
        let mut by_row = vec![whole; rows.count];
        let all: Vec<usize> = (0..rows.count).collect();
        self.choose(&all, rows.tasks, &mut by_row);
        let mut groups: Vec<Group> = Vec::new();
        for (row, mut seen) in by_row.into_iter().enumerate() {
            match groups.iter_mut().find(|group| group.choices == seen.choices) {
                Some(group) => group.rows.push(row),
                None => {
                    seen.rows.push(row);
                    groups.push(seen);
                }
            }
        }
        let order = joined(&groups, rows.count);
        (groups, order)
    }

    /// Writes down what this node and those below it choose for `rows` of the batch.
    fn choose(&self, rows: &[usize], tasks: &[Option<usize>], by_row: &mut [Group]) {
        let Block::Rows { choice, partition } = &self.block else {
            return self.children.iter().for_each(|child| child.choose(rows, tasks, by_row));
        };
        let mut chosen = vec![Vec::new(); self.children.len()];
        for (index, row) in rows.iter().enumerate() {
            let child = partition.child(index, rows.len(), self.children.len(), tasks);
            by_row[*row].choices[*choice] = child;
            by_row[*row].own_task |= *partition == Partition::Tasks;
            if let Some(own) = child.and_then(|child| chosen.get_mut(child)) {
                own.push(*row);
            }
        }
        for (child, own) in self.children.iter().zip(chosen) {
            child.choose(&own, tasks, by_row);
        }
    }
}

/// For each of `count` rows, where it is once the groups are joined.
fn joined(groups: &[Group], count: usize) -> Vec<usize> {
    let mut order = vec![0; count];
    for (position, row) in groups.iter().flat_map(|group| &group.rows).enumerate() {
        order[*row] = position;
    }
    order
}

/// The groups of some rows of a batch, which are counted from the first of them; and the order of the joined groups.
pub(super) fn within(groups: &[Group], range: &Range<usize>) -> (Vec<Group>, Vec<usize>) {
    let kept = groups.iter().map(|group| Group {
        rows: group
            .rows
            .iter()
            .filter(|row| range.contains(row))
            .map(|row| row - range.start)
            .collect(),
        ..group.clone()
    });
    let kept: Vec<Group> = kept.filter(|group| !group.rows.is_empty()).collect();
    let order = joined(&kept, range.len());
    (kept, order)
}

/// The sum of sizes that a file may have made as large as it likes.
fn total(sizes: &[usize]) -> usize {
    sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
}

/// Checks that a composition fits an input: the sizes of every `BatchSplit` add up to its rows and those of every `Split` to
/// its positions, and every row has a task where a `MultiTask` tells tasks apart.
///
/// # Errors
///
/// [`Error::WrongSizes`] naming the block.
pub(crate) fn check_input(block: &Composition, rows: usize, positions: usize, tasks: usize) -> Result<(), Error> {
    let check = |what, assigned: usize, found: usize| match assigned == found {
        true => Ok(()),
        false => Err(Error::WrongSizes {
            block: block.to_string(),
            what,
            assigned,
            found,
        }),
    };
    match block {
        Composition::BatchSplit { children, batch_sizes } => {
            check("rows", total(batch_sizes), rows)?;
            let mut sizes = children.iter().zip(batch_sizes);
            sizes.try_for_each(|(child, size)| check_input(child, *size, positions, tasks))
        }
        Composition::Split { children, splits } => {
            check("positions", total(splits), positions)?;
            let mut sizes = children.iter().zip(splits);
            sizes.try_for_each(|(child, size)| check_input(child, rows, *size, tasks))
        }
        block => {
            if let Composition::MultiTask(_) = block {
                check("rows with a task", tasks, rows)?;
            }
            let mut children = block.children().iter();
            children.try_for_each(|child| check_input(child, rows, positions, tasks))
        }
    }
}
