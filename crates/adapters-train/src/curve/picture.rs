//! What is drawn twice, as SVG and as PNG, and the measures of both.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use adapters_store::atomic::{self, AtomicWriteError};
use image::{DynamicImage, ImageFormat, RgbImage};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::{FontStyle, RGBColor};

use super::pen::{Drawn, Pen, Side, Traits};

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

pub(super) const WIDTH: u32 = 1000;
pub(super) const HEIGHT: u32 = 420;

pub(super) const FONT: &str = "DejaVu Sans";
pub(super) const INK: RGBColor = RGBColor(38, 43, 51);

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

/// Something drawn on either canvas.
pub(super) trait Picture {
    fn paint<B: DrawingBackend>(&self, backend: B, traits: Traits) -> Drawn<B>;
}

pub(super) fn draw_both(picture: &impl Picture, svg: &Path, png: &Path) -> Result<(), CurveError> {
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
    let mut large = RgbImage::new(size.0, size.1);
    let backend = BitMapBackend::with_buffer(&mut large, size);
    picture.paint(backend, BITMAP).map_err(|error| failed(path)(&error))?;
    let small = DynamicImage::from(large).thumbnail_exact(WIDTH, HEIGHT);
    atomic::write_at(path, |temp| {
        let written = small.save_with_format(temp, ImageFormat::Png);
        written.map_err(|error| failed(path)(&error))
    })
}

/// The line above the panels.
pub(super) fn heading<B: DrawingBackend>(pen: &Pen<'_, B>, title: &str, margin: f64) -> Drawn<B> {
    let title: String = title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let title = pen.fitted(&title, 19.0, f64::from(WIDTH) - 2.0 * margin)?;
    pen.bold(&title, (margin, 26.0), Side::Left, 19.0, INK)
}
