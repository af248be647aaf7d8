//! Initial values of A and B.

use adapters_core::draw;
use burn::tensor::TensorData;
use rand_chacha::ChaCha8Rng;

use crate::config::Init;

/// Initial A, `[rank, d_in]`.
pub(crate) fn init_a(init: Init, rng: &mut ChaCha8Rng, rank: usize, d_in: usize) -> TensorData {
    match init {
        // kaiming_uniform with a = sqrt(5): gain sqrt(2 / 6), bound gain * sqrt(3 / fan_in).
        Init::Lora => draw::uniform(rng, [rank, d_in], (d_in as f32).sqrt().recip()),
        Init::Bert => draw::normal(rng, [rank, d_in], 0.02),
        Init::Ia3 => draw::constant([rank, d_in], 1.0),
    }
}

/// Initial B, `[d_out, rank]`.
pub(crate) fn init_b(init: Init, rng: &mut ChaCha8Rng, d_out: usize, rank: usize) -> TensorData {
    match init {
        Init::Lora => draw::constant([d_out, rank], 0.0),
        Init::Bert => draw::normal(rng, [d_out, rank], 0.02),
        Init::Ia3 => draw::constant([d_out, rank], 1.0),
    }
}
