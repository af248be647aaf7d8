//! Which examples go into which batch.
//!
//! A batch is padded to its longest example, so examples of similar length belong together: on short sentences this
//! halves the padding of random batches. The order is a pure function of the seed and the epoch, so that a resumed run
//! sees the batches that the interrupted one would have seen.

use std::cmp::Reverse;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How an epoch's examples are put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A fresh permutation, cut into pieces of `chunk * batch_size` examples; each piece is sorted by length and cut
    /// into batches; the batches are shuffled. Little padding, still a different mixture every epoch.
    Bucketed {
        /// Batches a piece. Larger: less padding, less randomness. Zero counts as one.
        chunk: usize,
    },
    /// A fresh permutation, cut into batches.
    Random,
}

impl Order {
    /// Batches a piece of [`Order::Bucketed`] unless told otherwise.
    pub const DEFAULT_CHUNK: usize = 25;
}

impl Default for Order {
    fn default() -> Self {
        Self::Bucketed {
            chunk: Self::DEFAULT_CHUNK,
        }
    }
}

/// The batches of one training epoch, as indices into `lengths`.
///
/// `lengths` holds each example's length in tokens. Every index occurs exactly once; a last partial batch is kept. The
/// same arguments give the same batches on every platform. A `batch_size` of zero counts as one.
pub fn epoch_batches(lengths: &[usize], batch_size: usize, seed: u64, epoch: usize, order: Order) -> Vec<Vec<usize>> {
    let batch_size = batch_size.max(1);
    let mut rng = generator(seed, epoch);
    let mut permutation: Vec<usize> = (0..lengths.len()).collect();
    shuffle(&mut permutation, &mut rng);
    match order {
        Order::Random => cut(&permutation, batch_size).collect(),
        Order::Bucketed { chunk } => {
            let mut batches = Vec::with_capacity(lengths.len().div_ceil(batch_size));
            for piece in permutation.chunks_mut(batch_size.saturating_mul(chunk.max(1))) {
                piece.sort_by_key(|&index| lengths[index]);
                batches.extend(cut(piece, batch_size));
            }
            shuffle(&mut batches, &mut rng);
            batches
        }
    }
}

/// The batches of an evaluation: all examples from the longest to the shortest, in file order among equals, so that the first batch
/// needs the most memory and its buffers serve the others.
///
/// Every index occurs exactly once; a last partial batch is kept. A `batch_size` of zero counts as one.
pub(crate) fn eval_batches(lengths: &[usize], batch_size: usize) -> Vec<Vec<usize>> {
    let mut indices: Vec<usize> = (0..lengths.len()).collect();
    indices.sort_by_key(|&index| Reverse(lengths[index]));
    cut(&indices, batch_size.max(1)).collect()
}

fn cut(indices: &[usize], batch_size: usize) -> impl Iterator<Item = Vec<usize>> {
    indices.chunks(batch_size).map(<[usize]>::to_vec)
}

/// A stream of its own for every seed and epoch: both go into the key unmixed, so no two can meet.
fn generator(seed: u64, epoch: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(epoch as u64).to_le_bytes());
    key[16..].copy_from_slice(b"adapters batches");
    ChaCha8Rng::from_seed(key)
}

