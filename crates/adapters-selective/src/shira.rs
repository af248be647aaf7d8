//! SHiRA: chosen elements of a weight, trained.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method, NamedParams,
    NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{TorchRng, draw};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Int, Tensor, TensorData};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::sparse::{dense, stored};

/// `W + S`, where `S` is zero but at `r (d_in + d_out)` indices: as many numbers as LoRA of rank `r` trains, and an update of
/// high rank.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 32 | how many numbers are trained, as a rank of LoRA | >= 1, at most `d_in d_out` numbers |
/// | `mask_type` | `random` | how the indices are chosen | `random` |
/// | `random_seed` | none | seed of the indices, in PyTorch's generator | 0 .. 2^32 |
/// | `init_weights` | true | begin at zero; normal values without it | |
///
/// Paper: *Sparse High Rank Adapters*, Bhardwaj et al., 2024, <https://arxiv.org/abs/2406.13175>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shira {
    /// How many numbers are trained, as a rank of LoRA.
    pub r: usize,
    /// How the indices are chosen.
    pub mask_type: String,
    /// Seed of the indices.
    pub random_seed: Option<u64>,
    /// Whether the numbers begin at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Shira {
    fn default() -> Self {
        Self {
            r: 32,
            mask_type: "random".to_owned(),
            random_seed: None,
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Shira {
    const NAME: &'static str = "shira";
    const DESCRIPTION: &'static str = "A fixed random selection of the elements of the weight, trained.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::unless(self.mask_type == "random", "mask_type", "random", &self.mask_type)?;
        let seed = self.random_seed.unwrap_or_default();
        ConfigError::unless(u32::try_from(seed).is_ok(), "random_seed", "below 2^32", seed)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let (n, all) = (self.r * (d_in + d_out), d_in * d_out);
        if n > all {
            let reason = format!("r = {} needs {n} elements, and the weight has {all}", self.r);
            return Err(Self::refuse(site, reason));
        }
        let mut rng = build.rng(None, site.site);
        let seed = match self.random_seed {
            Some(seed) => u32::try_from(seed).unwrap_or_default(),
            None => rng.next_u32(),
        };
        // In the order of the elements, as those of a mask are.
        let mut indices = TorchRng::new(seed).permutation(all, n);
        indices.sort_unstable();
        let rows = indices.iter().map(|index| (index / d_in) as i64);
        let indices: Vec<i64> = rows.chain(indices.iter().map(|index| (index % d_in) as i64)).collect();
        let values = match self.init_weights {
            true => draw::constant([n], 0.0),
            false => draw::normal(&mut rng, [n], 1.0),
        };
        Ok(SiteLayer::Linear(Erased::new(Elements {
            indices: stored(TensorData::new(indices, [2, n]), build.device),
            values: Param::from_data(values, build.device),
            d_out,
            d_in,
        })))
    }
}

peft_modules!(Shira: "SHIRA" {
    /// The indices a second time, under the name of a live module.
    fn is_computed(key: &str) -> bool {
        key.contains(".shira_indices.")
    }
});

/// The update of one layer.
#[derive(Module, Debug)]
pub struct Elements {
    /// Rows and columns of the elements, `[2, n]`, stored and never trained.
    pub indices: Param<Tensor<2, Int>>,
    /// What is added to them, `[n]`.
    pub values: Param<Tensor<1>>,
    /// Output features of the layer.
    pub d_out: usize,
    /// Input features of the layer.
    pub d_in: usize,
}

impl Elements {
    /// The update, `[d_out, d_in]`.
    fn delta(&self) -> Tensor<2> {
        let [_, n] = self.indices.dims();
        let axis = |row: usize| self.indices.val().slice_dim(0, row..row + 1).reshape([n]);
        let indices = axis(0) * self.d_in as i64 + axis(1);
        dense(self.values.val(), indices, [self.d_out, self.d_in])
    }
}

impl SiteAdapter<LinearState> for Elements {
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

impl NamedParams for Elements {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![
            ("shira_indices".into(), self.indices.id),
            ("shira_weight".into(), self.values.id),
        ]
    }

    fn fixed_params(&self) -> Vec<ParamId> {
        vec![self.indices.id]
    }

    fn index_limits(&self) -> Vec<(ParamId, Vec<usize>)> {
        vec![(self.indices.id, vec![self.d_out, self.d_in])]
    }
}
