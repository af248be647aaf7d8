//! One of the picture's two charts: axes, lines, legend.

use plotters::backend::DrawingBackend;
use plotters::style::{RGBColor, WHITE};

use super::pen::{Drawn, Pen, Side};
use super::picture::{HEIGHT, INK};

const GRID: RGBColor = RGBColor(232, 235, 239);
const AXIS: RGBColor = RGBColor(176, 182, 190);
const QUIET: RGBColor = RGBColor(98, 106, 117);

const HEADER: f64 = 64.0;
const TOP: f64 = 88.0;
const BOTTOM: f64 = HEIGHT as f64 - 52.0;
/// Left of the frame, for the values.
const GUTTER: f64 = 46.0;
const SMALL: f64 = 13.0;

/// A line of a chart.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) color: RGBColor,
    pub(super) width: f64,
    /// Whether each point is marked, if there are few.
    pub(super) dots: bool,
}

/// How a chart's values are written.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Plain,
    /// 0 to 1, shown as 0 % to 100 %.
    Percent,
}

/// A chart between two sides, for the given ranges.
pub(super) struct Panel<'a> {
    pub(super) title: &'a str,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) steps: (f64, f64),
    pub(super) values: (f64, f64),
    pub(super) unit: Unit,
    /// What the steps are called.
    pub(super) across: &'static str,
}

impl Panel<'_> {
    fn start(&self) -> f64 {
        self.left + GUTTER
    }

    /// Where a point lies; a value outside the range lies on its edge.
    fn position(&self, (step, value): (f64, f64)) -> (f64, f64) {
        let along = |x: f64, (low, high): (f64, f64)| ((x - low) / (high - low)).clamp(0.0, 1.0);
        let x = self.start() + along(step, self.steps) * (self.right - self.start());
        let y = BOTTOM - along(value, self.values) * (BOTTOM - TOP);
        (x, y)
    }

    pub(super) fn draw<B: DrawingBackend>(&self, pen: &Pen<'_, B>, lines: &[Line<'_>]) -> Drawn<B> {
        pen.bold(self.title, (self.left, HEADER), Side::Left, 14.5, INK)?;
        self.axes(pen)?;
        self.legend(pen, lines)?;
        if lines.is_empty() {
            let middle = ((self.start() + self.right) / 2.0, (TOP + BOTTOM) / 2.0);
            return pen.text("nothing measured yet", middle, Side::Center, 14.5, QUIET);
        }
        for line in lines {
            let positions: Vec<_> = line.points.iter().map(|&point| self.position(point)).collect();
            if positions.len() > 1 {
                pen.line(&positions, line.width, line.color)?;
            }
            if positions.len() == 1 || line.dots && positions.len() <= 25 {
                for &position in &positions {
                    pen.dot(position, 3.2, line.color)?;
                }
            }
        }
        Ok(())
    }

    fn axes<B: DrawingBackend>(&self, pen: &Pen<'_, B>) -> Drawn<B> {
        let (factor, suffix) = match self.unit {
            Unit::Plain => (1.0, ""),
            Unit::Percent => (100.0, " %"),
        };
        let (ticks, tick) = ticks((self.values.0 * factor, self.values.1 * factor), 6);
        // There is room above 100 %, and no such value.
        let is_possible = |value: &f64| matches!(self.unit, Unit::Plain) || (0.0..=100.0).contains(value);
        for value in ticks.into_iter().filter(is_possible) {
            let y = self.position((self.steps.0, value / factor)).1.round();
            pen.bar((self.start(), y), (self.right, y + 1.0), GRID)?;
            let text = format!("{}{suffix}", number(value, tick));
            pen.text(&text, (self.start() - 8.0, y), Side::Right, SMALL, QUIET)?;
        }
        pen.bar((self.start(), BOTTOM), (self.right, BOTTOM + 1.0), AXIS)?;
        let (ticks, tick) = self::ticks(self.steps, 6);
        for step in ticks.into_iter().filter(|step| step.fract() == 0.0) {
            let x = self.position((step, self.values.0)).0.round();
            pen.bar((x, BOTTOM), (x + 1.0, BOTTOM + 5.0), AXIS)?;
            pen.text(
                &number(step, tick.max(1.0)),
                (x, BOTTOM + 15.0),
                Side::Center,
                SMALL,
                QUIET,
            )?;
        }
        let middle = (self.start() + self.right) / 2.0;
        pen.text(self.across, (middle, BOTTOM + 35.0), Side::Center, SMALL, QUIET)
    }

    /// From right to left in the header, so that it ends where the frame ends.
    fn legend<B: DrawingBackend>(&self, pen: &Pen<'_, B>, lines: &[Line<'_>]) -> Drawn<B> {
        const SWATCH: f64 = 20.0;
        let mut x = self.right;
        for line in lines.iter().rev() {
            pen.text(line.name, (x, HEADER), Side::Right, SMALL, QUIET)?;
            x -= pen.width(line.name, SMALL)? + 7.0;
            pen.line(&[(x - SWATCH, HEADER), (x, HEADER)], line.width + 0.6, line.color)?;
            if line.dots {
                pen.dot((x - SWATCH / 2.0, HEADER), 3.2, line.color)?;
            }
            x -= SWATCH + 16.0;
        }
        Ok(())
    }

    /// A large dot on the best point and a word about it, next to the line where there is room.
    pub(super) fn mark_best<B: DrawingBackend>(&self, pen: &Pen<'_, B>, best: (f64, f64), color: RGBColor) -> Drawn<B> {
        let position = self.position(best);
        pen.dot(position, 6.0, color)?;
        pen.dot(position, 2.0, WHITE)?;
        let value = match self.unit {
            Unit::Plain => format!("{:.3}", best.1),
            Unit::Percent => format!("{:.1} %", best.1 * 100.0),
        };
        let text = format!("best {value} at step {}", best.0);
        let half = pen.bold_width(&text, SMALL)? / 2.0;
        let x = position.0.min(self.right - half).max(self.start() + half + 6.0);
        let y = if position.1 - TOP > 24.0 {
            position.1 - 17.0
        } else {
            position.1 + 19.0
        };
        pen.bold(&text, (x, y), Side::Center, SMALL, color)
    }
}

