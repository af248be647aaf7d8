//! [`PrefixTuningConfig`], the choices it is made of, and the presets of the reference.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::PrefixError;
use crate::compat::{PrefixTuningWire, adapterhub};

/// Names accepted for `non_linearity`, in any letter case. `leakyrelu` and `leaky_relu` are the same function.
pub const ACTIVATIONS: [&str; 22] = [
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "laplace",
    "leaky_relu",
    "leakyrelu",
    "linear",
    "mish",
    "prelu",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
];

/// How the prefix vectors are parametrized in training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reparametrization {
    /// The vectors themselves are trained (`flat`).
    Flat,
    /// An embedding goes through `Linear(act(Linear(e)))`. After training the vectors alone suffice.
    Mlp {
        /// Width between the two linear layers.
        bottleneck_size: usize,
        /// Name of the activation between them.
        non_linearity: String,
    },
}

/// The learned gate on the prefix vectors (`use_gating`, `shared_gating`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gating {
    /// None.
    Off,
    /// One gate for keys and values.
    Shared,
    /// One for the keys, one for the values.
    PerMatrix,
}

/// Whose definition is followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// AdapterHub's: the tokens keep their positions, and a stack of an encoder-decoder model has vectors of its own.
    #[default]
    AdapterHub,
    /// Peft's: the vectors are the first positions of the sequence, so that the tokens' positions begin after them. It
    /// has an MLP with `tanh`, or none, and no further options. In an encoder-decoder model they are in the decoder's own
    /// attention alone, which takes every other pair of vectors.
    Peft,
}

impl Form {
    pub(crate) fn is_adapterhub(&self) -> bool {
        *self == Self::AdapterHub
    }
}

/// Prefix tuning: learned key and value vectors in front of those of every attention layer.
///
/// "Prefix-Tuning: Optimizing Continuous Prompts for Generation", Li and Liang (2021),
/// <https://arxiv.org/abs/2101.00190>. Defaults are those of the reference implementation, AdapterHub `adapters` 1.3.0.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `prefix_length` | 30 | vectors a layer | >= 1 |
/// | `reparametrization` | MLP, 512, `tanh` | how they are parametrized | size >= 1; [`ACTIVATIONS`] |
/// | `encoder_prefix` | true | prefixes in the encoder of an encoder-decoder model | |
/// | `cross_prefix` | true | prefixes in cross-attention | |
/// | `leave_out` | empty | layers without prefix | |
/// | `dropout` | 0.0 | dropout on the vectors | [0, 1) |
/// | `gating` | off | learned gate on the vectors | |
/// | `form` | AdapterHub | whose definition is followed | peft's has none of the five before |
/// | `init_seed` | none | one seed for every module; 0 counts as none | |
/// | `extra` | empty | keys of a file without a meaning here | no field's name |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PrefixTuningWire", into = "PrefixTuningWire")]
pub struct PrefixTuningConfig {
    /// Number of vectors in front of keys and values.
    pub prefix_length: usize,
    /// How the vectors are parametrized.
    pub reparametrization: Reparametrization,
    /// Put prefixes into the encoder of an encoder-decoder model.
    pub encoder_prefix: bool,
    /// Put prefixes into the cross-attention of an encoder-decoder model.
    pub cross_prefix: bool,
    /// Layers without prefix, counted from 0.
    pub leave_out: Vec<usize>,
    /// Dropout on the vectors.
    pub dropout: f64,
    /// The learned gate.
    pub gating: Gating,
    /// Whose definition is followed.
    pub form: Form,
    /// Seed set anew for every module (`init_weights_seed`). The reference takes 0 for none.
    pub init_seed: Option<i64>,
    /// Keys of a file that have no meaning here: unknown ones, and known ones that do not apply (`bottleneck_size` of
    /// a flat prefix) and differ from the default. They are written back unchanged.
    pub extra: Map<String, Value>,
}

impl Default for PrefixTuningConfig {
    fn default() -> Self {
        Self::prefix_tuning()
    }
}

