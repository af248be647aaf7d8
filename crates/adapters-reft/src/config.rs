//! [`ReftConfig`], the choices it is made of, and the presets of the reference.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ReftError;
use crate::compat::{self, ReftWire};

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

/// Names accepted for `dtype`, those of torch.
pub const DTYPES: [&str; 7] = ["float16", "bfloat16", "float32", "float64", "half", "float", "double"];

/// Layers whose output is edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// Every layer.
    All,
    /// These, counted from 0.
    Only(Vec<usize>),
}

/// Representation fine-tuning: a low-rank edit of the layer outputs at the first and last positions.
///
/// "ReFT: Representation Finetuning for Language Models", Wu et al. (2024), <https://arxiv.org/abs/2404.03592>.
/// Defaults are those of the reference implementation, AdapterHub `adapters` 1.3.0.
///
/// | Name | Default ([`loreft`](Self::loreft)) | Purpose | Range |
/// |---|---|---|---|
/// | `layers` | all | layers whose output is edited | at least one |
/// | `prefix_positions` | 3 | positions edited at the start | one position at least, |
/// | `suffix_positions` | 0 | positions edited at the end | at either end |
/// | `r` | 1 | rank of the edit; at most the model's width | >= 1 |
/// | `orthogonality` | true | W has orthonormal rows | |
/// | `subtract_projection` | true | subtract `W h` | |
/// | `tied_weights` | false | one unit for both ends | |
/// | `dropout` | 0.05 | dropout on the edited states | [0, 1) |
/// | `non_linearity` | none | f, the identity by default | [`ACTIVATIONS`] |
/// | `dtype` | none | dtype of the parameters | [`DTYPES`] |
/// | `init_seed` | none | one seed for every module; 0 counts as none | |
/// | `extra` | empty | keys of a file without a meaning here | no field's name |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ReftWire", into = "ReftWire")]
pub struct ReftConfig {
    /// Layers whose output is edited.
    pub layers: Layers,
    /// Number of positions edited at the start of each row.
    pub prefix_positions: usize,
    /// Number of positions edited at the end of each row.
    pub suffix_positions: usize,
    /// Rank of the edit.
    pub r: usize,
    /// Keep the rows of W orthonormal.
    pub orthogonality: bool,
    /// Subtract `W h`. `None`: the file does not say, as no file of the reference does, which forgets to save the
    /// flag and so reads a DiReFT back as a NoReFT; see [`for_method`](Self::for_method).
    pub subtract_projection: Option<bool>,
    /// One unit serves both ends.
    pub tied_weights: bool,
    /// Dropout on the edited states.
    pub dropout: f64,
    /// Name of the activation on `R h + b`; `None` is the identity.
    pub non_linearity: Option<String>,
    /// Name of the parameters' dtype; `None` is the model's.
    pub dtype: Option<String>,
    /// Seed set anew for every module (`init_weights_seed`). The reference takes 0 for none.
    pub init_seed: Option<i64>,
    /// Keys of a file that have no meaning here. They are written back unchanged.
    pub extra: Map<String, Value>,
}

