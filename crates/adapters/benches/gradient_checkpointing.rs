//! LoRA on a sentence encoder with the graph of the whole model in memory, or with that of one block: time and peak memory of
//! a training step.
//!
//! ```text
//! cargo bench -p adapters --features train --bench gradient_checkpointing -- whole
//! cargo bench -p adapters --features train --bench gradient_checkpointing -- block
//! ```

#![allow(missing_docs)] // `criterion_group!` makes a public function.

#[path = "common/minilm.rs"]
mod minilm;
#[path = "common/peak.rs"]
mod peak;

use adapters::train::LossGradients;
use adapters::{AdapterSet, Ctx, Host, method};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

const SHAPE: [usize; 2] = [16, 128];

fn steps(criterion: &mut Criterion) {
    let device = Device::flex();
    let model = minilm::model(&device).expect("the model of the repository");
    let mut set = AdapterSet::new();
    let lora = method("lora[r=8,alpha=16]").expect("a method");
    set.attach("lora", lora, &model, 0, &device).expect("it fits");
    set.activate("lora").expect("it runs");
    let set = set.train();
    let head: Linear = LinearConfig::new(model.d_model(), 2).init(&device).train();
    let input = minilm::input(SHAPE, &device);
    let loss = |hidden: Tensor<3>, _: &mut Ctx<'_>| head.forward(hidden.mean_dim(1)).square().mean();
    let whole = || {
        let mut cx = Ctx::new(&set).training(0);
        let hidden = model.forward(input.clone(), &mut cx).expect("it fits");
        LossGradients::of(&loss(hidden, &mut cx), &set, &head)
    };
    let by_block = || {
        let cx = Ctx::new(&set).training(0);
        LossGradients::by_block(|cx| model.chain(input.clone(), cx), &set, &head, &cx, loss).expect("it fits")
    };
    let ways: [(&str, &dyn Fn() -> LossGradients); 2] = [("whole graph", &whole), ("block by block", &by_block)];
    let mut group = criterion.benchmark_group("gradient checkpointing");
    group.sample_size(10);
    for (name, step) in ways {
        let mut is_first = true;
        group.bench_function(name, |bencher| {
            if std::mem::take(&mut is_first) {
                peak::print(name, || drop(step()));
            }
            bencher.iter(step);
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
