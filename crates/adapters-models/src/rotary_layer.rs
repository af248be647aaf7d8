//! A layer of the decoders with rotary positions: two blocks, and how they join the residual stream.

use adapters_core::{AnyNorm, Join};

use crate::feed_forward::{FeedForward, FeedForwardPlan};
use crate::modeling::*;
use crate::norm::Norm;
use crate::rotary::Rotation;
use crate::rotary_attention::RotaryAttention;
use crate::rotary_config::RotaryDecoderConfig;
use crate::rotary_family::{Family, LayerPlan, Placement};

/// One layer.
#[derive(Module, Sites, Debug)]
pub(crate) struct RotaryLayer {
    /// `None` in families of which no smaller model is made ([`Host::mirror`](adapters_core::Host::mirror)).
    input: Option<Point<OutputHook>>,
    /// `None` where the block reads the residual stream as it is.
    attention_norm: Option<Sited<Norm>>,
    attention: RotaryAttention,
    attention_residual: ResidualConnection,
    /// `None` where the block reads what the attention reads.
    ffn_norm: Option<Sited<Norm>>,
    feed_forward: FeedForward,
    ffn_residual: ResidualConnection,
    output: Point<OutputHook>,
    #[module(skip)]
    placement: Placement,
    dropout: f64,
}

/// Where a block joins the residual stream.
#[derive(Module, Sites, Debug)]
struct ResidualConnection {
    point: Point<ResidualHook>,
    /// Of the block's output.
    norm: Option<Sited<Norm>>,
    #[module(skip)]
    without_norm: Join,
}

/// What the layers of a pass have in common.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Of layers that see the whole text.
    pub(crate) full: Rotation,
    /// Of layers with a window, where they have angles of their own.
    pub(crate) sliding: Option<Rotation>,
    /// What queries may see, for each window there is.
    pub(crate) biases: Vec<(Option<usize>, Tensor<4>)>,
    /// The normalizations behind attention and feed-forward block through which adapters read sums in every layer; `None` for
    /// the layer's own.
    pub(crate) sum_norms: Option<[AnyNorm; 2]>,
}

impl Frame {
    /// What the queries of a layer may see of its keys.
    fn bias(&self, window: Option<usize>) -> Option<Tensor<4>> {
        let mut biases = self.biases.iter();
        biases.find(|(of, _)| *of == window).map(|(_, bias)| bias.clone())
    }
}

impl RotaryLayer {
    pub(crate) fn build(
        config: &RotaryDecoderConfig,
        family: &Family,
        activation: Activation,
        plan: LayerPlan,
        mut at: Scope<'_>,
    ) -> Self {
        let (d, eps) = (config.hidden_size, config.rms_norm_eps);
        let names: [Option<&str>; 4] = match family.placement {
            Placement::Before { .. } => [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
            Placement::Around => [
                Some("input_layernorm"),
                Some("post_attention_layernorm"),
                Some("pre_feedforward_layernorm"),
                Some("post_feedforward_layernorm"),
            ],
            Placement::Behind => [
                None,
                Some("post_attention_layernorm"),
                None,
                Some("post_feedforward_layernorm"),
            ],
            Placement::Beside => [Some("input_layernorm"), None, None, None],
        };
        let (first, second) = match family.placement {
            Placement::Before { factor } if factor != 1.0 => (Join::Scaled(factor), Join::Scaled(factor)),
            Placement::Beside => (Join::Sum, Join::Beside),
            _ => (Join::Sum, Join::Sum),
        };
        let norm =
            |role, name: Option<&str>, at: &mut Scope<'_>| name.map(|name| at.norm(family.norm, role, name, d, eps));
        let feed_forward = plan.experts.map_or(family.feed_forward, FeedForwardPlan::Experts);
        // The adapters of attention and output have no module of their own in the published checkpoint: these are the names
        // the reference gives them.
        Self {
            input: family.has_mirror().then(|| at.layer_input(d)),
            attention_norm: norm(NormRole::AttentionNorm, names[0], &mut at),
            attention: RotaryAttention::build(config, family, plan, &mut at),
            attention_residual: ResidualConnection {
                point: at.residual(ResidualRole::AfterAttention, "attention_adapters", d),
                norm: norm(NormRole::AttentionOutputNorm, names[1], &mut at),
                without_norm: first,
            },
            ffn_norm: norm(NormRole::FfnNorm, names[2], &mut at),
            feed_forward: FeedForward::build(feed_forward, [d, config.intermediate_size], activation, &mut at),
            ffn_residual: ResidualConnection {
                point: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
                norm: norm(NormRole::FfnOutputNorm, names[3], &mut at),
                without_norm: second,
            },
            output: at.layer_output(d),
            placement: family.placement,
            dropout: family.residual_dropout,
        }
    }

    /// The normalizations behind both blocks, if it has them.
    pub(crate) fn output_norms(&self, cx: &Hooks<'_>) -> Option<[AnyNorm; 2]> {
        let norms = self
            .attention_residual
            .norm
            .as_ref()
            .zip(self.ffn_residual.norm.as_ref());
        norms.map(|(first, second)| [cx.norm_here(first), cx.norm_here(second)])
    }
}

impl Block for RotaryLayer {
    type Frame = Frame;

    fn forward(&self, x: Tensor<3>, frame: &Frame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let window = self.attention.window();
        let rotation = frame
            .sliding
            .as_ref()
            .filter(|_| window.is_some())
            .unwrap_or(&frame.full);
        let sum_norms = frame.sum_norms.as_ref();

        let x = match &self.input {
            Some(input) => cx.output(input, x),
            None => x,
        };
        let read = normed(&self.attention_norm, &x, cx);
        let attended = self
            .attention
            .forward(read.clone(), rotation, frame.bias(window), slot, cx);
        let attended = cx.dropout(attended, self.dropout);
        let x = self
            .attention_residual
            .forward(attended, x, sum_norms.map(|norms| &norms[0]), cx);

        let read = match self.placement {
            Placement::Beside => read,
            _ => normed(&self.ffn_norm, &x, cx),
        };
        let fed = self.feed_forward.forward(read, cx);
        let fed = cx.dropout(fed, self.dropout);
        let x = self.ffn_residual.forward(fed, x, sum_norms.map(|norms| &norms[1]), cx);
        cx.output(&self.output, x)
    }
}

impl ResidualConnection {
    fn forward(&self, hidden: Tensor<3>, x: Tensor<3>, of_sum: Option<&AnyNorm>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let join = match &self.norm {
            None => self.without_norm.clone(),
            Some(norm) => {
                let norm = cx.norm_here(norm);
                let of_sum = of_sum.unwrap_or(&norm).clone();
                Join::SumOfNorm { norm, of_sum }
            }
        };
        cx.join(&self.point, hidden, x, join)
    }
}

/// Normalized, where there is a norm.
fn normed(norm: &Option<Sited<Norm>>, x: &Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
    match norm {
        Some(norm) => cx.norm(norm, x.clone()),
        None => x.clone(),
    }
}
