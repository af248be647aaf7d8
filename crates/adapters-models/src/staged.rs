//! A forward pass block by block, so that a block can be run again.

use std::fmt;

use adapters_core::{Ctx, Error, Hooks};
use burn::tensor::Tensor;

/// What goes from block to block.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The hidden state, `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// What is read beside it: in the decoder of a model of two stacks the encoder's output, `[batch, encoder_seq, d_model]`.
    pub beside: Option<Tensor<3>>,
}

/// A block of a forward pass.
pub type Block<'m> = Box<dyn Fn(Flow, &mut Hooks<'_>) -> Flow + 'm>;

impl Flow {
    /// A hidden state alone.
    pub fn of(hidden: Tensor<3>) -> Self {
        Self { hidden, beside: None }
    }

    /// A block that makes one hidden state of another.
    pub fn block<'m>(run: impl Fn(Tensor<3>, &mut Hooks<'_>) -> Tensor<3> + 'm) -> Block<'m> {
        Box::new(move |flow, cx| Self {
            hidden: run(flow.hidden, cx),
            beside: flow.beside,
        })
    }
}

/// A model whose forward pass is a chain of blocks.
///
/// Between two blocks there is nothing but the [`Flow`]: what a training step needs to keep of a block is its input, and
/// the rest of it can be computed again when its gradient is due.
pub trait Blocks {
    /// What the model reads.
    type Input: Clone;

    /// Begins a pass: the embeddings, and the blocks that are to come.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// As the model's `forward`.
    fn staged(&self, input: Self::Input, cx: &mut Ctx<'_>) -> Result<Staged<'_>, Error>;
}

/// A forward pass that has begun.
pub struct Staged<'m> {
    /// What enters the first block.
    pub entered: Flow,
    /// The blocks, in order.
    pub blocks: Vec<Block<'m>>,
}

impl Staged<'_> {
    /// Ends the pass: the last hidden state, `[batch, seq, d_model]`.
    pub fn run(self, cx: &mut Hooks<'_>) -> Tensor<3> {
        let flow = self.blocks.iter().fold(self.entered, |flow, block| block(flow, cx));
        flow.hidden
    }
}

impl fmt::Debug for Staged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged")
            .field("entered", &self.entered.hidden.dims())
            .field("blocks", &self.blocks.len())
            .finish()
    }
}
