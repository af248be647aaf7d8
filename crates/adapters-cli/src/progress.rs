//! A run's progress on standard error: a bar on a terminal, lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use adapters::train::{Evaluation, Event};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows the events of a run.
pub struct Progress {
    bar: Option<ProgressBar>,
    steps: u64,
    last_line: Instant,
    loss: f64,
    /// Where the steps of this process began, and when.
    began: (u64, Instant),
    /// The largest class of the training data and its fraction.
    majority: Option<(String, f64)>,
}

/// Classes that are listed.
const LISTED: usize = 12;

/// Without a terminal, a line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// A bar if standard error is a terminal.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:32} {pos}/{len} steps, {elapsed}, {eta} left  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self {
            bar,
            steps: 0,
            last_line: Instant::now(),
            loss: f64::NAN,
            began: (0, Instant::now()),
            majority: None,
        }
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Ready {
                steps,
                batch_size,
                trainable_params,
                total_params,
                classes,
                attached,
            } => {
                self.steps = *steps;
                self.began = (0, Instant::now());
                if let Some(bar) = &self.bar {
                    bar.set_length(*steps);
                }
                let percent = *trainable_params as f64 / *total_params as f64 * 100.0;
                self.line(attached);
                if !classes.is_empty() {
                    let counts = classes
                        .iter()
                        .take(LISTED)
                        .map(|(name, count)| format!("{count} of class {name}"));
                    let more = match classes.len().saturating_sub(LISTED) {
                        0 => String::new(),
                        more => format!(" and {more} more classes"),
                    };
                    self.line(&format!(
                        "training examples: {}{more}",
                        counts.collect::<Vec<_>>().join(", ")
                    ));
                    for (name, _) in classes.iter().filter(|(_, count)| *count == 0) {
                        self.line(&format!("warning: no training example has the class {name}"));
                    }
                    let all: usize = classes.iter().map(|(_, count)| count).sum();
                    let largest = classes.iter().max_by_key(|(_, count)| *count);
                    self.majority = largest.map(|(name, count)| (name.clone(), *count as f64 / all.max(1) as f64));
                }
                self.line(&format!(
                    "{trainable_params} of {total_params} parameters train ({percent:.2} %), {steps} steps, {batch_size} rows a batch"
                ));
            }
            Event::Stage { name, index, of } => {
                self.loss = f64::NAN;
                self.line(&format!("{} of {of}: {name}", index + 1));
            }
            Event::Resumed { step } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(*step);
                    bar.reset_eta();
                }
                self.began = (*step, Instant::now());
                self.line(&format!("resuming after step {step}"));
            }
            Event::Step {
                step,
                loss,
                learning_rate,
            } => {
                // Smoothed, so that the figure can be read.
                self.loss = if self.loss.is_nan() {
                    *loss
                } else {
                    0.95 * self.loss + 0.05 * loss
                };
                let message = format!("loss {:.4}, lr {learning_rate:.2e}", self.loss);
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(*step);
                        bar.set_message(message);
                    }
                    None if self.last_line.elapsed() >= LINE_EVERY => {
                        self.last_line = Instant::now();
                        note!("step {step}/{}: {message}, {} left", self.steps, self.left(*step));
                    }
                    None => {}
                }
            }
            Event::Evaluated { step, evaluation, best } => {
                self.line(&format!(
                    "step {step}: validation {}{}",
                    figures(evaluation),
                    if *best { ", the best so far" } else { "" },
                ));
                if let Some((name, fraction)) = &self.majority
                    && *step == self.steps
                    && let Some(accuracy) = evaluation.figure("accuracy")
                    && accuracy <= *fraction
                {
                    self.line(&format!(
                        "warning: this is no better than to answer {name} always, right for {fraction:.4} of the training \
                         examples; try more epochs or a lower `train.learning_rate`"
                    ));
                }
            }
            Event::StoppedEarly { step } => self.line(&format!("stopped early after step {step}")),
            Event::Tested { evaluation } => self.line(&format!("test {}", figures(evaluation))),
            _ => {}
        }
    }

    /// The time that is left at the speed so far.
    fn left(&self, step: u64) -> String {
        let (first, began) = self.began;
        let done = step.saturating_sub(first).max(1);
        let seconds = began.elapsed().as_secs_f64() / done as f64 * self.steps.saturating_sub(step) as f64;
        HumanDuration(Duration::from_secs_f64(seconds)).to_string()
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note!("{text}")),
            None => note!("{text}"),
        }
    }
}

/// The figures of an evaluation in a line.
fn figures(evaluation: &Evaluation) -> String {
    let values = evaluation.figures.values.iter();
    let others = values.map(|(name, value)| format!(", {name} {value:.4}"));
    format!("loss {:.4}{}", evaluation.loss, others.collect::<String>())
}
