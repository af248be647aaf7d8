//! The pictures that a finished run leaves.

use crate::curve::{self, Curve};
use crate::error::TrainError;
use crate::evaluate::Evaluation;
use crate::metrics::Confusion;
use crate::run::Run;
use crate::run_files::MetricsLog;
use crate::training_loop::METRICS;

/// Draws the curves and, of few classes, the confusion table of the test data.
pub(crate) fn draw(run: &Run, metric: &str, test: Option<&Evaluation>) -> Result<(), TrainError> {
    draw_curve(run, metric)?;
    let confusion = test.and_then(|test| test.figures.confusion.as_ref());
    if let Some(confusion) = confusion.filter(|confusion| confusion.labels().len() <= Confusion::SHOWN) {
        let title = format!("{} · classes and predictions of the test data", run.recipe.adapter.name);
        let [svg, png] = ["confusion.svg", "confusion.png"].map(|name| run.dir.join(name));
        curve::draw_confusion(&title, confusion, &svg, &png)?;
    }
    Ok(())
}

/// Draws the curves of `metrics.jsonl`, all of it: a resumed run draws what came before too.
fn draw_curve(run: &Run, metric: &str) -> Result<(), TrainError> {
    let records = MetricsLog::records(run.dir.join(METRICS))?;
    let series = |key: &str| -> Vec<(f64, f64)> {
        let point = |r: &serde_json::Map<_, serde_json::Value>| Some((r.get("step")?.as_f64()?, r.get(key)?.as_f64()?));
        records.iter().filter_map(point).collect()
    };
    let curve = Curve {
        title: format!(
            "{} · {}",
            run.recipe.adapter.name,
            run.recipe.model.path.rsplit('/').next().unwrap_or_default()
        ),
        train_loss: series("train_loss"),
        eval_loss: series("eval_loss"),
        metric: metric.to_owned(),
        eval_score: series(&format!("eval_{metric}")),
    };
    Ok(curve::draw(
        &curve,
        &run.dir.join("curve.svg"),
        &run.dir.join("curve.png"),
    )?)
}
