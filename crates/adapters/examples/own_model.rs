//! A Burn model of this program with hooks: every method attaches to it, and Burn's optimizer trains the adapter alone.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use adapters::core::{LinearRole, Stack};
use adapters::prelude::*;
use adapters::{Ctx, Error, Forward, Host, Location, Sited, Sites};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Distribution, Tensor};

/// A feed-forward block. A `Sited` field is a Burn layer that knows its place in the model.
#[derive(Module, Sites, Debug)]
struct Block {
    up: Sited<Linear>,
    down: Sited<Linear>,
}

impl Block {
    fn new(device: &Device) -> Self {
        let first_layer = Location::layer(Stack::Encoder, 0);
        let linear = |d_in, d_out| LinearConfig::new(d_in, d_out).init(device);
        Self {
            up: Sited::new(first_layer, LinearRole::FfnUp, "up", linear(16, 64)),
            down: Sited::new(first_layer, LinearRole::FfnDown, "down", linear(64, 16)),
        }
    }
}

impl Host for Block {
    fn architecture(&self) -> &str {
        "block"
    }

    fn d_model(&self) -> usize {
        16
    }
}

impl Forward for Block {
    type Input = Tensor<3>;
    type Output = Tensor<3>;

    /// `[batch, seq, 16] -> [batch, seq, 16]`.
    fn forward(&self, x: Tensor<3>, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        let (hooks, x) = cx.begin(self, x)?;
        let up = hooks.linear(&self.up, x).tanh();
        Ok(hooks.linear(&self.down, up))
    }
}

pub(crate) fn main() -> Result<(), Error> {
    let device = Device::flex();
    let mut model = Adapted::new(Block::new(&device));
    model.attach(
        "mine",
        method("lora[r=4,selfattn_lora=false,intermediate_lora=true,output_lora=true]")?,
    )?;
    model.activate("mine")?;
    let mut model = model.train();

    let x = Tensor::random([8, 4, 16], Distribution::Normal(0.0, 1.0), &device);
    let target = x.clone().abs();
    let mut optimizer = AdamWConfig::new().init();
    for step in 0..=100 {
        let loss = (model.training_forward(x.clone(), step)? - target.clone())
            .square()
            .mean();
        if step % 25 == 0 {
            println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-2, model, gradients);
    }
    Ok(())
}
