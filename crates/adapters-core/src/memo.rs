//! What is computed once in a pass, however many layers ask for it.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::ParamId;
use burn::tensor::Tensor;

/// Tensors made from what an adapter shares, by the id of its first shared parameter and a name.
///
/// It lives and ends with its pass. A copy of the pass, of which rows were taken, remembers the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memo(Arc<Mutex<HashMap<(ParamId, &'static str), Box<dyn Any + Send>>>>);

impl Memo {
    /// What is remembered, or what `make` returns, which is remembered then.
    pub(crate) fn once<const D: usize>(
        &self,
        id: ParamId,
        what: &'static str,
        make: impl FnOnce() -> Tensor<D>,
    ) -> Tensor<D> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&(id, what)).and_then(|made| made.downcast_ref().cloned());
        match known {
            Some(made) => made,
            None => {
                // Not under the lock: `make` may ask for something else.
                let made = make();
                lock().insert((id, what), Box::new(made.clone()));
                made
            }
        }
    }
}
