//! Files that are either wholly the old one or wholly the new one.
//!
//! A run is stopped at any moment: by its user, by the scheduler, by a full disk. What it writes goes to a temporary
//! file in the same folder, is flushed to the disk and then renamed over the target, so that a checkpoint or a summary
//! is never half of one. On any failure the file that was there stays as it was and the temporary file is removed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// What the names of temporary files and folders begin with.
const TEMPORARY: &str = ".writing-";

/// The files by which a folder is known for a checkpoint, an adapter or a setup of several adapters.
const KNOWN_BY: [&str; 3] = ["config.json", "adapter_config.json", "adapter_setup.json"];

/// Whether a folder is known by the file for a checkpoint or an adapter, so that it is the last to be written.
pub fn is_last(name: &str) -> bool {
    KNOWN_BY.contains(&name)
}

/// A file could not be written; what was there before is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}{}", path.display(), self.help_suffix())]
pub struct AtomicWriteError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl AtomicWriteError {
    pub(crate) fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: final_path(path),
            source,
        }
    }

    /// What the user can do about it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "there is no space left: free some, or choose a folder on another disk"
            }
            io::ErrorKind::PermissionDenied => {
                "permission denied: make the folder writable, or choose a folder that belongs to you"
            }
            io::ErrorKind::ReadOnlyFilesystem => "the disk is mounted read-only: choose a folder on another one",
            io::ErrorKind::NotFound => "the folder does not exist: create it first",
            io::ErrorKind::IsADirectory => "there is a folder of that name: choose another name",
            _ => return None,
        })
    }

    fn help_suffix(&self) -> String {
        self.help().map(|help| format!(": {help}")).unwrap_or_default()
    }
}

/// Replaces `path` by a file holding `bytes`.
///
/// # Errors
///
/// When the temporary file cannot be made, written, flushed to the disk or renamed. The old file is then unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), AtomicWriteError> {
    write_with(path, |file| file.write_all(bytes))
}

/// Replaces `path` by what `fill` writes.
///
/// # Errors
///
/// Those of [`write()`], and whatever `fill` returns.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), AtomicWriteError> {
    write_checked(path, |file| {
        fill(file).map_err(|source| AtomicWriteError::new(path, source))
    })
}

/// As [`write_with`], for what fails in other ways than writing.
pub(crate) fn write_checked<E: From<AtomicWriteError>>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let mut temp = temp_beside(path)?;
    fill(temp.as_file_mut())?;
    let flushed = temp.as_file().sync_all();
    flushed.map_err(|source| AtomicWriteError::new(path, source))?;
    Ok(replace(temp, path)?)
}

/// Replaces `path` by the file that `fill` leaves at the path it is given, for writers that open their file themselves.
/// That path is in the same folder and has the same extension.
///
/// # Errors
///
/// Those of [`write()`], and whatever `fill` returns.
pub fn write_at<E: From<AtomicWriteError>>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let temp = temp_beside(path)?;
    fill(temp.path())?;
    // The writer's own handle is closed; the one kept here may even belong to a file it replaced.
    File::options()
        .write(true)
        .open(temp.path())
        .and_then(|file| file.sync_all())
        .map_err(|source| AtomicWriteError::new(path, source))?;
    Ok(replace(temp, path)?)
}

/// Fills a folder: `fill` writes into a temporary folder in it, whose entries are moved up when all are there. What was there of the
/// same names is replaced. The file by which the folder is known for a checkpoint or an adapter is the last, so that what a process
/// leaves that is killed is never taken for one.
///
/// # Errors
///
/// When the folder cannot be made or an entry cannot be moved, and whatever `fill` returns. After a failure of `fill` everything is as it was.
pub fn write_folder<T, E: From<AtomicWriteError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let failed = |source| AtomicWriteError::new(path, source);
    let is_new = !path.exists();
    fs::create_dir_all(path).map_err(failed)?;
    let temp = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempdir_in(path)
        .map_err(|source| failed(unwrapped(source)))?;
    let written = fill(temp.path()).inspect_err(|_| {
        if is_new {
            // What cannot be removed is an empty folder.
            let _ = fs::remove_dir_all(temp.path()).and_then(|()| fs::remove_dir(path));
        }
    })?;
    move_up(temp.path(), path).map_err(failed)?;
    Ok(written)
}

