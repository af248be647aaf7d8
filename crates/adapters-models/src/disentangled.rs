//! Attention of DeBERTa: scores of contents, and of contents with the distances between them.
//!
//! Papers: *DeBERTa: Decoding-enhanced BERT with Disentangled Attention*, He et al., 2020,
//! <https://arxiv.org/abs/2006.03654>; *DeBERTaV3: Improving DeBERTa using ELECTRA-Style Pre-Training with
//! Gradient-Disentangled Embedding Sharing*, He et al., 2021, <https://arxiv.org/abs/2111.09543>.

use std::fmt::Debug;

use burn::module::ModuleDisplay;
use burn::nn::conv::Conv1d;
use burn::tensor::TensorData;
use burn::tensor::activation::softmax;

use crate::encoder::EncoderStack;
use crate::modeling::*;
use crate::standard_layer::{AttentionOutput, FeedForwardBlock};

/// The linear layers of an attention, for contents and for distances.
pub(crate) trait Projections: Module + ModuleDisplay + Sites + Debug + Sync {
    /// Query, key and value, `[batch, seq, d_model] -> [batch, seq, d_model]` each.
    fn contents(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> [Tensor<3>; 3];

    /// Keys and queries of distances, `[batch or 1, distances, d_model]` to the same; `None` where they have no score.
    fn distances(&self, table: Tensor<3>, cx: &mut Hooks<'_>) -> [Option<Tensor<3>>; 2];
}

/// How distances become rows of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distances {
    /// Distances from `-most` to `most - 1` are told apart, larger ones are not.
    pub(crate) most: usize,
    /// Number of buckets on each side, which grow with the distance; `None` for a row each.
    pub(crate) buckets: Option<usize>,
    /// Whether only the rows that a text of this length reaches are projected, as in the first version.
    pub(crate) reached_only: bool,
}

impl Distances {
    /// Rows of the table on each side.
    pub(crate) fn span(&self) -> usize {
        self.buckets.unwrap_or(self.most)
    }

    /// The row of a distance before it is cut off, counted from the middle. Near distances have a bucket each, those beyond half of
    /// the buckets share one with others by their logarithm.
    fn bucket(&self, distance: i64) -> i64 {
        let Some(buckets) = self.buckets else {
            return distance;
        };
        let middle = (buckets / 2) as f32;
        let size = distance.abs() as f32;
        if size <= middle {
            return distance;
        }
        let farthest = ((self.most - 1) as f32 / middle).ln();
        let far = ((size / middle).ln() / farthest * (middle - 1.0)).ceil() + middle;
        distance.signum() * far as i64
    }

