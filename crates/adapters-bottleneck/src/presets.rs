//! The presets of [`BottleneckConfig`], under AdapterHub's identifiers.

use adapters_core::Preset;
use serde_json::Map;

use crate::bottleneck::{BottleneckConfig, ResidualBeforeLn, Scaling};
use crate::compacter::{RuleInit, WeightInit};
use crate::invertible::CouplingKind;
use crate::projection::Init;
use crate::reduction::Reduction;

/// AdapterHub's identifiers, its older names last, and `adapter_plus`, which has none there.
pub(crate) const PRESETS: &[Preset<BottleneckConfig>] = &[
    Preset::new("seq_bn", BottleneckConfig::seq_bn),
    Preset::new("double_seq_bn", BottleneckConfig::double_seq_bn),
    Preset::new("par_bn", BottleneckConfig::par_bn),
    Preset::new("scaled_par_bn", BottleneckConfig::scaled_par_bn),
    Preset::new("seq_bn_inv", BottleneckConfig::seq_bn_inv),
    Preset::new("double_seq_bn_inv", BottleneckConfig::double_seq_bn_inv),
    Preset::new("compacter", BottleneckConfig::compacter),
    Preset::new("compacter++", BottleneckConfig::compacter_plus_plus),
    Preset::new("adapter_plus", BottleneckConfig::adapter_plus),
    Preset::new("pfeiffer", BottleneckConfig::seq_bn),
    Preset::new("houlsby", BottleneckConfig::double_seq_bn),
    Preset::new("parallel", BottleneckConfig::par_bn),
    Preset::new("scaled_parallel", BottleneckConfig::scaled_par_bn),
    Preset::new("pfeiffer+inv", BottleneckConfig::seq_bn_inv),
    Preset::new("houlsby+inv", BottleneckConfig::double_seq_bn_inv),
];

impl BottleneckConfig {
    /// After the feed-forward block: Pfeiffer et al. (2021), <https://arxiv.org/abs/2005.00247>.
    pub fn seq_bn() -> Self {
        Self {
            adapter_residual_before_ln: false,
            cross_adapter: false,
            dropout: 0.0,
            init_weights: Init::Bert,
            init_weights_seed: None,
            inv_adapter: None,
            inv_adapter_reduction_factor: None,
            is_parallel: false,
            leave_out: Vec::new(),
            ln_after: false,
            ln_before: false,
            mh_adapter: false,
            non_linearity: "relu".to_owned(),
            original_ln_after: true,
            original_ln_before: true,
            output_adapter: true,
            reduction_factor: Reduction::Uniform(16.0),
            residual_before_ln: ResidualBeforeLn::Flag(true),
            scaling: Scaling::Fixed(1.0),
            stochastic_depth: Some(0.0),
            use_gating: false,
            phm_layer: false,
            factorized_phm_w: true,
            factorized_phm_rule: false,
            hypercomplex_nonlinearity: WeightInit::GlorotUniform,
            learn_phm: true,
            phm_bias: true,
            phm_c_init: RuleInit::Normal,
            phm_dim: 4,
            phm_init_range: 1e-4,
            phm_rank: Some(1),
            shared_w_phm: false,
            shared_phm_rule: true,
            extra: Map::new(),
        }
    }

    /// After attention and feed-forward block: Houlsby et al. (2019), <https://arxiv.org/abs/1902.00751>.
    pub fn double_seq_bn() -> Self {
        Self {
            mh_adapter: true,
            non_linearity: "swish".to_owned(),
            original_ln_before: false,
            ..Self::seq_bn()
        }
    }

    /// In parallel to the feed-forward block, scaled by 4: He et al. (2022), <https://arxiv.org/abs/2110.04366>.
    pub fn par_bn() -> Self {
        Self {
            init_weights: Init::MamAdapter,
            is_parallel: true,
            original_ln_before: false,
            reduction_factor: Reduction::Uniform(2.0),
            scaling: Scaling::Fixed(4.0),
            ..Self::seq_bn()
        }
    }

    /// [`par_bn`](Self::par_bn) with a learned scaling.
    pub fn scaled_par_bn() -> Self {
        Self {
            scaling: Scaling::Learned,
            ..Self::par_bn()
        }
    }

    /// [`seq_bn`](Self::seq_bn) and an invertible block: MAD-X, Pfeiffer et al. (2020),
    /// <https://arxiv.org/abs/2005.00052>.
    pub fn seq_bn_inv() -> Self {
        Self::seq_bn().with_invertible_block()
    }

    /// [`double_seq_bn`](Self::double_seq_bn) and an invertible block.
    pub fn double_seq_bn_inv() -> Self {
        Self::double_seq_bn().with_invertible_block()
    }

    fn with_invertible_block(self) -> Self {
        Self {
            inv_adapter: Some(CouplingKind::Nice),
            inv_adapter_reduction_factor: Some(2.0),
            ..self
        }
    }

    /// [`double_seq_bn`](Self::double_seq_bn) of hypercomplex layers: Karimi Mahabadi et al. (2021),
    /// <https://arxiv.org/abs/2106.04647>.
    pub fn compacter() -> Self {
        Self::double_seq_bn().with_hypercomplex_layers()
    }

    /// [`seq_bn`](Self::seq_bn) of hypercomplex layers, from the same paper as [`compacter`](Self::compacter).
    pub fn compacter_plus_plus() -> Self {
        Self::seq_bn().with_hypercomplex_layers()
    }

    fn with_hypercomplex_layers(self) -> Self {
        Self {
            non_linearity: "gelu".to_owned(),
            phm_layer: true,
            reduction_factor: Reduction::Uniform(32.0),
            ..self
        }
    }

    /// Channel-wise scaling and stochastic depth: Steitz and Roth (2024), <https://arxiv.org/abs/2406.06820>. It is
    /// inserted where the `adapters` library inserts it; the paper's text puts it after attention, which `mh_adapter` does.
    pub fn adapter_plus() -> Self {
        Self {
            init_weights: Init::Houlsby,
            non_linearity: "gelu".to_owned(),
            original_ln_after: false,
            reduction_factor: Reduction::Uniform(96.0),
            residual_before_ln: ResidualBeforeLn::Flag(false),
            scaling: Scaling::Channel,
            stochastic_depth: Some(0.1),
            ..Self::seq_bn()
        }
    }
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        Self::seq_bn()
    }
}
