//! The two kinds of projection: a linear layer, and the hypercomplex layer of Compacter.

use std::borrow::Cow;

use adapters_core::{Shared, SharedParam};
use adapters_nn::{draw, ops};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;

use crate::{Init, Phm, PhmWeight, RuleInit};

/// A projection of the bottleneck.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // Two a layer; a box would be one more thing to read.
pub enum Project {
    /// `x W^T + b`.
    Linear(Dense),
    /// `x H + b`.
    Phm(PhmLayer),
}

/// A linear layer in the published layout.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[d_out, d_in]`.
    pub weight: Param<Tensor<2>>,
    /// `[d_out]`.
    pub bias: Param<Tensor<1>>,
}

/// A hypercomplex layer: `H = sum_i kron(rule_i, weight_i)`. What is absent here the adapter shares.
#[derive(Module, Debug)]
pub struct PhmLayer {
    rule: Option<Factors>,
    weight: Option<Factors>,
    bias: Option<Param<Tensor<1>>>,
    d_in: usize,
    d_out: usize,
    dim: usize,
    #[module(skip)]
    side: Side,
    #[module(skip)]
    factorized: Factorized,
}

/// A stack of matrices, or its two factors.
#[derive(Module, Debug)]
pub struct Factors {
    /// The matrices, or the left factors.
    left: Param<Tensor<3>>,
    /// The right factors.
    right: Option<Param<Tensor<3>>>,
}

/// Which of the two projections a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the model's width to the bottleneck's.
    Down,
    /// And back.
    Up,
}

/// Which parts are kept as products.
#[derive(Clone, Copy, Debug)]
struct Factorized {
    rule: bool,
    weight: bool,
}

/// A parameter on `device` from host values.
pub(crate) fn param<const D: usize>(data: TensorData, device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(data, device))
}

impl Dense {
    /// A layer with the initial weight of `init` on this side of the bottleneck, and bias zero.
    pub(crate) fn new(
        d_in: usize,
        d_out: usize,
        init: Init,
        side: Side,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Self {
        let shape = [d_out, d_in];
        let weight = match (init, side) {
            (Init::Bert, _) => draw::normal(rng, shape, 0.02),
            (Init::MamAdapter, Side::Down) => draw::uniform(rng, shape, (d_in as f32).sqrt().recip()),
            (Init::MamAdapter, Side::Up) => draw::constant(shape, 0.0),
            (Init::Houlsby, _) => draw::truncated_normal(rng, shape, 0.01),
        };
        Self {
            weight: param(weight, device),
            bias: param(draw::constant([d_out], 0.0), device),
        }
    }

    /// `[batch, seq, d_in] -> [batch, seq, d_out]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::project(x, self.weight.val()) + self.bias.val().unsqueeze()
    }

    pub(crate) fn named_params(&self, path: &str) -> [(Cow<'static, str>, ParamId); 2] {
        [
            (format!("{path}.weight").into(), self.weight.id),
            (format!("{path}.bias").into(), self.bias.id),
        ]
    }
}

impl Factors {
    /// `[n, rows, cols]`, as one or as `[n, rows, rank]` times `[n, rank, cols]`.
    fn new(data: impl IntoIterator<Item = TensorData>, device: &Device) -> Option<Self> {
        let mut data = data.into_iter();
        Some(Self {
            left: param(data.next()?, device),
            right: data.next().map(|right| param(right, device)),
        })
    }

