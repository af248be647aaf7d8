//! What a hook hands to the adapters at a site, and how a batch of it is cut and joined.
//!
//! Composition is written once over [`HookState`] ([`compose`](crate::compose)): a block may take rows
//! apart, repeat them or join them in mid-forward without knowing what the state holds.

use std::fmt::Debug;
use std::ops::Range;

use burn::nn::LayerNorm;
use burn::tensor::{Bool, Tensor};

use crate::erased::Erased;
use crate::layer::SiteLayer;

/// The state adapters transform at one kind of site.
///
/// Row operations act on axis 0 of every tensor in the state; they are what the composition blocks need.
pub trait HookState: Clone + Debug + Send + Sized + 'static {
    /// What the hook returns to the model.
    type Output;
    /// The frozen layer a method may merge into at this kind of site.
    type Weight;

    /// Whether only the first adapter of a composition acts, as in the reference: where a sequence is changed as a whole
    /// there is no second one.
    const FIRST_ONLY: bool = false;

    /// Rows of the batch.
    fn rows(&self) -> usize;
    /// The rows in `range`.
    fn select_rows(&self, range: Range<usize>) -> Self;
    /// The whole batch `times` times, one copy after the other.
    fn repeat_rows(&self, times: usize) -> Self;
    /// Batches joined in order. `parts` is never empty.
    fn join_rows(parts: Vec<Self>) -> Self;

    /// The layer of this kind that `layer` holds, if it is one.
    fn of(layer: &SiteLayer) -> Option<&Erased<Self>>;

    /// Closes the site as it would close without an adapter: joins what is open.
    fn finish(self) -> Self::Output;
}

/// State at a linear site: `output + delta`, where adapters fill `delta`.
#[derive(Clone, Debug)]
pub struct LinearState {
    /// Input of the layer, `[batch, seq, d_in]`.
    pub input: Tensor<3>,
    /// Output of the frozen layer, `[batch, seq, d_out]`.
    pub output: Tensor<3>,
    /// What the adapters so far contribute, `[batch, seq, d_out]`.
    pub delta: Option<Tensor<3>>,
}

/// Weight and bias of a linear layer, as merging sees them.
#[derive(Clone, Debug)]
pub struct LinearWeight {
    /// `[d_in, d_out]`, Burn's layout.
    pub weight: Tensor<2>,
    /// `[d_out]`.
    pub bias: Option<Tensor<1>>,
}

/// State where a block joins the residual stream: `norm(hidden + residual)`.
#[derive(Clone, Debug)]
pub struct HiddenState {
    /// What adapters transform, at first the output of the block, `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// Output of the block as it was, `[batch, seq, d_model]`.
    pub block: Tensor<3>,
    /// What is added to it, `[batch, seq, d_model]`.
    pub residual: Tensor<3>,
    /// What the residual connection inside an adapter carries, once an adapter was prepared for.
    pub inner: Option<Tensor<3>>,
    /// Normalisation after the addition (post-LN models).
    pub norm: Option<LayerNorm>,
}

/// State of an attention's keys and values, after projection and position encoding.
#[derive(Clone, Debug)]
pub struct KeyValueState {
    /// `[batch, heads, seq, d_head]`.
    pub key: Tensor<4>,
    /// `[batch, heads, seq, d_head]`.
    pub value: Tensor<4>,
    /// True where a key may not be seen, `[batch, seq]`; `None` when all may.
    pub hidden_keys: Option<Tensor<2, Bool>>,
}

/// State of the embedded tokens.
#[derive(Clone, Debug)]
pub struct EmbeddingState {
    /// `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// True at padding, `[batch, seq]`; `None` when there is none.
    pub padding: Option<Tensor<2, Bool>>,
}

/// State of a hidden state as a whole: a layer's output, or the input of the language-model head.
#[derive(Clone, Debug)]
pub struct OutputState {
    /// `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
}

/// Nothing to merge into at this kind of site. There is no value of this type.
#[derive(Clone, Copy, Debug)]
pub enum NoWeight {}

/// Implements the row operations field by field.
macro_rules! rows {
    ($($field:ident),* ; $($optional:ident),* ; $($kept:ident),*) => {
        fn select_rows(&self, range: Range<usize>) -> Self {
            Self {
                $($field: self.$field.clone().slice_dim(0, range.clone()),)*
                $($optional: self.$optional.clone().map(|t| t.slice_dim(0, range.clone())),)*
                $($kept: self.$kept.clone(),)*
            }
        }

        fn repeat_rows(&self, times: usize) -> Self {
            Self {
                $($field: self.$field.clone().repeat_dim(0, times),)*
                $($optional: self.$optional.clone().map(|t| t.repeat_dim(0, times)),)*
                $($kept: self.$kept.clone(),)*
            }
        }

        fn join_rows(parts: Vec<Self>) -> Self {
            Self {
                $($field: Tensor::cat(parts.iter().map(|p| p.$field.clone()).collect(), 0),)*
                $($optional: parts.iter().map(|p| p.$optional.clone()).collect::<Option<Vec<_>>>().map(|ts| Tensor::cat(ts, 0)),)*
                $($kept: parts[0].$kept.clone(),)*
            }
        }
    };
}

impl HookState for LinearState {
    type Output = Tensor<3>;
    type Weight = LinearWeight;

    fn rows(&self) -> usize {
        self.input.dims()[0]
    }

    rows!(input, output; delta;);

    fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
        match layer {
            SiteLayer::Linear(layer) => Some(layer),
            _ => None,
        }
    }

    fn finish(self) -> Tensor<3> {
        match self.delta {
            Some(delta) => self.output + delta,
            None => self.output,
        }
    }
}

impl HookState for HiddenState {
    type Output = Tensor<3>;
    type Weight = NoWeight;

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    rows!(hidden, block, residual; inner; norm);

    fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
        match layer {
            SiteLayer::Hidden(layer) => Some(layer),
            _ => None,
        }
    }

    fn finish(self) -> Tensor<3> {
        Self::close(self.hidden, self.residual, self.norm.as_ref())
    }
}

impl HiddenState {
    /// `norm(hidden + residual)`, without `norm` in pre-LN models.
    pub fn close(hidden: Tensor<3>, residual: Tensor<3>, norm: Option<&LayerNorm>) -> Tensor<3> {
        let sum = hidden + residual;
        match norm {
            Some(norm) => crate::ops::layer_norm(norm, sum),
            None => sum,
        }
    }
}

impl HookState for KeyValueState {
    type Output = Self;
    type Weight = NoWeight;

    fn rows(&self) -> usize {
        self.key.dims()[0]
    }

    rows!(key, value; hidden_keys;);

    fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
        match layer {
            SiteLayer::KeyValue(layer) => Some(layer),
            _ => None,
        }
    }

    fn finish(self) -> Self {
        self
    }
}

impl HookState for EmbeddingState {
    type Output = Self;
    type Weight = NoWeight;

    const FIRST_ONLY: bool = true;

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    rows!(hidden; padding;);

    fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
        match layer {
            SiteLayer::Embedding(layer) => Some(layer),
            _ => None,
        }
    }

    fn finish(self) -> Self {
        self
    }
}

impl HookState for OutputState {
    type Output = Tensor<3>;
    type Weight = NoWeight;

    const FIRST_ONLY: bool = true;

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    rows!(hidden;;);

    fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
        match layer {
            SiteLayer::Output(layer) => Some(layer),
            _ => None,
        }
    }

    fn finish(self) -> Tensor<3> {
        self.hidden
    }
}
