//! Names of adapters, which folders and modules of PyTorch are named after, and of labels.

use std::collections::HashSet;

use super::value;
use crate::data::Labels;
use crate::error::TrainError;

/// The most labels: more than words of a vocabulary. A number of them is acted on before there is a model that limits it.
const MOST_LABELS: usize = 1 << 20;

/// The longest name of a folder on most systems, in bytes.
const LONGEST: usize = 255;

/// Checks `adapter.name`. PyTorch refuses a module with a dot in its name, so that neither Python library could load the adapter.
pub(super) fn check_adapter(name: &str) -> Result<(), TrainError> {
    let wrong = |c: char| c.is_control() || matches!(c, '.' | '/' | '\\');
    let expected = if name.len() > LONGEST {
        "a name of at most 255 bytes"
    } else if name.trim().is_empty() || name.contains(wrong) {
        "a name of a folder without `.`, `/`, `\\` and control characters, which PyTorch needs too"
    } else {
        return Ok(());
    };
    Err(value("adapter.name", expected, format!("`{name}`")))
}

/// Checks `data.labels`.
pub(super) fn check_labels(labels: &Labels) -> Result<(), TrainError> {
    if labels.count() > MOST_LABELS {
        return Err(value("data.labels", "at most 1048576 labels", labels.count()));
    }
    let Labels::Names(names) = labels else { return Ok(()) };
    // A prediction without a text is what stands for a blank line of the input.
    if let Some(index) = names.iter().position(|name| name.trim().is_empty()) {
        let found = format!("a list with an empty label as item {}", index + 1);
        return Err(value("data.labels", "labels with a name", found));
    }
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(*name)) {
        Some(name) => Err(value(
            "data.labels",
            "each label once",
            format!("a list with `{name}` twice"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_python_cannot_use_is_refused() {
        for name in ["adapter", "my adapter-2", "köln", "a,b", &"a".repeat(255)] {
            check_adapter(name).unwrap();
        }
        for name in ["", " ", "a.b", "..", "a/b", "a\\b", "a\nb", "a\0", &"a".repeat(256)] {
            let error = check_adapter(name).unwrap_err().to_string();
            assert!(error.contains("adapter.name"), "{name}: {error}");
        }
    }

    #[test]
    fn labels_are_as_many_as_there_can_be() {
        check_labels(&Labels::Count(MOST_LABELS)).unwrap();
        for count in [MOST_LABELS + 1, usize::MAX] {
            let error = check_labels(&Labels::Count(count)).unwrap_err().to_string();
            assert!(error.contains("data.labels") && error.contains("at most"), "{error}");
        }
        let twice = Labels::Names(vec!["a".to_owned(), "a".to_owned()]);
        assert!(check_labels(&twice).unwrap_err().to_string().contains("`a` twice"));
        let unnamed = Labels::Names(vec!["a".to_owned(), " ".to_owned()]);
        assert!(check_labels(&unnamed).unwrap_err().to_string().contains("as item 2"));
    }
}
