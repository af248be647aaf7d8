//! Prediction heads in the reference's layers and files: what turns hidden states into answers.
//!
//! A head is a short stack of linear layers over the last hidden states: `W_n act(.. act(W_1 h + b_1)) + b_n`. Depending on its
//! [`HeadKind`] it reads one vector a text, which [`Pooling`] makes, or every position. It works on every
//! [`Model`](crate::Model): an encoder, a decoder, or an encoder-decoder, whose decoder then reads the text shifted by one position.
//! [`Heads`] holds several heads by name, and [`Routing`] assigns the rows of a batch to them.
//!
//! Each file format has one codec: AdapterHub's head files (`Head::save`, `Head::load`), peft's `modules_to_save`
//! (`Head::save_peft`, `Head::load_peft`) and this library's manifest (`Head::save_manifest`, `Head::load_manifest`).

mod adapterhub;
mod config;
mod forward;
mod head_base;
mod layers;
mod loss;
mod manifest;
mod named;
mod peft;
mod pooling;
mod setup;

pub use config::{HeadConfig, HeadKind, Objective};
pub use layers::Head;
pub use loss::{IGNORED, Scores, Targets};
pub use named::{Heads, NamedHead, Routing};
pub(crate) use peft::named_by_larger_class;
pub use pooling::Pooling;
pub(crate) use pooling::masked_mean;
