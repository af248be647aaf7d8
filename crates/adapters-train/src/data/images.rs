//! Labeled images: a folder of images for each label, or a file whose records hold the path of an image.

use std::fs;
use std::path::{Path, PathBuf};

use adapters_models::vision::ImageSource;
use adapters_nn::nearest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::record::integer;
use super::{DataError, Fields, Labels, Record, Records};

/// Extensions of image files, in lower case.
const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// One image, not decoded yet, and its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageExample {
    /// The image.
    pub image: ImageSource,
    /// Its class, from 0; `None` where it is to be predicted.
    pub label: Option<usize>,
}

/// The images of one folder or file, in order. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDataset {
    /// The images.
    pub examples: Vec<ImageExample>,
    /// The names of the labels, in the order of their classes.
    pub labels: Vec<String>,
    /// The folder or file they come from.
    pub path: PathBuf,
}

impl ImageDataset {
    /// Reads labeled images.
    ///
    /// - A folder holds a folder of `.png`, `.jpg` or `.jpeg` files for each label: `LABEL/NAME.png`. Labels and files are
    ///   read in the order of their names; hidden files are skipped.
    /// - A `.jsonl`, `.csv` or `.tsv` file is read as [`Records::read`] does, with the image in `fields.image` and the
    ///   label in `fields.label`. An image is a path, relative to the folder of the file, or a data URI
    ///   (`data:image/png;base64,...`).
    ///
    /// Only names are read here; [`ImageProcessor::batch`](adapters_models::vision::ImageProcessor::batch) reads and
    /// decodes the images of a batch.
    ///
    /// # Errors
    ///
    /// A [`DataError`] for the first thing that is wrong.
    pub fn read(path: impl AsRef<Path>, fields: &Fields, labels: &Labels) -> Result<Self, DataError> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::read_folder(path, labels);
        }
        Self::of_file(path, fields, labels, true)
    }

    /// Reads images to predict on, which may have no label: a file as [`ImageDataset::read`] reads it, a single image, or
    /// a folder of images without labels.
    ///
    /// # Errors
    ///
    /// A [`DataError`] for the first thing that is wrong.
    pub fn read_unlabeled(path: impl AsRef<Path>, fields: &Fields, labels: &Labels) -> Result<Self, DataError> {
        let path = path.as_ref();
        let files = if path.is_dir() {
            images(path)?
        } else if is_image(path) {
            vec![path.to_owned()]
        } else {
            return Self::of_file(path, fields, labels, false);
        };
        let example = |file| ImageExample {
            image: ImageSource::File(file),
            label: None,
        };
        Self::new(path, files.into_iter().map(example).collect(), labels)
    }

    /// The labels of a folder of labeled images: the names of its folders, sorted.
    ///
    /// # Errors
    ///
    /// [`DataError::Read`] for a folder that cannot be read, [`DataError::StrayFile`] for a file next to the folders of
    /// the labels.
    pub fn folder_labels(folder: &Path) -> Result<Vec<String>, DataError> {
        let name = |entry: PathBuf| match entry.is_dir() {
            true => Ok(file_name(&entry)),
            false => Err(DataError::StrayFile {
                path: entry,
                expected: "a folder for each label, with the images in it",
            }),
        };
        entries(folder)?.into_iter().map(name).collect()
    }

    fn new(path: &Path, examples: Vec<ImageExample>, labels: &Labels) -> Result<Self, DataError> {
        if examples.is_empty() {
            return Err(DataError::Empty { path: path.to_owned() });
        }
        Ok(Self {
            examples,
            labels: (0..labels.count()).map(|class| labels.name(class)).collect(),
            path: path.to_owned(),
        })
    }

    fn read_folder(folder: &Path, labels: &Labels) -> Result<Self, DataError> {
        let mut examples = Vec::new();
        for name in Self::folder_labels(folder)? {
            let path = folder.join(&name);
            let label = Some(class(&path, &name, labels)?);
            examples.extend(images(&path)?.into_iter().map(|file| ImageExample {
                image: ImageSource::File(file),
                label,
            }));
        }
        Self::new(folder, examples, labels)
    }

    fn of_file(path: &Path, fields: &Fields, labels: &Labels, labeled: bool) -> Result<Self, DataError> {
        let records = Records::read(path)?.records;
        let example = |record: &Record| ImageExample::of(record, fields, labels, labeled);
        Self::new(path, records.iter().map(example).collect::<Result<_, _>>()?, labels)
    }
}

