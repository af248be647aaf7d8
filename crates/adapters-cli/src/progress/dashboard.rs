//! A run as a picture in the terminal: curves of the loss and of the validation, speed and time left.

use std::io::{Stderr, stderr};

use indicatif::HumanDuration;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, LineGauge, Paragraph, Widget, Wrap};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use crate::failure::Failure;
use crate::progress::run_state::RunState;

/// Lines of the terminal.
const HEIGHT: u16 = 16;

/// The lower part of the terminal; what is said goes above it, as without.
pub(super) struct Dashboard {
    terminal: Terminal<CrosstermBackend<Stderr>>,
}

impl Dashboard {
    /// Takes the lower part of the terminal on standard error.
    pub(super) fn new() -> Result<Self, Failure> {
        let options = TerminalOptions {
            viewport: Viewport::Inline(HEIGHT),
        };
        let terminal = Terminal::with_options(CrosstermBackend::new(stderr()), options);
        let terminal = terminal.map_err(|e| {
            Failure::new(
                format!("the terminal cannot show a dashboard: {e}"),
                "train without --tui",
            )
        })?;
        Ok(Self { terminal })
    }

    /// Shows a state. A terminal that went away does not end a run.
    pub(super) fn show(&mut self, state: &RunState) {
        let _ = self.terminal.draw(|frame| draw(state, frame));
    }

    /// A line above.
    pub(super) fn say(&mut self, text: &str) {
        let width = self.terminal.get_frame().area().width.max(1);
        let height = text.chars().count().div_ceil(usize::from(width)).max(1);
        let _ = self
            .terminal
            .insert_before(height.try_into().unwrap_or(HEIGHT), |buffer| {
                Paragraph::new(text)
                    .wrap(Wrap { trim: false })
                    .render(buffer.area, buffer);
            });
    }
}

impl Drop for Dashboard {
    /// Leaves the last picture, and the cursor below it.
    fn drop(&mut self) {
        let area = self.terminal.get_frame().area();
        let below = Position::new(0, area.bottom().saturating_sub(1));
        let _ = self.terminal.set_cursor_position(below);
        let _ = self.terminal.show_cursor();
        note!("");
    }
}

/// Draws a state.
fn draw(state: &RunState, frame: &mut Frame<'_>) {
    let [gauge, curves, speed] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(4), Constraint::Length(1)]).areas(frame.area());
    let ratio = state.step as f64 / state.steps.max(1) as f64;
    let label = format!("step {}/{}", state.step, state.steps);
    let filled = Style::default().fg(Color::Cyan);
    frame.render_widget(
        LineGauge::default()
            .ratio(ratio.clamp(0.0, 1.0))
            .label(label)
            .filled_style(filled),
        gauge,
    );
    let [left, right] = Layout::horizontal([Constraint::Ratio(1, 2); 2]).areas(curves);
    let (name, figures) = &state.figures;
    curve(frame, left, "training loss", state.steps, &state.losses, Color::Yellow);
    curve(
        frame,
        right,
        &format!("validation {name}"),
        state.steps,
        figures,
        Color::Green,
    );
    let mut words = Vec::new();
    if !state.loss.is_nan() {
        words.push(format!("loss {:.4}", state.loss));
        words.push(format!("lr {:.2e}", state.learning_rate));
    }
    if let Some(speed) = state.steps_a_second() {
        words.push(format!("{speed:.2} steps/s"));
    }
    if let Some((step, value)) = state.best {
        words.push(format!("best {name} {value:.4} at step {step}"));
    }
    words.push(HumanDuration(state.elapsed()).to_string());
    words.push(state.left());
    frame.render_widget(Line::raw(words.join("  ")), speed);
    // It stays visible: the program may be interrupted at any moment.
    frame.set_cursor_position(Position::new(speed.x, speed.y));
}

/// Draws a curve over the steps.
fn curve(frame: &mut Frame<'_>, area: Rect, title: &str, steps: u64, points: &[(f64, f64)], color: Color) {
    let finite = points.iter().map(|point| point.1).filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let (low, high) = match low <= high {
        true if high - low > 1e-9 => (low, high),
        true => (low - 0.5, high + 0.5),
        false => (0.0, 1.0),
    };
    let last = points
        .last()
        .map(|(_, value)| format!(" {value:.4}"))
        .unwrap_or_default();
    let dataset = Dataset::default()
        .marker(Marker::Braille)
        .graph_type(GraphType::Line)
        .style(Style::default().fg(color))
        .data(points);
    let x = Axis::default()
        .bounds([0.0, steps.max(1) as f64])
        .labels(["0".to_owned(), steps.to_string()]);
    let y = Axis::default()
        .bounds([low, high])
        .labels([format!("{low:.3}"), format!("{high:.3}")]);
    let block = Block::bordered().title(format!("{title}{last}"));
    frame.render_widget(Chart::new(vec![dataset]).block(block).x_axis(x).y_axis(y), area);
}

#[cfg(test)]
mod tests {
    use adapters::train::Event;
    use ratatui::backend::TestBackend;

    use super::*;

    fn shown(state: &RunState, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(state, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(row).collect()
    }

    fn step(step: u64, loss: f64) -> Event {
        Event::Step {
            step,
            loss,
            learning_rate: 1e-3,
        }
    }

    #[test]
    fn it_shows_loss_speed_and_time_left() {
        let mut state = RunState::new();
        let before = shown(&state, 100, HEIGHT);
        assert!(before[0].contains("step 0/0"), "{before:#?}");
        assert!(before[15].contains("time left not known yet"), "{before:#?}");

        state.steps = 200;
        (1..=50).for_each(|index| state.see(&step(index, 2.0 - index as f64 / 50.0)));
        let lines = shown(&state, 100, HEIGHT);
        assert!(lines[0].contains("step 50/200"), "{lines:#?}");
        assert!(
            lines[1].contains("training loss 1.") && lines[1].contains("validation loss"),
            "{lines:#?}"
        );
        for part in ["loss 1.", "lr 1.00e-3", "steps/s", " left"] {
            assert!(lines[15].contains(part), "{part}: {lines:#?}");
        }
        // The curve is in the left half: it falls, so that its begin is above its end.
        let dots = |line: &String| line.chars().take(50).any(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
        let first = lines.iter().position(dots).unwrap();
        assert!(
            first <= 3 && lines.iter().filter(|line| dots(line)).count() > 4,
            "{lines:#?}"
        );
    }

    #[test]
    fn it_fits_any_terminal_and_any_loss() {
        let mut state = RunState::new();
        for (index, loss) in [f64::NAN, f64::INFINITY, 1e300, -1.0].into_iter().enumerate() {
            state.see(&step(index as u64, loss));
            for (width, height) in [(1, 1), (20, 3), (200, 50)] {
                assert_eq!(shown(&state, width, height).len(), usize::from(height));
            }
        }
    }
}
