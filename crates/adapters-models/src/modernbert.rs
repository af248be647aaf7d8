//! ModernBERT: norms in front of the blocks, rotary positions, gated feed-forward blocks, and attention to the neighborhood in most
//! layers.
//!
//! Paper: *Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient, and Long Context
//! Finetuning and Inference*, Warner et al., 2024, <https://arxiv.org/abs/2412.13663>. Behavior follows `ModernBertModel` of
//! Hugging Face transformers. What it does without padding it does with padding.

use serde_json::json;

use crate::bert;
use crate::checkpoint_folder::CheckpointFolder;
use crate::encoder::{self, Encoder, EncoderFacts, EncoderNames, EncoderStack};
use crate::heads::masked_mean;
use crate::llama::object;
use crate::model::Model;
use crate::modeling::*;
use crate::rotary::{Rotary, Turns};
use crate::rotary_scaling::{Around, RotaryFields};
use crate::text_embeddings::{Counting, EmbeddingOptions, TextEmbeddings};

const MODERNBERT: EncoderNames = EncoderNames {
    model_type: "modernbert",
    class_name: "ModernBertModel",
    prefix: "model.",
    unused: &["head.", "decoder.", "classifier."],
    ..bert::NAMES
};

/// `config.json` of a ModernBERT checkpoint: the fields that change what is computed.
#[derive(Debug, Deserialize)]
struct ModernBertConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_activation: String,
    max_position_embeddings: usize,
    norm_eps: f64,
    norm_bias: bool,
    pad_token_id: usize,
    /// Base of the angles in layers that attend to everything.
    global_rope_theta: f64,
    /// Base of the angles in the others; the same without it.
    local_rope_theta: Option<f64>,
    /// How the angles of both are scaled.
    rope_scaling: Option<RotaryFields>,
    /// In newer files, the angles of both kinds of layers.
    rope_parameters: Option<RotaryOfLayers>,
    /// Every so many layers one attends to everything, the first among them.
    global_attn_every_n_layers: usize,
    /// In newer files, the kind of each layer.
    layer_types: Option<Vec<LayerType>>,
    /// Width of the neighborhood.
    local_attention: usize,
    attention_bias: bool,
    attention_dropout: f64,
    embedding_dropout: f64,
    mlp_bias: bool,
    mlp_dropout: f64,
    /// Whether the last layer of the masked language model has a bias.
    decoder_bias: bool,
    /// Of the layer before it.
    classifier_bias: bool,
    classifier_activation: String,
    classifier_dropout: f64,
    /// What the class for a class of a whole text reads.
    classifier_pooling: String,
}

#[derive(Debug, Deserialize)]
struct RotaryOfLayers {
    full_attention: RotaryFields,
    sliding_attention: RotaryFields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

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
    turns: [Turns; 2],
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
        let (query, key) = (frame.turns[kind].turn(query), frame.turns[kind].turn(key));
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
    fn chain(&self, embedded: EmbeddingState, cx: &mut Hooks<'_>) -> Chain<'_> {
        let EmbeddingState { hidden, padding, .. } = embedded;
        let ([_, seq, _], device, first) = (hidden.dims(), hidden.device(), cx.first_position() as i64);
        let positions = Tensor::<1, Int>::arange(first..first + seq as i64, &device).unsqueeze();
        let near = (seq > self.reach + 1).then(|| ops::window_bias(seq, self.reach, padding.as_ref(), &device));
        let of_text = padding.map(ops::padding_bias);
        let frame = ModernBertFrame {
            bias: [of_text.clone(), near.or(of_text)],
            turns: [0, 1].map(|kind| self.rotary[kind].at(positions.clone(), &device)),
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
    let defaults = object(json!({
        "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
        "num_attention_heads": 12, "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5,
        "norm_bias": false, "pad_token_id": 50283, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
        "rope_scaling": null, "rope_parameters": null, "global_attn_every_n_layers": 3, "layer_types": null,
        "local_attention": 128, "attention_bias": false, "attention_dropout": 0.0, "embedding_dropout": 0.0,
        "mlp_bias": false, "mlp_dropout": 0.0, "decoder_bias": true, "classifier_bias": false,
        "classifier_activation": "gelu", "classifier_dropout": 0.0, "classifier_pooling": "cls",
    }));
    encoder::load(&MODERNBERT, defaults, (source, device), build)
}

impl ModernBertConfig {
    /// Checks the values against each other.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("global_attn_every_n_layers", self.global_attn_every_n_layers),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        let d_head = self.hidden_size / self.num_attention_heads;
        check.multiple(("hidden_size / num_attention_heads", d_head), ("2", 2))?;
        check.dropouts([
            ("attention_dropout", self.attention_dropout),
            ("embedding_dropout", self.embedding_dropout),
            ("mlp_dropout", self.mlp_dropout),
            ("classifier_dropout", self.classifier_dropout),
        ])?;
        let listed = self.layer_types.as_ref().map_or(self.num_hidden_layers, Vec::len);
        let expected = format!("num_hidden_layers = {} entries", self.num_hidden_layers);
        check.require(listed == self.num_hidden_layers, "layer_types", expected, listed)?;
        check.activation("hidden_activation", &self.hidden_activation)
    }

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

    /// The angles of layers that attend to everything, and of the others.
    fn rotary(&self, path: &Path) -> Result<[Rotary; 2], ModelError> {
        let plain = RotaryFields::default();
        let scaled = self.rope_scaling.as_ref().unwrap_or(&plain);
        let [global, local] = match &self.rope_parameters {
            Some(of) => [&of.full_attention, &of.sliding_attention],
            None => [scaled, scaled],
        };
        let thetas = [
            self.global_rope_theta,
            self.local_rope_theta.unwrap_or(self.global_rope_theta),
        ];
        let d_head = self.hidden_size / self.num_attention_heads;
        let around = Around {
            features: d_head,
            longest: self.max_position_embeddings,
            original: None,
        };
        let of = |fields: &RotaryFields, theta: f64| {
            let refused = |(field, expected, found)| ConfigCheck::new(path).refusal(field, expected, found);
            let scaling = fields.scaling(around).map_err(refused)?;
            Ok::<_, ModelError>(Rotary::new(d_head, fields.rope_theta.unwrap_or(theta), scaling))
        };
        Ok([of(global, thetas[0])?, of(local, thetas[1])?])
    }

    fn is_local(&self, layer: usize) -> bool {
        match &self.layer_types {
            Some(types) => types[layer] == LayerType::SlidingAttention,
            None => !layer.is_multiple_of(self.global_attn_every_n_layers),
        }
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
        facts: EncoderFacts {
            names: MODERNBERT,
            d_model: d,
            attention_dropout: config.attention_dropout,
            info: ModelInfo {
                num_layers: config.num_hidden_layers,
                max_length: config.max_position_embeddings,
                vocab_size: config.vocab_size,
                pad_id,
                token_types: None,
                head_norm_epsilon: config.norm_eps,
                head_dropout: config.classifier_dropout,
                activation: config.hidden_activation,
                masked_lm: Some(MaskedLmLayout {
                    dense: "head.dense",
                    norm: "head.norm",
                    decoder: "decoder",
                    bias: config.decoder_bias.then_some("decoder.bias"),
                    activation: Some(config.classifier_activation.into()),
                    dense_bias: config.classifier_bias,
                    norm_bias: config.norm_bias,
                    below_tags: true,
                }),
            },
        },
    })
}
