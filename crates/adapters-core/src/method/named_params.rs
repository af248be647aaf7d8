//! Parameters by the names of their method.

use std::borrow::Cow;
use std::collections::BTreeMap;

use adapters_sites::Site;
use burn::module::ParamId;
use burn::tensor::TensorData;

/// The trained parameters of a layer under the names of its method (`"lora_A"`), which the storage formats
/// turn into keys. Rust field names never reach a file.
pub trait NamedParams {
    /// Name and id of each parameter, in storage order.
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)>;

    /// Which of them are stored and never trained.
    fn fixed_params(&self) -> Vec<ParamId> {
        Vec::new()
    }

    /// How many things each parameter of integers points into: one number, or one for each row of the parameter.
    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        Vec::new()
    }
}

/// Values of an adapter's parameters, by site (`None` for what its layers share) and name.
pub type ParamValues = BTreeMap<(Option<Site>, String), TensorData>;