    /// The rows that `seq` positions use: the first, how many, and for each query and key which of them, `[seq, seq]`.
    fn rows(&self, seq: usize, device: &Device) -> (usize, usize, Tensor<2, Int>) {
        let span = self.span();
        let used = if self.reached_only { span.min(seq) } else { span };
        let seq = seq as i64;
        let row = |query: i64, key: i64| (self.bucket(query - key) + used as i64).clamp(0, 2 * used as i64 - 1);
        let rows: Vec<i64> = (0..seq)
            .flat_map(|query| (0..seq).map(move |key| row(query, key)))
            .collect();
        let data = TensorData::new(rows, [seq as usize, seq as usize]);
        (span - used, 2 * used, Tensor::from_data(data, device))
    }
}

/// What all layers of a pass read.
#[derive(Clone, Debug)]
pub(crate) struct DisentangledFrame {
    /// True where a query may not see a key, as the least finite number, `[batch, 1, seq, seq]`.
    bias: Option<Tensor<4>>,
    /// True at padding, `[batch, seq]`.
    padding: Option<Tensor<2, Bool>>,
    relative: Option<RelativeFrame>,
}

#[derive(Clone, Debug)]
struct RelativeFrame {
    /// Rows of distances, `[distances, d_model]`.
    table: Tensor<2>,
    norm: Option<Sited<LayerNorm>>,
    /// The row of each query and key, `[seq, seq]`.
    index: Tensor<2, Int>,
}

/// The layers, and the table of distances that they share.
#[derive(Module, Sites, Debug)]
pub(crate) struct DisentangledStack<P: Projections> {
    pub(crate) table: Option<Embedding>,
    pub(crate) norm: Option<Sited<LayerNorm>>,
    pub(crate) layers: Vec<DisentangledLayer<P>>,
    #[module(skip)]
    pub(crate) distances: Distances,
}

/// A layer: disentangled attention, the blocks of BERT and, in the first layer of some, a convolution.
#[derive(Module, Sites, Debug)]
pub(crate) struct DisentangledLayer<P: Projections> {
    pub(crate) projections: P,
    pub(crate) key_value: Point<KeyValueHook>,
    pub(crate) attention_output: AttentionOutput,
    pub(crate) feed_forward: FeedForwardBlock,
    pub(crate) output: Point<OutputHook>,
    pub(crate) convolution: Option<Convolution>,
    pub(crate) talking: Option<TalkingHeads>,
    /// Dropout on the rows of distances, in training.
    pub(crate) distance_dropout: f64,
    #[module(skip)]
    pub(crate) options: AttentionOptions,
}

/// Projections between heads, of scores and of what becomes of them.
///
/// Paper: *Talking-Heads Attention*, Shazeer et al., 2020, <https://arxiv.org/abs/2003.02436>.
#[derive(Module, Sites, Debug)]
pub(crate) struct TalkingHeads {
    /// `[heads, heads]` each.
    pub(crate) scores: Linear,
    pub(crate) weights: Linear,
}

/// `[batch, heads, seq, keys]`, projected from heads to heads.
fn mixed(heads: &Linear, x: Tensor<4>) -> Tensor<4> {
    let [batch, count, seq, keys] = x.dims();
    let rows = x.permute([0, 2, 3, 1]).reshape([batch, seq * keys, count]);
    ops::linear(heads, rows)
        .reshape([batch, seq, keys, count])
        .permute([0, 3, 1, 2])
}

/// `norm(y + act(dropout(C x)))` of a layer's input `x` and output `y`, zero at padding.
#[derive(Module, Sites, Debug)]
pub(crate) struct Convolution {
    pub(crate) convolution: Conv1d,
    pub(crate) norm: Sited<LayerNorm>,
    pub(crate) dropout: f64,
    #[module(skip)]
    pub(crate) activation: Activation,
}

impl Convolution {
    fn forward(&self, x: Tensor<3>, y: Tensor<3>, padding: &Option<Tensor<2, Bool>>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let zeroed = |x: Tensor<3>| match padding {
            Some(padding) => x.mask_fill(padding.clone().unsqueeze_dim(2), 0.0),
            None => x,
        };
        let convolved = zeroed(self.convolution.forward(x.swap_dims(1, 2)).swap_dims(1, 2));
        let convolved = self.activation.forward(cx.dropout(convolved, self.dropout));
        zeroed(cx.norm(&self.norm, y + convolved))
    }
}

impl<P: Projections> DisentangledLayer<P> {
    /// Scores of distances before they are scaled, `[batch, heads, seq, seq]`.
    fn relative(&self, query: &Tensor<4>, key: &Tensor<4>, frame: &RelativeFrame, cx: &mut Hooks<'_>) -> Tensor<4> {
        let [batch, heads, seq, _] = query.dims();
        let mut table = frame.table.clone().unsqueeze::<3>();
        if let Some(norm) = &frame.norm {
            table = cx.norm(norm, table);
        }
        // What adapters make of distances differs from row to row where they do.
        if cx.chooses_by_row() {
            table = table.repeat_dim(0, batch);
        }
        let [keys, queries] = self.projections.distances(cx.dropout(table, self.distance_dropout), cx);
        let gathered = |content: &Tensor<4>, distances: Tensor<3>, index: Tensor<2, Int>| {
            let scores = content.clone().matmul(self.options.split(distances).swap_dims(2, 3));
            scores.gather(3, index.unsqueeze::<4>().expand([batch, heads, seq, seq]))
        };
        let mut scores = Tensor::zeros([batch, heads, seq, seq], (&query.device(), query.dtype()));
        if let Some(keys) = keys {
            scores = scores + gathered(query, keys, frame.index.clone());
        }
        if let Some(queries) = queries {
            scores = scores + gathered(key, queries, frame.index.clone().transpose()).swap_dims(2, 3);
        }
        scores
    }

