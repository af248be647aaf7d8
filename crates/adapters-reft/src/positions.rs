//! Which positions of a row are edited: the first and the last ones that are not padding.

use adapters_core::Pass;
use burn::tensor::{Bool, Int, Tensor};

/// Positions of each row of a batch, and which of them to edit.
pub(crate) struct Positions {
    /// Indices into the rows given, `[batch, n]`; clamped to them.
    index: Tensor<2, Int>,
    /// True where there is nothing to edit, `[batch, n]`.
    none: Tensor<2, Bool>,
}

/// The real positions of each row of a batch. Counted without padding before the text, they are `0..end`; vectors that an
/// adapter inserted before the padding come first.
pub(crate) struct Span {
    /// Padding between inserted vectors and the text, `[batch, 1]`.
    shift: Tensor<2, Int>,
    /// Number of real positions of a row, `[batch, 1]`.
    end: Tensor<2, Int>,
    /// Positions up to the end of what was inserted.
    front: usize,
    /// Positions a cache holds before the rows given.
    past: usize,
    /// Positions of the rows given.
    seq: usize,
    /// Positions of the longest row that an edit may count: of the rows given, or of the text that they are generated from.
    longest: usize,
}

impl Span {
    /// From the padding mask of whole rows, `[batch, past + seq]`, true at padding; without one all positions are real.
    /// Generated tokens do not count: the rows end with the prompt, and an edit keeps its position while they grow.
    ///
    /// In the decoder of an encoder-decoder it is the encoder's padding, as in the `adapters` library; what lies beyond the
    /// decoder's own rows is left out.
    pub(crate) fn new(hidden: &Tensor<3>, padding: Option<&Tensor<2, Bool>>, pass: &Pass) -> Self {
        let [batch, seq, _] = hidden.dims();
        let past = pass.past;
        let inserted: usize = pass.inserted.iter().map(|inserted| inserted.count).sum();
        let prompt = pass.prompt.map_or(usize::MAX, |prompt| prompt + inserted);
        let front = inserted + pass.inserted.iter().map(|inserted| inserted.at).max().unwrap_or(0);
        let known = padding.map_or(0, |padding| padding.dims()[1]);
        let (shift, end) = match padding {
            Some(padding) => {
                let all = padding.dims()[1].min(prompt);
                let padding = padding.clone().slice_dim(1, 0..all);
                let indices = Tensor::<1, Int>::arange(0..all as i64, &padding.device()).unsqueeze_dim::<2>(0);
                let indices = indices.expand([batch, all]);
                let no_text = padding.clone().bool_or(indices.clone().lower_elem(front as i64));
                let shift = indices.mask_fill(no_text, i64::from(i32::MAX)).min_dim(1) - front as i64;
                // Rows without text have none before it.
                let shift = shift.clone().mask_fill(shift.greater_elem(all as i64), 0);
                // Padding inside a row shortens it, as in the reference.
                let end = padding.bool_not().int().sum_dim(1);
                (shift, end)
            }
            None => {
                let zeros = Tensor::<2, Int>::zeros([batch, 1], &hidden.device());
                (zeros.clone(), zeros + (past + seq).min(prompt) as i64)
            }
        };
        Self {
            shift,
            end,
            front,
            past,
            seq,
            longest: known.max(past + seq),
        }
    }

    /// A number of positions, of which no row has more than the longest.
    pub(crate) fn at_most_all(&self, count: usize) -> usize {
        count.min(self.longest)
    }

    /// The first `count` positions of each row, without the last `last` ones, which have an edit of their own.
    pub(crate) fn prefix(&self, count: usize, last: usize) -> Positions {
        let wanted = self.row(count).expand([self.end.dims()[0], count]);
        let end = self.end.clone().expand(wanted.dims());
        let taken = wanted.clone().greater_equal(end.clone() - last as i64);
        let taken = taken.bool_and(wanted.clone().lower(end));
        self.among_rows(wanted, Some(taken))
    }

    /// The last `count` positions of each row.
    pub(crate) fn suffix(&self, count: usize) -> Positions {
        self.among_rows(self.row(count) + self.end.clone() - count as i64, None)
    }

    /// `[1, count]`: 0, 1, ..
    fn row(&self, count: usize) -> Tensor<2, Int> {
        Tensor::<1, Int>::arange(0..count as i64, &self.end.device()).unsqueeze_dim(0)
    }

    /// Indices of the wanted positions that the rows given have, except those already taken.
    fn among_rows(&self, wanted: Tensor<2, Int>, taken: Option<Tensor<2, Bool>>) -> Positions {
        let shift = self.shift.clone().expand(wanted.dims());
        let shift = match self.front {
            0 => shift,
            front => shift.mask_fill(wanted.clone().lower_elem(front as i64), 0),
        };
        let index = wanted + shift - self.past as i64;
        let last = self.seq as i64 - 1;
        let mut none = index.clone().lower_elem(0).bool_or(index.clone().greater_elem(last));
        if let Some(taken) = taken {
            none = none.bool_or(taken);
        }
        Positions {
            index: index.clamp(0, last),
            none,
        }
    }
}

