//! Operations with kernels of their own on Burn's `flex` backend: how they enter the graph of automatic differentiation.
//!
//! An [`Operation`](graph::Operation) computes on `flex` tensors and knows its gradients. One extension of Burn's backends, [`FusedOps`](graph::FusedOps), runs
//! any of them, with one to three differentiable inputs; what an operation holds besides is constant. The functions of
//! this module return `None` where an input is on another backend, is not `f32`, or a constant is tracked; then the
//! caller runs the stock operation.

mod attention;
mod elementwise;
mod graph;
mod linear;
mod loss;
mod norm;
pub(crate) mod numbers;
mod rotary;

pub(crate) use attention::attention;
pub(crate) use elementwise::{activation, add, dropout, silu_gated};
pub(crate) use linear::{linear, trained};
pub(crate) use loss::cross_entropy;
pub(crate) use norm::{Normalization, norm, norm_of_sum};
pub(crate) use numbers::runs_here;
pub(crate) use rotary::rotary;
