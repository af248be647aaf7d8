//! Layers with their sites, from the tensors of a checkpoint.

use adapters_core::{
    BareParameter, EmbeddingHook, EmbeddingRole, KeyValueHook, LinearRole, Location, Matrices, MatricesRole, NormRole,
    OutputHook, Point, ResidualHook, ResidualRole, Sited, TableRole,
};
use burn::module::Param;
use burn::nn::{Embedding, LayerNorm, Linear, RmsNorm};
use burn::tensor::Tensor;

use crate::norm::{Norm, NormKind};
use crate::weights::Weights;

/// The layers of one location, whose keys and paths begin alike.
///
/// Every method takes the rest of the path: `at.linear(LinearRole::Query, "attention.self.query", [d, d])` reads
/// `<path>.attention.self.query.weight` and `.bias`, and its site has that path.
#[derive(Debug)]
pub struct Scope<'w> {
    weights: &'w mut Weights,
    location: Location,
    keys: String,
    path_prefix: String,
}

impl<'w> Scope<'w> {
    pub(super) fn new(weights: &'w mut Weights, location: Location, keys: String, path_prefix: String) -> Self {
        Self {
            weights,
            location,
            keys,
            path_prefix,
        }
    }

    /// The location.
    pub fn location(&self) -> Location {
        self.location
    }

