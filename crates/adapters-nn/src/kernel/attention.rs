//! Attention of all heads, a head of a text to a thread, in blocks of queries whose scores stay in the cache.
//!
//! The forward pass keeps the maximum and the sum of the exponentials of each row; the backward pass computes the weights
//! from them again. No matrix of `[seq_q, seq_k]` outlives its block.

use std::cmp::Ordering;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::philox::Mask;
use super::raw::{Mat, MatMut, product};
use super::simd::{self, Level, Map, Map2, Max, Product, Sum};
use super::threads;

/// Four axes at any strides in a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<'a> {
    /// Where the elements lie.
    pub data: &'a [f32],
    /// The first of them.
    pub offset: usize,
    /// Length of each axis.
    pub shape: [usize; 4],
    /// Distance of neighbors along each axis.
    pub strides: [isize; 4],
}

impl<'a> Strided<'a> {
    /// The numbers along the last axis at these indices of the others, which follow each other.
    pub(crate) fn row(&self, i: usize, j: usize, k: usize) -> &'a [f32] {
        let moves = [i, j, k].into_iter().zip(self.strides);
        let moved: isize = moves.map(|(index, stride)| index as isize * stride).sum();
        &self.data[(self.offset as isize + moved) as usize..][..self.shape[3]]
    }

    /// The matrix of the last two axes at these indices of the first two.
    fn matrix(&self, i: usize, j: usize) -> Mat<'a> {
        let offset = self.offset as isize + i as isize * self.strides[0] + j as isize * self.strides[1];
        let [_, _, rows, columns] = self.shape;
        // An offset before the start is refused by the check.
        let offset = usize::try_from(offset).unwrap_or(usize::MAX / 4);
        Mat::new(self.data, offset, [rows, columns], [self.strides[2], self.strides[3]])
    }
}

/// What an attention is made of; `bias` is dense, its axes are 1 or those of the scores, its last axis is `seq_k`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention<'a> {
    /// `[batch, heads, seq_q, d_head]`.
    pub query: Strided<'a>,
    /// `[batch, kv_heads, seq_k, d_head]`.
    pub key: Strided<'a>,
    /// `[batch, kv_heads, seq_k, d_value]`.
    pub value: Strided<'a>,
    /// `[batch | 1, heads | 1, seq_q | 1, seq_k]`.
    pub bias: Option<(&'a [f32], [usize; 4])>,
    /// Factor of the scores.
    pub scale: f32,
    /// Dropout of the weights.
    pub mask: Option<Mask>,
}

/// Scores of a block: half of a usual second-level cache goes to one matrix of them.
const BLOCK: usize = 1 << 15;

#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    group: usize,
    seq_q: usize,
    seq_k: usize,
    block: usize,
}

