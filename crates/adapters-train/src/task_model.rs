//! The model of a run: base, adapters and the head of a task, with its gradients.

use adapters_adapted::Adapted;
use adapters_core::{Ctx, Error, NamedParams};
use adapters_models::heads::Scores;
use adapters_models::{Head, Input, LinearScores, Model};
use burn::module::{Module, ParamId};
use burn::tensor::{Int, Tensor, TensorData};

use crate::error::TrainError;
use crate::inputs::{Batch, gradients_by_block, hidden_states};
use crate::recompute::LossGradients;

/// An adapted model with the head of its task: as a module, its adapters and its head.
#[derive(Module, Debug)]
pub struct TaskModel {
    /// Base and adapters.
    pub adapted: Adapted<Model>,
    /// `None` where the model's own language-model head serves.
    pub head: Option<Head>,
}

/// Mean loss of a batch from its last hidden state.
pub(crate) type Loss<'a> = dyn Fn(Tensor<3>, &mut Ctx<'_>) -> Result<Tensor<1>, TrainError> + 'a;

/// The last hidden state of a batch.
pub(crate) type HiddenStates<'a> = dyn Fn(Input, &mut Ctx<'_>) -> Result<Tensor<3>, Error> + 'a;

/// Random choices of one pass of training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassSeed {
    /// Seed of dropout.
    pub(crate) seed: u64,
    /// How many of the first layers go without adapters.
    pub(crate) dropped_layers: usize,
}

/// How a pass of training runs.
#[derive(Clone, Copy)]
pub(crate) enum Pass<'a> {
    /// As a whole.
    Whole,
    /// With the memory of one block.
    ByBlock,
    /// From what is known of the examples below the first adapter.
    Above(&'a HiddenStates<'a>),
}

impl Pass<'_> {
    /// That of a recipe that keeps nothing from epoch to epoch.
    pub(crate) fn of(gradient_checkpointing: bool) -> Self {
        match gradient_checkpointing {
            true => Self::ByBlock,
            false => Self::Whole,
        }
    }
}

impl TaskModel {
    /// Outputs of the head for the last hidden state of a batch, without those of positions that an adapter inserted; with a
    /// dropout seed as in training.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] if there is no head.
    pub fn scores(&self, input: Input, dropout_seed: Option<u64>) -> Result<Scores, TrainError> {
        let mut cx = Ctx::new(&self.adapted.set);
        if let Some(seed) = dropout_seed {
            cx = cx.training(seed);
        }
        let hidden = hidden_states(self.adapted.base(), input, &mut cx)?;
        self.head_scores(hidden, &mut cx)
    }

    /// The same for the hidden state that the pass of `cx` computed.
    pub(crate) fn head_scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Result<Scores, TrainError> {
        let padding = cx.pass().padding.clone();
        Ok(self
            .head()?
            .forward(hidden, padding, self.adapted.base(), cx)
            .of_text(cx))
    }

    /// The head.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] if there is none.
    pub fn head(&self) -> Result<&Head, TrainError> {
        self.head.as_ref().ok_or_else(|| TrainError::Value {
            field: "head.kind",
            expected: "a task with a head of its own".to_owned(),
            found: "a model with its own language-model head".to_owned(),
        })
    }

    /// The loss that `loss` makes of a batch's last hidden state, and what the adapters add to it, times `weight`, in training, and
    /// its gradients.
    pub(crate) fn gradients(
        &self,
        batch: &Batch,
        loss: &Loss<'_>,
        weight: f64,
        seed: PassSeed,
        pass: Pass<'_>,
    ) -> Result<LossGradients, TrainError> {
        let mut cx = Ctx::new(&self.adapted.set)
            .with_tasks(batch.tasks.iter().copied())?
            .training(seed.seed)
            .skipping_layers(0..seed.dropped_layers);
        let (set, base, input) = (&self.adapted.set, self.adapted.base(), batch.input.clone());
        let hidden = match pass {
            Pass::Whole => Some(hidden_states(base, input.clone(), &mut cx)?),
            Pass::Above(hidden_states) => Some(hidden_states(input.clone(), &mut cx)?),
            Pass::ByBlock => None,
        };
        if let Some(hidden) = hidden {
            let loss = self.weighted(loss(hidden, &mut cx)?, weight);
            return Ok(LossGradients::of(&loss, set, &self.head));
        }
        let mut failed = None;
        let loss = |hidden: Tensor<3>, cx: &mut Ctx<'_>| {
            let device = hidden.device();
            match loss(hidden, cx) {
                Ok(loss) => self.weighted(loss, weight),
                Err(error) => {
                    failed = Some(error);
                    Tensor::zeros([1], &device).require_grad()
                }
            }
        };
        let gradients = gradients_by_block(base, input, set, &self.head, &cx, loss)?;
        failed.map_or(Ok(gradients), Err)
    }

    fn weighted(&self, loss: Tensor<1>, weight: f64) -> Tensor<1> {
        let loss = match self.adapted.set.penalty() {
            Some(penalty) => loss + penalty,
            None => loss,
        };
        loss * weight
    }

    /// Scores of the vocabulary at the target positions of a batch, `[1, targets, vocab]`, by the head that was trained or the
    /// model's own. Only these positions go through the head: the vocabulary is large.
    pub(crate) fn token_scores(
        &self,
        hidden: Tensor<3>,
        batch: &Batch,
        cx: &mut Ctx<'_>,
    ) -> Result<LinearScores, TrainError> {
        self.vocabulary_scores(at_target_positions(hidden, batch, cx), cx)
    }

    /// Scores of the vocabulary at every position of `chosen`, `[batch, seq, d_model]`, by the head that was trained or the model's
    /// own.
    pub(crate) fn vocabulary_scores(&self, chosen: Tensor<3>, cx: &mut Ctx<'_>) -> Result<LinearScores, TrainError> {
        let base = self.adapted.base();
        let scores = match &self.head {
            Some(head) => Some(head.scores(chosen, base, cx)),
            None => base.scores(chosen, cx),
        };
        scores.ok_or_else(|| TrainError::Value {
            field: "head.kind",
            expected: "a model with a language-model head".to_owned(),
            found: "an encoder".to_owned(),
        })
    }
}

/// The hidden states at the target positions of the batch, where an adapter may have made the rows longer:
/// `[batch, seq, d_model]` to `[1, targets, d_model]`.
fn at_target_positions(hidden: Tensor<3>, batch: &Batch, cx: &Ctx<'_>) -> Tensor<3> {
    let ([rows, seq, width], count) = (hidden.dims(), batch.target_positions.len());
    let targets = batch.target_positions.iter();
    let positions: Vec<i64> = targets
        .map(|(row, t)| (row * seq + cx.pass().position(*t)) as i64)
        .collect();
    let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), &hidden.device().inner());
    hidden
        .reshape([rows * seq, width])
        .select(0, positions)
        .unsqueeze_dim(0)
}

/// Names and ids of a head's parameters.
pub(crate) fn head_names(head: &Head) -> Vec<(String, ParamId)> {
    let named = head.named_params().into_iter();
    named.map(|(name, id)| (name.into_owned(), id)).collect()
}
