//! NumPy's default generator: published files name the seed of some permutations in place of them.

/// `numpy.random.default_rng(seed)`: PCG64 (XSL-RR, O'Neill, 2014), seeded through `SeedSequence`.
#[derive(Clone, Debug)]
pub struct NumpyRng {
    state: u128,
    increment: u128,
    /// The upper half of a number whose lower half was used.
    half: Option<u32>,
}

/// PCG's multiplier of 128 bits.
const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

impl NumpyRng {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        let words = seed_sequence(seed);
        let wide = |high: usize| (u128::from(words[high]) << 64) | u128::from(words[high + 1]);
        let mut rng = Self {
            state: 0,
            increment: (wide(2) << 1) | 1,
            half: None,
        };
        rng.step();
        rng.state = rng.state.wrapping_add(wide(0));
        rng.step();
        rng
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    /// The next 32 bits.
    fn bits(&mut self) -> u32 {
        if let Some(half) = self.half.take() {
            return half;
        }
        self.step();
        let mixed = ((self.state >> 64) as u64) ^ self.state as u64;
        let next = mixed.rotate_right((self.state >> 122) as u32);
        self.half = Some((next >> 32) as u32);
        next as u32
    }

    /// A number from zero to `most`, by Lemire's method.
    fn up_to(&mut self, most: u32) -> usize {
        if most == 0 {
            return 0;
        }
        let count = u64::from(most) + 1;
        let mut product = u64::from(self.bits()) * count;
        let threshold = u64::from(u32::MAX - most) % count;
        while product & 0xffff_ffff < threshold {
            product = u64::from(self.bits()) * count;
        }
        (product >> 32) as usize
    }

    /// `shuffle`: every order is as likely. Of at most `2^32` elements.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for i in (1..elements.len()).rev() {
            let mask = (i + 1).next_power_of_two() - 1;
            let other = loop {
                let drawn = self.bits() as usize & mask;
                if drawn <= i {
                    break drawn;
                }
            };
            elements.swap(i, other);
        }
    }

    /// How `choice` puts what it chose into order.
    fn shuffle_from<T>(&mut self, first: usize, elements: &mut [T]) {
        for i in (first..elements.len()).rev() {
            let other = self.up_to(i as u32);
            elements.swap(i, other);
        }
    }

    /// `choice(count, take, replace=False)`: `take` different numbers below `count`, in random order.
    pub fn choice(&mut self, count: usize, take: usize) -> Vec<usize> {
        let take = take.min(count);
        if count > 10_000 && take > count / 50 {
            let mut all: Vec<usize> = (0..count).collect();
            self.shuffle_from((count - take).max(1), &mut all);
            return all.split_off(count - take);
        }
        let mut seen = std::collections::HashSet::new();
        let mut chosen: Vec<usize> = (count - take..count)
            .map(|last| {
                let drawn = self.up_to(last as u32);
                let new = if seen.contains(&drawn) { last } else { drawn };
                seen.insert(new);
                new
            })
            .collect();
        self.shuffle_from(1, &mut chosen);
        chosen
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_sequence(seed: u64) -> [u64; 4] {
    const SHIFT: u32 = 16;
    let mut constant = 0x43b0_d7e5u32;
    let mut hashed = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(constant);
        value ^ (value >> SHIFT)
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hashed);
    for source in 0..4 {
        for target in (0..4).filter(|target| *target != source) {
            let right = hashed(pool[source]).wrapping_mul(0x4973_f715);
            let mixed = pool[target].wrapping_mul(0xca01_f9dd).wrapping_sub(right);
            pool[target] = mixed ^ (mixed >> SHIFT);
        }
    }
    let mut constant = 0x8b51_f9ddu32;
    let mut word = |i: usize| {
        let value = pool[i % 4] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        let value = value.wrapping_mul(constant);
        u64::from(value ^ (value >> SHIFT))
    };
    let mut wide = |i: usize| word(2 * i) | (word(2 * i + 1) << 32);
    [wide(0), wide(1), wide(2), wide(3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with NumPy 2.
    #[test]
    fn choices_and_orders_are_numpys() {
        let mut rng = NumpyRng::new(42);
        assert_eq!(rng.choice(24, 10), [20, 12, 1, 11, 7, 8, 15, 2, 4, 17]);
        let mut order: Vec<usize> = (0..12).collect();
        rng.shuffle(&mut order);
        assert_eq!(order, [7, 0, 4, 2, 3, 5, 8, 1, 10, 6, 11, 9]);
        assert_eq!(
            NumpyRng::new(7).choice(20_000, 900)[..5],
            [15415, 19710, 10572, 2075, 13513]
        );
        let mut order: Vec<usize> = (0..9).collect();
        NumpyRng::new((1 << 40) + 5).shuffle(&mut order);
        assert_eq!(order, [7, 1, 2, 5, 3, 0, 8, 4, 6]);
    }
}
