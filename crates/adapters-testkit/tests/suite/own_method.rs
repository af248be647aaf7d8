//! A method of a program of its own, from its configuration to its file: the example of CONTRIBUTING.md.

use adapters::core::target::Target;
use adapters::core::{
    AnyMethod, Build, Call, Causality, ConfigError, Effect, Erased, Error, Format, LinearState, LinearWeight, Method,
    NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters::methods::ModuleFields;
use adapters::methods::{PeftModules, Registry, peft_modules};
use adapters::nn::draw;
use adapters::nn::ops::project;
use adapters::store::{LoadOptions, load_adapter, save_adapter};
use adapters::{AdapterSet, Ctx, METHODS, MethodEntry};
use adapters_testkit::contract::{Bench, relative_error};
use burn::module::{Module, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

// 1. The configuration. Its fields are those of config strings and files; unknown fields of a file are kept in `targets`.

/// A sine of a low-rank product: `y = W x + b + scale B sin(A x)`, A `[r, d_in]` and B `[d_out, r]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Sine {
    /// Rank.
    r: usize,
    /// Factor of the update.
    scale: f64,
    /// Which modules.
    #[serde(flatten)]
    targets: ModuleFields,
}

impl Default for Sine {
    fn default() -> Self {
        Self {
            r: 4,
            scale: 1.0,
            targets: ModuleFields::default(),
        }
    }
}

// 2. The method: names, checks, sites, and the layer it builds for a site.

impl Method for Sine {
    const NAME: &'static str = "sine";
    const DESCRIPTION: &'static str = "An update through a sine.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::finite("scale", self.scale)
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let a = draw::normal(&mut build.rng(None, site.site), [self.r, d_in], 0.2);
        Ok(SiteLayer::Linear(Erased::new(SineLayer {
            a: Param::from_data(a, build.device),
            b: Param::from_data(draw::constant([d_out, self.r], 0.0), build.device),
            scale: self.scale,
        })))
    }
}

// 3. How it is stored: both codecs, with the given `peft_type`. A method that peft and AdapterHub both have implements
//    `Codec<Peft>` and `Codec<AdapterHub>` itself.

peft_modules!(Sine: "SINE");

// 4. The layer, what it adds to the output of the frozen one, and the names of its parameters in files.

/// The update of one linear layer.
#[derive(Module, Debug)]
struct SineLayer {
    /// `[r, d_in]`.
    a: Param<Tensor<2>>,
    /// `[d_out, r]`.
    b: Param<Tensor<2>>,
    /// Factor of the update.
    scale: f64,
}

impl SiteAdapter<LinearState> for SineLayer {
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        state.plus(|x| project(project(x, self.a.val()).sin() * self.scale, self.b.val()))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, _base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Err(NotMergeable {
            reason: "its update is not linear in the input",
        })
    }
}

named_params!(SineLayer: "sine_A" => a, "sine_B" => b);

// 5. The registry: the methods of `adapters` and this one.

fn methods() -> Registry {
    METHODS.with(MethodEntry::of::<Sine>())
}

#[test]
fn it_has_config_strings() {
    let method = methods().parse("sine[r=2,target_modules=[query]]").unwrap();
    assert_eq!(method.to_string(), "sine[r=2,target_modules=[query]]");
    assert_eq!(method.downcast_ref::<Sine>().unwrap().r, 2);
    let error = methods().parse("sine[scael=2]").unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("did you mean `scale`?"), "{source}");
    assert!(
        AnyMethod::new(Sine {
            r: 0,
            ..Sine::default()
        })
        .is_err()
    );
}

#[test]
fn it_is_attached_trained_saved_and_loaded() {
    let device = Device::flex().autodiff();
    let bench = Bench::new(2, 4, 7, &device);
    let run = |set: &AdapterSet| bench.model.forward(bench.input.clone(), &mut Ctx::new(set)).unwrap();

    let method = methods().parse("sine[r=3,scale=2]").unwrap();
    let mut set = AdapterSet::new();
    let plain = run(&set);
    set.attach("mine", method, &bench.model, 0, &device).unwrap();
    set.activate("mine").unwrap();
    let fresh = run(&set);
    assert!(
        relative_error(&fresh.clone().into_data(), &plain.into_data()) < 1e-6,
        "B is zero"
    );

    let mut gradients = fresh.clone().square().sum().backward();
    let gradients = GradientsParams::from_module(&mut gradients, &set);
    let set = AdamWConfig::new().init().step(0.1, set, gradients);
    let trained = run(&set).into_data();
    assert!(relative_error(&trained, &fresh.into_data()) > 1e-3, "a step changes it");

    let dir = tempfile::tempdir().unwrap();
    save_adapter(dir.path(), Format::Peft, &set, "mine", &bench.model).unwrap();
    let mut loaded = AdapterSet::new();
    let options = LoadOptions {
        name: Some("mine".to_owned()),
        ..LoadOptions::default()
    };
    load_adapter(dir.path(), &mut loaded, &bench.model, &methods(), &options, &device).unwrap();
    loaded.activate("mine").unwrap();
    assert_eq!(run(&loaded).into_data(), trained);
    let error = save_adapter(dir.path(), Format::AdapterHub, &set, "mine", &bench.model).unwrap_err();
    assert!(error.to_string().contains("sine"), "{error}");
}
