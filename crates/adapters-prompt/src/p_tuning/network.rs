//! The networks of P-tuning, which compute the rows while they train.

use std::borrow::Cow;

use adapters_core::NamedParams;
use adapters_nn::draw;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, activation};
use rand_chacha::ChaCha8Rng;

/// A network that computes the rows of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PromptNetwork {
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

impl PromptNetwork {
    fn hidden_size(&self) -> usize {
        match self {
            Self::Mlp { hidden_size } | Self::Lstm { hidden_size, .. } => *hidden_size,
        }
    }

    /// Fresh parameters, as torch initializes them: the embedding normal, the rest uniform in plus and minus one over the root
    /// of a unit's inputs; all biases after all matrices.
    pub(crate) fn draw(&self, rows: usize, width: usize, rng: &mut ChaCha8Rng, device: &Device) -> NetworkParams {
        let hidden = self.hidden_size();
        let embedding = Param::from_data(draw::normal(rng, [rows, width], 1.0), device);
        let root = |n: usize| (n as f32).sqrt().recip();
        let zeros = |size: usize| Param::from_data(draw::constant([size], 0.0), device);
        let (layers, dropout, sizes) = match *self {
            Self::Mlp { .. } => (0, 0.0, vec![width, hidden, hidden, width]),
            Self::Lstm { layers, dropout, .. } => (layers, dropout, vec![2 * hidden, 2 * hidden, width]),
        };
        let mut matrix = |d_out, d_in, bound| Param::from_data(draw::uniform(rng, [d_out, d_in], bound), device);
        let mut direction = |d_in| Direction {
            input: matrix(4 * hidden, d_in, root(hidden)),
            hidden: matrix(4 * hidden, hidden, root(hidden)),
            input_bias: zeros(4 * hidden),
            hidden_bias: zeros(4 * hidden),
        };
        let mut recurrent: Vec<Bidirectional> = (0..layers)
            .map(|layer| if layer == 0 { width } else { 2 * hidden })
            .map(|d_in| Bidirectional {
                forward: direction(d_in),
                backward: direction(d_in),
            })
            .collect();
        let mut linear: Vec<Linear> = sizes
            .windows(2)
            .map(|pair| Linear {
                weight: matrix(pair[1], pair[0], root(pair[0])),
                bias: zeros(pair[1]),
            })
            .collect();
        let mut bias = |bias: &mut Param<Tensor<1>>, d_in: usize| {
            let [size] = bias.dims();
            *bias = Param::from_data(draw::uniform(rng, [size], root(d_in)), device);
        };
        for direction in recurrent
            .iter_mut()
            .flat_map(|both| [&mut both.forward, &mut both.backward])
        {
            bias(&mut direction.input_bias, hidden);
            bias(&mut direction.hidden_bias, hidden);
        }
        for layer in &mut linear {
            let [_, d_in] = layer.weight.dims();
            bias(&mut layer.bias, d_in);
        }
        NetworkParams {
            embedding,
            recurrent,
            linear,
            dropout,
        }
    }
}

/// The parameters of a [`PromptNetwork`].
#[derive(Module, Debug)]
pub(crate) struct NetworkParams {
    /// What the network reads, a row for each vector, `[rows, width]`.
    embedding: Param<Tensor<2>>,
    recurrent: Vec<Bidirectional>,
    /// The layers at the end.
    linear: Vec<Linear>,
    /// Dropout probability between the recurrent layers.
    dropout: f64,
}

/// Both directions of a recurrent layer.
#[derive(Module, Debug)]
struct Bidirectional {
    forward: Direction,
    backward: Direction,
}

/// One direction of a recurrent layer.
#[derive(Module, Debug)]
struct Direction {
    /// `W`, `[4 hidden, d_in]`.
    input: Param<Tensor<2>>,
    /// `U`, `[4 hidden, hidden]`.
    hidden: Param<Tensor<2>>,
    /// `b`, `[4 hidden]`.
    input_bias: Param<Tensor<1>>,
    /// `d`, `[4 hidden]`.
    hidden_bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Linear {
    /// `[d_out, d_in]`.
    weight: Param<Tensor<2>>,
    /// `[d_out]`.
    bias: Param<Tensor<1>>,
}

impl NetworkParams {
    /// The rows, `[rows, width]`.
    pub(crate) fn forward(&self, dropout: impl Fn(Tensor<2>, f64) -> Tensor<2>) -> Tensor<2> {
        let mut x = self.embedding.val();
        for (layer, both) in self.recurrent.iter().enumerate() {
            if layer > 0 {
                x = dropout(x, self.dropout);
            }
            x = Tensor::cat(vec![both.forward.read(&x, false), both.backward.read(&x, true)], 1);
        }
        for (index, layer) in self.linear.iter().enumerate() {
            if index > 0 {
                x = activation::relu(x);
            }
            x = x.matmul(layer.weight.val().transpose()) + layer.bias.val().unsqueeze();
        }
        x
    }
}

impl NamedParams for NetworkParams {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![(EMBEDDING.into(), self.embedding.id)];
        for (layer, Bidirectional { forward, backward }) in self.recurrent.iter().enumerate() {
            for (direction, end) in [(forward, ""), (backward, "_reverse")] {
                params.extend(
                    [
                        ("weight_ih", direction.input.id),
                        ("weight_hh", direction.hidden.id),
                        ("bias_ih", direction.input_bias.id),
                        ("bias_hh", direction.hidden_bias.id),
                    ]
                    .map(|(what, id)| (format!("{NETWORK}lstm_head.{what}_l{layer}{end}").into(), id)),
                );
            }
        }
        for (index, layer) in self.linear.iter().enumerate() {
            // As torch counts them: every second layer is an activation.
            let path = format!("{NETWORK}mlp_head.{}", 2 * index);
            params.push((format!("{path}.weight").into(), layer.weight.id));
            params.push((format!("{path}.bias").into(), layer.bias.id));
        }
        params
    }
}

impl Direction {
    /// `[rows, d_in] -> [rows, hidden]`: `c = s(f) c + s(i) tanh(g)`, `h = s(o) tanh(c)` with `i, f, g, o` the quarters of
    /// `W x + b + U h + d`.
    ///
    /// *Long Short-Term Memory*, Hochreiter and Schmidhuber, 1997, as torch orders its gates.
    fn read(&self, x: &Tensor<2>, reverse: bool) -> Tensor<2> {
        let bias = self.input_bias.val() + self.hidden_bias.val();
        let read = x.clone().matmul(self.input.val().transpose()) + bias.unsqueeze();
        let again = self.hidden.val().transpose();
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
