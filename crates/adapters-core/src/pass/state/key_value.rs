//! Keys and values of an attention, which may get longer than the sequence they come from.

use adapters_nn::ops::causal_bias;
use burn::tensor::Tensor;

use super::hook_state::{HookState, NoWeight};
use super::positions::Positions;
use super::rows::{Rows, join_deltas, take};

/// State of an attention's keys and values, after projection and position encoding.
///
/// The keys are those of the whole sequence. In generation with a cache a model hands over what it remembers and what is
/// new, joined, and remembers what it had before the hook: so an adapter that puts keys in front has them in front of the
/// whole sequence in every step, once.
#[derive(Clone, Debug)]
pub struct KeyValueState {
    /// `[batch, heads, seq_k, d_head]`.
    pub key: Tensor<4>,
    /// `[batch, heads, seq_k, d_head]`.
    pub value: Tensor<4>,
    /// What the attention adds to its scores: the least finite number where a query may not see a key, and position
    /// biases. `[batch, heads, seq_q, seq_k]`, where each of the first three may be one; `None` for nothing.
    pub bias: Option<Tensor<4>>,
    /// Input of the attention block, `[batch, seq_q, d_model]`.
    pub input: Tensor<3>,
    /// What the front of a row is filled with, and seen, when it is joined with longer ones; `None` for a filling that is
    /// not seen.
    pub filler: Option<f32>,
    /// What a query reaches; `None` for all. The bias says it of the keys that are there.
    pub window: Option<Window>,
    /// For each row, how many of its keys are such a filling that is not seen; empty where no row has any.
    pub filled: Vec<usize>,
    /// What reads the keys, after position encoding, `[batch, query_heads, seq_q, d_head]`; `None` where the attention does not
    /// tell.
    pub query: Option<Tensor<4>>,
    /// What adapters add to what the attention reads, before its output projection, `[batch, seq_q, query_heads * d_head]`.
    pub added: Option<Tensor<3>>,
}

/// How many keys a query reaches, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// A key in front of the text that no query reaches is there and not seen.
    Hiding(usize),
    /// It is left out.
    Dropping(usize),
}

impl Window {
    /// The number of keys.
    pub fn size(self) -> usize {
        let (Self::Hiding(size) | Self::Dropping(size)) = self;
        size
    }

    /// How many of `front` keys in front of the text are there.
    fn kept(self, front: usize) -> usize {
        match self {
            // The cache that the reference takes this from keeps all behind a window of one.
            Self::Hiding(_) | Self::Dropping(1) => front,
            Self::Dropping(size) => front.min(size.saturating_sub(1)),
        }
    }
}

impl KeyValueState {
    /// Keys and values of an attention whose block got `input`, all of which may be seen.
    pub fn new(key: Tensor<4>, value: Tensor<4>, input: Tensor<3>) -> Self {
        Self {
            key,
            value,
            bias: None,
            input,
            filler: None,
            window: None,
            filled: Vec::new(),
            query: None,
            added: None,
        }
    }

    /// With what reads the keys, `[batch, query_heads, seq_q, d_head]`.
    #[must_use]
    pub fn with_query(self, query: Tensor<4>) -> Self {
        Self {
            query: Some(query),
            ..self
        }
    }

    /// With something more added to what the attention reads, `[batch, seq_q, query_heads * d_head]`.
    #[must_use]
    pub fn plus(self, added: Tensor<3>) -> Self {
        Self {
            added: Some(match self.added {
                Some(before) => before + added,
                None => added,
            }),
            ..self
        }
    }

    /// With what a query reaches.
    #[must_use]
    pub fn with_window(self, window: Option<Window>) -> Self {
        Self { window, ..self }
    }

    /// With what the attention adds to its scores.
    #[must_use]
    pub fn with_bias(self, bias: Option<Tensor<4>>) -> Self {
        Self { bias, ..self }
    }

    /// With the id of the padding token, which the reference fills the front of shorter rows with.
    #[must_use]
    pub fn with_filler(self, padding_id: usize) -> Self {
        Self {
            filler: Some(padding_id as f32),
            ..self
        }
    }

    /// With keys and values in front that every query sees, whatever the bias of the others.
    ///
    /// # Shapes
    ///
    /// Both `[batch, heads, n, d_head]`.
    ///
    /// # Panics
    ///
    /// Panics on other shapes.
    #[must_use]
    pub fn with_front(self, key: Tensor<4>, value: Tensor<4>) -> Self {
        let front = key.dims()[2];
        let bias = self.bias.clone().map(|bias| lengthened(bias, front, 0.0));
        self.put_in_front(key, value, bias)
    }

