//! Initial values, drawn on the host from an explicit generator.
//!
//! Burn initializes parameters lazily, in the order of first access; drawing here makes a seed mean the same
//! numbers on every backend.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

/// Values uniform in `[-bound, bound)`. A `bound` that is not a positive number gives zeros.
pub fn uniform<const D: usize>(rng: &mut ChaCha8Rng, shape: [usize; D], bound: f32) -> TensorData {
    match Uniform::new(-bound, bound) {
        Ok(distribution) => sample(rng, shape, distribution),
        Err(_) => constant(shape, 0.0),
    }
}

/// Values of a linear layer of `d_in` inputs, as torch initializes its weight and its bias: uniform in plus and minus
/// `1 / sqrt(d_in)`.
pub fn linear<const D: usize>(rng: &mut ChaCha8Rng, shape: [usize; D], d_in: usize) -> TensorData {
    uniform(rng, shape, (d_in as f32).sqrt().recip())
}

/// [`linear`] as a parameter.
pub fn linear_param<const D: usize>(
    rng: &mut ChaCha8Rng,
    shape: [usize; D],
    d_in: usize,
    device: &Device,
) -> Param<Tensor<D>> {
    Param::from_data(linear(rng, shape, d_in), device)
}

/// Values normal with mean zero and standard deviation `std`. A `std` that is not finite gives zeros.
pub fn normal<const D: usize>(rng: &mut ChaCha8Rng, shape: [usize; D], std: f32) -> TensorData {
    match Normal::new(0.0, std) {
        Ok(distribution) => sample(rng, shape, distribution),
        Err(_) => constant(shape, 0.0),
    }
}

/// Values normal with mean zero and standard deviation `std`, drawn again while they are beyond two deviations.
pub fn truncated_normal<const D: usize>(rng: &mut ChaCha8Rng, shape: [usize; D], std: f32) -> TensorData {
    match Normal::new(0.0, std) {
        Ok(distribution) => {
            let near = distribution.sample_iter(rng).filter(|x: &f32| x.abs() <= 2.0 * std);
            TensorData::new(near.take(shape.iter().product()).collect(), shape)
        }
        Err(_) => constant(shape, 0.0),
    }
}

/// One value everywhere.
pub fn constant<const D: usize>(shape: [usize; D], value: f32) -> TensorData {
    TensorData::new(vec![value; shape.iter().product()], shape)
}

fn sample<const D: usize>(rng: &mut ChaCha8Rng, shape: [usize; D], distribution: impl Distribution<f32>) -> TensorData {
    let count = shape.iter().product();
    TensorData::new(distribution.sample_iter(rng).take(count).collect(), shape)
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn a_seed_repeats_and_the_spread_is_right() {
        let draw = |seed| uniform(&mut ChaCha8Rng::seed_from_u64(seed), [50, 100], 0.5);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let normal = normal(&mut ChaCha8Rng::seed_from_u64(0), [10_000], 0.02);
        let variance = normal.iter::<f32>().map(|x| x * x).sum::<f32>() / 10_000.0;
        assert!((variance.sqrt() - 0.02).abs() < 1e-3);
    }
}
