//! Masks of dropout from a counter: Philox 4x32-10, Salmon et al., 2011, <https://doi.org/10.1145/2063384.2063405>.
//!
//! The bits of an element depend on the seed, the number of the mask and the index of the element only, so that any thread
//! can compute any stretch of a mask, in the forward pass and in the backward pass again. An evaluation of Philox gives four
//! words of 32 bits, hence 16 bits for each of eight elements. Sixteen evaluations make a group of 128 elements: in it,
//! element `32 w + 16 h + i` has the lower (`h = 0`) or upper (`h = 1`) half of word `w` of evaluation `i`. So vectors of
//! 4, 8 and 16 words give the same mask.

use pulp::{Simd, WithSimd};

use super::simd::{self, Level};
use super::threads;

/// Elements of a group.
pub(crate) const GROUP: usize = 128;
/// Evaluations of a group.
pub(crate) const EVALUATIONS: usize = 16;

/// One mask: an element is zero with probability `dropped / 2^16`, else multiplied by `scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mask {
    /// The seed of the pass.
    pub seed: u64,
    /// The number of the mask in the pass.
    pub number: u64,
    /// Of 2^16 values, how many drop an element.
    pub dropped: u32,
    /// Factor of the elements that are kept.
    pub scale: f32,
}

impl Mask {
    /// Applies the elements `first..` of the mask to `values`, on this thread.
    pub(crate) fn apply(&self, level: Level, first: usize, values: &mut [f32]) {
        level.run(Apply {
            mask: *self,
            first,
            values,
        });
    }

    /// Applies the mask to all `values`, on all threads.
    pub(crate) fn apply_all(&self, level: Level, values: &mut [f32]) {
        threads::chunks(values, GROUP, |group, values| self.apply(level, group * GROUP, values));
    }

    /// The factors themselves.
    pub(crate) fn factors(&self, level: Level, count: usize) -> Vec<f32> {
        let mut factors = vec![1.0; count];
        self.apply_all(level, &mut factors);
        factors
    }
}

struct Apply<'a> {
    mask: Mask,
    first: usize,
    values: &'a mut [f32],
}

impl WithSimd for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { mask, first, values } = self;
        // Up to the next boundary of a group, whole groups, the rest.
        let inside = first % GROUP;
        let head = if inside == 0 {
            0
        } else {
            (GROUP - inside).min(values.len())
        };
        let (head, rest) = values.split_at_mut(head);
        if !head.is_empty() {
            part(s, mask, first / GROUP, inside, head);
        }
        let mut group = first.div_ceil(GROUP);
        let (groups, tail) = rest.as_chunks_mut::<GROUP>();
        for values in groups {
            whole(s, mask, group, values);
            group += 1;
        }
        if !tail.is_empty() {
            part(s, mask, group, 0, tail);
        }
    }
}

/// The elements `from..` of a group.
#[inline(always)]
fn part<S: Simd>(s: S, mask: Mask, group: usize, from: usize, values: &mut [f32]) {
    let mut all = [0.0; GROUP];
    all[from..from + values.len()].copy_from_slice(values);
    whole(s, mask, group, &mut all);
    values.copy_from_slice(&all[from..from + values.len()]);
}

#[inline(always)]
fn whole<S: Simd>(s: S, mask: Mask, group: usize, values: &mut [f32; GROUP]) {
    let (values, _) = S::as_mut_simd_f32s(values);
    let (dropped, scale, zero) = (s.splat_u32s(mask.dropped), s.splat_f32s(mask.scale), s.splat_f32s(0.0));
    let vectors = EVALUATIONS / S::U32_LANES;
    for vector in 0..vectors {
        let evaluation = group as u64 * EVALUATIONS as u64 + (vector * S::U32_LANES) as u64;
        let words = philox(s, evaluation, mask.number, mask.seed);
        for (w, word) in words.into_iter().enumerate() {
            let low = s.and_u32s(word, s.splat_u32s(0xFFFF));
            let high = s.wrapping_dyn_shr_u32s(word, s.splat_u32s(16));
            for (h, bits) in [low, high].into_iter().enumerate() {
                let value = &mut values[(2 * w + h) * vectors + vector];
                let kept = s.mul_f32s(*value, scale);
                *value = s.select_f32s(s.less_than_u32s(bits, dropped), zero, kept);
            }
        }
    }
}

/// The evaluations `first`, `first + 1`, ... of a vector; their counters differ in the lowest bits only.
#[inline(always)]
fn philox<S: Simd>(s: S, first: u64, number: u64, seed: u64) -> [S::u32s; 4] {
    let splat = |x: u64| s.splat_u32s(x as u32);
    let (m0, m1) = (s.splat_u32s(0xD251_1F53), s.splat_u32s(0xCD9E_8D57));
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut c = [
        s.add_u32s(splat(first), simd::lane_numbers(s)),
        splat(first >> 32),
        splat(number),
        splat(number >> 32),
    ];
    for _ in 0..10 {
        let (low0, high0) = s.widening_mul_u32s(m0, c[0]);
        let (low1, high1) = s.widening_mul_u32s(m1, c[2]);
        c = [
            s.xor_u32s(s.xor_u32s(high1, c[1]), s.splat_u32s(key[0])),
            low1,
            s.xor_u32s(s.xor_u32s(high0, c[3]), s.splat_u32s(key[1])),
            low0,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' `kat_vectors` for `philox4x32 10`.
    #[test]
    fn known_answers() {
        struct First {
            evaluation: u64,
            number: u64,
            seed: u64,
        }
        impl WithSimd for First {
            type Output = [u32; 4];
            #[inline(always)]
            fn with_simd<S: Simd>(self, s: S) -> [u32; 4] {
                let words = philox(s, self.evaluation, self.number, self.seed);
                words.map(|word| pulp::bytemuck::cast_slice::<_, u32>(&[word])[0])
            }
        }
        for level in Level::available() {
            let zero = level.run(First {
                evaluation: 0,
                number: 0,
                seed: 0,
            });
            assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8], "{level:?}");
            let ones = level.run(First {
                evaluation: u64::MAX,
                number: u64::MAX,
                seed: u64::MAX,
            });
            assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd], "{level:?}");
        }
    }

    #[test]
    fn any_stretch_at_any_level_is_that_of_the_whole_mask() {
        let mask = Mask {
            seed: 0x1234_5678_9abc_def0,
            number: 5,
            dropped: 20_000,
            scale: 1.5,
        };
        let whole = mask.factors(Level::Portable, 1_000_003);
        for level in Level::available() {
            assert!(mask.factors(level, 1_000_003) == whole, "{level:?}");
            for (first, count) in [(0, 1), (127, 2), (128, 128), (130, 5), (1, 700), (999_999, 4)] {
                let mut stretch = vec![1.0; count];
                mask.apply(level, first, &mut stretch);
                assert_eq!(stretch, whole[first..first + count], "{level:?} {first} {count}");
            }
        }
    }
}
