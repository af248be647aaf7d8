//! The networks of P-tuning, which make a prompt's vectors while it trains.

use adapters_core::{Shared, SharedParam};
use adapters_nn::draw;
use burn::module::Param;
use burn::tensor::{Device, Tensor, activation};
use rand_chacha::ChaCha8Rng;

use crate::peft::Reparameterisation;

/// The vectors themselves, as they are stored.
pub(crate) const PROMPT: &str = "prompt_embeddings";
/// What the parameters of a network begin with.
pub(crate) const NETWORK: &str = "prompt_encoder.";
/// What the network reads, a row for each vector.
const EMBEDDING: &str = "prompt_encoder.embedding.weight";

/// The layers of the perceptron at the end, as torch numbers them: every second one is an activation.
fn head(network: &Reparameterisation) -> &'static [usize] {
    match network {
        Reparameterisation::Mlp { .. } => &[0, 2, 4],
        Reparameterisation::Lstm { .. } => &[0, 2],
    }
}

fn named(part: &str, rest: impl std::fmt::Display) -> String {
    format!("{NETWORK}{part}.{rest}")
}

/// Name of a parameter of the recurrent layers, e.g. `weight_ih_l0_reverse`.
fn recurrent(what: &str, layer: usize, reverse: bool) -> String {
    named(
        "lstm_head",
        format!("{what}_l{layer}{}", if reverse { "_reverse" } else { "" }),
    )
}

/// Initial values as torch's: rows normal, the rest uniform in plus and minus one by the root of what a unit reads.
pub(crate) fn new(
    network: &Reparameterisation,
    rows: usize,
    width: usize,
    rng: &mut ChaCha8Rng,
    device: &Device,
) -> Shared {
    let embedding = Param::from_data(draw::normal(rng, [rows, width], 1.0), device);
    let mut shared = Shared::new().with(EMBEDDING, SharedParam::Two(embedding));
    let mut matrix = |shared: Shared, name: String, shape: [usize; 2], bound: f32| {
        let param = Param::from_data(draw::uniform(rng, shape, bound), device);
        shared.with(name, SharedParam::Two(param))
    };
    let root = |n: usize| (n as f32).sqrt().recip();
    let mut biases: Vec<(String, usize, f32)> = Vec::new();
    let hidden = network.hidden_size();
    let sizes = match network {
        Reparameterisation::Mlp { .. } => vec![width, hidden, hidden, width],
        Reparameterisation::Lstm { layers, .. } => {
            for layer in 0..*layers {
                let d_in = if layer == 0 { width } else { 2 * hidden };
                for reverse in [false, true] {
                    for (what, d_in) in [("weight_ih", d_in), ("weight_hh", hidden)] {
                        let shape = [4 * hidden, d_in];
                        shared = matrix(shared, recurrent(what, layer, reverse), shape, root(hidden));
                    }
                    let both = ["bias_ih", "bias_hh"].map(|what| recurrent(what, layer, reverse));
                    biases.extend(both.map(|name| (name, 4 * hidden, root(hidden))));
                }
            }
            vec![2 * hidden, 2 * hidden, width]
        }
    };
    for (index, pair) in head(network).iter().zip(sizes.windows(2)) {
        let (d_in, d_out) = (pair[0], pair[1]);
        let name = named("mlp_head", format!("{index}.weight"));
        shared = matrix(shared, name, [d_out, d_in], root(d_in));
        biases.push((named("mlp_head", format!("{index}.bias")), d_out, root(d_in)));
    }
    for (name, size, bound) in biases {
        let param = Param::from_data(draw::uniform(rng, [size], bound), device);
        shared = shared.with(name, SharedParam::One(param));
    }
    shared
}

/// The vectors, `[rows, width]`.
///
/// - perceptron: `W4 relu(W2 relu(W0 e + b0) + b2) + b4` of each row `e`
/// - LSTM: the rows are a sequence, read from both ends; then `W2 relu(W0 h + b0) + b2`
pub(crate) fn forward(
    network: &Reparameterisation,
    shared: &Shared,
    dropout: impl Fn(Tensor<2>, f64) -> Tensor<2>,
) -> Tensor<2> {
    let mut x = shared.matrix(EMBEDDING);
    if let Reparameterisation::Lstm {
        layers, dropout: prob, ..
    } = network
    {
        for layer in 0..*layers {
            if layer > 0 {
                x = dropout(x, *prob);
            }
            let ways = [false, true].map(|reverse| pass(shared, &x, layer, reverse));
            x = Tensor::cat(ways.into(), 1);
        }
    }
    for (i, index) in head(network).iter().enumerate() {
        if i > 0 {
            x = activation::relu(x);
        }
        let weight = shared.matrix(&named("mlp_head", format!("{index}.weight")));
        let bias = shared.vector(&named("mlp_head", format!("{index}.bias")));
        x = x.matmul(weight.transpose()) + bias.unsqueeze();
    }
    x
}

/// One way through a recurrent layer, `[rows, d_in] -> [rows, hidden]`: `c = s(f) c + s(i) tanh(g)`,
/// `h = s(o) tanh(c)` with `i, f, g, o` the quarters of `W x + b + U h + d`.
///
/// *Long Short-Term Memory*, Hochreiter and Schmidhuber, 1997, as torch orders its gates.
fn pass(shared: &Shared, x: &Tensor<2>, layer: usize, reverse: bool) -> Tensor<2> {
    let at = |what: &str| recurrent(what, layer, reverse);
    let read = x.clone().matmul(shared.matrix(&at("weight_ih")).transpose());
    let bias = shared.vector(&at("bias_ih")) + shared.vector(&at("bias_hh"));
    let read = read + bias.unsqueeze();
    let again = shared.matrix(&at("weight_hh")).transpose();
    let ([rows, _], [hidden, _]) = (x.dims(), again.dims());
    let mut state = Tensor::<2>::zeros([1, hidden], &x.device());
    let mut cell = state.clone();
    let mut outputs = Vec::with_capacity(rows);
    for step in 0..rows {
        let t = if reverse { rows - 1 - step } else { step };
        let gates = read.clone().slice_dim(0, t..t + 1) + state.matmul(again.clone());
        let gate = |i: usize| gates.clone().slice_dim(1, i * hidden..(i + 1) * hidden);
        let (input, forget, new, output) = (gate(0), gate(1), gate(2), gate(3));
        cell = activation::sigmoid(forget) * cell + activation::sigmoid(input) * new.tanh();
        state = activation::sigmoid(output) * cell.clone().tanh();
        outputs.push(state.clone());
    }
    if reverse {
        outputs.reverse();
    }
    Tensor::cat(outputs, 0)
}
