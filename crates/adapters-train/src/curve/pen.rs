//! Strokes, dots and words, in pixels of the finished picture.

use plotters::backend::DrawingBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind};
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE};

use super::picture::FONT;

/// Which side of a text its position is on. Vertically the position is always its middle.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Left,
    Center,
    Right,
}

type Failure<B> = DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>;
type Measured<B> = Result<f64, Failure<B>>;

pub(super) type Drawn<B> = Result<(), Failure<B>>;

/// How a backend draws, where the two differ.
#[derive(Clone, Copy)]
pub(super) struct Traits {
    /// How many times as large as the finished picture the area is.
    pub(super) scale: u32,
    /// Whether a path is drawn one stretch at a time, because a whole one would get spikes where it turns sharply.
    pub(super) in_stretches: bool,
    /// What the size of a text is multiplied by.
    pub(super) text_size: f64,
    /// How far a text must go down to have its figures centerd, in sizes.
    pub(super) text_drop: f64,
}

/// Draws on an area in pixels of the finished picture.
pub(super) struct Pen<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: f64,
    traits: Traits,
}

impl<'a, B: DrawingBackend> Pen<'a, B> {
    pub(super) fn new(area: &'a DrawingArea<B, Shift>, traits: Traits) -> Self {
        Self {
            area,
            scale: f64::from(traits.scale),
            traits,
        }
    }

    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }

    fn filled(color: RGBColor) -> ShapeStyle {
        color.filled()
    }

    pub(super) fn background(&self) -> Drawn<B> {
        self.area.fill(&WHITE)
    }

    /// A line with round joints and ends.
    pub(super) fn line(&self, points: &[(f64, f64)], width: f64, color: RGBColor) -> Drawn<B> {
        let mut positions: Vec<(i32, i32)> = points.iter().map(|&point| self.at(point)).collect();
        positions.dedup();
        if positions.len() < 2 {
            return Ok(());
        }
        let style = color.stroke_width((width * self.scale).round() as u32);
        if !self.traits.in_stretches {
            return self.area.draw(&PathElement::new(positions, style));
        }
        for stretch in positions.windows(2) {
            self.area.draw(&PathElement::new(stretch, style))?;
        }
        let radius = (width * self.scale / 2.0).floor() as i32;
        for &position in &positions {
            self.area.draw(&Circle::new(position, radius, Self::filled(color)))?;
        }
        Ok(())
    }

    /// A filled rectangle between two corners.
    pub(super) fn bar(&self, from: (f64, f64), to: (f64, f64), color: RGBColor) -> Drawn<B> {
        self.area
            .draw(&Rectangle::new([self.at(from), self.at(to)], Self::filled(color)))
    }

    /// A dot with a white rim, so that it stands off the line it is on.
    pub(super) fn dot(&self, position: (f64, f64), radius: f64, color: RGBColor) -> Drawn<B> {
        for (radius, color) in [(radius + 1.0, WHITE), (radius, color)] {
            let radius = (radius * self.scale).round() as i32;
            self.area
                .draw(&Circle::new(self.at(position), radius, Self::filled(color)))?;
        }
        Ok(())
    }

    pub(super) fn text(&self, text: &str, position: (f64, f64), side: Side, size: f64, color: RGBColor) -> Drawn<B> {
        let position = (position.0, position.1 + size * self.traits.text_drop);
        self.words(text, position, side, self.style(size, FontStyle::Normal, color))
    }

    pub(super) fn bold(&self, text: &str, position: (f64, f64), side: Side, size: f64, color: RGBColor) -> Drawn<B> {
        let position = (position.0, position.1 + size * self.traits.text_drop);
        self.words(text, position, side, self.style(size, FontStyle::Bold, color))
    }

    fn words(&self, text: &str, position: (f64, f64), side: Side, style: TextStyle<'_>) -> Drawn<B> {
        let side = match side {
            Side::Left => HPos::Left,
            Side::Center => HPos::Center,
            Side::Right => HPos::Right,
        };
        let style = style.pos(Pos::new(side, VPos::Center));
        self.area.draw(&Text::new(text, self.at(position), style))
    }

    fn style(&self, size: f64, weight: FontStyle, color: RGBColor) -> TextStyle<'static> {
        let mut style = TextStyle::from((FONT, size * self.scale * self.traits.text_size, weight).into_font());
        style.color = color.to_backend_color();
        style
    }

    /// How wide a text is.
    pub(super) fn width(&self, text: &str, size: f64) -> Measured<B> {
        self.measured(text, size, FontStyle::Normal)
    }

    /// How wide a bold text is.
    pub(super) fn bold_width(&self, text: &str, size: f64) -> Measured<B> {
        self.measured(text, size, FontStyle::Bold)
    }

    fn measured(&self, text: &str, size: f64, weight: FontStyle) -> Measured<B> {
        // Both backends draw what is measured here at this size: the SVG's factor only makes up for its smaller unit.
        let style = TextStyle::from((FONT, size * self.scale, weight).into_font());
        Ok(f64::from(self.area.estimate_text_size(text, &style)?.0) / self.scale)
    }

    /// As much of a bold text as fits.
    pub(super) fn fitted(&self, text: &str, size: f64, room: f64) -> Result<String, Failure<B>> {
        // No letter is narrower than a tenth of its height.
        let most = (10.0 * room / size) as usize;
        let mut kept: String = text.chars().take(most).collect();
        let mut shown = text.to_owned();
        if kept.len() < text.len() {
            shown = format!("{kept}…");
        }
        while self.bold_width(&shown, size)? > room && kept.pop().is_some() {
            shown = format!("{}…", kept.trim_end());
        }
        Ok(shown)
    }
}
