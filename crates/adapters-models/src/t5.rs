//! T5, from the published configuration to the logits.
//!
//! Paper: *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, Raffel et al., 2019,
//! <https://arxiv.org/abs/1910.10683>; the gated form is that of *GLU Variants Improve Transformer*, Shazeer, 2020,
//! <https://arxiv.org/abs/2002.05202>. Behavior follows `T5ForConditionalGeneration` of Hugging Face transformers.

mod distances;
mod host;
mod staged;

use std::path::Path;

use adapters_core::{Ctx, EmbeddingState, Error, Hooks, KeyValueState, Role, Site, Stack};
use adapters_nn::ops::{self, Activation};
use burn::module::Module;
use burn::nn::{Embedding, Linear, RmsNorm};
use burn::tensor::{Bool, Device, Int, Tensor};
use serde::Deserialize;

use crate::causal_lm::CausalInput;
use crate::encoder_decoder::{DecoderCache, DecoderInput, EncodedInput};
use crate::error::ModelError;
use crate::t5::distances::{Buckets, Distances};
use crate::weights::Weights;

/// `config.json` of a T5 checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of an attention head.
    pub d_kv: usize,
    /// Width of the feed-forward block.
    pub d_ff: usize,
    /// Layers of the encoder.
    pub num_layers: usize,
    /// Layers of the decoder; without it as many as the encoder has.
    pub num_decoder_layers: Option<usize>,
    /// Attention heads.
    pub num_heads: usize,
    /// Kinds of distance the relative position bias tells apart.
    pub relative_attention_num_buckets: usize,
    /// From this distance on, all are of one kind.
    pub relative_attention_max_distance: usize,
    /// Dropout, in training.
    pub dropout_rate: f64,
    /// Epsilon of the normalizations.
    pub layer_norm_epsilon: f64,
    /// `relu`, `gated-gelu` and the like: the activation, and whether a gate goes with it.
    pub feed_forward_proj: String,
    /// Whether the language-model head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Id of the padding token.
    pub pad_token_id: usize,
    /// Id the decoder starts with.
    pub decoder_start_token_id: usize,
}

impl Default for T5Config {
    /// The defaults of the published class (T5 small).
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "relu".to_owned(),
            tie_word_embeddings: true,
            pad_token_id: 0,
            decoder_start_token_id: 0,
        }
    }
}

/// What `feed_forward_proj` says.
#[derive(Clone, Copy, Debug)]
struct FeedForwardForm {
    gated: bool,
    activation: Activation,
}

impl T5Config {
    /// Layers of the decoder.
    pub fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<FeedForwardForm, ModelError> {
        let refuse = |field, expected: &str, found: String| {
            Err(ModelError::Config {
                path: path.to_owned(),
                field,
                expected: expected.to_owned(),
                found,
            })
        };
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_heads", self.num_heads),
        ] {
            if value == 0 || value > 1 << 24 {
                return refuse(field, "between 1 and 2^24", value.to_string());
            }
        }
        for (field, value) in [
            ("num_layers", self.num_layers),
            ("num_decoder_layers", self.decoder_layers()),
        ] {
            if value == 0 || value > 1 << 12 {
                return refuse(field, "between 1 and 4096", value.to_string());
            }
        }
        // Half of them may be for keys after the query, and half of those are for small distances.
        let buckets = self.relative_attention_num_buckets;
        if !(4..=1 << 16).contains(&buckets) {
            return refuse(
                "relative_attention_num_buckets",
                "between 4 and 65536",
                buckets.to_string(),
            );
        }
        let distance = self.relative_attention_max_distance;
        if distance <= buckets / 2 || distance > 1 << 24 {
            return refuse(
                "relative_attention_max_distance",
                "above half of relative_attention_num_buckets",
                distance.to_string(),
            );
        }
        if !(0.0..1.0).contains(&self.dropout_rate) {
            return refuse("dropout_rate", "0 <= p < 1", self.dropout_rate.to_string());
        }
        if self.layer_norm_epsilon <= 0.0 {
            return refuse("layer_norm_epsilon", "above 0", self.layer_norm_epsilon.to_string());
        }
        let (gated, name) = match self.feed_forward_proj.strip_prefix("gated-") {
            Some(name) => (true, name),
            None => (false, self.feed_forward_proj.as_str()),
        };
        // The published gated checkpoints were trained with the tanh form, whatever they call it.
        let name = if gated && name == "gelu" { "gelu_new" } else { name };
        Ok(FeedForwardForm {
            gated,
            activation: name.parse()?,
        })
    }
}

