//! Which folder a run writes to.

use std::path::{Path, PathBuf};

use adapters::train::Summary;

use crate::failure::Failure;

/// `asked` if there is one; it must not hold a finished run. Else `runs/<recipe>`, `runs/<recipe>-2`, .. the first
/// without a finished run, so that nothing is overwritten and an unfinished run is resumed.
pub(crate) fn choose(asked: Option<&Path>, recipe: &Path) -> Result<PathBuf, Failure> {
    if let Some(dir) = asked {
        if is_finished(dir) {
            return Err(Failure::new(
                format!("{} holds a finished run", dir.display()),
                "choose another folder with --out, or delete this one",
            ));
        }
        return Ok(dir.to_owned());
    }
    let stem = recipe
        .file_stem()
        .map_or_else(|| "run".into(), |stem| stem.to_string_lossy());
    let numbered = |n: usize| match n {
        1 => format!("runs/{stem}"),
        n => format!("runs/{stem}-{n}"),
    };
    Ok((1..)
        .map(|n| PathBuf::from(numbered(n)))
        .find(|dir| !is_finished(dir))
        .unwrap_or_default())
}

fn is_finished(dir: &Path) -> bool {
    dir.join(Summary::FILE).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_run_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(choose(Some(dir.path()), Path::new("x.toml")).unwrap(), dir.path());
        std::fs::write(dir.path().join(Summary::FILE), "{}").unwrap();
        let error = choose(Some(dir.path()), Path::new("x.toml")).unwrap_err();
        assert!(error.to_string().contains("finished run"));
    }
}
