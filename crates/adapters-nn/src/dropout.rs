//! Dropout with an explicit generator.
//!
//! Burn draws from one generator a device, shared by everything in the process. Here the generator is an argument like
//! any other: a forward pass in training carries a seed, and each of its masks is a function of the seed, the number of the
//! mask and the index of the element (Philox, a generator without state). The same seed gives the same masks on every
//! backend, on any number of threads, in a resumed run as in one that was never stopped. Where kernels exist a mask is
//! computed where it is used, in the forward pass and again in the backward pass, and never stored.

use std::cell::Cell;

use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub(crate) use crate::kernel::philox::Mask;
use crate::{device_mask, draw};

/// The masks of one forward pass, drawn in the order they are asked for.
#[derive(Clone, Debug)]
pub struct Dropout {
    seed: u64,
    drawn: Cell<u64>,
}

impl Dropout {
    /// The masks of a seed, from the first.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            drawn: Cell::new(0),
        }
    }

    /// Each element of `x` is zero with probability `prob`, else divided by `1 - prob`; any shape.
    ///
    /// `prob` is rounded to a multiple of 2^-16 and the scale with it, so the mean is kept exactly.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, prob: f64) -> Tensor<D> {
        match self.draw(prob) {
            Some(mask) => masked(mask, x),
            None => x,
        }
    }

    /// Numbers from the standard normal distribution, as the next mask would be drawn: for what is random in training
    /// with dropout.
    pub fn normal<const D: usize>(&self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let number = self.drawn.get();
        self.drawn.set(number + 1);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(number);
        Tensor::from_data(draw::normal(&mut rng, shape, 1.0), &device.clone().inner())
    }

    /// Numbers between zero and one, as the next mask would be drawn.
    pub fn uniform<const D: usize>(&self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let number = self.drawn.get();
        self.drawn.set(number + 1);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(number);
        Tensor::from_data(draw::uniform(&mut rng, shape, 0.5), &device.clone().inner()) + 0.5
    }

    /// The next mask; none where nothing is dropped.
    pub(crate) fn draw(&self, prob: f64) -> Option<Mask> {
        let dropped = (prob.clamp(0.0, 1.0) * 65536.0).round() as u32;
        if dropped == 0 {
            return None;
        }
        let number = self.drawn.get();
        self.drawn.set(number + 1);
        let scale = if dropped >= 65536 {
            0.0
        } else {
            (65536.0 / (65536 - dropped) as f64) as f32
        };
        Some(Mask {
            seed: self.seed,
            number,
            dropped,
            scale,
        })
    }
}

/// `x` under a mask: where a kernel exists in its memory, elsewhere times the factors of the mask.
pub(crate) fn masked<const D: usize>(mask: Mask, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if crate::fused::runs_here(&x) {
        return crate::fused::dropout(mask, x);
    }
    let (shape, device) = (x.dims(), x.device().inner());
    let factors = device_mask::factors(mask, shape.iter().product(), &device).reshape(shape);
    x.clone() * factors.cast(x.dtype())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn draw(dropout: &Dropout, prob: f64) -> Vec<f32> {
        let ones = Tensor::<2>::ones([200, 500], &Device::flex());
        dropout.forward(ones, prob).into_data().iter::<f32>().collect()
    }

    #[test]
    fn the_share_and_the_mean_are_right() {
        for prob in [0.1, 0.5, 0.9] {
            let values = draw(&Dropout::new(3), prob);
            let zeros = values.iter().filter(|x| **x == 0.0).count() as f64 / values.len() as f64;
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            assert!((zeros - prob).abs() < 0.01, "{prob}: {zeros}");
            assert!((mean - 1.0).abs() < 0.05, "{prob}: {mean}");
        }
        assert!(draw(&Dropout::new(3), 0.0).iter().all(|x| *x == 1.0));
        assert!(draw(&Dropout::new(3), 1.0).iter().all(|x| *x == 0.0));
    }

    #[test]
    fn a_seed_repeats_and_masks_differ() {
        let (a, b, c) = (Dropout::new(1), Dropout::new(1), Dropout::new(2));
        let first = draw(&a, 0.5);
        assert_eq!(first, draw(&b, 0.5));
        assert_ne!(first, draw(&a, 0.5), "the second mask of a pass is another");
        assert_ne!(first, draw(&c, 0.5));
    }
}
