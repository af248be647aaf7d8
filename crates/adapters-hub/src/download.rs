//! Files of the Hub into a folder.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::client::{Hub, Snapshot, encoded};
use crate::error::HubError;
use crate::remote_file::{Checksum, RemoteFile};

/// Connections that may break off without a byte before a download fails.
const ATTEMPTS: usize = 4;

/// Bytes that are copied at a time.
const BLOCK: usize = 1 << 16;

impl Hub {
    /// Which of `files` are not in `dir` yet.
    ///
    /// # Errors
    ///
    /// [`HubError::Differs`] for a file that is there with other contents, [`HubError::File`] for one that cannot be read.
    pub fn missing(&self, files: &[RemoteFile], dir: &Path) -> Result<Vec<RemoteFile>, HubError> {
        let mut missing = Vec::new();
        for file in files {
            let path = dir.join(&file.path);
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(file.clone()),
                Err(error) => return Err(HubError::reading(&path)(error)),
                Ok(found) => {
                    let same = found.is_file()
                        && file.size.is_none_or(|size| size == found.len())
                        && file.checksum != Checksum::None
                        && checksum_of(&path, &file.checksum)? == expected(&file.checksum);
                    if !same {
                        return Err(HubError::Differs { path });
                    }
                }
            }
        }
        Ok(missing)
    }

    /// Downloads a file of a snapshot into `dir`, where none of that name is. What an earlier download left is resumed. `on_bytes` is
    /// told how much of it there is.
    ///
    /// # Errors
    ///
    /// [`HubError`], above all [`HubError::BrokeOff`] and [`HubError::Checksum`]. There is no file of that name then.
    pub fn download(
        &self,
        snapshot: &Snapshot,
        file: &RemoteFile,
        dir: &Path,
        mut on_bytes: impl FnMut(u64),
    ) -> Result<(), HubError> {
        let target = dir.join(&file.path);
        let folder = target.parent().unwrap_or(dir);
        fs::create_dir_all(folder).map_err(HubError::writing(folder))?;
        // The name says of which contents it is a part.
        let version = match &file.checksum {
            Checksum::Sha256(sum) | Checksum::GitBlob(sum) => sum,
            Checksum::None => &snapshot.commit,
        };
        let version: String = version.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let partial = folder.join(format!(".{name}.{version}.partial"));
        let url = format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint,
            snapshot.id,
            encoded(&snapshot.commit),
            file.path.split('/').map(encoded).collect::<Vec<_>>().join("/")
        );
        let options = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&partial);
        let mut out = options.map_err(HubError::writing(&partial))?;
        let mut failures = 0;
        loop {
            let before = out.seek(SeekFrom::End(0)).map_err(HubError::writing(&partial))?;
            let ended = self.fetch(&url, &mut out, before, file.size, &partial, &mut on_bytes);
            let have = out.stream_position().map_err(HubError::writing(&partial))?;
            let broke = match ended {
                Ok(()) if file.size.is_none_or(|size| size == have) => break,
                Ok(()) => None,
                Err(Ended::Broken(source)) => Some(source),
                Err(Ended::Failed(error)) => return Err(error),
            };
            failures = if have > before { 0 } else { failures + 1 };
            if failures == ATTEMPTS || file.size.is_some_and(|size| have > size) {
                return Err(HubError::BrokeOff {
                    id: snapshot.id.to_string(),
                    file: file.path.clone(),
                    found: have,
                    expected: file.size.unwrap_or(have),
                    source: broke,
                });
            }
        }
        out.sync_all().map_err(HubError::writing(&partial))?;
        drop(out);
        let (found, expected) = (checksum_of(&partial, &file.checksum)?, expected(&file.checksum));
        if found != expected {
            fs::remove_file(&partial).map_err(HubError::writing(&partial))?;
            return Err(HubError::Checksum {
                id: snapshot.id.to_string(),
                file: file.path.clone(),
                algorithm: match file.checksum {
                    Checksum::Sha256(_) => "SHA-256",
                    Checksum::GitBlob(_) | Checksum::None => "git",
                },
                expected,
                found,
            });
        }
        fs::rename(&partial, &target).map_err(HubError::writing(&target))
    }

    /// Appends what is missing from the byte `have` on, in one connection.
    fn fetch(
        &self,
        url: &str,
        out: &mut File,
        have: u64,
        size: Option<u64>,
        partial: &Path,
        on_bytes: &mut impl FnMut(u64),
    ) -> Result<(), Ended> {
        let writing = |error| Ended::Failed(HubError::writing(partial)(error));
        let mut have = match size {
            Some(size) if have == size => return Ok(()),
            Some(size) if have < size => have,
            // Nothing to resume, or too long to be the begin of the file.
            _ => 0,
        };
        let answer = self.get(url, (have > 0).then_some(have));
        let mut response = answer.map_err(|error| match error {
            HubError::Connect { source, .. } if have > 0 => Ended::Broken(io::Error::other(source)),
            error => Ended::Failed(error),
        })?;
        let from = response
            .headers()
            .get("content-range")
            .and_then(|range| range.to_str().ok());
        let resumes =
            response.status().as_u16() == 206 && from.is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        if !resumes {
            have = 0;
        }
        out.set_len(have).map_err(writing)?;
        out.seek(SeekFrom::Start(have)).map_err(writing)?;
        on_bytes(have);
        let mut body = response.body_mut().as_reader();
        let mut block = vec![0; BLOCK];
        loop {
            let count = match body.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Ended::Broken(error)),
            };
            out.write_all(&block[..count]).map_err(writing)?;
            have += count as u64;
            on_bytes(have);
        }
    }
}

/// Why a connection ended before the file did.
enum Ended {
    /// The connection broke.
    Broken(io::Error),
    /// Another attempt would fail too.
    Failed(HubError),
}

/// The digits of a checksum; nothing where there is none.
fn expected(checksum: &Checksum) -> String {
    match checksum {
        Checksum::Sha256(sum) | Checksum::GitBlob(sum) => sum.to_ascii_lowercase(),
        Checksum::None => String::new(),
    }
}

/// The checksum of a file, of the kind of `like`.
fn checksum_of(path: &Path, like: &Checksum) -> Result<String, HubError> {
    let reading = || HubError::reading(path);
    let mut file = File::open(path).map_err(reading())?;
    Ok(match like {
        Checksum::Sha256(_) => digest(Sha256::new(), &mut file).map_err(reading())?,
        Checksum::GitBlob(_) => {
            let size = file.metadata().map_err(reading())?.len();
            digest(Sha1::new_with_prefix(format!("blob {size}\0")), &mut file).map_err(reading())?
        }
        Checksum::None => String::new(),
    })
}

/// The digits of what a hash makes of a file.
pub(crate) fn digest(mut hash: impl Digest, file: &mut impl Read) -> io::Result<String> {
    let mut block = vec![0; BLOCK];
    loop {
        let count = match file.read(&mut block) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&block[..count]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
