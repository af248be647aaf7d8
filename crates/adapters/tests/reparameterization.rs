//! Reparameterization of modules that know nothing of adapters: Burn's own transformer, a convolution, a module of ours.

use std::path::Path;

use adapters::store::read_safetensors;
use adapters::{AdapterReparameterizer, Error, ForPaths, METHODS, method};
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::Conv2dConfig;
use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor, Tolerance};

fn transformer(device: &Device) -> TransformerEncoder {
    TransformerEncoderConfig::new(8, 16, 2, 2)
        .with_dropout(0.0)
        .init(device)
}

fn run(model: &TransformerEncoder, x: &Tensor<3>) -> Tensor<3> {
    model.forward(TransformerEncoderInput::new(x.clone()))
}

fn input(device: &Device) -> Tensor<3> {
    Tensor::random([2, 5, 8], Distribution::Normal(0.0, 1.0), device)
}

/// Names of the parameters that train.
fn trained(model: &impl Module) -> Vec<String> {
    #[derive(Default)]
    struct Names(Vec<String>, Vec<String>);
    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.base().is_require_grad() {
                self.1.push(self.0.join("."));
            }
        }
    }
    let mut names = Names::default();
    model.visit(&mut names);
    names.1
}

/// Every parameter that trains drawn anew.
fn randomized<M: Module>(model: M) -> M {
    struct Redraw;
    impl burn::module::ModuleMapper for Redraw {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match param.base().is_require_grad() {
                true => param.map(|t| t.random_like(Distribution::Normal(0.0, 0.5)).require_grad()),
                false => param,
            }
        }
    }
    model.map(&mut Redraw)
}

#[test]
fn lora_on_burns_transformer() {
    let device = Device::flex().autodiff();
    let model = transformer(&device);
    let x = input(&device);
    let before = run(&model, &x).into_data();
    let reparameterization = method("lora[r=2,alpha=6]")
        .unwrap()
        .for_paths(["*.query.weight", "*.value.weight"]);
    let model = reparameterization.clone().apply(model).unwrap();
    assert_eq!(run(&model, &x).into_data(), before, "a new adapter changes the output");
    let names = trained(&model);
    assert_eq!(names.len(), 2 * 2 * 2, "{names:?}");
    assert!(names.iter().all(|name| name.contains(".adapter.")), "{names:?}");

    let model = randomized(model);
    assert_ne!(run(&model, &x).into_data(), before);
    let gradients = run(&model, &x).square().sum().backward();
    struct Grads<'a>(&'a burn::tensor::Gradients, usize, usize);
    impl ModuleVisitor for Grads<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            match param.base().grad(self.0) {
                Some(_) => self.1 += 1,
                None => self.2 += 1,
            }
        }
    }
    let mut grads = Grads(&gradients, 0, 0);
    model.visit(&mut grads);
    assert_eq!(grads.1, names.len(), "of {} without", grads.2);

    // Burn would nest a second application onto the factors.
    let again = reparameterization.apply(model).unwrap_err();
    assert!(
        matches!(&again, Error::CannotBuild { reason, .. } if reason.contains("already adapted")),
        "{again}"
    );
}

#[test]
fn a_pattern_without_a_hit_names_what_there_is() {
    let model = transformer(&Device::flex());
    let reparameterization = method("lora").unwrap().for_paths(["*.query.weight", "*.querry.weight"]);
    let error = reparameterization.apply(model).unwrap_err().to_string();
    assert!(
        error.contains("*.querry.weight") && error.contains("did you mean `query.weight`?"),
        "{error}"
    );
}

#[test]
fn a_method_that_is_no_function_of_the_weight_is_refused() {
    for config in ["lora[use_gating=true]", "seq_bn", "vblora[vector_length=2]"] {
        let model = LinearConfig::new(4, 4).init(&Device::flex());
        let refused = method(config).unwrap().for_paths(["weight"]).apply(model);
        assert!(matches!(refused, Err(Error::CannotBuild { .. })), "{config}");
    }
    let model: Linear = LinearConfig::new(4, 4).init(&Device::flex());
    let refused = method("lora").unwrap().for_paths(["bias"]).apply(model);
    assert!(matches!(refused, Err(Error::CannotBuild { .. })));
}

