//! T5 and mT5, from the published configuration to the logits.
//!
//! Paper: *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, Raffel et al., 2019,
//! <https://arxiv.org/abs/1910.10683>; the gated form is that of *GLU Variants Improve Transformer*, Shazeer, 2020,
//! <https://arxiv.org/abs/2002.05202>; *mT5: A massively multilingual pre-trained text-to-text transformer*, Xue et al., 2020,
//! <https://arxiv.org/abs/2010.11934>. Behavior follows `T5ForConditionalGeneration` and `MT5ForConditionalGeneration` of
//! Hugging Face transformers.

mod config;
mod distances;

use std::cell::RefCell;

use adapters_core::KeyValueState;

use serde_json::json;

use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::model::Model;
use crate::modeling::*;
use crate::t5::config::FeedForwardVariant;
use crate::t5::distances::{Buckets, Distances};
use crate::two_stacks::{DecoderFrame, TwoStacks};

pub(crate) use config::T5Config;

/// T5: two stacks of layers over one embedding table, and the language-model head.
#[derive(Module, Sites, Debug)]
pub(crate) struct T5Model {
    shared: Sited<Embedding>,
    encoder_tokens: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    embedding: Point<EmbeddingHook>,
    encoder: T5Stack,
    decoder_tokens: Sited<Embedding>,
    decoder: T5Stack,
    /// The head; its weight is the embedding table's where the two are tied.
    lm_head: Sited<Linear>,
    #[module(skip)]
    config: T5Config,
    #[module(skip)]
    name: Name,
}

/// The published `model_type` and class.
#[derive(Clone, Copy, Debug)]
struct Name {
    model_type: &'static str,
    class_name: &'static str,
}

const T5: Name = Name {
    model_type: "t5",
    class_name: "T5ForConditionalGeneration",
};

const MT5: Name = Name {
    model_type: "mt5",
    class_name: "MT5ForConditionalGeneration",
};

/// Loads a checkpoint of mT5: T5 with the defaults of its published class.
pub(crate) fn load_mt5(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": false,
    }));
    load_relative(source, device, defaults, |config, path, weights| {
        T5Model::build_named(MT5, config, path, weights)
    })
}

#[derive(Module, Sites, Debug)]
struct T5Stack {
    layers: Vec<T5Layer>,
    norm: Sited<RmsNorm>,
    /// `[buckets, heads]`, learned; published in the first layer, whose bias the others use.
    relative: Embedding,
    dropout: f64,
    #[module(skip)]
    buckets: Buckets,
}

#[derive(Module, Sites, Debug)]
struct T5Layer {
    attention: T5Attention,
    after_attention: Point<ResidualHook>,
    /// In the decoder.
    cross: Option<T5Cross>,
    feed_forward: T5FeedForward,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    dropout: f64,
    /// Counted in its own stack; sites count over both stacks, the encoder's layers first, as AdapterHub does.
    index: usize,
}

#[derive(Module, Sites, Debug)]
struct T5Cross {
    attention: T5Attention,
    /// One of the decoder's.
    after_attention: Point<ResidualHook>,
}

#[derive(Module, Sites, Debug)]
struct T5Attention {
    norm: Sited<RmsNorm>,
    attention: Attention,
    output: Sited<Linear>,
}

#[derive(Module, Sites, Debug)]
struct T5FeedForward {
    norm: Sited<RmsNorm>,
    /// Its activation multiplies the output of `up`, in the gated variant.
    gate: Option<Sited<Linear>>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    dropout: f64,
    #[module(skip)]
    activation: Activation,
}

/// What the layers of a stack read in a pass.
struct Frame {
    /// What queries may see.
    mask: Option<Tensor<4>>,
    distances: RefCell<Distances>,
    /// What queries may see of the encoder's output.
    encoded_mask: Option<Tensor<4>>,
}

/// Second names of the embedding table, and a bias of old checkpoints that nothing reads.
const UNUSED: &[&str] = &[
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
];

impl FromCheckpoint for T5Model {
    type Config = T5Config;
    const PREFIX: &'static str = "transformer.";

    fn build(config: T5Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        Self::build_named(T5, config, path, weights)
    }

    fn is_unused(&self, key: &str) -> bool {
        UNUSED.contains(&key) || (self.config.tie_word_embeddings && key == "lm_head.weight")
    }
}

impl T5Model {
    fn build_named(name: Name, config: T5Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let variant = config.check(path)?;
        let (d, vocab) = (config.d_model, config.vocab_size);
        let outside = Location::outside(Stack::Encoder);
        let is_tied = config.tie_word_embeddings;
        let shared = weights.at(outside, "").shared_table("shared", [vocab, d], None);
        let decoder_tokens =
            weights
                .at(Location::outside(Stack::Decoder), "decoder")
                .reads(&shared, "embed_tokens", is_tied);
        let at = weights.at(outside, "encoder.embed_tokens");
        let encoder_tokens = at.reads(&shared, "", is_tied);
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "", d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "", d);
        let encoder = T5Stack::build(&config, variant, Stack::Encoder, weights);
        let decoder = T5Stack::build(&config, variant, Stack::Decoder, weights);
        let mut at = weights.at(Location::outside(Stack::Decoder), "lm_head");
        let lm_head = at.head(false, is_tied.then_some(&shared), [d, vocab]);
        Ok(Self {
            shared,
            encoder_tokens,
            embedded,
            embedding,
            encoder,
            decoder_tokens,
            decoder,
            lm_head,
            config,
            name,
        })
    }
}