/// T5: two stacks of layers over one embedding table, and the language-model head.
#[derive(Module, Debug)]
pub struct T5Model {
    shared: Embedding,
    encoder: T5Stack,
    decoder: T5Stack,
    /// `None` where the head is the embedding table.
    lm_head: Option<Linear>,
    #[module(skip)]
    config: T5Config,
}

#[derive(Module, Debug)]
struct T5Stack {
    layers: Vec<T5Layer>,
    norm: RmsNorm,
    /// `[buckets, heads]`, learned; published in the first layer, whose bias the others use.
    relative: Embedding,
    dropout: f64,
    #[module(skip)]
    buckets: Buckets,
    #[module(skip)]
    stack: Stack,
}

#[derive(Module, Debug)]
struct T5Layer {
    norm: RmsNorm,
    attention: T5Attention,
    /// In the decoder.
    cross: Option<T5Cross>,
    feed_forward_norm: RmsNorm,
    feed_forward: T5FeedForward,
    dropout: f64,
    #[module(skip)]
    stack: Stack,
    /// Counted over both stacks, the encoder's first, as AdapterHub counts.
    index: usize,
}

#[derive(Module, Debug)]
struct T5Cross {
    norm: RmsNorm,
    attention: T5Attention,
}

#[derive(Module, Debug)]
struct T5Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    padding: usize,
    dropout: f64,
    #[module(skip)]
    stack: Stack,
    /// Counted over both stacks.
    index: usize,
    /// Counted in its own.
    place: usize,
}

#[derive(Module, Debug)]
struct T5FeedForward {
    /// Whose activation multiplies the output of `up`, in the gated form.
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    dropout: f64,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    stack: Stack,
    index: usize,
}

/// Prefix of the keys in checkpoints of larger classes.
const PREFIX: &str = "transformer.";

/// Second names of the embedding table, and a bias of old checkpoints that nothing reads.
const KNOWN_UNUSED: &[&str] = &[
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
];

const WORDS: Site = Site::outside(Stack::Encoder, Role::TokenEmbedding);
const TOKENS: Site = Site::outside(Stack::Encoder, Role::EmbeddedTokens);
const EMBEDDING: Site = Site::outside(Stack::Encoder, Role::Embedding);
const LM_HEAD: Site = Site::outside(Stack::Decoder, Role::LmHead);

impl T5Model {
    /// Builds the model from a folder with the published `model.safetensors`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for values this model cannot have; [`ModelError::Store`] listing every missing,
    /// misshapen, unexpected or non-finite tensor.
    pub fn load(dir: &Path, config: T5Config, device: &Device) -> Result<Self, ModelError> {
        let form = config.check(&dir.join("config.json"))?;
        let mut weights = Weights::read(dir, PREFIX, device)?;
        let tied = config.tie_word_embeddings;
        let model = Self::from_weights(&mut weights, config, form);
        let mut unused = KNOWN_UNUSED.to_vec();
        unused.extend(tied.then_some("lm_head.weight"));
        weights.finish(&unused)?;
        Ok(model)
    }

