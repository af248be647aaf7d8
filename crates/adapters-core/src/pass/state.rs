//! What a hook hands to the adapters at a site, and how a batch of it is cut and joined.
//!
//! Composition is written once over [`HookState`] ([`compose`](crate::pass::compose)): a block may take rows
//! apart, repeat them or join them in mid-forward without knowing what the state holds.

use std::fmt::Debug;

use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Bool, Int, Tensor};

use crate::erased::Erased;
use crate::method::layer::SiteLayer;
use crate::pass::positions::{self, Positions};
pub use crate::pass::rows::Rows;
use crate::pass::rows::{cat, join_deltas, take, weighted, weighted_deltas};
use crate::pass::sequence::Inserted;

mod key_value;

pub use key_value::KeyValueState;

/// The state adapters transform at one kind of site, which the composition blocks cut, repeat, join and average.
pub trait HookState: Rows + Positions + Clone + Debug + Send + 'static {
    /// What the hook returns to the model.
    type Output: Rows + Positions;
    /// The frozen layer a method may merge into at this kind of site.
    type Weight;

    /// Whether only the first adapter of a composition acts, as in the reference: where a sequence is changed as a whole
    /// there is no second one.
    ///
    /// Blocks that share out rows still give each row its own: the first adapter of the child the row belongs to.
    const FIRST_ONLY: bool = false;

    /// Whether a block whose children share out rows or positions is closed, for all of them, by the child that comes last.
    /// Follows the reference where adapters join the residual stream; elsewhere each closes its own.
    const LED: bool = false;

    /// Whether closing runs a frozen layer, which adapters that only add to its output can share.
    const SHARES_LAYER: bool = false;

    /// Rows of the batch.
    fn rows(&self) -> usize;
    /// The whole batch `times` times, one copy after the other.
    fn repeat_rows(&self, times: usize) -> Self;

    /// `sum_i w_i x_i` of what adapters transform, over the states after several adapters; `None` at a kind of site where
    /// an average has no meaning. `parts` is never empty.
    fn weighted_sum(_parts: Vec<(Self, f64)>) -> Option<Self> {
        None
    }

    /// The state for rows that must not notice those they are joined with later: of tasks of their own.
    #[must_use]
    fn apart(self) -> Self {
        self
    }

    /// The batch again, after parts of its rows were changed: row `i` is row `places[i]` of the parts joined. What adapters
    /// leave alone is taken from this state, where it is in one piece.
    fn with_rows(&self, parts: Vec<Self>, places: &[usize]) -> Self {
        Self::join_rows(parts).take_rows(places)
    }

    /// The batch again, after parts along the sequence were changed; `None` where positions belong together.
    fn with_positions(&self, parts: Vec<Self>) -> Option<Self> {
        Self::join_positions(parts)
    }

    /// The part an adapter at such a site has in a fusion; none at most kinds of site.
    fn fusion(&mut self) -> Option<&mut HiddenState> {
        None
    }

    /// The layer of this kind that `layer` holds, if it is one.
    fn of(layer: &SiteLayer) -> Option<&Erased<Self>>;

    /// Closes the site as it would close without an adapter: joins what is open.
    fn finish(self) -> Self::Output;
}

/// State at a linear site: `layer(input) + delta`.
///
/// The frozen layer runs when the site closes, so that an adapter may change what goes into it.
#[derive(Clone, Debug)]
pub struct LinearState {
    /// Input of the layer, `[batch, seq, d_in]`.
    pub input: Tensor<3>,
    /// The frozen layer.
    pub layer: Linear,
    /// What the adapters so far contribute, `[batch, seq, d_out]`.
    pub delta: Option<Tensor<3>>,
}

/// State at a normalization: the parameters it runs with.
#[derive(Clone, Debug)]
pub struct NormState {
    /// `[d_model]`.
    pub weight: Tensor<1>,
    /// `[d_model]`.
    pub bias: Option<Tensor<1>>,
}

/// State at an embedding table: `output + delta`.
#[derive(Clone, Debug)]
pub struct TableState {
    /// Indices of the rows looked up, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// The rows of the frozen table, `[batch, seq, d_model]`.
    pub output: Tensor<3>,
    /// What the adapters so far contribute, `[batch, seq, d_model]`.
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
    /// Normalization after the addition (post-LN models).
    pub norm: Option<LayerNorm>,
    /// What the adapter before added, where a fusion asks for it.
    pub up: Up,
}

