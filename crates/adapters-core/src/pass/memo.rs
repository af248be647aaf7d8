//! What is computed once in a pass, however many layers ask for it.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use burn::module::ParamId;
use burn::tensor::Tensor;

/// Tensors made from what an adapter shares, by the id of its first shared parameter and a name.
///
/// It lives and ends with its pass. A copy of the pass remembers the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memo(Rc<RefCell<Made>>);

/// The tensors, of any rank.
type Made = HashMap<(ParamId, &'static str), Box<dyn Any>>;

impl Memo {
    /// What is remembered, or what `make` returns, which is remembered then.
    pub(crate) fn once<const D: usize>(
        &self,
        id: ParamId,
        what: &'static str,
        make: impl FnOnce() -> Tensor<D>,
    ) -> Tensor<D> {
        let known = self
            .0
            .borrow()
            .get(&(id, what))
            .and_then(|made| made.downcast_ref().cloned());
        match known {
            Some(made) => made,
            None => {
                // Not while it is borrowed: `make` may ask for something else.
                let made = make();
                self.0.borrow_mut().insert((id, what), Box::new(made.clone()));
                made
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use burn::module::Param;
    use burn::tensor::Device;

    use crate::{Call, Pass, Role, Shared, SharedParam, Site, Stack};

    const SITE: Site = Site::outside(Stack::Encoder, Role::Embedding);

    #[test]
    fn what_is_shared_is_made_once_a_pass_and_its_gradient_is_the_sum() {
        let device = Device::flex().autodiff();
        let weight = Param::from_tensor(burn::tensor::Tensor::<1>::ones([2], &device));
        let shared = Shared::new().with("w", SharedParam::One(weight.clone()));
        let made = Cell::new(0);
        let vectors = |pass: &Pass| {
            let call = Call {
                pass,
                shared: &shared,
                adapter: "a",
                site: SITE,
            };
            call.once("vectors", || {
                made.set(made.get() + 1);
                shared.vector("w") * 3.0
            })
        };
        let (first, second) = (Pass::default(), Pass::default());
        let loss = (vectors(&first) + vectors(&first.clone()) * 2.0).sum();
        assert_eq!(made.get(), 1, "a copy of the pass makes it again");
        let gradients = loss.backward();
        let gradient = weight.val().grad(&gradients).expect("it was used").into_data();
        assert_eq!(gradient.iter::<f32>().collect::<Vec<_>>(), [9.0, 9.0]);
        vectors(&second);
        assert_eq!(made.get(), 2, "another pass keeps what the first made");
    }

    #[test]
    fn adapters_are_told_apart() {
        let device = Device::flex();
        let adapter = |value: f32| {
            let weight = burn::tensor::Tensor::<1>::full([1], value, &device);
            Shared::new().with("w", SharedParam::One(Param::from_tensor(weight)))
        };
        let pass = Pass::default();
        let seen = [1.0, 2.0].map(|value| {
            let shared = adapter(value);
            let call = Call {
                pass: &pass,
                shared: &shared,
                adapter: "a",
                site: SITE,
            };
            let vector = call.once("vectors", || shared.vector("w"));
            vector.into_data().iter::<f32>().sum::<f32>()
        });
        assert_eq!(seen, [1.0, 2.0]);
    }
}
