//! Every operation with a kernel against the stock operation: results and gradients, at random shapes, strides and odd sizes.
//!
//! The level of instructions is the processor's, or what `ADAPTERS_SIMD` names: run them with `portable` and `avx2` too.
#![cfg(feature = "flex")]

use adapters_nn::ops::{self, Activation};
use adapters_nn::{Dropout, Precision, float_weight, quantize_linear};
use burn::module::Param;
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::tensor::{Bool, DType, Device, Distribution, Int, Tensor, TensorData, activation};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

mod trained;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.5), &Device::flex())
}

fn leaf<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    Tensor::from_data(x.to_data(), &Device::flex().autodiff()).require_grad()
}

fn close<const D: usize>(what: &str, ours: Tensor<D>, stock: Tensor<D>, tolerance: f32) {
    assert_eq!(ours.dims(), stock.dims(), "{what}");
    let (ours, stock) = (ours.into_data(), stock.into_data());
    let pairs = ours.iter::<f32>().zip(stock.iter::<f32>());
    for (index, (a, b)) in pairs.enumerate() {
        let allowed = tolerance * (1.0 + b.abs());
        assert!((a - b).abs() <= allowed, "{what}: element {index} is {a}, stock {b}");
    }
}

/// Compares a function of several tensors with the stock one, with and without a graph, gradients included.
fn compare<const D: usize, const R: usize>(
    what: &str,
    inputs: &[Tensor<D>],
    tolerance: f32,
    ours: impl Fn(Vec<Tensor<D>>) -> Tensor<R>,
    stock: impl Fn(Vec<Tensor<D>>) -> Tensor<R>,
) {
    let plain = ours(inputs.to_vec());
    close(what, plain.clone(), stock(inputs.to_vec()), tolerance);
    let leaves = || inputs.iter().map(leaf).collect::<Vec<_>>();
    let (a, b) = (leaves(), leaves());
    let probe = random(plain.dims());
    let (y, z) = (ours(a.clone()), stock(b.clone()));
    close(what, y.clone().inner(), plain, 1e-6);
    let (ga, gb) = ((y * probe.clone()).sum().backward(), (z * probe).sum().backward());
    for (index, (a, b)) in a.iter().zip(&b).enumerate() {
        let what = format!("{what}, gradient of input {index}");
        close(
            &what,
            a.grad(&ga).expect("a gradient"),
            b.grad(&gb).expect("a gradient"),
            tolerance,
        );
    }
}

struct Sizes(ChaCha8Rng);

impl Sizes {
    fn new() -> Self {
        Self(ChaCha8Rng::seed_from_u64(7))
    }

    fn up_to(&mut self, most: usize) -> usize {
        1 + self.0.next_u32() as usize % most
    }
}

#[test]
fn activations() {
    let mut sizes = Sizes::new();
    for name in ["gelu", "gelu_new", "quick_gelu", "silu", "relu", "gelu_10"] {
        let f: Activation = name.parse().unwrap();
        let stock = |x: Tensor<2>| match f {
            Activation::Gelu => activation::gelu(x),
            Activation::GeluTanh => activation::gelu_approximate(x),
            Activation::QuickGelu => activation::sigmoid(x.clone() * 1.702) * x,
            Activation::Silu => activation::silu(x),
            Activation::Gelu10 => activation::gelu(x).clamp(-10.0, 10.0),
            _ => activation::relu(x),
        };
        for shape in [[1, 1], [3, 7], [sizes.up_to(9), sizes.up_to(99)], [331, 257]] {
            let x = random(shape) * 3.0;
            compare(
                name,
                std::slice::from_ref(&x),
                4e-6,
                |x| f.forward(x[0].clone()),
                |x| stock(x[0].clone()),
            );
            let view = |x: Tensor<2>| f.forward(x.transpose());
            compare(
                name,
                &[x],
                4e-6,
                |x| view(x[0].clone()),
                |x| stock(x[0].clone().transpose()),
            );
        }
    }
}

#[test]
fn activations_of_extreme_numbers() {
    let device = Device::flex();
    let x = [-1e30, -200.0, -88.0, -20.0, 0.0, -0.0, 1e-30, 20.0, 88.0, 200.0, 1e18];
    for name in ["gelu", "gelu_new", "silu", "quick_gelu", "relu"] {
        let f: Activation = name.parse().unwrap();
        let y: Vec<f32> = f
            .forward(Tensor::<1>::from_floats(x, &device))
            .into_data()
            .iter()
            .collect();
        for (x, y) in x.iter().zip(&y) {
            let wanted = if *x > 0.0 {
                x * if *x < 1e-3 && name != "relu" { 0.5 } else { 1.0 }
            } else {
                0.0
            };
            assert!((y - wanted).abs() <= 1e-5 + 1e-6 * wanted, "{name}({x}) = {y}");
        }
        let y = f.forward(Tensor::<1>::from_floats([f32::NAN], &device));
        assert!(y.into_scalar::<f32>().is_nan(), "{name}");
    }
}

