//! What is known of a run while it trains.

use std::time::{Duration, Instant};

use adapters::train::{Evaluation, Event};
use indicatif::HumanDuration;

/// Points of a curve; one that has more is thinned out.
const POINTS: usize = 1024;

/// A run as far as it is.
pub(super) struct RunState {
    /// Steps in all.
    pub(super) steps: u64,
    /// Steps done.
    pub(super) step: u64,
    /// The loss, smoothed so that the figure can be read.
    pub(super) loss: f64,
    /// Learning rate of the adapter.
    pub(super) learning_rate: f64,
    /// The smoothed loss by step.
    pub(super) losses: Vec<(f64, f64)>,
    /// The first figure of the evaluations by step, and its name.
    pub(super) figures: (String, Vec<(f64, f64)>),
    /// The last evaluation that was the best.
    pub(super) best: Option<(u64, f64)>,
    /// Where the steps of this process began, and when.
    began: (u64, Instant),
}

impl RunState {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self {
            steps: 0,
            step: 0,
            loss: f64::NAN,
            learning_rate: f64::NAN,
            losses: Vec::new(),
            figures: ("loss".to_owned(), Vec::new()),
            best: None,
            began: (0, Instant::now()),
        }
    }

    /// Takes an event in.
    pub(super) fn see(&mut self, event: &Event) {
        match event {
            Event::Ready { steps, .. } => {
                (self.steps, self.step) = (*steps, 0);
                self.began = (0, Instant::now());
            }
            Event::Stage { .. } => *self = Self::new(),
            Event::Resumed { step } => {
                self.step = *step;
                self.began = (*step, Instant::now());
            }
            Event::Step {
                step,
                loss,
                learning_rate,
            } => {
                self.loss = match self.loss.is_nan() {
                    true => *loss,
                    false => 0.95 * self.loss + 0.05 * loss,
                };
                (self.step, self.learning_rate) = (*step, *learning_rate);
                self.losses.push((*step as f64, self.loss));
                if self.losses.len() > POINTS {
                    let mut index = 0;
                    self.losses.retain(|_| {
                        index += 1;
                        index % 2 == 0
                    });
                }
            }
            Event::Evaluated { step, evaluation, best } => {
                let (name, value) = first_figure(evaluation);
                self.figures.0 = name;
                self.figures.1.push((*step as f64, value));
                if *best {
                    self.best = Some((*step, value));
                }
            }
            _ => {}
        }
    }

    /// Time since the first step of this process began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.1.elapsed()
    }

    /// Steps in a second, of this process.
    pub(super) fn steps_a_second(&self) -> Option<f64> {
        let done = self.step.saturating_sub(self.began.0);
        (done > 0).then(|| done as f64 / self.elapsed().as_secs_f64().max(1e-9))
    }

    /// The time that is left at the speed so far.
    pub(super) fn left(&self) -> String {
        match self.steps_a_second() {
            Some(speed) => {
                let seconds = self.steps.saturating_sub(self.step) as f64 / speed;
                format!("{} left", HumanDuration(Duration::from_secs_f64(seconds)))
            }
            None => "time left not known yet".to_owned(),
        }
    }

    /// The state in a line.
    pub(super) fn line(&self) -> String {
        let loss = match self.loss.is_nan() {
            true => String::new(),
            false => format!("loss {:.4}, lr {:.2e}, ", self.loss, self.learning_rate),
        };
        format!("step {}/{}: {loss}{}", self.step, self.steps, self.left())
    }
}

/// The first figure of an evaluation; its loss where it has no other.
fn first_figure(evaluation: &Evaluation) -> (String, f64) {
    let first = evaluation.figures.values.first();
    first.map_or_else(
        || ("loss".to_owned(), evaluation.loss),
        |(name, value)| ((*name).to_string(), *value),
    )
}
