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
        let uniform = |bits: u32| (bits & ((1 << BITS) - 1)) as f32 / (1u32 << BITS) as f32;
        // One rounding, as the published builds of PyTorch multiply and add.
        (0..count)
            .map(|_| uniform(self.bits()).mul_add(to - from, from))
            .collect()
    }

    /// `torch.empty(count).normal_(0, std)` in single precision, up to its last bits: PyTorch's own differ with the processor.
    pub fn normal(&mut self, count: usize, std: f64) -> Vec<f32> {
        if count < 16 {
            return self.few_normals(count, std);
        }
        let mut values = self.uniform(count, 0.0, 1.0);
        let mut start = 0;
        while start + 16 <= count {
            box_muller(&mut values[start..start + 16], std);
            start += 16;
        }
        if start < count {
            // The last sixteen anew, over those that are done.
            let mut last = self.uniform(16, 0.0, 1.0);
            box_muller(&mut last, std);
            values.truncate(count - 16);
            values.extend(last);
        }
        values
    }

    fn few_normals(&mut self, count: usize, std: f64) -> Vec<f32> {
        let mut uniform = || {
            let bits = (u64::from(self.bits()) << 32) | u64::from(self.bits());
            (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
        };
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            let (angle, radius) = (std::f64::consts::TAU * uniform(), (-2.0 * (-uniform()).ln_1p()).sqrt());
            values.extend([radius * angle.cos(), radius * angle.sin()].map(|x| (x * std) as f32));
        }
        values.truncate(count);
        values
    }

    /// The first `take` elements of `torch.randperm(n)`.
    pub fn permutation(&mut self, n: usize, take: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..n.saturating_sub(1) {
            let bits = self.bits() as usize;
            if i < take {
                order.swap(i, i + bits % (n - i));
            }
        }
        order.truncate(take);
        order
    }
}

/// Sixteen uniform numbers into normal ones.
fn box_muller(values: &mut [f32], std: f64) {
    for i in 0..8 {
        let radius = (-2.0 * (1.0 - values[i]).ln()).sqrt();
        let angle = std::f32::consts::TAU * values[i + 8];
        let std = std as f32;
        (values[i], values[i + 8]) = (radius * angle.cos() * std, radius * angle.sin() * std);
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
        let mut one = TorchRng::new(3);
        one.permutation(50, 6);
        assert_eq!(
            one.permutation(50, 3),
            [1, 40, 18],
            "what a permutation leaves out is drawn, too"
        );
    }

    /// Computed with PyTorch 2.15.
    #[test]
    fn uniform_numbers_are_pytorchs() {
        let mut rng = TorchRng::new(42);
        assert_eq!(rng.uniform(4, -0.25, 0.25), UNIFORM_42[..4]);
        assert_eq!(rng.uniform(2, -3.0, 3.0), UNIFORM_42[4..]);
        assert_eq!(TorchRng::new(0).uniform(700, 0.0, 1.0)[698..], UNIFORM_0_END);
    }

    /// Computed with PyTorch 2.15.
    #[test]
    fn normal_numbers_are_pytorchs() {
        let close = |got: Vec<f32>, want: &[(usize, f32)]| {
            for (at, value) in want {
                assert!((got[*at] - value).abs() < 1e-6, "{at}: {} for {value}", got[*at]);
            }
        };
        let many = [
            (0, 0.963_457_64),
            (3, -1.052_760_5),
            (4, -0.379_065_57),
            (19, -0.310_797_7),
        ];
        close(TorchRng::new(42).normal(20, 0.5), &many);
        let few = [(0, -0.324_200_54), (1, -0.352_920_7), (4, 0.595_924_9)];
        close(TorchRng::new(43).normal(5, 0.5), &few);
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
