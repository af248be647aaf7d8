//! The context a model's forward pass carries, and the hooks it calls.

use std::ops::Deref;

use burn::module::{Param, ParamId};
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::{Bool, Int, Tensor};

use crate::compose::{self, Active};
use crate::dropout::Dropout;
use crate::error::Error;
use crate::ops;
use crate::set::AdapterSet;
use crate::shared::Shared;
use crate::site::Site;
use crate::state::{
    EmbeddingState, HiddenState, HookState, KeyValueState, LinearState, NormState, OutputState, TableState,
};

/// What a forward pass is: the same for every site and adapter.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The masks of this pass in training; `None` in evaluation.
    pub dropout: Option<Dropout>,
    /// True at padding, `[batch, seq]`; `None` when nothing is padded.
    pub padding: Option<Tensor<2, Bool>>,
    /// The task of each row, for [`MultiTask`](crate::Composition::MultiTask), `None` where no adapter acts; empty
    /// without tasks.
    pub tasks: Vec<Option<usize>>,
}

/// What an adapter's layer is told: the pass it takes part in, and what its adapter shares among all sites.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The pass.
    pub pass: &'a Pass,
    /// Parameters of the whole adapter.
    pub shared: &'a Shared,
}

impl Deref for Call<'_> {
    type Target = Pass;

    fn deref(&self) -> &Pass {
        self.pass
    }
}

impl Pass {
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
    pass: Pass,
    skipped: Vec<usize>,
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
            ..Self::default()
        }
    }

    /// Another composition of the same set for this pass only (see [`AdapterSet::composition`]).
    pub fn with_composition(set: &'a AdapterSet, active: &'a Active) -> Self {
        Self {
            adapters: Some((set, active)),
            ..Self::default()
        }
    }

    /// Turns dropout on, of the model and of its adapters, with masks drawn from `seed`. Give every pass another.
    #[must_use]
    pub fn training(mut self, seed: u64) -> Self {
        self.pass.dropout = Some(Dropout::new(seed));
        self
    }

    /// Says which task each row belongs to: the index of its child in a `MultiTask` composition, `None` for a row no
    /// adapter acts on.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchTask`] for an index without a child.
    pub fn with_tasks(mut self, tasks: impl IntoIterator<Item = Option<usize>>) -> Result<Self, Error> {
        self.pass.tasks = tasks.into_iter().collect();
        let children = self.adapters.and_then(|(_, active)| active.tasks());
        match (children, self.pass.tasks.iter().flatten().max()) {
            (Some(children), Some(task)) if *task >= children => Err(Error::NoSuchTask {
                task: *task,
                tasks: children,
            }),
            _ => Ok(self),
        }
    }

    /// Tells the adapters where the batch is padded; the model calls it once, at the start of its forward.
    pub fn set_padding(&mut self, padding: Option<Tensor<2, Bool>>) {
        self.pass.padding = padding;
    }

    /// Leaves the layers of these indices without adapters in this pass. *AdapterDrop*, Rücklé et al., 2021,
    /// <https://arxiv.org/abs/2010.11918>.
    #[must_use]
    pub fn skipping_layers(mut self, layers: impl IntoIterator<Item = usize>) -> Self {
        self.skipped.extend(layers);
        self
    }

    /// What everything in this pass is told.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// The model's own dropout; see [`Pass::dropout`].
    pub fn dropout<const D: usize>(&self, x: Tensor<D>, prob: f64) -> Tensor<D> {
        self.pass.dropout(x, prob)
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
            return ops::linear(layer, x);
        }
        self.run(
            site,
            LinearState {
                input: x,
                layer: layer.clone(),
                delta: None,
            },
        )
    }

    /// The normalisation to run at `site`: the model's own, or with what the adapters put in its place.
    pub fn norm(&mut self, site: Site, norm: &LayerNorm) -> LayerNorm {
        if !self.acts::<NormState>(site) {
            return norm.clone();
        }
        let state = self.run(
            site,
            NormState {
                weight: norm.gamma.val(),
                bias: norm.beta.as_ref().map(|beta| beta.val()),
            },
        );
        let mut norm = norm.clone();
        norm.gamma = Param::initialized(ParamId::new(), state.weight);
        norm.beta = state.bias.map(|bias| Param::initialized(ParamId::new(), bias));
        norm
    }

    /// Rows of an embedding table at `site`.
    ///
    /// # Shapes
    ///
    /// `[batch, seq]` of indices to `[batch, seq, d_model]`
    ///
    /// # Panics
    ///
    /// Panics on an index outside the table.
    pub fn lookup(&mut self, site: Site, table: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        let output = table.forward(ids.clone());
        if !self.acts::<TableState>(site) {
            return output;
        }
        self.run(
            site,
            TableState {
                ids,
                output,
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
        if !self.acts::<HiddenState>(site) {
            return HiddenState::close(hidden, residual, norm);
        }
        self.run(
            site,
            HiddenState {
                block: hidden.clone(),
                hidden,
                residual,
                inner: None,
                norm: norm.cloned(),
            },
        )
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

    /// The hidden state that enters the language-model head, after what adapters did to the embeddings at `site` is
    /// undone.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, d_model]`
    pub fn before_lm_head(&mut self, site: Site, hidden: Tensor<3>) -> Tensor<3> {
        let Some((set, active)) = self.adapters else {
            return hidden;
        };
        match set.acting::<EmbeddingState>(active.first(), site) {
            Some((layer, shared)) => layer.undo(
                hidden,
                &Call {
                    pass: &self.pass,
                    shared,
                },
            ),
            None => hidden,
        }
    }

    /// Whether an active adapter has a layer of this kind at `site`.
    fn acts<S: HookState>(&self, site: Site) -> bool {
        !self.skips(site)
            && self
                .adapters
                .is_some_and(|(set, active)| active.adapters().any(|name| set.layer::<S>(name, site).is_some()))
    }

    fn skips(&self, site: Site) -> bool {
        site.layer.is_some_and(|layer| self.skipped.contains(&layer))
    }

    fn run<S: HookState>(&mut self, site: Site, state: S) -> S::Output {
        match self.adapters {
            Some((set, active)) if !self.skips(site) => {
                compose::run(active, state, |name| set.acting::<S>(name, site), &self.pass)
            }
            _ => state.finish(),
        }
    }
}
