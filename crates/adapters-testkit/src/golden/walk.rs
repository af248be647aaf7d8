//! Over a set: models, and the cases of each.

use std::any::Any;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::golden::glob::matches;
use crate::golden::run::{Options, Prepared};
use crate::golden::verdict::{Outcome, Stop, Summary};

/// Which part of a set to run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this model.
    pub model: Option<String>,
    /// Only cases that match this pattern (see [`matches()`]).
    pub case: Option<String>,
}

/// Why a set could not be walked. What goes wrong inside a case is its [`Outcome`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// A folder could not be listed.
    #[error("cannot list {}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// No model has the name asked for, or there is none.
    #[error("{} has no folder {wanted}/cases; models there: {found}", dir.display())]
    NoModel {
        /// The set.
        dir: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// No case matches the pattern.
    #[error("no case in {} matches `{pattern}`", dir.display())]
    NoCase {
        /// The set.
        dir: PathBuf,
        /// The pattern.
        pattern: String,
    },
}

/// Runs the selected cases of the set in `dir` in the order of their names, and hands each outcome to `report`.
///
/// A case that panics is a failure like any other.
///
/// # Errors
///
/// [`GoldenError`] if a folder cannot be listed or nothing is selected.
pub fn walk(
    dir: &Path,
    selection: &Selection,
    options: &Options,
    mut report: impl FnMut(&Outcome),
) -> Result<Summary, GoldenError> {
    let mut models = folders(dir)?;
    models.retain(|(_, path)| path.join("cases").is_dir());
    let found = models
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    models.retain(|(name, _)| selection.model.as_ref().is_none_or(|wanted| wanted == name));
    if models.is_empty() {
        return Err(GoldenError::NoModel {
            dir: dir.to_owned(),
            wanted: selection.model.clone().unwrap_or_else(|| "*".to_owned()),
            found,
        });
    }
    let pattern = selection.case.as_deref().unwrap_or("*");
    let mut summary = Summary::default();
    let mut any = false;
    for (model, path) in models {
        let mut cases = folders(&path.join("cases"))?;
        cases.retain(|(name, _)| matches(pattern, name));
        if cases.is_empty() {
            continue;
        }
        any = true;
        let prepared = guarded(|| Prepared::load(&path, &options.device)).and_then(|loaded| loaded);
        for (case, dir) in cases {
            let outcome = match &prepared {
                Ok(prepared) => guarded(|| prepared.run(&model, &case, &dir, options)),
                Err(stop) => Err(stop.clone()),
            };
            let outcome = outcome.unwrap_or_else(|stop| Outcome::stopped(&model, &case, stop));
            summary.count(&outcome);
            report(&outcome);
        }
    }
    if any {
        return Ok(summary);
    }
    Err(GoldenError::NoCase {
        dir: dir.to_owned(),
        pattern: pattern.to_owned(),
    })
}

/// Folders inside `dir`, by name.
fn folders(dir: &Path) -> Result<Vec<(String, PathBuf)>, GoldenError> {
    let list = |source| GoldenError::List {
        path: dir.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(list)? {
        let entry = entry.map_err(list)?;
        if entry.path().is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// A panic as a failure.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Stop> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| Stop::fail(format!("panicked: {}", message(&*payload))))
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
