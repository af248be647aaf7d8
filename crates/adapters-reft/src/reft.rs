//! [`ReftConfig`]: the fields, their check, the layers they build, and AdapterHub's files.

use adapters_core::config::{published_seed, read_architecture, write_architecture};
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, Attached, Build, Capabilities, Codec, ConfigError, ConvertsForStorage, Erased, Error, Format, Host,
    Method, Peft, Preset, Role, SiteInfo, SiteKind, SiteLayer, StoredConfig,
};
use adapters_nn::{NonLinearity, UnknownName, draw};
use burn::tensor::TensorData;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::layer::{ReftLayer, Unit};
use crate::orthogonal::Projection;

/// ReFT, representation fine-tuning: a low-rank edit of the layer outputs at the first and last positions of each row.
///
/// "ReFT: Representation Finetuning for Language Models", Wu et al. (2024), <https://arxiv.org/abs/2404.03592>.
///
/// The fields are those of the `config` object in AdapterHub's `adapter_config.json`, and `subtract_projection`, which its
/// files leave out. A field that a file leaves out has the default given below; the presets ([`loreft`](Self::loreft) and so
/// on) are where a program begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReftConfig {
    /// Dropout probability on the edited states, in `[0, 1)`. Default 0.05.
    #[serde(default = "dropout")]
    pub dropout: f64,
    /// Torch's name of the parameters' dtype. Only `float32`, or none, is computed. Default none.
    #[serde(default)]
    pub dtype: Option<String>,
    /// Seed that is set again for every layer; zero counts as none. Default none.
    #[serde(default)]
    pub init_weights_seed: Option<i64>,
    /// Layers whose output is edited, at least one. Required.
    pub layers: Layers,
    /// Name of the activation `f`, one of [`NonLinearity`]'s. Default none, which is the identity.
    #[serde(default)]
    pub non_linearity: Option<String>,
    /// Keep the rows of `W` orthonormal. Required.
    pub orthogonality: bool,
    /// Whether there is an edit at all; false is refused. Default true.
    #[serde(default = "yes")]
    pub output_reft: bool,
    /// Positions edited at the start of each row; together with `suffix_positions` at least 1. Required.
    pub prefix_positions: usize,
    /// Rank of the edit, at least 1; with `orthogonality` at most the model's width. Required.
    pub r: usize,
    /// Subtract `W h`. None in a file that leaves it out, as all files of the `adapters` library do, so that its DiReFT is
    /// read as NoReFT; it is computed as true then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtract_projection: Option<bool>,
    /// Positions edited at the end of each row. Required.
    pub suffix_positions: usize,
    /// One unit for both ends. Default false.
    #[serde(default)]
    pub tied_weights: bool,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Layers whose output is edited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "expected \"all\" or a list of layer numbers")]
pub enum Layers {
    /// Every layer.
    All,
    /// These, counted from 0.
    #[serde(untagged)]
    Only(Vec<usize>),
}

fn dropout() -> f64 {
    0.05
}

fn yes() -> bool {
    true
}

/// Torch's names of floating-point dtypes.
const DTYPES: [&str; 7] = ["float16", "bfloat16", "float32", "float64", "half", "float", "double"];
/// End of the name of a parameter with signs on its diagonal.
const ORIGINAL: &str = "parametrizations.weight.original";

impl Default for ReftConfig {
    fn default() -> Self {
        Self::loreft()
    }
}

impl ReftConfig {
    /// LoReFT: orthonormal `W`, `W h` subtracted.
    pub fn loreft() -> Self {
        Self {
            dropout: 0.05,
            dtype: None,
            init_weights_seed: None,
            layers: Layers::All,
            non_linearity: None,
            orthogonality: true,
            output_reft: true,
            prefix_positions: 3,
            r: 1,
            subtract_projection: Some(true),
            suffix_positions: 0,
            tied_weights: false,
            extra: Map::new(),
        }
    }

    /// NoReFT: LoReFT with a free `W`.
    pub fn noreft() -> Self {
        Self {
            orthogonality: false,
            ..Self::loreft()
        }
    }

    /// DiReFT: a free `W`, and `W h` is not subtracted.
    pub fn direft() -> Self {
        Self {
            subtract_projection: Some(false),
            ..Self::noreft()
        }
    }

    fn check_dtype(&self) -> Result<(), ConfigError> {
        let field = "dtype";
        match self.dtype.as_deref() {
            None | Some("float32" | "float") => Ok(()),
            Some(name) if DTYPES.contains(&name) => Err(ConfigError::Unsupported {
                field,
                found: name.to_owned(),
            }),
            Some(name) => Err(ConfigError::UnknownName {
                field,
                unknown: UnknownName::new("dtype", name, DTYPES),
            }),
        }
    }

    /// The activation `f`.
    fn non_linearity_name(&self) -> &str {
        self.non_linearity.as_deref().unwrap_or("linear")
    }

