//! The attention of decoders with rotary positions: grouped queries, in the forms that families have.

use adapters_core::Window;

use crate::modeling::*;
use crate::norm::Norm;
use crate::rotary::Rotation;
use crate::rotary_config::RotaryDecoderConfig;
use crate::rotary_family::{Family, LayerPlan, Projections, QueryKeyNorms};

/// Attention over the positions of the text.
#[derive(Module, Sites, Debug)]
pub(crate) struct RotaryAttention {
    projected: Projected,
    query_norm: Option<Sited<Norm>>,
    key_norm: Option<Sited<Norm>>,
    key_value: Point<KeyValueHook>,
    output: Sited<Linear>,
    /// A score of each head that no key stands for, `[heads]`.
    sinks: Option<Param<Tensor<1>>>,
    #[module(skip)]
    options: AttentionOptions,
    #[module(skip)]
    rotary: bool,
}

/// Query, key and value.
#[derive(Module, Sites, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each layer")]
enum Projected {
    Separate(Separate),
    Fused(Fused),
}

#[derive(Module, Sites, Debug)]
struct Separate {
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
}

#[derive(Module, Sites, Debug)]
struct Fused {
    query_key_value: Sited<Linear>,
    /// Output features of query and of key.
    #[module(skip)]
    widths: [usize; 2],
}

impl RotaryAttention {
    /// With layers below `self_attn`.
    pub(crate) fn build(config: &RotaryDecoderConfig, family: &Family, layer: LayerPlan, at: &mut Scope<'_>) -> Self {
        let mut at = at.within("self_attn");
        let plan = &family.attention;
        let [heads, kv_heads, d_head] = config.heads();
        let (d, width, kv) = (config.hidden_size, heads * d_head, kv_heads * d_head);
        let mut options = AttentionOptions::new(d_head, config.attention_dropout, config.pad_token_id.unwrap_or(0));
        options.scale = plan.scale.unwrap_or(options.scale);
        (options.cap, options.window) = (plan.cap, layer.window.map(plan.window));
        let projected = match plan.projections {
            Projections::Separate { bias } => Projected::Separate(Separate {
                query: at.linear_with(bias, LinearRole::Query, "q_proj", [d, width]),
                key: at.linear_with(bias, LinearRole::Key, "k_proj", [d, kv]),
                value: at.linear_with(bias, LinearRole::Value, "v_proj", [d, kv]),
            }),
            Projections::Fused => {
                let role = match heads == kv_heads {
                    true => LinearRole::QueryKeyValue,
                    false => LinearRole::GroupedQueryKeyValue,
                };
                Projected::Fused(Fused {
                    query_key_value: at.linear_with(false, role, "qkv_proj", [d, width + 2 * kv]),
                    widths: [width, kv],
                })
            }
        };
        let mut norm = |role, name: Option<&str>, width| {
            name.map(|name| at.norm(family.norm, role, name, width, config.rms_norm_eps))
        };
        let (names, widths) = match plan.norms {
            QueryKeyNorms::None => ([None; 2], [0; 2]),
            QueryKeyNorms::EachHead(names) => (names.map(Some), [d_head; 2]),
            QueryKeyNorms::Whole(names) => (names.map(Some), [width, kv]),
        };
        Self {
            query_norm: norm(NormRole::QueryNorm, names[0], widths[0]),
            key_norm: norm(NormRole::KeyNorm, names[1], widths[1]),
            key_value: at.key_value("", kv_heads, d_head),
            output: at.linear_with(plan.output.1, LinearRole::AttentionOutput, plan.output.0, [width, d]),
            sinks: plan.sinks.then(|| at.tensor("sinks", [heads])),
            projected,
            options,
            rotary: layer.rotary,
        }
    }

    /// Keys a query sees; `None` for all.
    pub(crate) fn window(&self) -> Option<usize> {
        self.options.window.map(Window::size)
    }

    /// What the queries of `x` read. `bias` says which keys they see.
    ///
    /// # Shapes
    ///
    /// `x [batch, seq, d_model]`, `bias` broadcast to `[batch, heads, seq, seq_k]`; returns `[batch, seq, d_model]`.
    ///
    /// # Panics
    ///
    /// Panics on tensors of other shapes.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        bias: Option<Tensor<4>>,
        slot: Slot<'_>,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let heads = &self.options;
        let [query, key, value] = self.projected.forward(x.clone(), cx);
        let mut query = heads.split(normed(self.query_norm.as_ref(), query, cx));
        let mut key = heads.split(normed(self.key_norm.as_ref(), key, cx));
        if self.rotary {
            (query, key) = (rotation.apply(query), rotation.apply(key));
        }
        let own = (key, heads.split(value));
        let sinks = self.sinks.as_ref().map(|sinks| sinks.val());
        let attended = heads.attend_with(sinks, query, own, x, bias, (&self.key_value, slot), cx);
        let output = cx.linear(&self.output, attended.values);
        match attended.added {
            // Projected by itself, as in the reference: a bias of the projection counts twice.
            Some(added) => output + cx.linear(&self.output, added),
            None => output,
        }
    }
}

impl Projected {
    /// Query, key and value, `[batch, seq, heads * d_head]` each.
    fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> [Tensor<3>; 3] {
        match self {
            Self::Separate(Separate { query, key, value }) => {
                let query = cx.linear(query, x.clone());
                let key = cx.linear(key, x.clone());
                [query, key, cx.linear(value, x)]
            }
            Self::Fused(fused) => {
                let all = cx.linear(&fused.query_key_value, x);
                let [width, kv] = fused.widths;
                [0..width, width..width + kv, width + kv..width + 2 * kv].map(|part| all.clone().slice_dim(2, part))
            }
        }
    }
}

/// Normalized in pieces as wide as the norm: head by head, or all at once.
fn normed(norm: Option<&Sited<Norm>>, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
    let Some(norm) = norm else { return x };
    let ([batch, seq, width], piece) = (x.dims(), norm.width());
    let pieces = x.reshape([batch, seq * width / piece, piece]);
    cx.norm(norm, pieces).reshape([batch, seq, width])
}
