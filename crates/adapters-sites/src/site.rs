//! The vocabulary of sites, at which an adapter may act.
//!
//! A model's layers know their site ([`Sited`](crate::Sited)), and a method selects sites by role. Neither knows the other.

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
    /// The layers that read images, in a model of texts and images.
    Image,
}

/// Declares [`Role`] with the name of each variant in files and messages.
macro_rules! roles {
    ($(#[$doc:meta] $role:ident = $name:literal,)*) => {
        /// What a site does in its layer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Role {
            $(#[$doc] #[serde(rename = $name)] $role,)*
        }

        impl fmt::Display for Role {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$role => $name,)* })
            }
        }
    };
}

// The initial values of an adapter depend on the order of the roles: new ones are added at the end.
roles! {
    /// Query projection of an attention (linear).
    Query = "query",
    /// Key projection of an attention (linear).
    Key = "key",
    /// Value projection of an attention (linear).
    Value = "value",
    /// Output projection of an attention (linear).
    AttentionOutput = "attention_output",
    /// First projection of the feed-forward block (linear).
    FfnUp = "ffn_up",
    /// Gate projection of a gated feed-forward block (linear).
    FfnGate = "ffn_gate",
    /// Second projection of the feed-forward block (linear).
    FfnDown = "ffn_down",
    /// Projection of a pooler over the last hidden state (linear).
    Pooler = "pooler",
    /// Table of the token embeddings.
    TokenEmbedding = "token_embedding",
    /// Normalization of the embeddings.
    EmbeddingNorm = "embedding_norm",
    /// Normalization of the attention block.
    AttentionNorm = "attention_norm",
    /// Normalization of the feed-forward block.
    FfnNorm = "ffn_norm",
    /// Keys and values of an attention, after projection.
    KeyValue = "key_value",
    /// Where the attention block joins the residual stream.
    AfterAttention = "after_attention",
    /// Where the cross attention of a decoder joins the residual stream.
    AfterCrossAttention = "after_cross_attention",
    /// Where the feed-forward block joins the residual stream.
    AfterFfn = "after_ffn",
    /// Token embeddings, before the first layer.
    Embedding = "embedding",
    /// The hidden state that enters a whole layer.
    LayerInput = "layer_input",
    /// The hidden state a whole layer returns.
    LayerOutput = "layer_output",
    /// The hidden state that enters the language-model head.
    LmHeadInput = "lm_head_input",
    /// Normalization after the last layer.
    FinalNorm = "final_norm",
    /// Language-model head with a weight of its own (linear).
    LmHead = "lm_head",
    /// Rows of the token table, before positions and types are added and before any normalization.
    EmbeddedTokens = "embedded_tokens",
    /// Scores of the experts of a layer (linear).
    Router = "router",
    /// Gate and first projection of all experts of a layer, in one parameter.
    ExpertGateUp = "expert_gate_up",
    /// Second projection of all experts of a layer, in one parameter.
    ExpertDown = "expert_down",
    /// Query, key and value projections side by side in one matrix (linear).
    QueryKeyValue = "query_key_value",
    /// Convolution over pixels or sound, as the product of its kernel with every patch (linear).
    Convolution = "convolution",
    /// Projection of features onto the width of the residual stream (linear).
    InputProjection = "input_projection",
    /// Projection of what a model makes of a whole input onto a space that it shares with another model (linear).
    OutputProjection = "output_projection",
    /// Query, key and value in one matrix where the three differ in width: it is adapted as a whole (linear).
    GroupedQueryKeyValue = "grouped_query_key_value",
    /// Gate and first projection of a gated feed-forward block side by side in one matrix (linear).
    FfnGateUp = "ffn_gate_up",
    /// Normalization of the queries, head by head or over their whole width.
    QueryNorm = "query_norm",
    /// Normalization of the keys, head by head or over their whole width.
    KeyNorm = "key_norm",
    /// Normalization of the attention block's output, before it joins the residual stream.
    AttentionOutputNorm = "attention_output_norm",
    /// Normalization of the feed-forward block's output, before it joins the residual stream.
    FfnOutputNorm = "ffn_output_norm",
    /// Projection of the embeddings to the width of the layers (linear).
    EmbeddingProjection = "embedding_projection",
    /// Projection of the last hidden state to the width of the language-model head (linear).
    HeadProjection = "head_projection",
    /// Layer of a head below its last one, which a class of models around the base has (linear).
    HeadTransform = "head_transform",
    /// Normalization in front of a layer's own adapter, in models that are published with adapters.
    AdapterNorm = "adapter_norm",
    /// Projection of distances to keys (linear).
    DistanceKey = "distance_key",
    /// Projection of distances to queries (linear).
    DistanceQuery = "distance_query",
    /// Normalization of what stands for distances.
    DistanceNorm = "distance_norm",
    /// Normalization behind a convolution.
    ConvolutionNorm = "convolution_norm",
    /// Convolution over neighboring positions, in groups of features.
    PositionConvolution = "position_convolution",
    /// Table of the token embeddings under a name that no layer reads: each stack reads it under one of its own.
    SharedTable = "shared_table",
}

