//! ModernBERT: norms in front of the blocks, rotary positions, gated feed-forward blocks, and attention to the neighborhood in most
//! layers.
//!
//! Paper: *Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient, and Long Context
//! Finetuning and Inference*, Warner et al., 2024, <https://arxiv.org/abs/2412.13663>. Behavior follows `ModernBertModel` of
//! Hugging Face transformers. What it does without padding it does with padding.

use crate::bert;
use crate::checkpoint_folder::CheckpointFolder;
use crate::encoder::{self, Encoder, EncoderFacts, EncoderNames, EncoderStack};
use crate::heads::masked_mean;
use crate::model::Model;
use crate::modeling::*;
use crate::modernbert_config::{ModernBertConfig, defaults};
use crate::rotary::{Rotary, Rotation};
use crate::text_embeddings::{Counting, EmbeddingOptions, TextEmbeddings};

const MODERNBERT: EncoderNames = EncoderNames {
    model_type: "modernbert",
    class_name: "ModernBertModel",
    prefix: "model.",
    unused: &["head.", "decoder.", "classifier."],
    ..bert::NAMES
};

/// The layers, and the norm behind the last.
#[derive(Module, Sites, Debug)]
struct ModernBertStack {
    layers: Vec<ModernBertLayer>,
    norm: Sited<LayerNorm>,
    /// How far a layer that attends to the neighborhood sees on each side.
    reach: usize,
    /// `None` where the checkpoint was saved from a class that has none.
    head: Option<ModernBertHead>,
    #[module(skip)]
    rotary: [Rotary; 2],
}

/// `norm(act(W h + b))`, which `ModernBertForSequenceClassification` computes of one vector of a text, below its classifier. The
/// checkpoint of a masked language model has it too.
#[derive(Module, Sites, Debug)]
struct ModernBertHead {
    dense: Sited<Linear>,
    norm: LayerNorm,
    /// Whether the vector is the mean over the text, without padding, and not the first position.
    reads_mean: bool,
    #[module(skip)]
    activation: Activation,
}

#[derive(Module, Sites, Debug)]
struct ModernBertLayer {
    /// `None` in the first layer: the embeddings are normalized.
    attention_norm: Option<Sited<LayerNorm>>,
    query_key_value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    attention_output: Sited<Linear>,
    after_attention: Point<ResidualHook>,
    ffn_norm: Sited<LayerNorm>,
    up_and_gate: Sited<Linear>,
    down: Sited<Linear>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    /// Whether it attends to the neighborhood alone.
    is_local: bool,
    ffn_dropout: f64,
    #[module(skip)]
    attention: AttentionOptions,
    #[module(skip)]
    activation: Activation,
}

/// What the layers of a pass read: of those that attend to everything, and of those that attend to the neighborhood.
struct ModernBertFrame {
    bias: [Option<Tensor<4>>; 2],
    rotation: [Rotation; 2],
}

impl Block for ModernBertLayer {
    type Frame = ModernBertFrame;

    fn forward(&self, x: Tensor<3>, frame: &ModernBertFrame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (heads, d, kind) = (&self.attention, x.dims()[2], usize::from(self.is_local));
        let normed = match &self.attention_norm {
            Some(norm) => cx.norm(norm, x.clone()),
            None => x.clone(),
        };
        let fused = cx.linear(&self.query_key_value, normed.clone());
        let [query, key, value] =
            [0, 1, 2].map(|part| heads.split(fused.clone().slice_dim(2, part * d..(part + 1) * d)));
        let (query, key) = (frame.rotation[kind].apply(query), frame.rotation[kind].apply(key));
        let bias = frame.bias[kind].clone();
        let attended = heads.attend(query, (key, value), normed.clone(), bias, (&self.key_value, slot), cx);
        let attended = cx.linear(&self.attention_output, attended);
        let attended = cx.dropout(attended, heads.dropout);
        let x = cx.residual_reading(&self.after_attention, attended, x, normed);

        let normed = cx.norm(&self.ffn_norm, x.clone());
        let both = cx.linear(&self.up_and_gate, normed.clone());
        let ffn = both.dims()[2] / 2;
        let (first, second) = (both.clone().slice_dim(2, 0..ffn), both.slice_dim(2, ffn..2 * ffn));
        let inner = cx.dropout(self.activation.gated(first, second), self.ffn_dropout);
        let down = cx.linear(&self.down, inner);
        let x = cx.residual_reading(&self.after_ffn, down, x, normed);
        cx.output(&self.output, x)
    }
}

impl EncoderStack for ModernBertStack {
    fn chain(&self, embedded: EmbeddingState, of_text: Option<Tensor<4>>, cx: &mut Hooks<'_>) -> Chain<'_> {
        let EmbeddingState { hidden, padding, .. } = embedded;
        let ([_, seq, _], device, first) = (hidden.dims(), hidden.device(), cx.first_position() as i64);
        let positions = Tensor::<1, Int>::arange(first..first + seq as i64, &device).unsqueeze();
        let near = (seq > self.reach + 1).then(|| ops::window_bias(seq, self.reach, padding.as_ref(), &device));
        let frame = ModernBertFrame {
            bias: [of_text.clone(), near.or(of_text)],
            rotation: [0, 1].map(|kind| self.rotary[kind].at(positions.clone(), &device)),
        };
        Chain::new(hidden)
            .layers(&self.layers, frame)
            .then(|x, cx| cx.norm(&self.norm, x))
    }

    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        let head = self.head.as_ref()?;
        let vector = match head.reads_mean {
            true => masked_mean(hidden, cx.pass().padding.clone()),
            false => hidden.slice_dim(1, 0..1),
        };
        let inner = head.activation.forward(cx.hooks().linear(&head.dense, vector));
        Some(ops::layer_norm(&head.norm, inner).squeeze_dim(1))
    }

