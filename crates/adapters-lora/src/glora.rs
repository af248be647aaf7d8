//! GLoRA: a scale and a shift of weight and bias, each of a form of its own.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Causality, ConfigError, Effect, Error, LinearState, LinearWeight, Method, NamedParams,
    NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::site_builder::linear;

/// `W + W o A + B` and `b + b o D + E + W C`, `o` the elementwise product.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | rank of a product | >= 1 |
/// | `config_A_B` | `lora` | form of A and B | `lora`, `vector`, `constant`, `none` |
/// | `config_C` | `lora` | form of C | `lora`, `vector`, `none` |
/// | `config_D_E` | `constant` | form of D and E | `vector`, `constant`, `none` |
/// | `init_weights` | true | begin at zero; random values without it | |
///
/// `lora` is a product of rank `r`, `vector` one number an output (for C an input), `constant` one number. A layer without a
/// bias has A and B alone.
///
/// Paper: *One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning*, Chavan et al., 2023,
/// <https://arxiv.org/abs/2306.07967>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Glora {
    /// Rank of a product.
    pub r: usize,
    /// Form of A and B.
    #[serde(rename = "config_A_B")]
    pub weight: Form,
    /// Form of C.
    #[serde(rename = "config_C")]
    pub coupling: Form,
    /// Form of D and E.
    #[serde(rename = "config_D_E")]
    pub bias: Form,
    /// Whether the update begins at zero.
    pub init_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

/// How a matrix or vector is made of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", from = "Option<NamedForm>")]
pub enum Form {
    /// A product of rank `r`.
    Lora,
    /// One number a row.
    Vector,
    /// One number.
    Constant,
    /// Zero.
    None,
}

/// As files and config strings name it: in the second, `none` is no value.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum NamedForm {
    Lora,
    Vector,
    Constant,
    None,
}

impl From<Option<NamedForm>> for Form {
    fn from(form: Option<NamedForm>) -> Self {
        match form {
            Some(NamedForm::Lora) => Self::Lora,
            Some(NamedForm::Vector) => Self::Vector,
            Some(NamedForm::Constant) => Self::Constant,
            Some(NamedForm::None) | None => Self::None,
        }
    }
}

impl Default for Glora {
    fn default() -> Self {
        Self {
            r: 8,
            weight: Form::Lora,
            coupling: Form::Lora,
            bias: Form::Constant,
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Glora {
    const NAME: &'static str = "glora";
    const DESCRIPTION: &'static str = "Trained scales and shifts of the weight and the bias.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        let fits = self.coupling != Form::Constant;
        ConfigError::unless(fits, "config_C", "lora, vector or none", "constant")?;
        ConfigError::unless(
            self.bias != Form::Lora,
            "config_D_E",
            "vector, constant or none",
            "lora",
        )
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let mut rng = build.rng(None, site.site);
        let has_bias = build.host.linear(site.site).is_some_and(|frozen| frozen.bias.is_some());
        let mut path = |form: Form, rows: usize, cols: usize| self.path(form, [rows, cols], &mut rng, build);
        let (a, b) = (path(self.weight, d_out, d_in), path(self.weight, d_out, d_in));
        let c = if has_bias { path(self.coupling, d_in, 1) } else { None };
        let mut vector = || match (has_bias, self.bias) {
            (false, _) => None,
            (true, Form::Vector) => {
                let data = match self.init_weights {
                    true => draw::constant([d_out], 0.0),
                    false => draw::linear(&mut rng, [d_out], d_out),
                };
                Some(Path::Vector(Param::from_data(data, build.device)))
            }
            (true, form) => self.path(form, [d_out, 1], &mut rng, build),
        };
        let (d, e) = (vector(), vector());
        Ok(linear(ScaleAndShift { a, b, c, d, e }))
    }
}

impl Glora {
    fn path(&self, form: Form, [rows, cols]: [usize; 2], rng: &mut ChaCha8Rng, build: &Build<'_>) -> Option<Path> {
        let mut second = |shape: [usize; 2], std: bool| match (self.init_weights, std) {
            (true, _) => draw::constant(shape, 0.0),
            (false, true) => draw::normal(rng, shape, 0.02),
            (false, false) => draw::linear(rng, shape, shape[1]),
        };
        Some(match form {
            Form::Lora => {
                let left = Param::from_data(second([rows, self.r], false), build.device);
                let right = draw::linear(rng, [self.r, cols], cols);
                let right = Param::from_data(right, build.device);
                Path::Product(Factors { left, right })
            }
            Form::Vector => Path::Column(Param::from_data(second([rows, 1], false), build.device)),
            Form::Constant => {
                let data = second([1, 1], true).iter::<f32>().collect::<Vec<_>>();
                Path::Vector(Param::from_data(data.as_slice(), build.device))
            }
            Form::None => return None,
        })
    }
}

peft_modules!(Glora: "GLORA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;

    /// Zeros in place of a matrix that is turned off.
    fn is_computed(key: &str) -> bool {
        key.ends_with(".zeros")
    }
});

/// A product of two narrow matrices.
#[derive(Module, Debug)]
pub(crate) struct Factors {
    /// `[rows, r]`.
    pub(crate) left: Param<Tensor<2>>,
    /// `[r, columns]`.
    pub(crate) right: Param<Tensor<2>>,
}

/// One of the five matrices.
#[derive(Module, Debug)]
pub(crate) enum Path {
    /// A product.
    Product(Factors),
    /// One number a row, `[rows, 1]`.
    Column(Param<Tensor<2>>),
    /// One number an output, `[d_out]`, or one for all, `[1]`.
    Vector(Param<Tensor<1>>),
}

impl Path {
    /// A matrix that broadcasts to `[rows, columns]`. A vector is a column of it.
    fn matrix(&self) -> Tensor<2> {
        match self {
            Self::Product(product) => product.left.val().matmul(product.right.val()),
            Self::Column(column) => column.val(),
            Self::Vector(vector) => vector.val().unsqueeze_dim(1),
        }
    }