#[test]
fn gated_activation() {
    for shape in [[2, 3], [77, 501]] {
        let inputs = [random(shape), random(shape)];
        let stock = |x: Vec<Tensor<2>>| activation::silu(x[0].clone()) * x[1].clone();
        compare(
            "silu gated",
            &inputs,
            3e-6,
            |x| Activation::Silu.gated(x[0].clone(), x[1].clone()),
            stock,
        );
    }
}

#[test]
fn linear_layers() {
    let device = Device::flex();
    let mut sizes = Sizes::new();
    for bias in [true, false] {
        for _ in 0..6 {
            let (d_in, d_out) = (sizes.up_to(70), sizes.up_to(90));
            let layer: Linear = LinearConfig::new(d_in, d_out).with_bias(bias).init(&device);
            let x = random([sizes.up_to(4), sizes.up_to(40), d_in]);
            compare(
                "linear",
                &[x],
                1e-5,
                |x| ops::linear(&layer, x[0].clone()),
                |x| layer.forward(x[0].clone()),
            );
            // Rows of a view, and a weight that is a view.
            let x = random([3, d_in, 5]);
            let turned = |x: &[Tensor<3>]| x[0].clone().swap_dims(1, 2);
            compare(
                "linear",
                &[x],
                1e-5,
                |x| ops::linear(&layer, turned(&x)),
                |x| layer.forward(turned(&x)),
            );
            let weight = random([d_out + 2, d_in]).slice_dim(0, 1..d_out + 1);
            let stock = |x: Vec<Tensor<3>>| x[0].clone().matmul(weight.clone().transpose().unsqueeze());
            let x = random([2, 9, d_in]);
            compare(
                "project",
                &[x],
                1e-5,
                |x| ops::project(x[0].clone(), weight.clone()),
                stock,
            );
        }
    }
    let layer: Linear = LinearConfig::new(384, 768).init(&device);
    let x = random([4, 64, 384]);
    compare(
        "linear",
        &[x],
        2e-5,
        |x| ops::linear(&layer, x[0].clone()),
        |x| layer.forward(x[0].clone()),
    );
}

#[test]
fn few_rows_are_divided_by_columns() {
    for rows in [1, 3, 15] {
        let weight = random([700, 601]);
        let ours = |x: Vec<Tensor<2>>| ops::product(x[0].clone(), weight.clone());
        compare("few rows", &[random([rows, 700])], 5e-5, ours, |x| {
            x[0].clone().matmul(weight.clone())
        });
    }
}

#[test]
fn a_frozen_layer_may_be_on_the_autodiff_device() {
    let device = Device::flex().autodiff();
    let frozen = |x: &Tensor<2>| Tensor::<2>::from_data(x.to_data(), &device);
    let (x, weight, probe) = (random([5, 8]), random([8, 3]), random([5, 3]));
    let (a, b) = (leaf(&x), leaf(&x));
    let ours = (ops::product(a.clone(), frozen(&weight)) * probe.clone())
        .sum()
        .backward();
    let stock = (b.clone().matmul(frozen(&weight)) * probe).sum().backward();
    close(
        "autodiff",
        a.grad(&ours).expect("a gradient"),
        b.grad(&stock).expect("a gradient"),
        1e-5,
    );
}

#[test]
fn a_weight_in_bf16() {
    let device = Device::flex();
    for (rows, d_in, d_out) in [(1, 1, 1), (1, 40, 70), (150, 385, 131)] {
        let mut layer: Linear = LinearConfig::new(d_in, d_out).init(&device);
        quantize_linear(&mut layer, Precision::Bf16);
        assert_eq!(layer.weight.val().dtype(), DType::BF16);
        let mut stock = layer.clone();
        stock.weight = Param::from_tensor(float_weight(&layer)).set_require_grad(false);
        let x = random([2, rows, d_in]);
        // The other factor has eight bits of mantissa too.
        compare(
            "bf16",
            &[x],
            2e-2,
            |x| ops::linear(&layer, x[0].clone()),
            |x| stock.forward(x[0].clone()),
        );
        // As a view, and exact where the other factor has no more bits.
        let x = random([2, rows, d_out]).cast(DType::BF16).cast(DType::F32);
        let turned = ops::project(x.clone(), layer.weight.val());
        let wanted = x.matmul(float_weight(&layer).transpose().unsqueeze());
        close("bf16 transposed", turned, wanted, 1e-5);
    }
}

