//! What a run trains: an adapted model with the head of its task, and the loss of a batch.

use std::path::Path;

use adapters_core::{Adapted, Ctx, NamedParams};
use adapters_models::heads::Targets;
use adapters_models::{
    Blocks, CausalInput, ClassificationHead, EncoderDecoderInput, EncoderInput, Head as FlexibleHead, Model,
};
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::batches::eval_batches;
use crate::error::TrainError;
use crate::evaluate::{Evaluation, cross_entropy, evaluate_head, evaluate_with};
use crate::examples::Examples;
use crate::recompute::LossGradients;

/// An adapted model with the head of its task: as a module, its adapters and its head.
#[derive(Module, Debug)]
pub(crate) struct Learner {
    pub adapted: Adapted<Model>,
    /// `None` where the model's own language-model head serves.
    pub head: Option<Head>,
}

/// A head that trains.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One a run.
pub(crate) enum Head {
    Classification(ClassificationHead),
    MaskedLm(FlexibleHead),
    /// Says a number, or several labels, of a text.
    Text(FlexibleHead),
}

/// What is drawn for one pass of training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draws {
    /// Seed of the masks.
    pub seed: u64,
    /// How many of the first layers go without adapters.
    pub dropped_layers: usize,
}

/// What a model reads.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Encoder(EncoderInput),
    CausalLm(CausalInput),
    EncoderDecoder(EncoderDecoderInput),
}

/// Rows of a data set, and what is to be said of them.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub input: Input,
    /// Row and position of each predicted token's place; none where whole rows are classified.
    pub places: Vec<(usize, usize)>,
    /// What is to be said, one a prediction.
    pub answers: Targets,
}

/// The seed of the masks of every evaluation, so that its figures can be compared.
const EVALUATION: u64 = 0x0e7a_1a7e;

impl Batch {
    /// Tokens to be predicted at places, one each.
    pub fn of_tokens(input: Input, places: Vec<(usize, usize)>, tokens: Vec<i64>, device: &Device) -> Self {
        let count = tokens.len();
        Self {
            input,
            places,
            answers: Targets::Classes(Tensor::from_data(TensorData::new(tokens, [count]), device)),
        }
    }

    /// The classes or tokens to be said.
    fn ids(&self) -> Tensor<1, Int> {
        match &self.answers {
            Targets::Classes(ids) => ids.clone(),
            _ => unreachable!("a run that predicts numbers or several labels takes its head's own loss"),
        }
    }

    /// How many predictions are asked for.
    pub fn predictions(&self) -> usize {
        match &self.answers {
            Targets::Classes(ids) => ids.dims()[0],
            Targets::Numbers(numbers) => numbers.dims()[0],
            Targets::Labels(labels) => labels.dims()[0],
            Targets::Tokens(tokens) => tokens.dims().iter().product(),
            Targets::Spans { start, .. } => start.dims()[0],
        }
    }
}

impl Learner {
    /// The rows `indices` with what is to be said of them; `seed` hides tokens, where tokens are hidden.
    pub fn batch(&self, data: &Examples, indices: &[usize], seed: u64, device: &Device) -> Batch {
        data.batch(indices, &self.adapted.base, seed, device)
    }

    /// Mean loss over a batch times `share`, in training, and its gradients; with the memory of one block if `by_block`.
    pub fn gradients(
        &self,
        batch: Batch,
        share: f64,
        draws: Draws,
        by_block: bool,
    ) -> Result<LossGradients, TrainError> {
        match (&*self.adapted.base, batch.input.clone()) {
            (Model::Encoder(model), Input::Encoder(input)) if by_block => {
                self.gradients_by_block(model, input, &batch, share, draws)
            }
            (Model::CausalLm(model), Input::CausalLm(input)) if by_block => {
                self.gradients_by_block(model, input, &batch, share, draws)
            }
            (Model::EncoderDecoder(model), Input::EncoderDecoder(input)) if by_block => {
                self.gradients_by_block(model, input, &batch, share, draws)
            }
            (_, input) => {
                let mut cx = self.training(draws);
                let hidden = self.hidden(input, &mut cx)?;
                let loss = self.loss(hidden, &batch, share, &mut cx);
                Ok(LossGradients::of(&loss, &self.adapted.set, &self.head))
            }
        }
    }

    fn gradients_by_block<M: Blocks>(
        &self,
        model: &M,
        input: M::Input,
        batch: &Batch,
        share: f64,
        draws: Draws,
    ) -> Result<LossGradients, TrainError> {
        let loss = |hidden, cx: &mut Ctx<'_>| self.loss(hidden, batch, share, cx);
        let cx = self.training(draws);
        Ok(LossGradients::by_block(
            model,
            input,
            &self.adapted.set,
            &self.head,
            &cx,
            loss,
        )?)
    }

