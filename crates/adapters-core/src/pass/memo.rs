//! What is computed once in a pass, however many layers ask for it.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use burn::tensor::Tensor;

/// Tensors made from what an adapter shares, by a name and that of the adapter.
///
/// It lives and ends with its pass. A copy of the pass remembers the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memo(Rc<RefCell<Made>>);

/// The tensors, of any rank.
type Made = HashMap<&'static str, HashMap<String, Box<dyn Any>>>;

impl Memo {
    /// What is remembered, or what `make` returns, which is remembered then.
    pub(crate) fn once<const D: usize>(
        &self,
        adapter: &str,
        what: &'static str,
        make: impl FnOnce() -> Tensor<D>,
    ) -> Tensor<D> {
        let known = self
            .0
            .borrow()
            .get(what)
            .and_then(|by_adapter| by_adapter.get(adapter)?.downcast_ref().cloned());
        match known {
            Some(made) => made,
            None => {
                // Not while it is borrowed: `make` may ask for something else.
                let made = make();
                let mut all = self.0.borrow_mut();
                let by_adapter = all.entry(what).or_default();
                by_adapter.insert(adapter.to_owned(), Box::new(made.clone()));
                drop(all);
                made
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use burn::module::Param;
    use burn::tensor::{Device, Tensor};

    use crate::{Call, Pass, Role, Site, Stack};

    type Weight = Param<Tensor<1>>;

    fn call<'a>(pass: &'a Pass, shared: &'a Weight, adapter: &'a str) -> Call<'a, Weight> {
        Call {
            pass,
            shared,
            adapter,
            site: Site::outside(Stack::Encoder, Role::Embedding),
        }
    }

    #[test]
    fn what_is_shared_is_made_once_a_pass_and_its_gradient_is_the_sum() {
        let device = Device::flex().autodiff();
        let weight = Param::from_tensor(Tensor::<1>::ones([2], &device));
        let made = Cell::new(0);
        let vectors = |pass: &Pass| {
            call(pass, &weight, "a").once("vectors", || {
                made.set(made.get() + 1);
                weight.val() * 3.0
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
        let pass = Pass::default();
        let seen = [("a", 1.0), ("b", 2.0)].map(|(adapter, value)| {
            let weight = Param::from_tensor(Tensor::<1>::full([1], value, &Device::flex()));
            let vector = call(&pass, &weight, adapter).once("vectors", || weight.val());
            vector.into_data().iter::<f32>().sum::<f32>()
        });
        assert_eq!(seen, [1.0, 2.0]);
    }
}
