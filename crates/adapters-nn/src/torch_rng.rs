//! PyTorch's generator on the CPU: published files name the seed of some random numbers in place of the numbers.

/// `torch.Generator("cpu").manual_seed(seed)`: MT19937, Matsumoto and Nishimura, 1998.
#[derive(Clone, Debug)]
pub struct TorchRng {
    state: [u32; 624],
    at: usize,
}

impl TorchRng {
    /// A generator; of a wider seed PyTorch takes the low 32 bits.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(i as u32);
        }
        Self { state, at: 624 }
    }

    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        if self.at == 624 {
            for k in 0..624 {
                let y = (self.state[k] & 0x8000_0000) | (self.state[(k + 1) % 624] & 0x7fff_ffff);
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[k] = self.state[(k + 397) % 624] ^ (y >> 1) ^ odd;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `torch.empty(count).uniform_(from, to)` in single precision.
    pub fn uniform(&mut self, count: usize, from: f32, to: f32) -> Vec<f32> {
        const BITS: u32 = 24;
        let share = |bits: u32| (bits & ((1 << BITS) - 1)) as f32 / (1u32 << BITS) as f32;
        // One rounding, as the published builds of PyTorch multiply and add.
        (0..count)
            .map(|_| share(self.bits()).mul_add(to - from, from))
            .collect()
    }

    /// The first `take` elements of `torch.randperm(n)`.
    pub fn permutation(mut self, n: usize, take: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..take.min(n.saturating_sub(1)) {
            let other = i + self.bits() as usize % (n - i);
            order.swap(i, other);
        }
        order.truncate(take);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with PyTorch 2.15.
    #[test]
    fn permutations_are_pytorchs() {
        let first = |n, seed| TorchRng::new(seed).permutation(n, 6);
        assert_eq!(first(1024, 777), [103, 249, 319, 701, 999, 360]);
        assert_eq!(first(50, 3), [36, 4, 27, 3, 32, 35]);
        assert_eq!(first(2048, 777), [103, 1405, 1251, 2031, 803, 1141]);
    }

    /// Computed with PyTorch 2.15.
    #[test]
    fn uniform_numbers_are_pytorchs() {
        let mut rng = TorchRng::new(42);
        assert_eq!(rng.uniform(4, -0.25, 0.25), UNIFORM_42[..4]);
        assert_eq!(rng.uniform(2, -3.0, 3.0), UNIFORM_42[4..]);
        assert_eq!(TorchRng::new(0).uniform(700, 0.0, 1.0)[698..], UNIFORM_0_END);
    }

    const UNIFORM_42: [f32; 6] = [
        0.191_134_63,
        0.207_501_98,
        -0.058_568_12,
        0.229_652_82,
        -0.657_310_7,
        0.605_372_1,
    ];
    const UNIFORM_0_END: [f32; 2] = [0.614_936_05, 0.572_658_9];
}
