//! Robust training with layers dropped at random.

use std::fmt;
use std::ops::RangeInclusive;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Stream of a pass's seed that the number of layers is drawn from; the masks of dropout have the low ones.
const STREAM: u64 = u64::MAX;

/// How many of the first layers go without adapters in a pass of training: a number drawn again for each pass, from the
/// first to the second, both included. An adapter trained so loses little when the first layers go without it in use
/// ([`Ctx::skipping_layers`](adapters_core::Ctx::skipping_layers)).
///
/// *AdapterDrop: On the Efficiency of Adapters in Transformers*, Rücklé et al., 2021,
/// <https://arxiv.org/abs/2010.11918>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[usize; 2]", into = "[usize; 2]")]
pub struct DropLayers {
    /// The fewest layers.
    pub fewest: usize,
    /// The most.
    pub most: usize,
}

impl From<[usize; 2]> for DropLayers {
    fn from([fewest, most]: [usize; 2]) -> Self {
        Self { fewest, most }
    }
}

impl From<DropLayers> for [usize; 2] {
    fn from(DropLayers { fewest, most }: DropLayers) -> Self {
        [fewest, most]
    }
}

impl fmt::Display for DropLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.fewest, self.most)
    }
}

impl DropLayers {
    /// The numbers that may be drawn; empty if the first is the larger.
    pub fn range(&self) -> RangeInclusive<usize> {
        self.fewest..=self.most
    }

    /// The number of layers that go without adapters in the pass of this seed.
    pub fn draw(&self, seed: u64) -> usize {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM);
        let choices = self.most.saturating_sub(self.fewest) as u64 + 1;
        // Of 64 bits the remainder is even enough for a handful of layers.
        self.fewest + (rng.next_u64() % choices) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_drawn_as_often_and_a_seed_repeats() {
        let drop = DropLayers::from([1, 4]);
        let mut counts = [0; 6];
        for seed in 0..4000 {
            counts[drop.draw(seed)] += 1;
            assert_eq!(drop.draw(seed), drop.draw(seed));
        }
        assert_eq!((counts[0], counts[5]), (0, 0));
        assert!(
            counts[1..5].iter().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
        assert_eq!(DropLayers::from([3, 3]).draw(7), 3);
    }
}
