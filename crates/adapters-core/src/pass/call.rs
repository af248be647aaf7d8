//! What the layers of adapters are told while a pass runs.

use std::ops::Deref;

use adapters_sites::Site;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::method::shared::Shared;
use crate::pass::memo::Memo;
use crate::pass::record::{Recorded, Recorder};
use crate::pass::state::Inserted;
use adapters_nn::Dropout;

/// What a forward pass is: the same for every site and adapter.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The masks of this pass in training; `None` in evaluation.
    pub dropout: Option<Dropout>,
    /// True at padding, `[batch, seq]`; `None` when nothing is padded. It covers the sequence the layers compute on: it
    /// grows when an adapter inserts positions, and includes the positions of a cache.
    pub padding: Option<Tensor<2, Bool>>,
    /// Ids of the tokens of this pass, `[batch, seq]`; `None` where the model reads something else.
    pub tokens: Option<Tensor<2, Int>>,
    /// Ids of the tokens of earlier passes, which a cache holds, `[batch, earlier]`; `None` where there are none.
    pub earlier: Option<Tensor<2, Int>>,
    /// What adapters inserted among the embedded tokens, in the order they did.
    pub inserted: Vec<Inserted>,
    /// Positions before those of this pass, which a cache of keys and values holds; zero in a pass over whole sequences.
    pub past: usize,
    /// Columns of the prompt, where the columns after them were generated; `None` where nothing is generated.
    pub prompt: Option<usize>,
    /// The last hidden state of an earlier pass, for routers that read it, `[batch, seq, d_model]`.
    pub base: Option<Tensor<3>>,
    /// What an adapter takes along next to the hidden state, from layer to layer, `[batch, seq, d_model]`.
    pub(crate) carried: Option<Tensor<3>>,
    /// The task of each row of the batch that the caller gave, without the copies of a `Parallel` block; `None` for a row
    /// without one. Empty where no tasks were given.
    pub tasks: Vec<Option<usize>>,
    /// How many passes of training the fusions have been through before this one, which lowers their temperature.
    pub passes: u64,
    /// Where values are recorded, if they are.
    pub recorder: Option<Recorder>,
    /// What adapters have computed in this pass for all their layers.
    pub(crate) memo: Memo,
}

impl Pass {
    /// Dropout in training, the identity in evaluation; any shape.
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, prob: f64) -> Tensor<D> {
        match &self.dropout {
            Some(dropout) => dropout.forward(x, prob),
            None => x,
        }
    }

    /// Ones, and with probability `prob` zeros in their place, for what is dropped as a whole in training; `None` where nothing
    /// is: in evaluation, and with a probability of zero.
    pub fn kept<const D: usize>(&self, shape: [usize; D], prob: f64, device: &Device) -> Option<Tensor<D>> {
        let dropout = self.dropout.as_ref().filter(|_| prob > 0.0)?;
        let drawn = dropout.forward(Tensor::ones(shape, &device.clone().inner()), prob);
        Some(drawn.greater_elem(0.0).float())
    }

    /// The token at each position of a sequence `[rows, seq]` that a layer computes on, -1 where an adapter inserted something
    /// in front; `None` where the two do not belong together.
    pub(crate) fn tokens_of(&self, [rows, seq]: [usize; 2]) -> Option<Tensor<2, Int>> {
        let tokens = self.tokens.clone()?;
        let [own_rows, own] = tokens.dims();
        match (own_rows == rows, seq.checked_sub(own)) {
            (true, Some(0)) => Some(tokens),
            (true, Some(more)) => {
                let inserted = Tensor::full([rows, more], -1, &tokens.device());
                Some(Tensor::cat(vec![inserted, tokens], 1))
            }
            _ => None,
        }
    }

    /// The tasks of so many rows, `[rows]`, for a method that [`KnowsTasks`](crate::KnowsTasks).
    ///
    /// # Panics
    ///
    /// Panics if a row has no task: [`Ctx::begin`](crate::Ctx::begin) and activation refuse what would lead here.
    pub fn tasks_of(&self, rows: usize, device: &Device) -> Tensor<1, Int> {
        let tasks: Vec<i64> = self.tasks.iter().flatten().map(|task| *task as i64).collect();
        assert!(
            tasks.len() == rows,
            "a layer sees {rows} rows, and {} rows have a task: give each row its task with `Ctx::with_tasks`",
            tasks.len()
        );
        Tensor::from_data(TensorData::new(tasks, [rows]), device)
    }

    /// Where position `t` of the model's input is in the sequence the layers compute on.
    pub fn position(&self, t: usize) -> usize {
        self.inserted.iter().fold(t, |t, inserted| inserted.moved(t))
    }
}

/// What an adapter's layer is told: the pass, the name of its adapter, its site, and the parameters of type `P` that it shares
/// with the other layers of its adapter.
#[derive(Debug)]
pub struct Call<'a, P = ()> {
    /// The pass.
    pub pass: &'a Pass,
    /// What the layers of the adapter share.
    pub shared: &'a P,
    /// Name of the adapter.
    pub adapter: &'a str,
    /// The site of the layer.
    pub site: Site,
}

impl<P> Deref for Call<'_, P> {
    type Target = Pass;

    fn deref(&self) -> &Pass {
        self.pass
    }
}

impl<'a> Call<'a, Shared> {
    /// The call for a layer that reads shared parameters of type `P`; `None` where the adapter has none.
    pub(crate) fn reading<P: 'static>(&self) -> Option<Call<'a, P>> {
        Some(Call {
            pass: self.pass,
            shared: self.shared.get()?,
            adapter: self.adapter,
            site: self.site,
        })
    }
}

impl<P> Call<'_, P> {
    /// Records the values of gates, `[batch, gates]`, if this pass records.
    pub fn record_gates(&self, scores: impl FnOnce() -> Tensor<2>) {
        self.record(|adapter| Recorded::Gate {
            adapter,
            scores: scores(),
        });
    }

    /// Records how a fusion weighed its adapters, `[batch, seq, adapters]`, if this pass records.
    pub fn record_attention(&self, scores: impl FnOnce() -> Tensor<3>) {
        self.record(|fusion| Recorded::FusionAttention {
            fusion,
            scores: scores(),
        });
    }

    fn record(&self, value: impl FnOnce(String) -> Recorded) {
        if let Some(recorder) = &self.pass.recorder {
            recorder.add(self.site, value(self.adapter.to_owned()));
        }
    }

    /// What `make` computes from the shared parameters of the adapter: once in a pass, however many of its layers ask for
    /// `what`. In training it is one node of the graph, and its gradient the sum over all layers that asked.
    pub fn once<const D: usize>(&self, what: &'static str, make: impl FnOnce() -> Tensor<D>) -> Tensor<D> {
        self.pass.memo.once(self.adapter, what, make)
    }
}