/// Declares the roles that layers of one kind can have, so that a layer cannot be built with a role of another kind.
macro_rules! roles_of {
    ($(#[$doc:meta])* $kind:ident: $($role:ident),*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $kind {
            $(#[doc = concat!("[`Role::", stringify!($role), "`]")] $role,)*
        }

        impl From<$kind> for Role {
            fn from(role: $kind) -> Self {
                match role { $($kind::$role => Self::$role,)* }
            }
        }
    };
}

roles_of! {
    /// Roles of linear layers.
    LinearRole: Query, Key, Value, AttentionOutput, FfnUp, FfnGate, FfnDown, Pooler, LmHead, QueryKeyValue,
        GroupedQueryKeyValue, FfnGateUp, Convolution, InputProjection, OutputProjection, EmbeddingProjection,
        HeadProjection, HeadTransform, Router, DistanceKey, DistanceQuery
}

roles_of! {
    /// Roles of embedding tables.
    TableRole: TokenEmbedding, SharedTable
}

roles_of! {
    /// Roles of convolutions in groups.
    ConvolutionRole: PositionConvolution
}

roles_of! {
    /// Roles of matrices in one parameter.
    MatricesRole: ExpertGateUp, ExpertDown
}

roles_of! {
    /// Roles of normalizations.
    NormRole: EmbeddingNorm, AttentionNorm, FfnNorm, FinalNorm, QueryNorm, KeyNorm, AttentionOutputNorm, FfnOutputNorm,
        AdapterNorm, DistanceNorm, ConvolutionNorm
}

roles_of! {
    /// Roles of the points where a block joins the residual stream.
    ResidualRole: AfterAttention, AfterCrossAttention, AfterFfn
}

roles_of! {
    /// Roles of the points where adapters act on embedded tokens.
    EmbeddingRole: EmbeddedTokens, Embedding
}

impl Role {
    /// The projections that a fused one holds, side by side in equal ranges of its output; empty for every other role.
    pub const fn projections(self) -> &'static [Self] {
        match self {
            Self::QueryKeyValue => &[Self::Query, Self::Key, Self::Value],
            Self::FfnGateUp => &[Self::FfnGate, Self::FfnUp],
            _ => &[],
        }
    }

    /// Whether a site of this role is selected by `wanted`: the same role, or a fused projection that contains it.
    pub fn holds(self, wanted: Self) -> bool {
        self == wanted || self.projections().contains(&wanted)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
            Self::Cross => "cross",
            Self::Image => "image",
        })
    }
}

/// One site of a model: a role in a layer of a stack. Copied freely, compared by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The stack of layers.
    pub stack: Stack,
    /// Index of the layer from zero; `None` outside the layers.
    pub layer: Option<usize>,
    /// What it does.
    pub role: Role,
    /// Index of the expert from zero, in a layer with several feed-forward blocks of which tokens choose; `None` elsewhere.
    pub expert: Option<usize>,
}

impl Site {
    /// A site inside a layer.
    pub const fn new(stack: Stack, layer: usize, role: Role) -> Self {
        Self {
            stack,
            layer: Some(layer),
            role,
            expert: None,
        }
    }

