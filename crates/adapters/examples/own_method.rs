//! A method of this program, `y = W x + b + B sin(A x)`, registered without a change to the library.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use adapters::core::{
    Build, Call, Causality, ConfigError, Effect, Erased, LinearState, SiteAdapter, SiteInfo, SiteLayer, Source,
    named_params, target::Target,
};
use adapters::methods::{ModuleFields, PeftModules, peft_modules};
use adapters::nn::{draw, ops::project};
use adapters::prelude::*;
use adapters::{Error, Method, MethodEntry};
use burn::{module::Param, tensor::Tensor};
use serde::{Deserialize, Serialize};

/// The fields of config strings and files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Sine {
    r: usize,
    #[serde(flatten)]
    targets: ModuleFields,
}

impl Method for Sine {
    const NAME: &'static str = "sine";
    const DESCRIPTION: &'static str = "An update through a sine.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let drawn = draw::normal(&mut build.rng(None, site.site), [self.r, d_in], 0.2);
        let [a, b] = [drawn, draw::constant([d_out, self.r], 0.0)].map(|data| Param::from_data(data, build.device));
        Ok(SiteLayer::Linear(Erased::new(SineLayer { a, b })))
    }
}

peft_modules!(Sine: "SINE");

/// `A: [r, d_in]` and `B: [d_out, r]` of one linear layer.
#[derive(Module, Debug)]
struct SineLayer {
    a: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
}
named_params!(SineLayer: "sine_A" => a, "sine_B" => b);

impl SiteAdapter<LinearState> for SineLayer {
    fn apply(&self, state: LinearState, _: &Call<'_>) -> LinearState {
        state.plus(|x| project(project(x, self.a.val()).sin(), self.b.val()))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let methods = METHODS.with(MethodEntry::of::<Sine>());
    let base = Pretrained::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/all-MiniLM-L6-v2"))?;
    let mut model = Adapted::new(base.model(&Device::flex())?);
    println!("{}", model.attach("mine", methods.parse("sine[r=4]")?)?);
    let dir = tempfile::tempdir()?;
    model.save_with(dir.path(), Format::Peft)?;
    let mut other = model.without_adapters();
    println!("{}", other.load_with(dir.path(), &methods, &Default::default())?);
    Ok(())
}
