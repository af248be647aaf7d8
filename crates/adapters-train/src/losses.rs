//! Losses of steps, read from the device several at a time: a device that computes behind the program's back need not be waited for
//! after each step.

use burn::tensor::{Device, Tensor};

use crate::device_read;
use crate::error::TrainError;
use crate::report::Event;

/// Steps whose losses are read at a time where a recipe leaves it open, on a device that computes behind the program's back.
const AT_ONCE: u64 = 10;

/// The loss of a step and the learning rate it was taken with.
pub(crate) struct StepLoss<L = f64> {
    pub(crate) step: u64,
    pub(crate) loss: L,
    pub(crate) learning_rate: f64,
}

impl StepLoss {
    /// What is logged of it.
    pub(crate) fn figures(&self) -> [(&'static str, f64); 2] {
        [("train_loss", self.loss), ("learning_rate", self.learning_rate)]
    }

    /// What is told of it.
    pub(crate) fn event(&self) -> Event {
        Event::Step {
            step: self.step,
            loss: self.loss,
            learning_rate: self.learning_rate,
        }
    }
}

/// The losses that have not been read yet.
pub(crate) struct Losses {
    every: u64,
    unread: Vec<StepLoss<Tensor<1>>>,
}

impl Losses {
    /// None yet. They are read every so many steps; without a number after each step on the processor, and every ten steps on a
    /// GPU.
    pub(crate) fn new(every: Option<u64>, device: &Device) -> Self {
        // A processor's backend has no pool of memory to tell of.
        let every = every.unwrap_or_else(|| device.memory_pool_usage().map_or(1, |_| AT_ONCE));
        Self {
            every,
            unread: Vec::new(),
        }
    }

    /// Keeps the loss of a step.
    pub(crate) fn push(&mut self, of_step: StepLoss<Tensor<1>>) {
        self.unread.push(of_step);
    }

    /// Whether it is time to read them.
    pub(crate) fn are_due(&self) -> bool {
        self.unread.len() as u64 >= self.every
    }

    /// Reads all there are, at once, in the order of their steps.
    ///
    /// # Errors
    ///
    /// Those of reading; [`TrainError::Diverged`] for a loss that is not finite.
    pub(crate) fn read(&mut self) -> Result<Vec<StepLoss>, TrainError> {
        let unread = std::mem::take(&mut self.unread);
        if unread.is_empty() {
            return Ok(Vec::new());
        }
        let losses = unread.iter().map(|of_step| of_step.loss.clone()).collect();
        let losses = device_read::values(Tensor::cat(losses, 0))?;
        let read = unread.iter().zip(losses.iter::<f64>()).map(|(of_step, loss)| {
            let step = of_step.step;
            match loss.is_finite() {
                true => Ok(StepLoss {
                    step,
                    loss,
                    learning_rate: of_step.learning_rate,
                }),
                false => Err(TrainError::Diverged { step, loss }),
            }
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(every: Option<u64>, values: &[f32]) -> Losses {
        let device = Device::flex();
        let mut losses = Losses::new(every, &device);
        for (step, value) in values.iter().enumerate() {
            losses.push(StepLoss {
                step: step as u64 + 1,
                loss: Tensor::from_floats([*value], &device),
                learning_rate: 0.5,
            });
        }
        losses
    }

    #[test]
    fn losses_are_read_together_in_the_order_of_their_steps() {
        let mut three = losses(Some(3), &[0.5, 0.25, 2.0]);
        assert!(three.are_due());
        let read = three.read().unwrap();
        let read: Vec<_> = read.iter().map(|l| (l.step, l.loss, l.learning_rate)).collect();
        assert_eq!(read, [(1, 0.5, 0.5), (2, 0.25, 0.5), (3, 2.0, 0.5)]);
        assert!(!three.are_due() && three.read().unwrap().is_empty());
        assert!(!losses(Some(3), &[0.5, 0.25]).are_due());
        assert!(losses(None, &[0.5]).are_due(), "each step on the processor");
    }

    #[test]
    fn the_first_loss_that_is_not_finite_is_named() {
        let error = losses(Some(3), &[0.5, f32::NAN, f32::INFINITY]).read().err();
        assert!(matches!(error, Some(TrainError::Diverged { step: 2, .. })), "{error:?}");
    }
}
