//! The picture of a confusion table: a row for each class, a column for each prediction.

use std::path::Path;

use plotters::backend::DrawingBackend;
use plotters::drawing::IntoDrawingArea;
use plotters::style::RGBColor;

use super::pen::{Drawn, Pen, Side, Traits};
use super::picture::{CurveError, HEIGHT, INK, Picture, WIDTH, draw_both, heading};
use crate::metrics::Confusion;

const MARGIN: f64 = 26.0;
/// Where the cells begin.
const LEFT: f64 = 190.0;
const TOP: f64 = 92.0;
const FULL: RGBColor = RGBColor(43, 102, 178);
const PALE: RGBColor = RGBColor(255, 255, 255);

struct Table<'a> {
    title: &'a str,
    confusion: &'a Confusion,
}

/// Draws how often each class was predicted for the examples of each class to both files, each replaced atomically. A cell is as dark
/// as its part of the row is large.
///
/// # Errors
///
/// [`CurveError`](super::CurveError).
pub fn draw_confusion(title: &str, confusion: &Confusion, svg: &Path, png: &Path) -> Result<(), CurveError> {
    draw_both(&Table { title, confusion }, svg, png)
}

impl Picture for Table<'_> {
    fn paint<B: DrawingBackend>(&self, backend: B, traits: Traits) -> Drawn<B> {
        let area = backend.into_drawing_area();
        let pen = Pen::new(&area, traits);
        pen.background()?;
        heading(&pen, self.title, MARGIN)?;
        let classes = self.confusion.labels().len().max(1) as f64;
        let (wide, high) = (
            (f64::from(WIDTH) - MARGIN - LEFT) / classes,
            (f64::from(HEIGHT) - MARGIN - TOP) / classes,
        );
        let size = (high * 0.6).clamp(6.0, 14.0);
        pen.text("predicted", (LEFT, 54.0), Side::Left, 12.0, INK)?;
        for (row, (label, counts)) in self.confusion.rows().enumerate() {
            let (top, middle) = (TOP + row as f64 * high, TOP + (row as f64 + 0.5) * high);
            let shown = pen.fitted(label, size, LEFT - MARGIN - 8.0)?;
            pen.text(&shown, (LEFT - 8.0, middle), Side::Right, size, INK)?;
            let column = LEFT + (row as f64 + 0.5) * wide;
            let shown = pen.fitted(label, size, wide - 2.0)?;
            pen.text(&shown, (column, TOP - 14.0), Side::Center, size, INK)?;
            let all = counts.iter().sum::<usize>().max(1) as f64;
            for (at, count) in counts.iter().enumerate() {
                let (left, part) = (LEFT + at as f64 * wide, *count as f64 / all);
                // A gap between cells.
                let (from, to) = ((left + 0.5, top + 0.5), (left + wide - 0.5, top + high - 0.5));
                pen.bar(from, to, between(PALE, FULL, 0.06 + 0.94 * part))?;
                let ink = if part > 0.5 { PALE } else { INK };
                let position = (left + wide / 2.0, middle);
                pen.text(&count.to_string(), position, Side::Center, size, ink)?;
            }
        }
        area.present()
    }
}

/// The color at a part of the way.
fn between(from: RGBColor, to: RGBColor, part: f64) -> RGBColor {
    let of = |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * part).round() as u8;
    RGBColor(of(from.0, to.0), of(from.1, to.1), of(from.2, to.2))
}
