//! From a checked configuration to the layer at a site.

use adapters_core::copies::{bias_copy_of, copy_of};
use adapters_core::{
    Build, Erased, Error, LinearState, Shared, SharedParam, SiteAdapter, SiteInfo, SiteKind, SiteLayer,
};
use adapters_nn::{TorchRng, draw, float_weight};
use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::{FloatDType, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;

use crate::config::{BiasTraining, Dtype, LoraConfig, Scaling};
use crate::fused::FusedParts;
use crate::init::{from_weight, init_a, init_b};
use crate::inject::{FAMILY, Lora};
use crate::module::{Factored, Gate, LowRank, Origin};
use crate::table::LowRankTable;
use crate::variants::{
    DoraForm, Ia3Config, InputScale, Magnitude, MtlLora, MtlLoraConfig, OutputScale, Projection, Strength, TaskMatrix,
    TaskParam, Variant, VeraConfig, VeraForm, VeraMatrices, VeraVectors,
};

/// Builds the layer of one adapter at one site.
pub(crate) struct Builder<'a> {
    lora: &'a Lora,
    site: &'a SiteInfo,
    build: &'a Build<'a>,
    rng: ChaCha8Rng,
    /// The parts of a fused projection that are adapted.
    parts: Option<FusedParts>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(lora: &'a Lora, site: &'a SiteInfo, build: &'a Build<'a>) -> Self {
        let seed = match lora.variant() {
            Variant::Ia3(config) => config.seed,
            other => other.low_rank().and_then(|config| config.seed),
        };
        Self {
            lora,
            site,
            build,
            rng: build.rng(seed, site.site),
            parts: lora.variant().target().parts(site),
        }
    }

    pub(crate) fn layer(mut self) -> Result<SiteLayer, Error> {
        if let Some(saved) = self.lora.saved_modules()
            && adapters_core::target::Target::Modules(saved).covers(self.site)?
        {
            let copy = copy_of(self.build.host, self.site.site, self.build.device);
            return copy.ok_or_else(|| self.refuse("the model gives no access to this weight"));
        }
        let all_biases = self
            .lora
            .variant()
            .low_rank()
            .is_some_and(|lora| lora.bias == BiasTraining::All);
        if all_biases && !self.lora.variant().target().to_target().covers(self.site)? {
            let copy = bias_copy_of(self.build.host, self.site.site, self.build.device);
            return copy.ok_or_else(|| self.refuse("it has no bias to train"));
        }
        if let (Variant::Lora(config), SiteKind::Table { rows, d_model, padding }) =
            (self.lora.variant(), self.site.kind)
        {
            return self.table(config, rows, d_model, padding);
        }
        let (d_in, d_out) = self.linear_dims()?;
        Ok(match self.lora.variant() {
            Variant::Lora(config) => linear(self.low_rank(config, d_in, d_out)?),
            Variant::Dora(config) => {
                let inner = self.low_rank(&config.lora, d_in, d_out)?;
                self.with_magnitude(inner, config.form, config.lora.dtype)?
            }
            Variant::Vera(config) => match config.form {
                VeraForm::Matrices => linear(self.vera_matrices(config, d_in, d_out)?),
                VeraForm::Vectors => linear(VeraVectors {
                    d: self.param(draw::constant([config.lora.rank], config.d as f32), config.lora.dtype),
                    b: self.param(draw::constant([d_out], config.b as f32), config.lora.dtype),
                    d_in,
                    dropout: config.lora.dropout,
                    parts: self.parts.clone(),
                }),
            },
            Variant::Dvora(config) => {
                let inner = self.vera_matrices(config, d_in, d_out)?;
                self.with_magnitude(inner, DoraForm::AdapterHub, config.lora.dtype)?
            }
            Variant::MtlLora(config) => linear(self.mtl(config, d_in, d_out)?),
            Variant::Ia3(config) => self.ia3(config, d_in, d_out)?,
        })
    }

    fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::CannotBuild {
            method: FAMILY,
            path: self.site.path.clone(),
            reason: reason.into(),
        }
    }

    /// Input and output features of what is adapted.
    fn linear_dims(&self) -> Result<(usize, usize), Error> {
        let dims = self.lora.variant().target().dims(self.site);
        dims.ok_or_else(|| self.refuse("it adapts linear layers, and plain LoRA embedding tables too"))
    }

    fn param<const D: usize>(&self, data: TensorData, dtype: Option<Dtype>) -> Param<Tensor<D>> {
        let tensor = Tensor::<D>::from_data(data, self.build.device);
        Param::from_tensor(match dtype {
            Some(dtype) => tensor.cast(float_dtype(dtype)),
            None => tensor,
        })
    }

    fn gate(&mut self, d_in: usize) -> Gate {
        let gates = self.groups();
        let weight = draw::normal(&mut self.rng, [gates, d_in], 0.02);
        let bias = draw::uniform(&mut self.rng, [gates], (d_in as f32).sqrt().recip());
        Gate {
            weight: self.param(weight, None),
            bias: self.param(bias, None),
            parts: self.parts.clone(),
        }
    }

    /// How many products there are: one for each adapted part of a fused projection.
    fn groups(&self) -> usize {
        self.parts.as_ref().map_or(1, FusedParts::count)
    }

    fn gate_of(&mut self, config: &LoraConfig, d_in: usize) -> Option<Gate> {
        (config.scaling == Scaling::Gated).then(|| self.gate(d_in))
    }

    fn low_rank(&mut self, config: &LoraConfig, d_in: usize, d_out: usize) -> Result<LowRank, Error> {
        let (rank, scale) = config.rank_and_scale(&self.site.path)?;
        let frozen = self.build.host.linear(self.site.site);
        let (a, b, origin) = if config.init.takes_from_base() {
            if self.parts.is_some() {
                return Err(self.refuse("parts of a fused projection cannot begin as parts of its weight"));
            }
            if rank > d_in.min(d_out) {
                return Err(self.refuse(format!(
                    "its rank {rank} is above the {} of the weight",
                    d_in.min(d_out)
                )));
            }
            let frozen = frozen.ok_or_else(|| self.refuse("the model gives no access to this weight"))?;
            let (a, b) = from_weight(config.init, float_weight(frozen), rank, scale, self.build.device);
            let (a, b) = (a.into_data(), b.into_data());
            let origin = Origin {
                a: self.param(a.clone(), config.dtype).set_require_grad(false),
                b: self.param(b.clone(), config.dtype).set_require_grad(false),
            };
            (a, b, Some(origin))
        } else {
            let rows = rank * self.groups();
            let a = init_a(config.init, &mut self.rng, rank, [rows, d_in]);
            let b = init_b(config.init, &mut self.rng, d_out, rank);
            (a, b, None)
        };
        let gate = self.gate_of(config, d_in);
        let zeros = || self.param(draw::constant([d_out], 0.0), config.dtype);
        Ok(LowRank {
            a: self.param(a, config.dtype),
            b: self.param(b, config.dtype),
            up_bias: config.up_bias.then(zeros),
            base_bias: match (config.bias, frozen.and_then(|frozen| frozen.bias.as_ref())) {
                (BiasTraining::None, _) | (_, None) => None,
                (_, Some(bias)) => Some(self.param(bias.val().into_data(), None)),
            },
            parts: self.parts.clone(),
            origin,
            gate,
            scale,
            dropout: config.dropout,
        })
    }

    fn table(
        mut self,
        config: &LoraConfig,
        rows: usize,
        d_model: usize,
        padding: Option<usize>,
    ) -> Result<SiteLayer, Error> {
        if config.up_bias || config.init.takes_from_base() || config.scaling == Scaling::Gated {
            return Err(self.refuse("on an embedding table only the plain product is computed"));
        }
        let (rank, scale) = config.rank_and_scale(&self.site.path)?;
        // The other way round than in a linear layer, as published: A is zero.
        let b = draw::normal(&mut self.rng, [d_model, rank], 1.0);
        Ok(SiteLayer::Table(Erased::new(LowRankTable {
            a: self.param(draw::constant([rank, rows], 0.0), config.dtype),
            b: self.param(b, config.dtype),
            scale,
            padding,
        })))
    }

    fn vera_matrices(&mut self, config: &VeraConfig, d_in: usize, d_out: usize) -> Result<VeraMatrices, Error> {
        let first = shapes(self.lora.variant(), self.build)?.first().copied();
        if first != Some((d_in, d_out)) {
            return Err(self.refuse(format!(
                "all layers share matrices of the shape of the first, {first:?}, and this one is {:?}",
                (d_in, d_out)
            )));
        }
        let lora = &config.lora;
        Ok(VeraMatrices {
            d: self.param(diagonal(lora.rank, config.d as f32), lora.dtype),
            b: self.param(diagonal(d_out, config.b as f32), lora.dtype),
            d_in,
            gate: self.gate_of(lora, d_in),
            scale: lora.alpha / lora.rank as f64,
            dropout: lora.dropout,
            parts: self.parts.clone(),
        })
    }

    fn mtl(&mut self, config: &MtlLoraConfig, d_in: usize, d_out: usize) -> Result<MtlLora, Error> {
        let lora = &config.lora;
        let (rank, scale) = lora.rank_and_scale(&self.site.path)?;
        let n = config.up_projections;
        let a = init_a(lora.init, &mut self.rng, rank, [rank, d_in]);
        let b = init_b(lora.init, &mut self.rng, n * d_out, rank);
        Ok(MtlLora {
            a: self.param(a, lora.dtype),
            b: self.param(
                TensorData::new(b.iter::<f32>().collect::<Vec<_>>(), [n, d_out, rank]),
                lora.dtype,
            ),
            task: match config.matrix {
                TaskMatrix::SingularValues => TaskParam::Diagonal(self.param(draw::constant([rank], 1.0), lora.dtype)),
                TaskMatrix::Linear => TaskParam::Full(self.param(draw::constant([rank, rank], 1.0), lora.dtype)),
            },
            weights: self.param(draw::constant([n], 1.0), None),
            sharpness: config.sharpness,
            gate: self.gate_of(lora, d_in),
            scale,
            dropout: lora.dropout,
            parts: self.parts.clone(),
        })
    }

    fn ia3(&mut self, config: &Ia3Config, d_in: usize, d_out: usize) -> Result<SiteLayer, Error> {
        let on_input = match &config.feedforward {
            Some(modules) => modules.matches(&self.site.path)?,
            None => false,
        };
        if on_input {
            let l = init_b(config.init, &mut self.rng, 1, d_in);
            return Ok(linear(InputScale {
                l: self.param(l, config.dtype),
            }));
        }
        let l = init_b(config.init, &mut self.rng, d_out, 1);
        Ok(linear(OutputScale {
            l: self.param(l, config.dtype),
            gate: config.gated.then(|| self.gate(d_in)),
            scale: config.alpha,
            parts: self.parts.clone(),
        }))
    }

    fn with_magnitude<D>(&self, inner: D, form: DoraForm, dtype: Option<Dtype>) -> Result<SiteLayer, Error>
    where
        D: Module + ModuleDisplay + Factored + SiteAdapter<LinearState> + Sync + 'static,
    {
        let frozen = self.build.host.linear(self.site.site);
        let frozen = frozen.ok_or_else(|| self.refuse("the model gives no access to this weight"))?;
        let weight = float_weight(frozen);
        let [_, d_out] = weight.dims();
        let squares = weight.square().sum_dim(0).reshape([d_out]).into_data();
        let adapted = |row| self.parts.as_ref().is_none_or(|parts| parts.adapts(row));
        let rows: Vec<f32> = squares.iter::<f32>().collect();
        let rows = rows.into_iter().enumerate().filter(|(row, _)| adapted(*row));
        let norms: Vec<f32> = rows.map(|(_, square)| square.sqrt()).collect();
        let features = norms.len();
        let strength = match form {
            DoraForm::AdapterHub => Strength::Column(self.param(TensorData::new(norms, [features, 1]), dtype)),
            DoraForm::Peft => Strength::Vector(self.param(TensorData::new(norms, [features]), dtype)),
        };
        Ok(linear(Magnitude {
            inner,
            strength,
            squares: Tensor::from_data(squares, self.build.device),
            parts: self.parts.clone(),
            form,
        }))
    }
}

