//! The context a model's forward pass carries, and the hooks it calls.

use std::ops::Deref;

use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::{Bool, Int, Tensor};

use crate::error::Error;
use crate::method::shared::Shared;
use crate::pass::compose::{self, Active};
use crate::pass::memo::Memo;
use crate::pass::norm::Normalization;
use crate::pass::record::{Record, Recorded, Recorder};
use crate::pass::sequence::Inserted;
use crate::pass::state::{
    EmbeddingState, HiddenState, HookState, KeyValueState, LinearState, NormState, NormWeight, OutputState, TableState,
    Up,
};
use crate::set::{AdapterSet, Attached};
use crate::site::Site;
use adapters_nn::{Dropout, ops};

/// What a forward pass is: the same for every site and adapter.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The masks of this pass in training; `None` in evaluation.
    pub dropout: Option<Dropout>,
    /// True at padding, `[batch, seq]`; `None` when nothing is padded. Of the sequence the layers compute on: it grows
    /// when an adapter puts positions in, and holds those of a cache too.
    pub padding: Option<Tensor<2, Bool>>,
    /// What adapters put in among the embedded tokens, in the order they did.
    pub inserted: Vec<Inserted>,
    /// Positions before those of this pass, which a cache of keys and values holds; zero in a pass over whole sequences.
    pub past: usize,
    /// Columns of the prompt, where the columns after them were generated; `None` where nothing is generated.
    pub prompt: Option<usize>,
    /// The task of each row, for [`MultiTask`](crate::Composition::MultiTask), `None` where no adapter acts; empty
    /// without tasks.
    pub tasks: Vec<Option<usize>>,
    /// How many passes the fusions have been through before this one, which cools their temperature.
    pub passes: u64,
    /// Whether the model repeated its batch for `Parallel`.
    pub repeated: bool,
    /// Where values are recorded, if they are.
    pub recorder: Option<Recorder>,
    /// What adapters have computed in this pass for all their layers.
    pub(crate) memo: Memo,
}

/// What an adapter's layer is told: the pass it takes part in, whose it is and where, and what its adapter shares among
/// all sites.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The pass.
    pub pass: &'a Pass,
    /// Parameters of the whole adapter.
    pub shared: &'a Shared,
    /// Name of the adapter.
    pub adapter: &'a str,
    /// Where it acts.
    pub site: Site,
}

impl Call<'_> {
    /// Records the values of gates, `[batch, gates]`, if this pass records.
    pub fn record_gates(&self, scores: impl FnOnce() -> Tensor<2>) {
        if let Some(recorder) = &self.pass.recorder {
            let (adapter, scores) = (self.adapter.to_owned(), scores());
            recorder.add(self.site, Recorded::Gate { adapter, scores });
        }
    }
}

impl Deref for Call<'_> {
    type Target = Pass;

    fn deref(&self) -> &Pass {
        self.pass
    }
}