impl Default for ReftConfig {
    fn default() -> Self {
        Self::loreft()
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

impl ReftConfig {
    /// [`loreft`](Self::loreft) of another rank.
    pub fn new(r: usize) -> Self {
        Self { r, ..Self::loreft() }
    }

    /// LoReFT: orthonormal W, `W h` subtracted.
    pub fn loreft() -> Self {
        Self {
            layers: Layers::All,
            prefix_positions: 3,
            suffix_positions: 0,
            r: 1,
            orthogonality: true,
            subtract_projection: Some(true),
            tied_weights: false,
            dropout: 0.05,
            non_linearity: None,
            dtype: None,
            init_seed: None,
            extra: Map::new(),
        }
    }

    /// NoReFT: LoReFT with a free W.
    pub fn noreft() -> Self {
        Self {
            orthogonality: false,
            ..Self::loreft()
        }
    }

    /// DiReFT: a free W, and `W h` is not subtracted.
    pub fn direft() -> Self {
        Self {
            subtract_projection: Some(false),
            ..Self::noreft()
        }
    }

    /// The preset of an identifier of the reference.
    ///
    /// # Errors
    /// The identifier is none of `loreft`, `noreft`, `direft`.
    pub fn preset(identifier: &str) -> Result<Self, ReftError> {
        match identifier {
            "loreft" => Ok(Self::loreft()),
            "noreft" => Ok(Self::noreft()),
            "direft" => Ok(Self::direft()),
            _ => Err(ReftError::Unknown {
                field: "identifier",
                expected: "loreft, noreft, direft".to_owned(),
                found: identifier.to_owned(),
            }),
        }
    }

    /// Takes from the method's name (`loreft`, `noreft`, `direft`) whether `W h` is subtracted, where the file does
    /// not say. A flag that is set stays.
    ///
    /// # Errors
    /// As [`preset`](Self::preset).
    pub fn for_method(mut self, method: &str) -> Result<Self, ReftError> {
        let named = Self::preset(method)?.subtract_projection;
        self.subtract_projection = self.subtract_projection.or(named);
        Ok(self)
    }

    /// Whether `W h` is subtracted: the flag, and true where it is not known, as in the reference.
    pub fn subtracts_projection(&self) -> bool {
        self.subtract_projection.unwrap_or(true)
    }

    setters! {
        "Sets the layers." with_layers(layers: Layers);
        "Sets the number of positions at the start." with_prefix_positions(prefix_positions: usize);
        "Sets the number of positions at the end." with_suffix_positions(suffix_positions: usize);
        "Keeps W orthonormal, or not." with_orthogonality(orthogonality: bool);
        "Subtracts `W h`, or not." with_subtract_projection(subtract_projection: Option<bool>);
        "Uses one unit for both ends, or two." with_tied_weights(tied_weights: bool);
        "Sets the dropout on the edited states." with_dropout(dropout: f64);
        "Sets the activation by name." with_non_linearity(non_linearity: Option<String>);
        "Sets the parameters' dtype by name." with_dtype(dtype: Option<String>);
        "Sets the seed of every module." with_init_seed(init_seed: Option<i64>);
    }

    /// Checks every range. A configuration read from a file has passed this already.
    ///
    /// # Errors
    /// Names the first field that cannot be honored, what was expected and what was found.
    pub fn check(&self) -> Result<(), ReftError> {
        let out_of_range = |field, expected, found: String| ReftError::OutOfRange { field, expected, found };
        if self.layers == Layers::Only(Vec::new()) {
            return Err(out_of_range("layers", "\"all\" or at least one layer", "[]".to_owned()));
        }
        if self.prefix_positions == 0 && self.suffix_positions == 0 {
            let expected = "a prefix or a suffix position";
            return Err(ReftError::Conflict {
                field: "prefix_positions",
                expected,
                found: "none".to_owned(),
            });
        }
        if self.r == 0 {
            return Err(out_of_range("r", "a whole number >= 1", self.r.to_string()));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(out_of_range("dropout", "a number in [0, 1)", self.dropout.to_string()));
        }
        let known = |field, names: &[&str], found: &str, spelled: &str| match names.contains(&spelled) {
            true => Ok(()),
            false => Err(ReftError::Unknown {
                field,
                expected: names.join(", "),
                found: found.to_owned(),
            }),
        };
        if let Some(name) = &self.non_linearity {
            known("non_linearity", &ACTIVATIONS, name, &name.to_lowercase())?;
        }
        if let Some(name) = &self.dtype {
            known("dtype", &DTYPES, name, name)?;
        }
        compat::check_extra(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused_by_name() {
        let base = ReftConfig::loreft;
        let mut reserved = base();
        reserved.extra.insert("layers".to_owned(), "all".into());
        for (config, field) in [
            (ReftConfig::new(0), "r"),
            (base().with_layers(Layers::Only(Vec::new())), "layers"),
            (base().with_prefix_positions(0), "prefix_positions"),
            (base().with_dropout(-0.5), "dropout"),
            (base().with_non_linearity(Some("rellu".to_owned())), "non_linearity"),
            (base().with_dtype(Some("int8".to_owned())), "dtype"),
            (reserved, "layers"),
        ] {
            let error = config.check().expect_err(field).to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
        assert_eq!(base().with_prefix_positions(0).with_suffix_positions(1).check(), Ok(()));
    }

    #[test]
    fn the_method_name_fills_in_what_the_file_leaves_out() {
        let silent = ReftConfig::noreft().with_subtract_projection(None);
        assert!(silent.subtracts_projection());
        assert_eq!(silent.clone().for_method("direft"), Ok(ReftConfig::direft()));
        assert_eq!(silent.clone().for_method("noreft"), Ok(ReftConfig::noreft()));
        assert_eq!(ReftConfig::direft().for_method("noreft"), Ok(ReftConfig::direft()));
        assert!(silent.for_method("lora").is_err());
    }
}