fn layer_norm(width: usize, epsilon: f64, bias: bool) -> LayerNorm {
    let mut norm: LayerNorm = LayerNormConfig::new(width)
        .with_epsilon(epsilon)
        .with_bias(bias)
        .init(&Device::flex());
    norm.gamma = Param::from_tensor(random([width]));
    norm.beta = bias.then(|| Param::from_tensor(random([width])));
    norm
}

#[test]
fn layer_norms() {
    for (shape, epsilon, bias) in [
        ([2, 3, 1], 1e-5, true),
        ([1, 5, 33], 1e-12, false),
        ([7, 13, 384], 1e-6, true),
    ] {
        let norm = layer_norm(shape[2], epsilon, bias);
        let inputs = [random(shape), random(shape)];
        compare(
            "layer norm",
            &inputs[..1],
            2e-5,
            |x| ops::layer_norm(&norm, x[0].clone()),
            |x| norm.forward(x[0].clone()),
        );
        compare(
            "layer norm of a sum",
            &inputs,
            2e-5,
            |x| ops::add_layer_norm(&norm, x[0].clone(), x[1].clone()),
            |x| norm.forward(x[0].clone() + x[1].clone()),
        );
    }
}

#[test]
fn a_layer_norm_is_asked_for_its_epsilon() {
    // Rows whose variance is small against every epsilon: a wrong one shows in the first digit.
    for epsilon in [1e-12, 1e-8, 1e-6, 1e-5, 1e-3, 0.25] {
        let norm = layer_norm(24, epsilon, true);
        let x = random([6, 24]) * 1e-7;
        close("epsilon", ops::layer_norm(&norm, x.clone()), norm.forward(x), 1e-6);
    }
}

#[test]
fn a_trained_norm_gets_its_gradients() {
    let mut norm = layer_norm(6, 1e-5, true);
    let gamma = leaf(&norm.gamma.val());
    norm.gamma = Param::from_tensor(gamma);
    let y = ops::layer_norm(&norm, random([3, 6]));
    let grads = y.sum().backward();
    assert!(norm.gamma.val().grad(&grads).is_some());
}

#[test]
fn rms_norms() {
    for shape in [[1, 1], [3, 33], [131, 576]] {
        let mut norm: RmsNorm = RmsNormConfig::new(shape[1]).with_epsilon(1e-6).init(&Device::flex());
        norm.gamma = Param::from_tensor(random([shape[1]]));
        let x = random(shape);
        compare(
            "rms norm",
            &[x],
            2e-5,
            |x| ops::rms_norm(&norm, x[0].clone()),
            |x| norm.forward(x[0].clone()),
        );
    }
}

/// Attention of stock operations; keys of a group are repeated.
fn stock_attention(x: &[Tensor<4>], scale: f64, bias: Option<Tensor<4>>, factors: Option<Tensor<4>>) -> Tensor<4> {
    let heads = x[0].dims()[1];
    let repeated = |x: &Tensor<4>| {
        let [batch, kv_heads, seq, width] = x.dims();
        let group = heads / kv_heads;
        let x = x
            .clone()
            .reshape([batch * kv_heads, 1, seq, width])
            .repeat_dim(1, group);
        x.reshape([batch, heads, seq, width])
    };
    let scores = x[0].clone().matmul(repeated(&x[1]).transpose()) * scale;
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    let weights = activation::softmax(scores, 3);
    let weights = match factors {
        Some(factors) => weights * factors,
        None => weights,
    };
    weights.matmul(repeated(&x[2]))
}

#[test]
fn rotary_positions() {
    let stock = |x: &Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>| {
        let half = x.dims()[3] / 2;
        let (a, b) = (x.clone().slice_dim(3, 0..half), x.clone().slice_dim(3, half..2 * half));
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        Tensor::cat(vec![first, b * cos.clone() + a * sin.clone()], 3)
    };
    for (case, tables) in [(0, 1), (1, 3)] {
        let (cos, sin) = (random([tables, 1, 21, 19]), random([tables, 1, 21, 19]));
        // As a projection leaves them, and dense.
        let x = match case {
            0 => random([3, 21, 5, 38]).swap_dims(1, 2),
            _ => random([3, 5, 21, 38]),
        };
        compare(
            "rotary",
            &[x],
            1e-5,
            |x| ops::rotary(x[0].clone(), cos.clone(), sin.clone()),
            |x| stock(&x[0], &cos, &sin),
        );
    }
}

