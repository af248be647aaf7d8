//! Which positions of a row are edited: the first and the last ones that are not padding.

use burn::tensor::{Bool, Int, Tensor};

/// Positions of each row of a batch, and which of them to edit.
pub(crate) struct Positions {
    /// Places in the rows at hand, `[batch, n]`; within them everywhere.
    index: Tensor<2, Int>,
    /// True where there is nothing to edit, `[batch, n]`.
    none: Tensor<2, Bool>,
}

/// Where the text of each row of a batch is, `[batch, 1]`: its first position and the one after its last.
pub(crate) struct Span {
    first: Tensor<2, Int>,
    end: Tensor<2, Int>,
    /// Positions a cache holds before the rows at hand.
    past: usize,
    /// Positions at hand.
    seq: usize,
    /// Where the prompt ends, if the positions after it were generated.
    until: Option<usize>,
}

impl Span {
    /// From the padding of whole rows, `[batch, past + seq]`, true at padding; without one the rows are all text. Positions
    /// from `until` on were generated, and the text is what is before them.
    ///
    /// In the decoder of an encoder-decoder it is the encoder's padding, as in the reference; what lies beyond the
    /// decoder's own rows is left out.
    pub fn new(hidden: &Tensor<3>, padding: Option<&Tensor<2, Bool>>, past: usize, until: Option<usize>) -> Self {
        let [batch, seq, _] = hidden.dims();
        let (first, end) = match padding {
            Some(padding) => {
                let all = padding.dims()[1] as i64;
                let places = Tensor::<1, Int>::arange(0..all, &padding.device()).unsqueeze_dim::<2>(0);
                let places = places.expand([batch as i64, all]);
                // A row of nothing but padding has no first position: it begins beyond everything.
                let first = places.clone().mask_fill(padding.clone(), all + seq as i64).min_dim(1);
                let end = (places + 1).mask_fill(padding.clone(), 0).max_dim(1);
                (first, end)
            }
            None => {
                let zeros = Tensor::<2, Int>::zeros([batch, 1], &hidden.device());
                (zeros.clone(), zeros + (past + seq) as i64)
            }
        };
        let end = match until {
            Some(until) => end.clamp_max(until as i64),
            None => end,
        };
        Self {
            first,
            end,
            past,
            seq,
            until,
        }
    }

    /// The first `count` positions of each row, without the last `last` ones: those are edited as such.
    pub fn prefix(&self, count: usize, last: usize) -> Positions {
        let wanted = self.row(count) + self.first.clone();
        let from = self.end.clone() - last as i64;
        let taken = wanted.clone().greater_equal(from.expand(wanted.dims()));
        let taken = taken.bool_and(wanted.clone().lower(self.end.clone().expand(wanted.dims())));
        self.at_hand(wanted, Some(taken))
    }

    /// The last `count` positions of each row.
    pub fn suffix(&self, count: usize) -> Positions {
        self.at_hand(self.row(count) + self.end.clone() - count as i64, None)
    }

    /// `[1, count]`: 0, 1, ..
    fn row(&self, count: usize) -> Tensor<2, Int> {
        Tensor::<1, Int>::arange(0..count as i64, &self.first.device()).unsqueeze_dim(0)
    }

    /// Those of the wanted positions that are at hand, less what is taken.
    fn at_hand(&self, wanted: Tensor<2, Int>, taken: Option<Tensor<2, Bool>>) -> Positions {
        let index = wanted - self.past as i64;
        let last = self.seq as i64 - 1;
        let mut none = index.clone().lower_elem(0).bool_or(index.clone().greater_elem(last));
        if let Some(until) = self.until {
            none = none.bool_or(index.clone().greater_equal_elem(until as i64 - self.past as i64));
        }
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
    /// All of these and then all of those.
    pub fn and(self, other: Self) -> Self {
        Self {
            index: Tensor::cat(vec![self.index, other.index], 1),
            none: Tensor::cat(vec![self.none, other.none], 1),
        }
    }

    /// The states at these positions, `[batch, seq, d_model] -> [batch, n, d_model]`.
    pub fn gather(&self, hidden: &Tensor<3>) -> Tensor<3> {
        hidden.clone().gather(1, self.wide(hidden.dims()[2]))
    }

    /// `hidden` with `change` added at these positions, where there is something to edit.
    pub fn add(&self, hidden: Tensor<3>, change: Tensor<3>) -> Tensor<3> {
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
        let span = Span::new(&hidden, masked.then_some(&padding), 0, None);
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
        assert_eq!(edited(&["xxx"], 2, 0, true), ["..."]);
    }

    #[test]
    fn positions_in_a_cache_are_done() {
        let device = Device::flex();
        let hidden = Tensor::<3>::zeros([1, 1, 1], &device);
        let span = Span::new(&hidden, None, 4, None);
        let one = Tensor::<3>::ones([1, 3, 1], &device);
        let sum = |x: Tensor<3>| x.sum().into_scalar::<f32>();
        assert_eq!(sum(span.prefix(3, 0).add(hidden.clone(), one.clone())), 0.0);
        assert_eq!(sum(span.suffix(3).add(hidden, one)), 1.0);
    }
    #[test]
    fn what_was_generated_is_no_text() {
        let device = Device::flex();
        let hidden = Tensor::<3>::zeros([1, 5, 1], &device);
        let span = Span::new(&hidden, None, 0, Some(3));
        let edited = |positions: Positions, count: usize| {
            let ones = Tensor::<3>::ones([1, count, 1], &device);
            positions
                .add(hidden.clone(), ones)
                .into_data()
                .iter::<f32>()
                .collect::<Vec<_>>()
        };
        assert_eq!(edited(span.prefix(4, 0), 4), [1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(edited(span.suffix(1), 1), [0.0, 0.0, 1.0, 0.0, 0.0]);
    }
}
