//! What a family of decoders with rotary positions decides: its names, and the choices its layers are built by.

use adapters_core::Window;

use crate::experts::ExpertsPlan;
use crate::feed_forward::FeedForwardPlan;
use crate::norm::NormKind;
use crate::rotary_config::RotaryDecoderConfig;

/// What a family is called, and what it decides.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    /// The published `model_type`.
    pub(crate) model_type: &'static str,
    /// The published class.
    pub(crate) class_name: &'static str,
    /// Layer by layer.
    pub(crate) layers: Vec<LayerPlan>,
    /// Whether a query sees later keys too; a window then reaches as far ahead as back.
    pub(crate) bidirectional: bool,
    /// The published name of the activation in the feed-forward block.
    pub(crate) activation: String,
    /// The field of the configuration that names it.
    pub(crate) activation_field: &'static str,
    /// Base of the angles in layers with a window, where they have one of their own.
    pub(crate) sliding_theta: Option<f64>,
    /// The formula of all normalizations.
    pub(crate) norm: NormKind,
    /// The published name of the normalization after the last layer.
    pub(crate) final_norm: &'static str,
    /// The attention of every layer.
    pub(crate) attention: AttentionPlan,
    /// The feed-forward block of every layer.
    pub(crate) feed_forward: FeedForwardPlan,
    /// How blocks, normalizations and the residual stream follow each other.
    pub(crate) placement: Placement,
    /// By what embeddings are multiplied.
    pub(crate) embeddings: EmbeddingFactor,
    /// Dropout on the embeddings, in training.
    pub(crate) embedding_dropout: f64,
    /// Dropout on what a block adds to the residual stream, in training.
    pub(crate) residual_dropout: f64,
    /// Whether the language-model head has a bias.
    pub(crate) head_bias: bool,
    /// What becomes of the scores of the language-model head.
    pub(crate) logits: Logits,
    /// How AdapterHub's library adapts it.
    pub(crate) adapterhub: AdapterHubForm,
}

/// What one layer decides for itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayerPlan {
    /// Keys a query sees; `None` for all.
    pub(crate) window: Option<usize>,
    /// Whether it has rotary positions.
    pub(crate) rotary: bool,
    /// Experts in place of the family's feed-forward block.
    pub(crate) experts: Option<ExpertsPlan>,
}

/// How the attention of a family is built.
#[derive(Clone, Debug)]
pub(crate) struct AttentionPlan {
    /// Query, key and value.
    pub(crate) projections: Projections,
    /// The published name of the output projection, and whether it has a bias.
    pub(crate) output: (&'static str, bool),
    /// Normalizations of queries and keys.
    pub(crate) norms: QueryKeyNorms,
    /// Factor of the scores; one by the root of a head's width without it.
    pub(crate) scale: Option<f64>,
    /// Scores are at most this, `cap tanh(scores / cap)`.
    pub(crate) cap: Option<f64>,
    /// Of the size of a window: what becomes of peft's prefixes in front of it. Peft puts those of most families whole into a
    /// cache of transformers.
    pub(crate) window: fn(usize) -> Window,
    /// Whether each head has a score that no key stands for.
    pub(crate) sinks: bool,
}

/// The projections of query, key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projections {
    /// `q_proj`, `k_proj` and `v_proj`.
    Separate {
        /// Whether they have biases.
        bias: bool,
    },
    /// `qkv_proj`: query, key and value side by side, without a bias.
    Fused,
}

