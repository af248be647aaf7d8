//! The picture of a run: losses on the left, validation accuracy on the right, as SVG and as PNG.
//!
//! Both come from the same drawing code, on a canvas measured in pixels of a 1000 x 420 picture. The bitmap is drawn
//! three times as large and averaged down, because the backend's thick lines have hard edges; the SVG is drawn four
//! times as large inside a view box, because the backend's coordinates are whole numbers.

mod panel;
mod pen;
mod series;
mod shares;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::drawing::IntoDrawingArea;
use plotters::style::{FontStyle, RGBColor};

use self::panel::{Line, Panel, Unit};
use self::pen::{Drawn, Pen, Side, Traits};
pub use self::shares::{Shares, draw_shares};
use adapters_store::atomic::{self, AtomicWriteError};

/// What a run has measured, as `(step, value)` in the order of the steps. Values that are not finite are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// The line above both panels.
    pub title: String,
    /// Training loss.
    pub train_loss: Vec<(f64, f64)>,
    /// Validation loss.
    pub eval_loss: Vec<(f64, f64)>,
    /// Validation accuracy, 0 to 1. The best is marked: the earliest, among equals.
    pub eval_accuracy: Vec<(f64, f64)>,
}

/// A picture could not be drawn or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CurveError {
    /// The font that comes with the program cannot be used.
    #[error("the built-in font cannot be read")]
    Font,
    /// The drawing library gave up.
    #[error("cannot draw {}: {reason}", path.display())]
    Draw {
        /// The picture.
        path: PathBuf,
        /// What the library said.
        reason: String,
    },
    /// The picture could not be written.
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
}

const WIDTH: u32 = 1000;
const HEIGHT: u32 = 420;

const FONT: &str = "DejaVu Sans";
/// What a viewer without that font takes instead; Verdana has nearly the same widths.
const FONT_FALLBACK: &str = "DejaVu Sans, Verdana, sans-serif";

/// The bitmap backend measures a font by its line height, the SVG backend by something larger.
const BITMAP: Traits = Traits {
    scale: 3,
    in_stretches: true,
    text_size: 1.0,
    text_drop: 0.1,
};
const VECTOR: Traits = Traits {
    scale: 4,
    in_stretches: false,
    text_size: 1.065,
    text_drop: 0.07,
};

const INK: RGBColor = RGBColor(38, 43, 51);
const TRAINING: RGBColor = RGBColor(43, 102, 178);
const TRAINING_RAW: RGBColor = RGBColor(190, 210, 235);
const VALIDATION: RGBColor = RGBColor(222, 110, 38);
const ACCURACY: RGBColor = RGBColor(20, 138, 106);

/// Draws the picture to both files, each replaced atomically.
///
/// # Errors
///
/// When a file cannot be written, or its name does not end in `.svg` or `.png` respectively.
pub fn draw(points: &Curve, svg: &Path, png: &Path) -> Result<(), CurveError> {
    draw_both(points, svg, png)
}

/// Something drawn on either canvas.
trait Picture {
    fn paint<B: DrawingBackend>(&self, backend: B, traits: Traits) -> Drawn<B>;
}

impl Picture for Curve {
    fn paint<B: DrawingBackend>(&self, backend: B, traits: Traits) -> Drawn<B> {
        paint(backend, traits, self)
    }
}

fn draw_both(picture: &impl Picture, svg: &Path, png: &Path) -> Result<(), CurveError> {
    register_font()?;
    draw_svg(picture, svg)?;
    draw_png(picture, png)
}

fn register_font() -> Result<(), CurveError> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = REGISTERED.get_or_init(|| {
        [
            (FontStyle::Normal, dejavu::sans::regular()),
            (FontStyle::Bold, dejavu::sans::bold()),
        ]
        .into_iter()
        .all(|(style, bytes)| plotters::style::register_font(FONT, style, bytes).is_ok())
    });
    if *registered { Ok(()) } else { Err(CurveError::Font) }
}

