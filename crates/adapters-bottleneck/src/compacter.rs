//! Compacter's projections: layers of parametrized hypercomplex multiplication.

use std::borrow::Cow;

use adapters_core::{ConfigError, NamedParams};
use adapters_nn::draw;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::projection::Side;

/// A hypercomplex layer, `H = sum_i kron(rule_i, weight_i)`, `y = xH + b`.
///
/// "Beyond Fully-Connected Layers with Quaternions: Parameterization of Hypercomplex Multiplications with 1/n
/// Parameters", Zhang et al. (2021), <https://arxiv.org/abs/2102.08597>.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Phm {
    /// Number of summands; divides the width of the model and of the bottleneck.
    pub(crate) dim: usize,
    /// One rule for all layers.
    pub(crate) shared_rule: bool,
    /// Each rule is a product of a column and a row.
    pub(crate) factorized_rule: bool,
    /// How the rules are drawn.
    pub(crate) rule_init: RuleInit,
    /// Standard deviation of a shared rule that is drawn normal.
    pub(crate) init_range: f64,
    /// One weight for all layers.
    pub(crate) shared_weight: bool,
    /// Shape of the weight.
    pub(crate) weight: PhmWeight,
    /// A bias in each projection.
    pub(crate) bias: bool,
}

/// Shape of a hypercomplex layer's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PhmWeight {
    /// One full matrix for each summand.
    Full,
    /// A product of two, `weight_i = left_i right_i`.
    Factorized {
        /// Inner size of the product.
        rank: usize,
    },
}

/// How the rules of a hypercomplex layer are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleInit {
    /// Normal with standard deviation `phm_init_range`.
    #[default]
    Normal,
    /// Uniform in [-1, 1].
    Uniform,
}

/// How the weight of a hypercomplex layer is drawn. The `adapters` library draws a Glorot normal whatever the name; the
/// names are kept so that files stay as they were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightInit {
    /// `"glorot-uniform"`.
    #[default]
    GlorotUniform,
    /// `"glorot-normal"`.
    GlorotNormal,
    /// `"normal"`.
    Normal,
    /// `"phm"`.
    Phm,
}

impl Phm {
    /// Refuses widths that cannot be divided into `dim` blocks.
    pub(crate) fn check_divides(&self, d_model: usize, width: usize) -> Result<(), ConfigError> {
        ConfigError::unless(
            d_model.is_multiple_of(self.dim) && width.is_multiple_of(self.dim),
            "phm_dim",
            "a divisor of the width of the model and of the bottleneck",
            format!("{}, and the widths are {d_model} and {width}", self.dim),
        )
    }
}

/// A hypercomplex layer: `H = sum_i kron(rule_i, weight_i)`. What is absent here is shared by the layers of the adapter.
#[derive(Module, Debug)]
pub(crate) struct PhmLayer {
    rule: Option<Factors>,
    weight: Option<Factors>,
    bias: Option<Param<Tensor<1>>>,
    d_in: usize,
    d_out: usize,
    dim: usize,
    #[module(skip)]
    side: Side,
}

/// A stack of matrices, or its two factors.
#[derive(Module, Debug)]
pub(crate) struct Factors {
    /// The matrices, or the left factors.
    left: Param<Tensor<3>>,
    /// The right factors.
    right: Option<Param<Tensor<3>>>,
}

impl Factors {
    /// `[n, rows, cols]`, as one or as `[n, rows, rank]` times `[n, rank, cols]`.
    fn new(data: impl IntoIterator<Item = TensorData>, device: &Device) -> Option<Self> {
        let mut data = data.into_iter();
        Some(Self {
            left: Param::from_data(data.next()?, device),
            right: data.next().map(|right| Param::from_data(right, device)),
        })
    }

    /// The parameters under the name of the whole, or of the left and the right factors.
    fn named(&self, [whole, left, right]: [&str; 3]) -> Vec<(Cow<'static, str>, ParamId)> {
        match &self.right {
            None => vec![(whole.to_owned().into(), self.left.id)],
            Some(factor) => vec![
                (left.to_owned().into(), self.left.id),
                (right.to_owned().into(), factor.id),
            ],
        }
    }

    fn value(&self) -> (Tensor<3>, Option<Tensor<3>>) {
        (self.left.val(), self.right.as_ref().map(Param::val))
    }
}

/// Initial matrices of a hypercomplex weight of `rows x cols`, Glorot normal one by one, as the `adapters` library draws them
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

/// Names of what the layers share, each as a whole and as its left and right factors: rule, down and up weight.
pub(crate) const SHARED_NAMES: [[&str; 3]; 3] = [
    RULE,
    ["W_down", "W_down_left", "W_down_right"],
    ["W_up", "W_up_left", "W_up_right"],
];

