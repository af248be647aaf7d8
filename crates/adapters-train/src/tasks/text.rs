//! Texts, each alone or with a second one, as most tasks read them.

use adapters_models::heads::Targets;
use adapters_models::{Encoded, Model};
use burn::tensor::{Device, Tensor, TensorData};

use super::context::TaskContext;
use super::labeled::{Labeled, labeled_batch, with_targets};
use crate::data::Record;
use crate::error::TrainError;
use crate::inputs::{Batch, text_input};

/// An encoded text and its target.
pub(crate) type TextExample<T> = Labeled<Encoded, T>;

/// Encodes the text of each record, with the second one where the task has pairs.
pub(crate) fn texts(records: &[Record], cx: &TaskContext<'_>) -> Result<Vec<Encoded>, TrainError> {
    let fields = &cx.options.fields;
    let mut texts = Vec::with_capacity(records.len());
    for record in records {
        let pair = fields.text_pair.as_ref().map(|field| record.text(field)).transpose()?;
        texts.push((record.text(&fields.text)?, pair));
    }
    encode(texts, records, cx)
}

/// Encodes the text of each record, and reads its target.
pub(crate) fn examples<T>(
    records: &[Record],
    cx: &TaskContext<'_>,
    target: impl Fn(&Record) -> Result<Option<T>, TrainError>,
) -> Result<Vec<TextExample<T>>, TrainError> {
    with_targets(texts(records, cx)?, records, target)
}

/// Encodes texts of records, and refuses what the model does not have.
pub(crate) fn encode<'t>(
    texts: Vec<(&'t str, Option<&'t str>)>,
    records: &[Record],
    cx: &TaskContext<'_>,
) -> Result<Vec<Encoded>, TrainError> {
    let each = texts.len() / records.len().max(1);
    let rows = cx.tokenizer()?.encode(texts)?;
    for (index, row) in rows.iter().enumerate() {
        check(row, &records[index / each.max(1)], cx.model)?;
    }
    Ok(rows)
}

/// Refuses a text without tokens, and ids and types that the model does not have.
pub(crate) fn check(row: &Encoded, record: &Record, model: &Model) -> Result<(), TrainError> {
    let refuse = |field, expected: String, found: String| Err(TrainError::Value { field, expected, found });
    if row.ids.is_empty() {
        return refuse(
            "data",
            "at least one token in every text".to_owned(),
            format!("none in {}", record.location()),
        );
    }
    let vocab = model.vocab_size();
    if let Some(id) = row.ids.iter().find(|id| **id as usize >= vocab) {
        return refuse(
            "tokenizer",
            format!("token ids below the model's vocab_size = {vocab}"),
            id.to_string(),
        );
    }
    let types = model.info().token_types.unwrap_or(usize::MAX);
    match row.type_ids.iter().find(|id| **id as usize >= types) {
        Some(id) => refuse(
            "tokenizer",
            format!("token types below the model's type_vocab_size = {types}"),
            id.to_string(),
        ),
        None => Ok(()),
    }
}

/// A batch of texts without targets.
pub(crate) fn batch(rows: &[&Encoded], predictions: usize, model: &Model, device: &Device) -> Batch {
    Batch::unlabeled(text_input(rows, model, device), predictions)
}

/// A batch of texts with the targets that `make` makes of theirs.
pub(crate) fn text_batch<T>(
    examples: &[(usize, &TextExample<T>)],
    model: &Model,
    device: &Device,
    make: impl FnOnce(Vec<&T>) -> Targets,
) -> Batch {
    let rows: Vec<&Encoded> = examples.iter().map(|(_, example)| &example.source).collect();
    labeled_batch(text_input(&rows, model, device), examples, make)
}

/// Whole numbers as a tensor.
pub(crate) fn ints(values: Vec<i64>, device: &Device) -> Tensor<1, burn::tensor::Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
