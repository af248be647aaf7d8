//! Kernels on slices of `f32`: vectorized, on all threads of rayon's pool, with the gradients written by hand.
//!
//! Each takes the [`Level`] of instructions it runs with. The results do not depend on the number of threads: work is
//! divided into rows or heads, and each of those is computed by one thread in one order.

// Without a backend that has kernels, masks of dropout are all that is computed here.
#![cfg_attr(not(feature = "flex"), allow(dead_code))]

#[cfg(feature = "flex")]
pub(crate) mod activation;
#[cfg(feature = "flex")]
pub(crate) mod attention;
#[cfg(feature = "flex")]
pub(crate) mod exact;
#[cfg(feature = "flex")]
pub(crate) mod half;
#[cfg(feature = "flex")]
pub(crate) mod int8;
#[cfg(feature = "flex")]
pub(crate) mod loss;
#[cfg(feature = "flex")]
pub(crate) mod norm;
pub(crate) mod philox;
#[cfg(feature = "flex")]
pub(crate) mod raw;
#[cfg(feature = "flex")]
pub(crate) mod rotary;
pub(crate) mod simd;
#[cfg(feature = "flex")]
pub(crate) mod split;
pub(crate) mod threads;

pub(crate) use simd::Level;
