//! FourierFT: an update with few frequencies.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight,
    Method, ModulePatterns, NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::{ByModule, ModuleFields, PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{TorchRng, draw};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// `W + scaling Re(ifft2(F))`, where `F` is zero but for `n_frequency` learned coefficients at random indices.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `n_frequency` | 1000 | learned coefficients a layer | >= 1, at most `d_in d_out` |
/// | `n_frequency_pattern` | `{}` | how many by module path | as `n_frequency` |
/// | `scaling` | 150 | factor of the update | finite |
/// | `random_loc_seed` | 777 | seed of the indices, in PyTorch's generator | 0 .. 2^32 |
/// | `init_weights` | false | zero coefficients; normal ones without it | |
///
/// Paper: *Parameter-Efficient Fine-Tuning with Discrete Fourier Transform*, Gao et al., 2024,
/// <https://arxiv.org/abs/2405.03003>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fourierft {
    /// Learned coefficients a layer.
    pub n_frequency: usize,
    /// How many by module path.
    pub n_frequency_pattern: ByModule<usize>,
    /// Factor of the update.
    pub scaling: f64,
    /// Seed of the indices.
    pub random_loc_seed: u64,
    /// Whether the coefficients begin at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Fourierft {
    fn default() -> Self {
        Self {
            n_frequency: 1000,
            n_frequency_pattern: ByModule::default(),
            scaling: 150.0,
            random_loc_seed: 777,
            init_weights: false,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Fourierft {
    const NAME: &'static str = "fourierft";
    const DESCRIPTION: &'static str = "An update with a few trained Fourier coefficients.";

    fn check(&self) -> Result<(), ConfigError> {
        let seed = self.random_loc_seed;
        ConfigError::unless(self.n_frequency > 0, "n_frequency", "at least 1", self.n_frequency)?;
        let mut frequencies = self.n_frequency_pattern.values();
        let fits = frequencies.all(|n| n > 0);
        ConfigError::unless(fits, "n_frequency_pattern", "numbers of at least 1", 0)?;
        ConfigError::finite("scaling", self.scaling)?;
        ConfigError::unless(u32::try_from(seed).is_ok(), "random_loc_seed", "below 2^32", seed)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let n = self.n_frequency_pattern.at(&site.path)?.unwrap_or(self.n_frequency);
        if n > d_in * d_out {
            let most = d_in * d_out;
            return Err(Self::refuse(
                site,
                format!("n_frequency is {n}, and it has {most} elements"),
            ));
        }
        Self::check_elements(site, "n_frequency", [2 * n, d_in.max(d_out)])?;
        let spectrum = match self.init_weights {
            true => draw::constant([n], 0.0),
            false => draw::normal(&mut build.rng(None, site.site), [n], 1.0),
        };
        let seed = u32::try_from(self.random_loc_seed).unwrap_or_default();
        let indices: Vec<(usize, usize)> = TorchRng::new(seed)
            .permutation(d_in * d_out, n)
            .into_iter()
            .map(|index| (index / d_in, index % d_in))
            .collect();
        let rows: Vec<usize> = indices.iter().map(|(row, _)| *row).collect();
        let cols: Vec<usize> = indices.iter().map(|(_, col)| *col).collect();
        Ok(SiteLayer::Linear(Erased::new(Spectrum {
            coefficients: Param::from_data(spectrum, build.device),
            out_waves: waves(d_out, &rows, false, build.device),
            in_waves: waves(d_in, &cols, true, build.device),
            scale: self.scaling / (d_in * d_out) as f64,
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            patterns: Some(self),
            ..Capabilities::default()
        }
    }
}

impl ModulePatterns for Fourierft {
    fn patterns(&self) -> Vec<(&'static str, &str)> {
        self.n_frequency_pattern.patterns("n_frequency_pattern").collect()
    }
}

peft_modules!(Fourierft: "FOURIERFT" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;

    /// Indices of the coefficients, which follow from the seed.
    fn is_computed(key: &str) -> bool {
        key.ends_with(".indices")
    }
});

/// Cosines and sines of the frequencies at each position, `[size, 2 n]`, the sines negative where `negative`.
fn waves(size: usize, frequencies: &[usize], negative: bool, device: &Device) -> Tensor<2> {
    let sign = if negative { -1.0 } else { 1.0 };
    let mut values = Vec::with_capacity(size * 2 * frequencies.len());
    for position in 0..size {
        let angle = |frequency: &usize| {
            let turns = ((frequency * position) % size) as f64 / size as f64;
            turns * std::f64::consts::TAU
        };
        values.extend(frequencies.iter().map(|f| angle(f).cos() as f32));
        values.extend(frequencies.iter().map(|f| (sign * angle(f).sin()) as f32));
    }
    Tensor::from_data(TensorData::new(values, [size, 2 * frequencies.len()]), device)
}

/// The update of one layer: `scale sum_k c_k cos(2 pi (u_k p / d_out + v_k q / d_in))` at row `p` and column `q`, as a
/// product of two matrices, since `cos(a + b) = cos a cos b - sin a sin b`.
#[derive(Module, Debug)]
pub(crate) struct Spectrum {
    /// `c`, `[n]`.
    pub(crate) coefficients: Param<Tensor<1>>,
    /// `[d_out, 2 n]`, constant.
    pub(crate) out_waves: Tensor<2>,
    /// `[d_in, 2 n]`, constant.
    pub(crate) in_waves: Tensor<2>,
    /// `scaling / (d_in d_out)`.
    pub(crate) scale: f64,
}

impl Spectrum {
    /// The waves of the output, times the coefficients: `[d_out, 2 n]`.
    fn weighted(&self) -> Tensor<2> {
        let coefficients = self.coefficients.val() * self.scale;
        let both = Tensor::cat(vec![coefficients.clone(), coefficients], 0);
        self.out_waves.clone() * both.unsqueeze_dim(0)
    }
}

impl SiteAdapter<LinearState> for Spectrum {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let ([d_in, two_n], [d_out, _]) = (self.in_waves.dims(), self.out_waves.dims());
        let left = self.weighted();
        let right = self.in_waves.clone().transpose();
        // Through the waves where they are fewer than the elements of a row.
        match two_n * (d_in + d_out) < d_in * d_out {
            true => state.plus(|x| project(project(x, right), left)),
            false => state.plus(|x| project(x, left.matmul(right))),
        }
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.weighted().matmul(self.in_waves.clone().transpose())))
    }
}

named_params!(Spectrum: "fourierft_spectrum" => coefficients);

#[cfg(test)]
mod tests {
    use adapters_core::{Codec, Format, Peft, StoredConfig};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn fields_without_influence_are_kept_and_others_are_refused() {
        let read = |field: &str, value: Value| {
            let fields = json!({"peft_type": "FOURIERFT", "target_modules": ["query"], field: value});
            let stored = StoredConfig {
                format: Format::Peft,
                fields: fields.as_object().unwrap(),
                version: None,
                versioned: false,
            };
            <Fourierft as Codec<Peft>>::read(&stored).unwrap()
        };
        let config = read("fan_in_fan_out", json!(true)).unwrap();
        assert_eq!(config.targets.extra["fan_in_fan_out"], json!(true));
        for (field, value) in [("bias", json!("all")), ("modules_to_save", json!(["key"]))] {
            let error = read(field, value).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