    fn value(&self) -> (Tensor<3>, Option<Tensor<3>>) {
        (self.left.val(), self.right.as_ref().map(Param::val))
    }
}

/// Initial matrices of a hypercomplex weight of `rows x cols`, Glorot normal one by one, as the reference draws them
/// whatever the configuration names.
fn draw_weight(phm: &Phm, rows: usize, cols: usize, rng: &mut ChaCha8Rng) -> Vec<TensorData> {
    let mut glorot = |rows: usize, cols: usize| {
        let std = (2.0 / (rows + cols) as f32).sqrt();
        draw::normal(rng, [phm.dim, rows, cols], std)
    };
    match phm.weight {
        PhmWeight::Full => vec![glorot(rows, cols)],
        PhmWeight::Factorized { rank } => vec![glorot(rows, rank), glorot(rank, cols)],
    }
}

/// Initial rules: within `bound` or with that standard deviation.
fn draw_rule(phm: &Phm, bound: f32, std: f32, rng: &mut ChaCha8Rng) -> Vec<TensorData> {
    let n = phm.dim;
    let mut draw = |shape| match phm.rule_init {
        RuleInit::Normal => draw::normal(rng, shape, std),
        RuleInit::Uniform => draw::uniform(rng, shape, bound),
    };
    if phm.factorized_rule {
        vec![draw([n, n, 1]), draw([n, 1, n])]
    } else {
        vec![draw([n, n, n])]
    }
}

const RULE: [&str; 3] = ["phm_rule", "phm_rule_left", "phm_rule_right"];

/// Names of whole, left and right weight of a side, as the layers share them.
fn shared_weight_names(side: Side) -> [&'static str; 3] {
    match side {
        Side::Down => ["W_down", "W_down_left", "W_down_right"],
        Side::Up => ["W_up", "W_up_left", "W_up_right"],
    }
}

/// What all hypercomplex layers of an adapter share, for a model of width `d_model`.
pub(crate) fn shared(phm: &Phm, d_model: usize, bottleneck: usize, rng: &mut ChaCha8Rng, device: &Device) -> Shared {
    let mut shared = Shared::new();
    let mut add = |names: [&'static str; 3], data: Vec<TensorData>| {
        let names = if data.len() == 1 { &names[..1] } else { &names[1..] };
        for (name, data) in names.iter().zip(data) {
            shared = std::mem::take(&mut shared).with(*name, SharedParam::Three(param(data, device)));
        }
    };
    if phm.shared_weight {
        let (wide, narrow) = (d_model / phm.dim, bottleneck / phm.dim);
        add(shared_weight_names(Side::Down), draw_weight(phm, wide, narrow, rng));
        add(shared_weight_names(Side::Up), draw_weight(phm, narrow, wide, rng));
    }
    if phm.shared_rule {
        add(RULE, draw_rule(phm, 1.0, phm.init_range as f32, rng));
    }
    shared
}

impl PhmLayer {
    pub(crate) fn new(phm: &Phm, d_in: usize, d_out: usize, side: Side, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let weight = (!phm.shared_weight).then(|| draw_weight(phm, d_in / phm.dim, d_out / phm.dim, rng));
        let rule = (!phm.shared_rule).then(|| draw_rule(phm, 0.01, 0.01, rng));
        Self {
            weight: weight.and_then(|data| Factors::new(data, device)),
            rule: rule.and_then(|data| Factors::new(data, device)),
            bias: phm.bias.then(|| param(draw::constant([d_out], 0.0), device)),
            d_in,
            d_out,
            dim: phm.dim,
            side,
            factorized: Factorized {
                rule: phm.factorized_rule,
                weight: matches!(phm.weight, PhmWeight::Factorized { .. }),
            },
        }
    }

    /// `x H + b`, `[batch, seq, d_in] -> [batch, seq, d_out]`.
    ///
    /// With a factorised weight `H` is never formed where the products through the factors cost less.
    pub fn forward(&self, x: Tensor<3>, shared: &Shared) -> Tensor<3> {
        let take = |own: &Option<Factors>, factorized: bool, names: [&'static str; 3]| match own {
            Some(own) => own.value(),
            None if factorized => (shared.matrices(names[1]), Some(shared.matrices(names[2]))),
            None => (shared.matrices(names[0]), None),
        };
        let rule = match take(&self.rule, self.factorized.rule, RULE) {
            (left, Some(right)) => left.matmul(right),
            (whole, None) => whole,
        };
        let weight = take(&self.weight, self.factorized.weight, shared_weight_names(self.side));
        let y = match weight {
            (left, Some(right)) if self.factored_is_cheaper(left.dims()[2]) => self.factored(x, rule, left, right),
            (left, Some(right)) => self.dense(x, rule, left.matmul(right)),
            (whole, None) => self.dense(x, rule, whole),
        };
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }

    /// Whether the multiplications of a token through the factors are less than a quarter of those through `H`: they
    /// run in narrow matrices, which are slower by about that.
    fn factored_is_cheaper(&self, rank: usize) -> bool {
        let n = self.dim;
        4 * (n * rank * (self.d_in + self.d_out) + n * n * n * rank) < self.d_in * self.d_out
    }

    /// `sum_i kron(rule_i, weight_i)`, `[d_in, d_out]`; rule `[n, n, n]`, weight `[n, d_in / n, d_out / n]`.
    fn kronecker(&self, rule: Tensor<3>, weight: Tensor<3>) -> Tensor<2> {
        let (n, rows, cols) = (self.dim, self.d_in / self.dim, self.d_out / self.dim);
        rule.reshape([n, n * n])
            .transpose()
            .matmul(weight.reshape([n, rows * cols]))
            .reshape([n, n, rows, cols])
            .swap_dims(1, 2)
            .reshape([self.d_in, self.d_out])
    }

    /// `x H` through `H`.
    fn dense(&self, x: Tensor<3>, rule: Tensor<3>, weight: Tensor<3>) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        x.reshape([batch * seq, self.d_in])
            .matmul(self.kronecker(rule, weight))
            .reshape([batch, seq, self.d_out])
    }

