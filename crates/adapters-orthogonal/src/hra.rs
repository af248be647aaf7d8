//! HRA: the input reflected at learned planes.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method,
    NotMergeable, SiteAdapter, SiteInfo, SiteLayer, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::draw;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// `y = W H_1 .. H_r x + b` with reflections `H_i = I - 2 u_i u_i^T`, `u_i` of unit length.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | number of reflections | >= 1 |
/// | `apply_GS` | false | make the planes orthogonal to each other first (Gram-Schmidt) | |
///
/// With an even `r` and without `apply_GS` the initial reflections come in equal pairs, which undo each other.
///
/// Paper: *Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection Adaptation*, Yuan et
/// al., 2024, <https://arxiv.org/abs/2405.17484>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hra {
    /// Number of reflections.
    pub r: usize,
    /// Make the planes orthogonal to each other first.
    #[serde(rename = "apply_GS")]
    pub orthogonal: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Hra {
    fn default() -> Self {
        Self {
            r: 8,
            orthogonal: false,
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Hra {
    const NAME: &'static str = "hra";
    const DESCRIPTION: &'static str = "The input reflected at learned hyperplanes (Householder reflections).";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, _) = Self::linear_dims(site)?;
        let r = self.r;
        let mut rng = build.rng(None, site.site);
        let paired = r.is_multiple_of(2) && !self.orthogonal;
        let drawn = if paired { r / 2 } else { r };
        let half = draw::linear(&mut rng, [d_in, drawn], drawn);
        let u = match paired {
            true => TensorData::new(half.iter::<f32>().flat_map(|x| [x, x]).collect::<Vec<_>>(), [d_in, r]),
            false => half,
        };
        Ok(SiteLayer::Linear(Erased::new(Reflections {
            u: Param::from_data(u, build.device),
            orthogonal: self.orthogonal,
        })))
    }
}

peft_modules!(Hra: "HRA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

/// The reflections of one layer's input.
#[derive(Module, Debug)]
pub struct Reflections {
    /// Normals of the planes, `[d_in, r]`, of any length.
    pub u: Param<Tensor<2>>,
    /// Whether they are made orthogonal first.
    pub orthogonal: bool,
}

impl Reflections {
    /// Unit normals, `[d_in, 1]` each, orthogonal to each other where asked.
    fn normals(&self) -> Vec<Tensor<2>> {
        let [_, r] = self.u.dims();
        let mut normals: Vec<Tensor<2>> = Vec::with_capacity(r);
        for i in 0..r {
            let mut u = self.u.val().slice_dim(1, i..i + 1);
            if self.orthogonal {
                for v in &normals {
                    u = u.clone() - v.clone() * (v.clone() * u).sum_dim(0);
                }
            }
            let length = u.clone().square().sum_dim(0).sqrt();
            normals.push(u / length);
        }
        normals
    }

    /// `x H_r .. H_1` for rows `x`, `[rows, d_in]`: what the layer's input becomes.
    fn reflect(&self, x: Tensor<2>) -> Tensor<2> {
        let normals = self.normals();
        if self.orthogonal {
            // Orthogonal reflections commute, and act at once.
            let v = Tensor::cat(normals, 1);
            return x.clone() - x.matmul(v.clone()).matmul(v.transpose()) * 2.0;
        }
        normals
            .into_iter()
            .rev()
            .fold(x, |x, u| x.clone() - x.matmul(u.clone()).matmul(u.transpose()) * 2.0)
    }
}

impl SiteAdapter<LinearState> for Reflections {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let [batch, seq, d_in] = state.input.dims();
        let rows = state.input.reshape([batch * seq, d_in]);
        LinearState {
            input: self.reflect(rows).reshape([batch, seq, d_in]),
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let [d_in, _] = base.weight.dims();
        let eye = Tensor::<2>::eye(d_in, &base.weight.device());
        Ok(LinearWeight {
            weight: self.reflect(eye).matmul(base.weight),
            ..base
        })
    }
}

named_params!(Reflections: "hra_u" => u);
