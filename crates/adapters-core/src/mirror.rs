//! Small models in the image of a host, which a method trains next to it.

use std::fmt::Debug;

use adapters_sites::Sites;
use burn::tensor::{Int, Tensor};

use crate::pass::call::Pass;

/// How a mirror differs from its host; `None` is as the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorPlan {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Heads of the queries.
    pub heads: Option<usize>,
    /// Width of the feed-forward blocks.
    pub intermediate_size: Option<usize>,
    /// Whether it has a token table of its own, and does not read the rows of the host's.
    pub own_table: bool,
    /// Seed of its weights.
    pub seed: u64,
}

/// What a mirror reads.
#[derive(Clone, Debug)]
pub enum MirrorInput {
    /// Rows of the host's token table, `[batch, seq, width]`.
    Rows(Tensor<3>),
    /// Ids of tokens, `[batch, seq]`, where it has a table.
    Tokens(Tensor<2, Int>),
}

/// A model of the class of a host, without a head. Its sites are its layers with weights, under the paths that the published class
/// has without a prefix. A method that trains them puts its parameters into a copy before each pass.
pub trait Mirror: Sites + Debug + Send + Sync {
    /// A copy of the model.
    fn copied(&self) -> Box<dyn Mirror>;

    /// The last hidden state, `[batch, seq, width]`.
    ///
    /// # Panics
    ///
    /// Panics on rows of another width, and on ids outside the table.
    fn forward(&self, input: MirrorInput, pass: &Pass) -> Tensor<3>;
}
