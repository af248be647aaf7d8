//! Gradients of a loss with the memory of one block: gradient checkpointing by block.
//!
//! *Training Deep Nets with Sublinear Memory Cost*, Chen et al., 2016, <https://arxiv.org/abs/1604.06174>. The forward pass runs
//! without a graph and keeps what enters each block. Going back from the last one, a block is run again with a graph, and
//! asked for the gradients of its parameters and of what entered it; then its graph is gone.

use adapters_core::{AdapterSet, Ctx};
use adapters_models::Blocks;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{ElementConversion, Gradients, Tensor};

/// The loss of a batch and its gradients.
pub struct LossGradients {
    /// The loss.
    pub loss: f64,
    /// Of the adapters' parameters.
    pub of_set: GradientsParams,
    /// Of the head's.
    pub of_head: GradientsParams,
}

impl std::fmt::Debug for LossGradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LossGradients")
            .field("loss", &self.loss)
            .field("of_set", &self.of_set.len())
            .field("of_head", &self.of_head.len())
            .finish()
    }
}

impl LossGradients {
    /// Those of a loss that was computed as a whole.
    pub fn of<H: Module>(loss: &Tensor<1>, set: &AdapterSet, head: &H) -> Self {
        let mut gradients = loss.backward();
        Self {
            loss: loss.clone().into_scalar::<f32>().elem(),
            of_set: GradientsParams::from_module(&mut gradients, set),
            of_head: GradientsParams::from_module(&mut gradients, head),
        }
    }

    /// The same gradients, to the rounding of sums, with the memory of one block: a block runs twice.
    ///
    /// `set` and `head` are on a device with autodiff, `model` on a plain one. `cx` is the context of the pass, over what is
    /// active in `set` and with the seed of its dropout; `loss` makes the loss of the last hidden state, and may go on with
    /// the context it is given.
    ///
    /// # Panics
    ///
    /// As `model` and `loss`.
    pub fn by_block<M: Blocks, H: Module>(
        model: &M,
        input: M::Input,
        set: &AdapterSet,
        head: &H,
        cx: &Ctx<'_>,
        loss: impl FnOnce(Tensor<3>, &mut Ctx<'_>) -> Tensor<1>,
    ) -> Self {
        let plain = set.valid();
        let mut forward = cx.resumed(&plain);
        let staged = model.staged(input.clone(), &mut forward);
        let mut entered = Vec::with_capacity(staged.blocks.len());
        let mut hidden = staged.hidden.detach();
        for block in &staged.blocks {
            entered.push((hidden.clone(), forward.resumed(&plain)));
            hidden = block(hidden, &mut forward);
        }

        let mut of_set = GradientsAccumulator::new();
        let mut collect = |gradients: &mut Gradients| {
            of_set.accumulate(set, GradientsParams::from_module(gradients, set));
        };
        let last = leaf(hidden);
        let value = loss(last.clone(), &mut forward.resumed(set));
        let mut gradients = value.backward();
        let mut upstream = gradient(&last, &gradients);
        collect(&mut gradients);
        let of_head = GradientsParams::from_module(&mut gradients, head);

        for (block, (hidden, then)) in staged.blocks.iter().zip(entered).rev() {
            let hidden = leaf(hidden);
            let output = block(hidden.clone(), &mut then.resumed(set));
            let mut gradients = (output * upstream).sum().backward();
            upstream = gradient(&hidden, &gradients);
            collect(&mut gradients);
        }
        let begun = model.staged(input, &mut cx.resumed(set)).hidden;
        if begun.is_tracked() {
            collect(&mut (begun * upstream).sum().backward());
        }
        Self {
            loss: value.into_scalar::<f32>().elem(),
            of_set: of_set.grads(),
            of_head,
        }
    }
}

/// A tensor whose gradient can be asked for, without a history.
fn leaf(x: Tensor<3>) -> Tensor<3> {
    Tensor::from_inner(x).require_grad()
}

fn gradient(of: &Tensor<3>, gradients: &Gradients) -> Tensor<3> {
    of.grad(gradients).unwrap_or_else(|| of.clone().inner().zeros_like())
}
