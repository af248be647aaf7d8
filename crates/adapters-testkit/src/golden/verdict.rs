//! What became of a case, and why it ended early.

use std::error::Error as StdError;
use std::fmt;

use adapters::core::ConfigError;
use adapters::models::ModelError;
use adapters::store::StoreError;

/// Why a case did not get as far as its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It asks for something this library does not have, and the library said so.
    Unsupported(String),
    /// It should have worked.
    Fail(String),
}

impl Stop {
    /// Not there yet.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported(reason.into())
    }

    /// Wrong.
    pub fn fail(reason: impl Into<String>) -> Self {
        Self::Fail(reason.into())
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl From<adapters::Error> for Stop {
    /// The refusals by type: a name from a closed list, an option a method has no code for, a block that cannot run,
    /// a site or a merge the method has no layer for. Everything else should have worked.
    fn from(error: adapters::Error) -> Self {
        let reason = chain(&error);
        if is_refusal(&error) {
            Self::Unsupported(reason)
        } else {
            Self::Fail(reason)
        }
    }
}

fn is_refusal(error: &adapters::Error) -> bool {
    use adapters::Error as E;
    match error {
        E::Config { source, .. } => matches!(source.downcast_ref(), Some(ConfigError::Unsupported { .. })),
        E::UnknownName(_) | E::BlockNotRunnable { .. } => true,
        E::CannotBuild { .. } | E::NotMergeable { .. } | E::NoTarget { .. } => true,
        _ => false,
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Adapter(error) => error.into(),
            StoreError::ConfigFile { source, .. } => (*source).into(),
            error => Self::Fail(chain(&error)),
        }
    }
}

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Adapter(error) => error.into(),
            ModelError::UnknownArchitecture { .. } | ModelError::Config { .. } => Self::Unsupported(chain(&error)),
            _ => Self::Fail(chain(&error)),
        }
    }
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Output and all gradients are right.
    Ok,
    /// Something is wrong.
    Fail(String),
    /// It asks for something this library does not have.
    Unsupported(String),
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The model's folder.
    pub model: String,
    /// The case's folder.
    pub case: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Largest absolute error of the output, where there is an output.
    pub max_abs_err: Option<f64>,
    /// Gradients that are right, and gradients expected.
    pub grads: Option<(usize, usize)>,
}

impl Outcome {
    /// A case that ended early.
    pub fn stopped(model: &str, case: &str, stop: Stop) -> Self {
        Self {
            model: model.to_owned(),
            case: case.to_owned(),
            verdict: match stop {
                Stop::Unsupported(reason) => Verdict::Unsupported(reason),
                Stop::Fail(reason) => Verdict::Fail(reason),
            },
            max_abs_err: None,
            grads: None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, reason) = match &self.verdict {
            Verdict::Ok => ("ok", None),
            Verdict::Fail(reason) => ("FAIL", Some(reason)),
            Verdict::Unsupported(reason) => ("unsupported", Some(reason)),
        };
        write!(f, "{word} {}/{} max_abs_err=", self.model, self.case)?;
        match self.max_abs_err {
            Some(err) => write!(f, "{err:.3e}")?,
            None => write!(f, "-")?,
        }
        match self.grads {
            Some((right, expected)) => write!(f, " grads={right}/{expected}")?,
            None => write!(f, " grads=-")?,
        }
        match reason {
            Some(reason) => write!(
                f,
                " reason: {}",
                reason.split_whitespace().collect::<Vec<_>>().join(" ")
            ),
            None => Ok(()),
        }
    }
}

/// The closing line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cases that are right.
    pub ok: usize,
    /// Cases that are wrong.
    pub failed: usize,
    /// Cases that ask for something this library does not have.
    pub unsupported: usize,
}

impl Summary {
    /// Counts one more case.
    pub fn count(&mut self, outcome: &Outcome) {
        match outcome.verdict {
            Verdict::Ok => self.ok += 1,
            Verdict::Fail(_) => self.failed += 1,
            Verdict::Unsupported(_) => self.unsupported += 1,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ok, {} failed, {} unsupported",
            self.ok, self.failed, self.unsupported
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let stop = Stop::fail("x does not fit:\n  - `k` is missing");
        let outcome = Outcome::stopped("m", "c", stop);
        assert_eq!(
            outcome.to_string(),
            "FAIL m/c max_abs_err=- grads=- reason: x does not fit: - `k` is missing"
        );
        let outcome = Outcome {
            verdict: Verdict::Ok,
            max_abs_err: Some(1.25e-6),
            grads: Some((2, 2)),
            ..outcome
        };
        assert_eq!(outcome.to_string(), "ok m/c max_abs_err=1.250e-6 grads=2/2");
    }

    #[test]
    fn refusals_are_told_from_failures_by_type() {
        let refused = ConfigError::Unsupported {
            field: "use_dora",
            found: "true".to_owned(),
        };
        let wrong = ConfigError::Field {
            reason: "use_dora is not supported".to_owned(),
        };
        assert!(matches!(
            Stop::from(adapters::Error::config("lora", refused)),
            Stop::Unsupported(_)
        ));
        assert!(matches!(
            Stop::from(adapters::Error::config("lora", wrong)),
            Stop::Fail(_)
        ));
        let taken = adapters::Error::NameTaken { name: "a".to_owned() };
        assert!(matches!(Stop::from(taken), Stop::Fail(_)));
    }
}
