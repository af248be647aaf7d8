//! The picture of a run: losses on the left, the metric on the validation data on the right, as SVG and as PNG.
//!
//! Both come from the same drawing code, on a canvas measured in pixels of a 1000 x 420 picture. The bitmap is drawn
//! three times as large and scaled down, because the backend's thick lines have hard edges; the SVG is drawn four
//! times as large inside a view box, because the backend's coordinates are whole numbers.

mod layer_weights;
mod panel;
mod pen;
mod picture;
mod series;
mod table;

use std::path::Path;

use plotters::backend::DrawingBackend;
use plotters::drawing::IntoDrawingArea;
use plotters::style::RGBColor;

pub(crate) use self::layer_weights::{LayerWeights, draw_layer_weights};
use self::panel::{Line, Panel, Unit};
use self::pen::{Drawn, Pen, Traits};
pub use self::picture::CurveError;
use self::picture::{Picture, WIDTH, draw_both, heading};
pub use self::table::draw_confusion;

/// What a run has measured, as `(step, value)` in the order of the steps. Values that are not finite are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Curve {
    /// The line above both panels.
    pub(crate) title: String,
    /// Training loss.
    pub(crate) train_loss: Vec<(f64, f64)>,
    /// Validation loss.
    pub(crate) eval_loss: Vec<(f64, f64)>,
    /// Name of the metric, of which more is better.
    pub(crate) metric: String,
    /// The metric on the validation data. The best is marked: the earliest, among equals.
    pub(crate) eval_score: Vec<(f64, f64)>,
}

const TRAINING: RGBColor = RGBColor(43, 102, 178);
const TRAINING_RAW: RGBColor = RGBColor(190, 210, 235);
const VALIDATION: RGBColor = RGBColor(222, 110, 38);
const SCORE: RGBColor = RGBColor(20, 138, 106);

/// Draws the picture to both files, each replaced atomically.
///
/// # Errors
///
/// When a file cannot be written, or its name does not end in `.svg` or `.png` respectively.
pub(crate) fn draw(points: &Curve, svg: &Path, png: &Path) -> Result<(), CurveError> {
    draw_both(points, svg, png)
}

impl Picture for Curve {
    fn paint<B: DrawingBackend>(&self, backend: B, traits: Traits) -> Drawn<B> {
        paint(backend, traits, self)
    }
}

fn paint<B: DrawingBackend>(backend: B, traits: Traits, points: &Curve) -> Drawn<B> {
    let area = backend.into_drawing_area();
    let pen = Pen::new(&area, traits);
    pen.background()?;

    let margin = 26.0;
    heading(&pen, &points.title, margin)?;

    let train = series::finite(&points.train_loss);
    let eval = series::finite(&points.eval_loss);
    let score = series::finite(&points.eval_score);
    // Both panels share the axis of steps, so that what lies above one another belongs together.
    let steps = series::step_range([&train, &eval, &score]);

    let smooth = series::smoothed(&train);
    let is_smoothed = smooth.len() >= 2 && smooth != train;
    let losses = series::value_range(&[&smooth, &eval, &series::without_outliers(&train)], Some(0.0), 0.0);
    let train_name = if is_smoothed { "training (smoothed)" } else { "training" };
    let mut lines = vec![
        Line {
            name: train_name,
            points: series::thinned(&smooth),
            color: TRAINING,
            width: 2.0,
            dots: false,
        },
        Line {
            name: "validation",
            points: series::thinned(&eval),
            color: VALIDATION,
            width: 2.0,
            dots: true,
        },
    ];
    if is_smoothed {
        let points = series::thinned(&train);
        lines.insert(
            0,
            Line {
                name: "training",
                points,
                color: TRAINING_RAW,
                width: 1.0,
                dots: false,
            },
        );
    }
    lines.retain(|line| !line.points.is_empty());
    let left = Panel {
        title: "Loss",
        left: margin,
        right: 488.0,
        steps,
        values: losses,
        unit: Unit::Plain,
        across: "step",
    };
    left.draw(&pen, &lines)?;

    // Above the line, for the words about its best point.
    const ROOM_FOR_BEST: f64 = 0.14;
    let scores = series::value_range(&[&score], None, ROOM_FOR_BEST);
    let line = Line {
        name: "validation",
        points: series::thinned(&score),
        color: SCORE,
        width: 2.0,
        dots: true,
    };
    let (title, unit) = match points.metric.as_str() {
        "accuracy" => ("Accuracy", Unit::Percent),
        metric => (metric, Unit::Plain),
    };
    let right_end = f64::from(WIDTH) - margin;
    let right = Panel {
        title,
        left: 526.0,
        right: right_end,
        steps,
        values: scores,
        unit,
        across: "step",
    };
    right.draw(
        &pen,
        if score.is_empty() {
            &[]
        } else {
            std::slice::from_ref(&line)
        },
    )?;
    if let Some(best) = series::best(&score) {
        right.mark_best(&pen, best, SCORE)?;
    }
    area.present()
}

#[cfg(test)]
mod tests;
