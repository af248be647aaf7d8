//! The vocabulary of places where an adapter may act.
//!
//! A model lists its sites as data ([`Host::sites`](crate::Host::sites)) and names them in its forward
//! pass; a method asks for sites by role. Neither knows the other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The stack of layers a site belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stack {
    /// The encoder, or the only stack of an encoder model.
    Encoder,
    /// The decoder, or the only stack of a decoder model.
    Decoder,
    /// The cross attention inside a decoder.
    Cross,
}

/// What a site does in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Query projection of an attention (linear).
    Query,
    /// Key projection of an attention (linear).
    Key,
    /// Value projection of an attention (linear).
    Value,
    /// Output projection of an attention (linear).
    AttentionOutput,
    /// First projection of the feed-forward block (linear).
    FfnUp,
    /// Gate projection of a gated feed-forward block (linear).
    FfnGate,
    /// Second projection of the feed-forward block (linear).
    FfnDown,
    /// Projection of a pooler over the last hidden state (linear).
    Pooler,
    /// Table of the token embeddings.
    TokenEmbedding,
    /// Normalization of the embeddings.
    EmbeddingNorm,
    /// Normalization beside the attention block.
    AttentionNorm,
    /// Normalization beside the feed-forward block.
    FfnNorm,
    /// Keys and values of an attention, after projection.
    KeyValue,
    /// Where the attention block joins the residual stream.
    AfterAttention,
    /// Where the cross attention of a decoder joins the residual stream.
    AfterCrossAttention,
    /// Where the feed-forward block joins the residual stream.
    AfterFfn,
    /// Token embeddings, before the first layer.
    Embedding,
    /// The hidden state a whole layer returns.
    LayerOutput,
    /// The hidden state that enters the language-model head.
    LmHeadInput,
    /// Normalization after the last layer.
    FinalNorm,
    /// Language-model head with a weight of its own (linear).
    LmHead,
    /// Rows of the token table, before positions and types are added and before any normalization.
    EmbeddedTokens,
    /// Query, key and value projections side by side in one matrix (linear).
    QueryKeyValue,
}

impl Role {
    /// The projections that a fused one holds, side by side in equal parts of its output; empty for every other role.
    pub const fn parts(self) -> &'static [Self] {
        match self {
            Self::QueryKeyValue => &[Self::Query, Self::Key, Self::Value],
            _ => &[],
        }
    }

    /// Whether a place of this role is meant by `wanted`: the same role, or one that this role holds as a part.
    pub fn holds(self, wanted: Self) -> bool {
        self == wanted || self.parts().contains(&wanted)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
            Self::Cross => "cross",
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::AttentionOutput => "attention_output",
            Self::FfnUp => "ffn_up",
            Self::FfnGate => "ffn_gate",
            Self::FfnDown => "ffn_down",
            Self::Pooler => "pooler",
            Self::TokenEmbedding => "token_embedding",
            Self::EmbeddingNorm => "embedding_norm",
            Self::AttentionNorm => "attention_norm",
            Self::FfnNorm => "ffn_norm",
            Self::KeyValue => "key_value",
            Self::AfterAttention => "after_attention",
            Self::AfterCrossAttention => "after_cross_attention",
            Self::AfterFfn => "after_ffn",
            Self::EmbeddedTokens => "embedded_tokens",
            Self::Embedding => "embedding",
            Self::LayerOutput => "layer_output",
            Self::LmHeadInput => "lm_head_input",
            Self::FinalNorm => "final_norm",
            Self::LmHead => "lm_head",
            Self::QueryKeyValue => "query_key_value",
        })
    }
}

/// One place in a model: a role in a layer of a stack. Copied freely, compared by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The stack of layers.
    pub stack: Stack,
    /// Index of the layer from zero; `None` for places outside the layers.
    pub layer: Option<usize>,
    /// What the place does.
    pub role: Role,
}

impl Site {
    /// A site inside a layer.
    pub const fn new(stack: Stack, layer: usize, role: Role) -> Self {
        Self {
            stack,
            layer: Some(layer),
            role,
        }
    }

    /// A site outside the layers: embeddings, pooler, head.
    pub const fn outside(stack: Stack, role: Role) -> Self {
        Self {
            stack,
            layer: None,
            role,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "{}.{layer}.{}", self.stack, self.role),
            None => write!(f, "{}.{}", self.stack, self.role),
        }
    }
}

/// The kind of a site: which hook the model calls there, and its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteKind {
    /// A linear layer `[.., d_in] -> [.., d_out]`.
    Linear {
        /// Input features.
        d_in: usize,
        /// Output features.
        d_out: usize,
    },
    /// A normalization over the last axis.
    Norm {
        /// Features.
        d_model: usize,
    },
    /// An embedding table, `[rows, d_model]`.
    Table {
        /// Rows.
        rows: usize,
        /// Features.
        d_model: usize,
        /// The row of the padding token, which never trains.
        padding: Option<usize>,
    },
    /// A block joining the residual stream, `[batch, seq, d_model]`.
    Hidden {
        /// Features.
        d_model: usize,
    },
    /// Keys and values, `[batch, heads, seq, d_head]`.
    KeyValue {
        /// Key/value heads.
        heads: usize,
        /// Features a head.
        d_head: usize,
    },
    /// Embedded tokens, `[batch, seq, d_model]`.
    Embedding {
        /// Features.
        d_model: usize,
    },
    /// What a whole layer returns, `[batch, seq, d_model]`.
    LayerOutput {
        /// Features.
        d_model: usize,
    },
    /// What enters the language-model head, `[batch, seq, d_model]`.
    LmHeadInput {
        /// Features.
        d_model: usize,
    },
}

/// A site as a model lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteInfo {
    /// The place.
    pub site: Site,
    /// The hook and its sizes.
    pub kind: SiteKind,
    /// Path of the module in the published checkpoint (`encoder.layer.0.attention.self.query`),
    /// the name both storage formats are built on.
    pub path: String,
    /// What AdapterHub's configurations mean by this role: the role itself, but for models in which its library wraps the
    /// feed-forward projections the other way round, and its `intermediate` is the second of them.
    pub place: Role,
}

impl SiteInfo {
    /// A site whose place is its role.
    pub fn new(site: Site, kind: SiteKind, path: impl Into<String>) -> Self {
        Self {
            site,
            kind,
            path: path.into(),
            place: site.role,
        }
    }

    /// The same site, which AdapterHub's configurations call by another role.
    #[must_use]
    pub fn at_place(mut self, place: Role) -> Self {
        self.place = place;
        self
    }

    /// Whether it is a module with weights in the published checkpoint, which a path can name.
    pub fn is_module(&self) -> bool {
        matches!(
            self.kind,
            SiteKind::Linear { .. } | SiteKind::Norm { .. } | SiteKind::Table { .. }
        )
    }

    /// Sizes of a linear site, `None` for the other kinds.
    pub fn linear_dims(&self) -> Option<(usize, usize)> {
        match self.kind {
            SiteKind::Linear { d_in, d_out } => Some((d_in, d_out)),
            _ => None,
        }
    }
}
