//! What a hook hands to the adapters at a site, and how a batch of it is cut and joined.
//!
//! [`hook_state`] is what all states have in common; there is a file for each kind of site, and [`rows`], [`positions`] and
//! [`fields`] cut and join.

mod convolution;
mod effect;
mod embedding;
mod fields;
mod fusion;
mod hidden;
mod hook_state;
mod key_value;
mod linear;
mod matrices;
mod norm;
mod output;
mod positions;
mod rows;
mod table;

pub use convolution::ConvolutionState;
pub use effect::{Effect, Source};
pub use embedding::{EmbeddingState, Inserted};
pub use fusion::{FusionQuery, FusionState};
pub use hidden::{AnyNorm, HiddenState, Join};
pub use hook_state::{HookState, NoWeight};
pub use key_value::{KeyValueState, Window};
pub use linear::{LinearState, LinearWeight};
pub use matrices::MatricesState;
pub use norm::NormState;
pub use output::OutputState;
pub use positions::Positions;
pub use rows::Rows;
pub use table::TableState;