fn failed(path: &Path) -> impl Fn(&dyn Display) -> CurveError {
    move |reason| CurveError::Draw {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

fn draw_svg(picture: &impl Picture, path: &Path) -> Result<(), CurveError> {
    let (width, height) = (WIDTH * VECTOR.scale, HEIGHT * VECTOR.scale);
    let mut text = String::new();
    let backend = SVGBackend::with_string(&mut text, (width, height));
    picture.paint(backend, VECTOR).map_err(|error| failed(path)(&error))?;
    let size = format!("width=\"{width}\" height=\"{height}\"");
    let round = format!("width=\"{WIDTH}\" height=\"{HEIGHT}\" stroke-linejoin=\"round\" stroke-linecap=\"round\"");
    let text = text.replacen(&size, &round, 1).replace(
        &format!("font-family=\"{FONT}\""),
        &format!("font-family=\"{FONT_FALLBACK}\""),
    );
    Ok(atomic::write(path, text.as_bytes())?)
}

fn draw_png(picture: &impl Picture, path: &Path) -> Result<(), CurveError> {
    let size = (WIDTH * BITMAP.scale, HEIGHT * BITMAP.scale);
    let mut large = vec![0; size.0 as usize * size.1 as usize * 3];
    let backend = BitMapBackend::with_buffer(&mut large, size);
    picture.paint(backend, BITMAP).map_err(|error| failed(path)(&error))?;
    let small = averaged(&large, size.0 as usize, BITMAP.scale as usize);
    atomic::write_at(path, |temp| {
        let mut backend = BitMapBackend::new(temp, (WIDTH, HEIGHT));
        backend
            .blit_bitmap((0, 0), (WIDTH, HEIGHT), &small)
            .and_then(|()| backend.present())
            .map_err(|error| failed(path)(&error))
    })
}

/// The picture with every square of `scale` pixels a side replaced by its mean.
fn averaged(large: &[u8], width: usize, scale: usize) -> Vec<u8> {
    let row = width * 3;
    let count = scale * scale;
    let mut small = Vec::with_capacity(large.len() / count);
    for band in large.chunks_exact(row * scale) {
        for x in 0..width / scale {
            for color in 0..3 {
                let sum: usize = (0..count)
                    .map(|i| usize::from(band[(i / scale) * row + (x * scale + i % scale) * 3 + color]))
                    .sum();
                small.push(((sum + count / 2) / count) as u8);
            }
        }
    }
    small
}

/// The line above the panels.
fn heading<B: DrawingBackend>(pen: &Pen<'_, B>, title: &str, margin: f64) -> Drawn<B> {
    let title: String = title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let title = pen.fitted(&title, 19.0, f64::from(WIDTH) - 2.0 * margin)?;
    pen.bold(&title, (margin, 26.0), Side::Left, 19.0, INK)
}

fn paint<B: DrawingBackend>(backend: B, traits: Traits, points: &Curve) -> Drawn<B> {
    let area = backend.into_drawing_area();
    let pen = Pen::new(&area, traits);
    pen.background()?;

    let margin = 26.0;
    heading(&pen, &points.title, margin)?;

    let train = series::finite(&points.train_loss);
    let eval = series::finite(&points.eval_loss);
    let accuracy = series::finite(&points.eval_accuracy);
    // Both panels share the axis of steps, so that what lies above one another belongs together.
    let steps = series::step_range([&train, &eval, &accuracy]);

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
    let shares = series::value_range(&[&accuracy], None, ROOM_FOR_BEST);
    let line = Line {
        name: "validation",
        points: series::thinned(&accuracy),
        color: ACCURACY,
        width: 2.0,
        dots: true,
    };
    let right_end = f64::from(WIDTH) - margin;
    let right = Panel {
        title: "Accuracy",
        left: 526.0,
        right: right_end,
        steps,
        values: shares,
        unit: Unit::Percent,
        across: "step",
    };
    right.draw(
        &pen,
        if accuracy.is_empty() {
            &[]
        } else {
            std::slice::from_ref(&line)
        },
    )?;
    if let Some(best) = series::best(&accuracy) {
        right.mark_best(&pen, best, ACCURACY)?;
    }
    area.present()
}

#[cfg(test)]
mod tests;