    fn unit(&self, d_model: usize, build: &Build<'_>, rng: &mut ChaCha8Rng) -> Result<Unit, UnknownName> {
        let (rank, device) = (self.r, build.device);
        Ok(Unit {
            source: draw::linear_param(rng, [rank, d_model], d_model, device),
            bias: draw::linear_param(rng, [rank], d_model, device),
            non_linearity: NonLinearity::named(self.non_linearity_name(), device)?,
            projection: match self.orthogonality {
                true => Projection::orthonormal(rng, rank, d_model, device),
                false => Projection::free(rng, rank, d_model, device),
            },
            subtracts: self.subtract_projection.unwrap_or(true),
            dropout: self.dropout,
        })
    }

    /// The adapter with `change` applied to each sign on the diagonal of an orthogonal projection; `None` if all stay.
    fn with_signs(&self, adapter: &Attached, change: impl Fn(f32) -> f32) -> Option<Attached> {
        if !self.orthogonality {
            return None;
        }
        let mut values = adapter.values();
        values.retain(|(_, param), data| {
            let [rank, d_model] = data.shape()[..] else {
                return false;
            };
            // A square projection is an exponential, which does not use its diagonal.
            if !param.ends_with(ORIGINAL) || rank >= d_model {
                return false;
            }
            let mut all: Vec<f32> = data.iter().collect();
            let mut changed = false;
            for sign in all.iter_mut().step_by(d_model + 1).take(rank) {
                let new = change(*sign);
                changed |= new != *sign;
                *sign = new;
            }
            *data = TensorData::new(all, [rank, d_model]);
            changed
        });
        (!values.is_empty()).then(|| adapter.clone().with_values(values))
    }
}

impl Method for ReftConfig {
    const NAME: &'static str = "reft";
    const DESCRIPTION: &'static str = "Low-rank edits of the hidden states at a few positions of the text.";

    fn presets() -> &'static [Preset<Self>] {
        const PRESETS: &[Preset<ReftConfig>] = &[
            Preset::new("loreft", ReftConfig::loreft),
            Preset::new("noreft", ReftConfig::noreft),
            Preset::new("direft", ReftConfig::direft),
        ];
        PRESETS
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fits = self.layers != Layers::Only(Vec::new());
        ConfigError::unless(fits, "layers", "\"all\" or at least one layer", "[]")?;
        // The `adapters` library adapts nothing then.
        let expected = "true, as otherwise no position is adapted";
        ConfigError::unless(self.output_reft, "output_reft", expected, self.output_reft)?;
        let fits = self.prefix_positions > 0 || self.suffix_positions > 0;
        let expected = "at least 1 where `suffix_positions` is 0";
        ConfigError::unless(fits, "prefix_positions", expected, self.prefix_positions)?;
        ConfigError::size("r", self.r)?;
        ConfigError::probability("dropout", self.dropout)?;
        let field = "non_linearity";
        NonLinearity::check(self.non_linearity_name())
            .map_err(|unknown| ConfigError::UnknownName { field, unknown })?;
        self.check_dtype()
    }

    fn target(&self) -> Target {
        match &self.layers {
            Layers::All => Target::roles([Role::LayerOutput]),
            Layers::Only(layers) => Target::Layers {
                role: Role::LayerOutput,
                layers: layers.clone(),
            },
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let SiteKind::LayerOutput { d_model } = site.kind else {
            return Err(Self::refuse(site, "it adapts the output of layers only"));
        };
        let fits = !self.orthogonality || self.r <= d_model;
        let fits = ConfigError::unless(
            fits,
            "r",
            "at most the model's width, the largest number of orthonormal rows",
            format!("{}, and the width is {d_model}", self.r),
        );
        Error::in_config(Self::NAME, fits)?;
        let mut rng = build.rng(published_seed(self.init_weights_seed), site.site);
        let units = if self.tied_weights { 1 } else { 2 };
        let units = (0..units).map(|_| self.unit(d_model, build, &mut rng));
        Ok(SiteLayer::Output(Erased::new(ReftLayer {
            units: units.collect::<Result<_, _>>()?,
            prefix: self.prefix_positions,
            suffix: self.suffix_positions,
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            storage: Some(self),
            ..Capabilities::default()
        }
    }
}

/// The signs of orthogonal projections are whole numbers in files; weight decay may have made them smaller.
impl ConvertsForStorage for ReftConfig {
    fn to_storage(&self, _format: Format, adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        Ok(self.with_signs(adapter, |sign| if sign == 0.0 { 0.0 } else { sign.signum() }))
    }

    fn restored(&self, adapter: &Attached) -> Option<Attached> {
        self.with_signs(adapter, f32::trunc)
    }
}

impl Codec<AdapterHub> for ReftConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        read_architecture(Self::NAME, stored.fields)
    }

    fn write(&self, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        Ok(write_architecture(Self::NAME, self, &[]))
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        format!("{}.reft_layer.refts.{adapter}.{param}", site.path)
    }
}

/// Peft has no ReFT.
impl Codec<Peft> for ReftConfig {}
