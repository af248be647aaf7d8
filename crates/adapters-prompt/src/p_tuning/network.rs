//! The networks of P-tuning, which compute the rows while they train.

use adapters_core::{Shared, SharedParam};
use adapters_nn::draw;
use burn::module::Param;
use burn::tensor::{Device, Tensor, activation};
use rand_chacha::ChaCha8Rng;

/// A network that computes the rows of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptNetwork {
    /// Three linear layers with ReLU between: `W4 relu(W2 relu(W0 e + b0) + b2) + b4` of each row `e` of an embedding.
    Mlp {
        /// Width between the layers.
        hidden_size: usize,
    },
    /// A bidirectional LSTM over the rows of an embedding, then `W2 relu(W0 h + b0) + b2`.
    Lstm {
        /// Width of a direction.
        hidden_size: usize,
        /// Recurrent layers.
        layers: usize,
        /// Dropout probability between them.
        dropout: f64,
    },
}

/// Beginning of the names of a network's parameters.
pub(crate) const NETWORK: &str = "prompt_encoder.";
/// What the network reads, a row for each vector.
const EMBEDDING: &str = "prompt_encoder.embedding.weight";

fn named(module: &str, param: impl std::fmt::Display) -> String {
    format!("{NETWORK}{module}.{param}")
}

/// Name of a parameter of the recurrent layers, e.g. `weight_ih_l0_reverse`.
fn recurrent(what: &str, layer: usize, reverse: bool) -> String {
    named(
        "lstm_head",
        format!("{what}_l{layer}{}", if reverse { "_reverse" } else { "" }),
    )
}

impl PromptNetwork {
    fn hidden_size(&self) -> usize {
        match self {
            Self::Mlp { hidden_size } | Self::Lstm { hidden_size, .. } => *hidden_size,
        }
    }

    /// Numbers of the linear layers at the end, as torch counts them: every second layer is an activation.
    fn linear_layers(&self) -> &'static [usize] {
        match self {
            Self::Mlp { .. } => &[0, 2, 4],
            Self::Lstm { .. } => &[0, 2],
        }
    }

    /// Fresh parameters, as torch initializes them: the embedding normal, the rest uniform in plus and minus one over the root
    /// of a unit's inputs.
    pub(crate) fn draw(&self, rows: usize, width: usize, rng: &mut ChaCha8Rng, device: &Device) -> Shared {
        let embedding = Param::from_data(draw::normal(rng, [rows, width], 1.0), device);
        let mut shared = Shared::new().with(EMBEDDING, SharedParam::Two(embedding));
        let mut matrix = |shared: Shared, name: String, shape: [usize; 2], bound: f32| {
            let param = Param::from_data(draw::uniform(rng, shape, bound), device);
            shared.with(name, SharedParam::Two(param))
        };
        let root = |n: usize| (n as f32).sqrt().recip();
        let mut biases: Vec<(String, usize, f32)> = Vec::new();
        let hidden = self.hidden_size();
        let sizes = match self {
            Self::Mlp { .. } => vec![width, hidden, hidden, width],
            Self::Lstm { layers, .. } => {
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
        for (index, pair) in self.linear_layers().iter().zip(sizes.windows(2)) {
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

    /// The parameters that [`draw`](Self::draw) named.
    fn values(&self, shared: &Shared) -> Values {
        let layers = match self {
            Self::Mlp { .. } => 0,
            Self::Lstm { layers, .. } => *layers,
        };
        let direction = |layer: usize, reverse: bool| {
            let name = |what: &str| recurrent(what, layer, reverse);
            Direction {
                input: shared.matrix(&name("weight_ih")),
                hidden: shared.matrix(&name("weight_hh")),
                bias: shared.vector(&name("bias_ih")) + shared.vector(&name("bias_hh")),
            }
        };
        let linear = |index: &usize| {
            let name = |what: &str| named("mlp_head", format!("{index}.{what}"));
            (shared.matrix(&name("weight")), shared.vector(&name("bias")))
        };
        Values {
            embedding: shared.matrix(EMBEDDING),
            recurrent: (0..layers)
                .map(|layer| [false, true].map(|reverse| direction(layer, reverse)))
                .collect(),
            linear: self.linear_layers().iter().map(linear).collect(),
        }
    }

    /// The rows, `[rows, width]`.
    pub(crate) fn forward(&self, shared: &Shared, dropout: impl Fn(Tensor<2>, f64) -> Tensor<2>) -> Tensor<2> {
        let values = self.values(shared);
        let probability = match self {
            Self::Mlp { .. } => 0.0,
            Self::Lstm { dropout, .. } => *dropout,
        };
        let mut x = values.embedding;
        for (layer, [forward, backward]) in values.recurrent.into_iter().enumerate() {
            if layer > 0 {
                x = dropout(x, probability);
            }
            x = Tensor::cat(vec![forward.read(&x, false), backward.read(&x, true)], 1);
        }
        for (index, (weight, bias)) in values.linear.into_iter().enumerate() {
            if index > 0 {
                x = activation::relu(x);
            }
            x = x.matmul(weight.transpose()) + bias.unsqueeze();
        }
        x
    }
}

/// Values of a network's parameters.
struct Values {
    embedding: Tensor<2>,
    /// Both directions of each recurrent layer.
    recurrent: Vec<[Direction; 2]>,
    /// Weight and bias of the linear layers at the end.
    linear: Vec<(Tensor<2>, Tensor<1>)>,
}

/// One direction of a recurrent layer.
struct Direction {
    /// `W`, `[4 hidden, d_in]`.
    input: Tensor<2>,
    /// `U`, `[4 hidden, hidden]`.
    hidden: Tensor<2>,
    /// `b + d`, `[4 hidden]`.
    bias: Tensor<1>,
}

impl Direction {
    /// `[rows, d_in] -> [rows, hidden]`: `c = s(f) c + s(i) tanh(g)`, `h = s(o) tanh(c)` with `i, f, g, o` the quarters of
    /// `W x + b + U h + d`.
    ///
    /// *Long Short-Term Memory*, Hochreiter and Schmidhuber, 1997, as torch orders its gates.
    fn read(self, x: &Tensor<2>, reverse: bool) -> Tensor<2> {
        let read = x.clone().matmul(self.input.transpose()) + self.bias.unsqueeze();
        let again = self.hidden.transpose();
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
}