    /// A site outside the layers: embeddings, pooler, head.
    pub const fn outside(stack: Stack, role: Role) -> Self {
        Self {
            stack,
            layer: None,
            role,
            expert: None,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.stack)?;
        if let Some(layer) = self.layer {
            write!(f, "{layer}.")?;
        }
        if let Some(expert) = self.expert {
            write!(f, "expert_{expert}.")?;
        }
        write!(f, "{}", self.role)
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
    /// Matrices in one bare parameter, `[count, rows, cols]`.
    Matrices {
        /// Matrices.
        count: usize,
        /// Rows of each.
        rows: usize,
        /// Columns of each.
        cols: usize,
    },
    /// A convolution in groups of channels, `[batch, channels, seq]`.
    Convolution {
        /// Input channels.
        channels: usize,
        /// Output channels.
        d_out: usize,
        /// Positions that an output sees.
        kernel: usize,
        /// Groups of channels.
        groups: usize,
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
    /// What enters a whole layer, `[batch, seq, d_model]`.
    LayerInput {
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

impl SiteKind {
    /// Whether only the first adapter of a composition acts at such a site, where a sequence is changed as a whole.
    pub fn takes_one_adapter(&self) -> bool {
        matches!(
            self,
            Self::Norm { .. }
                | Self::Embedding { .. }
                | Self::LayerInput { .. }
                | Self::LayerOutput { .. }
                | Self::LmHeadInput { .. }
        )
    }
}

/// A site as a model lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteInfo {
    /// Stack, layer and role.
    pub site: Site,
    /// The hook and its sizes.
    pub kind: SiteKind,
    /// Path of the module in the published checkpoint (`encoder.layer.0.attention.self.query`),
    /// the name both storage formats are built on.
    pub path: String,
    /// Whether the published weight of this linear layer is `[d_in, d_out]`, and not `[d_out, d_in]` as usual.
    pub input_first: bool,
    /// Input channels and sizes of the kernel of a convolution, whose published weight is `[d_out, channels, sizes..]`; empty
    /// for every other layer.
    pub kernel: Vec<usize>,
    /// The role by which AdapterHub's configurations select this site: that of the site, unless the model says otherwise.
    pub hub_role: Role,
    /// The embedding table whose weight this head, or table under another name, has.
    pub weight_of: Option<Site>,
    /// The same, where the published model says that what adapts the table acts here, too.
    pub tied_to: Option<Site>,
    /// Where the projections of a fused one lie head by head, the number of heads; `None` where they lie side by side.
    pub interleaved: Option<usize>,
    /// The parameter itself, where it is one of a module whose parameters have no modules of their own.
    pub parameter: Option<BareParameter>,
}

/// One of several parameters of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BareParameter {
    /// Its name.
    pub name: String,
    /// The names of those after it, in the order of the published module.
    pub after: Vec<String>,
}

impl SiteInfo {
    /// A site; a linear one is published `[d_out, d_in]`.
    pub fn new(site: Site, kind: SiteKind, path: impl Into<String>) -> Self {
        Self {
            site,
            kind,
            path: path.into(),
            input_first: false,
            kernel: Vec::new(),
            hub_role: site.role,
            weight_of: None,
            tied_to: None,
            interleaved: None,
            parameter: None,
        }
    }

    /// Moves a site of a layer to the layer of another index, in its path too: the first number there is that of the layer.
    pub fn move_to_layer(&mut self, index: usize) {
        let Some(own) = self.site.layer else { return };
        self.site.layer = Some(index);
        let (own, mut moved) = (own.to_string(), false);
        let parts = self.path.split('.').map(|part| match part == own && !moved {
            true => {
                moved = true;
                index.to_string()
            }
            false => part.to_owned(),
        });
        self.path = parts.collect::<Vec<_>>().join(".");
    }

    /// Whether it is a module with weights in the published checkpoint, which a path can name.
    pub fn is_module(&self) -> bool {
        matches!(
            self.kind,
            SiteKind::Linear { .. } | SiteKind::Norm { .. } | SiteKind::Table { .. } | SiteKind::Convolution { .. }
        )
    }

    /// Whether it is an embedding table.
    pub fn is_table(&self) -> bool {
        matches!(self.kind, SiteKind::Table { .. })
    }

    /// Sizes of a linear site, `None` for the other kinds.
    pub fn linear_dims(&self) -> Option<(usize, usize)> {
        match self.kind {
            SiteKind::Linear { d_in, d_out } => Some((d_in, d_out)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_roles_are_those_that_initial_values_were_drawn_with() {
        let roles = [Role::Query, Role::FfnDown, Role::TokenEmbedding, Role::Embedding];
        assert_eq!(roles.map(|role| role as u64), [0, 6, 8, 16]);
    }
}