/// Fisher-Yates, written out so that the order is this file's and not that of a version of `rand`.
fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        // A 64-bit fraction times the number of choices; its bias is below one in 2^40 for any data set.
        let choice = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        items.swap(last, choice as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [Order; 3] = [
        Order::Bucketed { chunk: 25 },
        Order::Bucketed { chunk: 3 },
        Order::Random,
    ];

    /// Lengths like those of sentences: mostly short, some long, many equal.
    fn lengths(n: usize) -> Vec<usize> {
        (0..n).map(|i| 3 + (i * i * 7 + i * 13) % 61).collect()
    }

    fn sorted(batches: &[Vec<usize>]) -> Vec<usize> {
        let mut all = batches.concat();
        all.sort_unstable();
        all
    }

    /// Tokens of all batches, each padded to its longest example.
    fn padded(batches: &[Vec<usize>], lengths: &[usize]) -> usize {
        batches
            .iter()
            .map(|batch| batch.len() * batch.iter().map(|&i| lengths[i]).max().unwrap_or(0))
            .sum()
    }

    #[test]
    fn every_index_occurs_exactly_once() {
        for n in [0, 1, 7, 8, 9, 1003] {
            let lengths = lengths(n);
            let expected: Vec<usize> = (0..n).collect();
            for order in ORDERS {
                let batches = epoch_batches(&lengths, 8, 1, 0, order);
                assert_eq!(sorted(&batches), expected, "{order:?}");
                assert!(batches.iter().all(|batch| (1..=8).contains(&batch.len())));
                assert_eq!(batches.len(), n.div_ceil(8), "{order:?}");
            }
            assert_eq!(sorted(&eval_batches(&lengths, 8)), expected);
        }
    }

    #[test]
    fn the_same_arguments_give_the_same_batches() {
        let lengths = lengths(500);
        for order in ORDERS {
            let batches = epoch_batches(&lengths, 16, 42, 3, order);
            assert_eq!(batches, epoch_batches(&lengths, 16, 42, 3, order));
            assert_ne!(batches, epoch_batches(&lengths, 16, 42, 4, order), "another epoch");
            assert_ne!(batches, epoch_batches(&lengths, 16, 43, 3, order), "another seed");
            assert_ne!(
                batches,
                epoch_batches(&lengths, 16, 3, 42, order),
                "seed and epoch swapped"
            );
        }
    }

    #[test]
    fn the_order_is_the_one_of_earlier_versions() {
        // Checkpoints resume into this order: if this fails, runs made before it no longer continue as they would have.
        let batches = epoch_batches(&[1; 8], 3, 0, 0, Order::Random);
        assert_eq!(batches, [vec![1, 0, 5], vec![4, 2, 6], vec![7, 3]]);
    }

    #[test]
    fn buckets_need_less_padding_and_stay_mixed() {
        let lengths = lengths(4000);
        let bucketed = epoch_batches(&lengths, 32, 0, 0, Order::default());
        let random = epoch_batches(&lengths, 32, 0, 0, Order::Random);
        let real: usize = lengths.iter().sum();
        assert!(padded(&bucketed, &lengths) < real * 11 / 10);
        assert!(padded(&random, &lengths) > real * 3 / 2);
        let longest: Vec<usize> = bucketed
            .iter()
            .map(|b| b.iter().map(|&i| lengths[i]).max().unwrap())
            .collect();
        assert!(!longest.is_sorted(), "the batches themselves are shuffled");
    }

    #[test]
    fn a_bucket_keeps_the_permutation_among_equal_lengths() {
        let one_piece = Order::Bucketed { chunk: 100 };
        let batches = epoch_batches(&[5; 12], 12, 9, 0, one_piece);
        assert_eq!(batches, epoch_batches(&[5; 12], 12, 9, 0, Order::Random));
    }

    #[test]
    fn evaluation_goes_from_long_to_short() {
        assert_eq!(eval_batches(&[9, 2, 5, 2, 1], 2), [vec![0, 2], vec![1, 3], vec![4]]);
    }

    #[test]
    fn zero_counts_as_one() {
        let batches = epoch_batches(&[4, 5, 6], 0, 0, 0, Order::Bucketed { chunk: 0 });
        assert_eq!(batches.len(), 3);
        assert_eq!(eval_batches(&[4, 5, 6], 0).len(), 3);
    }

    #[test]
    fn a_shuffle_is_fair() {
        let mut rng = generator(1, 1);
        let mut counts = [[0u32; 5]; 5];
        for _ in 0..20_000 {
            let mut items = [0, 1, 2, 3, 4];
            shuffle(&mut items, &mut rng);
            for (slot, &item) in items.iter().enumerate() {
                counts[slot][item] += 1;
            }
        }
        // 4000 expected; the standard deviation is 57.
        assert!(
            counts.as_flattened().iter().all(|count| count.abs_diff(4000) < 300),
            "{counts:?}"
        );
    }
}
