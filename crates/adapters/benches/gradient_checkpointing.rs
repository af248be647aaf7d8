//! LoRA on a sentence encoder with the graph of the whole model in memory, or with that of one block: time and peak memory of
//! a training step. One way a process, so that the peaks do not mix.
//!
//! ```text
//! cargo bench -p adapters --features train --bench gradient_checkpointing -- whole 32 128
//! cargo bench -p adapters --features train --bench gradient_checkpointing -- blocks 32 128
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::time::Instant;

use adapters::models::{Pretrained, TextInput};
use adapters::train::{LossGradients, peak_rss_bytes};
use adapters::{AdapterSet, Ctx, Host, method};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};

const STEPS: u64 = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).filter(|text| text != "--bench");
    let way = args.next().unwrap_or_else(|| "blocks".to_owned());
    let mut number = |default: usize| args.next().map_or(Ok(default), |text| text.parse());
    let (batch, seq) = (number(16)?, number(128)?);
    let by_block = match way.as_str() {
        "blocks" => true,
        "whole" => false,
        other => return Err(format!("`{other}` is neither `whole` nor `blocks`").into()),
    };
    let device = Device::flex();
    device.seed(0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let model = Pretrained::open(&folder)?.encoder(&device)?;
    let mut set = AdapterSet::new();
    set.attach("lora", method("lora[r=8,alpha=16]")?, &model, 0, &device)?;
    set.activate("lora")?;
    let set = set.train();
    let head: Linear = LinearConfig::new(model.d_model(), 2).init(&device).train();
    let ids: Vec<i64> = (0..batch * seq).map(|i| 1000 + (i * 7919 % 20000) as i64).collect();
    let input = TextInput {
        ids: Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, seq]), &device),
        token_types: None,
        padding: None,
        packing: None,
    };
    let before = peak_rss_bytes().unwrap_or(0);
    let started = Instant::now();
    for step in 0..STEPS {
        let loss = |hidden: Tensor<3>, _: &mut Ctx<'_>| head.forward(hidden.mean_dim(1)).square().mean();
        let mut cx = Ctx::new(&set).training(step);
        let pass = match by_block {
            true => LossGradients::by_block(|cx| model.chain(input.clone(), cx), &set, &head, &cx, loss)?,
            false => {
                let hidden = model.forward(input.clone(), &mut cx)?;
                LossGradients::of(&loss(hidden, &mut cx), &set, &head)
            }
        };
        println!("step {step}: loss {:.6}", pass.loss);
    }
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{way}, batch {batch}, {seq} tokens: {:.2} s a step, peak {:.0} MB, of which {:.0} MB before the first step",
        started.elapsed().as_secs_f64() / STEPS as f64,
        megabytes(peak_rss_bytes().unwrap_or(0)),
        megabytes(before),
    );
    Ok(())
}