impl T5Stack {
    fn build(config: &T5Config, variant: FeedForwardVariant, stack: Stack, weights: &mut Weights) -> Self {
        let (name, first, count) = match stack {
            Stack::Encoder | Stack::Image => ("encoder", 0, config.num_layers),
            Stack::Decoder | Stack::Cross => ("decoder", config.num_layers, config.decoder_layers()),
        };
        let layers = (0..count).map(|index| {
            let at = weights.at(Location::layer(stack, first + index), format!("{name}.block.{index}"));
            T5Layer::build(config, variant, index, stack, at)
        });
        let layers = layers.collect();
        let mut at = weights.at(Location::outside(stack), name);
        let buckets = config.relative_attention_num_buckets;
        Self {
            layers,
            norm: at.rms_norm(
                NormRole::FinalNorm,
                "final_layer_norm",
                config.d_model,
                config.layer_norm_epsilon,
            ),
            relative: at.embedding(
                "block.0.layer.0.SelfAttention.relative_attention_bias",
                [buckets, config.num_heads],
            ),
            dropout: config.dropout_rate,
            buckets: Buckets {
                count: buckets,
                max_distance: config.relative_attention_max_distance,
                both_ways: stack == Stack::Encoder,
            },
        }
    }

    /// The layers of the stack and the norm after the last, for `queries` positions behind `past` others.
    fn extend<'m>(&'m self, chain: Chain<'m>, [queries, past]: [usize; 2], masks: [Option<Tensor<4>>; 2]) -> Chain<'m> {
        let [mask, encoded_mask] = masks;
        let distances = Distances::new(self.relative.clone(), self.buckets, queries, past);
        let frame = Frame {
            mask,
            distances: RefCell::new(distances),
            encoded_mask,
        };
        let chain = chain.layers(&self.layers, frame);
        chain.then(|x, cx| {
            let x = cx.norm(&self.norm, x);
            cx.dropout(x, self.dropout)
        })
    }
}

impl T5Layer {
    fn build(config: &T5Config, variant: FeedForwardVariant, index: usize, stack: Stack, mut at: Scope<'_>) -> Self {
        let (d, location) = (config.d_model, at.location());
        let cross = (stack == Stack::Decoder).then(|| {
            let inside = Location {
                stack: Stack::Cross,
                ..location
            };
            T5Cross {
                attention: T5Attention::build(config, "EncDecAttention", at.within_at(inside, "layer.1")),
                after_attention: at.residual(ResidualRole::AfterCrossAttention, "layer.1", d),
            }
        });
        let last = if cross.is_some() { "layer.2" } else { "layer.1" };
        Self {
            attention: T5Attention::build(config, "SelfAttention", at.within("layer.0")),
            after_attention: at.residual(ResidualRole::AfterAttention, "layer.0", d),
            cross,
            feed_forward: T5FeedForward::build(config, variant, at.within(last)),
            after_ffn: at.residual(ResidualRole::AfterFfn, last, d),
            output: at.layer_output(d),
            dropout: config.dropout_rate,
            index,
        }
    }
}

impl Block for T5Layer {
    type Frame = Frame;

    fn forward(&self, x: Tensor<3>, frame: &Frame, mut slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let attended = self.attention.over_itself(x.clone(), self.index, frame, slot.own(), cx);
        let attended = cx.dropout(attended, self.dropout);
        let mut x = cx.residual(&self.after_attention, attended, x, None);

        if let Some(cross) = &self.cross {
            let attended = cross.attention.over_the_encoder(x.clone(), frame, slot, cx);
            let attended = cx.dropout(attended, self.dropout);
            x = cx.residual(&cross.after_attention, attended, x, None);
        }

        let fed = self.feed_forward.forward(x.clone(), cx);
        let fed = cx.dropout(fed, self.dropout);
        let x = cx.residual(&self.after_ffn, fed, x, None);
        cx.output(&self.output, x)
    }
}

impl T5Attention {
    fn build(config: &T5Config, name: &str, mut at: Scope<'_>) -> Self {
        let options = AttentionOptions {
            // The scores are not divided by the root of the heads' width: the published weights have that in them.
            scale: 1.0,
            ..AttentionOptions::new(config.d_kv, config.dropout_rate, config.pad_token_id)
        };
        let (d, heads) = (config.d_model, config.num_heads);
        let norm = at.rms_norm(NormRole::AttentionNorm, "layer_norm", d, config.layer_norm_epsilon);
        let mut inside = at.within(name);
        Self {
            norm,
            attention: Attention::build(["q", "k", "v"], "", [false; 3], [d, heads], options, &mut inside),
            output: inside.linear_with(false, LinearRole::AttentionOutput, "o", [heads * config.d_kv, d]),
        }
    }

