//! A forward pass: the context a model carries, the states of its hooks, and how compositions act on them.

pub(crate) mod compose;
pub(crate) mod ctx;
pub(crate) mod memo;
pub(crate) mod norm;
pub(crate) mod positions;
pub(crate) mod record;
pub(crate) mod rows;
pub(crate) mod sequence;
pub(crate) mod state;
