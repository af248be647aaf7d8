//! A base in eight bits.

use adapters::core::LayerMut;
use adapters::models::Model;
use adapters::nn::{Precision, float_weight};
use adapters::{Ctx, Host, Sites, quantize};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};

use super::{ALL_LINEAR, FITS, ModelBench, largest};
use crate::contract::{gradients_of, relative_error};

impl ModelBench<'_> {
    /// Over a base in eight bits a model computes, and adapters train, as over the same weights restored to floats.
    pub(super) fn quantized_equals_restored(&self) {
        let mut quantized = self.model.clone();
        quantize(&mut quantized, Precision::Int8);
        let sites = quantized.sites();
        let weights = sites.iter().filter_map(|info| quantized.linear(info.site));
        let in_eight_bits = weights.filter(|layer| matches!(layer.weight.val().dtype(), DType::QFloat(_)));
        assert!(in_eight_bits.count() > 0, "{}: nothing is quantized", self.name());
        let mut restored = quantized.clone();
        restored.visit_sites_mut(&mut |_, layer| {
            if let LayerMut::Linear(layer) = layer {
                layer.weight = Param::from_tensor(float_weight(layer)).set_require_grad(false);
            }
        });
        let set = self.attached(&[ALL_LINEAR]).unwrap_or_default().train();
        let run = |model: &Model| {
            let hidden = model.forward(self.padded(), &mut Ctx::new(&set)).expect(FITS);
            let count = hidden.dims().iter().product::<usize>();
            let probe = (0..count)
                .map(|at| ((at * 37 % 101) as f32 - 50.0) / 50.0)
                .collect::<Vec<_>>();
            let probe = Tensor::<3>::from_data(TensorData::new(probe, hidden.dims()), &self.device);
            let gradients = (hidden.clone() * probe).sum().backward();
            (hidden.into_data(), gradients_of(&set, &gradients))
        };
        let ((own, of_own), (wanted, of_wanted)) = (run(&quantized), run(&restored));
        let error = relative_error(&own, &wanted);
        assert!(error < 1e-4, "{}: off by {error:e} in eight bits", self.name());
        let floats = run(&self.model).0;
        assert!(own != floats, "{}: eight bits change nothing", self.name());
        let most = of_wanted.values().flatten().map(largest).fold(0.0, f64::max);
        for param in set.params() {
            match (&of_own[&param.id], &of_wanted[&param.id]) {
                (Some(own), Some(wanted)) => {
                    let error = relative_error(own, wanted) * largest(wanted);
                    let (path, name) = (param.path(), &param.param);
                    let bound = 2e-3 * largest(wanted) + 1e-5 * most;
                    assert!(error < bound, "{}, {path}.{name}: off by {error:e}", self.name());
                }
                (own, wanted) => assert_eq!(own.is_some(), wanted.is_some(), "{}", self.name()),
            }
        }
    }
}
