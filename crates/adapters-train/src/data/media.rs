//! Images and sounds: the records of a folder of such files, and the image or sound that a record names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adapters_models::vision::ImageSource;
use adapters_store::open_regular;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::{DataError, Location};
use super::fields::Fields;
use super::record::{Record, Source};

/// What the files of a folder are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    Image,
    Sound,
}

impl Medium {
    /// That of these files or of those in these folders: sounds where the first file is one.
    fn of(entries: &[PathBuf]) -> Result<Self, DataError> {
        let first = match entries.first() {
            Some(folder) if folder.is_dir() => self::entries(folder)?.into_iter().next(),
            first => first.cloned(),
        };
        match first {
            Some(file) if Self::Sound.has(&file) => Ok(Self::Sound),
            _ => Ok(Self::Image),
        }
    }

    /// Extensions of its files, in lower case.
    fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Image => &["png", "jpg", "jpeg"],
            Self::Sound => &["wav"],
        }
    }

    /// Whether the file at `path` is one.
    fn has(self, path: &Path) -> bool {
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase());
        path.is_file() && extension.is_some_and(|extension| self.extensions().contains(&extension.as_str()))
    }

    /// The field of a record that names the file.
    fn field(self, fields: &Fields) -> &str {
        match self {
            Self::Image => &fields.image,
            Self::Sound => &fields.audio,
        }
    }
}

/// The records of a folder of images or sounds: labeled by the folders inside it, or without labels.
pub(super) fn read(folder: &Path, fields: &Fields) -> Result<Vec<Record>, DataError> {
    let found = entries(folder)?;
    let medium = Medium::of(&found)?;
    if found.iter().all(|entry| medium.has(entry)) {
        return Ok(unlabeled(&found, medium, fields));
    }
    let header: Arc<csv::StringRecord> = Arc::new([medium.field(fields), fields.label.as_str()].into_iter().collect());
    let mut records = Vec::new();
    for entry in found {
        if !entry.is_dir() {
            return Err(DataError::StrayFile {
                path: entry,
                expected: match medium {
                    Medium::Image => "a folder for each label, with the images in it",
                    Medium::Sound => "a folder for each label, with the sounds in it",
                },
            });
        }
        let label = file_name(&entry);
        let labeled = |file: PathBuf| record(&file, &header, &[&file_name(&file), &label]);
        records.extend(files(&entry, medium)?.into_iter().map(labeled));
    }
    Ok(records)
}

/// A record without a label for each file.
pub(super) fn unlabeled(files: &[PathBuf], medium: Medium, fields: &Fields) -> Vec<Record> {
    let header: Arc<csv::StringRecord> = Arc::new([medium.field(fields)].into_iter().collect());
    let records = files.iter().map(|file| record(file, &header, &[&file_name(file)]));
    records.collect()
}

/// The record of a file; the name of the file is relative to its folder, as in a file of records.
fn record(file: &Path, header: &Arc<csv::StringRecord>, cells: &[&str]) -> Record {
    let at = Location {
        path: file.into(),
        line: None,
    };
    Record {
        source: Source::Table {
            header: header.clone(),
            header_at: at.clone(),
            cells: cells.iter().collect(),
        },
        at,
    }
}

impl Record {
    /// An image, not decoded yet: a path, relative to the folder of the file, or a data URI (`data:image/png;base64,...`).
    ///
    /// # Errors
    ///
    /// [`DataError::MissingField`], [`DataError::WrongType`], [`DataError::DataUri`]; [`DataError::Read`] for a file that is not
    /// there.
    pub fn image(&self, field: &str) -> Result<ImageSource, DataError> {
        let text = self.text(field)?;
        let Some(uri) = text.strip_prefix("data:") else {
            return self.file(text).map(ImageSource::File);
        };
        let name = format!("the image at {}", self.at);
        let refuse = |reason: String| DataError::DataUri {
            image: name.clone(),
            reason,
        };
        let (_, encoded) = uri
            .split_once(";base64,")
            .ok_or_else(|| refuse("expected `data:image/png;base64,` and the bytes in base64".to_owned()))?;
        let bytes = STANDARD
            .decode(encoded)
            .map_err(|error| refuse(error.to_string().to_lowercase()))?;
        Ok(ImageSource::Bytes {
            name,
            bytes: bytes.into(),
        })
    }