    fn training(&self, draws: Draws) -> Ctx<'_> {
        Ctx::new(&self.adapted.set)
            .training(draws.seed)
            .skipping_layers(0..draws.dropped_layers)
    }

    fn loss(&self, hidden: Tensor<3>, batch: &Batch, share: f64, cx: &mut Ctx<'_>) -> Tensor<1> {
        let loss = match (&self.head, &*self.adapted.base, &batch.input) {
            (Some(Head::Text(head)), Model::Encoder(encoder), Input::Encoder(input)) => {
                let padding = cx.pass().padding.clone();
                let scores = head.forward(hidden, padding, encoder, cx);
                let [_, seq] = input.ids.dims();
                let loss = head.loss(scores, batch.answers.clone(), None, seq);
                loss.unwrap_or_else(|error| unreachable!("the labels were read for this head: {error}"))
            }
            _ => cross_entropy(self.logits(hidden, batch, cx), batch.ids()).mean(),
        };
        let loss = match self.adapted.set.penalty() {
            Some(penalty) => loss + penalty,
            None => loss,
        };
        loss * share
    }

    /// The last hidden state, of the decoder where there are two stacks.
    fn hidden(&self, input: Input, cx: &mut Ctx<'_>) -> Result<Tensor<3>, TrainError> {
        Ok(match (&*self.adapted.base, input) {
            (Model::Encoder(model), Input::Encoder(input)) => model.forward(input, cx)?,
            (Model::CausalLm(model), Input::CausalLm(input)) => model.forward(input, cx)?,
            (Model::EncoderDecoder(model), Input::EncoderDecoder(input)) => {
                let encoded = model.encode(input.ids, input.padding, cx)?;
                model.decode(input.decoder_ids, &encoded, None, cx)?
            }
            _ => unreachable!("examples make the input of the model they were read for"),
        })
    }

    /// Logits of a batch, a row a prediction, `[predictions, classes or vocab]`. Of tokens only those that are to be
    /// predicted go through the head: the vocabulary is wide.
    fn logits(&self, hidden: Tensor<3>, batch: &Batch, cx: &mut Ctx<'_>) -> Tensor<2> {
        match (&*self.adapted.base, &self.head) {
            (_, Some(Head::Classification(head))) => head.forward(hidden, cx.pass()),
            (Model::Encoder(encoder), Some(Head::MaskedLm(head))) => {
                head.scores(chosen(hidden, batch, cx), encoder, cx).squeeze_dim(0)
            }
            (Model::CausalLm(lm), _) => lm.logits(chosen(hidden, batch, cx), cx).squeeze_dim(0),
            (Model::EncoderDecoder(lm), _) => lm.logits(chosen(hidden, batch, cx), cx).squeeze_dim(0),
            (Model::Encoder(_), Some(Head::Text(_)) | None) => unreachable!("such a run has no logits"),
        }
    }

    fn predict(&self, batch: Batch) -> Result<(Tensor<2>, Tensor<1, Int>), TrainError> {
        let mut cx = Ctx::new(&self.adapted.set);
        let hidden = self.hidden(batch.input.clone(), &mut cx)?;
        Ok((self.logits(hidden, &batch, &mut cx), batch.ids()))
    }

    /// Scores the whole of `data`. Of tokens: the mean loss and the share guessed right; no logits.
    pub fn evaluate(&self, data: &Examples, batch_size: usize, device: &Device) -> Result<Evaluation, TrainError> {
        let predict = |indices: &[usize]| self.predict(self.batch(data, indices, EVALUATION, device));
        if let (Examples::Labelled(labeled, _), Model::Encoder(encoder), Some(Head::Text(head))) =
            (data, &*self.adapted.base, &self.head)
        {
            return evaluate_head(encoder, &self.adapted.set, head, labeled, batch_size, device);
        }
        if let Examples::Labelled(labeled, _) = data {
            return evaluate_with(predict, &labeled.lengths, batch_size);
        }
        let (mut loss, mut right, mut count) = (0.0, 0.0, 0usize);
        for indices in eval_batches(data.lengths(), batch_size) {
            let (logits, answers) = predict(&indices)?;
            let guesses = logits.clone().argmax(1).squeeze_dim::<1>(1);
            right += f64::from(guesses.equal(answers.clone()).int().sum().into_scalar::<i64>() as f32);
            count += answers.dims()[0];
            loss += f64::from(cross_entropy(logits, answers).sum().into_scalar::<f32>());
        }
        let count = count.max(1) as f64;
        Ok(Evaluation {
            loss: loss / count,
            accuracy: right / count,
            logits: Vec::new(),
        })
    }

    /// Writes the head, where one trains, into the folder of the adapter `name`; the file of a classification head.
    pub fn save_head(&self, dir: &Path, name: &str, file: &str) -> Result<(), TrainError> {
        match (&self.head, &*self.adapted.base) {
            (Some(Head::Classification(head)), _) => head.save(&dir.join(file))?,
            (Some(Head::MaskedLm(head) | Head::Text(head)), Model::Encoder(encoder)) => {
                head.save(dir, name, encoder)?
            }
            _ => {}
        }
        Ok(())
    }
}

/// The hidden states that predict: those at the places of the batch, where an adapter may have made the rows longer.
/// `[batch, seq, d_model]` to `[1, predictions, d_model]`.
fn chosen(hidden: Tensor<3>, batch: &Batch, cx: &Ctx<'_>) -> Tensor<3> {
    let ([rows, seq, width], count) = (hidden.dims(), batch.places.len());
    let position = |t: usize| match batch.input {
        // What was put in is in front of the encoder's text.
        Input::EncoderDecoder(_) => t,
        _ => cx.pass().position(t),
    };
    let places = batch.places.iter();
    let positions: Vec<i64> = places.map(|(row, t)| (row * seq + position(*t)) as i64).collect();
    let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), &hidden.device().inner());
    hidden
        .reshape([rows * seq, width])
        .select(0, positions)
        .unsqueeze_dim(0)
}

impl Head {
    /// Names and ids of the head's parameters.
    pub fn names(&self) -> Vec<(String, ParamId)> {
        let named = match self {
            Self::Classification(head) => head.named_params(),
            Self::MaskedLm(head) | Self::Text(head) => head.named_params(),
        };
        named.into_iter().map(|(name, id)| (name.into_owned(), id)).collect()
    }
}
