//! What a batch over several LoRAs costs beside a batch of one: time of a forward pass of the repository's MiniLM. The frozen layers
//! run once on the whole batch; only the narrow products are shared out.
//!
//! ```text
//! cargo bench -p adapters --features x86-v4 --bench mixed_batch
//! ```

#![allow(missing_docs)] // `criterion_group!` makes a public function.

#[path = "common/minilm.rs"]
mod minilm;

use adapters::{AdapterSet, Composition, Ctx, method};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

const SHAPE: [usize; 2] = [16, 128];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Random values for what begins at zero.
struct Redraw;

impl ModuleMapper for Redraw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| old.random_like(Distribution::Normal(0.0, 0.02)))
    }
}

fn forward(criterion: &mut Criterion) {
    let device = Device::flex();
    let model = minilm::model(&device).expect("the model of the repository");
    let input = minilm::input(SHAPE, &device);
    let mut set = AdapterSet::new();
    for (name, seed) in NAMES.into_iter().zip(0..) {
        let lora = method("lora[r=8,alpha=16]").expect("a method");
        set.attach(name, lora, &model, seed, &device).expect("it fits");
    }
    let set = set.map(&mut Redraw);
    let rows = SHAPE[0];
    let blocks = Composition::batch_split(NAMES, [rows / 4; 4]);
    // With the tasks of the rows, where it tells them apart.
    let ways: [(&str, Option<Composition>, usize); 4] = [
        ("no adapter", None, 0),
        ("one LoRA", Some("a".into()), 0),
        ("4 LoRAs, row after row", Some(Composition::multi_task(NAMES)), rows),
        ("4 LoRAs, in blocks of rows", Some(blocks), 0),
    ];
    let mut group = criterion.benchmark_group("mixed batch");
    group.sample_size(20);
    for (name, composition, told) in ways {
        let tasks = (0..told).map(|row| Some(row % NAMES.len()));
        let active = composition.map(|composition| set.composition(composition).expect("it runs"));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let cx = match &active {
                    Some(active) => Ctx::with_composition(&set, active).expect("it is of this set"),
                    None => Ctx::plain(),
                };
                let mut cx = cx.with_tasks(tasks.clone()).expect("they are of the batch");
                // Reading an element waits for the result.
                let sum: f32 = model
                    .forward(input.clone(), &mut cx)
                    .expect("it fits")
                    .sum()
                    .into_scalar();
                sum
            });
        });
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