    fn has_pooler(&self) -> bool {
        self.head.is_some()
    }

    fn with_layers(mut self, order: &[usize]) -> Option<Self> {
        self.layers = replicated(&self.layers, order);
        Some(self)
    }
}

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    encoder::load(&MODERNBERT, defaults(), (source, device), build)
}

impl ModernBertConfig {
    /// The layers below the classifier, where the checkpoint has them.
    fn head(&self, path: &Path, weights: &mut Weights) -> Result<Option<ModernBertHead>, ModelError> {
        let check = ConfigCheck::new(path);
        let reads_mean = match self.classifier_pooling.as_str() {
            "mean" => true,
            "cls" => false,
            found => return Err(check.refusal("classifier_pooling", "`cls` or `mean`", found)),
        };
        let activation = check.activation("classifier_activation", &self.classifier_activation)?;
        let d = self.hidden_size;
        Ok(weights.has("head.dense.weight").then(|| ModernBertHead {
            dense: weights.at(Location::outside(Stack::Encoder), "").linear_with(
                self.classifier_bias,
                LinearRole::HeadTransform,
                "head.dense",
                [d, d],
            ),
            norm: weights.layer_norm_with(self.norm_bias, "head.norm", d, self.norm_eps),
            reads_mean,
            activation,
        }))
    }

    fn layer(&self, index: usize, activation: Activation, weights: &mut Weights) -> ModernBertLayer {
        let location = Location::layer(Stack::Encoder, index);
        let mut at = weights.at(location, format!("layers.{index}"));
        let (d, ffn, heads) = (self.hidden_size, self.intermediate_size, self.num_attention_heads);
        let (biases, eps) = ([self.attention_bias, self.mlp_bias], self.norm_eps);
        let norm = |role, name, at: &mut Scope<'_>| at.layer_norm_with(self.norm_bias, role, name, d, eps);
        ModernBertLayer {
            attention_norm: (index > 0).then(|| norm(NormRole::AttentionNorm, "attn_norm", &mut at)),
            query_key_value: at.linear_with(biases[0], LinearRole::QueryKeyValue, "attn.Wqkv", [d, 3 * d]),
            key_value: at.key_value("attn", heads, d / heads),
            attention_output: at.linear_with(biases[0], LinearRole::AttentionOutput, "attn.Wo", [d, d]),
            after_attention: at.residual(ResidualRole::AfterAttention, "attention_adapters", d),
            ffn_norm: norm(NormRole::FfnNorm, "mlp_norm", &mut at),
            up_and_gate: at.linear_with(biases[1], LinearRole::FfnUp, "mlp.Wi", [d, 2 * ffn]),
            down: at.linear_with(biases[1], LinearRole::FfnDown, "mlp.Wo", [ffn, d]),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
            output: at.layer_output(d),
            is_local: self.is_local(index),
            ffn_dropout: self.mlp_dropout,
            attention: AttentionOptions::new(d / heads, self.attention_dropout, self.pad_token_id),
            activation,
        }
    }
}

fn build(config: ModernBertConfig, path: &Path, weights: &mut Weights) -> Result<Encoder<ModernBertStack>, ModelError> {
    let (activation, rotary) = (config.check(path)?, config.rotary(path)?);
    let (d, pad_id, outside) = (
        config.hidden_size,
        config.pad_token_id,
        Location::outside(Stack::Encoder),
    );
    let embeddings = EmbeddingOptions {
        vocab_size: config.vocab_size,
        width: d,
        normalized: d,
        positions: 0,
        adds_positions: false,
        counting: Counting::FromZero,
        token_types: 0,
        pad_id,
        norm_bias: config.norm_bias,
        epsilon: config.norm_eps,
        dropout: config.embedding_dropout,
        zeroes_padding: false,
    };
    let layers = 0..config.num_hidden_layers;
    let head = config.head(path, weights)?;
    Ok(Encoder {
        embeddings: TextEmbeddings::build(
            ["tok_embeddings", "norm"],
            embeddings,
            weights.at(outside, "embeddings"),
        ),
        projection: None,
        stack: ModernBertStack {
            layers: layers.map(|index| config.layer(index, activation, weights)).collect(),
            norm: weights.at(outside, "").layer_norm_with(
                config.norm_bias,
                NormRole::FinalNorm,
                "final_norm",
                d,
                config.norm_eps,
            ),
            reach: config.local_attention / 2,
            head,
            rotary,
        },
        pooler: None,
        head_transform: None,
        facts: EncoderFacts {
            names: MODERNBERT,
            d_model: d,
            attention_dropout: config.attention_dropout,
            causal: false,
            info: config.info(),
        },
    })
}