impl ImageExample {
    /// The image and label of a record; `labeled` is whether a label has to be there.
    ///
    /// # Errors
    ///
    /// A [`DataError`] for a field that is missing or wrong.
    pub fn of(record: &Record, fields: &Fields, labels: &Labels, labeled: bool) -> Result<Self, DataError> {
        Ok(Self {
            image: source(record, record.text(&fields.image)?)?,
            label: record.class(&fields.label, labels, labeled)?,
        })
    }
}

/// The image of a record: a path, or a data URI.
fn source(record: &Record, text: &str) -> Result<ImageSource, DataError> {
    let Some(uri) = text.strip_prefix("data:") else {
        let folder = record.path.parent().unwrap_or(Path::new(""));
        return Ok(ImageSource::File(folder.join(text)));
    };
    let name = format!("the image at {}", record.location());
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

/// The class of a folder's name: the label of that name, or its number.
fn class(folder: &Path, name: &str, labels: &Labels) -> Result<usize, DataError> {
    let names: &[String] = match labels {
        Labels::Names(names) => names,
        Labels::Count(_) => &[],
    };
    let number = || integer(name).and_then(|number| usize::try_from(number).ok());
    names
        .iter()
        .position(|known| known == name)
        .or_else(|| number().filter(|number| *number < labels.count()))
        .ok_or_else(|| {
            let known: Vec<String> = (0..labels.count()).map(|class| labels.name(class)).collect();
            DataError::UnknownFolder {
                path: folder.to_owned(),
                nearest: nearest(name, known.iter().map(String::as_str)),
                names: known,
            }
        })
}

/// The image files of a folder, in the order of their names.
fn images(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let files = entries(folder)?;
    match files.iter().find(|file| !is_image(file)) {
        None => Ok(files),
        Some(other) => Err(DataError::StrayFile {
            path: other.clone(),
            expected: "a .png, .jpg or .jpeg file",
        }),
    }
}

fn is_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase());
    path.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
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

    /// The paths of the images, from the folder on, and their classes.
    fn found(data: &ImageDataset, folder: &TempDir) -> Vec<(String, Option<usize>)> {
        let start = format!("{}/", folder.path().display());
        let found = |example: &ImageExample| (example.image.name().replace(&start, ""), example.label);
        data.examples.iter().map(found).collect()
    }

    fn message(result: Result<impl std::fmt::Debug, DataError>, folder: &TempDir) -> String {
        let start = format!("{}/", folder.path().display());
        result.unwrap_err().to_string().replace(&start, "")
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
        let train = folder.path().join("t");
        let labels = ImageDataset::folder_labels(&train).unwrap();
        assert_eq!(labels, ["cat", "dog"]);
        let data = ImageDataset::read(&train, &Fields::default(), &Labels::Names(labels)).unwrap();
        assert_eq!(data.labels, ["cat", "dog"]);
        assert_eq!(data.path, train);
        let expected = [("t/cat/z.jpeg", 0), ("t/dog/a.jpg", 1), ("t/dog/b.PNG", 1)];
        assert_eq!(
            found(&data, &folder),
            expected.map(|(name, class)| (name.to_owned(), Some(class)))
        );
        // The order of the run's labels counts, and numbers are labels too.
        let other = ImageDataset::read(&train, &Fields::default(), &names(&["dog", "cat"])).unwrap();
        assert_eq!(other.examples[0].label, Some(1));
        let numbers = self::folder(&["0/a.png", "2/b.png"]);
        let data = ImageDataset::read(numbers.path(), &Fields::default(), &Labels::Count(3)).unwrap();
        assert_eq!(data.examples[1].label, Some(2));
    }

    #[test]
    fn what_does_not_belong_into_a_folder_is_named() {
        let read = |files: &[&str], labels: &Labels| {
            let folder = folder(files);
            message(ImageDataset::read(folder.path(), &Fields::default(), labels), &folder)
        };
        assert_eq!(
            read(&["cat/a.png", "b.png"], &names(&["cat"])),
            "b.png does not belong here: expected a folder for each label, with the images in it"
        );
        assert_eq!(
            read(&["cat/a.gif"], &names(&["cat"])),
            "cat/a.gif does not belong here: expected a .png, .jpg or .jpeg file"
        );
        assert_eq!(
            read(&["cats/a.png"], &names(&["cat", "dog"])),
            "the folder cats is named after no label of this run, which are `cat`, `dog`; did you mean `cat`?"
        );
        assert_eq!(
            read(&["2/a.png"], &Labels::Count(2)),
            "the folder 2 is named after no label of this run, which are `0`, `1`"
        );
        assert!(read(&[".hidden"], &names(&["cat"])).ends_with("is empty: it holds no example"));
    }

    #[test]
    fn records_hold_paths_or_data_uris() {
        let folder = folder(&["a/1.png"]);
        let csv = folder.path().join("a/train.csv");
        fs::write(&csv, "image,label\n1.png,dog\n../x.jpg,cat\n").unwrap();
        let labels = names(&["cat", "dog"]);
        let data = ImageDataset::read(&csv, &Fields::default(), &labels).unwrap();
        let expected = [("a/1.png".to_owned(), Some(1)), ("a/../x.jpg".to_owned(), Some(0))];
        assert_eq!(found(&data, &folder), expected);

        let jsonl = folder.path().join("train.jsonl");
        fs::write(&jsonl, r#"{"image": "data:image/png;base64,AQID", "label": "cat"}"#).unwrap();
        let data = ImageDataset::read(&jsonl, &Fields::default(), &labels).unwrap();
        let name = format!("the image at {}:1", jsonl.display());
        let bytes = [1, 2, 3].as_slice().into();
        assert_eq!(data.examples[0].image, ImageSource::Bytes { name, bytes });

        for (uri, reason) in [
            (
                "data:image/png,abc",
                "expected `data:image/png;base64,` and the bytes in base64",
            ),
            ("data:image/png;base64,A*ID", "invalid symbol 42, offset 1."),
        ] {
            fs::write(&jsonl, format!(r#"{{"image": "{uri}", "label": 0}}"#)).unwrap();
            assert_eq!(
                message(ImageDataset::read(&jsonl, &Fields::default(), &labels), &folder),
                format!("the image at train.jsonl:1 is no valid data URI: {reason}")
            );
        }
        fs::write(&jsonl, r#"{"imag": "x.png", "label": 0}"#).unwrap();
        assert_eq!(
            message(ImageDataset::read(&jsonl, &Fields::default(), &labels), &folder),
            "no field `image` at train.jsonl:1: it has `imag`, `label`; did you mean `imag`?"
        );
    }

    #[test]
    fn images_to_predict_on_need_no_label() {
        let folder = folder(&["b.png", "a.jpg"]);
        let labels = names(&["cat"]);
        let read = |path: &Path| ImageDataset::read_unlabeled(path, &Fields::default(), &labels).unwrap();
        let expected = [("a.jpg".to_owned(), None), ("b.png".to_owned(), None)];
        assert_eq!(found(&read(folder.path()), &folder), expected);
        assert_eq!(found(&read(&folder.path().join("b.png")), &folder), expected[1..]);
        let csv = folder.path().join("x.csv");
        fs::write(&csv, "image,label\nb.png,\na.jpg,cat\n").unwrap();
        let labels: Vec<_> = read(&csv).examples.iter().map(|example| example.label).collect();
        assert_eq!(labels, [None, Some(0)]);
    }

    #[test]
    fn the_digits_are_images() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/digits");
        for (file, count) in [("train", 1197), ("validation", 300), ("test", 300)] {
            let path = folder.join(file).with_extension("jsonl");
            let data = ImageDataset::read(path, &Fields::default(), &Labels::Count(10)).unwrap();
            assert_eq!(data.examples.len(), count);
            for example in data.examples {
                assert_eq!(example.image.decode().unwrap().dimensions(), (8, 8));
            }
        }
    }
}