    /// The same location further down the path.
    pub fn within(&mut self, rest: &str) -> Scope<'_> {
        self.within_at(self.location, rest)
    }

    /// Another location further down the path.
    pub(crate) fn within_at(&mut self, location: Location, rest: &str) -> Scope<'_> {
        let keys = self.key(rest);
        Scope::new(self.weights, location, keys, self.path_prefix.clone())
    }

    /// Whether the checkpoint has `<path>.<rest>`; always where tensors are random.
    pub fn has(&self, rest: &str) -> bool {
        self.weights.has(&self.key(rest))
    }

    /// A linear layer `[d_in, d_out]` with a bias.
    pub fn linear(&mut self, role: LinearRole, rest: &str, dims: [usize; 2]) -> Sited<Linear> {
        self.linear_with(true, role, rest, dims)
    }

    /// A linear layer `[d_in, d_out]`, with a bias or without.
    pub(crate) fn linear_with(
        &mut self,
        bias: bool,
        role: LinearRole,
        rest: &str,
        [d_in, d_out]: [usize; 2],
    ) -> Sited<Linear> {
        let layer = self.weights.linear_with(bias, &self.key(rest), d_in, d_out);
        Sited::new(self.location, role, self.path(rest), layer)
    }

    /// A linear layer `[d_in, d_out]` with a bias, whose weight is published that way round.
    pub(crate) fn linear_input_first(
        &mut self,
        role: LinearRole,
        rest: &str,
        [d_in, d_out]: [usize; 2],
    ) -> Sited<Linear> {
        let layer = self.weights.linear_input_first(&self.key(rest), d_in, d_out);
        Sited::new(self.location, role, self.path(rest), layer).stored_input_first()
    }

    /// A language-model head, with a bias or without: the table that is its weight, or a weight of its own, `[d_model, vocab]`.
    pub fn head(&mut self, bias: bool, table: Option<&Sited<Embedding>>, dims: [usize; 2]) -> Sited<Linear> {
        match table {
            Some(table) => {
                let bias = bias.then(|| self.weights.vector(&joined(&[&self.keys, "bias"]), dims[1]));
                Sited::tied(self.location, self.path(""), table, bias)
            }
            None => self.linear_with(bias, LinearRole::LmHead, "", dims),
        }
    }

    /// A layer normalization.
    pub fn layer_norm(&mut self, role: NormRole, rest: &str, d_model: usize, epsilon: f64) -> Sited<LayerNorm> {
        self.layer_norm_with(true, role, rest, d_model, epsilon)
    }

    /// A layer normalization, with a bias or without.
    pub(crate) fn layer_norm_with(
        &mut self,
        bias: bool,
        role: NormRole,
        rest: &str,
        d_model: usize,
        epsilon: f64,
    ) -> Sited<LayerNorm> {
        let layer = self.weights.layer_norm_with(bias, &self.key(rest), d_model, epsilon);
        Sited::new(self.location, role, self.path(rest), layer)
    }

    /// A layer normalization to which nothing attaches.
    pub(crate) fn plain_layer_norm(&mut self, rest: &str, d_model: usize, epsilon: f64) -> LayerNorm {
        self.weights.layer_norm(&self.key(rest), d_model, epsilon)
    }

    /// A root-mean-square normalization.
    pub fn rms_norm(&mut self, role: NormRole, rest: &str, d_model: usize, epsilon: f64) -> Sited<RmsNorm> {
        let layer = self.weights.rms_norm(&self.key(rest), d_model, epsilon);
        Sited::new(self.location, role, self.path(rest), layer)
    }

    /// A normalization of any of the formulas of decoders.
    pub(crate) fn norm(
        &mut self,
        kind: NormKind,
        role: NormRole,
        rest: &str,
        d_model: usize,
        epsilon: f64,
    ) -> Sited<Norm> {
        let layer = self.weights.norm(kind, &self.key(rest), d_model, epsilon);
        Sited::new(self.location, role, self.path(rest), layer)
    }

    /// The table of the token embeddings; `padding` is a row that never trains.
    pub fn table(&mut self, rest: &str, sizes: [usize; 2], padding: Option<usize>) -> Sited<Embedding> {
        self.table_of(TableRole::TokenEmbedding, rest, sizes, padding)
    }

    /// The table of the token embeddings under a name of its own, which stacks read under others ([`Sited::read_at`]).
    pub(crate) fn shared_table(&mut self, rest: &str, sizes: [usize; 2], padding: Option<usize>) -> Sited<Embedding> {
        self.table_of(TableRole::SharedTable, rest, sizes, padding)
    }

    fn table_of(
        &mut self,
        role: TableRole,
        rest: &str,
        [rows, d_model]: [usize; 2],
        padding: Option<usize>,
    ) -> Sited<Embedding> {
        let layer = self.weights.embedding(&self.key(rest), rows, d_model);
        Sited::new(self.location, role, self.path(rest), layer).with_padding(padding)
    }

    /// What the module at `<path>.<rest>` reads of a table that has another name.
    pub(crate) fn reads(&self, table: &Sited<Embedding>, rest: &str, is_tied: bool) -> Sited<Embedding> {
        table.read_at(self.location, self.path(rest), is_tied)
    }

    /// An embedding table to which nothing attaches.
    pub fn embedding(&mut self, rest: &str, [rows, d_model]: [usize; 2]) -> Embedding {
        self.weights.embedding(&self.key(rest), rows, d_model)
    }

    /// A convolution to `d_out` channels, with a bias or without, as the product of its kernel `[channels, sizes..]` with
    /// every patch.
    pub fn convolution(&mut self, rest: &str, bias: bool, kernel: Vec<usize>, d_out: usize) -> Sited<Linear> {
        let layer = self.weights.convolution(&self.key(rest), bias, &kernel, d_out);
        Sited::new(self.location, LinearRole::Convolution, self.path(rest), layer).with_kernel(kernel)
    }

    /// A parameter of its own, to which nothing attaches.
    pub fn tensor<const D: usize>(&mut self, rest: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        self.weights.tensor(&self.key(rest), shape)
    }

    /// Matrices in one parameter of the module at `<path>.<rest>`, `[count, rows, cols]`.
    pub fn matrices(
        &mut self,
        role: MatricesRole,
        rest: &str,
        parameter: BareParameter,
        shape: [usize; 3],
    ) -> Sited<Matrices> {
        let weight = self
            .weights
            .tensor(&joined(&[&self.keys, rest, &parameter.name]), shape);
        Sited::parameter(self.location, role, self.path(rest), parameter, Matrices { weight })
    }

    /// Where adapters act on embedded tokens.
    pub fn embedded(&self, role: EmbeddingRole, rest: &str, d_model: usize) -> Point<EmbeddingHook> {
        Point::embedding(self.location, role, self.path(rest), d_model)
    }

    /// Keys and values of an attention: `heads` heads of `d_head` features.
    pub fn key_value(&self, rest: &str, heads: usize, d_head: usize) -> Point<KeyValueHook> {
        Point::key_value(self.location, self.path(rest), heads, d_head)
    }

    /// Where a block joins the residual stream.
    pub fn residual(&self, role: ResidualRole, rest: &str, d_model: usize) -> Point<ResidualHook> {
        Point::residual(self.location, role, self.path(rest), d_model)
    }

    /// What enters a whole layer; its path is that of the scope.
    pub fn layer_input(&self, d_model: usize) -> Point<OutputHook> {
        Point::layer_input(self.location, self.path(""), d_model)
    }

    /// What a whole layer returns; its path is that of the scope.
    pub fn layer_output(&self, d_model: usize) -> Point<OutputHook> {
        Point::layer_output(self.location, self.path(""), d_model)
    }

    /// What enters the language-model head.
    pub fn head_input(&self, rest: &str, d_model: usize) -> Point<OutputHook> {
        Point::head_input(self.location, self.path(rest), d_model)
    }

    fn key(&self, rest: &str) -> String {
        joined(&[&self.keys, rest])
    }

    fn path(&self, rest: &str) -> String {
        joined(&[&self.path_prefix, &self.keys, rest])
    }
}

/// The names that are not empty, with dots between them.
fn joined(names: &[&str]) -> String {
    let names: Vec<&str> = names.iter().copied().filter(|name| !name.is_empty()).collect();
    names.join(".")
}
