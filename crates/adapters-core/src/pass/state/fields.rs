//! Cutting and joining a state field by field.
//!
//! Each kind of field is a module with four functions of the same names. [`by_fields`] implements [`Rows`](super::Rows) and
//! [`Positions`](super::Positions) for a state by calling, for each field, those of its kind.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::kind::Basic;

/// A tensor, rows on axis 0 and positions on axis 1.
pub(super) mod tensor {
    use super::*;
    use crate::pass::state::rows;

    pub(crate) fn take_rows<const D: usize, K: Basic>(field: &Tensor<D, K>, rows: &[usize]) -> Tensor<D, K> {
        rows::take(field, rows)
    }

    pub(crate) fn join_rows<const D: usize, K: Basic>(chunks: Vec<(usize, Tensor<D, K>)>) -> Tensor<D, K> {
        rows::cat(chunks.into_iter().map(|(_, chunk)| chunk).collect())
    }

    pub(crate) fn take_positions<const D: usize, K: Basic>(
        field: &Tensor<D, K>,
        range: Range<usize>,
        _positions: usize,
    ) -> Tensor<D, K> {
        field.clone().slice_dim(1, range)
    }

    pub(crate) fn join_positions<const D: usize, K: Basic>(chunks: Vec<(usize, Tensor<D, K>)>) -> Tensor<D, K> {
        Tensor::cat(chunks.into_iter().map(|(_, chunk)| chunk).collect(), 1)
    }
}

/// A tensor that may be absent, in all chunks alike.
pub(super) mod optional {
    use super::*;

    pub(crate) fn take_rows<const D: usize, K: Basic>(
        field: &Option<Tensor<D, K>>,
        rows: &[usize],
    ) -> Option<Tensor<D, K>> {
        field.as_ref().map(|field| tensor::take_rows(field, rows))
    }

    pub(crate) fn join_rows<const D: usize, K: Basic>(
        chunks: Vec<(usize, Option<Tensor<D, K>>)>,
    ) -> Option<Tensor<D, K>> {
        all(chunks).map(tensor::join_rows)
    }

    pub(crate) fn take_positions<const D: usize, K: Basic>(
        field: &Option<Tensor<D, K>>,
        range: Range<usize>,
        positions: usize,
    ) -> Option<Tensor<D, K>> {
        field
            .as_ref()
            .map(|field| tensor::take_positions(field, range, positions))
    }

    pub(crate) fn join_positions<const D: usize, K: Basic>(
        chunks: Vec<(usize, Option<Tensor<D, K>>)>,
    ) -> Option<Tensor<D, K>> {
        all(chunks).map(tensor::join_positions)
    }

    fn all<T>(chunks: Vec<(usize, Option<T>)>) -> Option<Vec<(usize, T)>> {
        chunks.into_iter().map(|(size, chunk)| Some((size, chunk?))).collect()
    }
}

/// A tensor that may be absent, in all chunks alike, and belongs to a row and to no position.
pub(super) mod by_row {
    pub(crate) use super::optional::{join_rows, take_rows};
    pub(crate) use super::whole::{join_positions, take_positions};
}

/// The sum of the updates so far: one that is absent counts as zero where another chunk has one, and one that holds for all
/// positions, as a factor does, has one position.
pub(super) mod delta {
    use super::*;
    use crate::pass::state::{positions, rows};

    pub(crate) fn take_rows(field: &Option<Tensor<3>>, rows: &[usize]) -> Option<Tensor<3>> {
        optional::take_rows(field, rows)
    }

    pub(crate) fn join_rows(chunks: Vec<(usize, Option<Tensor<3>>)>) -> Option<Tensor<3>> {
        rows::join_deltas(chunks)
    }

    pub(crate) fn take_positions(
        field: &Option<Tensor<3>>,
        range: Range<usize>,
        positions: usize,
    ) -> Option<Tensor<3>> {
        field.as_ref().map(|delta| positions::cut(delta, range, positions))
    }

    pub(crate) fn join_positions(chunks: Vec<(usize, Option<Tensor<3>>)>) -> Option<Tensor<3>> {
        positions::join(chunks)
    }
}

/// What belongs to no row and no position: the same in all chunks.
pub(super) mod whole {
    use super::*;

    pub(crate) fn take_rows<T: Clone>(field: &T, _rows: &[usize]) -> T {
        field.clone()
    }

    pub(crate) fn join_rows<T>(mut chunks: Vec<(usize, T)>) -> T {
        // A join has at least one chunk.
        chunks.swap_remove(0).1
    }

    pub(crate) fn take_positions<T: Clone>(field: &T, _range: Range<usize>, _positions: usize) -> T {
        field.clone()
    }

    pub(crate) fn join_positions<T>(chunks: Vec<(usize, T)>) -> T {
        join_rows(chunks)
    }
}

/// Implements `Rows` for a state whose fields are all listed with their kinds, and `Positions` where a field is named whose
/// axis 1 says how many positions there are.
macro_rules! by_fields {
    ($state:ty { $($field:ident: $kind:ident),* $(,)? }) => {
        impl $crate::pass::state::rows::Rows for $state {
            fn take_rows(&self, rows: &[usize]) -> Self {
                Self { $($field: $crate::pass::state::fields::$kind::take_rows(&self.$field, rows),)* }
            }

            fn join_rows(chunks: Vec<Self>) -> Self {
                Self {
                    $($field: $crate::pass::state::fields::$kind::join_rows(
                        chunks.iter().map(|chunk| (chunk.rows(), chunk.$field.clone())).collect()
                    ),)*
                }
            }
        }
    };
    ($state:ty, positions of $seq:ident { $($field:ident: $kind:ident),* $(,)? }) => {
        $crate::pass::state::fields::by_fields!($state { $($field: $kind),* });

        impl $crate::pass::state::positions::Positions for $state {
            fn positions(&self) -> Option<usize> {
                Some(self.$seq.dims()[1])
            }

            fn take_positions(&self, range: std::ops::Range<usize>) -> Option<Self> {
                let positions = self.$seq.dims()[1];
                Some(Self {
                    $($field: $crate::pass::state::fields::$kind::take_positions(&self.$field, range.clone(), positions),)*
                })
            }

            fn join_positions(chunks: Vec<Self>) -> Option<Self> {
                Some(Self {
                    $($field: $crate::pass::state::fields::$kind::join_positions(
                        chunks.iter().map(|chunk| (chunk.$seq.dims()[1], chunk.$field.clone())).collect()
                    ),)*
                })
            }
        }
    };
}

pub(super) use by_fields;