fn linear(layer: impl Module + SiteAdapter<LinearState> + Sync + 'static) -> SiteLayer {
    SiteLayer::Linear(Erased::new(layer))
}

fn diagonal(n: usize, value: f32) -> TensorData {
    let entry = |i| if i % (n + 1) == 0 { value } else { 0.0 };
    TensorData::new((0..n * n).map(entry).collect::<Vec<f32>>(), [n, n])
}

/// Input and output features of the adapted layers, in the order of the forward pass.
fn shapes(variant: &Variant, build: &Build<'_>) -> Result<Vec<(usize, usize)>, Error> {
    let selected = variant.target().to_target().select(build.host)?.sites;
    // Behind the weight door there is one weight, whatever the target says.
    let sites = if selected.is_empty() {
        build.host.sites()
    } else {
        selected
    };
    Ok(sites.iter().filter_map(|site| variant.target().dims(site)).collect())
}

/// What the layers share: VeRA's random matrices.
pub(crate) fn shared(variant: &Variant, build: &Build<'_>) -> Result<Shared, Error> {
    let (Variant::Vera(config) | Variant::Dvora(config)) = variant else {
        return Ok(Shared::new());
    };
    let shapes = shapes(variant, build)?;
    let (d_in, d_out) = match config.form {
        VeraForm::Matrices => shapes.first().copied().unwrap_or_default(),
        VeraForm::Vectors => shapes
            .iter()
            .fold((0, 0), |most, next| (most.0.max(next.0), most.1.max(next.1))),
    };
    let (name_a, name_b) = match config.form {
        VeraForm::Matrices => ("lora_A", "lora_B"),
        VeraForm::Vectors => ("vera_A", "vera_B"),
    };
    let lora = &config.lora;
    if let Projection::Drawn(key) = config.projection {
        let mut torch = TorchRng::new(key);
        // Kaiming uniform with the gain of a rectifier, A first.
        let mut matrix = |rows: usize, columns: usize| {
            let bound = (3.0f64.sqrt() * 2.0f64.sqrt() / (columns as f64).sqrt()) as f32;
            let values = torch.uniform(rows * columns, -bound, bound);
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), build.device)
        };
        let (a, b) = (matrix(lora.rank, d_in), matrix(d_out, lora.rank));
        return Ok(Shared::new().with_constant(name_a, a).with_constant(name_b, b));
    }
    let mut rng = build.shared_rng(lora.seed);
    let matrix = |data: TensorData| {
        let tensor = Tensor::<2>::from_data(data, build.device);
        SharedParam::Two(Param::from_tensor(match lora.dtype {
            Some(dtype) => tensor.cast(float_dtype(dtype)),
            None => tensor,
        }))
    };
    let a = matrix(init_a(lora.init, &mut rng, lora.rank, [lora.rank, d_in]));
    let b = matrix(init_b(lora.init, &mut rng, d_out, lora.rank));
    Ok(Shared::new().with(name_a, a).with(name_b, b).fixed())
}

fn float_dtype(dtype: Dtype) -> FloatDType {
    match dtype {
        Dtype::Float32 => FloatDType::F32,
        Dtype::Float16 => FloatDType::F16,
        Dtype::Bfloat16 => FloatDType::BF16,
    }
}
