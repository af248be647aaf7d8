#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod boxed;
mod frozen;
mod values;

pub use frozen::Frozen;
pub use values::{Fill, values, with_fresh_ids};

// For the crates of this workspace.
#[doc(hidden)]
pub use boxed::{Boxed, BoxedKind, Boxes, DynMapper, DynModule, DynVisitor, Kind, Transform};
