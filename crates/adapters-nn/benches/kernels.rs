//! Each kernel against the stock operation, at the shapes of MiniLM (16 x 128 tokens) and SmolLM2-135M.
//!
//! `cargo bench -p adapters-nn --features flex -- GROUP` for one of them; the pairs of a group have one name each.

use std::hint::black_box;

use adapters_nn::ops::{self, Activation};
use adapters_nn::{Dropout, Precision, quantize_linear};
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
        let stock = |x: &[Tensor<3>]| layer.forward(x[0].clone());
        pair(c, &name, x.clone(), |x| ops::linear(&layer, x[0].clone()), stock);
        let mut half = layer.clone();
        quantize_linear(&mut half, Precision::Bf16);
        let name = format!("linear bf16 {d_in} {d_out}");
        pair(c, &name, x, |x| ops::linear(&half, x[0].clone()), stock);
    }
}

/// The two products of LoRA, down to 8 numbers and up again.
fn trained(c: &mut Criterion) {
    for (d_in, d_out) in [(384, 8), (8, 384)] {
        let inputs = vec![random([2048, d_in]), random([d_out, d_in])];
        let rows = |x: &Tensor<2>| x.clone().unsqueeze_dim::<3>(0);
        pair(
            c,
            &format!("trained linear {d_in} {d_out}"),
            inputs,
            |x| ops::project(rows(&x[0]), x[1].clone()),
            |x| rows(&x[0].clone().matmul(x[1].clone().transpose())),
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

fn causal(c: &mut Criterion) {
    let bias = ops::causal_bias(512, 0, None, None, &Device::flex());
    let x: Vec<_> = (0..3).map(|_| random([1, 9, 512, 64])).collect();
    let ours = |x: &[Tensor<4>]| ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), Some(bias.clone()), None);
    pair(c, "causal attention of 512", x, ours, |x| stock(x, Some(&bias)));
}

fn rotary(c: &mut Criterion) {
    let (cos, sin) = (random([1, 1, 128, 32]), random([1, 1, 128, 32]));
    let x = vec![random([4, 128, 9, 64])];
    let ours = |x: &[Tensor<4>]| ops::rotary(x[0].clone().swap_dims(1, 2), cos.clone(), sin.clone());
    let stock = |x: &[Tensor<4>]| {
        let x = x[0].clone().swap_dims(1, 2);
        let (a, b) = (x.clone().slice_dim(3, 0..32), x.slice_dim(3, 32..64));
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        Tensor::cat(vec![first, b * cos.clone() + a * sin.clone()], 3)
    };
    pair(c, "rotary", x, ours, stock);
}

fn loss(c: &mut Criterion) {
    let weight = (random([49_152, 576]) * 0.05).transpose();
    let targets: Vec<i64> = (0..512).map(|row| row * 91 % 49_152).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [512]), &Device::flex());
    let ours = |x: &[Tensor<2>]| ops::linear_cross_entropy(x[0].clone(), weight.clone(), None, targets.clone());
    let stock = |x: &[Tensor<2>]| {
        let scores = x[0].clone().matmul(weight.clone());
        let picked = activation::log_softmax(scores, 1).gather(1, targets.clone().reshape([512, 1]));
        picked.neg().reshape([512])
    };
    pair(c, "loss of 49152", vec![random([512, 576])], ours, stock);
}

/// A layer of MiniLM with a LoRA of rank 8 on queries and values.
struct Layer {
    linear: [Linear; 6],
    lora: [Tensor<2>; 4],
    norms: [LayerNorm; 2],
}

impl Layer {
    fn new() -> Self {
        let device = Device::flex();
        let sizes = [(384, 384), (384, 384), (384, 384), (384, 384), (384, 1536), (1536, 384)];
        let norm = || LayerNormConfig::new(384).with_epsilon(1e-12).init(&device);
        let trained = |shape| {
            let x = Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.02), &device);
            Tensor::from_data(x.to_data(), &device.clone().autodiff()).require_grad()
        };
        Self {
            linear: sizes.map(|(d_in, d_out)| LinearConfig::new(d_in, d_out).init(&device)),
            lora: [[8, 384], [384, 8], [8, 384], [384, 8]].map(trained),
            norms: [norm(), norm()],
        }
    }

    fn forward(&self, x: Tensor<3>, bias: &Tensor<4>, kernels: bool, dropout: Option<&Dropout>) -> Tensor<3> {
        let [batch, seq, d_model] = x.dims();
        let linear = |i: usize, x: Tensor<3>| match kernels {
            true => ops::linear(&self.linear[i], x),
            false => self.linear[i].forward(x),
        };
        let norm = |i: usize, x: Tensor<3>, residual: Tensor<3>| match kernels {
            true => ops::add_layer_norm(&self.norms[i], x, residual),
            false => self.norms[i].forward(x + residual),
        };
        let lora = |i: usize, x: Tensor<3>| {
            ops::project(ops::project(x, self.lora[i].clone()), self.lora[i + 1].clone()) * 2.0
        };
        let dropped = |x: Tensor<3>| match dropout {
            Some(dropout) => dropout.forward(x, 0.1),
            None => x,
        };
        let heads = |x: Tensor<3>| x.reshape([batch, seq, 12, d_model / 12]).swap_dims(1, 2);
        let query = linear(0, x.clone()) + lora(0, x.clone());
        let value = linear(2, x.clone()) + lora(2, x.clone());
        let [query, key, value] = [query, linear(1, x.clone()), value].map(heads);
        let attended = match kernels {
            true => {
                let dropout = dropout.map(|dropout| (dropout, 0.1));
                ops::attention(query, key, value, Some(bias.clone()), dropout)
            }
            false => stock(&[query, key, value], Some(bias)),
        };
        let attended = linear(3, attended.swap_dims(1, 2).reshape([batch, seq, d_model]));
        let x = norm(0, dropped(attended), x);
        let up = linear(4, x.clone());
        let up = match kernels {
            true => Activation::Gelu.forward(up),
            false => activation::gelu(up),
        };
        norm(1, dropped(linear(5, up)), x)
    }
}

/// What a training step of the main job is made of: six layers, 16 x 128 tokens, the gradients of the LoRA.
fn encoder(c: &mut Criterion) {
    let layers: Vec<_> = (0..6).map(|_| Layer::new()).collect();
    let (x, bias, dropout) = (random([16, 128, 384]), random([16, 1, 1, 128]), Dropout::new(1));
    let step = |kernels: bool, dropout: Option<&Dropout>| {
        let layer = |x, layer: &Layer| layer.forward(x, &bias, kernels, dropout);
        let grads = layers.iter().fold(x.clone(), layer).square().mean().backward();
        let lora = layers.iter().flat_map(|layer| &layer.lora);
        black_box(lora.map(|x| x.grad(&grads)).collect::<Vec<_>>());
    };
    let mut group = c.benchmark_group("lora step of six layers");
    group.bench_function("kernel", |b| b.iter(|| step(true, None)));
    group.bench_function("stock", |b| b.iter(|| step(false, None)));
    group.bench_function("kernel, dropout", |b| b.iter(|| step(true, Some(&dropout))));
    group.finish();
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
    targets = linear, trained, elementwise, norms, attention, causal, rotary, loss, encoder
}
criterion_main!(benches);