const RULE: [&str; 3] = ["phm_rule", "phm_rule_left", "phm_rule_right"];

/// What the hypercomplex layers of an adapter share, each where the configuration says so.
#[derive(Module, Debug, Default)]
pub(crate) struct SharedPhm {
    down: Option<Factors>,
    up: Option<Factors>,
    rule: Option<Factors>,
}

impl SharedPhm {
    /// Fresh parameters for a model of width `d_model`.
    pub(crate) fn draw(phm: &Phm, d_model: usize, bottleneck: usize, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let mut shared = Self::default();
        if phm.shared_weight {
            let (wide, narrow) = (d_model / phm.dim, bottleneck / phm.dim);
            shared.down = Factors::new(draw_weight(phm, wide, narrow, rng), device);
            shared.up = Factors::new(draw_weight(phm, narrow, wide, rng), device);
        }
        if phm.shared_rule {
            shared.rule = Factors::new(draw_rule(phm, 1.0, phm.init_range as f32, rng), device);
        }
        shared
    }

    fn weight(&self, side: Side) -> Option<&Factors> {
        match side {
            Side::Down => self.down.as_ref(),
            Side::Up => self.up.as_ref(),
        }
    }
}

impl NamedParams for SharedPhm {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let [rule, down, up] = SHARED_NAMES;
        let all = [(&self.down, down), (&self.up, up), (&self.rule, rule)];
        let present = all
            .into_iter()
            .filter_map(|(factors, names)| Some(factors.as_ref()?.named(names)));
        present.flatten().collect()
    }
}

impl PhmLayer {
    pub(crate) fn new(phm: &Phm, d_in: usize, d_out: usize, side: Side, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let weight = (!phm.shared_weight).then(|| draw_weight(phm, d_in / phm.dim, d_out / phm.dim, rng));
        let rule = (!phm.shared_rule).then(|| draw_rule(phm, 0.01, 0.01, rng));
        Self {
            weight: weight.and_then(|data| Factors::new(data, device)),
            rule: rule.and_then(|data| Factors::new(data, device)),
            bias: phm.bias.then(|| Param::from_data(draw::constant([d_out], 0.0), device)),
            d_in,
            d_out,
            dim: phm.dim,
            side,
        }
    }

    /// `x H + b`, `[batch, seq, d_in] -> [batch, seq, d_out]`. A rule or a weight that neither the layer nor its adapter has
    /// is zero.
    ///
    /// With a factorized weight `H` is never formed where the products through the factors cost less.
    pub(crate) fn forward(&self, x: Tensor<3>, shared: &SharedPhm) -> Tensor<3> {
        let rule = self.rule.as_ref().or(shared.rule.as_ref());
        let weight = self.weight.as_ref().or(shared.weight(self.side));
        let y = match (rule, weight) {
            (Some(rule), Some(weight)) => self.product(x, rule, weight),
            _ => {
                let [batch, seq, _] = x.dims();
                Tensor::zeros([batch, seq, self.d_out], &x.device())
            }
        };
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }

    /// `x H`.
    fn product(&self, x: Tensor<3>, rule: &Factors, weight: &Factors) -> Tensor<3> {
        let rule = match rule.value() {
            (left, Some(right)) => left.matmul(right),
            (whole, None) => whole,
        };
        match weight.value() {
            (left, Some(right)) if self.factored_is_cheaper(left.dims()[2]) => self.factored(x, rule, left, right),
            (left, Some(right)) => self.dense(x, rule, left.matmul(right)),
            (whole, None) => self.dense(x, rule, whole),
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

    pub(crate) fn named_params(&self, path: &str) -> Vec<(Cow<'static, str>, ParamId)> {
        let own = [(&self.weight, ["W", "W_left", "W_right"]), (&self.rule, RULE)];
        let own = own
            .into_iter()
            .filter_map(|(factors, names)| Some(factors.as_ref()?.named(names)));
        let below = |(name, id): (Cow<'static, str>, ParamId)| (format!("{path}.{name}").into(), id);
        let mut params: Vec<(Cow<'static, str>, ParamId)> = own.flatten().map(below).collect();
        params.extend(self.bias.iter().map(|b| (format!("{path}.b").into(), b.id)));
        params
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn the_factors_give_what_the_kronecker_product_gives() {
        let device = Device::flex();
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        for (n, d_in, d_out, rank) in [(4, 32, 8, 1), (2, 6, 10, 3), (1, 5, 7, 2), (3, 9, 3, 2)] {
            let phm = Phm {
                dim: n,
                shared_rule: true,
                factorized_rule: false,
                rule_init: RuleInit::Normal,
                init_range: 1e-4,
                shared_weight: false,
                weight: PhmWeight::Factorized { rank },
                bias: true,
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
