//! Feed-forward blocks of several experts, of which each token chooses a few.
//!
//! Paper: *Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer*, Shazeer et al., 2017,
//! <https://arxiv.org/abs/1701.06538>. An expert that no token of the batch chooses is not computed; the others read all
//! tokens, and what they make of a token that has not chosen them counts nothing.

use adapters_core::{BareParameter, Matrices, MatricesRole};
use burn::tensor::activation::{sigmoid, softmax};

use crate::feed_forward::Gated;
use crate::modeling::*;

/// How the experts of a layer are built and chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ExpertsPlan {
    /// By whose names and formulas.
    pub(crate) form: ExpertsForm,
    /// Experts of a layer.
    pub(crate) count: usize,
    /// Experts a token chooses.
    pub(crate) chosen: usize,
    /// Width inside an expert.
    pub(crate) ffn: usize,
}

/// By whose names and formulas experts are built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ExpertsForm {
    /// `block_sparse_moe` with `gate` and `experts.N.w1`, `w2` and `w3`.
    Mixtral {
        /// What the experts and the router read is scaled by a number between one minus this and one plus this, drawn for each
        /// element, in training.
        jitter: f64,
    },
    /// `mlp` with `gate` and `experts.N.gate_proj`, `up_proj` and `down_proj`.
    Qwen {
        /// Whether the weights of a token's experts sum to one.
        normalized: bool,
    },
    /// `mlp` with `router` and the parameters of `experts`.
    GptOss,
}

/// Experts with layers of their own: `sum_e w_e down_e(act(gate_e x) * up_e x)`.
#[derive(Module, Sites, Debug)]
pub(crate) struct Experts {
    router: Sited<Linear>,
    experts: Vec<Gated>,
    chosen: usize,
    normalized: bool,
    jitter: f64,
}

/// Experts whose matrices lie in one parameter each, with limits: `sum_e w_e down_e((up + 1) * gate sigmoid(1.702 gate))`, where
/// `gate` and `up` are every other feature of `gate_up_e x`.
#[derive(Module, Sites, Debug)]
pub(crate) struct BareExperts {
    /// `[count, d_model]`.
    router: Param<Tensor<2>>,
    /// `[count]`.
    router_bias: Param<Tensor<1>>,
    /// `[count, d_model, 2 ffn]`.
    gate_up: Sited<Matrices>,
    /// `[count, 2 ffn]`.
    gate_up_bias: Param<Tensor<2>>,
    /// `[count, ffn, d_model]`.
    down: Sited<Matrices>,
    /// `[count, d_model]`.
    down_bias: Param<Tensor<2>>,
    chosen: usize,
}

impl ExpertsPlan {
    /// Checks the numbers against each other.
    pub(crate) fn check(self, check: ConfigCheck<'_>, count: &'static str, layers: usize) -> Result<Self, ModelError> {
        check.sizes([(count, self.count), ("moe_intermediate_size", self.ffn)])?;
        let few = self.count.saturating_mul(layers) <= MOST_EXPERTS;
        let expected = format!("at most {MOST_EXPERTS} experts in all {layers} layers");
        check.require(few, count, expected, self.count)?;
        let fits = (1..=self.count).contains(&self.chosen);
        let expected = format!("a number from 1 to {count} = {}", self.count);
        check.require(fits, "num_experts_per_tok", expected, self.chosen)?;
        Ok(self)
    }
}

impl Experts {
    pub(crate) fn build(plan: ExpertsPlan, d_model: usize, activation: Activation, at: &mut Scope<'_>) -> Self {
        let (block, names, normalized, jitter) = match plan.form {
            ExpertsForm::Qwen { normalized } => ("mlp", ["gate_proj", "up_proj", "down_proj"], normalized, 0.0),
            ExpertsForm::Mixtral { jitter } => ("block_sparse_moe", ["w1", "w3", "w2"], true, jitter),
            ExpertsForm::GptOss => ("block_sparse_moe", ["w1", "w3", "w2"], true, 0.0),
        };
        let mut at = at.within(block);
        let router = at.linear_with(false, LinearRole::Router, "gate", [d_model, plan.count]);
        let experts = (0..plan.count).map(|index| {
            let location = at.location().expert(index);
            let mut at = at.within_at(location, &format!("experts.{index}"));
            Gated::build(names, false, [d_model, plan.ffn], activation, &mut at)
        });
        Self {
            experts: experts.collect(),
            router,
            chosen: plan.chosen,
            normalized,
            jitter,
        }
    }

    pub(crate) fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let x = self.jittered(x, cx);
        let scores = cx.linear(&self.router, x.clone());
        let chosen = Chosen::new(&scores, self.chosen);
        let weights = softmax(scores, 2) * chosen.mask.float();
        let weights = match self.normalized {
            true => weights.clone() / weights.sum_dim(2),
            false => weights,
        };
        sum_of(&chosen.experts, weights, |expert| {
            self.experts[expert].forward(x.clone(), cx)
        })
    }
}