impl Attention<'_> {
    fn sizes(&self) -> Sizes {
        let [_, heads, seq_q, _] = self.query.shape;
        let [_, kv_heads, seq_k, _] = self.key.shape;
        Sizes {
            heads,
            group: heads / kv_heads.max(1),
            seq_q,
            seq_k,
            block: (BLOCK / seq_k.max(1)).clamp(16, self.most_rows()).min(seq_q),
        }
    }

    /// Queries of a block: few where each sees other keys, so that a block leaves out what none of its queries sees.
    fn most_rows(&self) -> usize {
        match self.bias {
            Some((_, [_, _, queries, _])) if queries > 1 => 32,
            _ => 256,
        }
    }

    /// The keys that some of `count` queries from `first` on see: those between the first and the last whose bias is not next
    /// to the least number. All, if one of the queries sees none, since its weights are then those of all keys.
    fn keys(&self, batch: usize, head: usize, first: usize, count: usize) -> Range<usize> {
        /// A bias below it leaves a weight of zero where any other key has one above it.
        const HIDDEN: f32 = -1e30;
        let all = 0..self.key.shape[2];
        let Some((_, [_, _, queries, _])) = self.bias else {
            return all;
        };
        let mut seen = all.end..0;
        for query in (first..first + count).take(if queries == 1 { 1 } else { count }) {
            let row = self.bias_row(batch, head, query).unwrap_or_default();
            // A number that is none is not hidden.
            let visible = |bias: &f32| !matches!(bias.partial_cmp(&HIDDEN), Some(Ordering::Less | Ordering::Equal));
            let (Some(start), Some(last)) = (row.iter().position(visible), row.iter().rposition(visible)) else {
                return all;
            };
            seen = seen.start.min(start)..seen.end.max(last + 1);
        }
        seen
    }

    /// Whether the numbers of each query, key and value follow each other.
    fn has_dense_rows(&self) -> bool {
        [self.query, self.key, self.value].iter().all(|x| x.strides[3] == 1)
    }

    fn operations(&self) -> usize {
        let [batch, heads, seq_q, d_head] = self.query.shape;
        batch * heads * seq_q * self.key.shape[2] * d_head
    }

    /// Row `query` of the bias of a head, if there is one, for all keys.
    fn bias_row(&self, batch: usize, head: usize, query: usize) -> Option<&[f32]> {
        let (bias, [b, h, q, k]) = self.bias?;
        let at = |index: usize, len: usize| if len == 1 { 0 } else { index };
        let row = (at(batch, b) * h + at(head, h)) * q + at(query, q);
        Some(&bias[row * k..][..k])
    }

    /// Applies the mask to the weights of `keys` of the queries from `first` on, row after row.
    fn drop_weights(
        &self,
        mask: Mask,
        level: Level,
        [batch, head, first]: [usize; 3],
        keys: &Range<usize>,
        weights: &mut [f32],
    ) {
        let Sizes {
            heads, seq_q, seq_k, ..
        } = self.sizes();
        let index = ((batch * heads + head) * seq_q + first) * seq_k;
        if keys.len() == seq_k {
            return mask.apply(level, index, weights);
        }
        for (row, weights) in weights.chunks_exact_mut(keys.len()).enumerate() {
            mask.apply(level, index + row * seq_k + keys.start, weights);
        }
    }

    /// Fills `out`, `[batch, seq_q, heads, d_value]`, and `rows`, the maximum and the sum of each row of weights,
    /// `[batch, heads, seq_q, 2]`.
    pub(crate) fn forward(&self, level: Level, out: &mut [f32], rows: &mut [f32]) {
        let [batch, heads, seq_q, _] = self.query.shape;
        let [_, _, _, width] = self.value.shape;
        let Sizes {
            group, seq_k, block, ..
        } = self.sizes();
        let operations = self.operations();
        if seq_q == 1 && self.mask.is_none() && self.has_dense_rows() {
            let outs = out.chunks_exact_mut(width.max(1)).zip(rows.chunks_exact_mut(2));
            let tasks: Vec<_> = outs.enumerate().collect();
            threads::tasks(
                tasks,
                operations,
                || vec![0.0; seq_k],
                |scores, (index, (out, rows))| {
                    let (batch, head) = (index / heads, index % heads);
                    let (max, sum) = level.run(OneQuery {
                        attention: self,
                        at: [batch, head, head / group],
                        scores,
                        out,
                    });
                    (rows[0], rows[1]) = (max, sum);
                },
            );
            return;
        }
        let outs = MatMut::heads(out, [batch, seq_q, heads, width]);
        let tasks: Vec<_> = outs.into_iter().zip(rows.chunks_mut(2 * seq_q)).enumerate().collect();
        let scratch = || vec![0.0; block * seq_k];
        threads::tasks(tasks, operations, scratch, |weights, (index, (mut out, rows))| {
            let (batch, head) = (index / heads, index % heads);
            let query = self.query.matrix(batch, head);
            let key = self.key.matrix(batch, head / group);
            let value = self.value.matrix(batch, head / group);
            for first in (0..seq_q).step_by(block) {
                let count = block.min(seq_q - first);
                let keys = self.keys(batch, head, first, count);
                let (start, len) = (keys.start, keys.len());
                let (key, value) = (key.rows(start, len), value.rows(start, len));
                let weights = &mut weights[..count * len];
                let scores = MatMut::dense(weights, count, len);
                product(
                    scores,
                    query.rows(first, count),
                    key.transposed(),
                    self.scale,
                    false,
                    false,
                );
                for (row, weights) in weights.chunks_exact_mut(len).enumerate() {
                    let row = first + row;
                    let bias = self.bias_row(batch, head, row).map(|bias| &bias[keys.clone()]);
                    let (max, sum) = level.run(Softmax { scores: weights, bias });
                    rows[2 * row] = max;
                    rows[2 * row + 1] = sum;
                }
                if let Some(mask) = self.mask {
                    self.drop_weights(mask, level, [batch, head, first], &keys, weights);
                }
                let weights = Mat::dense(weights, count, len);
                product(out.rows(first, count), weights, value, 1.0, false, false);
            }
        });
    }

    /// The gradients of queries, keys and values, each `[batch, seq, heads, width]`, from that of the output and what
    /// [`forward`](Self::forward) said of the rows. Those of keys and values are added to what is there.
    pub(crate) fn backward(&self, level: Level, grad: &Strided<'_>, rows: &[f32], grads: Gradients<'_>) {
        let [batch, heads, seq_q, d_head] = self.query.shape;
        let [_, kv_heads, seq_k, _] = self.key.shape;
        let [_, _, _, width] = self.value.shape;
        let Sizes { group, block, .. } = self.sizes();
        let queries = MatMut::heads(grads.query, [batch, seq_q, heads, d_head]);
        let keys = MatMut::heads(grads.key, [batch, seq_k, kv_heads, d_head]);
        let values = MatMut::heads(grads.value, [batch, seq_k, kv_heads, width]);
        let mut queries = queries.into_iter();
        let tasks: Vec<_> = keys
            .into_iter()
            .zip(values)
            .enumerate()
            .map(|(index, (key, value))| (index, key, value, queries.by_ref().take(group).collect::<Vec<_>>()))
            .collect();
        let masked = if self.mask.is_some() { block * seq_k } else { 0 };
        let scratch = || [vec![0.0; block * seq_k], vec![0.0; block * seq_k], vec![0.0; masked]];
        threads::tasks(
            tasks,
            4 * self.operations(),
            scratch,
            |[weights, slopes, factors], (index, mut key_grad, mut value_grad, query_grads)| {
                let (batch, kv_head) = (index / kv_heads, index % kv_heads);
                let (key, value) = (self.key.matrix(batch, kv_head), self.value.matrix(batch, kv_head));
                for (member, mut query_grad) in query_grads.into_iter().enumerate() {
                    let head = kv_head * group + member;
                    let (query, grad) = (self.query.matrix(batch, head), grad.matrix(batch, head));
                    let rows = &rows[(batch * heads + head) * seq_q * 2..];
                    for first in (0..seq_q).step_by(block) {
                        let count = block.min(seq_q - first);
                        let keys = self.keys(batch, head, first, count);
                        let (start, len) = (keys.start, keys.len());
                        let (query, grad) = (query.rows(first, count), grad.rows(first, count));
                        let (key, value) = (key.rows(start, len), value.rows(start, len));
                        let weights = &mut weights[..count * len];
                        let slopes = &mut slopes[..count * len];
                        let scores = MatMut::dense(weights, count, len);
                        product(scores, query, key.transposed(), self.scale, false, false);
                        let into = MatMut::dense(slopes, count, len);
                        product(into, grad, value.transposed(), 1.0, false, false);
                        let factors = self.mask.map(|mask| {
                            let factors = &mut factors[..count * len];
                            factors.fill(1.0);
                            self.drop_weights(mask, level, [batch, head, first], &keys, factors);
                            factors
                        });
                        let mut factor_rows = factors.map(|factors| factors.chunks_exact_mut(len));
                        let pairs = weights.chunks_exact_mut(len).zip(slopes.chunks_exact_mut(len));
                        for (row, (weights, slopes)) in pairs.enumerate() {
                            let row = first + row;
                            level.run(SoftmaxGradient {
                                weights,
                                slopes,
                                factors: factor_rows.as_mut().and_then(Iterator::next),
                                bias: self.bias_row(batch, head, row).map(|bias| &bias[keys.clone()]),
                                max: rows[2 * row],
                                sum: rows[2 * row + 1],
                                scale: self.scale,
                            });
                        }
                        let weights = Mat::dense(weights, count, len);
                        let slopes = Mat::dense(slopes, count, len);
                        product(
                            value_grad.rows(start, len),
                            weights.transposed(),
                            grad,
                            1.0,
                            true,
                            false,
                        );
                        product(query_grad.rows(first, count), slopes, key, 1.0, false, false);
                        product(key_grad.rows(start, len), slopes.transposed(), query, 1.0, true, false);
                    }
                }
            },
        );
    }
}

