//! Figures of an evaluation in addition to its loss, from predictions and targets on the host.

use std::collections::BTreeMap;
use std::fmt;

use crate::data::shortened;

/// The figures of a task by name. The first is the one a task is known by.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Figures {
    /// Names and values.
    pub values: Vec<(&'static str, f64)>,
    /// The F1 of each label, or each kind of span, that occurs or is predicted; none where there are no labels.
    pub of_labels: Vec<(String, f64)>,
    /// Which class was predicted for which, where each example has one of a few.
    pub confusion: Option<Confusion>,
}

impl Figures {
    /// Figures without a confusion table.
    pub fn new(values: impl Into<Vec<(&'static str, f64)>>) -> Self {
        Self {
            values: values.into(),
            of_labels: Vec::new(),
            confusion: None,
        }
    }

    /// The figure of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(of, _)| *of == name).map(|(_, value)| *value)
    }
}

/// Whether a smaller figure of that name is the better one.
pub(crate) fn falls(metric: &str) -> bool {
    matches!(metric, "loss" | "perplexity")
}

/// How often each class was predicted for the examples of each class.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confusion {
    labels: Vec<String>,
    /// By target, then by prediction, those that are not zero: a table of all grows with the square of the classes.
    counts: BTreeMap<(usize, usize), usize>,
    targets: Vec<usize>,
    predictions: Vec<usize>,
}

impl Confusion {
    /// Classes that a printed table has at most.
    pub const SHOWN: usize = 20;
    /// Classes that a written table has at most.
    pub const WRITTEN: usize = 1000;

    /// Counts pairs of a target and a prediction, both below the number of labels.
    pub fn new(labels: Vec<String>, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut counts = BTreeMap::new();
        let [mut targets, mut predictions] = [vec![0; labels.len()], vec![0; labels.len()]];
        for (target, predicted) in pairs {
            if target < labels.len() && predicted < labels.len() {
                *counts.entry((target, predicted)).or_insert(0) += 1;
                targets[target] += 1;
                predictions[predicted] += 1;
            }
        }
        Self {
            labels,
            counts,
            targets,
            predictions,
        }
    }

    /// Accuracy, macro F1 and Matthews' correlation coefficient, and this table.
    pub fn figures(self) -> Figures {
        Figures {
            values: vec![
                ("accuracy", self.accuracy()),
                ("f1", self.macro_f1()),
                ("matthews", self.matthews()),
            ],
            of_labels: self.of_labels(),
            confusion: Some(self),
        }
    }

    /// The F1 of each label that occurs or is predicted.
    pub(crate) fn of_labels(&self) -> Vec<(String, f64)> {
        self.f1()
            .filter_map(|(label, f1)| Some((label.to_owned(), f1?)))
            .collect()
    }

    /// The classes.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Each class, with how often each was predicted for its examples.
    pub fn rows(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        let classes = 0..self.labels.len();
        self.labels.iter().enumerate().map(move |(target, label)| {
            let counts = classes.clone().map(|predicted| self.count(target, predicted));
            (label.as_str(), counts.collect())
        })
    }

    fn count(&self, target: usize, predicted: usize) -> usize {
        self.counts.get(&(target, predicted)).copied().unwrap_or_default()
    }

    fn examples(&self) -> usize {
        self.targets.iter().sum()
    }

    fn right(&self) -> usize {
        (0..self.labels.len()).map(|class| self.count(class, class)).sum()
    }

    /// The fraction of right predictions; zero without examples.
    pub fn accuracy(&self) -> f64 {
        self.right() as f64 / self.examples().max(1) as f64
    }

    /// `2 p r / (p + r)` of precision and recall of each class, by label; `None` for a class that neither occurs nor is predicted.
    pub fn f1(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.labels.iter().enumerate().map(|(class, label)| {
            let sum = self.targets[class] + self.predictions[class];
            let f1 = (sum > 0).then(|| 2.0 * self.count(class, class) as f64 / sum as f64);
            (label.as_str(), f1)
        })
    }

    /// The mean of [`f1`](Self::f1) over the classes that occur or are predicted, as scikit-learn's `macro` average.
    pub(crate) fn macro_f1(&self) -> f64 {
        let of_classes: Vec<f64> = self.f1().filter_map(|(_, f1)| f1).collect();
        of_classes.iter().sum::<f64>() / of_classes.len().max(1) as f64
    }

    /// Matthews' correlation coefficient of any number of classes; zero where all targets or all predictions are alike. *Comparing
    /// two K-category assignments by a K-category correlation coefficient*, Gorodkin, 2004,
    /// <https://doi.org/10.1016/j.compbiolchem.2004.09.006>.
    pub fn matthews(&self) -> f64 {
        let sum_over_classes = |f: &dyn Fn(usize) -> usize| (0..self.labels.len()).map(f).sum::<usize>() as f64;
        let all = self.examples() as f64;
        let both = sum_over_classes(&|class| self.targets[class] * self.predictions[class]);
        let targets = all * all - sum_over_classes(&|class| self.targets[class].pow(2));
        let predictions = all * all - sum_over_classes(&|class| self.predictions[class].pow(2));
        match targets * predictions > 0.0 {
            true => (self.right() as f64 * all - both) / (targets * predictions).sqrt(),
            false => 0.0,
        }
    }
}

