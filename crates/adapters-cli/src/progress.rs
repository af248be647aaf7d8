//! A run's progress on standard error: a bar or a dashboard on a terminal, lines otherwise.

#[cfg(feature = "tui")]
mod dashboard;
mod run_state;
#[cfg(feature = "hub")]
mod transfer;

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use adapters::train::{Evaluation, Event};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;
#[cfg(feature = "tui")]
use crate::output::printable;
use run_state::RunState;
#[cfg(feature = "hub")]
pub(crate) use transfer::Transfer;

/// Classes that are listed.
const LISTED: usize = 12;

/// Without a terminal, a line this often, even if nothing has happened.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// On a terminal, how often the time is shown again.
const TICK: Duration = Duration::from_secs(1);

/// Shows the events of a run.
pub(crate) struct Progress {
    shown: Arc<Mutex<Shown>>,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
    baseline: Option<Baseline>,
}

/// What is reached without reading the inputs, by the classes of the training data alone.
struct Baseline {
    /// The largest class, and its fraction: the accuracy of always predicting it.
    majority: (String, f64),
    /// The loss of giving each class the same probability.
    loss: f64,
}

impl Baseline {
    fn new(classes: &[(String, usize)]) -> Option<Self> {
        let all: usize = classes.iter().map(|(_, count)| count).sum();
        let (name, count) = classes.iter().max_by_key(|(_, count)| *count)?;
        Some(Self {
            majority: (name.clone(), *count as f64 / all.max(1) as f64),
            loss: (classes.len() as f64).ln(),
        })
    }

    /// What is wrong with a model that was trained to its last step, if anything is.
    fn warning(&self, accuracy: f64, loss: f64) -> Option<String> {
        let (name, fraction) = &self.majority;
        if accuracy <= *fraction {
            return Some(format!(
                "warning: this is no better than always predicting {name}, which is right for {fraction:.4} of the training \
                 examples; try more epochs or a lower `train.learning_rate`"
            ));
        }
        (loss >= self.loss).then(|| {
            format!(
                "warning: the loss is no better than {:.4}, that of guessing among the classes; try a lower \
                 `train.learning_rate`",
                self.loss
            )
        })
    }
}

/// A run and where it is shown.
struct Shown {
    state: RunState,
    screen: Screen,
}

/// Where a run is shown.
enum Screen {
    /// Lines through a function, the last one at a time.
    Lines {
        say: Box<dyn FnMut(&str) + Send>,
        last: Instant,
        every: Duration,
    },
    Bar(ProgressBar),
    #[cfg(feature = "tui")]
    Dashboard(Box<dashboard::Dashboard>),
}

impl Progress {
    /// On a terminal a bar, or where it is asked for, a dashboard; else lines.
    pub(crate) fn new(dashboard: bool) -> Result<Self, Failure> {
        let screen = match std::io::stderr().is_terminal() {
            false => Screen::Lines {
                say: Box::new(|text| note!("{text}")),
                last: Instant::now(),
                every: LINE_EVERY,
            },
            true if dashboard => Screen::dashboard()?,
            true => {
                let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("{bar:32} {pos}/{len} steps, {elapsed}, {eta} left  {msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                Screen::Bar(bar)
            }
        };
        Ok(Self::on(screen))
    }

    /// On a screen, which another thread keeps up to date while a step takes its time.
    fn on(screen: Screen) -> Self {
        let tick = match &screen {
            Screen::Lines { every, .. } => *every,
            _ => TICK,
        };
        let shown = Arc::new(Mutex::new(Shown {
            state: RunState::new(),
            screen,
        }));
        let (stop, stopped) = channel();
        let of_thread = Arc::clone(&shown);
        let thread = thread::spawn(move || {
            let mut wait = tick;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = lock(&of_thread).tick(tick);
            }
        });
        Self {
            shown,
            ticker: Some((stop, thread)),
            baseline: None,
        }
    }

    /// Shows one event.
    pub(crate) fn show(&mut self, event: &Event) {
        lock(&self.shown).state.see(event);
        match event {
            Event::Ready {
                steps,
                batch_size,
                trainable_params,
                total_params,
                classes,
                truncated,
                attached,
            } => {
                let percent = *trainable_params as f64 / *total_params as f64 * 100.0;
                self.line(attached);
                let cut = truncated.to_string();
                if !cut.is_empty() {
                    self.line(&format!("texts longer than `model.max_length`, cut off there: {cut}"));
                }
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
                    let unseen: Vec<_> = classes.iter().filter(|(_, count)| *count == 0).collect();
                    for (name, _) in unseen.iter().take(LISTED) {
                        self.line(&format!("warning: no training example has the class {name}"));
                    }
                    if let more @ 1.. = unseen.len().saturating_sub(LISTED) {
                        self.line(&format!("warning: no training example has {more} more classes"));
                    }
                    self.baseline = Baseline::new(classes);
                }
                self.line(&format!(
                    "{trainable_params} of {total_params} parameters train ({percent:.2} %), {steps} steps, {batch_size} rows a batch"
                ));
            }
            Event::Stage { name, index, of } => self.line(&format!("{} of {of}: {name}", index + 1)),
            Event::Resumed { step } => self.line(&format!("resuming after step {step}")),
            Event::Evaluated { step, evaluation, best } => {
                self.line(&format!(
                    "step {step}: validation {}{}",
                    figures(evaluation),
                    if *best { ", the best so far" } else { "" },
                ));
                let steps = lock(&self.shown).state.steps;
                let baseline = self.baseline.as_ref().filter(|_| *step == steps);
                let reached = baseline.zip(evaluation.figure("accuracy"));
                if let Some(warning) =
                    reached.and_then(|(baseline, accuracy)| baseline.warning(accuracy, evaluation.loss))
                {
                    self.line(&warning);
                }
            }
            Event::StoppedEarly { step } => self.line(&format!("stopped early after step {step}")),
            Event::Tested { evaluation } => self.line(&format!("test {}", figures(evaluation))),
            _ => {}
        }
        lock(&self.shown).update(event);
    }

    fn line(&self, text: &str) {
        lock(&self.shown).screen.say(text);
    }
}