/// A reparameterization computes what the activation path computes with the same parameters: `x W' ` for the merged `W'`.
#[test]
fn every_weight_method_goes_through_the_door() {
    let device = Device::flex().autodiff();
    for config in [
        "lora[r=3,alpha=5]",
        "dora[r=3,alpha=5]",
        "dora[r=3,alpha=5,form=peft]",
        "vera[r=3]",
        "vera[r=3,form=peft]",
        "ia3",
        "loha[r=2]",
        "lokr[r=1]",
        "delora[r=2]",
        "hira[r=2]",
        "miss[r=3]",
        "oft[oft_block_size=2]",
        "hra[r=2]",
        "boft[boft_block_size=3]",
        "fourierft[n_frequency=5,init_weights=true]",
    ] {
        let model: Linear = LinearConfig::new(6, 4).init(&device);
        let x = Tensor::<2>::random([3, 6], Distribution::Normal(0.0, 1.0), &device);
        let before = model.forward(x.clone()).into_data();
        let adapted = method(config).unwrap().for_paths(["weight"]).apply(model).unwrap();
        adapted
            .forward(x.clone())
            .into_data()
            .assert_approx_eq::<f32>(&before, Tolerance::absolute(1e-5));
        let adapted = randomized(adapted);
        let after = adapted.forward(x.clone()).into_data();
        assert_ne!(after, before, "{config}");
        // Materialized, the plain layer computes the same.
        let plain = adapted.materialize();
        plain
            .forward(x)
            .into_data()
            .assert_approx_eq::<f32>(&after, Tolerance::absolute(1e-5));
    }
}

#[test]
fn lora_on_a_convolution_is_a_product_of_flattened_kernels() {
    let device = Device::flex().autodiff();
    let conv = Conv2dConfig::new([3, 4], [2, 2]).init(&device);
    let x = Tensor::<4>::random([2, 3, 5, 5], Distribution::Normal(0.0, 1.0), &device);
    let before = conv.forward(x.clone()).into_data();
    let conv = method("lora[r=2]").unwrap().for_paths(["weight"]).apply(conv).unwrap();
    assert_eq!(conv.forward(x.clone()).into_data(), before);
    let conv = randomized(conv);
    assert_ne!(conv.forward(x).into_data(), before);
    assert_eq!(conv.weight.val().dims(), [4, 3, 2, 2]);
}

#[test]
fn saved_alone_in_pefts_format_and_loaded() {
    let device = Device::flex().autodiff();
    let plain = transformer(&device);
    let x = input(&device);
    let lora = method("lora[r=2,alpha=6]").unwrap();
    let published = |path: &str| {
        let layer = path.strip_prefix("layers.")?.split('.').next()?;
        let name = path.rsplit('.').nth(1)?;
        Some(format!("encoder.layer.{layer}.attention.self.{name}"))
    };
    let reparameterization = lora.clone().for_paths(["*.query.weight"]);
    let model = randomized(reparameterization.apply(plain.clone()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    AdapterReparameterizer::save(dir.path(), &model, &lora, published).unwrap();
    assert_eq!(
        keys(dir.path())[..2],
        [
            "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight",
            "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight",
        ]
    );
    let reparameterization = AdapterReparameterizer::load(dir.path(), &plain, &METHODS, published).unwrap();
    assert_eq!(
        reparameterization.method().to_string(),
        "lora[r=2,alpha=6,target_modules=[query]]"
    );
    let loaded = reparameterization.apply(plain).unwrap();
    assert_eq!(run(&loaded, &x).into_data(), run(&model, &x).into_data());
}

fn keys(dir: &Path) -> Vec<String> {
    let (tensors, _) = read_safetensors(&dir.join("adapter_model.safetensors")).unwrap();
    tensors.into_keys().collect()
}