impl Experts {
    /// `x` with the noise of training.
    fn jittered(&self, x: Tensor<3>, cx: &Hooks<'_>) -> Tensor<3> {
        match &cx.pass().dropout {
            Some(random) if self.jitter > 0.0 => {
                let drawn = random.uniform(x.dims(), &x.device()).cast(x.dtype());
                x * (drawn * (2.0 * self.jitter) + (1.0 - self.jitter))
            }
            _ => x,
        }
    }
}

/// The most experts of all layers of a model together: more are a damaged number, and would be made before the tensors are missed.
const MOST_EXPERTS: usize = 1 << 16;

/// The names of the matrices of all experts, in the order of the published module.
const GATE_UP: &str = "gate_up_proj";
const DOWN: &str = "down_proj";

/// Gates are at most this, and what they gate is at most this far from zero.
pub(crate) const LIMIT: f64 = 7.0;

impl BareExperts {
    pub(crate) fn build(plan: ExpertsPlan, d_model: usize, at: &mut Scope<'_>) -> Self {
        let (count, ffn) = (plan.count, plan.ffn);
        let parameter = |name: &str, after: &[&str]| BareParameter {
            name: name.to_owned(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
        };
        Self {
            router: at.tensor("mlp.router.weight", [count, d_model]),
            router_bias: at.tensor("mlp.router.bias", [count]),
            gate_up: at.matrices(
                MatricesRole::ExpertGateUp,
                "mlp.experts",
                parameter(GATE_UP, &[DOWN]),
                [count, d_model, 2 * ffn],
            ),
            gate_up_bias: at.tensor("mlp.experts.gate_up_proj_bias", [count, 2 * ffn]),
            down: at.matrices(
                MatricesRole::ExpertDown,
                "mlp.experts",
                parameter(DOWN, &[]),
                [count, ffn, d_model],
            ),
            down_bias: at.tensor("mlp.experts.down_proj_bias", [count, d_model]),
            chosen: plan.chosen,
        }
    }

    pub(crate) fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let [batch, seq, d_model] = x.dims();
        let scores = ops::affine(x.clone(), self.router.val(), self.router_bias.val());
        let chosen = Chosen::new(&scores, self.chosen);
        let weights = softmax(scores.mask_fill(chosen.mask.bool_not(), f32::MIN), 2);
        let (gate_up, down) = (cx.matrices(&self.gate_up), cx.matrices(&self.down));
        let tokens = x.reshape([batch * seq, d_model]);
        sum_of(&chosen.experts, weights, |expert| {
            let both = affine(tokens.clone(), &gate_up, self.gate_up_bias.val(), expert);
            let [n, width] = both.dims();
            let both = both.reshape([n, width / 2, 2]);
            let [gate, up] = [0, 1].map(|part| both.clone().slice_dim(2, part..part + 1).reshape([n, width / 2]));
            let (gate, up) = (gate.clamp_max(LIMIT), up.clamp(-LIMIT, LIMIT));
            let gated = (up + 1.0) * gate.clone() * sigmoid(gate * 1.702);
            affine(gated, &down, self.down_bias.val(), expert).reshape([batch, seq, d_model])
        })
    }
}

/// `x W_e + b_e`, `[n, rows] -> [n, cols]`.
fn affine(x: Tensor<2>, weight: &Tensor<3>, bias: Tensor<2>, expert: usize) -> Tensor<2> {
    let [_, rows, cols] = weight.dims();
    let weight = weight.clone().slice_dim(0, expert..expert + 1).reshape([rows, cols]);
    ops::product(x, weight) + bias.slice_dim(0, expert..expert + 1)
}

/// Which experts tokens choose.
struct Chosen {
    /// True where a token chooses an expert, `[batch, seq, count]`.
    mask: Tensor<3, Bool>,
    /// Those that any token chooses.
    experts: Vec<usize>,
}

impl Chosen {
    /// The `chosen` highest `scores` of each token.
    fn new(scores: &Tensor<3>, chosen: usize) -> Self {
        let ([batch, seq, count], device) = (scores.dims(), scores.device());
        let (_, indices) = scores.clone().detach().topk_with_indices(chosen, 2);
        let shape = [batch, seq, chosen, count];
        let all = Tensor::<1, Int>::arange(0..count as i64, &device).reshape([1, 1, 1, count]);
        let hits = indices
            .reshape([batch, seq, chosen, 1])
            .expand(shape)
            .equal(all.expand(shape));
        let mask = hits.int().sum_dim(2).reshape([batch, seq, count]).greater_elem(0);
        let tokens = mask.clone().int().reshape([batch * seq, count]).sum_dim(0).into_data();
        let used = tokens.iter::<i64>().enumerate().filter(|(_, tokens)| *tokens > 0);
        Self {
            experts: used.map(|(expert, _)| expert).collect(),
            mask,
        }
    }
}

/// The sum of what experts make of all tokens, weighted by `weights`, `[batch, seq, count]`.
fn sum_of(experts: &[usize], weights: Tensor<3>, mut output: impl FnMut(usize) -> Tensor<3>) -> Tensor<3> {
    let weighted = experts
        .iter()
        .map(|expert| output(*expert) * weights.clone().slice_dim(2, *expert..expert + 1));
    let sum = weighted.reduce(|sum, next| sum + next);
    // Every token chooses at least one, so that there is a sum but for a batch without tokens.
    sum.unwrap_or(weights)
}
