//! Which child of a block gets which rows of the batch.

use crate::composition::Composition;
use crate::error::Error;
use crate::pass::state::HookState;

use super::At;

/// The rows one child acts on.
pub(super) struct Share {
    /// Rows of the batch, rising.
    pub(super) rows: Vec<usize>,
    /// The child, by its place; `None` for rows no adapter acts on.
    pub(super) child: Option<usize>,
}

impl AsRef<[usize]> for Share {
    fn as_ref(&self) -> &[usize] {
        &self.rows
    }
}

/// Where each row of the batch lies once the shares are put one after the other.
pub(super) fn places<R: AsRef<[usize]>>(shares: impl IntoIterator<Item = R>) -> Vec<usize> {
    let order: Vec<usize> = shares.into_iter().flat_map(|share| share.as_ref().to_vec()).collect();
    let mut places = vec![0; order.len()];
    for (place, row) in order.into_iter().enumerate() {
        places[row] = place;
    }
    places
}

impl<S: HookState> At<'_, '_, S> {
    /// The shares of a block that hands out rows; those without rows are left out.
    ///
    /// Outside a `Parallel` block the batch is there as many times as it has branches, and every copy is shared out alike.
    ///
    /// # Panics
    ///
    /// Panics where the shares do not fit.
    pub(super) fn shares(&self, block: &Composition, rows: usize) -> Vec<Share> {
        let children = block.children().len();
        let of = |child_of: &dyn Fn(usize) -> Option<usize>| {
            let shares = (0..children).map(Some).chain([None]).map(|child| Share {
                rows: (0..rows).filter(|row| child_of(*row) == child).collect(),
                child,
            });
            shares.filter(|share| !share.rows.is_empty()).collect()
        };
        let fits = |shared: usize| shared > 0 && (rows == shared || rows == shared * self.replicas);
        match block {
            Composition::Parallel(_) => {
                assert!(
                    self.pass.repeated && rows.is_multiple_of(children),
                    "Parallel needs the batch once for each of its {children} branches: the model asks `Ctx::replicas` \
                     how often to repeat its input; there are {rows} rows"
                );
                of(&|row| Some(row / (rows / children).max(1)))
            }
            Composition::BatchSplit { batch_sizes, .. } => {
                let shared: usize = batch_sizes.iter().sum();
                assert!(
                    fits(shared),
                    "BatchSplit shares out {shared} rows, and the batch has {rows}"
                );
                of(&|row| {
                    let mut end = 0;
                    batch_sizes.iter().position(|size| {
                        end += size;
                        row % shared < end
                    })
                })
            }
            _ => {
                let tasks = &self.pass.tasks;
                assert!(
                    fits(tasks.len()),
                    "MultiTask needs a task for each row of the batch, `Ctx::with_tasks`: there are {} tasks and {rows} rows",
                    tasks.len()
                );
                of(&|row| tasks[row % tasks.len()])
            }
        }
    }
}

/// Checks that the shares of every block fit an input, and that every row has a task where tasks tell rows apart.
pub(crate) fn check_shares(
    block: &Composition,
    rows: usize,
    positions: usize,
    tasks: Option<usize>,
) -> Result<(), Error> {
    let check = |what, shared: usize, found: usize| match shared == found {
        true => Ok(()),
        false => Err(Error::WrongShares {
            block: block.to_string(),
            what,
            shared,
            found,
        }),
    };
    match block {
        Composition::BatchSplit { children, batch_sizes } => {
            check("rows", batch_sizes.iter().sum(), rows)?;
            let mut shares = children.iter().zip(batch_sizes);
            shares.try_for_each(|(child, size)| check_shares(child, *size, positions, tasks))
        }
        Composition::Split { children, splits } => {
            check("positions", splits.iter().sum(), positions)?;
            let mut shares = children.iter().zip(splits);
            shares.try_for_each(|(child, size)| check_shares(child, rows, *size, tasks))
        }
        block => {
            if let (Composition::MultiTask(_), Some(tasks)) = (block, tasks) {
                check("rows with a task", tasks, rows)?;
            }
            let mut children = block.children().iter();
            children.try_for_each(|child| check_shares(child, rows, positions, tasks))
        }
    }
}