    fn from_weights(w: &mut Weights, config: T5Config, form: FeedForwardForm) -> Self {
        let shared = w.embedding("shared", config.vocab_size, config.d_model);
        let encoder = T5Stack::from_weights(w, &config, form, Stack::Encoder);
        let decoder = T5Stack::from_weights(w, &config, form, Stack::Decoder);
        let lm_head =
            (!config.tie_word_embeddings).then(|| w.linear_without_bias("lm_head", config.d_model, config.vocab_size));
        Self {
            shared,
            encoder,
            decoder,
            lm_head,
            config,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// The encoder's last hidden state, `[batch, seq] -> [batch, seq, d_model]`, and what of it is padding.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    pub fn encode(
        &self,
        ids: Tensor<2, Int>,
        padding: Option<Tensor<2, Bool>>,
        cx: &mut Ctx<'_>,
    ) -> Result<EncodedInput, Error> {
        let EmbeddingState { hidden, padding, .. } = self.embedded(CausalInput { ids, padding }, cx)?;
        let mask = padding.clone().map(ops::padding_bias);
        let hidden = self.encoder.forward(hidden, mask, None, None, cx.hooks());
        Ok(EncodedInput { hidden, padding })
    }

    /// What enters the encoder's first layer.
    fn embedded(&self, input: CausalInput, cx: &mut Ctx<'_>) -> Result<EmbeddingState, Error> {
        let (cx, CausalInput { ids, padding }) = cx.begin(self, input)?;
        let hidden = cx.lookup(WORDS, &self.shared, ids);
        let hidden = cx.dropout(hidden, self.config.dropout_rate);
        let state = cx.embedding(TOKENS, EmbeddingState::new(hidden, padding));
        Ok(cx.embedding(EMBEDDING, state))
    }

    /// What enters the decoder's first layer.
    fn decoder_embedded(&self, ids: Tensor<2, Int>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let hidden = cx.lookup(WORDS, &self.shared, ids);
        cx.dropout(hidden, self.config.dropout_rate)
    }

    /// The decoder's last hidden state, `[batch, seq] -> [batch, seq, d_model]`. With a cache, `ids` are those that follow
    /// the positions it has seen.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    pub fn decode(
        &self,
        ids: Tensor<2, Int>,
        encoded: &EncodedInput,
        cache: Option<&mut DecoderCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<3>, Error> {
        let past = cache.as_ref().map_or(0, |cache| cache.columns());
        let (cx, DecoderInput { ids, .. }) = cx.begin(self, DecoderInput { ids, encoded, past })?;
        let mask = ops::causal_bias(ids.dims()[1], past, None, None, &ids.device());
        let hidden = self.decoder_embedded(ids, cx);
        Ok(self.decoder.forward(hidden, Some(mask), Some(encoded), cache, cx))
    }

    /// The scores of the vocabulary, `[batch, seq, d_model] -> [batch, seq, vocab]`. The tied head reads hidden states
    /// divided by the root of their width.
    pub fn logits(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Tensor<3> {
        match &self.lm_head {
            Some(head) => cx.hooks().linear(LM_HEAD, head, hidden),
            None => ops::project(
                hidden * (self.config.d_model as f64).sqrt().recip(),
                self.shared.weight.val(),
            ),
        }
    }
}

impl T5Stack {
    fn from_weights(w: &mut Weights, config: &T5Config, form: FeedForwardForm, stack: Stack) -> Self {
        let (d, inner, eps) = (
            config.d_model,
            config.num_heads * config.d_kv,
            config.layer_norm_epsilon,
        );
        let (name, first, count) = match stack {
            Stack::Encoder => ("encoder", 0, config.num_layers),
            Stack::Decoder | Stack::Cross => ("decoder", config.num_layers, config.decoder_layers()),
        };
        let buckets = config.relative_attention_num_buckets;
        let layers = (0..count).map(|layer| {
            let index = first + layer;
            let at = |rest: &str| format!("{name}.block.{layer}.layer.{rest}");
            let attention = |w: &mut Weights, path: &str, stack| T5Attention {
                query: w.linear_without_bias(&at(&format!("{path}.q")), d, inner),
                key: w.linear_without_bias(&at(&format!("{path}.k")), d, inner),
                value: w.linear_without_bias(&at(&format!("{path}.v")), d, inner),
                output: w.linear_without_bias(&at(&format!("{path}.o")), inner, d),
                heads: config.num_heads,
                padding: config.pad_token_id,
                dropout: config.dropout_rate,
                stack,
                index,
                place: layer,
            };
            let cross = (stack == Stack::Decoder).then(|| T5Cross {
                norm: w.rms_norm(&at("1.layer_norm"), d, eps),
                attention: attention(w, "1.EncDecAttention", Stack::Cross),
            });
            let last = 1 + usize::from(cross.is_some());
            let dense = |rest: &str| at(&format!("{last}.DenseReluDense.{rest}"));
            let (gate, up) = match form.gated {
                true => (Some("wi_0"), "wi_1"),
                false => (None, "wi"),
            };
            T5Layer {
                norm: w.rms_norm(&at("0.layer_norm"), d, eps),
                attention: attention(w, "0.SelfAttention", stack),
                cross,
                feed_forward_norm: w.rms_norm(&at(&format!("{last}.layer_norm")), d, eps),
                feed_forward: T5FeedForward {
                    gate: gate.map(|gate| w.linear_without_bias(&dense(gate), d, config.d_ff)),
                    up: w.linear_without_bias(&dense(up), d, config.d_ff),
                    down: w.linear_without_bias(&dense("wo"), config.d_ff, d),
                    dropout: config.dropout_rate,
                    activation: form.activation,
                    stack,
                    index,
                },
                dropout: config.dropout_rate,
                stack,
                index,
            }
        });
        Self {
            layers: layers.collect(),
            norm: w.rms_norm(&format!("{name}.final_layer_norm"), d, eps),
            relative: w.embedding(
                &format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias"),
                buckets,
                config.num_heads,
            ),
            dropout: config.dropout_rate,
            buckets: Buckets {
                count: buckets,
                max_distance: config.relative_attention_max_distance,
                both_ways: stack == Stack::Encoder,
            },
            stack,
        }
    }

    fn forward(
        &self,
        mut hidden: Tensor<3>,
        mask: Option<Tensor<4>>,
        encoded: Option<&EncodedInput>,
        mut cache: Option<&mut DecoderCache>,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let [batch, seq, _] = hidden.dims();
        let past = match &mut cache {
            Some(cache) => {
                cache.own.read([batch, seq], None, &hidden.device());
                cache.columns()
            }
            None => 0,
        };
        let mut distances = self.distances(seq, past, cx);
        for layer in &self.layers {
            let cache = cache.as_deref_mut();
            hidden = layer.forward(hidden, mask.clone(), &mut distances, encoded, cache, cx);
        }
        if let Some(cache) = cache {
            cache.own.grow(seq);
        }
        self.end(hidden, cx)
    }

    /// The norm after the last layer.
    fn end(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let normed = cx.norm(Site::outside(self.stack, Role::FinalNorm), &self.norm, hidden);
        cx.dropout(normed, self.dropout)
    }
}

impl T5Layer {
    fn site(&self, role: Role) -> Site {
        Site::new(self.stack, self.index, role)
    }

    fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<4>>,
        distances: &mut Distances<'_>,
        encoded: Option<&EncodedInput>,
        mut cache: Option<&mut DecoderCache>,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let normed = cx.norm(self.site(Role::AttentionNorm), &self.norm, x.clone());
        let attended = self
            .attention
            .over_itself(normed, mask, distances, cache.as_deref_mut(), cx);
        let attended = cx.dropout(attended, self.dropout);
        let mut x = cx.hidden(self.site(Role::AfterAttention), attended, x, None);

        if let (Some(cross), Some(encoded)) = (&self.cross, encoded) {
            let site = Site::new(Stack::Cross, self.index, Role::AttentionNorm);
            let normed = cx.norm(site, &cross.norm, x.clone());
            let attended = cross.attention.over_the_encoder(normed, encoded, cache, cx);
            let attended = cx.dropout(attended, self.dropout);
            x = cx.hidden(self.site(Role::AfterCrossAttention), attended, x, None);
        }

        let normed = cx.norm(self.site(Role::FfnNorm), &self.feed_forward_norm, x.clone());
        let fed = self.feed_forward.forward(normed, cx);
        let fed = cx.dropout(fed, self.dropout);
        let x = cx.hidden(self.site(Role::AfterFfn), fed, x, None);
        cx.output(self.site(Role::LayerOutput), x)
    }
}

impl T5Attention {
    fn site(&self, role: Role) -> Site {
        Site::new(self.stack, self.index, role)
    }