/// Moves the entries of a folder into another, the file that the other is known by last.
fn move_up(from: &Path, to: &Path) -> io::Result<()> {
    let entries = fs::read_dir(from)?.map(|entry| Ok(entry?.file_name()));
    let mut names = entries.collect::<io::Result<Vec<OsString>>>()?;
    names.sort_by_key(|name| name.to_str().is_some_and(is_last));
    for name in names {
        let target = to.join(&name);
        // A folder replaces none that has files.
        if fs::symlink_metadata(&target).is_ok_and(|there| there.is_dir()) {
            fs::remove_dir_all(&target)?;
        }
        fs::rename(from.join(&name), target)?;
    }
    sync_folder(to);
    Ok(())
}

/// Removes what killed processes left in a folder and in the folders in it. No other process may be writing there.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, is_folder) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
        // What cannot be removed does no harm.
        let _ = match (entry.file_name().to_string_lossy().starts_with(TEMPORARY), is_folder) {
            (true, true) => fs::remove_dir_all(path),
            (true, false) => fs::remove_file(path),
            (false, true) => {
                sweep(&path);
                Ok(())
            }
            (false, false) => Ok(()),
        };
    }
}

/// Where what is written at a path is moved to, for messages: the path without the temporary folder in it.
pub(crate) fn final_path(path: &Path) -> PathBuf {
    let is_temporary = |name: &OsStr| name.to_string_lossy().starts_with(TEMPORARY);
    path.iter().filter(|name| !is_temporary(name)).collect()
}

/// The folder a path lies in: `.` for a bare file name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// An empty temporary file, removed when dropped.
fn temp_beside(path: &Path) -> Result<NamedTempFile, AtomicWriteError> {
    let suffix = path
        .extension()
        .map(|extension| format!(".{}", extension.to_string_lossy()))
        .unwrap_or_default();
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY).suffix(&suffix);
    #[cfg(unix)]
    {
        // Temporary files are private by default; these become ordinary ones, so the user's umask decides.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
        .tempfile_in(folder_of(path))
        .map_err(|source| AtomicWriteError::new(path, unwrapped(source)))
}

/// The operating system's error without the temporary file's name, which `tempfile` adds and no user needs.
fn unwrapped(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() {
        error
    } else {
        io::Error::from(error.kind())
    }
}

/// Renames the temporary file over `path`, and asks for the rename itself to reach the disk.
fn replace(temp: NamedTempFile, path: &Path) -> Result<(), AtomicWriteError> {
    if let Ok(existing) = fs::metadata(path) {
        // Best effort: a file that others could read stays readable.
        let _ = fs::set_permissions(temp.path(), existing.permissions());
    }
    temp.persist(path)
        .map_err(|failed| AtomicWriteError::new(path, failed.error))?;
    sync_folder(folder_of(path));
    Ok(())
}