/// Where the gradients go, each dense `[batch, seq, heads, width]`.
#[derive(Debug)]
pub(crate) struct Gradients<'a> {
    /// Of the queries.
    pub query: &'a mut [f32],
    /// Of the keys.
    pub key: &'a mut [f32],
    /// Of the values.
    pub value: &'a mut [f32],
}

/// `e^(x - max)`.
#[derive(Clone, Copy)]
struct Shifted(f32);

impl Map for Shifted {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        simd::exp_up_to_88(s, s.sub_f32s(x, s.splat_f32s(self.0)))
    }
}

/// `x factor`.
#[derive(Clone, Copy)]
struct Times(f32);

impl Map for Times {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        s.mul_f32s(x, s.splat_f32s(self.0))
    }
}

struct Softmax<'a> {
    scores: &'a mut [f32],
    bias: Option<&'a [f32]>,
}

impl WithSimd for Softmax<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> (f32, f32) {
        if let Some(bias) = self.bias {
            simd::map2(s, super::activation::Plus, self.scores, bias);
        }
        let max = simd::fold(s, simd::Identity, Max, self.scores);
        simd::map(s, Shifted(max), self.scores);
        let sum = simd::fold(s, simd::Identity, Sum, self.scores);
        simd::map(s, Times(1.0 / sum), self.scores);
        (max, sum)
    }
}