    /// Self-attention.
    fn over_itself(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<4>>,
        distances: &mut Distances<'_>,
        cache: Option<&mut DecoderCache>,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let query = self.query(x.clone(), cx);
        let (key, value) = self.keys_values(x.clone(), cx);
        let (key, value) = match cache {
            Some(cache) => cache.own.append(self.place, key, value),
            None => (key, value),
        };
        let state = KeyValueState::new(key, value, x)
            .with_bias(mask)
            .with_filler(self.padding);
        let state = cx.key_value(self.site(Role::KeyValue), state);
        let far = distances.of(self.place, &state.key);
        let bias = match &state.bias {
            Some(mask) => far + mask.clone(),
            None => far,
        };
        self.attend(query, state.with_bias(Some(bias)), cx)
    }

    /// Attention of the decoder over the encoder's output, whose keys and values a cache keeps from the first step on.
    fn over_the_encoder(
        &self,
        x: Tensor<3>,
        encoded: &EncodedInput,
        cache: Option<&mut DecoderCache>,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let query = self.query(x.clone(), cx);
        let (key, value) = match cache {
            Some(cache) => cache.across(self.place, || self.keys_values(encoded.hidden.clone(), cx)),
            None => self.keys_values(encoded.hidden.clone(), cx),
        };
        let state = KeyValueState::new(key, value, x)
            .with_bias(encoded.padding.clone().map(ops::padding_bias))
            .with_filler(self.padding);
        let state = cx.key_value(self.site(Role::KeyValue), state);
        self.attend(query, state, cx)
    }