/// Asks for what was renamed in a folder to reach the disk. Not every system can open or flush a folder; the files are safe by now.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn full() -> io::Error {
        io::Error::from(io::ErrorKind::StorageFull)
    }

    #[test]
    fn creates_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        write(&path, b"first, and longer").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names_in(folder.path()), ["summary.json"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.bin");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |file| {
            file.write_all(b"half of the n")?;
            Err(full())
        })
        .unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert!(
            error.to_string().contains("state.bin: there is no space left"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(folder.path()), ["state.bin"]);
    }

    #[test]
    fn a_failed_writer_by_path_keeps_the_old_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.png");
        write_at::<AtomicWriteError>(&path, |temp| {
            assert_eq!(temp.extension(), path.extension());
            fs::write(temp, b"old").unwrap();
            Ok(())
        })
        .unwrap();
        let failed = write_at(&path, |temp| {
            fs::write(temp, b"half").unwrap();
            Err(AtomicWriteError::new(&path, full()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(folder.path()), ["state.png"]);
    }

    /// At every moment before the last file is there, the folder is not known for an adapter.
    #[test]
    fn a_folder_is_whole_or_not_known() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("new");
        let fill = |dir: &Path| {
            assert!(names_in(&out).iter().all(|name| name.starts_with(TEMPORARY)));
            fs::create_dir(dir.join("templates")).unwrap();
            for name in ["adapter_config.json", "templates/a", "zeta"] {
                write(&dir.join(name), b"new").unwrap();
            }
            Ok::<_, AtomicWriteError>(7)
        };
        assert_eq!(write_folder(&out, fill).unwrap(), 7);
        assert_eq!(names_in(&out), ["adapter_config.json", "templates", "zeta"]);
        // Once more, over what is there.
        fs::write(out.join("templates/b"), "old").unwrap();
        fs::write(out.join("kept"), "old").unwrap();
        let refused = write_folder(&out, |dir| {
            write(&dir.join("zeta"), b"other").unwrap();
            Err::<(), _>(AtomicWriteError::new(dir, full()))
        });
        assert!(refused.is_err());
        assert_eq!(fs::read(out.join("zeta")).unwrap(), b"new");
        let again = |dir: &Path| {
            fs::create_dir(dir.join("templates")).unwrap();
            write(&dir.join("zeta"), b"other")
        };
        write_folder(&out, again).unwrap();
        assert_eq!(fs::read(out.join("zeta")).unwrap(), b"other");
        assert_eq!(names_in(&out), ["adapter_config.json", "kept", "templates", "zeta"]);
        assert!(names_in(&out.join("templates")).is_empty());

        // A folder that a failed one would have made is not left.
        let absent = scratch.path().join("absent");
        let refused = write_folder(&absent, |dir| Err::<(), _>(AtomicWriteError::new(dir, full())));
        assert!(refused.is_err() && !absent.exists());
    }

    #[test]
    fn the_file_that_a_folder_is_known_by_is_moved_last() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        for (folder, files) in [(&from, &["adapter_config.json", "b"][..]), (&to, &[])] {
            fs::create_dir(folder).unwrap();
            files.iter().for_each(|file| fs::write(folder.join(file), "x").unwrap());
        }
        // A move that fails comes before that of the file that the folder is known by.
        fs::remove_dir(&to).unwrap();
        assert!(move_up(&from, &to).is_err());
        assert_eq!(names_in(&from), ["adapter_config.json", "b"]);
        fs::create_dir(&to).unwrap();
        move_up(&from, &to).unwrap();
        assert_eq!(names_in(&to), ["adapter_config.json", "b"]);
        assert!(KNOWN_BY.iter().all(|name| is_last(name)) && !is_last("model.safetensors"));
    }

    #[test]
    fn what_killed_processes_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("adapter/.writing-1/deep")).unwrap();
        for name in ["adapter/.writing-2.json", ".writing-3", "adapter/kept", "kept"] {
            fs::write(at(name), "x").unwrap();
        }
        sweep(folder.path());
        assert_eq!(names_in(folder.path()), ["adapter", "kept"]);
        assert_eq!(names_in(&at("adapter")), ["kept"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(&folder.path().join("absent/x.json"), b"").unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("absent/x.json: the folder does not exist: create it first"),
            "{error}"
        );
        assert!(!error.source.to_string().contains(".writing-"), "{}", error.source);
    }

    #[test]
    fn a_folder_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"file").is_err());
        assert_eq!(names_in(folder.path()), ["x"]);
    }

    #[test]
    fn every_known_cause_has_its_help() {
        let help = |kind: io::ErrorKind| AtomicWriteError::new(Path::new("x"), kind.into()).help();
        assert!(help(io::ErrorKind::StorageFull).unwrap().contains("no space left"));
        assert!(
            help(io::ErrorKind::PermissionDenied)
                .unwrap()
                .contains("permission denied")
        );
        assert_eq!(help(io::ErrorKind::Interrupted), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_files_are_as_readable_as_the_user_wants() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        write(&path, b"").unwrap();
        let plain = folder.path().join("plain");
        fs::write(&plain, b"").unwrap();
        assert_eq!(mode(), fs::metadata(&plain).unwrap().permissions().mode() & 0o777);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        write(&path, b"").unwrap();
        assert_eq!(mode(), 0o640);
    }
}