#[test]
fn attentions() {
    let mut sizes = Sizes::new();
    for case in 0..22 {
        let (batch, kv_heads, group) = (sizes.up_to(3), sizes.up_to(3), sizes.up_to(3));
        let heads = kv_heads * group;
        let (seq_q, seq_k) = (sizes.up_to(40), sizes.up_to(70));
        // The last ones have one query, as in generation.
        let seq_q = if case < 14 { seq_q } else { 1 };
        let (width, value_width) = (sizes.up_to(20), sizes.up_to(20));
        // Every other case: heads as a projection leaves them, and keys that are a part of more.
        let split = |heads: usize, seq: usize, width: usize| match case % 2 {
            0 => random([batch, seq, heads, width]).swap_dims(1, 2),
            _ => random([batch, heads, seq + 3, width]).slice_dim(2, 2..seq + 2),
        };
        let inputs = [
            split(heads, seq_q, width),
            split(kv_heads, seq_k, width),
            split(kv_heads, seq_k, value_width),
        ];
        let bias = match case % 4 {
            0 => None,
            1 => Some(random([batch, 1, 1, seq_k])),
            2 => Some(random([1, heads, seq_q, seq_k])),
            _ => Some(random([batch, heads, seq_q, seq_k])),
        };
        let scale = 1.0 / (width as f64).sqrt();
        compare(
            &format!("attention {case}"),
            &inputs,
            5e-5,
            |x| ops::scaled_attention(x[0].clone(), x[1].clone(), x[2].clone(), scale, bias.clone(), None),
            |x| stock_attention(&x, scale, bias.clone(), None),
        );
        let dropped = |x: Vec<Tensor<4>>| {
            let dropout = Dropout::new(3);
            ops::scaled_attention(
                x[0].clone(),
                x[1].clone(),
                x[2].clone(),
                scale,
                bias.clone(),
                Some((&dropout, 0.3)),
            )
        };
        let ones = Tensor::<4>::ones([batch, heads, seq_q, seq_k], &Device::flex());
        let factors = Dropout::new(3).forward(ones, 0.3);
        compare(&format!("attention {case} with dropout"), &inputs, 5e-5, dropped, |x| {
            stock_attention(&x, scale, bias.clone(), Some(factors.clone()))
        });
    }
}

#[test]
fn long_attention_goes_by_blocks() {
    let inputs = [[1, 2, 300, 16], [1, 1, 700, 16], [1, 1, 700, 16]].map(random);
    let bias = ops::causal_bias(300, 400, Some(250), None, &Device::flex());
    compare(
        "blocks",
        &inputs,
        5e-5,
        |x| ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), Some(bias.clone()), None),
        |x| stock_attention(&x, 0.25, Some(bias.clone()), None),
    );
}

#[test]
fn hidden_keys_are_left_out() {
    // Causal, with a window, with padding in front, behind, and of a whole text, whose rows are means.
    let device = Device::flex();
    let inputs = [[3, 4, 50, 16], [3, 2, 70, 16], [3, 2, 70, 16]].map(random);
    let pads = |row: usize, key: usize| match row {
        0 => key < 25,
        1 => key > 60,
        _ => true,
    };
    let padding: Vec<bool> = (0..3 * 70).map(|i| pads(i / 70, i % 70)).collect();
    let padding = Tensor::<2, Bool>::from_data(TensorData::new(padding, [3, 70]), &device);
    for bias in [
        ops::causal_bias(50, 20, None, None, &device),
        ops::causal_bias(50, 20, Some(9), None, &device),
        ops::causal_bias(50, 20, None, Some(&padding), &device),
        ops::padding_bias(padding.clone()),
    ] {
        let factors = Dropout::new(3).forward(Tensor::<4>::ones([3, 4, 50, 70], &device), 0.3);
        compare(
            "hidden keys",
            &inputs,
            5e-5,
            |x| {
                let dropout = Dropout::new(3);
                let [q, k, v] = [0, 1, 2].map(|i: usize| x[i].clone());
                ops::attention(q, k, v, Some(bias.clone()), Some((&dropout, 0.3)))
            },
            |x| stock_attention(&x, 0.25, Some(bias.clone()), Some(factors.clone())),
        );
    }
}

#[test]
fn a_row_that_sees_nothing_is_a_mean() {
    let device = Device::flex();
    let inputs = [random([2, 2, 5, 8]), random([2, 2, 5, 8]), random([2, 2, 5, 8])];
    let padding = Tensor::<2, Bool>::from_data(
        TensorData::from([[true; 5], [false, false, false, true, true]]),
        &device,
    );
    let bias = ops::padding_bias(padding);
    compare(
        "padding",
        &inputs,
        5e-5,
        |x| ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), Some(bias.clone()), None),
        |x| stock_attention(&x, 1.0 / 8f64.sqrt(), Some(bias.clone()), None),
    );
}