    fn query(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<4> {
        self.split_heads(cx.linear(self.site(Role::Query), &self.query, x))
    }

    fn keys_values(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> (Tensor<4>, Tensor<4>) {
        let key = cx.linear(self.site(Role::Key), &self.key, x.clone());
        let value = cx.linear(self.site(Role::Value), &self.value, x);
        (self.split_heads(key), self.split_heads(value))
    }

    /// The scores are not divided by the root of the heads' width: the published weights have that in them.
    fn attend(&self, query: Tensor<4>, state: KeyValueState, cx: &mut Hooks<'_>) -> Tensor<3> {
        let dropout = |weights| cx.dropout(weights, self.dropout);
        let out = ops::scaled_attention(query, state.key, state.value, 1.0, state.bias, dropout);
        let [batch, heads, seq, d_head] = out.dims();
        let out = out.swap_dims(1, 2).reshape([batch, seq, heads * d_head]);
        cx.linear(self.site(Role::AttentionOutput), &self.output, out)
    }

    /// `[batch, seq, inner] -> [batch, heads, seq, d_head]`
    fn split_heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, seq, inner] = x.dims();
        x.reshape([batch, seq, self.heads, inner / self.heads]).swap_dims(1, 2)
    }
}

impl T5FeedForward {
    fn site(&self, role: Role) -> Site {
        Site::new(self.stack, self.index, role)
    }

    fn forward(&self, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let up = cx.linear(self.site(Role::FfnUp), &self.up, x.clone());
        let inner = match &self.gate {
            Some(gate) => self.activation.forward(cx.linear(self.site(Role::FfnGate), gate, x)) * up,
            None => self.activation.forward(up),
        };
        let inner = cx.dropout(inner, self.dropout);
        cx.linear(self.site(Role::FfnDown), &self.down, inner)
    }
}
