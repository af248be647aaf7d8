//! The records of a run, and what its recipe leaves to them: the labels, and a fraction of them for validation.

use crate::data::{Labels, Records};
use crate::error::TrainError;
use crate::recipe::{ClassWeights, Recipe};
use crate::tasks::TaskOptions;

/// The fraction of the training data that is kept for validation where the recipe names neither a file nor a fraction.
const VALIDATION_FRACTION: f64 = 0.1;

/// The records of a run, and what its task is told.
pub(crate) struct RunData {
    pub(crate) options: TaskOptions,
    pub(crate) train: Records,
    pub(crate) validation: Records,
    /// Training examples of each class, where an example has one.
    pub(crate) classes: Vec<(String, usize)>,
}

impl RunData {
    /// Reads the training and the validation data. Labels that the recipe does not name are those of the training file, the part
    /// for validation and other shards included, so that every run on that file has the same ones.
    pub(crate) fn read(recipe: &Recipe) -> Result<Self, TrainError> {
        let (data, task) = (&recipe.data, recipe.head.kind);
        let mut options = recipe.task_options();
        let mut train = Records::read(&data.train, &data.fields)?;
        let of_labels = task.label_field.map(|field| field(&data.fields));
        if let Some((field, separator)) = of_labels.filter(|_| data.labels.count() == 0) {
            options.labels = train.labels(field, separator)?;
            if options.labels.count() == 0 {
                return Err(TrainError::Value {
                    field: "data.labels",
                    expected: format!(
                        "the labels, or a field `{field}` with labels in {}",
                        data.train.display()
                    ),
                    found: "no label".to_owned(),
                });
            }
        }
        let validation = match &data.validation {
            Some(path) => Records::read(path, &data.fields)?,
            None => {
                let fraction = data.validation_fraction.unwrap_or(VALIDATION_FRACTION);
                train
                    .split_off(fraction, recipe.train.seed)
                    .ok_or_else(|| TrainError::Value {
                        field: "data.validation",
                        expected: "a file, as a fraction of the training data needs two examples".to_owned(),
                        found: format!("none, and one example in {}", data.train.display()),
                    })?
            }
        };
        if let Some(shard) = data.shard {
            train = train.shard(shard, &data.fields.label);
        }
        let classes = match of_labels {
            Some((field, None)) => class_counts(&train, field, &options.labels)?,
            _ => Vec::new(),
        };
        if recipe.train.class_weights == Some(ClassWeights::Balanced) {
            options.class_weights = Some(balanced(&classes));
        }
        Ok(Self {
            options,
            train,
            validation,
            classes,
        })
    }
}

fn class_counts(records: &Records, field: &str, labels: &Labels) -> Result<Vec<(String, usize)>, TrainError> {
    let mut counts: Vec<(String, usize)> = labels.names().into_iter().map(|name| (name, 0)).collect();
    for record in &records.records {
        if let Some(class) = record.class(field, labels, true)? {
            counts[class].1 += 1;
        }
    }
    Ok(counts)
}

/// The weight of each class: all examples over the classes times the examples of the class, as scikit-learn's `balanced` has it;
/// zero for a class without examples.
fn balanced(classes: &[(String, usize)]) -> Vec<f32> {
    let examples: usize = classes.iter().map(|(_, count)| count).sum();
    let weight = |count: usize| match count {
        0 => 0.0,
        count => (examples as f64 / (classes.len() * count) as f64) as f32,
    };
    classes.iter().map(|(_, count)| weight(*count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_classes_weigh_alike() {
        let classes = [95, 5, 0].map(|count| (String::new(), count));
        let weights = balanced(&classes);
        assert!(
            (weights[0] * 95.0 - weights[1] * 5.0).abs() < 1e-4 && weights[2] == 0.0,
            "{weights:?}"
        );
        assert!((weights[1] - 100.0 / 15.0).abs() < 1e-5);
    }
}