macro_rules! setters {
    ($($doc:literal $name:ident($field:ident: $type:ty);)*) => {$(
        #[doc = $doc]
        #[must_use]
        pub fn $name(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
    )*};
}

impl PrefixTuningConfig {
    /// [`prefix_tuning`](Self::prefix_tuning) of another length.
    pub fn new(prefix_length: usize) -> Self {
        Self {
            prefix_length,
            ..Self::prefix_tuning()
        }
    }

    /// 30 vectors, parametrized by an MLP of width 512.
    pub fn prefix_tuning() -> Self {
        Self {
            prefix_length: 30,
            reparametrization: Reparametrization::Mlp {
                bottleneck_size: 512,
                non_linearity: "tanh".to_owned(),
            },
            encoder_prefix: true,
            cross_prefix: true,
            leave_out: Vec::new(),
            dropout: 0.0,
            gating: Gating::Off,
            form: Form::AdapterHub,
            init_seed: None,
            extra: Map::new(),
        }
    }

    /// 30 vectors, trained directly.
    pub fn prefix_tuning_flat() -> Self {
        Self {
            reparametrization: Reparametrization::Flat,
            ..Self::prefix_tuning()
        }
    }

    /// The preset of an identifier of the reference.
    ///
    /// # Errors
    /// The identifier is neither `prefix_tuning` nor `prefix_tuning_flat`.
    pub fn preset(identifier: &str) -> Result<Self, PrefixError> {
        match identifier {
            "prefix_tuning" => Ok(Self::prefix_tuning()),
            "prefix_tuning_flat" => Ok(Self::prefix_tuning_flat()),
            _ => Err(PrefixError::Unknown {
                field: "identifier",
                expected: "prefix_tuning, prefix_tuning_flat".to_owned(),
                found: identifier.to_owned(),
            }),
        }
    }

    setters! {
        "Sets how the vectors are parametrized." with_reparametrization(reparametrization: Reparametrization);
        "Puts prefixes into the encoder of an encoder-decoder model, or not." with_encoder_prefix(encoder_prefix: bool);
        "Puts prefixes into cross-attention, or not." with_cross_prefix(cross_prefix: bool);
        "Leaves out layers." with_leave_out(leave_out: Vec<usize>);
        "Sets the dropout on the vectors." with_dropout(dropout: f64);
        "Sets the gate." with_gating(gating: Gating);
        "Sets whose definition is followed." with_form(form: Form);
        "Sets the seed of every module." with_init_seed(init_seed: Option<i64>);
    }

    /// Refuses what peft's definition has no place for.
    fn check_peft(&self) -> Result<(), PrefixError> {
        let activation = match &self.reparametrization {
            Reparametrization::Mlp { non_linearity, .. } => non_linearity.to_lowercase(),
            Reparametrization::Flat => "tanh".to_owned(),
        };
        for (plain, field, found) in [
            (activation == "tanh", "non_linearity", activation),
            (self.encoder_prefix, "encoder_prefix", false.to_string()),
            (self.cross_prefix, "cross_prefix", false.to_string()),
            (self.leave_out.is_empty(), "leave_out", format!("{:?}", self.leave_out)),
            (self.dropout == 0.0, "dropout", self.dropout.to_string()),
            (self.gating == Gating::Off, "use_gating", true.to_string()),
        ] {
            if !plain {
                return Err(PrefixError::OutOfRange {
                    field,
                    expected: "the default: peft has no such option",
                    found,
                });
            }
        }
        Ok(())
    }

    /// Checks every range. A configuration read from a file has passed this already.
    ///
    /// # Errors
    /// Names the first field that cannot be honored, what was expected and what was found.
    pub fn check(&self) -> Result<(), PrefixError> {
        let ranged = |good: bool, field, expected, found: String| match good {
            true => Ok(()),
            false => Err(PrefixError::OutOfRange { field, expected, found }),
        };
        let length = self.prefix_length;
        ranged(length >= 1, "prefix_length", "a whole number >= 1", length.to_string())?;
        if let Reparametrization::Mlp {
            bottleneck_size: size,
            non_linearity,
        } = &self.reparametrization
        {
            ranged(*size >= 1, "bottleneck_size", "a whole number >= 1", size.to_string())?;
            if !ACTIVATIONS.contains(&non_linearity.to_lowercase().as_str()) {
                return Err(PrefixError::Unknown {
                    field: "non_linearity",
                    expected: ACTIVATIONS.join(", "),
                    found: non_linearity.clone(),
                });
            }
        }
        ranged(
            (0.0..1.0).contains(&self.dropout),
            "dropout",
            "a number in [0, 1)",
            self.dropout.to_string(),
        )?;
        if self.form == Form::Peft {
            self.check_peft()?;
        }
        adapterhub::check_extra(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_by_name() {
        let mlp = |bottleneck_size, name: &str| Reparametrization::Mlp {
            bottleneck_size,
            non_linearity: name.to_owned(),
        };
        let base = PrefixTuningConfig::prefix_tuning;
        let mut reserved = base();
        reserved.extra.insert("flat".to_owned(), true.into());
        for (config, field) in [
            (PrefixTuningConfig::new(0), "prefix_length"),
            (base().with_reparametrization(mlp(0, "tanh")), "bottleneck_size"),
            (base().with_reparametrization(mlp(8, "than")), "non_linearity"),
            (base().with_dropout(f64::NAN), "dropout"),
            (reserved, "flat"),
            (base().with_form(Form::Peft).with_gating(Gating::Shared), "use_gating"),
            (base().with_form(Form::Peft).with_leave_out(vec![1]), "leave_out"),
        ] {
            let error = config.check().expect_err(field).to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
        assert!(PrefixTuningConfig::preset("prefix").is_err());
        assert_eq!(base().with_reparametrization(mlp(8, "ReLU")).check(), Ok(()));
    }
}