/// What an adapter adds to the residual stream before its gate, norm and residual: what a fusion attends to.
#[derive(Clone, Debug, Default)]
#[allow(clippy::large_enum_variant)] // A tensor, or none, as beside it.
pub enum Up {
    /// No fusion asks.
    #[default]
    Unasked,
    /// A fusion asks, and no adapter has answered.
    Asked,
    /// The answer of the last adapter, `[batch, seq, d_model]`.
    Is(Tensor<3>),
}

impl Up {
    /// Answers, if a fusion asks.
    #[must_use]
    pub fn answered(self, up: &Tensor<3>) -> Self {
        match self {
            Self::Unasked => Self::Unasked,
            Self::Asked | Self::Is(_) => Self::Is(up.clone()),
        }
    }
}

/// State of the embedded tokens, which an adapter may make more of: see [`insert`](Self::insert).
#[derive(Clone, Debug)]
pub struct EmbeddingState {
    /// `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// True at padding, `[batch, past + seq]`; `None` when there is none.
    pub padding: Option<Tensor<2, Bool>>,
    /// Positions before these that a cache holds, what was inserted among them.
    pub past: usize,
    /// What adapters put in, in the order they did.
    pub inserted: Vec<Inserted>,
}

/// State of a hidden state as a whole: a layer's output, or the input of the language-model head.
#[derive(Clone, Debug)]
pub struct OutputState {
    /// `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// True at padding, as [`Pass::padding`](crate::Pass::padding) has it for these rows.
    pub padding: Option<Tensor<2, Bool>>,
}

/// Weight and bias of a normalization, as merging sees them.
#[derive(Clone, Debug)]
pub struct NormWeight {
    /// `[d_model]`.
    pub weight: Tensor<1>,
    /// `[d_model]`.
    pub bias: Option<Tensor<1>>,
}

/// Nothing to merge into at this kind of site. There is no value of this type.
#[derive(Clone, Copy, Debug)]
pub enum NoWeight {}

/// Implements [`Rows`] and `repeat_rows` field by field: tensors, tensors that may be absent, deltas, and what belongs to
/// no row.
macro_rules! rows {
    ($state:ty: $($field:ident),* ; $($optional:ident),* ; $($delta:ident),* ; $($kept:ident),*) => {
        impl Rows for $state {
            fn take_rows(&self, rows: &[usize]) -> Self {
                Self {
                    $($field: take(&self.$field, rows),)*
                    $($optional: self.$optional.as_ref().map(|t| take(t, rows)),)*
                    $($delta: self.$delta.as_ref().map(|t| take(t, rows)),)*
                    $($kept: self.$kept.clone(),)*
                }
            }

            fn join_rows(parts: Vec<Self>) -> Self {
                Self {
                    $($field: cat(parts.iter().map(|p| p.$field.clone()).collect()),)*
                    $($optional: parts.iter().map(|p| p.$optional.clone()).collect::<Option<Vec<_>>>().map(cat),)*
                    $($delta: join_deltas(parts.iter().map(|p| (p.rows(), p.$delta.clone())).collect()),)*
                    $($kept: parts[0].$kept.clone(),)*
                }
            }
        }

        impl $state {
            fn repeated(&self, times: usize) -> Self {
                Self {
                    $($field: self.$field.clone().repeat_dim(0, times),)*
                    $($optional: self.$optional.clone().map(|t| t.repeat_dim(0, times)),)*
                    $($delta: self.$delta.clone().map(|t| t.repeat_dim(0, times)),)*
                    $($kept: self.$kept.clone(),)*
                }
            }
        }
    };
}

rows!(LinearState: input; ; delta; layer);
rows!(TableState: ids, output; ; delta; );
rows!(HiddenState: hidden, block, residual; inner; ; norm, up);
rows!(EmbeddingState: hidden; padding; ; past, inserted);
rows!(OutputState: hidden; padding; ; );

/// Nothing here belongs to a row.
impl Rows for NormState {
    fn take_rows(&self, _rows: &[usize]) -> Self {
        self.clone()
    }

    fn join_rows(mut parts: Vec<Self>) -> Self {
        parts.swap_remove(0)
    }
}

impl HookState for LinearState {
    type Output = Tensor<3>;
    type Weight = LinearWeight;

    const SHARES_LAYER: bool = true;

    fn rows(&self) -> usize {
        self.input.dims()[0]
    }