impl Call<'_> {
    /// What `make` computes from what the layers of the adapter share: once in a pass, however many of them ask for
    /// `what`. In training it is one node of the graph, and its gradient the sum over all that asked.
    pub fn once<const D: usize>(&self, what: &'static str, make: impl FnOnce() -> Tensor<D>) -> Tensor<D> {
        match self.shared.id() {
            Some(id) => self.pass.memo.once(id, what, make),
            None => make(),
        }
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

    /// Where position `t` of the model's input is in the sequence the layers compute on.
    pub fn position(&self, t: usize) -> usize {
        self.inserted.iter().fold(t, |t, inserted| inserted.moved(t))
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
        .after_passes(set.passes())
    }

    /// Another composition of the same set for this pass only (see [`AdapterSet::composition`]).
    pub fn with_composition(set: &'a AdapterSet, active: &'a Active) -> Self {
        Self {
            adapters: Some((set, active)),
            ..Self::default()
        }
        .after_passes(set.passes())
    }

    /// Turns dropout on, of the model and of its adapters, with masks drawn from `seed`. Give every pass another.
    #[must_use]
    pub fn training(mut self, seed: u64) -> Self {
        self.pass.dropout = Some(Dropout::new(seed));
        self
    }

    /// A context for what is active in `set` that goes on where this one is: the same padding, tasks and skipped layers, and
    /// the masks of dropout that come next. What adapters have computed for the rest of the pass is not taken over, and
    /// nothing is recorded. For running a part of a pass again.
    pub fn resumed<'b>(&self, set: &'b AdapterSet) -> Ctx<'b> {
        Ctx {
            adapters: set.active().map(|active| (set, active)),
            pass: Pass {
                memo: Memo::default(),
                recorder: None,
                ..self.pass.clone()
            },
            skipped: self.skipped.clone(),
        }
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

    /// Checks, before the forward pass, that the shares of a `BatchSplit` add up to the rows of the batch, those of a
    /// `Split` to its positions, and that there is a task for each row where tasks were given. Without this check a share
    /// that does not fit is a panic in the pass.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShares`] naming the block.
    pub fn for_input(self, rows: usize, positions: usize) -> Result<Self, Error> {
        if let Some((_, active)) = self.adapters {
            let tasks = active.tasks().map(|_| self.pass.tasks.len());
            compose::check_shares(active.composition(), rows, positions, tasks)?;
        }
        Ok(self)
    }

    /// How many copies of its batch a model has to make before anything else, one after the other: the branches of a
    /// `Parallel` block, one without such a block. The output then has as many times the rows, branch after branch.
    ///
    /// The reference makes the copies at the first place an adapter acts. At the input the numbers are the same, one rule
    /// serves every model, and all tensors that follow, masks and position encodings included, agree in their rows.
    pub fn replicas(&mut self) -> usize {
        self.pass.repeated = true;
        self.adapters.map_or(1, |(_, active)| active.replicas())
    }

    /// Says how many passes the fusions have been through before this one, where that is not what the set says
    /// ([`AdapterSet::set_passes`]). A fusion with a temperature starts at 50 and cools by 0.05 each pass, down to 1; one
    /// just loaded is at the start, as in the reference.
    #[must_use]
    pub fn after_passes(mut self, passes: u64) -> Self {
        self.pass.passes = passes;
        self
    }

    /// Records the values of gates and the attention of fusions in this pass; see [`records`](Self::records).
    #[must_use]
    pub fn recording(mut self) -> Self {
        self.pass.recorder = Some(Recorder::default());
        self
    }

    /// What was recorded so far, in the order it arose; nothing unless this context is [`recording`](Self::recording).
    pub fn records(&self) -> Vec<Record> {
        self.pass.recorder.as_ref().map(Recorder::records).unwrap_or_default()
    }

    /// Tells the adapters where the batch is padded; the model calls it once, at the start of its forward.
    pub fn set_padding(&mut self, padding: Option<Tensor<2, Bool>>) {
        self.pass.padding = padding;
        self.pass.inserted = Vec::new();
        self.pass.past = 0;
    }

    /// Tells the adapters how many positions before those of this pass a cache holds; the model calls it beside
    /// [`set_padding`](Self::set_padding).
    pub fn set_past(&mut self, past: usize) {
        self.pass.past = past;
    }

    /// Says that only the first `prompt` columns are the prompt and the others were generated.
    #[must_use]
    pub fn generating(mut self, prompt: usize) -> Self {
        self.pass.prompt = Some(prompt);
        self
    }

    /// Leaves the layers of these indices without adapters in this pass. *AdapterDrop*, Rücklé et al., 2021,
    /// <https://arxiv.org/abs/2010.11918>.
    #[must_use]
    pub fn skipping_layers(mut self, layers: impl IntoIterator<Item = usize>) -> Self {
        self.skipped.extend(layers);
        self
    }

    /// Whether no active adapter looks ahead, so that a decoder may keep keys and values from pass to pass: a gate that is a
    /// mean over the sequence, for one, changes them all with every token.
    pub fn is_causal(&self) -> bool {
        let Some((set, active)) = self.adapters else {
            return true;
        };
        active
            .adapters()
            .filter_map(|name| set.get(name))
            .flat_map(Attached::layers)
            .all(|attached| attached.layer.is_causal())
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

    /// The normalization to run at `site`: the model's own, or with what the adapters put in its place.
    pub fn norm<N: Normalization>(&mut self, site: Site, norm: &N) -> N {
        if !self.acts::<NormState>(site) {
            return norm.clone();
        }
        let NormWeight { weight, bias } = norm.parameters();
        let NormState { weight, bias } = self.run(site, NormState { weight, bias });
        norm.clone().with_parameters(NormWeight { weight, bias })
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
                up: Up::Unasked,
            },
        )
    }

    /// Keys and values of an attention at `site`, after position encoding: those of the whole sequence, past included.
    ///
    /// # Shapes
    ///
    /// `[batch, heads, seq_k, d_head]`; an adapter may make `seq_k` longer, and the bias with it.
    pub fn key_value(&mut self, site: Site, state: KeyValueState) -> KeyValueState {
        self.run(site, state)
    }

    /// Embedded tokens, before the first layer; an adapter may make `seq` longer. From there on the model goes by what
    /// comes back, and [`Pass::padding`], [`Pass::inserted`] and [`Pass::past`] by it too.
    ///
    /// A model with positions or a normalization between its token table and its first layer calls this twice, with one
    /// state: at [`Role::EmbeddedTokens`](crate::Role::EmbeddedTokens) and at [`Role::Embedding`](crate::Role::Embedding).
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model]`
    pub fn embedding(&mut self, site: Site, state: EmbeddingState) -> EmbeddingState {
        let before = state.inserted.len();
        let state = self.run(site, state);
        self.pass.past = state.past;
        if state.inserted.len() > before {
            self.pass.padding = state.padding.clone();
            self.pass.inserted = state.inserted.clone();
        }
        state
    }

    /// The hidden state a layer returns, or the one that enters the language-model head.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, d_model]`
    pub fn output(&mut self, site: Site, hidden: Tensor<3>) -> Tensor<3> {
        if !self.acts::<OutputState>(site) {
            return hidden;
        }
        let padding = self.pass.padding.clone();
        self.run(site, OutputState { hidden, padding })
    }

    /// The hidden state that enters the language-model head, after what adapters did to the embeddings at `site` is
    /// undone.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, d_model]`
    pub fn before_lm_head(&mut self, site: Site, hidden: Tensor<3>) -> Tensor<3> {
        match self.adapters {
            Some((set, active)) => compose::undo(active, hidden, set, site, &self.pass),
            None => hidden,
        }
    }

    /// The position of the first token: how many positions the active adapters count as taken before it. A model adds it
    /// to the positions of its tokens.
    pub fn first_position(&self) -> usize {
        self.adapters.map_or(0, |(set, active)| set.first_position(active))
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
            Some((set, active)) if !self.skips(site) => compose::run(active, state, set, site, &self.pass),
            _ => state.finish(),
        }
    }
}
