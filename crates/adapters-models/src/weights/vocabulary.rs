//! The token tables of a base in the size of an adapter's tokenizer: tokens that were added before training, or rows that were cut.

use std::collections::BTreeMap;
use std::path::Path;

use adapters_core::{Format, Tensors};
use burn::tensor::TensorData;

use super::checkpoint::{Checkpoint, Layout, ReadError};
use crate::error::ModelError;
use adapters_store::{StoreError, is_there};

/// What the folder of an adapter says about the token tables of its base, which have other sizes there: peft stores the resized table
/// and head next to the adapter.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    /// Tokens of the base.
    pub from: usize,
    /// Tokens with the adapter.
    pub to: usize,
    /// Tables that the folder stores, by the keys of the checkpoint.
    tables: BTreeMap<String, Table>,
}

/// A table in the folder of an adapter.
#[derive(Clone, Debug)]
struct Table {
    /// Its key there.
    key: String,
    /// Values of the rows that the base lacks; none where rows were cut.
    rows: Vec<f32>,
}

impl Vocabulary {
    /// Looks for tables of another size than those of a base of `from` tokens; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for a file that cannot be read, or for tables of different sizes.
    pub(crate) fn of_adapter(
        adapter: &Path,
        base: &Checkpoint,
        from: usize,
        allow_bin: bool,
    ) -> Result<Option<Self>, ModelError> {
        let files = [Format::Peft.weights_file(), "adapter_model.bin"];
        let path = files.iter().map(|name| adapter.join(name)).find(|path| is_there(path));
        // A pickle without permission is refused when the adapter is loaded.
        let Some(path) = path.filter(|path| allow_bin || path.extension().is_some_and(|ending| ending != "bin")) else {
            return Ok(None);
        };
        let file = Checkpoint::of_file(&path, allow_bin)?;
        let copies = file.keys().filter_map(|key| Some((key, key_of_base(key, base)?)));
        match Self::of_copies(&file, copies, base, from)? {
            Some(vocabulary) => Ok(Some(vocabulary)),
            // A head that is the table is all that is stored where it is adapted and the table is not.
            None => Self::of_copies(&file, copies_of_tied_head(&file, base, from), base, from),
        }
    }

