//! The picture of weights by layer: one line for each of several names.

use std::path::Path;

use plotters::backend::DrawingBackend;
use plotters::drawing::IntoDrawingArea;
use plotters::style::RGBColor;

use super::panel::{Line, Panel, Unit};
use super::pen::{Drawn, Pen, Traits};
use super::picture::{CurveError, Picture, WIDTH, draw_both, heading};
use super::series;

/// Weights, 0 to 1, of several names in each layer from the first on. Values that are not finite are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LayerWeights {
    /// The line above the panel.
    pub(crate) title: String,
    /// A name and its weight in each layer.
    pub(crate) lines: Vec<(String, Vec<f64>)>,
}

const COLORS: [RGBColor; 6] = [
    RGBColor(43, 102, 178),
    RGBColor(222, 110, 38),
    RGBColor(20, 138, 106),
    RGBColor(150, 74, 160),
    RGBColor(190, 155, 20),
    RGBColor(110, 118, 128),
];

/// Draws the picture to both files, each replaced atomically.
///
/// # Errors
///
/// As [`draw`](super::draw).
pub(crate) fn draw_layer_weights(weights: &LayerWeights, svg: &Path, png: &Path) -> Result<(), CurveError> {
    draw_both(weights, svg, png)
}

impl Picture for LayerWeights {
    fn paint<B: DrawingBackend>(&self, backend: B, traits: Traits) -> Drawn<B> {
        let area = backend.into_drawing_area();
        let pen = Pen::new(&area, traits);
        pen.background()?;
        let margin = 26.0;
        heading(&pen, &self.title, margin)?;
        let series: Vec<_> = self
            .lines
            .iter()
            .map(|(_, weights)| {
                let points: Vec<_> = weights
                    .iter()
                    .enumerate()
                    .map(|(layer, weight)| (layer as f64, *weight))
                    .collect();
                series::finite(&points)
            })
            .collect();
        let last = self.lines.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        let lines: Vec<Line<'_>> = self
            .lines
            .iter()
            .zip(&series)
            .zip(COLORS.into_iter().cycle())
            .filter(|((_, points), _)| !points.is_empty())
            .map(|(((name, _), points), color)| Line {
                name,
                points: points.clone(),
                color,
                width: 2.0,
                dots: true,
            })
            .collect();
        let panel = Panel {
            title: "Mean attention",
            left: margin,
            right: f64::from(WIDTH) - margin,
            steps: (0.0, last.saturating_sub(1).max(1) as f64),
            values: series::value_range(&series.iter().collect::<Vec<_>>(), Some(0.0), 0.0),
            unit: Unit::Percent,
            across: "layer",
        };
        panel.draw(&pen, &lines)?;
        area.present()
    }
}
