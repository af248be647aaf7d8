//! Gradients of the parameters of a case, and what is wrong with them.

use std::collections::{BTreeMap, HashMap};

use adapters::core::Tensors;
use burn::module::{ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor, TensorData};

use crate::golden::case::Case;
use crate::golden::compare::whole_tensor;

/// Gradients by parameter, and whether the parameter had one.
pub(crate) struct Collect<'a> {
    /// Those of the loss.
    pub(crate) gradients: Option<&'a Gradients>,
    /// Each with whether the parameter took part.
    pub(crate) found: HashMap<ParamId, (TensorData, bool)>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let gradient = self.gradients.and_then(|gradients| value.grad(gradients));
        let taken_part = gradient.is_some();
        let data = gradient.unwrap_or_else(|| value.inner().zeros_like()).into_data();
        self.found.insert(param.id, (data, taken_part));
    }
}

/// Right and expected gradients; what is wrong goes to `problems`.
pub(crate) fn compare_gradients(
    case: &Case,
    computed: &BTreeMap<String, TensorData>,
    expected: &Tensors,
    problems: &mut Vec<String>,
) -> (usize, usize) {
    let (mut right, mut all) = (0, 0);
    let mut wrong = Vec::new();
    for (key, want) in expected.iter().filter(|(key, _)| key.starts_with("grad/")) {
        all += 1;
        match computed.get(key) {
            None => wrong.push(format!("{key} is absent")),
            Some(got) => {
                let comparison = whole_tensor(got, want, case.grad_tolerance());
                match comparison.within {
                    true => right += 1,
                    false => wrong.push(format!("{key} is off by {:.3e}", comparison.max_abs_err)),
                }
            }
        }
    }
    let unknown = computed.keys().filter(|key| !expected.contains_key(*key));
    wrong.extend(unknown.map(|key| format!("{key} is not expected")));
    let more = wrong.len().saturating_sub(3);
    problems.extend(wrong.into_iter().take(3));
    if more > 0 {
        problems.push(format!("{more} more gradients"));
    }
    (right, all)
}
