//! Each kernel against the stock operation, at the shapes of MiniLM (16 x 128 tokens) and SmolLM2-135M.
//!
//! `cargo bench -p adapters-nn --features flex -- GROUP` for one of them; the pairs of a group have one name each.

use std::hint::black_box;

use adapters_nn::ops::{self, Activation};
use adapters_nn::{Dropout, bf16_linear};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData, activation};
use criterion::{Criterion, criterion_group, criterion_main};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Forward on the plain device, and forward with backward on the autodiff one.
fn pair<const D: usize, const R: usize>(
    c: &mut Criterion,
    name: &str,
    inputs: Vec<Tensor<D>>,
    ours: impl Fn(&[Tensor<D>]) -> Tensor<R>,
    stock: impl Fn(&[Tensor<D>]) -> Tensor<R>,
) {
    let mut forward = c.benchmark_group(format!("{name} forward"));
    forward.bench_function("kernel", |b| b.iter(|| black_box(ours(&inputs))));
    forward.bench_function("stock", |b| b.iter(|| black_box(stock(&inputs))));
    forward.finish();
    let device = Device::flex().autodiff();
    let leaves: Vec<_> = inputs
        .iter()
        .map(|x| Tensor::<D>::from_data(x.to_data(), &device).require_grad())
        .collect();
    let probe = ours(&inputs) * 0.5;
    let step = |f: &dyn Fn(&[Tensor<D>]) -> Tensor<R>| {
        let grads = (f(&leaves) * probe.clone()).sum().backward();
        leaves.iter().map(|x| x.grad(&grads)).collect::<Vec<_>>()
    };
    let mut both = c.benchmark_group(format!("{name} step"));
    both.bench_function("kernel", |b| b.iter(|| black_box(step(&ours))));
    both.bench_function("stock", |b| b.iter(|| black_box(step(&stock))));
    both.finish();
}

fn linear(c: &mut Criterion) {
    let device = Device::flex();
    for (d_in, d_out) in [(384, 384), (384, 1536), (1536, 384)] {
        let layer: Linear = LinearConfig::new(d_in, d_out).init(&device);
        let name = format!("linear {d_in} {d_out}");
        let x = vec![random([16, 128, d_in])];
        pair(
            c,
            &name,
            x,
            |x| ops::linear(&layer, x[0].clone()),
            |x| layer.forward(x[0].clone()),
        );
    }
}

fn elementwise(c: &mut Criterion) {
    let x = vec![random([16, 128, 1536])];
    let gelu = |x: &[Tensor<3>]| activation::gelu(x[0].clone());
    pair(c, "gelu", x.clone(), |x| Activation::Gelu.forward(x[0].clone()), gelu);
    let tanh = |x: &[Tensor<3>]| activation::gelu_approximate(x[0].clone());
    pair(c, "gelu tanh", x, |x| Activation::GeluTanh.forward(x[0].clone()), tanh);
    let gated = |x: &[Tensor<3>]| Activation::Silu.gated(x[0].clone(), x[1].clone());
    let stock = |x: &[Tensor<3>]| activation::silu(x[0].clone()) * x[1].clone();
    let x = vec![random([4, 128, 1536]), random([4, 128, 1536])];
    pair(c, "silu gated", x, gated, stock);
    let dropout = Dropout::new(1);
    let x = vec![random([16, 128, 384])];
    pair(
        c,
        "dropout",
        x,
        |x| dropout.forward(x[0].clone(), 0.1),
        |x| {
            let mask = Tensor::<3>::random(x[0].dims(), Distribution::Bernoulli(0.9), &Device::flex());
            x[0].clone() * mask / 0.9
        },
    );
}

fn norms(c: &mut Criterion) {
    let device = Device::flex();
    let norm: LayerNorm = LayerNormConfig::new(384).with_epsilon(1e-12).init(&device);
    let x = vec![random([16, 128, 384]), random([16, 128, 384])];
    let ours = |x: &[Tensor<3>]| ops::add_layer_norm(&norm, x[0].clone(), x[1].clone());
    pair(c, "layer norm", x, ours, |x| norm.forward(x[0].clone() + x[1].clone()));
    let norm: RmsNorm = RmsNormConfig::new(576).init(&device);
    let x = vec![random([4, 128, 576])];
    pair(
        c,
        "rms norm",
        x,
        |x| ops::rms_norm(&norm, x[0].clone()),
        |x| norm.forward(x[0].clone()),
    );
}

/// Stock attention of heads `[batch, heads, seq, d_head]`, all of as many.
fn stock(x: &[Tensor<4>], bias: Option<&Tensor<4>>) -> Tensor<4> {
    let scale = 1.0 / (x[0].dims()[3] as f64).sqrt();
    let scores = (x[0].clone() * scale).matmul(x[1].clone().transpose());
    let scores = match bias {
        Some(bias) => scores + bias.clone(),
        None => scores,
    };
    activation::softmax(scores, 3).matmul(x[2].clone())
}

fn attention(c: &mut Criterion) {
    let bias = random([16, 1, 1, 128]);
    let x: Vec<_> = (0..3).map(|_| random([16, 128, 12, 32])).collect();
    let heads = |x: &[Tensor<4>]| x.iter().map(|x| x.clone().swap_dims(1, 2)).collect::<Vec<_>>();
    let ours = |x: &[Tensor<4>], dropout| {
        let x = heads(x);
        let out = ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), Some(bias.clone()), dropout);
        out.swap_dims(1, 2).reshape([16, 128, 384])
    };
    let stock = |x: &[Tensor<4>]| stock(&heads(x), Some(&bias)).swap_dims(1, 2).reshape([16, 128, 384]);
    pair(c, "attention", x.clone(), |x| ours(x, None), stock);
    let dropout = Dropout::new(1);
    pair(
        c,
        "attention with dropout",
        x,
        |x| ours(x, Some((&dropout, 0.1))),
        stock,
    );
}

fn loss(c: &mut Criterion) {
    let weight = random([49_152, 576]) * 0.05;
    let targets: Vec<i64> = (0..512).map(|row| row * 91 % 49_152).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [512]), &Device::flex());
    let ours = |x: &[Tensor<2>]| ops::linear_cross_entropy(x[0].clone(), weight.clone(), None, targets.clone());
    let stock = |x: &[Tensor<2>]| {
        let scores = x[0].clone().matmul(weight.clone().transpose());
        let picked = activation::log_softmax(scores, 1).gather(1, targets.clone().reshape([512, 1]));
        picked.neg().reshape([512])
    };
    pair(c, "loss of 49152", vec![random([512, 576])], ours, stock);
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_millis(1200))
}

criterion_group! {
    name = benches;
    config = config();
    targets = linear, elementwise, norms, attention, loss
}
criterion_main!(benches);
