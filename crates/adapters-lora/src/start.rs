//! Starts of LoRA that follow from data: what the adapted layers read (EVA, CorDA), the gradients of their weights (LoRA-GA), and
//! what quantization loses (LoftQ).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, AnyMethod, Attached, Build, Call, Causality, Codec, ConfigError, Effect, Error, Host, LinearState,
    Method, Peft, Site, SiteAdapter, SiteInfo, SiteLayer, Source, StartsFromInputs, named_params,
};
use adapters_nn::{Precision, float_weight, quantize_linear};
use burn::linalg::svd;
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::init::{CordaMethod, GaDirection, GaScale, Init, SWEEPS, StartValues};
use crate::lora_config::LoraConfig;
use crate::site_builder::linear;
use crate::target::LoraTarget;

/// A method that computes nothing and remembers what linear layers read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct InputRecorder {
    #[serde(skip)]
    target: LoraTarget,
    /// Whether each text counts alike, whatever the size of its numbers.
    #[serde(skip)]
    by_text: bool,
}

impl Method for InputRecorder {
    const NAME: &'static str = "input_recorder";
    const DESCRIPTION: &'static str = "Remembers what linear layers read.";

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn target(&self) -> Target {
        self.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, _) = Self::linear_dims(site)?;
        Ok(linear(Recorder {
            by_text: self.by_text,
            seen: Arc::new(Mutex::new(Seen::new(d_in, build.device))),
        }))
    }
}

impl Codec<AdapterHub> for InputRecorder {}
impl Codec<Peft> for InputRecorder {}

/// What a layer has read.
#[derive(Clone, Debug)]
struct Seen {
    /// Positions, or texts.
    count: f64,
    /// Of the inputs, `[1, d_in]`.
    sum: Tensor<2>,
    /// Of their products with each other, `[d_in, d_in]`.
    products: Tensor<2>,
}

impl Seen {
    fn new(d_in: usize, device: &Device) -> Self {
        let device = device.clone().inner();
        Self {
            count: 0.0,
            sum: Tensor::zeros([1, d_in], &device),
            products: Tensor::zeros([d_in, d_in], &device),
        }
    }
}

/// Remembers what one layer reads.
#[derive(Module, Debug)]
struct Recorder {
    by_text: bool,
    #[module(skip)]
    seen: Arc<Mutex<Seen>>,
}

impl SiteAdapter<LinearState> for Recorder {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let x = state.input.clone().detach();
        let [batch, seq, d_in] = x.dims();
        let padding = call.padding.clone().filter(|padding| padding.dims() == [batch, seq]);
        let padded = padding.map(|padding| padding.unsqueeze_dim::<3>(2).expand([batch, seq, d_in]));
        let x = match &padded {
            Some(padded) => x.mask_fill(padded.clone(), 0.0),
            None => x,
        };
        let (x, count) = match self.by_text {
            true => {
                let seen = match padded {
                    Some(padded) => x.clone().mask_fill(padded, f32::MIN),
                    None => x.clone(),
                };
                // As published: the largest number, not that of the largest size.
                let largest = seen.max_dim(2).max_dim(1).abs();
                (x / largest, batch as f64)
            }
            false => {
                let left_out: f64 = match padded {
                    Some(padded) => padded.int().sum().into_scalar::<i64>() as f64 / d_in as f64,
                    None => 0.0,
                };
                (x, (batch * seq) as f64 - left_out)
            }
        };
        let rows = x.reshape([batch * seq, d_in]);
        if let Ok(mut seen) = self.seen.lock() {
            seen.count += count;
            seen.sum = seen.sum.clone() + rows.clone().sum_dim(0);
            seen.products = seen.products.clone() + rows.clone().transpose().matmul(rows);
        }
        state
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

named_params!(Recorder:);

/// A method that changes nothing, whose parameters are changes of the weights: their gradients are those of the weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct GradientRecorder {
    #[serde(skip)]
    target: LoraTarget,
}

