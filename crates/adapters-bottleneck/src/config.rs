//! [`BottleneckConfig`] and the choices it is made of.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::wire::{self, BottleneckWire};
use crate::{BottleneckError, PhmWeight, Projection, Reduction};

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

/// Where the adapter sits relative to the sub-layer it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// On the sub-layer's output.
    Sequential {
        /// Apply the model's residual connection and layer norm before the adapter.
        original_ln_before: bool,
        /// Which state the adapter's own residual connection carries.
        residual: Residual,
    },
    /// Beside the sub-layer: reads its residual input, is added to its output.
    Parallel,
}

/// Which state a sequential adapter's residual connection carries (`residual_before_ln`). Without
/// `original_ln_before` the first and the last mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// The sub-layer's output (`true`).
    BeforeLn,
    /// The sum of the sub-layer's output and its input, before the layer norm (`"post_add"`).
    PostAdd,
    /// The state after the model's layer norm, which is the adapter's input (`false`).
    AfterLn,
}

/// The adapter's own layer norm after the up projection (`ln_after`, `adapter_residual_before_ln`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LnAfter {
    /// None.
    Off,
    /// Norm of the adapter's output, then the residual.
    BeforeResidual,
    /// Residual first, then the norm. A parallel adapter has no residual inside: the same as `BeforeResidual` there.
    AfterResidual,
}

/// What the adapter's output is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// A constant.
    Fixed(f64),
    /// One learned number, 1 at the start.
    Learned,
    /// A learned vector of the model's width, 1 at the start.
    Channel,
}

/// How the projections are initialized; biases are zero in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Normal, standard deviation 0.02.
    Bert,
    /// Down: Kaiming uniform with a = sqrt(5). Up: zero, so that the adapter starts as the identity.
    MamAdapter,
    /// Normal of standard deviation 0.01, cut off at two deviations.
    Houlsby,
}

/// The invertible block after the embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Invertible {
    /// Additive coupling, `y1 = x1 + F(x2)`, `y2 = x2 + G(y1)`.
    Nice {
        /// Reduction inside F and G.
        reduction_factor: f64,
    },
    /// Affine coupling.
    Glow {
        /// Reduction inside the sub-networks.
        reduction_factor: f64,
    },
}