    /// With keys and values in front that stand at the first positions of the sequence, so that a query whose window does
    /// not reach them does not see them.
    ///
    /// # Shapes
    ///
    /// Both `[batch, heads, n, d_head]`.
    ///
    /// # Panics
    ///
    /// Panics on other shapes.
    #[must_use]
    pub fn with_first_positions(self, key: Tensor<4>, value: Tensor<4>) -> Self {
        let Some((window, bias)) = self.window.zip(self.bias.clone()) else {
            return self.with_front(key, value);
        };
        let ([_, _, front, _], [_, seq, _], [_, _, keys, _]) = (key.dims(), self.input.dims(), self.key.dims());
        let [batch, heads, _, _] = bias.dims();
        let seen = causal_bias(seq, front + keys - seq, Some(window.size()), None, &bias.device());
        let seen = seen.expand([batch, heads, seq, front + keys]).cast(bias.dtype());
        let kept = front - window.kept(front)..front;
        let own = bias.expand([batch, heads, seq, keys]);
        let bias = Tensor::cat(vec![seen.slice_dim(3, kept.clone()), own], 3);
        self.put_in_front(key.slice_dim(2, kept.clone()), value.slice_dim(2, kept), Some(bias))
    }

    fn put_in_front(self, key: Tensor<4>, value: Tensor<4>, bias: Option<Tensor<4>>) -> Self {
        Self {
            key: Tensor::cat(vec![key, self.key], 2),
            value: Tensor::cat(vec![value, self.value], 2),
            bias,
            ..self
        }
    }

    /// Filled in front to `keys` keys. A filler is seen, with a score raised by one, as in the reference.
    fn filled(self, keys: usize) -> Self {
        let [batch, heads, seq_k, d_head] = self.key.dims();
        let front = keys - seq_k;
        if front == 0 {
            return self;
        }
        let device = self.key.device();
        let filling = |like: &Tensor<4>| {
            let shape = [batch, heads, front, d_head];
            Tensor::full(shape, self.filler.unwrap_or_default(), (&device, like.dtype()))
        };
        let bias = self.bias.clone();
        let bias = bias.unwrap_or_else(|| Tensor::zeros([batch, 1, 1, seq_k], (&device, self.key.dtype())));
        let (raised, filled) = match self.filler {
            Some(_) => (1.0, self.filled.clone()),
            None => (f32::MIN, vec![front; batch]),
        };
        Self {
            bias: Some(lengthened(bias, front, raised)),
            key: Tensor::cat(vec![filling(&self.key), self.key.clone()], 2),
            value: Tensor::cat(vec![filling(&self.value), self.value.clone()], 2),
            filled,
            ..self
        }
    }
    /// How many keys of each row fill it up unseen.
    fn filled_by_row(&self) -> Vec<usize> {
        match self.filled.is_empty() {
            true => vec![0; self.key.dims()[0]],
            false => self.filled.clone(),
        }
    }
}

/// A bias with `front` more keys in front, all with one value.
fn lengthened(bias: Tensor<4>, front: usize, value: f32) -> Tensor<4> {
    let [batch, heads, seq_q, _] = bias.dims();
    let options = (&bias.device(), bias.dtype());
    Tensor::cat(
        vec![Tensor::full([batch, heads, seq_q, front], value, options), bias],
        3,
    )
}

/// Biases of batches with as many keys, joined; one that is absent counts as zero next to one that is not.
fn join_biases(chunks: &[KeyValueState]) -> Option<Tensor<4>> {
    let given = || chunks.iter().filter_map(|chunk| chunk.bias.as_ref());
    let largest = |axis: usize| given().map(|bias| bias.dims()[axis]).max();
    let (heads, seq_q) = (largest(1)?, largest(2)?);
    let same = chunks.iter().map(|chunk| {
        let [batch, _, keys, _] = chunk.key.dims();
        let zeros = || Tensor::zeros([1, 1, 1, keys], (&chunk.key.device(), chunk.key.dtype()));
        let bias = chunk.bias.clone().unwrap_or_else(zeros);
        bias.expand([batch, heads, seq_q, keys])
    });
    Some(Tensor::cat(same.collect(), 0))
}

impl Rows for KeyValueState {
    fn take_rows(&self, rows: &[usize]) -> Self {
        Self {
            key: take(&self.key, rows),
            value: take(&self.value, rows),
            bias: self.bias.as_ref().map(|bias| match bias.dims()[0] {
                1 => bias.clone(),
                _ => take(bias, rows),
            }),
            input: take(&self.input, rows),
            filler: self.filler,
            window: self.window,
            filled: match self.filled.is_empty() {
                true => Vec::new(),
                false => rows.iter().map(|row| self.filled[*row]).collect(),
            },
            query: self.query.as_ref().map(|query| take(query, rows)),
            added: self.added.as_ref().map(|added| take(added, rows)),
        }
    }