/// Normalizations of queries and keys, by their published names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueryKeyNorms {
    /// None.
    None,
    /// Head by head.
    EachHead([&'static str; 2]),
    /// Over the width of all heads.
    Whole([&'static str; 2]),
}

/// How the two blocks of a layer, their normalizations and the residual stream follow each other. The normalizations have the
/// published names that are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Placement {
    /// `x + factor block(norm(x))`, twice: `input_layernorm`, `post_attention_layernorm`.
    Before {
        /// The factor.
        factor: f64,
    },
    /// `x + norm(block(norm(x)))`, twice: `input_layernorm`, `post_attention_layernorm`, `pre_feedforward_layernorm`,
    /// `post_feedforward_layernorm`.
    Around,
    /// `x + norm(block(x))`, twice: `post_attention_layernorm`, `post_feedforward_layernorm`.
    Behind,
    /// `x + attention(norm(x)) + feed_forward(norm(x))`: `input_layernorm`.
    Beside,
}

/// By what embeddings are multiplied, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum EmbeddingFactor {
    /// Not at all.
    One,
    /// Rows of the table: what adapters insert among the tokens is as it is.
    Rows(f64),
    /// What enters the first layer, with all that adapters insert.
    State(f64),
}

/// What becomes of the scores of the language-model head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Logits {
    /// Nothing.
    Plain,
    /// `scores / by`.
    Divided(f64),
    /// `cap tanh(scores / cap)`.
    Capped(f64),
}

/// How AdapterHub's library adapts a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdapterHubForm {
    /// By classes of its own: `intermediate` is the second projection of the feed-forward block and `output` the first, and what
    /// an adapter did to the embeddings stays.
    Classes,
    /// Through its plug-in interface: what an adapter did to the embeddings is undone before the head.
    Interface,
    /// The same, and a bottleneck that reads the normalized sum of block and residual stream reads it through the
    /// normalization of the last layer, whichever layer it is in.
    InterfaceWithLastNorms,
}

impl Family {
    /// A family like Llama: normalizations in front of both blocks, rotary positions on whole heads, biases as the configuration says.
    pub(crate) fn new(model_type: &'static str, class_name: &'static str, config: &RotaryDecoderConfig) -> Self {
        let layer = LayerPlan {
            window: None,
            rotary: true,
            experts: None,
        };
        Self {
            model_type,
            class_name,
            layers: vec![layer; config.num_hidden_layers],
            bidirectional: false,
            activation: config.hidden_act.clone(),
            activation_field: "hidden_act",
            sliding_theta: None,
            norm: NormKind::Rms,
            final_norm: "norm",
            attention: AttentionPlan {
                projections: Projections::Separate {
                    bias: config.attention_bias,
                },
                output: ("o_proj", config.attention_bias),
                norms: QueryKeyNorms::None,
                scale: None,
                cap: None,
                sinks: false,
                window: Window::Hiding,
            },
            feed_forward: FeedForwardPlan::Gated { bias: config.mlp_bias },
            placement: Placement::Before { factor: 1.0 },
            embeddings: EmbeddingFactor::One,
            embedding_dropout: 0.0,
            residual_dropout: 0.0,
            head_bias: false,
            logits: Logits::Plain,
            adapterhub: AdapterHubForm::Interface,
        }
    }

    /// Whether a smaller model of the family is made: all its parameters are those of sites.
    pub(crate) fn has_mirror(&self) -> bool {
        !self.attention.sinks
    }

    /// Without biases in both blocks, whatever the configuration says: the published class has none.
    pub(crate) fn without_biases(mut self) -> Self {
        self.attention.projections = Projections::Separate { bias: false };
        self.attention.output.1 = false;
        self.feed_forward = FeedForwardPlan::Gated { bias: false };
        self
    }

    /// With these windows, layer by layer.
    pub(crate) fn with_windows(self, windows: Vec<Option<usize>>) -> Self {
        let layers = windows.into_iter().map(|window| LayerPlan {
            window,
            rotary: true,
            experts: None,
        });
        Self {
            layers: layers.collect(),
            ..self
        }
    }

    /// With experts in the layers for which there is a plan.
    pub(crate) fn with_experts(mut self, plan: impl Fn(usize) -> Option<ExpertsPlan>) -> Self {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.experts = plan(index);
        }
        self
    }
}