    fn repeat_rows(&self, times: usize) -> Self {
        self.repeated(times)
    }

    fn weighted_sum(parts: Vec<(Self, f64)>) -> Option<Self> {
        let first = parts[0].0.clone();
        Some(Self {
            delta: weighted_deltas(parts.into_iter().map(|(state, weight)| (state.delta, weight))),
            ..first
        })
    }

    /// Input and layer are kept: an adapter that changes them is not cut up inside another block.
    fn with_rows(&self, parts: Vec<Self>, places: &[usize]) -> Self {
        let deltas = parts.into_iter().map(|part| (part.rows(), part.delta)).collect();
        Self {
            delta: join_deltas(deltas).map(|delta| take(&delta, places)),
            ..self.clone()
        }
    }

    fn with_positions(&self, parts: Vec<Self>) -> Option<Self> {
        let deltas = parts.into_iter().map(|part| (part.input.dims()[1], part.delta));
        Some(Self {
            delta: positions::join(deltas.collect()),
            ..self.clone()
        })
    }

    fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
        match layer {
            SiteLayer::Linear(layer) => Some(layer),
            _ => None,
        }
    }

    fn finish(self) -> Tensor<3> {
        let output = adapters_nn::ops::linear(&self.layer, self.input);
        match self.delta {
            Some(delta) => output + delta,
            None => output,
        }
    }
}

impl LinearState {
    /// Adds to the delta what `update` makes of the layer's input: how the updates of several active adapters add up.
    #[must_use]
    pub fn plus(self, update: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        let update = update(self.input.clone());
        let delta = match self.delta {
            Some(delta) => delta + update,
            None => update,
        };
        Self {
            delta: Some(delta),
            ..self
        }
    }
}

impl LinearWeight {
    /// With an update in the published layout, `[d_out, d_in]`, added to the weight.
    #[must_use]
    pub fn plus(self, update: Tensor<2>) -> Self {
        let (update, dtype) = (update.transpose(), self.weight.dtype());
        let update = if update.dtype() == dtype {
            update
        } else {
            update.cast(dtype)
        };
        Self {
            weight: self.weight + update,
            ..self
        }
    }
}

impl HookState for NormState {
    type Output = Self;
    type Weight = NormWeight;

    const FIRST_ONLY: bool = true;

    fn rows(&self) -> usize {
        0
    }

    fn repeat_rows(&self, _times: usize) -> Self {
        self.clone()
    }

    fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
        match layer {
            SiteLayer::Norm(layer) => Some(layer),
            _ => None,
        }
    }

    fn finish(self) -> Self {
        self
    }
}

impl HookState for TableState {
    type Output = Tensor<3>;
    type Weight = Tensor<2>;

    fn rows(&self) -> usize {
        self.ids.dims()[0]
    }

    fn repeat_rows(&self, times: usize) -> Self {
        self.repeated(times)
    }

    fn weighted_sum(parts: Vec<(Self, f64)>) -> Option<Self> {
        let first = parts[0].0.clone();
        Some(Self {
            delta: weighted_deltas(parts.into_iter().map(|(state, weight)| (state.delta, weight))),
            ..first
        })
    }

    fn of(layer: &SiteLayer) -> Option<&Erased<Self>> {
        match layer {
            SiteLayer::Table(layer) => Some(layer),
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

    const LED: bool = true;

    fn fusion(&mut self) -> Option<&mut HiddenState> {
        Some(self)
    }

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    fn repeat_rows(&self, times: usize) -> Self {
        self.repeated(times)
    }

    fn weighted_sum(parts: Vec<(Self, f64)>) -> Option<Self> {
        let first = parts[0].0.clone();
        let hidden = weighted(parts.into_iter().map(|(state, weight)| (state.hidden, weight)))?;
        Some(Self { hidden, ..first })
    }

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
        match norm {
            Some(norm) => adapters_nn::ops::add_layer_norm(norm, hidden, residual),
            None => hidden + residual,
        }
    }
}

impl HookState for EmbeddingState {
    type Output = Self;
    type Weight = NoWeight;

    const FIRST_ONLY: bool = true;

    fn rows(&self) -> usize {
        self.hidden.dims()[0]
    }

    fn repeat_rows(&self, times: usize) -> Self {
        self.repeated(times)
    }

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

    fn repeat_rows(&self, times: usize) -> Self {
        self.repeated(times)
    }

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
