//! The relative position bias: a learned number for each distance between query and key.

use std::collections::BTreeMap;

use adapters_core::KeyValueState;
use burn::nn::Embedding;
use burn::tensor::{Int, Tensor, TensorData};

/// How distances fall into buckets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets {
    pub(super) count: usize,
    pub(super) max_distance: usize,
    /// Whether keys after the query are seen.
    pub(super) both_ways: bool,
}

impl Buckets {
    /// The bucket of a key at `key` seen from a query at `query`: one for each small distance, and for larger ones by
    /// the logarithm of the distance.
    fn of(self, query: usize, key: usize) -> i64 {
        let (count, offset, distance) = match self.both_ways {
            true => {
                let half = self.count / 2;
                (half, if key > query { half } else { 0 }, key.abs_diff(query))
            }
            false => (self.count, 0, query.saturating_sub(key)),
        };
        let exact = count / 2;
        let bucket = if distance < exact {
            distance
        } else {
            // In 32 bits and in this order, as published: a boundary must fall on the same side.
            let fraction = (distance as f32 / exact as f32).ln() / (self.max_distance as f32 / exact as f32).ln();
            (exact + (fraction * (count - exact) as f32) as usize).min(count - 1)
        };
        (offset + bucket) as i64
    }
}

/// The bias of a stack's self-attention: that of the distances, learned once for all layers.
///
/// An adapter may make the keys of some layers longer; those in front then count in the distances. A layer after the first has
/// no distances of its own: once a layer has another number of keys than the first, it and the layers after it get none, as
/// in the reference.
pub(super) struct Distances {
    /// The learned biases, `[buckets, heads]`.
    relative: Embedding,
    buckets: Buckets,
    /// How many queries there are.
    queries: usize,
    /// How many positions are before the first of them.
    past: usize,
    /// The keys of each row in the layers that ran. A layer that runs again finds what it had before it.
    keys: Vec<Vec<usize>>,
    /// Learned biases by number of keys, `[1, heads, queries, keys]`.
    learned: BTreeMap<usize, Tensor<4>>,
}

impl Distances {
    /// Of `queries` positions behind `past` others.
    pub(super) fn new(relative: Embedding, buckets: Buckets, queries: usize, past: usize) -> Self {
        Self {
            relative,
            buckets,
            queries,
            past,
            keys: Vec::new(),
            learned: BTreeMap::new(),
        }
    }

    /// The learned bias of distances to `keys` keys, `[1, heads, queries, keys]`.
    fn learned(&mut self, keys: usize) -> Tensor<4> {
        let (buckets, past, queries) = (self.buckets, self.past, self.queries);
        let make = || {
            let buckets: Vec<i64> = (past..past + queries)
                .flat_map(|query| (0..keys).map(move |key| buckets.of(query, key)))
                .collect();
            let device = self.relative.weight.val().device();
            let buckets = Tensor::<2, Int>::from_data(TensorData::new(buckets, [queries, keys]), &device);
            self.relative.forward(buckets).permute([2, 0, 1]).unsqueeze()
        };
        self.learned.entry(keys).or_insert_with(make).clone()
    }

    /// The bias in a layer of the stack, `[1 or batch, heads, queries, keys]`. Keys that fill the front of a row do not count
    /// in its distances.
    pub(super) fn of(&mut self, layer: usize, state: &KeyValueState) -> Tensor<4> {
        let ([batch, heads, longest, _], device) = (state.key.dims(), state.key.device());
        let own: Vec<usize> = match state.filled.is_empty() {
            true => vec![longest],
            false => state.filled.iter().map(|filled| longest - filled).collect(),
        };
        self.keys.truncate(layer);
        self.keys.push(own.clone());
        let rows = if self.keys.iter().any(|keys| keys.len() > 1) {
            batch
        } else {
            1
        };
        let of_row = |keys: &[usize], row: usize| keys.get(row).or(keys.first()).copied();
        let rows = (0..rows).map(|row| {
            let keys = of_row(&own, row).unwrap_or(longest);
            let as_first = self.keys.iter().all(|layer| of_row(layer, row) == Some(keys));
            (keys, as_first)
        });
        let rows: Vec<(usize, bool)> = rows.collect();
        let queries = self.queries;
        let zeros = |keys: usize| Tensor::zeros([1, heads, queries, keys], &device);
        let mut biases = Vec::with_capacity(rows.len());
        for (keys, as_first) in rows {
            let bias = if as_first { self.learned(keys) } else { zeros(keys) };
            biases.push(match longest - keys {
                0 => bias,
                filled => Tensor::cat(vec![zeros(filled), bias], 3),
            });
        }
        Tensor::cat(biases, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where each bucket begins, computed by transformers 4.57.6 on torch 2.
    #[test]
    fn distances_fall_into_the_published_buckets() {
        let ends = [23, 32, 46, 64, 91];
        let both_ways = Buckets {
            count: 32,
            max_distance: 128,
            both_ways: true,
        };
        let one_way = Buckets {
            both_ways: false,
            ..both_ways
        };
        for distance in 1..200 {
            let at = |starts: &[usize]| starts.iter().filter(|start| **start <= distance).count() as i64;
            let expected = at(&[1, 2, 3, 4, 5, 6, 7, 8, 12, 16]) + at(&ends);
            assert_eq!(both_ways.of(distance, 0), expected, "{distance} back");
            assert_eq!(both_ways.of(0, distance), expected + 16, "{distance} ahead");
            let far = [19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113];
            let expected = (distance as i64).min(16) + at(&far);
            assert_eq!(one_way.of(distance, 0), expected, "{distance} back, one way");
            assert_eq!(one_way.of(0, distance), 0, "{distance} ahead, one way");
        }
        assert_eq!(both_ways.of(5, 5), 0);
    }
}