    /// A sound: a path, relative to the folder of the file.
    ///
    /// # Errors
    ///
    /// [`DataError::MissingField`], [`DataError::WrongType`]; [`DataError::Read`] for a file that is not there.
    pub fn audio(&self, field: &str) -> Result<PathBuf, DataError> {
        self.file(self.text(field)?)
    }

    /// The file at a path from the folder of the record's.
    fn file(&self, path: &str) -> Result<PathBuf, DataError> {
        let path = self.at.path.parent().unwrap_or(Path::new("")).join(path);
        match open_regular(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(DataError::Read { path, source }),
        }
    }
}

/// The files of a folder, in the order of their names.
fn files(folder: &Path, medium: Medium) -> Result<Vec<PathBuf>, DataError> {
    let files = entries(folder)?;
    match files.iter().find(|file| !medium.has(file)) {
        None => Ok(files),
        Some(other) => Err(DataError::StrayFile {
            path: other.clone(),
            expected: match medium {
                Medium::Image => "a .png, .jpg or .jpeg file",
                Medium::Sound => "a .wav file",
            },
        }),
    }
}

/// What a folder holds, hidden files left out, in the order of the names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = || -> std::io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let mut entries = read().map_err(|source| DataError::Read {
        path: folder.to_owned(),
        source,
    })?;
    entries.retain(|entry| !file_name(entry).starts_with('.'));
    entries.sort();
    Ok(entries)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::fields::Labels;
    use super::super::records::Records;
    use super::*;

    /// A folder with empty files of these names.
    fn folder(files: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn names(names: &[&str]) -> Labels {
        Labels::Names(names.iter().map(|&name| name.to_owned()).collect())
    }

    type Found = Vec<(String, Option<usize>)>;

    /// The images and classes of a file or folder; paths and messages begin with `start` no more.
    fn read(path: &Path, start: &Path, labels: &Labels) -> Result<Found, String> {
        let read = || {
            let fields = Fields::default();
            let records = Records::read(path, &fields)?.records.into_iter();
            let example = |record: Record| {
                let class = record.class(&fields.label, labels, false)?;
                Ok::<_, DataError>((record.image(&fields.image)?, class))
            };
            records.map(example).collect::<Result<Vec<_>, DataError>>()
        };
        let start = format!("{}/", start.display());
        let found = read().map_err(|error| error.to_string().replace(&start, ""))?;
        Ok(found
            .into_iter()
            .map(|(image, class)| (image.name().replace(&start, ""), class))
            .collect())
    }

    fn found(expected: &[(&str, Option<usize>)]) -> Result<Found, String> {
        Ok(expected
            .iter()
            .map(|(name, class)| ((*name).to_owned(), *class))
            .collect())
    }

    #[test]
    fn folders_are_labels() {
        let folder = folder(&[
            "t/dog/b.PNG",
            "t/dog/a.jpg",
            "t/cat/z.jpeg",
            "t/cat/.hidden",
            "t/.cache/x",
        ]);
        let of = |labels: &Labels| read(&folder.path().join("t"), folder.path(), labels);
        let expected = [
            ("t/cat/z.jpeg", Some(0)),
            ("t/dog/a.jpg", Some(1)),
            ("t/dog/b.PNG", Some(1)),
        ];
        assert_eq!(of(&names(&["cat", "dog"])), found(&expected));
        // The order of the run's labels counts, and numbers are labels too.
        assert_eq!(of(&names(&["dog", "cat"])).unwrap()[0].1, Some(1));
        let numbers = self::folder(&["0/a.png", "2/b.png"]);
        let data = read(numbers.path(), numbers.path(), &Labels::Count(3));
        assert_eq!(data, found(&[("0/a.png", Some(0)), ("2/b.png", Some(2))]));
    }

    #[test]
    fn what_does_not_belong_into_a_folder_is_named() {
        let message = |files: &[&str], labels: &Labels| {
            let folder = folder(files);
            read(folder.path(), folder.path(), labels).unwrap_err()
        };
        assert_eq!(
            message(&["cat/a.png", "b.png"], &names(&["cat"])),
            "b.png does not belong here: expected a folder for each label, with the images in it"
        );
        assert_eq!(
            message(&["cat/a.gif"], &names(&["cat"])),
            "cat/a.gif does not belong here: expected a .png, .jpg or .jpeg file"
        );
        assert_eq!(
            message(&["cats/a.png"], &names(&["cat", "dog"])),
            "unknown label `cats` at cats/a.png: this run's classes are `cat`, `dog`; did you mean `cat`?"
        );
        assert_eq!(
            message(&["2/a.png"], &Labels::Count(2)),
            "label 2 at 2/a.png is out of range: this run has 2 classes (0..=1)"
        );
        assert!(message(&[".hidden"], &names(&["cat"])).ends_with("is empty: it holds no example"));
    }

    #[test]
    fn records_hold_paths_or_data_uris() {
        let folder = folder(&["a/1.png", "x.jpg"]);
        let (csv, jsonl) = (folder.path().join("a/train.csv"), folder.path().join("train.jsonl"));
        let labels = names(&["cat", "dog"]);
        let of = |path: &Path, text: &str| {
            fs::write(path, text).unwrap();
            read(path, folder.path(), &labels)
        };
        assert_eq!(
            of(&csv, "image,label\n1.png,dog\n../x.jpg,\n"),
            found(&[("a/1.png", Some(1)), ("a/../x.jpg", None)])
        );
        assert_eq!(
            of(&csv, "image,label\nnone.png,dog\n").unwrap_err(),
            "cannot read a/none.png: there is no such file"
        );
        assert_eq!(
            of(&jsonl, r#"{"image": "data:image/png;base64,AQID", "label": "cat"}"#),
            found(&[("the image at train.jsonl:1", Some(0))])
        );
        for (uri, reason) in [
            (
                "data:image/png,abc",
                "expected `data:image/png;base64,` and the bytes in base64",
            ),
            ("data:image/png;base64,A*ID", "invalid symbol 42, offset 1."),
        ] {
            assert_eq!(
                of(&jsonl, &format!(r#"{{"image": "{uri}", "label": 0}}"#)).unwrap_err(),
                format!("the image at train.jsonl:1 is not a valid data URI: {reason}")
            );
        }
        assert_eq!(
            of(&jsonl, r#"{"imag": "x.png", "label": 0}"#).unwrap_err(),
            "no field `image` at train.jsonl:1: it has `imag`, `label`; did you mean `imag`?"
        );
    }

    #[test]
    fn folders_of_sounds_are_labels_too() {
        let folder = folder(&["t/no/b.wav", "t/yes/a.WAV"]);
        let (fields, labels) = (Fields::default(), names(&["no", "yes"]));
        let of = |path: &Path| -> Result<Vec<(PathBuf, Option<usize>)>, DataError> {
            let records = Records::read(path, &fields)?.records.into_iter();
            let example = |record: Record| Ok((record.audio("audio")?, record.class("label", &labels, false)?));
            records.map(example).collect()
        };
        let path = |name: &str| folder.path().join(name);
        let found = of(&path("t")).unwrap();
        assert_eq!(found, [(path("t/no/b.wav"), Some(0)), (path("t/yes/a.WAV"), Some(1))]);
        assert_eq!(of(&path("t/no")).unwrap(), [(path("t/no/b.wav"), None)]);
        fs::write(path("t/no/c.png"), "").unwrap();
        let refused = of(&path("t")).unwrap_err().to_string();
        assert!(
            refused.ends_with("c.png does not belong here: expected a .wav file"),
            "{refused}"
        );
        let records = Records::of_media(&[], &[path("t/yes/a.WAV")], &fields).records;
        assert_eq!(records[0].audio("audio").unwrap(), path("t/yes/a.WAV"));
        // What it is called does not matter, and that it is absent is said.
        let records = Records::of_media(&[], &[path("t/yes/b.mp3")], &fields).records;
        let absent = records[0].audio("audio").unwrap_err().to_string();
        assert!(absent.contains("b.mp3"), "{absent}");
    }

    #[test]
    fn images_to_predict_on_need_no_label() {
        let folder = folder(&["b.png", "a.jpg"]);
        let expected = [("a.jpg", None), ("b.png", None)];
        assert_eq!(read(folder.path(), folder.path(), &names(&["cat"])), found(&expected));
        let fields = Fields::default();
        let records = Records::of_media(&[folder.path().join("b.png")], &[], &fields).records;
        assert_eq!(
            records[0].image("image").unwrap(),
            ImageSource::File(folder.path().join("b.png"))
        );
    }
}
