//! WaveFT: an update with few wavelet coefficients.

use adapters_core::{
    BaseField, Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method,
    NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_core::{target::Target, target::pattern_value};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{TorchRng, UnknownName, draw};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::wavelets::{high_pass, low_pass, names};

/// `W + scaling idwt2(F)`, where `F` is zero but for learned coefficients at random indices, and `idwt2` one level of the inverse
/// wavelet transform in two dimensions.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `n_frequency` | 2592 | learned coefficients a layer | >= 1, at most `d_in d_out` |
/// | `n_frequency_pattern` | `{}` | how many by module path | as `n_frequency` |
/// | `proportional_parameters` | false | as many in all, shared out by the sizes of the weights | |
/// | `scaling` | 25 | factor of the update | finite |
/// | `wavelet_family` | `db1` | the wavelet | `db1` .. `db10`, `sym2` .. `sym10`, `coif1` .. `coif5` |
/// | `use_idwt` | true | without it the coefficients are elements of the weight | |
/// | `random_loc_seed` | 777 | seed of the indices, in PyTorch's generator | 0 .. 2^32 |
/// | `init_weights` | true | zero coefficients; small normal ones without it | |
///
/// Paper: *Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets*, Bilican et al., 2025,
/// <https://arxiv.org/abs/2505.12532>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waveft {
    /// Learned coefficients a layer.
    pub n_frequency: usize,
    /// How many by module path.
    pub n_frequency_pattern: Option<Map<String, Value>>,
    /// Whether they are shared out by the sizes of the weights.
    pub proportional_parameters: bool,
    /// Factor of the update.
    pub scaling: f64,
    /// The wavelet.
    pub wavelet_family: String,
    /// Without it the coefficients are elements of the weight.
    pub use_idwt: bool,
    /// Seed of the indices.
    pub random_loc_seed: u64,
    /// Whether the coefficients begin at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Waveft {
    fn default() -> Self {
        Self {
            n_frequency: 2592,
            n_frequency_pattern: None,
            proportional_parameters: false,
            scaling: 25.0,
            wavelet_family: "db1".to_owned(),
            use_idwt: true,
            random_loc_seed: 777,
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Waveft {
    /// Learned coefficients of one layer.
    fn coefficients(&self, site: &SiteInfo, build: &Build<'_>) -> Result<usize, Error> {
        let size = |site: &SiteInfo| site.linear_dims().map(|(d_in, d_out)| d_in * d_out);
        if self.proportional_parameters {
            let sites = self.target().select(build.host)?.sites;
            let sizes: Vec<usize> = sites.iter().filter_map(size).collect();
            let (all, budget) = (sizes.iter().sum::<usize>().max(1), self.n_frequency * sizes.len());
            let fraction = size(site).unwrap_or_default() as f64 / all as f64;
            return Ok(((fraction * budget as f64).round_ties_even() as usize).max(1));
        }
        let patterns = self.n_frequency_pattern.iter().flatten();
        let found = pattern_value(patterns.map(|(pattern, n)| (pattern.as_str(), n)), &site.path)?;
        Ok(found.and_then(Value::as_u64).map_or(self.n_frequency, |n| n as usize))
    }
}

impl Method for Waveft {
    const NAME: &'static str = "waveft";
    const DESCRIPTION: &'static str = "An update with a few trained wavelet coefficients.";

    fn check(&self) -> Result<(), ConfigError> {
        let seed = self.random_loc_seed;
        ConfigError::unless(self.n_frequency > 0, "n_frequency", "at least 1", self.n_frequency)?;
        for (path, n) in self.n_frequency_pattern.iter().flatten() {
            let fits = n.as_u64().is_some_and(|n| n > 0);
            ConfigError::unless(
                fits,
                "n_frequency_pattern",
                "numbers of at least 1",
                format!("{path}: {n}"),
            )?;
        }
        ConfigError::finite("scaling", self.scaling)?;
        if low_pass(&self.wavelet_family).is_none() {
            return Err(ConfigError::UnknownName {
                field: "wavelet_family",
                unknown: UnknownName::new("wavelet", &self.wavelet_family, names()),
            });
        }
        ConfigError::unless(u32::try_from(seed).is_ok(), "random_loc_seed", "below 2^32", seed)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let (n, all) = (self.coefficients(site, build)?, d_in * d_out);
        if n > all {
            return Err(Self::refuse(
                site,
                format!("n_frequency is {n}, and it has {all} elements"),
            ));
        }
        Self::check_elements(site, "n_frequency", [n, d_in.max(d_out)])?;
        let spectrum = match self.init_weights {
            true => draw::constant([n], 0.0),
            false => draw::normal(&mut build.rng(None, site.site), [n], 0.01),
        };
        let seed = u32::try_from(self.random_loc_seed).unwrap_or_default();
        let indices = TorchRng::new(seed).permutation(all, n);
        let (rows, cols): (Vec<_>, Vec<_>) = indices.into_iter().map(|index| (index / d_in, index % d_in)).unzip();
        let (left, right) = match low_pass(&self.wavelet_family).filter(|_| self.use_idwt) {
            Some(low) => waves([d_out, d_in], &rows, &cols, low),
            None => (single(d_out, &rows), single(d_in, &cols)),
        };
        let matrix = |values: Vec<f32>, rows: usize, device: &Device| {
            Tensor::<2>::from_data(TensorData::new(values, [rows, n]), device)
        };
        Ok(SiteLayer::Linear(Erased::new(Wavelets {
            coefficients: Param::from_data(spectrum, build.device),
            left: matrix(left, d_out, build.device),
            right: matrix(right, d_in, build.device),
            scale: self.scaling,
        })))
    }
}

peft_modules!(Waveft: "WAVEFT" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;

    /// Indices of the coefficients, which follow from the seed.
    fn is_computed(key: &str) -> bool {
        key.contains(".waveft_indices")
    }
});

/// One at each index, in a column of its own: `[size, n]`.
fn single(size: usize, indices: &[usize]) -> Vec<f32> {
    let mut values = vec![0.0; size * indices.len()];
    for (k, index) in indices.iter().enumerate() {
        values[index * indices.len() + k] = 1.0;
    }
    values
}

/// What one coefficient becomes along an axis of a transform: a filter, shifted by two for each index.
struct Axis {
    /// Features of the weight.
    size: usize,
    /// Coefficients, of which the first half is for the low-pass filter.
    padded: usize,
}

impl Axis {
    fn new(size: usize, filter: usize) -> Self {
        let padded = size + filter - 2;
        Self {
            size,
            padded: padded + padded % 2,
        }
    }

    /// The coefficient, counted from the margin, that belongs to a index of the weight.
    fn coefficient(&self, index: usize) -> usize {
        index + (self.padded - self.size) / 2
    }

    /// Writes the filter for coefficient `at` of a half into column `k` of `[size, n]`.
    fn write(&self, values: &mut [f32], n: usize, k: usize, at: usize, filter: &[f64]) {
        let margin = (2 * filter.len() - 3) / 2;
        // What is left after the margins may be one longer than the weight.
        let whole = self.padded - 2 + filter.len() - 2 * margin;
        let cut = margin + (whole - self.size) / 2;
        for (tap, value) in filter.iter().enumerate() {
            if let Some(row) = (2 * at + tap).checked_sub(cut).filter(|row| *row < self.size) {
                values[row * n + k] = *value as f32;
            }
        }
    }
}

/// What each coefficient becomes along the outputs, `[d_out, n]`, and along the inputs, `[d_in, n]`: its update is the outer product
/// of the two columns. A coefficient in the upper right quarter is high-pass along the outputs and low-pass along the inputs,
/// and the other way round in the lower left.
fn waves([d_out, d_in]: [usize; 2], rows: &[usize], cols: &[usize], low: &[f64]) -> (Vec<f32>, Vec<f32>) {
    let high = high_pass(low);
    let (outputs, inputs, n) = (Axis::new(d_out, low.len()), Axis::new(d_in, low.len()), rows.len());
    let (mut left, mut right) = (vec![0.0; d_out * n], vec![0.0; d_in * n]);
    let filter = |is_high: bool| if is_high { high.as_slice() } else { low };
    for (k, (row, col)) in rows.iter().zip(cols).enumerate() {
        let (row, col) = (outputs.coefficient(*row), inputs.coefficient(*col));
        let (half_rows, half_cols) = (outputs.padded / 2, inputs.padded / 2);
        let (lower, rightmost) = (row >= half_rows, col >= half_cols);
        outputs.write(&mut left, n, k, row % half_rows, filter(rightmost));
        inputs.write(&mut right, n, k, col % half_cols, filter(lower));
    }
    (left, right)
}

/// The update of one layer: the sum of the outer products of two columns, times their coefficients.
#[derive(Module, Debug)]
pub(crate) struct Wavelets {
    /// `[n]`.
    pub(crate) coefficients: Param<Tensor<1>>,
    /// `[d_out, n]`, constant.
    pub(crate) left: Tensor<2>,
    /// `[d_in, n]`, constant.
    pub(crate) right: Tensor<2>,
    /// The factor.
    pub(crate) scale: f64,
}

impl Wavelets {
    /// The columns of the outputs, times the coefficients: `[d_out, n]`.
    fn weighted(&self) -> Tensor<2> {
        self.left.clone() * (self.coefficients.val() * self.scale).unsqueeze_dim(0)
    }
}

impl SiteAdapter<LinearState> for Wavelets {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let ([d_in, n], [d_out, _]) = (self.right.dims(), self.left.dims());
        let right = self.right.clone().transpose();
        // Through the columns where they are fewer than the elements of a row.
        match n * (d_in + d_out) < d_in * d_out {
            true => state.plus(|x| project(project(x, right), self.weighted())),
            false => state.plus(|x| project(x, self.weighted().matmul(right))),
        }
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.weighted().matmul(self.right.clone().transpose())))
    }
}

named_params!(Wavelets: "waveft_spectrum" => coefficients);