    /// Self-attention, with the bias of distances.
    fn over_itself(&self, x: Tensor<3>, index: usize, frame: &Frame, own: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let x = cx.norm(&self.norm, x);
        let with_distances = |state: KeyValueState| {
            let far = frame.distances.borrow_mut().of(index, &state);
            let bias = match &state.bias {
                Some(mask) => far + mask.clone(),
                None => far,
            };
            state.with_bias(Some(bias))
        };
        let mask = frame.mask.clone();
        let attended = self.attention.forward(x, mask, own, with_distances, cx);
        cx.linear(&self.output, attended)
    }

    /// Attention of the decoder over the encoder's output.
    fn over_the_encoder(&self, x: Tensor<3>, frame: &Frame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let x = cx.norm(&self.norm, x);
        let mask = frame.encoded_mask.clone();
        let attended = self.attention.forward(x, mask, slot, |state| state, cx);
        cx.linear(&self.output, attended)
    }
}

impl T5FeedForward {
    fn build(config: &T5Config, variant: FeedForwardVariant, mut at: Scope<'_>) -> Self {
        let (d, ffn) = (config.d_model, config.d_ff);
        let norm = at.rms_norm(NormRole::FfnNorm, "layer_norm", d, config.layer_norm_epsilon);
        let mut at = at.within("DenseReluDense");
        let mut linear = |role, rest, dims| at.linear_with(false, role, rest, dims);
        let (gate, up) = match variant.gated {
            true => (Some(linear(LinearRole::FfnGate, "wi_0", [d, ffn])), "wi_1"),
            false => (None, "wi"),
        };
        Self {
            norm,
            gate,
            up: linear(LinearRole::FfnUp, up, [d, ffn]),
            down: linear(LinearRole::FfnDown, "wo", [ffn, d]),
            dropout: config.dropout_rate,
            activation: variant.activation,
        }
    }

    fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let x = cx.norm(&self.norm, x);
        let up = cx.linear(&self.up, x.clone());
        let inner = match &self.gate {
            Some(gate) => self.activation.gated(cx.linear(gate, x), up),
            None => self.activation.forward(up),
        };
        let inner = cx.dropout(inner, self.dropout);
        cx.linear(&self.down, inner)
    }
}

impl T5Model {
    fn looked_up(&self, table: &Sited<Embedding>, ids: Tensor<2, Int>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let hidden = cx.lookup(table, ids);
        cx.dropout(hidden, self.config.dropout_rate)
    }
}

impl Transformer for T5Model {
    type Input = ToTextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_layers + c.decoder_layers(),
            // Positions are distances.
            max_length: None,
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id,
            token_types: None,
            head_norm_epsilon: 1e-12,
            head_dropout: 0.0,
            activation: c.feed_forward_proj.clone(),
            masked_lm: None,
        }
    }

    fn chain(&self, input: ToTextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        self.both_stacks(input, cx)
    }

    fn encoder_decoder(&self) -> Option<&dyn EncoderDecoder> {
        Some(self)
    }
}

impl TwoStacks for T5Model {
    type Source = TextInput;

    fn decoder_start(&self) -> usize {
        self.config.decoder_start_token_id
    }

    fn embed(&self, TextInput { ids, padding, .. }: TextInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let hidden = self.looked_up(&self.encoder_tokens, ids, cx);
        let state = cx.embedding(&self.embedded, EmbeddingState::new(hidden, padding));
        cx.embedding(&self.embedding, state)
    }

    fn encoder_layers<'m>(&'m self, chain: Chain<'m>, seq: usize, mask: Option<Tensor<4>>) -> Chain<'m> {
        self.encoder.extend(chain, [seq, 0], [mask, None])
    }

    fn embed_decoder(&self, ids: Tensor<2, Int>, _: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        self.looked_up(&self.decoder_tokens, ids, cx)
    }

    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, frame: DecoderFrame) -> Chain<'m> {
        let masks = [Some(frame.mask), frame.encoded_mask];
        self.decoder.extend(chain, [frame.seq, frame.first], masks)
    }

    /// The tied head reads hidden states divided by the root of their width.
    fn vocabulary_scores(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> LinearScores {
        let scale = self.tied_head_scale();
        let hidden = if scale == 1.0 { hidden } else { hidden * scale };
        LinearScores::of(&self.lm_head, hidden, cx)
    }
}

impl Host for T5Model {
    fn architecture(&self) -> &str {
        self.name.model_type
    }

    fn class_name(&self) -> &str {
        self.name.class_name
    }

    fn d_model(&self) -> usize {
        self.config.d_model
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn tied_head_scale(&self) -> f64 {
        match self.config.tie_word_embeddings {
            true => (self.config.d_model as f64).sqrt().recip(),
            false => 1.0,
        }
    }
}