/// A bottleneck adapter: `up(act(down(h))) * scaling` beside a residual connection.
///
/// "Parameter-Efficient Transfer Learning for NLP", Houlsby et al. (2019), <https://arxiv.org/abs/1902.00751>;
/// "AdapterFusion", Pfeiffer et al. (2021), <https://arxiv.org/abs/2005.00247>. Defaults and presets are those of
/// the reference implementation, AdapterHub `adapters` 1.3.0.
///
/// | Name | Default ([`seq_bn`](Self::seq_bn)) | Purpose | Range |
/// |---|---|---|---|
/// | `mh_adapter` | false | adapt after self-attention | |
/// | `output_adapter` | true | adapt after the feed-forward block | one place, or `invertible` |
/// | `cross_adapter` | false | adapt after cross-attention | |
/// | `reduction` | 16 | model width over bottleneck width | > 0; below 1 widens |
/// | `non_linearity` | `relu` | activation in the bottleneck | [`ACTIVATIONS`] |
/// | `insertion` | sequential, LN before, residual before LN | place relative to the sub-layer | `PostAdd` needs LN before |
/// | `original_ln_after` | true | the model's residual and LN after the adapter | |
/// | `ln_before` | false | an own LN before the down projection | |
/// | `ln_after` | off | an own LN after the up projection | |
/// | `init` | `Bert` | initialization | `Bert` with PHM projections |
/// | `init_seed` | none | one seed for every module; 0 counts as none | |
/// | `scaling` | 1.0 | factor on the output | finite |
/// | `use_gating` | false | a learned gate on the output | |
/// | `invertible` | none | block after the embeddings | factor >= 1 |
/// | `leave_out` | empty | layers without adapter | |
/// | `dropout` | 0.0 | dropout on the output | [0, 1) |
/// | `projection` | linear | linear or hypercomplex | dim, rank >= 1; range > 0 |
/// | `stochastic_depth` | 0.0 | chance to drop the adapter for a row; ignored in parallel | [0, 1) |
/// | `extra` | empty | keys of a file without a meaning here | no field's name |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BottleneckWire", into = "BottleneckWire")]
pub struct BottleneckConfig {
    /// Adapt after the self-attention block.
    pub mh_adapter: bool,
    /// Adapt after the feed-forward block.
    pub output_adapter: bool,
    /// Adapt after the cross-attention block of a decoder layer.
    pub cross_adapter: bool,
    /// Width of the model over width of the bottleneck (`reduction_factor`).
    pub reduction: Reduction,
    /// Name of the activation in the bottleneck.
    pub non_linearity: String,
    /// Place relative to the sub-layer.
    pub insertion: Insertion,
    /// Apply the model's residual connection and layer norm after the adapter.
    pub original_ln_after: bool,
    /// Put a new layer norm before the down projection.
    pub ln_before: bool,
    /// A new layer norm after the up projection.
    pub ln_after: LnAfter,
    /// Initialization of the projections (`init_weights`).
    pub init: Init,
    /// Seed set anew for every module, so that all start equal (`init_weights_seed`). The reference takes 0 for none.
    pub init_seed: Option<i64>,
    /// Factor on the adapter's output.
    pub scaling: Scaling,
    /// Multiply the output with a learned gate, one number a row.
    pub use_gating: bool,
    /// Invertible block after the embeddings.
    pub invertible: Option<Invertible>,
    /// Layers without adapter, counted from 0.
    pub leave_out: Vec<usize>,
    /// Dropout on the adapter's output.
    pub dropout: f64,
    /// The two projections.
    pub projection: Projection,
    /// Chance to drop the adapter for a row of the batch in training. A parallel adapter ignores it, as in the
    /// reference.
    pub stochastic_depth: f64,
    /// Keys of a file that have no meaning here: unknown ones, and known ones that do not apply (`phm_rank` without
    /// `phm_layer`) and differ from the default. They are written back unchanged.
    pub extra: Map<String, Value>,
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

impl BottleneckConfig {
    setters! {
        "Adapts after self-attention, or not." with_mh_adapter(mh_adapter: bool);
        "Adapts after the feed-forward block, or not." with_output_adapter(output_adapter: bool);
        "Adapts after cross-attention, or not." with_cross_adapter(cross_adapter: bool);
        "Sets the reduction factor, one or a factor a layer." with_reduction(reduction: Reduction);
        "Sets the place relative to the sub-layer." with_insertion(insertion: Insertion);
        "Keeps or leaves out the model's residual and LN after the adapter."
        with_original_ln_after(original_ln_after: bool);
        "Adds an own LN before the down projection, or not." with_ln_before(ln_before: bool);
        "Adds an own LN after the up projection, or not." with_ln_after(ln_after: LnAfter);
        "Sets the initialization." with_init(init: Init);
        "Sets the seed of every module." with_init_seed(init_seed: Option<i64>);
        "Sets the factor on the output." with_scaling(scaling: Scaling);
        "Adds a gate, or not." with_gating(use_gating: bool);
        "Adds an invertible block after the embeddings, or not." with_invertible(invertible: Option<Invertible>);
        "Leaves out layers." with_leave_out(leave_out: Vec<usize>);
        "Sets the dropout on the output." with_dropout(dropout: f64);
        "Sets the kind of projection." with_projection(projection: Projection);
        "Sets the chance to drop the adapter for a row." with_stochastic_depth(stochastic_depth: f64);
    }

    /// Sets the activation by name.
    #[must_use]
    pub fn with_non_linearity(mut self, name: impl Into<String>) -> Self {
        self.non_linearity = name.into();
        self
    }