#[test]
fn gradients_go_where_they_are_wanted_only() {
    let (q, k, v) = (random([1, 2, 4, 8]), leaf(&random([1, 2, 4, 8])), random([1, 2, 4, 8]));
    let grads = ops::attention(q.clone(), k.clone(), v.clone(), None, None)
        .sum()
        .backward();
    let got = k.grad(&grads).expect("a gradient");
    let stock = leaf(&k.clone().inner());
    let grads = stock_attention(&[q, stock.clone(), v], 1.0 / 8f64.sqrt(), None, None)
        .sum()
        .backward();
    close(
        "the gradient of keys",
        got,
        stock.grad(&grads).expect("a gradient"),
        5e-5,
    );
    // A bias that is trained gets its gradient by stock operations.
    let bias = leaf(&random([1, 2, 4, 4]));
    let (q, k, v) = (random([1, 2, 4, 8]), random([1, 2, 4, 8]), random([1, 2, 4, 8]));
    let grads = ops::attention(q, k, v, Some(bias.clone()), None).sum().backward();
    assert!(bias.grad(&grads).is_some());
}

#[test]
fn dropout_is_one_mask_forward_and_backward() {
    let x = leaf(&random([37, 111]));
    let y = Dropout::new(11).forward(x.clone(), 0.4);
    let mask = Dropout::new(11).forward(Tensor::<2>::ones([37, 111], &Device::flex()), 0.4);
    close("dropout", y.clone().inner(), x.clone().inner() * mask.clone(), 0.0);
    let probe = random([37, 111]);
    let grads = (y * probe.clone()).sum().backward();
    close(
        "dropout's gradient",
        x.grad(&grads).expect("a gradient"),
        probe * mask,
        0.0,
    );
}

#[test]
fn losses_of_a_vocabulary() {
    // The table of a tied head is read as it lies, `[vocab, width]`.
    for (rows, width, vocab, tied) in [(1, 3, 2, true), (9, 17, 1500, false), (300, 24, 2100, true)] {
        let weight = match tied {
            true => random([vocab, width]).transpose(),
            false => random([width, vocab]),
        };
        let bias = tied.then(|| random([vocab]));
        let targets: Vec<i64> = (0..rows).map(|row| (row * 7919 % (vocab + 1)) as i64 - 1).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &Device::flex());
        let stock = |x: Vec<Tensor<2>>| {
            let scores = x[0].clone().matmul(weight.clone());
            let scores = match &bias {
                Some(bias) => scores + bias.clone().unsqueeze(),
                None => scores,
            };
            let scored = targets.clone().greater_equal_elem(0).float();
            let picked = activation::log_softmax(scores, 1).gather(1, targets.clone().clamp_min(0).reshape([rows, 1]));
            picked.neg().reshape([rows]) * scored
        };
        compare(
            "loss",
            &[random([rows, width])],
            2e-5,
            |x| ops::linear_cross_entropy(x[0].clone(), weight.clone(), bias.clone(), targets.clone()),
            stock,
        );
    }
}

#[test]
fn one_thread_and_several_give_the_same_bits() {
    let inputs = [random([4, 6, 33, 32]), random([4, 6, 33, 32]), random([4, 6, 33, 32])];
    let norm = layer_norm(32, 5e-5, true);
    let run = || {
        let x: Vec<_> = inputs.iter().map(leaf).collect();
        let dropout = Dropout::new(5);
        let y = ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), None, Some((&dropout, 0.1)));
        let y = Activation::Gelu.forward(ops::layer_norm(&norm, dropout.forward(y, 0.2)));
        let grads = y.clone().square().sum().backward();
        let grads = x.iter().map(|x| x.grad(&grads).expect("a gradient").into_data());
        std::iter::once(y.inner().into_data()).chain(grads).collect::<Vec<_>>()
    };
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool")
    };
    let one = pool(1).install(run);
    for threads in [1, 2, 3] {
        assert!(one == pool(threads).install(run), "{threads} threads");
    }
}

#[test]
fn attention_of_one_query() {
    let inputs = [[8, 9, 1, 64], [8, 3, 129, 64], [8, 3, 129, 64]].map(random);
    compare(
        "one query",
        &inputs,
        5e-5,
        |x| ops::attention(x[0].clone(), x[1].clone(), x[2].clone(), None, None),
        |x| stock_attention(&x, 0.125, None, None),
    );
}
