//! LoRA on a model of stock Burn layers that knows nothing of adapters: a reparameterization of its weights.
//!
//! ```text
//! cargo run --release -p adapters --example any_burn_model
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use adapters::store::StoreError;
use adapters::{AdapterReparameterizer, ForPaths, METHODS, method};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor};

/// A model as anybody writes it.
#[derive(Module, Debug)]
struct Mlp {
    first: Linear,
    second: Linear,
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.second.forward(Relu::new().forward(self.first.forward(x)))
    }
}

pub(crate) fn main() -> Result<(), StoreError> {
    let device = Device::flex().autodiff();
    let model = Mlp {
        first: LinearConfig::new(16, 64).init(&device),
        second: LinearConfig::new(64, 4).init(&device),
    };
    let lora = method("lora[r=4,alpha=8]")?;
    let mut model = lora.clone().for_paths(["first.weight", "second.weight"]).apply(model)?;

    // Whatever the task is: here, one the frozen model does not solve.
    let x = Tensor::random([256, 16], Distribution::Normal(0.0, 1.0), &device);
    let target = x.clone().slice_dim(1, 0..4).abs();
    let mut optimizer = AdamWConfig::new().init();
    for step in 0..=200 {
        let loss = (model.forward(x.clone()) - target.clone()).square().mean();
        if step % 50 == 0 {
            println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        }
        let mut gradients = loss.backward();
        let gradients = GradientsParams::from_module(&mut gradients, &model);
        model = optimizer.step(1e-2, model, gradients);
    }

    // The update alone, in peft's format, under names of our choice; and back.
    let dir = std::env::temp_dir().join("any_burn_model_adapter");
    let published = |path: &str| path.strip_suffix(".weight").map(str::to_owned);
    AdapterReparameterizer::save(&dir, &model, &lora, published)?;
    let plain = Mlp {
        first: LinearConfig::new(16, 64).init(&device),
        second: LinearConfig::new(64, 4).init(&device),
    };
    let loaded = AdapterReparameterizer::load(&dir, &plain, &METHODS, published)?.apply(plain)?;
    println!(
        "saved to {}, {} parameters with the base",
        dir.display(),
        loaded.num_params()
    );
    Ok(())
}
