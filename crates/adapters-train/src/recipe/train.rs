//! The section `[train]` of a recipe.

use serde::{Deserialize, Serialize};

use super::value;
use crate::batch_size::BatchSize;
use crate::batches::Order;
use crate::drop_layers::DropLayers;
use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::schedule::Schedule;

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Passes over the training data.
    pub epochs: usize,
    /// Rows of a batch.
    pub batch_size: BatchSize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// Keeps of a training pass only what enters each block, and computes the rest again for the gradients: less memory for
    /// more time, the same gradients.
    pub gradient_checkpointing: bool,
    /// Keeps, from one epoch to the next, what enters the lowest layer with an adapter, so that the layers below it run once over an
    /// example. It takes the memory of one hidden state a token, and a base without dropout.
    pub cache_frozen: bool,
    /// Rows of a batch in evaluation.
    pub eval_batch_size: usize,
    /// Learning rate of the adapter at its peak.
    pub learning_rate: f64,
    /// Learning rate of the head at its peak; without it the adapter's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_learning_rate: Option<f64>,
    /// The learning rate of the parameters that a method lets learn faster, as LoRA its B matrices, over that of the rest; one
    /// rate without it. *LoRA+: Efficient Low Rank Adaptation of Large Models*, Hayou et al., 2024,
    /// <https://arxiv.org/abs/2402.12354>.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate_ratio: Option<f64>,
    /// How much the classes of a classification weigh in the loss; alike without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Momentum of `sgd`; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Weight decay: decoupled, except for `sgd`, where it is added to the gradient.
    pub weight_decay: f64,
    /// How the learning rate changes after it has risen.
    pub schedule: Schedule,
    /// Fraction of the steps in which the learning rate rises.
    pub warmup: f64,
    /// Fraction of the steps, the last ones, in which the learning rate of `wsd` falls; a fifth without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<f64>,
    /// Largest norm of the whole gradient; without it gradients are not clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Seed of everything drawn in the run.
    pub seed: u64,
    /// Whether batches are made of sentences of similar length.
    pub batching: Batching,
    /// Steps between evaluations; without it one at the end of every epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluate_every: Option<u64>,
    /// Evaluations without a better figure after which the run stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<usize>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps after which their losses are read from the device and shown, all at once. Without it each step on the processor, and
    /// ten steps on a GPU, which need not be waited for after each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_every: Option<u64>,
    /// Which weights are kept at the end.
    pub keep: Keep,
    /// The figure that decides which weights are the best; without it the one the task is known by, and the loss of a model that
    /// writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Replaces both dropout probabilities of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_dropout: Option<f64>,
    /// How many of the first layers go without adapters, drawn for each pass from the first number to the second; none
    /// without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_layers: Option<DropLayers>,
    /// Whether the figures are also written as TensorBoard event files, in the folder `tensorboard` of the run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tensorboard: bool,
}

/// How much the classes weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    /// Each class as much as any other, whatever the number of its examples.
    Balanced,
}

/// How batches are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// Of similar length.
    #[default]
    Bucketed,
    /// At random.
    Random,
}

/// Which weights are kept at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those with the best figure on the validation data, of `train.metric`.
    #[default]
    Best,
    /// The last.
    Last,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            epochs: 3,
            batch_size: BatchSize::Rows(32),
            accumulate: 1,
            gradient_checkpointing: false,
            cache_frozen: false,
            eval_batch_size: 64,
            learning_rate: 1e-3,
            head_learning_rate: None,
            learning_rate_ratio: None,
            class_weights: None,
            optimizer: Optimizer::default(),
            momentum: None,
            weight_decay: 0.0,
            schedule: Schedule::default(),
            warmup: 0.06,
            decay: None,
            clip_norm: None,
            seed: 0,
            batching: Batching::default(),
            evaluate_every: None,
            early_stopping: None,
            checkpoint_every: 50,
            log_every: None,
            keep: Keep::default(),
            metric: None,
            base_dropout: None,
            drop_layers: None,
            tensorboard: false,
        }
    }
}

impl Batching {
    /// How an epoch's examples are put in order.
    pub(super) fn order(self) -> Order {
        match self {
            Self::Bucketed => Order::default(),
            Self::Random => Order::Random,
        }
    }
}

impl TrainSection {
    /// Checks the values.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let at_least_one = [
            ("train.epochs", self.epochs as u64),
            ("train.batch_size", u64::from(self.batch_size != BatchSize::Rows(0))),
            ("train.accumulate", self.accumulate as u64),
            ("train.eval_batch_size", self.eval_batch_size as u64),
            ("train.checkpoint_every", self.checkpoint_every),
            ("train.evaluate_every", self.evaluate_every.unwrap_or(1)),
            ("train.log_every", self.log_every.unwrap_or(1)),
            ("train.early_stopping", self.early_stopping.unwrap_or(1) as u64),
        ];
        if let Some((field, found)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(value(field, "at least 1", found));
        }
        let positive = [
            ("train.learning_rate", self.learning_rate),
            ("train.head_learning_rate", self.head_learning_rate.unwrap_or(1.0)),
            ("train.learning_rate_ratio", self.learning_rate_ratio.unwrap_or(1.0)),
            ("train.clip_norm", self.clip_norm.unwrap_or(1.0)),
        ];
        if let Some((field, found)) = positive.into_iter().find(|(_, v)| !(*v > 0.0 && v.is_finite())) {
            return Err(value(field, "a positive number", found));
        }
        let fractions = [
            ("train.base_dropout", self.base_dropout.unwrap_or(0.0)),
            ("train.momentum", self.momentum.unwrap_or(0.0)),
            ("train.warmup", self.warmup),
            ("train.decay", self.decay.unwrap_or(0.0)),
        ];
        if let Some((field, found)) = fractions.into_iter().find(|(_, v)| !(0.0..1.0).contains(v)) {
            return Err(value(field, "at least 0 and below 1", found));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(value("train.weight_decay", "at least 0", self.weight_decay));
        }
        if let Some(momentum) = self.momentum.filter(|_| self.optimizer != Optimizer::Sgd) {
            let expected = format!("none for `train.optimizer` `{}`; only `sgd` takes it", self.optimizer);
            return Err(value("train.momentum", &expected, momentum));
        }
        if let Some(decay) = self.decay {
            if self.schedule != Schedule::Wsd {
                let expected = format!("none for `train.schedule` `{}`; only `wsd` takes it", self.schedule);
                return Err(value("train.decay", &expected, decay));
            }
            if decay + self.warmup > 1.0 {
                let expected = format!("at most {}, what `train.warmup` leaves", 1.0 - self.warmup);
                return Err(value("train.decay", &expected, decay));
            }
        }
        match self.drop_layers.filter(|drop| drop.range().is_empty()) {
            Some(drop) => Err(value("train.drop_layers", "the fewest layers, then the most", drop)),
            None => Ok(()),
        }
    }

    /// The factor of the learning rates at `step` (from zero) of `steps`.
    pub(crate) fn rate_factor(&self, step: u64, steps: u64) -> f64 {
        let decay = self.decay.unwrap_or(Schedule::DECAY);
        self.schedule.factor(step, steps, self.warmup, decay)
    }
}