impl Method for GradientRecorder {
    const NAME: &'static str = "gradient_recorder";
    const DESCRIPTION: &'static str = "Takes the gradients of the weights of linear layers.";

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn target(&self) -> Target {
        self.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        Ok(linear(WeightChange {
            weight: Param::from_tensor(Tensor::zeros([d_in, d_out], build.device)),
            calls: Arc::new(AtomicUsize::new(0)),
        }))
    }
}

impl Codec<AdapterHub> for GradientRecorder {}
impl Codec<Peft> for GradientRecorder {}

/// A change of one weight, which is zero.
#[derive(Module, Debug)]
struct WeightChange {
    /// `[d_in, d_out]`.
    weight: Param<Tensor<2>>,
    /// How often it was used.
    #[module(skip)]
    calls: Arc<AtomicUsize>,
}

impl SiteAdapter<LinearState> for WeightChange {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let change = state.input.clone().matmul(self.weight.val().unsqueeze());
        LinearState {
            delta: Some(change),
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

named_params!(WeightChange: "weight" => weight);

impl StartsFromInputs for LoraConfig {
    fn recorder(&self) -> Result<AnyMethod, Error> {
        let target = self.target.clone();
        match self.reads_gradients() {
            true => AnyMethod::new(GradientRecorder { target }),
            false => AnyMethod::new(InputRecorder {
                target,
                by_text: self.init == Init::Corda,
            }),
        }
    }

    fn reads_gradients(&self) -> bool {
        self.init == Init::LoraGa
    }

    fn started(&self, recorded: &Attached, host: &dyn Host) -> Result<AnyMethod, Error> {
        if self.reads_gradients() {
            return AnyMethod::new(self.lora_ga(recorded, host)?);
        }
        let mut seen = Vec::new();
        for layer in recorded.layers() {
            let found = match &layer.layer {
                SiteLayer::Linear(layer) => layer.downcast_ref::<Recorder>(),
                _ => None,
            };
            let found = found
                .and_then(|recorder| recorder.seen.lock().ok())
                .map(|seen| seen.clone());
            let found = found.filter(|seen| seen.count >= 2.0);
            let refuse = || Self::refuse(&layer.info, "the inputs for its initial values did not reach it");
            seen.push((&layer.info, found.ok_or_else(refuse)?));
        }
        AnyMethod::new(match self.init {
            Init::Corda => self.corda(&seen, host)?,
            _ => self.eva(&seen)?,
        })
    }
}

impl LoraConfig {
    /// Whether its initial values follow from data, which was not told yet.
    pub(crate) fn needs_data(&self) -> bool {
        self.init.reads_data() && self.start.is_none()
    }

    /// The initial values at a site, where they follow from data.
    pub(crate) fn start_at(&self, site: Site) -> Option<(TensorData, TensorData)> {
        self.start.as_ref()?.get(&site).cloned()
    }

    /// A begins with the directions in which the inputs of a layer vary most, and layers share the ranks by how much of the
    /// variance each direction explains.
    fn eva(&self, seen: &[(&SiteInfo, Seen)]) -> Result<Self, Error> {
        let mut directions = Vec::new();
        let (mut shares, mut budget) = (Vec::new(), 0);
        for (index, (info, seen)) in seen.iter().enumerate() {
            let (rank, _) = self.rank_and_scale(&info.path)?;
            budget += rank;
            let mean = seen.sum.clone() / seen.count;
            let between = mean.clone().transpose().matmul(mean) * seen.count;
            let covariance = (seen.products.clone() - between) / (seen.count - 1.0);
            let (_, variances, rows) = svd::<2, 1>(covariance, SWEEPS);
            let variances: Vec<f64> = variances.into_data().iter().collect();
            let all: f64 = variances.iter().sum();
            let most = (rank as f64 * self.eva_rho).round() as usize;
            shares.extend(variances.iter().take(most).map(|variance| (variance / all, index)));
            directions.push(with_signs(rows));
        }
        shares.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut ranks = vec![0; seen.len()];
        shares.iter().take(budget).for_each(|(_, index)| ranks[*index] += 1);

        let mut config = self.clone();
        config.init = Init::Lora;
        let mut start = StartValues::new();
        let mut kept = Vec::new();
        for (((info, _), rows), rank) in seen.iter().zip(directions).zip(ranks) {
            // A layer whose inputs hardly vary is left alone.
            if rank == 0 {
                continue;
            }
            kept.push(info.path.clone());
            let (own, _) = self.rank_and_scale(&info.path)?;
            if rank != own {
                let alpha = self.alpha_at(&info.path)?;
                config.rank_pattern.insert(info.path.clone(), rank);
                // The scale stays what it was.
                config
                    .alpha_pattern
                    .insert(info.path.clone(), alpha * rank as f64 / own as f64);
            }
            let (_, d_out) = Self::linear_dims(info)?;
            let a = rows.slice_dim(0, 0..rank).into_data();
            start.insert(info.site, (a, TensorData::zeros::<f32, _>([d_out, rank])));
        }
        if kept.len() < seen.len() {
            config = config.with_modules(kept);
        }
        config.start = Some(Arc::new(start));
        Ok(config)
    }

    /// A and B begin with a part of the weight, found by its singular values for such inputs, which is taken out of it.
    fn corda(&self, seen: &[(&SiteInfo, Seen)], host: &dyn Host) -> Result<Self, Error> {
        let mut start = StartValues::new();
        for (info, seen) in seen {
            let (rank, scale) = self.rank_and_scale(&info.path)?;
            let frozen = host.linear(info.site);
            let frozen = frozen.ok_or_else(|| Self::refuse(info, "the model gives no access to this weight"))?;
            let (covariance, inverse) = with_inverse(seen.products.clone() / seen.count);
            let weight = float_weight(frozen).transpose();
            let (left, sizes, right) = svd::<2, 1>(weight.matmul(covariance), SWEEPS);
            let right = right.matmul(inverse);
            let [all] = sizes.dims();
            if rank > all {
                return Err(Self::refuse(
                    info,
                    format!("its rank {rank} is above the {all} of the weight"),
                ));
            }
            let part = match self.corda_method {
                CordaMethod::Ipm => 0..rank,
                CordaMethod::Kpm => all - rank..all,
            };
            let root = (sizes.slice_dim(0, part.clone()) / scale).sqrt();
            let a = right.slice_dim(0, part.clone()) * root.clone().unsqueeze_dim(1);
            let b = left.slice_dim(1, part) * root.unsqueeze_dim(0);
            start.insert(info.site, (a.into_data(), b.into_data()));
        }
        Ok(Self {
            start: Some(Arc::new(start)),
            ..self.clone()
        })
    }
}

impl LoraConfig {
    /// A begins with some of the right singular vectors of the mean gradient of a weight, B with some of the left ones times their
    /// singular values.
    fn lora_ga(&self, recorded: &Attached, host: &dyn Host) -> Result<Self, Error> {
        let mut start = StartValues::new();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.unwrap_or_default());
        for layer in recorded.layers() {
            let info = &layer.info;
            let (rank, scale) = self.rank_and_scale(&info.path)?;
            let change: Option<&WeightChange> = match &layer.layer {
                SiteLayer::Linear(layer) => layer.downcast_ref(),
                _ => None,
            };
            let calls = change.map_or(0, |change| change.calls.load(Ordering::Relaxed));
            let change = change.filter(|_| calls > 0);
            let change = change.ok_or_else(|| Self::refuse(info, "no batch for its initial values has reached it"))?;
            let gradient = change.weight.val().transpose() / calls as f64;
            let [d_out, d_in] = gradient.dims();
            if 2 * rank > d_out.min(d_in) {
                let most = d_out.min(d_in) / 2;
                let reason = format!("its rank {rank} is above {most}, half of the rank of the gradient");
                return Err(Self::refuse(info, reason));
            }
            let (left, sizes, right) = svd::<2, 1>(gradient, SWEEPS);
            let (of_a, of_b): (Vec<usize>, Vec<usize>) = match self.ga_direction {
                GaDirection::ArB2r => ((0..rank).collect(), (rank..2 * rank).collect()),
                GaDirection::A2rBr => ((rank..2 * rank).collect(), (0..rank).collect()),
                GaDirection::ArBr => ((1..2 * rank).step_by(2).collect(), (0..2 * rank).step_by(2).collect()),
                GaDirection::Random => {
                    let mut drawn: Vec<(u64, usize)> = (0..2 * rank).map(|at| (rng.next_u64(), at)).collect();
                    drawn.sort_unstable();
                    let drawn: Vec<usize> = drawn.into_iter().take(rank).map(|(_, at)| at).collect();
                    (drawn.clone(), drawn)
                }
            };
            let chosen = |of: &[usize]| {
                let numbers: Vec<i64> = of.iter().map(|at| *at as i64).collect();
                Tensor::<1, Int>::from_data(TensorData::new(numbers, [rank]), &right.device())
            };
            let sizes = sizes.select(0, chosen(&of_b));
            let mut a = right.clone().select(0, chosen(&of_a));
            let mut b = left.select(1, chosen(&of_b)) * sizes.clone().unsqueeze_dim(0);
            match self.ga_scale {
                GaScale::Stable => {
                    // As the reference reads it from the weight, which a convolution of GPT-2 has the other way round.
                    let rows = if info.input_first { d_in } else { d_out };
                    b = b * ((rows as f64).powf(0.25) / self.ga_gamma.sqrt());
                }
                GaScale::WeightSvd => {
                    let frozen = host.linear(info.site);
                    let frozen =
                        frozen.ok_or_else(|| Self::refuse(info, "the model gives no access to this weight"))?;
                    let (_, of_weight, _) = svd::<2, 1>(float_weight(frozen), SWEEPS);
                    let [largest, of_weight] = [sizes, of_weight].map(|x| x.slice_dim(0, 0..1).into_scalar::<f64>());
                    if largest > 0.0 {
                        b = b * (of_weight / largest);
                    }
                }
                GaScale::GdScale => {
                    a = a / scale;
                    b = b / scale;
                }
                GaScale::Unit => {}
            }
            start.insert(info.site, (a.into_data(), b.into_data()));
        }
        Ok(Self {
            start: Some(Arc::new(start)),
            ..self.clone()
        })
    }
}

/// Rows whose element of the largest size is positive.
fn with_signs(rows: Tensor<2>) -> Tensor<2> {
    let (largest, least) = (rows.clone().max_dim(1), rows.clone().min_dim(1).neg());
    let negative = largest.lower(least).expand(rows.dims());
    rows.clone().mask_where(negative, rows.neg())
}

/// A symmetric matrix with enough on its diagonal that it has an inverse, and the inverse.
fn with_inverse(matrix: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let [size, _] = matrix.dims();
    let unit = Tensor::<2>::eye(size, &matrix.device());
    let mean: f64 = (matrix.clone() * unit.clone()).sum().into_scalar::<f64>() / size as f64;
    let mut damp = 0.01;
    loop {
        let damped = matrix.clone() + unit.clone() * (mean * damp);
        let (u, s, vt) = svd::<2, 1>(damped.clone(), SWEEPS);
        let inverse = (vt.transpose() / s.unsqueeze_dim(0)).matmul(u.transpose());
        let error = damped.clone().matmul(inverse.clone()) - unit.clone();
        let error: f64 = error.powi_scalar(2).sum().sqrt().into_scalar();
        if error < 0.05 || damp > 1e6 {
            return (damped, inverse);
        }
        damp *= 2.0;
    }
}

/// A and B of what a weight loses in eight bits: `scale B A` is the best such product for the difference. `None` for a weight that
/// is quantized already.
pub(crate) fn of_loss(layer: &Linear, rank: usize, scale: f64) -> Option<(TensorData, TensorData)> {
    let mut quantized = layer.clone();
    quantize_linear(&mut quantized, Precision::Int8)?;
    let loss = float_weight(layer) - float_weight(&quantized);
    let (u, s, vt) = svd::<2, 1>(loss.transpose(), SWEEPS);
    let root = (s.slice_dim(0, 0..rank) / scale).sqrt();
    let a = vt.slice_dim(0, 0..rank) * root.clone().unsqueeze_dim(1);
    let b = u.slice_dim(1, 0..rank) * root.unsqueeze_dim(0);
    Some((a.into_data(), b.into_data()))
}