/// Round numbers within a range, about `count` of them, and the distance between two.
fn ticks((low, high): (f64, f64), count: u32) -> (Vec<f64>, f64) {
    let rough = (high - low) / f64::from(count.max(1));
    let power = 10f64.powf(rough.log10().floor());
    let tick = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|tick| *tick >= rough * 0.999);
    let tick = tick.filter(|tick| tick.is_normal()).unwrap_or(high - low);
    let first = (low / tick - 1e-9).ceil();
    let last = (high / tick + 1e-9).floor();
    let number = (last - first).clamp(0.0, 20.0) as u32;
    // Zero is written without a sign.
    (
        (0..=number).map(|i| (first + f64::from(i)) * tick + 0.0).collect(),
        tick,
    )
}

/// A number with as many decimals as ticks this far apart need.
fn number(value: f64, tick: f64) -> String {
    let decimals = |tick: f64| (-(tick.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize;
    let size = value.abs();
    let (unit, letter) = match size {
        1e12.. => return format!("{value:.2e}"),
        1e9.. => (1e9, "G"),
        1e6.. => (1e6, "M"),
        1e4.. => (1e3, "k"),
        _ if tick < 1e-4 && size > 0.0 => return format!("{value:.1e}"),
        _ => (1.0, ""),
    };
    format!("{:.*}{letter}", decimals(tick / unit), value / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(range: (f64, f64)) -> Vec<String> {
        let (ticks, tick) = ticks(range, 6);
        ticks.into_iter().map(|value| number(value, tick)).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels((0.0, 0.83)), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(labels((81.0, 92.3)), ["82", "84", "86", "88", "90", "92"]);
        assert_eq!(
            labels((0.0, 3000.0)),
            ["0", "500", "1000", "1500", "2000", "2500", "3000"]
        );
        assert_eq!(labels((0.0, 31250.0)), ["0", "10k", "20k", "30k"]);
        assert_eq!(labels((-0.1, 0.1)).join(" "), "-0.10 -0.05 0.00 0.05 0.10");
    }

    #[test]
    fn any_range_has_a_few_ticks() {
        for (low, high) in [
            (0.0, 1.0),
            (0.0, 1e-12),
            (1e14, 1.0001e14),
            (-1e15, 1e15),
            (0.5 - 1e-6, 0.5 + 1e-6),
        ] {
            let (ticks, tick) = ticks((low, high), 6);
            assert!((2..=13).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            assert!(tick > 0.0 && ticks.iter().all(|value| value.is_finite()));
            assert!(ticks.iter().all(|&value| number(value, tick).len() < 20));
        }
    }
}
