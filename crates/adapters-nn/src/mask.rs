//! What a query may see, and where the tokens of a decoder stand.

use burn::tensor::{Bool, Device, Int, Tensor};

/// What each query of a decoder may see, as a bias of its scores: keys that are not later than itself, not beyond its window
/// and not padding.
///
/// `seq` queries stand behind `past` earlier keys. `padding` is true at padding among all keys, `[batch, past + seq]`; with a
/// `window`, a query sees that many keys, itself included.
///
/// # Shapes
///
/// Returns `[1 or batch, 1, seq, past + seq]`.
///
/// # Panics
///
/// Panics if `padding` is not `past + seq` wide.
pub fn causal_bias(
    seq: usize,
    past: usize,
    window: Option<usize>,
    padding: Option<&Tensor<2, Bool>>,
    device: &Device,
) -> Tensor<4> {
    let keys = past + seq;
    let mut hidden = Tensor::<2, Bool>::tril_mask([seq, keys], past as i64, device);
    if let Some(window) = window.filter(|window| *window < keys) {
        let first = past as i64 - window as i64 + 1;
        hidden = hidden.bool_or(Tensor::triu_mask([seq, keys], first, device));
    }
    bias(hidden, padding)
}

/// [`causal_bias`] where later keys are hidden more than padding: a query that sees nothing, which stands in the padding in front of
/// a text, reads the mean of the keys up to itself, and not of all keys. GPT-2 of transformers hides later keys in every layer again.
///
/// # Shapes
///
/// Returns `[1 or batch, 1, seq, past + seq]`.
///
/// # Panics
///
/// Panics if `padding` is not `past + seq` wide.
pub fn causal_bias_over_padding(
    seq: usize,
    past: usize,
    padding: Option<&Tensor<2, Bool>>,
    device: &Device,
) -> Tensor<4> {
    let causal = causal_bias(seq, past, None, None, device);
    let Some(padding) = padding else { return causal };
    let ([batch, keys], [_, _, seq, _]) = (padding.dims(), causal.dims());
    let shape = [batch, 1, seq, keys];
    let padding = padding.clone().float().reshape([batch, 1, 1, keys]) * (f32::MIN / 2.0);
    causal.expand(shape).min_pair(padding.expand(shape))
}

/// A bias of scores, `[1 or batch, 1, seq, seq]`, that also hides from each query the keys of other texts in its row. `texts` is
/// the text that each position belongs to, `[batch, seq]`.
///
/// # Shapes
///
/// Returns `[batch, 1, seq, seq]`.
///
/// # Panics
///
/// Panics if `bias` is of other positions than `texts`.
pub fn packed_bias(bias: Tensor<4>, texts: &Tensor<2, Int>) -> Tensor<4> {
    let [batch, seq] = texts.dims();
    let shape = [batch, 1, seq, seq];
    let queries = texts.clone().reshape([batch, 1, seq, 1]).expand(shape);
    let keys = texts.clone().reshape([batch, 1, 1, seq]).expand(shape);
    bias.expand(shape).mask_fill(queries.not_equal(keys), f32::MIN)
}

/// What each query of an encoder may see, as a bias of its scores: keys that are at most `reach` positions away from itself
/// and not padding. `padding` is true at padding, `[batch, seq]`.
///
/// # Shapes
///
/// Returns `[1 or batch, 1, seq, seq]`.
///
/// # Panics
///
/// Panics if `padding` is not `seq` wide.
pub fn window_bias(seq: usize, reach: usize, padding: Option<&Tensor<2, Bool>>, device: &Device) -> Tensor<4> {
    let behind = Tensor::<2, Bool>::tril_mask([seq, seq], reach as i64, device);
    bias(
        behind.bool_or(Tensor::triu_mask([seq, seq], -(reach as i64), device)),
        padding,
    )
}

/// The bias of what is hidden, `[seq, keys]`, and of padding among the keys, `[batch, keys]`.
fn bias(hidden: Tensor<2, Bool>, padding: Option<&Tensor<2, Bool>>) -> Tensor<4> {
    let [seq, keys] = hidden.dims();
    let mut hidden: Tensor<4, Bool> = hidden.unsqueeze();
    if let Some(padding) = padding {
        let [batch, _] = padding.dims();
        let padding = padding.clone().reshape([batch, 1, 1, keys]);
        hidden = hidden
            .expand([batch, 1, seq, keys])
            .bool_or(padding.expand([batch, 1, seq, keys]));
    }
    // One finite number, never a sum of two, so that a row that sees nothing is a mean and not a division by zero.
    hidden.float() * f32::MIN
}

