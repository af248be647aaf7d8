//! A forward pass block by block, so that a block can be run again.

use std::fmt;

use adapters_core::Ctx;
use burn::tensor::Tensor;

/// A block of a forward pass: hidden state in, hidden state out, `[batch, seq, d_model]`.
pub type Block<'m> = Box<dyn Fn(Tensor<3>, &mut Ctx<'_>) -> Tensor<3> + 'm>;

/// A model whose forward pass is a chain of blocks.
///
/// Between two blocks there is nothing but the hidden state: what a training step needs to keep of a block is its input, and
/// the rest of it can be computed again when its gradient is due.
pub trait Blocks {
    /// What the model reads.
    type Input: Clone;

    /// Begins a pass: the embeddings, and the blocks that are to come.
    ///
    /// # Panics
    ///
    /// As the model's `forward`.
    fn staged(&self, input: Self::Input, cx: &mut Ctx<'_>) -> Staged<'_>;
}

/// A forward pass that has begun.
pub struct Staged<'m> {
    /// What enters the first block, `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// The blocks, in order.
    pub blocks: Vec<Block<'m>>,
}

impl Staged<'_> {
    /// Ends the pass.
    pub fn run(self, cx: &mut Ctx<'_>) -> Tensor<3> {
        self.blocks.iter().fold(self.hidden, |hidden, block| block(hidden, cx))
    }
}

impl fmt::Debug for Staged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staged")
            .field("hidden", &self.hidden.dims())
            .field("blocks", &self.blocks.len())
            .finish()
    }
}