    fn attend(&self, x: Tensor<3>, frame: &DisentangledFrame, cx: &mut Hooks<'_>) -> Tensor<3> {
        let heads = &self.options;
        let [query, key, value] = self.projections.contents(x.clone(), cx).map(|part| heads.split(part));
        let relative = frame
            .relative
            .as_ref()
            .map(|relative| self.relative(&query, &key, relative, cx));
        let state = heads.adapted(&query, (key, value), x, frame.bias.clone(), &self.key_value, cx);
        let mut scores = query.matmul(state.key.swap_dims(2, 3));
        if let Some(relative) = relative {
            // Keys that adapters put in front have no distance.
            let [batch, heads, seq, keys] = scores.dims();
            let front = Tensor::zeros([batch, heads, seq, keys - seq], (&scores.device(), scores.dtype()));
            scores = scores + Tensor::cat(vec![front, relative], 3);
        }
        scores = scores * heads.scale;
        if let Some(talking) = &self.talking {
            scores = mixed(&talking.scores, scores);
        }
        if let Some(bias) = state.bias {
            let hidden = bias.lower_elem(f32::MIN / 2.0).expand(scores.dims());
            // Padding that sees nothing gives all keys the same weight, and none a gradient.
            scores = scores.mask_fill(hidden, f32::MIN);
        }
        let mut weights = cx.dropout(softmax(scores, 3), heads.dropout);
        if let Some(talking) = &self.talking {
            weights = mixed(&talking.weights, weights);
        }
        let [batch, _, seq, _] = weights.dims();
        let out = weights.matmul(state.value).swap_dims(1, 2);
        let width = out.dims()[2] * heads.d_head;
        let values = out.reshape([batch, seq, width]);
        let added = state.added;
        Attended { values, added }.sum()
    }
}

impl<P: Projections> Block for DisentangledLayer<P> {
    type Frame = DisentangledFrame;

    fn forward(&self, x: Tensor<3>, frame: &DisentangledFrame, _: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let attended = self.attend(x.clone(), frame, cx);
        let y = self.attention_output.forward(attended, x.clone(), cx);
        let y = self.feed_forward.forward(y, cx);
        let y = cx.output(&self.output, y);
        match &self.convolution {
            Some(convolution) => convolution.forward(x, y, &frame.padding, cx),
            None => y,
        }
    }
}

impl<P: Projections> EncoderStack for DisentangledStack<P> {
    fn chain(&self, embedded: EmbeddingState, _: Option<Tensor<4>>, _: &mut Hooks<'_>) -> Chain<'_> {
        let EmbeddingState { hidden, padding, .. } = embedded;
        let seq = hidden.dims()[1];
        // Padding sees nothing, and nothing sees padding.
        let bias = padding.clone().map(|padding| {
            let keys = ops::padding_bias(padding);
            keys.clone().min_pair(keys.swap_dims(2, 3))
        });
        let relative = self.table.as_ref().map(|table| {
            let (first, count, index) = self.distances.rows(seq, &hidden.device());
            RelativeFrame {
                table: table.weight.val().slice_dim(0, first..first + count),
                norm: self.norm.clone(),
                index,
            }
        });
        let frame = DisentangledFrame {
            bias,
            padding,
            relative,
        };
        Chain::new(hidden).layers(&self.layers, frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buckets of `make_log_bucket_position` of transformers, for the published 256 buckets of 512 positions and for 4 of 16.
    #[test]
    fn distances_have_the_published_buckets() {
        let of = |buckets, most| Distances {
            most,
            buckets: Some(buckets),
            reached_only: false,
        };
        let published = of(256, 512);
        for (distance, bucket) in [
            (0, 0),
            (127, 127),
            (128, 128),
            (129, 129),
            (200, 169),
            (-300, -207),
            (511, 255),
        ] {
            assert_eq!(published.bucket(distance), bucket, "{distance}");
        }
        let small: Vec<i64> = (0..8).map(|distance| of(4, 16).bucket(distance)).collect();
        assert_eq!(small, [0, 1, 2, 3, 3, 3, 3, 3]);
    }
}
