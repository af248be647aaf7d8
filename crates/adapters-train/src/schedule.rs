//! Learning rate schedules: pure functions of the step, so that a resumed run needs no state of them.

use std::f64::consts::PI;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How the learning rate changes after its linear rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Schedule {
    /// A linear fall to zero.
    #[default]
    Linear,
    /// Half a period of the cosine, from one to zero. *SGDR: Stochastic Gradient Descent with Warm Restarts*, Loshchilov and Hutter,
    /// 2017, <https://arxiv.org/abs/1608.03983>; without restarts.
    Cosine,
    /// No change.
    Constant,
    /// Warm-up, stable, decay: no change, and a linear fall to zero over the last steps. *MiniCPM: Unveiling the Potential of Small
    /// Language Models with Scalable Training Strategies*, Hu et al., 2024, <https://arxiv.org/abs/2404.06395>.
    Wsd,
}

impl Schedule {
    /// Fraction of the steps in which the rate of [`Schedule::Wsd`] falls unless told otherwise.
    pub const DECAY: f64 = 0.2;

    /// Factor of the learning rate at `step` (from zero) of `steps`: a linear rise over `warmup`, a fraction of the steps and at least
    /// one step, and then the fall of the schedule. `decay` is the fraction of the steps in which the rate of `Wsd` falls.
    pub fn factor(self, step: u64, steps: u64, warmup: f64, decay: f64) -> f64 {
        let warm = ((steps as f64 * warmup) as u64).max(1);
        if step < warm {
            return (step + 1) as f64 / warm as f64;
        }
        let left = steps.saturating_sub(step) as f64;
        let after_rise = steps.saturating_sub(warm).max(1) as f64;
        match self {
            Self::Linear => left / after_rise,
            Self::Cosine => 0.5 * (1.0 + (PI * (1.0 - left / after_rise)).cos()),
            Self::Constant => 1.0,
            Self::Wsd => (left / (steps as f64 * decay).round().clamp(1.0, after_rise)).min(1.0),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Constant => "constant",
            Self::Wsd => "wsd",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `transformers.get_scheduler` of `linear`, `cosine`, `constant_with_warmup`, and `warmup_stable_decay` with a linear decay of
    /// four steps, for ten steps of which two rise. They begin to rise at zero; here the first step has a rate already.
    #[test]
    fn schedules_are_those_of_transformers() {
        let expected = [
            (Schedule::Linear, [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
            (
                Schedule::Cosine,
                [1.0, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806],
            ),
            (Schedule::Constant, [1.0; 8]),
            (Schedule::Wsd, [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ];
        for (schedule, after_rise) in expected {
            let expected = [0.5, 1.0].into_iter().chain(after_rise);
            for (step, expected) in expected.enumerate() {
                let found = schedule.factor(step as u64, 10, 0.2, 0.4);
                assert!((found - expected).abs() < 1e-6, "{schedule}, step {step}: {found}");
            }
            for step in 0..4 {
                let factor = schedule.factor(step, 1, 0.5, 0.2);
                assert!((0.0..=1.0).contains(&factor), "{schedule}: {factor}");
            }
        }
    }
}
