//! Sequences that an adapter makes longer: positions put in among the embedded tokens.

use burn::tensor::{Bool, Tensor};

use super::fields::by_fields;
use super::hook_state::{HookState, NoWeight};
use super::positions::Positions;

/// State of the embedded tokens, which an adapter may make more of: see [`insert`](Self::insert).
#[derive(Clone, Debug)]
pub struct EmbeddingState {
    /// `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// True at padding, `[batch, past + seq]`; `None` when there is none.
    pub padding: Option<Tensor<2, Bool>>,
    /// Positions before these that a cache holds, inserted ones included.
    pub past: usize,
    /// What adapters inserted, in the order they did.
    pub inserted: Vec<Inserted>,
    /// What an adapter takes along next to the hidden state, from layer to layer, `[batch, seq, d_model]`.
    pub carried: Option<Tensor<3>>,
}

/// Positions an adapter put into every row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// The position, in the sequence as it was, before which they stand.
    pub at: usize,
    /// How many.
    pub count: usize,
}

impl Inserted {
    /// Where position `t` of the sequence as it was is now.
    pub fn moved(self, t: usize) -> usize {
        match t < self.at {
            true => t,
            false => t + self.count,
        }
    }
}

by_fields!(EmbeddingState {
    hidden: tensor,
    padding: optional,
    past: whole,
    inserted: whole,
    carried: delta,
});

/// What enters a model as a whole has no chunks along the sequence.
impl Positions for EmbeddingState {}

impl HookState for EmbeddingState {
    type Output = Self;
    type Weight = NoWeight;
    type Effect = ();

    const FIRST_ONLY: bool = true;

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    fn finish(self) -> Self {
        self
    }
}

impl EmbeddingState {
    /// Embedded tokens of whole rows.
    ///
    /// # Shapes
    ///
    /// `hidden [batch, seq, d_model]`, `padding [batch, seq]`.
    pub fn new(hidden: Tensor<3>, padding: Option<Tensor<2, Bool>>) -> Self {
        Self {
            hidden,
            padding,
            past: 0,
            inserted: Vec::new(),
            carried: None,
        }
    }

    /// The same after `past` positions that a cache holds. The padding then covers the text of those too, and what was
    /// inserted among them counts as cached.
    #[must_use]
    pub fn after(self, past: usize) -> Self {
        Self { past, ..self }
    }

    /// With `vectors` put in before position `at` of every row: the model sees longer rows. Nothing where a cache holds
    /// them already; the padding grows in both cases, by real positions in front of each row (also where `at` is not 0,
    /// as in the reference).
    ///
    /// # Shapes
    ///
    /// `vectors [count, d_model]`; `hidden` becomes `[batch, count + seq, d_model]`.
    ///
    /// # Panics
    ///
    /// Panics if the vectors have another width, or if `at` is beyond the rows.
    #[must_use]
    pub fn insert(self, at: usize, vectors: Tensor<2>) -> Self {
        let [batch, _, d_model] = self.hidden.dims();
        let [count, _] = vectors.dims();
        self.insert_by_row(at, vectors.unsqueeze_dim::<3>(0).expand([batch, count, d_model]))
    }

    /// As [`insert`](Self::insert), of other vectors for each row, `[batch, count, d_model]`.
    ///
    /// # Panics
    ///
    /// Panics if the vectors have another width or other rows, or if `at` is beyond the positions.
    #[must_use]
    pub fn insert_by_row(mut self, at: usize, vectors: Tensor<3>) -> Self {
        let [batch, seq, _] = self.hidden.dims();
        let [_, count, _] = vectors.dims();
        if self.past == 0 {
            let mut chunks = vec![vectors];
            if at > 0 {
                chunks.insert(0, self.hidden.clone().slice_dim(1, 0..at));
            }
            if at < seq {
                chunks.push(self.hidden.slice_dim(1, at..seq));
            }
            self.hidden = Tensor::cat(chunks, 1);
        }
        self.padding = self.padding.map(|padding| {
            let real = Tensor::<2, Bool>::full([batch, count], false, &padding.device());
            Tensor::cat(vec![real, padding], 1)
        });
        self.inserted.push(Inserted { at, count });
        self
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn values(state: &EmbeddingState) -> Vec<f32> {
        state.hidden.to_data().iter().collect()
    }

    fn padding(state: &EmbeddingState) -> Vec<bool> {
        let padding = state.padding.as_ref().unwrap();
        padding.to_data().iter().collect()
    }

    /// Two rows of three positions, the second padded, and two vectors, all of width one.
    fn example() -> (EmbeddingState, Tensor<2>) {
        let device = Device::flex();
        let hidden = Tensor::<3>::from_data([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]], &device);
        let padded = TensorData::from([[false, false, false], [false, true, true]]);
        let padding = Tensor::<2, Bool>::from_data(padded, &device);
        let vectors = Tensor::<2>::from_data([[8.0], [9.0]], &device);
        (EmbeddingState::new(hidden, Some(padding)), vectors)
    }

    #[test]
    fn rows_and_padding_grow_and_positions_move() {
        let (state, vectors) = example();
        let front = state.clone().insert(0, vectors.clone());
        assert_eq!(values(&front), [8.0, 9.0, 1.0, 2.0, 3.0, 8.0, 9.0, 4.0, 5.0, 6.0]);
        let padded = [false, false, false, false, false, false, false, false, true, true];
        assert_eq!(padding(&front), padded);
        let later = state.insert(1, vectors.clone());
        assert_eq!(values(&later), [1.0, 8.0, 9.0, 2.0, 3.0, 4.0, 8.0, 9.0, 5.0, 6.0]);
        assert_eq!(padding(&later), padded);
        assert_eq!(later.inserted, [Inserted { at: 1, count: 2 }]);
        assert_eq!([0, 1, 2].map(|t| later.inserted[0].moved(t)), [0, 3, 4]);
    }

    #[test]
    fn what_a_cache_holds_is_not_put_in_again() {
        let (state, vectors) = example();
        let cached = state.after(7).insert(0, vectors);
        assert_eq!(values(&cached), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(padding(&cached).len(), 10);
    }

    #[test]
    fn rows_without_padding_stay_so() {
        let (state, vectors) = example();
        let state = EmbeddingState { padding: None, ..state };
        let longer = state.insert(3, vectors);
        assert!(longer.padding.is_none());
        assert_eq!(values(&longer)[..5], [1.0, 2.0, 3.0, 8.0, 9.0]);
    }
}