    /// `x H` through the factors `weight_i = left_i right_i`: with `x` as a matrix of `n` rows a token,
    /// `sum_i rule_i^T (x left_i) right_i`.
    fn factored(&self, x: Tensor<3>, rule: Tensor<3>, left: Tensor<3>, right: Tensor<3>) -> Tensor<3> {
        let (n, rows, cols) = (self.dim, self.d_in / self.dim, self.d_out / self.dim);
        let [batch, seq, _] = x.dims();
        let (tokens, rank) = (batch * seq, left.dims()[2]);
        // [(token, a), (i, r)]
        let left = left.swap_dims(0, 1).reshape([rows, n * rank]);
        let narrow = x.reshape([tokens * n, rows]).matmul(left);
        // For each i, over a: [i, (token, r), a] x [i, a, b].
        let narrow = narrow
            .reshape([tokens, n, n, rank])
            .permute([2, 0, 3, 1])
            .reshape([n, tokens * rank, n]);
        let mixed = narrow.matmul(rule);
        // [(token, b), (i, r)]
        let mixed = mixed
            .reshape([n, tokens, rank, n])
            .permute([1, 3, 0, 2])
            .reshape([tokens * n, n * rank]);
        mixed
            .matmul(right.reshape([n * rank, cols]))
            .reshape([batch, seq, self.d_out])
    }

    fn named_params(&self, path: &str) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = Vec::new();
        let mut add = |factors: &Option<Factors>, names: [&str; 3]| {
            if let Some(Factors { left, right }) = factors {
                let whole = right.is_none();
                params.push((format!("{path}.{}", names[usize::from(!whole)]).into(), left.id));
                params.extend(right.iter().map(|r| (format!("{path}.{}", names[2]).into(), r.id)));
            }
        };
        add(&self.weight, ["W", "W_left", "W_right"]);
        add(&self.rule, RULE);
        params.extend(self.bias.iter().map(|b| (format!("{path}.b").into(), b.id)));
        params
    }
}

impl Project {
    /// `[batch, seq, d_in] -> [batch, seq, d_out]`
    pub fn forward(&self, x: Tensor<3>, shared: &Shared) -> Tensor<3> {
        match self {
            Self::Linear(layer) => layer.forward(x),
            Self::Phm(layer) => layer.forward(x, shared),
        }
    }

    pub(crate) fn named_params(&self, path: &str) -> Vec<(Cow<'static, str>, ParamId)> {
        match self {
            Self::Linear(layer) => layer.named_params(path).to_vec(),
            Self::Phm(layer) => layer.named_params(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    /// Prints what both ways cost: `cargo test -p adapters-bottleneck -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_both_ways() {
        let device = Device::flex();
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        for (d_in, d_out) in [(384, 12), (12, 384), (768, 24), (24, 768), (384, 192)] {
            let layer = PhmLayer::new(
                &Phm::default(),
                d_in,
                d_out,
                Side::Down,
                &mut ChaCha8Rng::seed_from_u64(0),
                &device,
            );
            let (rule, left, right) = (random([4, 4, 4]), random([4, d_in / 4, 1]), random([4, 1, d_out / 4]));
            let x = random([16, 128, d_in]);
            let best = |run: &dyn Fn() -> Tensor<3>| {
                let time = |_| {
                    let start = std::time::Instant::now();
                    let _ = run().into_data();
                    start.elapsed().as_secs_f64() * 1e3
                };
                (0..30).map(time).fold(f64::INFINITY, f64::min)
            };
            let factors = best(&|| layer.factored(x.clone(), rule.clone(), left.clone(), right.clone()));
            let dense = best(&|| layer.dense(x.clone(), rule.clone(), left.clone().matmul(right.clone())));
            eprintln!("{d_in} -> {d_out}: factors {factors:.2} ms, dense {dense:.2} ms");
        }
    }

    #[test]
    fn the_factors_give_what_the_kronecker_product_gives() {
        let device = Device::flex();
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        for (n, d_in, d_out, rank) in [(4, 32, 8, 1), (2, 6, 10, 3), (1, 5, 7, 2), (3, 9, 3, 2)] {
            let phm = Phm {
                dim: n,
                weight: PhmWeight::Factorized { rank },
                ..Phm::default()
            };
            let layer = PhmLayer::new(
                &phm,
                d_in,
                d_out,
                Side::Down,
                &mut ChaCha8Rng::seed_from_u64(0),
                &device,
            );
            let (rule, left, right) = (
                random([n, n, n]),
                random([n, d_in / n, rank]),
                random([n, rank, d_out / n]),
            );
            let x = random([2, 3, d_in]);
            let through = layer.factored(x.clone(), rule.clone(), left.clone(), right.clone());
            let expected = layer.dense(x, rule, left.matmul(right));
            through
                .into_data()
                .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(1e-4, 1e-4));
        }
    }
}
