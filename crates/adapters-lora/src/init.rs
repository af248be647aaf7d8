//! Initial values of A and B.

use std::collections::BTreeMap;

use adapters_core::Site;
use adapters_nn::draw;
use burn::linalg::{qr, svd};
use burn::tensor::{Device, Tensor, TensorData};
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
    /// Directions of the gradient of the weight, so that the first steps go where training of the weight itself would, taken out
    /// of it: *LoRA-GA: Low-Rank Adaptation with Gradient Approximation*, Wang et al., 2024, <https://arxiv.org/abs/2407.05000>.
    LoraGa,
    /// Combinations of two sets of rows that are orthogonal to each other, so that the product is zero though A and B are not. The
    /// rank is even.
    Orthogonal,
    /// B has the left singular vectors of the weight for its smallest singular values and does not train, A is zero: *Minor
    /// Component Adaptation*, <https://arxiv.org/abs/2604.01694>.
    Mica,
}

impl Init {
    /// Whether the initial product is taken out of the frozen weight, so that a new adapter is the identity.
    pub(crate) fn takes_from_base(self) -> bool {
        matches!(self, Self::Pissa | Self::Olora | Self::Corda | Self::LoraGa)
    }

    /// Whether the initial values follow from data: from what the layers read, or from gradients.
    pub(crate) fn reads_data(self) -> bool {
        matches!(self, Self::Eva | Self::Corda | Self::LoraGa)
    }

    /// Whether A and B begin together, from more than the seed of each.
    pub(crate) fn is_computed(self) -> bool {
        self.takes_from_base() || self.reads_data() || matches!(self, Self::Loftq | Self::Orthogonal | Self::Mica)
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

/// Which directions of the gradient [`Init::LoraGa`] gives A and which it gives B, of the `2 r` largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GaDirection {
    /// A the first `r`, B the others.
    #[default]
    ArB2r,
    /// B the first `r`, A the others.
    A2rBr,
    /// B every other one from the first on, A those between.
    ArBr,
    /// Both the same `r`, drawn for each layer by the adapter's own seed (`init_weights_seed`).
    #[serde(rename = "random")]
    Random,
}

/// How large B begins with [`Init::LoraGa`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GaScale {
    /// Times `d_out^(1/4) / sqrt(ga_gamma)`.
    #[default]
    Stable,
    /// So that its first direction is as large as the weight's.
    WeightSvd,
    /// A and B divided by the scale of the update.
    GdScale,
    /// As the gradient has it.
    Unit,
}

/// The initial A, `[r, d_in]`, and B, `[d_out, r]`, at each site.
pub type StartValues = BTreeMap<Site, (TensorData, TensorData)>;

/// Initial A, `[rows, d_in]`, of which each product takes `rank` rows.
pub(crate) fn init_a(init: Init, rng: &mut ChaCha8Rng, rank: usize, [rows, d_in]: [usize; 2]) -> TensorData {
    match init {
        Init::Bert => draw::normal(rng, [rows, d_in], 0.02),
        Init::Gaussian => draw::normal(rng, [rows, d_in], (rank as f32).recip()),
        Init::Ia3 => draw::constant([rows, d_in], 1.0),
        Init::Vera => draw::uniform(rng, [rows, d_in], (6.0 / d_in as f32).sqrt()),
        // kaiming_uniform with a = sqrt(5): gain sqrt(2 / 6), bound gain * sqrt(3 / fan_in).
        _ => draw::linear(rng, [rows, d_in], d_in),
    }
}

/// Initial B, `[d_out, rank]`.
pub(crate) fn init_b(init: Init, rng: &mut ChaCha8Rng, d_out: usize, rank: usize) -> TensorData {
    match init {
        Init::Bert => draw::normal(rng, [d_out, rank], 0.02),
        Init::Ia3 => draw::constant([d_out, rank], 1.0),
        Init::Vera => draw::uniform(rng, [d_out, rank], (6.0 / rank as f32).sqrt()),
        _ => draw::constant([d_out, rank], 0.0),
    }
}

/// Most sweeps of the Jacobi iteration; it stops when it has converged.
pub(crate) const SWEEPS: usize = 30;

/// A and B whose product is zero: combinations of the odd rows of an orthogonal matrix, and of the even ones. `rank` is even.
pub(crate) fn orthogonal(
    rng: &mut ChaCha8Rng,
    rank: usize,
    [d_in, d_out]: [usize; 2],
    device: &Device,
) -> (TensorData, TensorData) {
    let mut normal = |shape| Tensor::<2>::from_data(draw::normal(rng, shape, 1.0), device);
    let (q, _) = qr(normal([rank, rank]), true);
    let [odd, even] = [0, 1].map(|from| {
        let rows = q.clone().reshape([rank / 2, 2, rank]).slice_dim(1, from..from + 1);
        rows.reshape([rank / 2, rank])
    });
    let a = normal([d_in, rank / 2]).matmul(odd).transpose() * 0.1;
    let b = normal([rank / 2, d_out]).transpose().matmul(even) * 0.1;
    (a.into_data(), b.into_data())
}

/// The left singular vectors of a weight `[d_in, d_out]` for its smallest singular values, `[d_out, rank]`.
pub(crate) fn minor_directions(weight: Tensor<2>, rank: usize) -> TensorData {
    let (u, _, _) = svd::<2, 1>(weight.transpose(), SWEEPS);
    let [_, all] = u.dims();
    u.slice_dim(1, all - rank..all).into_data()
}

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