    fn params(&self, name: &str) -> Vec<(Cow<'static, str>, ParamId)> {
        match self {
            Self::Product(product) => vec![
                (format!("{name}.Xd").into(), product.left.id),
                (format!("{name}.Xu").into(), product.right.id),
            ],
            Self::Column(column) => vec![(format!("{name}.X").into(), column.id)],
            Self::Vector(vector) => vec![(format!("{name}.X").into(), vector.id)],
        }
    }
}

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct ScaleAndShift {
    /// Scales the weight, `[d_out, d_in]`; zero where it is absent, as the others.
    pub(crate) a: Option<Path>,
    /// Added to the weight, `[d_out, d_in]`.
    pub(crate) b: Option<Path>,
    /// `W C` is added to the bias, `[d_in, 1]`.
    pub(crate) c: Option<Path>,
    /// Scales the bias, `[d_out]`.
    pub(crate) d: Option<Path>,
    /// Added to the bias, `[d_out]`.
    pub(crate) e: Option<Path>,
}

impl ScaleAndShift {
    /// What is added to a weight `[d_in, d_out]`.
    fn weight_delta(&self, weight: &Tensor<2>) -> Option<Tensor<2>> {
        let scaled = self
            .a
            .as_ref()
            .map(Path::matrix)
            .map(|a| weight.clone() * a.transpose());
        let shift = self
            .b
            .as_ref()
            .map(Path::matrix)
            .map(|b| b.transpose().expand(weight.dims()));
        sum([scaled, shift])
    }

    /// What is added to a bias, `[1, d_out]`.
    fn bias_delta(&self, weight: &Tensor<2>, bias: Option<Tensor<1>>) -> Option<Tensor<2>> {
        let bias: Tensor<2> = bias?.unsqueeze_dim(0);
        let coupled = self
            .c
            .as_ref()
            .map(Path::matrix)
            .map(|c| c.transpose().matmul(weight.clone()));
        let scaled = self.d.as_ref().map(Path::matrix).map(|d| bias.clone() * d.transpose());
        let shift = self
            .e
            .as_ref()
            .map(Path::matrix)
            .map(|e| e.transpose().expand(bias.dims()));
        sum([coupled, scaled, shift])
    }
}

/// The sum of what is there.
fn sum<const N: usize>(terms: [Option<Tensor<2>>; N]) -> Option<Tensor<2>> {
    terms.into_iter().flatten().reduce(|a, b| a + b)
}

impl SiteAdapter<LinearState> for ScaleAndShift {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let weight = float_weight(&state.layer);
        let bias = state.layer.bias.as_ref().map(|bias| bias.val());
        let shift = self.bias_delta(&weight, bias);
        let ([batch, seq, _], [_, d_out]) = (state.input.dims(), weight.dims());
        let state = match self.weight_delta(&weight) {
            Some(delta) => state.plus(|x| x.matmul(delta.unsqueeze())),
            None => state.plus(|x| Tensor::zeros([batch, seq, d_out], &x.device())),
        };
        match shift {
            Some(shift) => state.plus(|_| shift.unsqueeze::<3>().expand([batch, seq, d_out])),
            None => state,
        }
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let shift = self.bias_delta(&base.weight, base.bias.clone());
        let bias = base.bias.map(|bias| match shift {
            Some(shift) => bias + shift.squeeze_dim::<1>(0),
            None => bias,
        });
        let weight = match self.weight_delta(&base.weight) {
            Some(delta) => base.weight + delta,
            None => base.weight,
        };
        Ok(LinearWeight { weight, bias })
    }
}

impl NamedParams for ScaleAndShift {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let paths = [&self.a, &self.b, &self.c, &self.d, &self.e];
        let named = paths.iter().zip(["A", "B", "C", "D", "E"]);
        named
            .flat_map(|(path, letter)| {
                path.iter()
                    .flat_map(move |path| path.params(&format!("glora_{letter}")))
            })
            .collect()
    }
}