impl Positions {
    /// These positions followed by the others.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            index: Tensor::cat(vec![self.index, other.index], 1),
            none: Tensor::cat(vec![self.none, other.none], 1),
        }
    }

    /// The states at these positions, `[batch, seq, d_model] -> [batch, n, d_model]`.
    pub(crate) fn gather(&self, hidden: &Tensor<3>) -> Tensor<3> {
        hidden.clone().gather(1, self.wide(hidden.dims()[2]))
    }

    /// `hidden` with `change` added at these positions, where there is something to edit.
    pub(crate) fn add(&self, hidden: Tensor<3>, change: Tensor<3>) -> Tensor<3> {
        let [batch, n, d_model] = change.dims();
        let none = self.none.clone().unsqueeze_dim::<3>(2).expand([batch, n, d_model]);
        let change = change.mask_fill(none, 0.0);
        hidden.scatter(1, self.wide(d_model), change, burn::tensor::IndexingUpdateOp::Add)
    }

    fn wide(&self, d_model: usize) -> Tensor<3, Int> {
        let [batch, n] = self.index.dims();
        self.index.clone().unsqueeze_dim::<3>(2).expand([batch, n, d_model])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// What is edited in rows of these lengths, `x` for padding: `p` by the prefix, `s` by the suffix.
    fn edited(rows: &[&str], prefix: usize, suffix: usize, masked: bool) -> Vec<String> {
        let device = Device::flex();
        let seq = rows[0].len();
        let flags: Vec<bool> = rows.iter().flat_map(|row| row.chars().map(|c| c == 'x')).collect();
        let padding = Tensor::<2, Bool>::from_data(TensorData::new(flags, [rows.len(), seq]), &device);
        let hidden = Tensor::<3>::zeros([rows.len(), seq, 1], &device);
        let span = Span::new(&hidden, masked.then_some(&padding), &Pass::default());
        let one = |count: usize, value: f32| Tensor::<3>::full([rows.len(), count, 1], value, &device);
        let hidden = span.prefix(prefix, suffix).add(hidden, one(prefix, 1.0));
        let hidden = match suffix {
            0 => hidden,
            _ => span.suffix(suffix).add(hidden, one(suffix, 2.0)),
        };
        let letter = |x: &f32| ['.', 'p', 's', '!'][*x as usize];
        let values: Vec<f32> = hidden.into_data().iter().collect();
        values.chunks(seq).map(|row| row.iter().map(letter).collect()).collect()
    }

    #[test]
    fn real_lengths_decide() {
        let rows = ["------", "----xx", "xx----"];
        assert_eq!(edited(&rows, 2, 1, true), ["pp...s", "pp.s..", "..pp.s"]);
        assert_eq!(edited(&rows, 2, 1, false), ["pp...s"; 3]);
    }

    #[test]
    fn the_suffix_wins_where_both_want_a_position() {
        assert_eq!(edited(&["----xx", "--xxxx"], 3, 2, true), ["ppss..", "ssp..."]);
        assert_eq!(edited(&["---"], 3, 3, true), ["sss"]);
    }

    #[test]
    fn what_is_outside_the_rows_is_left_out() {
        assert_eq!(edited(&["--xx", "xxx-"], 3, 2, true), ["ssp.", "..ss"]);
        assert_eq!(edited(&["-", "-"], 4, 0, false), ["p", "p"]);
        // A row of nothing but padding is edited at its beginning, as in the `adapters` library.
        assert_eq!(edited(&["xxx"], 2, 0, true), ["pp."]);
    }

    #[test]
    fn positions_in_a_cache_are_done() {
        let device = Device::flex();
        let hidden = Tensor::<3>::zeros([1, 1, 1], &device);
        let mut pass = Pass::default();
        pass.past = 4;
        let span = Span::new(&hidden, None, &pass);
        let one = Tensor::<3>::ones([1, 3, 1], &device);
        let sum = |x: Tensor<3>| x.sum().into_scalar::<f32>();
        assert_eq!(sum(span.prefix(3, 0).add(hidden.clone(), one.clone())), 0.0);
        assert_eq!(sum(span.suffix(3).add(hidden, one)), 1.0);
    }

    #[test]
    fn what_is_generated_does_not_count() {
        let device = Device::flex();
        let hidden = Tensor::<3>::zeros([1, 6, 1], &device);
        let one = Tensor::<3>::ones([1, 2, 1], &device);
        let edited = |pass: &Pass, padding: Option<&Tensor<2, Bool>>| {
            let edited = Span::new(&hidden, padding, pass)
                .suffix(2)
                .add(hidden.clone(), one.clone());
            edited.into_data().iter::<f32>().collect::<Vec<f32>>()
        };
        // Two vectors in front of a prompt of two, and two tokens generated.
        let mut pass = Pass::default();
        pass.prompt = Some(2);
        pass.inserted.push(adapters_core::Inserted { at: 0, count: 2 });
        let padding = Tensor::<2, Bool>::full([1, 6], false, &device);
        assert_eq!(edited(&pass, None), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(edited(&pass, Some(&padding)), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn padding_between_vectors_and_text_does_not_count() {
        let device = Device::flex();
        let hidden = Tensor::<3>::zeros([2, 6, 1], &device);
        let one = |value: f32| Tensor::<3>::full([2, 3, 1], value, &device);
        let mut pass = Pass::default();
        pass.inserted.push(adapters_core::Inserted { at: 0, count: 2 });
        // Two vectors, two positions of padding and two of text; and no padding.
        let flags: Vec<bool> = (0..12).map(|i| [2, 3].contains(&i)).collect();
        let padding = Tensor::<2, Bool>::from_data(TensorData::new(flags, [2, 6]), &device);
        let span = Span::new(&hidden, Some(&padding), &pass);
        let first: Vec<f32> = span
            .prefix(3, 0)
            .add(hidden.clone(), one(1.0))
            .into_data()
            .iter()
            .collect();
        assert_eq!(first, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        let last: Vec<f32> = span.suffix(3).add(hidden, one(1.0)).into_data().iter().collect();
        assert_eq!(last, [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }
}