/// The attention of a single query, as in generation, without the packing that a product of matrices begins with.
struct OneQuery<'a> {
    attention: &'a Attention<'a>,
    /// Batch, head of the query, and head of the keys.
    at: [usize; 3],
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for OneQuery<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> (f32, f32) {
        let Self { attention, at, .. } = self;
        let ([batch, head, kv_head], scores) = (at, self.scores);
        let query = attention.query.row(batch, head, 0);
        for (key, score) in scores.iter_mut().enumerate() {
            let key = attention.key.row(batch, kv_head, key);
            *score = simd::fold2(s, Product, Sum, query, key) * attention.scale;
        }
        let bias = attention.bias_row(batch, head, 0);
        let softmax = Softmax {
            scores: &mut *scores,
            bias,
        };
        let found = softmax.with_simd(s);
        self.out.fill(0.0);
        for (index, weight) in scores.iter().enumerate() {
            let value = attention.value.row(batch, kv_head, index);
            simd::map2(s, AddTimes(*weight), self.out, value);
        }
        found
    }
}

/// `x + factor y`.
#[derive(Clone, Copy)]
struct AddTimes(f32);

impl Map2 for AddTimes {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s, y: S::f32s) -> S::f32s {
        simd::mul_add(s, s.splat_f32s(self.0), y, x)
    }
}

/// From scores to weights after dropout, and from their gradient to that of the scaled scores.
struct SoftmaxGradient<'a> {
    weights: &'a mut [f32],
    slopes: &'a mut [f32],
    factors: Option<&'a mut [f32]>,
    bias: Option<&'a [f32]>,
    max: f32,
    sum: f32,
    scale: f32,
}

/// `weight (slope - average) scale`, of a slope and a weight.
#[derive(Clone, Copy)]
struct ScoreGradient {
    average: f32,
    scale: f32,
}

impl Map2 for ScoreGradient {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, slope: S::f32s, weight: S::f32s) -> S::f32s {
        let slope = s.sub_f32s(slope, s.splat_f32s(self.average));
        s.mul_f32s(s.mul_f32s(slope, weight), s.splat_f32s(self.scale))
    }
}

/// `e^(x - max) factor`.
#[derive(Clone, Copy)]
struct Weight {
    max: f32,
    factor: f32,
}

impl Map for Weight {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        s.mul_f32s(Shifted(self.max).call(s, x), s.splat_f32s(self.factor))
    }
}

impl WithSimd for SoftmaxGradient<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        if let Some(bias) = self.bias {
            simd::map2(s, super::activation::Plus, self.weights, bias);
        }
        let (max, factor) = (self.max, 1.0 / self.sum);
        simd::map(s, Weight { max, factor }, self.weights);
        if let Some(factors) = &self.factors {
            simd::map2(s, Product, self.slopes, factors);
        }
        let average = simd::fold2(s, Product, Sum, self.slopes, self.weights);
        let scale = self.scale;
        simd::map2(s, ScoreGradient { average, scale }, self.slopes, self.weights);
        if let Some(factors) = self.factors {
            simd::map2(s, Product, self.weights, factors);
        }
    }
}
