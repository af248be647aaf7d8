//! The context a model's forward pass carries, and the hooks it calls.

use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Bool, Tensor};

use crate::compose::{self, Active};
use crate::dropout::Dropout;
use crate::set::AdapterSet;
use crate::site::Site;
use crate::state::{EmbeddingState, HiddenState, HookState, KeyValueState, LinearState, OutputState};

/// What every adapter is told about the forward pass it takes part in.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The masks of this pass in training; `None` in evaluation.
    pub dropout: Option<Dropout>,
    /// True at padding, `[batch, seq]`; `None` when nothing is padded.
    pub padding: Option<Tensor<2, Bool>>,
}

impl Call {
    /// Dropout in training, the identity in evaluation; any shape.
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, prob: f64) -> Tensor<D> {
        match &self.dropout {
            Some(dropout) => dropout.forward(x, prob),
            None => x,
        }
    }
}

/// The adapter context of one forward pass: which adapters act, and what they need to know.
///
/// A model takes it as the last argument of `forward` and calls a hook at each site. With no adapter active a
/// hook is the plain layer. There is no global state: two passes with two contexts may run at once over one base.
#[derive(Debug, Default)]
pub struct Ctx<'a> {
    adapters: Option<(&'a AdapterSet, &'a Active)>,
    call: Call,
}

impl<'a> Ctx<'a> {
    /// No adapters, evaluation: the base model alone.
    pub fn plain() -> Self {
        Self::default()
    }

    /// The adapters active in `set`.
    pub fn new(set: &'a AdapterSet) -> Self {
        Self {
            adapters: set.active().map(|active| (set, active)),
            call: Call::default(),
        }
    }

    /// Another composition of the same set for this pass only (see [`AdapterSet::composition`]).
    pub fn with_composition(set: &'a AdapterSet, active: &'a Active) -> Self {
        Self {
            adapters: Some((set, active)),
            call: Call::default(),
        }
    }

    /// Turns dropout on, of the model and of its adapters, with masks drawn from `seed`. Give every pass another.
    #[must_use]
    pub fn training(mut self, seed: u64) -> Self {
        self.call.dropout = Some(Dropout::new(seed));
        self
    }

    /// Tells the adapters where the batch is padded; the model calls it once, at the start of its forward.
    pub fn set_padding(&mut self, padding: Option<Tensor<2, Bool>>) {
        self.call.padding = padding;
    }

    /// What adapters are told.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// The model's own dropout; see [`Call::dropout`].
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, prob: f64) -> Tensor<D> {
        self.call.dropout(x, prob)
    }

    /// A linear layer at `site`: `layer(x)` and what the adapters add.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_in] -> [batch, seq, d_out]`
    ///
    /// # Panics
    ///
    /// Panics if the last axis of `x` is not `d_in`.
    pub fn linear(&mut self, site: Site, layer: &Linear, x: Tensor<3>) -> Tensor<3> {
        if !self.acts::<LinearState>(site) {
            return layer.forward(x);
        }
        self.run(
            site,
            LinearState {
                output: layer.forward(x.clone()),
                input: x,
                delta: None,
            },
        )
    }

    /// A block joining the residual stream at `site`: `norm(hidden + residual)`, without `norm` in pre-LN models.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`, all three.
    pub fn hidden(
        &mut self,
        site: Site,
        hidden: Tensor<3>,
        residual: Tensor<3>,
        norm: Option<&LayerNorm>,
    ) -> Tensor<3> {
        let state = HiddenState {
            hidden,
            residual,
            norm: norm.cloned(),
        };
        self.run(site, state)
    }

    /// Keys and values of an attention at `site`, after position encoding.
    ///
    /// # Shapes
    ///
    /// `[batch, heads, seq, d_head]`; an adapter may make `seq` longer.
    pub fn key_value(&mut self, site: Site, state: KeyValueState) -> KeyValueState {
        self.run(site, state)
    }

    /// Embedded tokens, before the first layer; an adapter may make `seq` longer.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`
    pub fn embedding(&mut self, site: Site, state: EmbeddingState) -> EmbeddingState {
        self.run(site, state)
    }

    /// The hidden state a layer returns, or the one that enters the language-model head.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, d_model]`
    pub fn output(&mut self, site: Site, hidden: Tensor<3>) -> Tensor<3> {
        self.run(site, OutputState { hidden })
    }

    /// Whether an active adapter has a layer of this kind at `site`.
    fn acts<S: HookState>(&self, site: Site) -> bool {
        self.adapters
            .is_some_and(|(set, active)| active.adapters().any(|name| set.layer::<S>(name, site).is_some()))
    }

    fn run<S: HookState>(&mut self, site: Site, state: S) -> S::Output {
        match self.adapters {
            Some((set, active)) => compose::run(active, state, |name| set.layer::<S>(name, site), &self.call),
            None => state.finish(),
        }
    }
}
