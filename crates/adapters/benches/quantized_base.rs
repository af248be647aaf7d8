//! LoRA over a base in floats and over the same base with its linear weights in `bf16` or in eight bits: bytes of the base, memory and
//! time of a training step, and how far the outputs are apart.
//!
//! ```text
//! cargo bench -p adapters --bench quantized_base
//! cargo bench -p adapters --bench quantized_base -- int8
//! ```
//!
//! Figures in MiB are resident memory as the system counts it; what an allocator keeps after freeing is in them. With
//! glibc, `MALLOC_MMAP_THRESHOLD_=131072` makes it give large blocks back.

#![allow(missing_docs)] // `criterion_group!` makes a public function.
#![expect(clippy::print_stdout, reason = "as criterion prints")]

#[path = "common/minilm.rs"]
mod minilm;
#[path = "common/peak.rs"]
mod peak;

use adapters::models::Model;
use adapters::nn::Precision;
use adapters::{AdapterSet, Ctx, method, quantize};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

const SHAPE: [usize; 2] = [8, 64];

/// Bytes of a model's parameters.
#[derive(Default)]
struct Bytes(usize);

impl ModuleVisitor for Bytes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        self.0 += match value.dtype() {
            DType::QFloat(_) => value.into_data().bytes().len(),
            dtype => value.shape().num_elements() * dtype.size(),
        };
    }
}

fn steps(criterion: &mut Criterion) {
    let device = Device::flex();
    let input = minilm::input(SHAPE, &device);
    let forward = |model: &Model, cx: &mut Ctx<'_>| model.forward(input.clone(), cx).expect("it fits");
    let floats = || minilm::model(&device).expect("the model of the repository");
    let expected = forward(&floats(), &mut Ctx::plain());
    let mut group = criterion.benchmark_group("base");
    group.sample_size(10);
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let (name, mut is_first) = (precision.to_string(), true);
        let mut model = floats();
        if !precision.is_f32() {
            quantize(&mut model, precision);
        }
        let mut set = AdapterSet::new();
        let lora = method("lora[r=8,alpha=16]").expect("a method");
        set.attach("lora", lora, &model, 0, &device).expect("it fits");
        set.activate("lora").expect("it runs");
        let set = set.train();
        let step = || drop(forward(&model, &mut Ctx::new(&set)).square().sum().backward());
        group.bench_function(&name, |bencher| {
            if std::mem::take(&mut is_first) {
                let mut bytes = Bytes::default();
                model.visit(&mut bytes);
                let off = (forward(&model, &mut Ctx::plain()) - expected.clone()).abs();
                let largest: f32 = off.max().into_scalar();
                println!(
                    "{name:<40} {} bytes of weights, outputs differ by at most {largest:.1e}",
                    bytes.0
                );
                peak::print(&name, step);
            }
            bencher.iter(step);
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