    /// Checks every range and every combination. A configuration read from a file has passed this already.
    ///
    /// # Errors
    /// Names the first field that cannot be honored, what was expected and what was found.
    pub fn check(&self) -> Result<(), BottleneckError> {
        let ranged = |good: bool, field, expected, found: f64| match good {
            true => Ok(()),
            false => Err(BottleneckError::OutOfRange {
                field,
                expected,
                found: found.to_string(),
            }),
        };
        let conflict = |field, expected, found: &str| BottleneckError::Conflict {
            field,
            expected,
            found: found.to_owned(),
        };
        if !(self.mh_adapter || self.output_adapter || self.cross_adapter || self.invertible.is_some()) {
            let expected = "one of mh_adapter, output_adapter, cross_adapter or inv_adapter";
            return Err(conflict("output_adapter", expected, "no place at all"));
        }
        for factor in self.reduction.factors() {
            ranged(
                factor.is_finite() && factor > 0.0,
                "reduction_factor",
                "a finite number > 0",
                factor,
            )?;
        }
        if self.reduction.factors().next().is_none() {
            let expected = "a factor of some layer or a default";
            return Err(BottleneckError::Missing {
                field: "reduction_factor",
                expected,
            });
        }
        if !ACTIVATIONS.contains(&self.non_linearity.to_lowercase().as_str()) {
            return Err(BottleneckError::Unknown {
                field: "non_linearity",
                expected: ACTIVATIONS.join(", "),
                found: self.non_linearity.clone(),
            });
        }
        // The reference fails in the first forward here, the residual being undefined.
        let post_add = Insertion::Sequential {
            original_ln_before: false,
            residual: Residual::PostAdd,
        };
        if self.insertion == post_add {
            return Err(conflict(
                "residual_before_ln",
                "true or false without original_ln_before",
                "post_add",
            ));
        }
        if let Scaling::Fixed(factor) = self.scaling {
            ranged(factor.is_finite(), "scaling", "a finite number", factor)?;
        }
        if let Some(Invertible::Nice { reduction_factor } | Invertible::Glow { reduction_factor }) = self.invertible {
            let good = reduction_factor.is_finite() && reduction_factor >= 1.0;
            ranged(
                good,
                "inv_adapter_reduction_factor",
                "a finite number >= 1",
                reduction_factor,
            )?;
        }
        ranged(
            (0.0..1.0).contains(&self.dropout),
            "dropout",
            "a number in [0, 1)",
            self.dropout,
        )?;
        let depth = self.stochastic_depth;
        ranged(
            (0.0..1.0).contains(&depth),
            "stochastic_depth",
            "a number in [0, 1)",
            depth,
        )?;
        if let Projection::Phm(phm) = &self.projection {
            ranged(phm.dim >= 1, "phm_dim", "a number >= 1", phm.dim as f64)?;
            if let PhmWeight::Factorized { rank } = phm.weight {
                ranged(rank >= 1, "phm_rank", "a number >= 1", rank as f64)?;
            }
            let good = phm.init_range.is_finite() && phm.init_range > 0.0;
            ranged(good, "phm_init_range", "a finite number > 0", phm.init_range)?;
            if self.init != Init::Bert {
                let found = wire::name_of(&wire::INITS, &self.init);
                return Err(conflict(
                    "init_weights",
                    "bert with phm_layer, which draws its own weights",
                    found,
                ));
            }
        }
        wire::check_extra(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phm;
    use std::collections::BTreeMap;

    fn refused(config: BottleneckConfig, field: &str) {
        let error = config.check().expect_err(field).to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let base = BottleneckConfig::seq_bn;
        refused(base().with_output_adapter(false), "output_adapter");
        refused(BottleneckConfig::new(0.0), "reduction_factor");
        refused(BottleneckConfig::new(f64::NAN), "reduction_factor");
        let empty = Reduction::PerLayer {
            layers: BTreeMap::new(),
            default: None,
        };
        refused(BottleneckConfig::new(empty), "reduction_factor");
        refused(base().with_non_linearity("rellu"), "non_linearity");
        refused(base().with_scaling(Scaling::Fixed(f64::INFINITY)), "scaling");
        refused(base().with_dropout(1.0), "dropout");
        refused(base().with_stochastic_depth(-0.1), "stochastic_depth");
        let inv = Some(Invertible::Nice { reduction_factor: 0.5 });
        refused(base().with_invertible(inv), "inv_adapter_reduction_factor");
        let insertion = Insertion::Sequential {
            original_ln_before: false,
            residual: Residual::PostAdd,
        };
        refused(base().with_insertion(insertion), "residual_before_ln");
        refused(BottleneckConfig::compacter().with_init(Init::Houlsby), "init_weights");
        let phm = |phm| base().with_projection(Projection::Phm(phm));
        refused(
            phm(Phm {
                dim: 0,
                ..Phm::default()
            }),
            "phm_dim",
        );
        refused(
            phm(Phm {
                weight: PhmWeight::Factorized { rank: 0 },
                ..Phm::default()
            }),
            "phm_rank",
        );
        refused(
            phm(Phm {
                init_range: 0.0,
                ..Phm::default()
            }),
            "phm_init_range",
        );
        let mut config = base();
        config.extra.insert("dropout".to_owned(), 0.5.into());
        refused(config, "dropout");
    }
}
