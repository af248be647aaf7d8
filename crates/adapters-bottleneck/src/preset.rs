//! The constructors of [`BottleneckConfig`]: the presets of the reference, under its names.

use serde_json::Map;

use crate::wire::choose;
use crate::{
    BottleneckConfig, BottleneckError, Init, Insertion, Invertible, LnAfter, Phm, Projection, Reduction, Residual,
    Scaling,
};

impl BottleneckConfig {
    /// [`seq_bn`](Self::seq_bn) with another reduction factor.
    pub fn new(reduction: impl Into<Reduction>) -> Self {
        Self {
            reduction: reduction.into(),
            ..Self::seq_bn()
        }
    }

    /// After the feed-forward block: Pfeiffer et al. (2021), <https://arxiv.org/abs/2005.00247>.
    pub fn seq_bn() -> Self {
        Self {
            mh_adapter: false,
            output_adapter: true,
            cross_adapter: false,
            reduction: Reduction::Uniform(16.0),
            non_linearity: "relu".to_owned(),
            insertion: Insertion::Sequential {
                original_ln_before: true,
                residual: Residual::BeforeLn,
            },
            original_ln_after: true,
            ln_before: false,
            ln_after: LnAfter::Off,
            init: Init::Bert,
            init_seed: None,
            scaling: Scaling::Fixed(1.0),
            use_gating: false,
            invertible: None,
            leave_out: Vec::new(),
            dropout: 0.0,
            projection: Projection::Linear,
            stochastic_depth: 0.0,
            extra: Map::new(),
        }
    }

    /// After attention and feed-forward block: Houlsby et al. (2019), <https://arxiv.org/abs/1902.00751>.
    pub fn double_seq_bn() -> Self {
        Self {
            mh_adapter: true,
            non_linearity: "swish".to_owned(),
            insertion: Insertion::Sequential {
                original_ln_before: false,
                residual: Residual::BeforeLn,
            },
            ..Self::seq_bn()
        }
    }

    /// Beside the feed-forward block, scaled by 4: He et al. (2022), <https://arxiv.org/abs/2110.04366>.
    pub fn par_bn() -> Self {
        Self {
            reduction: Reduction::Uniform(2.0),
            insertion: Insertion::Parallel,
            init: Init::MamAdapter,
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
        Self {
            invertible: Some(Invertible::Nice { reduction_factor: 2.0 }),
            ..Self::seq_bn()
        }
    }

    /// [`double_seq_bn`](Self::double_seq_bn) and an invertible block.
    pub fn double_seq_bn_inv() -> Self {
        Self {
            invertible: Some(Invertible::Nice { reduction_factor: 2.0 }),
            ..Self::double_seq_bn()
        }
    }

    /// [`double_seq_bn`](Self::double_seq_bn) of hypercomplex layers: Karimi Mahabadi et al. (2021),
    /// <https://arxiv.org/abs/2106.04647>.
    pub fn compacter() -> Self {
        Self::double_seq_bn().into_compacter()
    }

    /// [`seq_bn`](Self::seq_bn) of hypercomplex layers, from the same paper as [`compacter`](Self::compacter).
    pub fn compacter_plus_plus() -> Self {
        Self::seq_bn().into_compacter()
    }

    fn into_compacter(self) -> Self {
        Self {
            reduction: Reduction::Uniform(32.0),
            non_linearity: "gelu".to_owned(),
            projection: Projection::Phm(Phm::default()),
            ..self
        }
    }

    /// Channel-wise scaling and stochastic depth: Steitz and Roth (2024), <https://arxiv.org/abs/2406.06820>. The
    /// place is the reference's code's; its prose puts the adapter after attention, which `mh_adapter` does.
    pub fn adapter_plus() -> Self {
        Self {
            reduction: Reduction::Uniform(96.0),
            non_linearity: "gelu".to_owned(),
            insertion: Insertion::Sequential {
                original_ln_before: true,
                residual: Residual::AfterLn,
            },
            original_ln_after: false,
            init: Init::Houlsby,
            scaling: Scaling::Channel,
            stochastic_depth: 0.1,
            ..Self::seq_bn()
        }
    }

    /// The preset of an identifier of the reference (`seq_bn`, `compacter++`, the old `pfeiffer+inv`, ..), or of
    /// `adapter_plus`, which has none there.
    ///
    /// # Errors
    /// The identifier names no bottleneck preset.
    pub fn preset(identifier: &str) -> Result<Self, BottleneckError> {
        let build = choose("identifier", &PRESETS, identifier)?;
        Ok(build())
    }
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        Self::seq_bn()
    }
}

type Preset = fn() -> BottleneckConfig;

const PRESETS: [(&str, Preset); 15] = [
    ("seq_bn", BottleneckConfig::seq_bn),
    ("double_seq_bn", BottleneckConfig::double_seq_bn),
    ("par_bn", BottleneckConfig::par_bn),
    ("scaled_par_bn", BottleneckConfig::scaled_par_bn),
    ("seq_bn_inv", BottleneckConfig::seq_bn_inv),
    ("double_seq_bn_inv", BottleneckConfig::double_seq_bn_inv),
    ("compacter", BottleneckConfig::compacter),
    ("compacter++", BottleneckConfig::compacter_plus_plus),
    ("adapter_plus", BottleneckConfig::adapter_plus),
    ("pfeiffer", BottleneckConfig::seq_bn),
    ("houlsby", BottleneckConfig::double_seq_bn),
    ("parallel", BottleneckConfig::par_bn),
    ("scaled_parallel", BottleneckConfig::scaled_par_bn),
    ("pfeiffer+inv", BottleneckConfig::seq_bn_inv),
    ("houlsby+inv", BottleneckConfig::double_seq_bn_inv),
];

/// The identifiers of all presets, the reference's old names last.
pub(crate) const IDENTIFIERS: &[&str] = &{
    let mut names = [""; PRESETS.len()];
    let mut i = 0;
    while i < PRESETS.len() {
        names[i] = PRESETS[i].0;
        i += 1;
    }
    names
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_passes_its_check() {
        for (name, build) in PRESETS {
            build().check().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(
            BottleneckConfig::preset("compacter++"),
            Ok(BottleneckConfig::compacter_plus_plus())
        );
        assert!(BottleneckConfig::preset("lora").is_err());
    }
}
