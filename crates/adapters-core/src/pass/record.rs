//! What is recorded of a forward pass: the values of gates and the attention of fusions.

use std::cell::RefCell;

use adapters_sites::Site;
use burn::tensor::Tensor;

/// A recorded value, and where it arose: by adapter or fusion, layer and role.
#[derive(Clone, Debug)]
pub struct Record {
    /// The layer and the role.
    pub site: Site,
    /// What was recorded.
    pub value: Recorded,
}

/// What was recorded.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// The gates of an adapter.
    Gate {
        /// The adapter.
        adapter: String,
        /// One number a row and gate, `[batch, gates]`; the rows that this adapter acted on.
        scores: Tensor<2>,
    },
    /// How a fusion weighed its adapters.
    FusionAttention {
        /// The fusion.
        fusion: String,
        /// `[batch, seq, adapters]`, the adapters in the order of the fusion; they add up to one.
        scores: Tensor<3>,
    },
}

/// The records of one pass, in the order they arose.
#[derive(Clone, Debug, Default)]
pub struct Recorder(RefCell<Vec<Record>>);

impl Recorder {
    /// Adds a record.
    pub fn add(&self, site: Site, value: Recorded) {
        self.0.borrow_mut().push(Record { site, value });
    }

    /// What is there so far.
    pub fn records(&self) -> Vec<Record> {
        self.0.borrow().clone()
    }
}
