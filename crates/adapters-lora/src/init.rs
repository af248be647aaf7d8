//! Initial values of A and B.

use std::collections::BTreeMap;

use adapters_core::Site;
use adapters_nn::draw;
use burn::linalg::{qr, svd};
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Initial values of A and B, under the reference's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Init {
    /// A uniform in `+-1/sqrt(d_in)` (Kaiming, a = sqrt 5), B zero: the adapter begins as the identity.
    #[default]
    Lora,
    /// A and B normal with standard deviation 0.02.
    Bert,
    /// Ones.
    Ia3,
    /// A and B uniform in `+-sqrt(6 / fan_in)` (Kaiming), as VeRA's frozen matrices.
    Vera,
    /// A normal with standard deviation `1 / r`, B zero.
    Gaussian,
    /// The `r` largest singular triplets of the weight, taken out of it: *PiSSA: Principal Singular Values and Singular
    /// Vectors Adaptation of Large Language Models*, Meng et al., 2024, <https://arxiv.org/abs/2404.02948>.
    Pissa,
    /// The first `r` columns and rows of the weight's QR decomposition, taken out of it: *OLoRA: Orthonormal Low-Rank
    /// Adaptation of Large Language Models*, Büyükakyüz, 2024, <https://arxiv.org/abs/2406.01775>.
    Olora,
    /// A has the directions in which the inputs vary most, and layers share the ranks: *One Initialization to Rule them All:
    /// Fine-tuning via Explained Variance Adaptation*, Paischer et al., 2024, <https://arxiv.org/abs/2410.07170>. B is zero.
    Eva,
    /// A part of the weight that matters most or least for the inputs, taken out of it: *CorDA: Context-Oriented Decomposition
    /// Adaptation of Large Language Models*, Yang et al., 2024, <https://arxiv.org/abs/2406.05223>.
    Corda,
    /// What the weight loses when it is quantized to eight bits, so that the adapter makes up for it on a quantized base: *LoftQ:
    /// LoRA-Fine-Tuning-Aware Quantization for Large Language Models*, Li et al., 2023, <https://arxiv.org/abs/2310.08659>, with
    /// one iteration.
    Loftq,
}

impl Init {
    /// Whether the initial product is taken out of the frozen weight, so that a new adapter is the identity.
    pub(crate) fn takes_from_base(self) -> bool {
        matches!(self, Self::Pissa | Self::Olora | Self::Corda)
    }

    /// Whether the initial values follow from what the layers read.
    pub(crate) fn reads_inputs(self) -> bool {
        matches!(self, Self::Eva | Self::Corda)
    }

    /// Whether the initial values follow from anything but a seed.
    pub(crate) fn is_computed(self) -> bool {
        self.takes_from_base() || self.reads_inputs() || self == Self::Loftq
    }
}

/// Which part of a weight CorDA starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CordaMethod {
    /// What matters most for the inputs: for a task like them.
    #[default]
    Ipm,
    /// What matters least, so that what is known of such inputs is kept.
    Kpm,
}

/// The initial A, `[r, d_in]`, and B, `[d_out, r]`, at each site.
pub type StartValues = BTreeMap<Site, (TensorData, TensorData)>;

/// Initial A, `[rows, d_in]`, of which each product takes `rank` rows.
pub(crate) fn init_a(init: Init, rng: &mut ChaCha8Rng, rank: usize, [rows, d_in]: [usize; 2]) -> TensorData {
    match init {
        // kaiming_uniform with a = sqrt(5): gain sqrt(2 / 6), bound gain * sqrt(3 / fan_in).
        Init::Lora | Init::Pissa | Init::Olora | Init::Eva | Init::Corda | Init::Loftq => {
            draw::uniform(rng, [rows, d_in], (d_in as f32).sqrt().recip())
        }
        Init::Bert => draw::normal(rng, [rows, d_in], 0.02),
        Init::Gaussian => draw::normal(rng, [rows, d_in], (rank as f32).recip()),
        Init::Ia3 => draw::constant([rows, d_in], 1.0),
        Init::Vera => draw::uniform(rng, [rows, d_in], (6.0 / d_in as f32).sqrt()),
    }
}

/// Initial B, `[d_out, rank]`.
pub(crate) fn init_b(init: Init, rng: &mut ChaCha8Rng, d_out: usize, rank: usize) -> TensorData {
    match init {
        Init::Lora | Init::Gaussian | Init::Pissa | Init::Olora | Init::Eva | Init::Corda | Init::Loftq => {
            draw::constant([d_out, rank], 0.0)
        }
        Init::Bert => draw::normal(rng, [d_out, rank], 0.02),
        Init::Ia3 => draw::constant([d_out, rank], 1.0),
        Init::Vera => draw::uniform(rng, [d_out, rank], (6.0 / rank as f32).sqrt()),
    }
}

/// Most sweeps of the Jacobi iteration; it stops when it has converged.
pub(crate) const SWEEPS: usize = 30;

/// A and B taken from a weight `[d_in, d_out]`: the part of it they stand for is `scale B A`.
pub(crate) fn from_weight(init: Init, weight: Tensor<2>, rank: usize, scale: f64) -> (TensorData, TensorData) {
    let published = weight.transpose();
    let (left, right) = match init {
        Init::Pissa => {
            let (u, s, vt) = svd::<2, 1>(published, SWEEPS);
            let root = (s.slice_dim(0, 0..rank) / scale).sqrt();
            let left = u.slice_dim(1, 0..rank) * root.clone().unsqueeze_dim(0);
            (left, vt.slice_dim(0, 0..rank) * root.unsqueeze_dim(1))
        }
        _ => {
            let (q, r) = qr(published, true);
            (q.slice_dim(1, 0..rank), r.slice_dim(0, 0..rank))
        }
    };
    (right.into_data(), left.into_data())
}