/// Positions of the last `seq` of `past + seq` tokens. Padding in front of a token does not count; padding behind the last one
/// does, as in the reference. `padding` is that of all tokens, `[batch, past + seq]`.
///
/// # Shapes
///
/// Returns `[1 or batch, seq]`.
pub fn positions(seq: usize, past: usize, padding: Option<&Tensor<2, Bool>>, device: &Device) -> Tensor<2, Int> {
    let all = Tensor::<1, Int>::arange(0..(past + seq) as i64, device).unsqueeze::<2>();
    let Some(padding) = padding else {
        return all.slice_dim(1, past..past + seq);
    };
    let [batch, keys] = padding.dims();
    let before = padding.clone().int().cumsum(1);
    // Padding before the last token.
    let most = (before.clone() * padding.clone().bool_not().int()).max_dim(1);
    let shift = before.min_pair(most.expand([batch, keys]));
    let all = all.expand([batch, keys]) - shift;
    all.clamp_min(0).slice_dim(1, past..past + seq)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn bools<const N: usize>(rows: [[bool; N]; 2]) -> Tensor<2, Bool> {
        Tensor::from_data(TensorData::from(rows), &Device::flex())
    }

    /// Which keys each query sees, row after row.
    fn seen(bias: Tensor<4>) -> Vec<bool> {
        bias.into_data().iter::<f32>().map(|bias| bias == 0.0).collect()
    }

    #[test]
    fn a_query_sees_its_neighborhood_and_no_padding() {
        let device = Device::flex();
        let padding = Tensor::<2, Bool>::from_data(TensorData::from([[false, false, false, true]]), &device);
        let bias = window_bias(4, 1, Some(&padding), &device).equal_elem(0.0).int();
        let seen = TensorData::from([[[[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]]]);
        bias.into_data().assert_eq(&seen, false);
    }

    #[test]
    fn a_query_sees_the_past_within_its_window_and_no_padding() {
        let device = Device::flex();
        let bias = causal_bias(2, 2, Some(2), None, &device);
        assert_eq!(seen(bias), [false, true, true, false, false, false, true, true]);
        let padding = bools([[true, false, false], [false, false, true]]);
        let bias = causal_bias(3, 0, None, Some(&padding), &device);
        let rows = [
            [false, false, false],
            [false, true, false],
            [false, true, true],
            [true, false, false],
            [true, true, false],
            [true, true, false],
        ];
        assert_eq!(seen(bias), rows.concat());
    }

    #[test]
    fn a_query_in_padding_reads_the_padding_up_to_itself() {
        let device = Device::flex();
        let padding = bools([[true, true, false], [false, false, true]]);
        let bias = causal_bias_over_padding(3, 0, Some(&padding), &device);
        let read: Vec<f32> = burn::tensor::activation::softmax(bias, 3).into_data().iter().collect();
        let rows = [
            [1.0, 0.0, 0.0],
            [0.5, 0.5, 0.0],
            [0.0, 0.0, 1.0],
            [1.0, 0.0, 0.0],
            [0.5, 0.5, 0.0],
            [0.5, 0.5, 0.0],
        ];
        assert_eq!(read, rows.concat());
    }

    #[test]
    fn a_query_of_packed_texts_sees_its_own_text() {
        let device = Device::flex();
        let texts = Tensor::<2, Int>::from_data(TensorData::from([[0, 0, 1], [0, 1, 1]]), &device);
        let bias = packed_bias(causal_bias(3, 0, None, None, &device), &texts);
        let rows = [
            [true, false, false],
            [true, true, false],
            [false, false, true],
            [true, false, false],
            [false, true, false],
            [false, true, true],
        ];
        assert_eq!(seen(bias), rows.concat());
    }

    #[test]
    fn positions_count_tokens_and_the_padding_behind_them() {
        let padding = bools([[true, true, false, false], [false, false, true, true]]);
        let at = |seq, past| positions(seq, past, Some(&padding), &Device::flex()).into_data();
        at(4, 0).assert_eq(&TensorData::from([[0, 0, 0, 1], [0, 1, 2, 3]]), false);
        at(1, 3).assert_eq(&TensorData::from([[1], [3]]), false);
        positions(2, 3, None, &Device::flex())
            .into_data()
            .assert_eq(&TensorData::from([[3, 4]]), false);
    }
}
