//! The options of a forward pass, and how a model begins one.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::error::Error;
use crate::host::Host;
use crate::method::capability::BasePass;
use crate::method::layer::Causality;
use crate::pass::batch::{Batch, Sequence};
use crate::pass::call::Pass;
use crate::pass::hooks::Hooks;
use crate::pass::memo::Memo;
use crate::pass::plan::{BatchRows, Plan};
use crate::pass::record::{Record, Recorder};
use crate::pass::rows::check_input;
use crate::set::AdapterSet;
use crate::set::active::Active;
use adapters_nn::Dropout;

/// The adapter context of one forward pass: which adapters act, and what they need to know.
///
/// A caller makes it and hands it to the model's `forward`, which begins the pass with [`begin`](Self::begin) and calls the
/// [`Hooks`] it returns at its sites. With no adapter active a hook is the plain layer. There is no global state: two passes
/// with two contexts may run at once over one base.
#[derive(Debug, Default)]
pub struct Ctx<'a> {
    adapters: Option<(&'a AdapterSet, &'a Active)>,
    skipped: Vec<usize>,
    hooks: Hooks<'a>,
    /// Rows of the batch, once the pass has begun.
    rows: Option<usize>,
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
    ///
    /// # Errors
    ///
    /// [`Error::StaleComposition`] for a composition that was checked against another set, or against this set before
    /// adapters were added, replaced or removed.
    pub fn with_composition(set: &'a AdapterSet, active: &'a Active) -> Result<Self, Error> {
        set.check_active(active)?;
        Ok(Self {
            adapters: Some((set, active)),
            ..Self::default()
        }
        .after_passes(set.passes()))
    }

    /// Turns dropout on, of the model and of its adapters, with masks drawn from `seed`. Give every pass another.
    #[must_use]
    pub fn training(mut self, seed: u64) -> Self {
        self.hooks.pass.dropout = Some(Dropout::new(seed));
        self
    }

    /// A context for what is active in `set` that continues where this one is: the same batch, tasks and skipped layers, and
    /// the masks of dropout that come next. What adapters have computed for the rest of the pass is not taken over, and
    /// nothing is recorded. For running a part of a pass again.
    pub fn resumed<'b>(&self, set: &'b AdapterSet) -> Ctx<'b> {
        let pass = Pass {
            memo: Memo::default(),
            recorder: None,
            ..self.hooks.pass.clone()
        };
        let mut resumed = Ctx {
            adapters: set.active().map(|active| (set, active)),
            skipped: self.skipped.clone(),
            hooks: Hooks {
                plan: None,
                pass,
                first_position: 0,
            },
            rows: self.rows,
        };
        if self.rows.is_some() {
            resumed.resolve();
        }
        resumed
    }

    /// Sets the task of each row: the index of its child in a `MultiTask` composition, `None` for a row no adapter acts on; the
    /// task of a method that tells tasks apart itself, which every row must have.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchTask`] for an index without a child.
    pub fn with_tasks(mut self, tasks: impl IntoIterator<Item = Option<usize>>) -> Result<Self, Error> {
        self.hooks.pass.tasks = tasks.into_iter().collect();
        let children = self.adapters.and_then(|(_, active)| active.tasks());
        match (children, self.hooks.pass.tasks.iter().flatten().max()) {
            (Some(children), Some(task)) if *task >= children => Err(Error::NoSuchTask {
                task: *task,
                tasks: children,
            }),
            _ => Ok(self),
        }
    }

    /// Sets how many passes of training the fusions have been through before this one, where that is not what the set
    /// holds ([`AdapterSet::set_passes`]). A fusion with a temperature starts at 50 and cools by 0.05 each pass, down to 1;
    /// one that was just loaded is at the start, as in the reference.
    #[must_use]
    pub fn after_passes(mut self, passes: u64) -> Self {
        self.hooks.pass.passes = passes;
        self
    }

    /// Records the values of gates and the attention of fusions in this pass; see [`records`](Self::records).
    #[must_use]
    pub fn recording(mut self) -> Self {
        self.hooks.pass.recorder = Some(Recorder::default());
        self
    }

    /// What was recorded so far, in the order it arose; nothing unless this context is [`recording`](Self::recording).
    pub fn records(&self) -> Vec<Record> {
        let recorder = self.hooks.pass.recorder.as_ref();
        recorder.map(Recorder::records).unwrap_or_default()
    }

    /// States that only the first `prompt` columns are the prompt and the others were generated.
    #[must_use]
    pub fn generating(mut self, prompt: usize) -> Self {
        self.hooks.pass.prompt = Some(prompt);
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
        self.causality() != Causality::LooksAhead
    }

    /// That of the active adapter that reads the most.
    pub fn causality(&self) -> Causality {
        self.adapters
            .map_or(Causality::Causal, |(set, active)| set.causality(active))
    }

    /// The context of the pass whose last hidden state an active router reads, which a model then computes before this pass
    /// begins ([`with_base`](Self::with_base)); `None` where none reads one. It is one of evaluation.
    pub fn base_pass(&self) -> Option<Ctx<'a>> {
        let (set, active) = self.adapters?;
        Some(match set.reads_base(active.composition())? {
            BasePass::Plain => Ctx::plain(),
            BasePass::WithAdapters => Ctx {
                adapters: self.adapters,
                skipped: self.skipped.clone(),
                ..Self::default()
            },
        })
    }

    /// Sets the last hidden state of that pass, `[batch, seq, d_model]`.
    pub fn with_base(&mut self, hidden: Tensor<3>) {
        self.hooks.pass.base = Some(hidden);
    }

    /// What everything in this pass is told.
    pub fn pass(&self) -> &Pass {
        &self.hooks.pass
    }

    /// Begins a pass of `model` over `batch`: checks that the active composition fits both, repeats the batch once for each
    /// branch of a `Parallel` block, one copy after the other, and tells the adapters about its padding and its past. Returns
    /// the hooks to call, and the batch to compute on. The output then has as many times the rows, branch after branch.
    ///
    /// A model calls it first in its `forward`; one of two stacks calls it for each.
    ///
    /// The reference repeats the batch at the first site an adapter acts at. At the input the numbers are the same, one rule
    /// serves every model, and all tensors that follow, masks and position encodings included, agree in their rows.
    ///
    /// # Errors
    ///
    /// [`Error::OtherModel`] if an active adapter was attached to a model of other layers; [`Error::WrongSizes`] if the rows
    /// of a `BatchSplit` or the positions of a `Split` do not add up to those of the batch, or if rows have no task where
    /// a `MultiTask` or a method needs one; [`Error::NoSuchTask`] for a task that a method does not know.
    pub fn begin<B: Batch>(&mut self, model: &dyn Host, batch: B) -> Result<(&mut Hooks<'a>, B), Error> {
        let ([rows, positions], mut batch) = (batch.size(), batch);
        let mut copies = 1;
        if let Some((set, active)) = self.adapters {
            set.check_model(active, model)?;
            check_input(active.composition(), rows, positions, self.hooks.pass.tasks.len())?;
            set.check_tasks(active, rows, &self.hooks.pass.tasks)?;
            copies = active.replicas();
        }
        if copies > 1 {
            batch = batch.repeated(copies);
        }
        let Sequence {
            padding,
            past,
            tokens,
            earlier,
        } = batch.sequence();
        let pass = &mut self.hooks.pass;
        (pass.padding, pass.past, pass.tokens, pass.earlier) = (padding, past, tokens, earlier);
        pass.inserted.clear();
        self.rows = Some(rows * copies);
        self.resolve();
        Ok((&mut self.hooks, batch))
    }

    /// The hooks of the pass that has begun, for what comes after the model's `forward`, such as a head. Before a pass has
    /// begun they are those of a batch whose rows are not known.
    pub fn hooks(&mut self) -> &mut Hooks<'a> {
        if self.rows.is_none() {
            self.resolve();
        }
        &mut self.hooks
    }

    /// Runs `act` for some rows of the batch alone, such as those of one of several heads: the hooks then take these rows.
    pub fn for_rows<T>(&mut self, rows: Range<usize>, act: impl FnOnce(&mut Self) -> T) -> T {
        let whole = self.hooks().plan.as_mut().map(|plan| plan.keep_rows(&rows));
        let result = act(self);
        if let (Some(plan), Some(whole)) = (&mut self.hooks.plan, whole) {
            plan.put_rows(whole);
        }
        result
    }

    /// Resolves the active composition for the rows of the batch.
    fn resolve(&mut self) {
        let Some((set, active)) = self.adapters else {
            return;
        };
        let rows = BatchRows {
            count: self.rows.unwrap_or_default(),
            tasks: &self.hooks.pass.tasks,
        };
        self.hooks.plan = Some(Plan::new(set, active.composition(), rows, &self.skipped));
        self.hooks.first_position = set.first_position(active);
    }
}
