//! C3A: an update of circulant blocks.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight,
    Method, ModulePatterns, NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::{ByModule, ModuleFields, PeftModules, peft_modules};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `W + C / d_in`, where `C` is made of circulant blocks: block `(m, n)` has `k_mn[(l - p) mod b]` at row `p` and column `l`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `block_size` | 256 | size of the blocks; divides the features of every layer | >= 1 |
/// | `block_size_pattern` | `{}` | sizes by module path | as `block_size` |
/// | `init_weights` | `xavier_uniform` | initial kernels | true (zero), `gaussian`, `kaiming_uniform`, `xavier_uniform` |
///
/// Paper: *Parameter-Efficient Fine-Tuning via Circular Convolution*, Chen et al., 2024,
/// <https://arxiv.org/abs/2407.19342>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct C3a {
    /// Size of the blocks.
    pub block_size: usize,
    /// Sizes by module path.
    pub block_size_pattern: ByModule<usize>,
    /// Initial kernels.
    pub init_weights: Value,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for C3a {
    fn default() -> Self {
        Self {
            block_size: 256,
            block_size_pattern: ByModule::default(),
            init_weights: "xavier_uniform".into(),
            targets: ModuleFields::default(),
        }
    }
}

impl Method for C3a {
    const NAME: &'static str = "c3a";
    const DESCRIPTION: &'static str = "An update of circulant blocks.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("block_size", self.block_size)?;
        (self.block_size_pattern.values()).try_for_each(|size| ConfigError::size("block_size_pattern", size))?;
        let known = match &self.init_weights {
            Value::Bool(_) => true,
            Value::String(name) => ["gaussian", "kaiming_uniform", "xavier_uniform"].contains(&name.as_str()),
            _ => false,
        };
        ConfigError::unless(
            known,
            "init_weights",
            "true, false, gaussian, kaiming_uniform or xavier_uniform",
            &self.init_weights,
        )
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let b = self.block_size_pattern.at(&site.path)?.unwrap_or(self.block_size);
        if !d_in.is_multiple_of(b) || !d_out.is_multiple_of(b) {
            return Err(Self::refuse(
                site,
                format!("block_size is {b}, which does not divide {d_in} and {d_out}"),
            ));
        }
        let shape = [d_out / b, d_in / b, b];
        let mut rng = build.rng(None, site.site);
        let kernels = match &self.init_weights {
            Value::Bool(true) => draw::constant(shape, 0.0),
            Value::String(name) if name == "gaussian" => draw::normal(&mut rng, shape, 1.0),
            Value::String(name) if name == "kaiming_uniform" => draw::linear(&mut rng, shape, d_in),
            _ => draw::uniform(&mut rng, shape, (6.0 / (d_in + d_out) as f32).sqrt()),
        };
        let indices: Vec<i64> = (0..b * b).map(|i| ((i % b + b - i / b) % b) as i64).collect();
        let indices = TensorData::new(indices, [b * b]);
        Ok(SiteLayer::Linear(Erased::new(Circulant {
            kernels: Param::from_data(kernels, build.device),
            indices: Tensor::from_data(indices, build.device),
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            patterns: Some(self),
            ..Capabilities::default()
        }
    }
}

impl ModulePatterns for C3a {
    fn patterns(&self) -> Vec<(&'static str, &str)> {
        self.block_size_pattern.patterns("block_size_pattern").collect()
    }
}

peft_modules!(C3a: "C3A" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Circulant {
    /// `[d_out / b, d_in / b, b]`.
    pub(crate) kernels: Param<Tensor<3>>,
    /// Which element of its kernel stands at each index of a block, `[b b]`, constant.
    pub(crate) indices: Tensor<1, Int>,
}

impl Circulant {
    /// The update, `[d_out, d_in]`.
    pub(crate) fn delta(&self) -> Tensor<2> {
        let [rows, cols, b] = self.kernels.dims();
        let blocks = self.kernels.val().select(2, self.indices.clone());
        let blocks = blocks.reshape([rows, cols, b, b]).swap_dims(1, 2);
        blocks.reshape([rows * b, cols * b]) / (cols * b) as f64
    }
}

impl SiteAdapter<LinearState> for Circulant {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        state.plus(|x| project(x, self.delta()))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.delta()))
    }
}

named_params!(Circulant: "c3a_kernel" => kernels);