/// A line for each label, a column for each prediction, and the F1 of each label at the end.
impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A column can be no wider than 65,535 letters, and a table that is read has far fewer.
        let labels: Vec<String> = self.labels.iter().map(|label| shortened(label)).collect();
        let rows = labels.iter().map(|label| label.chars().count());
        let first = rows.chain(["label".len()]).max().unwrap_or_default();
        let width = |class: usize| {
            let most = (0..labels.len()).map(|target| self.count(target, class)).max();
            labels[class]
                .chars()
                .count()
                .max(most.unwrap_or_default().to_string().len())
        };
        write!(f, "{:first$}", "label")?;
        for (class, label) in labels.iter().enumerate() {
            write!(f, "  {label:>0$}", width(class))?;
        }
        write!(f, "  {:>6}", "f1")?;
        for ((label, (_, f1)), (_, row)) in labels.iter().zip(self.f1()).zip(self.rows()) {
            write!(f, "\n{label:first$}")?;
            for (class, count) in row.iter().enumerate() {
                write!(f, "  {count:>0$}", width(class))?;
            }
            match f1 {
                Some(f1) => write!(f, "  {f1:.4}")?,
                None => write!(f, "  {:>6}", "-")?,
            }
        }
        Ok(())
    }
}

/// Pearson's correlation coefficient; zero where one side is constant.
pub(crate) fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let count = a.len().max(1) as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / count, b.iter().sum::<f64>() / count);
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - mean_a, b - mean_b)).sum::<f64>();
    let variances = sum(&|a, _| a * a) * sum(&|_, b| b * b);
    match variances > 0.0 {
        true => sum(&|a, b| a * b) / variances.sqrt(),
        false => 0.0,
    }
}

/// Spearman's: Pearson's of the ranks, where equal values share the mean of theirs.
pub(crate) fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = from as f64 + (equal.len() - 1) as f64 / 2.0;
        for index in equal {
            ranks[*index] = rank;
        }
        from += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_of_any_length_has_a_place_in_the_table() {
        let table = Confusion::new(vec!["é".repeat(100_000), "b".to_owned()], [(0, 1)]).to_string();
        assert!(
            table.contains(&format!("\n{}…", "é".repeat(40))) && table.len() < 1000,
            "{table}"
        );
    }

    #[test]
    fn as_many_classes_as_a_vocabulary_are_counted() {
        const CLASSES: usize = 250_000;
        let labels = (0..CLASSES).map(|class| class.to_string()).collect();
        let figures = Confusion::new(labels, [(3, 3), (4, CLASSES - 1), (CLASSES, 0)]).figures();
        assert_eq!(figures.get("accuracy"), Some(0.5));
        let of_labels: Vec<_> = figures
            .of_labels
            .iter()
            .map(|(label, f1)| (label.as_str(), *f1))
            .collect();
        assert_eq!(of_labels, [("3", 1.0), ("4", 0.0), ("249999", 0.0)]);
    }

    /// `f1_score(average="macro")`, `f1_score(average=None)` and `matthews_corrcoef` of scikit-learn.
    #[test]
    fn figures_of_classes_are_scikit_learns() {
        let targets = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3];
        let predictions = [0, 1, 0, 1, 2, 2, 2, 0, 2, 2];
        let labels = ["a", "b", "c", "d", "none"].map(str::to_owned).to_vec();
        let confusion = Confusion::new(labels, targets.into_iter().zip(predictions));
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-8, "{found}, not {expected}");
        close(confusion.accuracy(), 0.6);
        close(confusion.macro_f1(), 0.458_333_333_333);
        close(confusion.matthews(), 0.409_844_299_985_268_5);
        let f1: Vec<Option<f64>> = confusion.f1().map(|(_, f1)| f1).collect();
        close(f1[0].unwrap(), 2.0 / 3.0);
        close(f1[1].unwrap(), 0.5);
        assert_eq!(f1[3..], [Some(0.0), None]);
        assert_eq!(
            confusion.to_string(),
            "label  a  b  c  d  none      f1\n\
             a      2  1  0  0     0  0.6667\n\
             b      0  1  1  0     0  0.5000\n\
             c      1  0  3  0     0  0.6667\n\
             d      0  0  1  0     0  0.0000\n\
             none   0  0  0  0     0       -"
        );
        let constant = Confusion::new(vec!["a".into(), "b".into()], [(0, 0), (1, 0)]);
        assert_eq!((constant.accuracy(), constant.matthews()), (0.5, 0.0));
    }

    /// `scipy.stats.pearsonr` and `spearmanr`.
    #[test]
    fn correlations_are_scipys() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0];
        let b = [1.1, 1.9, 3.5, 3.0, 10.0, 2.0];
        assert!((pearson(&a, &b) - 0.591_694_301_647).abs() < 1e-9);
        assert!((spearman(&a, &b) - 0.695_725_242_783).abs() < 1e-9);
        assert_eq!((pearson(&a, &[1.0; 6]), spearman(&[], &[])), (0.0, 0.0));
    }
}