impl Drop for Progress {
    /// Nothing is shown after the run.
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.ticker.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// A panic in the other thread leaves nothing half done that matters.
fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shown {
    /// Shows the state after an event.
    fn update(&mut self, event: &Event) {
        let Self { state, screen } = self;
        match screen {
            Screen::Lines { last, every, .. } => {
                if matches!(event, Event::Step { .. }) && last.elapsed() >= *every {
                    self.line_now();
                }
            }
            Screen::Bar(bar) => match event {
                Event::Ready { steps, .. } => bar.set_length(*steps),
                Event::Resumed { step } => {
                    bar.set_position(*step);
                    bar.reset_eta();
                }
                Event::Step { step, .. } => {
                    bar.set_position(*step);
                    bar.set_message(format!("loss {:.4}, lr {:.2e}", state.loss, state.learning_rate));
                }
                _ => {}
            },
            #[cfg(feature = "tui")]
            Screen::Dashboard(dashboard) => dashboard.show(state),
        }
    }

    /// Shows the time that has passed; how long to wait until the next time.
    fn tick(&mut self, tick: Duration) -> Duration {
        match &mut self.screen {
            Screen::Lines { last, every, .. } => {
                let rest = every.saturating_sub(last.elapsed());
                if !rest.is_zero() {
                    return rest;
                }
                // Before the first step the run says itself what it does.
                match self.state.steps {
                    0 => *last = Instant::now(),
                    _ => self.line_now(),
                }
            }
            Screen::Bar(bar) => bar.tick(),
            #[cfg(feature = "tui")]
            Screen::Dashboard(dashboard) => dashboard.show(&self.state),
        }
        tick
    }

    fn line_now(&mut self) {
        if let Screen::Lines { say, last, .. } = &mut self.screen {
            *last = Instant::now();
            say(&self.state.line());
        }
    }
}

impl Screen {
    #[cfg(feature = "tui")]
    fn dashboard() -> Result<Self, Failure> {
        Ok(Self::Dashboard(Box::new(dashboard::Dashboard::new()?)))
    }

    #[cfg(not(feature = "tui"))]
    fn dashboard() -> Result<Self, Failure> {
        Err(Failure::new(
            "this build has no dashboard",
            "build the program with `--features tui`, or train without --tui",
        ))
    }

    fn say(&mut self, text: &str) {
        match self {
            Self::Lines { say, .. } => say(text),
            Self::Bar(bar) => bar.suspend(|| note!("{text}")),
            #[cfg(feature = "tui")]
            Self::Dashboard(dashboard) => dashboard.say(&printable(text, "")),
        }
    }
}

/// The figures of an evaluation in a line.
fn figures(evaluation: &Evaluation) -> String {
    let values = evaluation.figures.values.iter();
    let others = values.map(|(name, value)| format!(", {name} {value:.4}"));
    format!("loss {:.4}{}", evaluation.loss, others.collect::<String>())
}

#[cfg(test)]
mod tests {
    use adapters::train::Truncated;

    use super::*;

    #[test]
    fn a_model_that_has_learned_nothing_is_warned_of() {
        let classes = [("bad", 3), ("good", 1)].map(|(name, count)| (name.to_owned(), count));
        let baseline = Baseline::new(&classes).unwrap();
        let no_better = baseline.warning(0.75, 0.6).unwrap();
        assert!(
            no_better.contains("always predicting bad, which is right for 0.7500"),
            "{no_better}"
        );
        let wild = baseline.warning(0.8, 0.7).unwrap();
        assert!(wild.contains("no better than 0.6931, that of guessing"), "{wild}");
        assert_eq!(baseline.warning(0.8, 0.6), None);
    }

    #[test]
    fn a_long_step_says_so_while_it_lasts() {
        let every = Duration::from_millis(20);
        let said = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&said);
        let mut progress = Progress::on(Screen::Lines {
            say: Box::new(move |text| into.lock().unwrap().push(text.to_owned())),
            last: Instant::now(),
            every,
        });
        let lines = |at_least: usize| {
            let until = Instant::now() + Duration::from_secs(20);
            while said.lock().unwrap().len() < at_least && Instant::now() < until {
                thread::sleep(every / 4);
            }
            std::mem::take(&mut *said.lock().unwrap())
        };
        progress.show(&Event::Ready {
            batch_size: 4,
            steps: 8,
            trainable_params: 1,
            total_params: 2,
            classes: Vec::new(),
            truncated: Truncated {
                train: 3,
                ..Truncated::default()
            },
            attached: "attached".to_owned(),
        });
        // Three of the event, then those of the first step, which never ends.
        let first = lines(6);
        assert_eq!(
            first[..2],
            [
                "attached",
                "texts longer than `model.max_length`, cut off there: 3 of the training data"
            ]
        );
        assert_eq!(first[4], "step 0/8: time left not known yet", "{first:?}");
        progress.show(&Event::Step {
            step: 2,
            loss: 0.5,
            learning_rate: 1e-3,
        });
        let second = lines(2);
        let last = second.last().unwrap();
        assert!(
            last.starts_with("step 2/8: loss 0.5000, lr 1.00e-3, ") && last.ends_with(" left"),
            "{second:?}"
        );
        drop(progress);
        said.lock().unwrap().clear();
        thread::sleep(every * 5);
        assert!(said.lock().unwrap().is_empty());
    }
}
