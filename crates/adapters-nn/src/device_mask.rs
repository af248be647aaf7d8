//! Masks of dropout computed on a device without kernels of its own: the generator of `kernel::philox` in stock operations.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::kernel::Level;
use crate::kernel::philox::{EVALUATIONS, GROUP, Mask};

/// The factors of the first `count` elements of a mask, `[count]`: zero where an element is dropped.
///
/// A product of two words of 32 bits needs integers of 64 bits; a device without them gets factors computed on the host.
pub(crate) fn factors(mask: Mask, count: usize, device: &Device) -> Tensor<1> {
    if !device.supports_dtype(DType::I64) {
        let factors = mask.factors(Level::chosen(), count);
        return Tensor::from_data(TensorData::new(factors, [count]), device);
    }
    let groups = count.div_ceil(GROUP);
    let halves = philox(mask, groups, device)
        .into_iter()
        .flat_map(|word| [lower(word.clone()), upper(word)])
        .collect();
    let bits = Tensor::cat(halves, 1).reshape([groups * GROUP]);
    let kept = bits.slice_dim(0, 0..count).greater_equal_elem(mask.dropped as i64);
    kept.float() * mask.scale
}

/// The four words of all evaluations, each `[groups, 1, 16]` with values below 2^32.
fn philox(mask: Mask, groups: usize, device: &Device) -> [Tensor<3, Int>; 4] {
    let evaluations = Tensor::<1, Int>::arange(0..(groups * EVALUATIONS) as i64, (device, DType::I64));
    let evaluations = evaluations.reshape([groups, 1, EVALUATIONS]);
    let same = |word: u64| evaluations.zeros_like() + (word & 0xFFFF_FFFF) as i64;
    let mut key = [mask.seed as u32, (mask.seed >> 32) as u32];
    let mut c = [evaluations.clone(), same(0), same(mask.number), same(mask.number >> 32)];
    for _ in 0..10 {
        let [c0, c1, c2, c3] = c;
        let (high0, low0) = product(c0, 0xD251_1F53);
        let (high1, low1) = product(c2, 0xCD9E_8D57);
        let mixed = |high: Tensor<3, Int>, c, key| high.bitwise_xor(c).bitwise_xor_scalar(i64::from(key));
        c = [mixed(high1, c1, key[0]), low1, mixed(high0, c3, key[1]), low0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// The upper and the lower 32 bits of `x m`, for `x` below 2^32; no number on the way is above 2^49.
fn product(x: Tensor<3, Int>, m: u32) -> (Tensor<3, Int>, Tensor<3, Int>) {
    let low = x.clone() * i64::from(m & 0xFFFF);
    let sum = x * i64::from(m >> 16) + upper(low.clone());
    (upper(sum.clone()), lower(sum) * (1 << 16) + lower(low))
}

fn lower(x: Tensor<3, Int>) -> Tensor<3, Int> {
    x.bitwise_and_scalar(0xFFFF)
}

fn upper(x: Tensor<3, Int>) -> Tensor<3, Int> {
    x.bitwise_right_shift_scalar(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_that_of_the_kernel() {
        for (seed, number, count) in [
            (0, 0, 1),
            (u64::MAX - 5, 3, 128),
            (0x1234_5678_9abc_def0, 1 << 40, 4_001),
        ] {
            let (dropped, scale) = (20_000, 1.5);
            let mask = Mask {
                seed,
                number,
                dropped,
                scale,
            };
            let found = factors(mask, count, &Device::flex()).into_data();
            let found: Vec<f32> = found.iter().collect();
            assert!(found == mask.factors(Level::chosen(), count), "{seed} {number} {count}");
        }
    }
}