    /// As [`of_adapter`](Self::of_adapter), of the tensors of `file` that are copies of tensors of the base, by both keys.
    fn of_copies<'a>(
        file: &Checkpoint,
        copies: impl Iterator<Item = (&'a str, &'a str)>,
        base: &Checkpoint,
        from: usize,
    ) -> Result<Option<Self>, ModelError> {
        let path = file.path();
        let mut vocabulary: Option<Self> = None;
        for (key, of_base) in copies {
            let (Some(there), Some(here)) = (base.shape(of_base), file.shape(key)) else {
                continue;
            };
            let (Some((rows, width)), Some((to, other))) = (there.split_first(), here.split_first()) else {
                continue;
            };
            if *rows != from || to == rows || width != other {
                continue;
            }
            let of_file = vocabulary.get_or_insert_with(|| Self {
                from,
                to: *to,
                tables: BTreeMap::new(),
            });
            if of_file.to != *to {
                let problem = adapters_store::TensorProblem::Shape {
                    key: key.to_owned(),
                    expected: [&[of_file.to], width].concat(),
                    found: here.to_vec(),
                };
                return Err(refusal(path, ReadError::Problem(problem)).into());
            }
            let rows = match *to > from {
                true => {
                    let mut values = file.read(key, Layout::Same).map_err(|error| refusal(path, error))?;
                    values.split_off(from * width.iter().product::<usize>())
                }
                false => Vec::new(),
            };
            let table = Table {
                key: key.to_owned(),
                rows,
            };
            // Next to a table that was trained peft stores the one it began as.
            match key.contains("original_module") {
                true => drop(of_file.tables.insert(of_base.to_owned(), table)),
                false => drop(of_file.tables.entry(of_base.to_owned()).or_insert(table)),
            }
        }
        Ok(vocabulary)
    }

    /// The values of a tensor in its new size; `None` if only the tokens do not make it the one that is `wanted`. A table needs rows in
    /// the adapter's folder; a bias, one number a token, is zero where it has none, as in transformers.
    pub(crate) fn resized(
        &self,
        key: &str,
        found: &[usize],
        wanted: &[usize],
        mut values: Vec<f32>,
    ) -> Option<Vec<f32>> {
        if !self.concerns(found, wanted) {
            return None;
        }
        let width = values.len() / self.from;
        if self.to > self.from {
            match self.tables.get(key) {
                Some(table) => values.extend(&table.rows),
                None if width == 1 => {}
                None => return None,
            }
        }
        values.resize(self.to * width, 0.0);
        Some(values)
    }

    /// The shape of a tensor of the base in its new size, if it has a row or a number a token.
    pub(crate) fn shape(&self, found: &[usize]) -> Option<Vec<usize>> {
        let axis = match found {
            [1, tokens] if *tokens == self.from => 1,
            [tokens, ..] if *tokens == self.from => 0,
            _ => return None,
        };
        let mut shape = found.to_vec();
        shape[axis] = self.to;
        Some(shape)
    }

    /// The shape of a tensor in its new size, if its values have one.
    pub(crate) fn new_shape(&self, key: &str, found: &[usize]) -> Option<Vec<usize>> {
        let shape = self.shape(found)?;
        let is_vector = found.iter().product::<usize>() == self.from;
        (self.to < self.from || is_vector || self.tables.contains_key(key)).then_some(shape)
    }

    /// The tables of the base in their new size that `stored` has not, by the keys that the adapter's folder has them under: what peft
    /// stores next to an adapter over other tokens than its base.
    ///
    /// # Errors
    ///
    /// [`ModelError::Store`] for a tensor of the base that cannot be read.
    pub(crate) fn missing_tables(&self, stored: &Tensors, base: &Checkpoint) -> Result<Tensors, ModelError> {
        let stored: Vec<&str> = stored
            .iter()
            .filter(|(_, data)| data.shape().first() == Some(&self.to))
            .filter_map(|(key, _)| key_of_base(key, base))
            .collect();
        let mut missing = Tensors::new();
        for (of_base, table) in self
            .tables
            .iter()
            .filter(|(of_base, _)| !stored.contains(&of_base.as_str()))
        {
            let found = base.shape(of_base).map(<[usize]>::to_vec).unwrap_or_default();
            let values = base.read(of_base, Layout::Same);
            let values = values.map_err(|error| refusal(base.path(), error))?;
            if let Some(shape) = self.shape(&found)
                && let Some(values) = self.resized(of_base, &found, &shape, values)
            {
                missing.insert(table.key.clone(), TensorData::new(values, shape));
            }
        }
        Ok(missing)
    }

    fn concerns(&self, found: &[usize], wanted: &[usize]) -> bool {
        self.shape(found).is_some_and(|shape| shape == wanted)
    }
}

/// The key of a base that a key of an adapter's file has a copy of: without what peft puts around it. The file has the prefix of a
/// larger class or not, whatever the base has.
fn key_of_base<'b>(key: &str, base: &'b Checkpoint) -> Option<&'b str> {
    let path = key.strip_prefix(Format::Peft.key_prefix())?;
    let around = ["base_layer", "modules_to_save", "original_module", "token_adapter"];
    let path: Vec<&str> = path.split('.').filter(|part| !around.contains(part)).collect();
    let path = path.join(".");
    let below = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.ends_with('.'));
    let same = base.keys().find(|key| *key == path);
    same.or_else(|| base.keys().find(|key| below(key, &path) || below(&path, key)))
}

/// The frozen heads of a file that its base has no key for, with that of the base's only table of `tokens` rows, which they are.
fn copies_of_tied_head<'a>(
    file: &'a Checkpoint,
    base: &'a Checkpoint,
    tokens: usize,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let is_table = |key: &&str| matches!(base.shape(key), Some([rows, _]) if *rows == tokens);
    let mut tables = base.keys().filter(is_table);
    let table = tables.next().filter(|_| tables.next().is_none());
    let is_head = move |key: &&str| key.ends_with(".base_layer.weight") && key_of_base(key, base).is_none();
    table
        .into_iter()
        .flat_map(move |table| file.keys().filter(is_head).map(move |key| (key, table)))
}

fn refusal(path: &Path, error: ReadError) -> StoreError {
    match error {
        ReadError::File(error) => error,
        ReadError::Problem(problem) => StoreError::Mismatch {
            path: path.to_owned(),
            problems: vec![problem],
        },
    }
}