    /// Rows with fewer keys than others are filled in front.
    fn join_rows(chunks: Vec<Self>) -> Self {
        let longest = chunks.iter().map(|chunk| chunk.key.dims()[2]).max().unwrap_or_default();
        let chunks: Vec<Self> = chunks.into_iter().map(|chunk| chunk.filled(longest)).collect();
        let filled = match chunks.iter().all(|chunk| chunk.filled.is_empty()) {
            true => Vec::new(),
            false => chunks.iter().flat_map(Self::filled_by_row).collect(),
        };
        let each = |of: fn(&Self) -> Tensor<4>| Tensor::cat(chunks.iter().map(of).collect(), 0);
        let queries: Option<Vec<_>> = chunks.iter().map(|chunk| chunk.query.clone()).collect();
        Self {
            key: each(|chunk| chunk.key.clone()),
            value: each(|chunk| chunk.value.clone()),
            bias: join_biases(&chunks),
            input: Tensor::cat(chunks.iter().map(|chunk| chunk.input.clone()).collect(), 0),
            filler: chunks[0].filler,
            window: chunks[0].window,
            filled,
            query: queries.map(|queries| Tensor::cat(queries, 0)),
            added: join_deltas(chunks.iter().map(|chunk| (chunk.rows(), chunk.added.clone())).collect()),
        }
    }
}

/// Keys and values are seen from every position.
impl Positions for KeyValueState {}

impl HookState for KeyValueState {
    type Output = Self;
    type Weight = NoWeight;
    type Effect = ();

    fn rows(&self) -> usize {
        self.key.dims()[0]
    }

    fn apart(self) -> Self {
        Self { filler: None, ..self }
    }

    fn finish(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData, Tolerance};

    use super::*;
    use adapters_nn::ops;

    fn state(keys: usize, bias: Option<Tensor<4>>) -> KeyValueState {
        let device = Device::flex();
        let random = |shape| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let input = Tensor::random([1, 3, 8], Distribution::Normal(0.0, 1.0), &device);
        KeyValueState::new(random([1, 2, keys, 4]), random([1, 2, keys, 4]), input)
            .with_bias(bias)
            .with_filler(1)
    }

    #[test]
    fn rows_of_unequal_length_are_filled_in_front() {
        let bias = Tensor::<4>::from_data(TensorData::from([[[[0.0f32, -5.0]]]]), &Device::flex());
        let (short, long) = (state(2, Some(bias)), state(3, None));
        let joined = KeyValueState::join_rows(vec![short.clone(), long.clone()]);
        assert_eq!(joined.key.dims(), [2, 2, 3, 4]);
        let first = joined.take_rows(&[0]);
        let filling = first.value.clone().slice_dim(2, 0..1).into_data();
        assert_eq!(filling, TensorData::new(vec![1.0f32; 8], [1, 2, 1, 4]));
        assert_eq!(first.key.slice_dim(2, 1..3).into_data(), short.key.into_data());
        let bias = joined.bias.expect("a row was filled").into_data();
        assert_eq!(
            bias,
            TensorData::new(vec![1.0f32, 0.0, -5.0, 0.0, 0.0, 0.0], [2, 1, 1, 3])
        );
        let second = joined.key.slice_dim(0, 1..2).into_data();
        assert_eq!(second, long.key.into_data());
    }

    #[test]
    fn rows_apart_do_not_see_their_filling() {
        let joined = KeyValueState::join_rows(vec![state(2, None).apart(), state(3, None).apart()]);
        let bias = joined.bias.expect("a row was filled").into_data();
        assert_eq!(
            bias,
            TensorData::new(vec![f32::MIN, 0.0, 0.0, 0.0, 0.0, 0.0], [2, 1, 1, 3])
        );
    }

    #[test]
    fn rows_of_one_length_without_a_bias_get_none() {
        assert!(
            KeyValueState::join_rows(vec![state(2, None), state(2, None)])
                .bias
                .is_none()
        );
    }

    #[test]
    fn what_is_in_front_is_seen_and_padding_stays_hidden() {
        let device = Device::flex();
        let bias = Tensor::<4>::from_data(TensorData::from([[[[0.0f32, f32::MIN]]]]), &device);
        let (own, front) = (state(2, Some(bias)), state(2, None));
        let query = Tensor::<4>::random([1, 2, 3, 4], Distribution::Normal(0.0, 1.0), &device);
        let with = own.clone().with_front(front.key.clone(), front.value.clone());
        let got = ops::attention(query.clone(), with.key, with.value, with.bias, None);
        let seen =
            |own: &Tensor<4>, front: &Tensor<4>| Tensor::cat(vec![front.clone(), own.clone().slice_dim(2, 0..1)], 2);
        let want = ops::attention(
            query,
            seen(&own.key, &front.key),
            seen(&own.value, &front.value),
            None,
            None,
        );
        got.into_data()
            .assert_approx_eq::<f32>(&want.into_data(), Tolerance::absolute(1e-6));
    }
}
