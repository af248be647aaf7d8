//! Gradients of a loss with the memory of one block: gradient checkpointing by block.
//!
//! *Training Deep Nets with Sublinear Memory Cost*, Chen et al., 2016, <https://arxiv.org/abs/1604.06174>. The forward pass runs
//! without a graph and keeps what enters each block. Going back from the last one, a block is run again with a graph, and
//! asked for the gradients of its parameters and of what entered it; then its graph is gone.

use adapters_core::{AdapterSet, Ctx, Error};
use adapters_models::{Chain, Flow};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Tensor};

/// The loss of a batch and its gradients.
pub struct LossGradients {
    /// The loss, `[1]`, on the plain device: reading it waits for the pass.
    pub loss: Tensor<1>,
    /// Of the adapters' parameters.
    pub adapter_grads: GradientsParams,
    /// Of the head's.
    pub head_grads: GradientsParams,
}

impl std::fmt::Debug for LossGradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LossGradients")
            .field("adapter_grads", &self.adapter_grads.len())
            .field("head_grads", &self.head_grads.len())
            .finish_non_exhaustive()
    }
}

impl LossGradients {
    /// Those of a loss that was computed as a whole.
    pub fn of<H: Module>(loss: &Tensor<1>, set: &AdapterSet, head: &H) -> Self {
        let mut gradients = loss.backward();
        Self {
            loss: loss.clone().inner(),
            adapter_grads: GradientsParams::from_module(&mut gradients, set),
            head_grads: GradientsParams::from_module(&mut gradients, head),
        }
    }

    /// The same gradients, to the rounding of sums, with the memory of one block: a block runs twice.
    ///
    /// `begin` begins the model's pass, twice. `set` and `head` are on a device with autodiff, the model on a plain one. `cx` is the context of the pass, over what is
    /// active in `set` and with the seed of its dropout; `loss` makes the loss of the last hidden state, and may continue with
    /// the context it is given.
    ///
    /// # Errors
    ///
    /// Those of `begin`.
    ///
    /// # Panics
    ///
    /// As `begin` and `loss`.
    pub fn by_block<'m, H: Module>(
        begin: impl Fn(&mut Ctx<'_>) -> Result<Chain<'m>, Error>,
        set: &AdapterSet,
        head: &H,
        cx: &Ctx<'_>,
        loss: impl FnOnce(Tensor<3>, &mut Ctx<'_>) -> Tensor<1>,
    ) -> Result<Self, Error> {
        let plain = set.valid();
        let mut forward = cx.resumed(&plain);
        let chain = begin(&mut forward)?;
        let mut entered = Vec::with_capacity(chain.steps.len());
        let mut flow = chain.entered;
        for step in &chain.steps {
            entered.push((flow.clone(), forward.resumed(&plain)));
            flow = step(flow, None, forward.hooks());
        }

        let mut adapter_grads = GradientsAccumulator::new();
        let mut collect = |gradients: &mut Gradients| {
            adapter_grads.accumulate(set, GradientsParams::from_module(gradients, set));
        };
        let last = leaf(flow);
        let value = loss(last.hidden.clone(), &mut forward.resumed(set));
        let mut gradients = value.backward();
        let mut upstream = Upstream::of(&last, &gradients);
        collect(&mut gradients);
        let head_grads = GradientsParams::from_module(&mut gradients, head);

        for (step, (flow, then)) in chain.steps.iter().zip(entered).rev() {
            let flow = leaf(flow);
            let output = step(flow.clone(), None, then.resumed(set).hooks());
            let mut gradients = upstream.along(output).backward();
            upstream = Upstream::of(&flow, &gradients);
            collect(&mut gradients);
        }
        let begun = upstream.along(begin(&mut cx.resumed(set))?.entered);
        if begun.is_tracked() {
            collect(&mut begun.backward());
        }
        Ok(Self {
            loss: value.inner(),
            adapter_grads: adapter_grads.grads(),
            head_grads,
        })
    }
}

/// Tensors whose gradients can be asked for, without a history.
fn leaf(flow: Flow) -> Flow {
    let leaf = |x: Tensor<3>| Tensor::from_inner(x).require_grad();
    Flow {
        hidden: leaf(flow.hidden),
        encoded: flow.encoded.map(leaf),
        carried: flow.carried.map(leaf),
    }
}

/// The gradients of a flow; `None` for what the loss does not depend on.
struct Upstream {
    hidden: Option<Tensor<3>>,
    encoded: Option<Tensor<3>>,
    carried: Option<Tensor<3>>,
}

impl Upstream {
    fn of(flow: &Flow, gradients: &Gradients) -> Self {
        let gradient = |x: &Option<Tensor<3>>| x.as_ref().and_then(|x| x.grad(gradients));
        Self {
            hidden: flow.hidden.grad(gradients),
            encoded: gradient(&flow.encoded),
            carried: gradient(&flow.carried),
        }
    }

    /// A number whose gradients are those of the loss, as far as they go through `flow`.
    fn along(self, flow: Flow) -> Tensor<1> {
        let device = flow.hidden.device();
        let pairs = [
            (Some(flow.hidden), self.hidden),
            (flow.encoded, self.encoded),
            (flow.carried, self.carried),
        ];
        pairs
            .into_iter()
            .filter_map(|(x, gradient)| Some((x? * gradient?).sum()))
            .reduce(|sum, x| sum + x)
            .unwrap_or_else(|| Tensor::zeros([1], &device))
    }
}
