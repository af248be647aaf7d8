//! GPT-2, from the published configuration to the logits.
//!
//! Paper: *Language Models are Unsupervised Multitask Learners*, Radford et al., 2019,
//! <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>. Behavior
//! follows `GPT2LMHeadModel` of Hugging Face transformers.

use std::path::Path;

use adapters_core::{
    Ctx, EmbeddingState, Error, Hooks, Host, KeyValueState, NormWeight, Normalization, Role, Site, SiteInfo, SiteKind,
    Stack,
};
use adapters_nn::ops::{self, Activation};
use burn::module::Module;
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;

use crate::cache::KeyValueCache;
use crate::causal_lm::{CachedInput, CausalInput};
use crate::error::ModelError;
use crate::staged::{Block, Blocks, Flow, Staged};
use crate::weights::Weights;

/// `config.json` of a GPT-2 checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Gpt2Config {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest input in tokens.
    pub n_positions: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Layers.
    pub n_layer: usize,
    /// Attention heads.
    pub n_head: usize,
    /// Width of the feed-forward block; without it four times `n_embd`.
    pub n_inner: Option<usize>,
    /// Activation of the feed-forward block.
    pub activation_function: String,
    /// Dropout on block outputs, in training.
    pub resid_pdrop: f64,
    /// Dropout on embeddings, in training.
    pub embd_pdrop: f64,
    /// Dropout on attention weights, in training.
    pub attn_pdrop: f64,
    /// Epsilon of the layer normalizations.
    pub layer_norm_epsilon: f64,
    /// Whether scores are divided by the root of the heads' width.
    pub scale_attn_weights: bool,
    /// Whether they are divided by the number of the layer, too, counted from one.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Cross attention; not computed.
    pub add_cross_attention: bool,
    /// Whether the language-model head is the table of the token embeddings.
    pub tie_word_embeddings: bool,
    /// Id of the padding token.
    pub pad_token_id: Option<usize>,
}

impl Default for Gpt2Config {
    /// The defaults of the published class (GPT-2, the smallest).
    fn default() -> Self {
        Self {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            tie_word_embeddings: true,
            pad_token_id: None,
        }
    }
}

impl Gpt2Config {
    fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
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
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_inner", self.inner()),
        ] {
            if value == 0 || value > 1 << 24 {
                return refuse(field, "between 1 and 2^24", value.to_string());
            }
        }
        if self.n_layer > 1 << 12 {
            return refuse("n_layer", "at most 4096", self.n_layer.to_string());
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            let expected = format!("a multiple of n_head = {}", self.n_head);
            return refuse("n_embd", &expected, self.n_embd.to_string());
        }
        for (field, value) in [
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ] {
            if !(0.0..1.0).contains(&value) {
                return refuse(field, "0 <= p < 1", value.to_string());
            }
        }
        if self.add_cross_attention {
            return refuse(
                "add_cross_attention",
                "false: there is no encoder to attend to",
                "true".to_owned(),
            );
        }
        Ok(self.activation_function.parse()?)
    }
}

/// GPT-2: embeddings, layers, norm and head.
#[derive(Module, Debug)]
pub struct Gpt2Model {
    words: Embedding,
    positions: Embedding,
    layers: Vec<Gpt2Layer>,
    norm: LayerNorm,
    /// `None` where the head is the table of the token embeddings.
    head: Option<Linear>,
    #[module(skip)]
    config: Gpt2Config,
}

#[derive(Module, Debug)]
struct Gpt2Layer {
    attention_norm: LayerNorm,
    /// Query, key and value side by side, `[d_model, 3 d_model]`.
    attention_input: Linear,
    attention_output: Linear,
    ffn_norm: LayerNorm,
    up: Linear,
    down: Linear,
    index: usize,
    heads: usize,
    padding: usize,
    /// What scores are multiplied by.
    scale: f64,
    dropout: f64,
    attention_dropout: f64,
    #[module(skip)]
    activation: Activation,
}

/// Prefix of the keys of the model inside the language model; the oldest checkpoints have none.
const PREFIX: &str = "transformer.";

impl Gpt2Model {
    /// Builds the model from a folder with the published `model.safetensors`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for values this model cannot have; [`ModelError::Store`] listing every missing,
    /// misshapen, unexpected or non-finite tensor.
    pub fn load(dir: &Path, config: Gpt2Config, device: &Device) -> Result<Self, ModelError> {
        let activation = config.check(&dir.join("config.json"))?;
        let mut weights = Weights::read(dir, PREFIX, device)?;
        // The causal masks of old checkpoints, and the table a second time.
        let tied = config.tie_word_embeddings;
        weights.ignore(|key| {
            let mask = key.ends_with(".attn.bias") || key.ends_with(".attn.masked_bias");
            mask || (tied && key == "lm_head.weight")
        });
        let model = Self::from_weights(&mut weights, config, activation);
        weights.finish(&[])?;
        Ok(model)
    }

    fn from_weights(w: &mut Weights, config: Gpt2Config, activation: Activation) -> Self {
        let (d, inner, eps) = (config.n_embd, config.inner(), config.layer_norm_epsilon);
        let layers = (0..config.n_layer)
            .map(|index| {
                let at = |rest: &str| format!("h.{index}.{rest}");
                let root = match config.scale_attn_weights {
                    true => ((d / config.n_head) as f64).sqrt(),
                    false => 1.0,
                };
                let depth = match config.scale_attn_by_inverse_layer_idx {
                    true => (index + 1) as f64,
                    false => 1.0,
                };
                Gpt2Layer {
                    attention_norm: w.layer_norm(&at("ln_1"), d, eps),
                    attention_input: w.linear_input_first(&at("attn.c_attn"), d, 3 * d),
                    attention_output: w.linear_input_first(&at("attn.c_proj"), d, d),
                    ffn_norm: w.layer_norm(&at("ln_2"), d, eps),
                    up: w.linear_input_first(&at("mlp.c_fc"), d, inner),
                    down: w.linear_input_first(&at("mlp.c_proj"), inner, d),
                    index,
                    heads: config.n_head,
                    padding: config.pad_token_id.unwrap_or(0),
                    scale: (root * depth).recip(),
                    dropout: config.resid_pdrop,
                    attention_dropout: config.attn_pdrop,
                    activation,
                }
            })
            .collect();
        Self {
            words: w.embedding("wte", config.vocab_size, d),
            positions: w.embedding("wpe", config.n_positions, d),
            layers,
            norm: w.layer_norm("ln_f", d, eps),
            head: (!config.tie_word_embeddings).then(|| w.linear_without_bias("lm_head", d, config.vocab_size)),
            config,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.words.weight.val().device()
    }

    /// The last hidden state, after the final norm. With a `cache`, `input` is what follows the columns it holds.
    ///
    /// # Shapes
    ///
    /// `[batch, seq]` of token ids to `[batch, seq, d_model]`; an adapter may make `seq` longer.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics on an id outside the vocabulary and on more positions than `n_positions`.
    pub fn forward(
        &self,
        input: CausalInput,
        mut cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<3>, Error> {
        let (mut hidden, mask) = self.embedded(input, cache.as_deref_mut(), cx)?;
        let cx = cx.hooks();
        for layer in &self.layers {
            hidden = layer.forward(hidden, mask.clone(), cache.as_deref_mut(), cx);
        }
        if let Some(cache) = cache {
            cache.grow(hidden.dims()[1]);
        }
        Ok(cx.norm(FINAL_NORM, &self.norm, hidden))
    }

    /// What enters the first layer, and what its queries may see.
    fn embedded(
        &self,
        input: CausalInput,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<(Tensor<3>, Tensor<4>), Error> {
        let past_text = cache.as_ref().map_or(0, |cache| cache.text());
        let (cx, CachedInput { input, .. }) = cx.begin(self, CachedInput { input, cache })?;
        let (padding, past) = (cx.pass().padding.clone(), cx.pass().past);
        let device = input.ids.device();
        let words = cx.lookup(WORDS, &self.words, input.ids);
        let state = cx.embedding(TOKENS, EmbeddingState::new(words, padding).after(past));
        // What an adapter puts in among the tokens has positions, what it puts in later has none.
        let inserted: usize = state.inserted.iter().map(|inserted| inserted.count).sum();
        let before = match past {
            0 => 0,
            _ => past_text + inserted,
        };
        let [_, seq, _] = state.hidden.dims();
        let positions = ops::positions(seq, before, state.padding.as_ref(), &device) + cx.first_position() as i64;
        let hidden = state.hidden + self.positions.forward(positions);
        let hidden = cx.dropout(hidden, self.config.embd_pdrop);
        let state = cx.embedding(EMBEDDING, EmbeddingState { hidden, ..state });
        let [_, seq, _] = state.hidden.dims();
        let mask = ops::causal_bias(seq, past, None, state.padding.as_ref(), &device);
        Ok((state.hidden, mask))
    }

    /// Scores of all tokens, `W h`.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, vocab]`
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    pub fn logits(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Tensor<3> {
        let cx = cx.hooks();
        let hidden = cx.output(HEAD_INPUT, hidden);
        match &self.head {
            Some(head) => cx.linear(HEAD, head, hidden),
            None => ops::project(hidden, self.words.weight.val()),
        }
    }
}

impl Blocks for Gpt2Model {
    type Input = CausalInput;

    fn staged(&self, input: CausalInput, cx: &mut Ctx<'_>) -> Result<Staged<'_>, Error> {
        let (hidden, mask) = self.embedded(input, None, cx)?;
        let block = |layer| -> Block<'_> {
            let mask = mask.clone();
            Flow::block(move |x, cx| Gpt2Layer::forward(layer, x, mask.clone(), None, cx))
        };
        let mut blocks: Vec<_> = self.layers.iter().map(block).collect();
        blocks.push(Flow::block(|x, cx| cx.norm(FINAL_NORM, &self.norm, x)));
        Ok(Staged {
            entered: Flow::of(hidden),
            blocks,
        })
    }
}

const EMBEDDING: Site = Site::outside(Stack::Decoder, Role::Embedding);
const WORDS: Site = Site::outside(Stack::Decoder, Role::TokenEmbedding);
const TOKENS: Site = Site::outside(Stack::Decoder, Role::EmbeddedTokens);
const FINAL_NORM: Site = Site::outside(Stack::Decoder, Role::FinalNorm);
const HEAD_INPUT: Site = Site::outside(Stack::Decoder, Role::LmHeadInput);
const HEAD: Site = Site::outside(Stack::Decoder, Role::LmHead);

impl Gpt2Layer {
    fn site(&self, role: Role) -> Site {
        Site::new(Stack::Decoder, self.index, role)
    }

    fn forward(
        &self,
        x: Tensor<3>,
        mask: Tensor<4>,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let normed = cx.norm(self.site(Role::AttentionNorm), &self.attention_norm, x.clone());
        let attended = self.attention(normed, mask, cache, cx);
        let attended = cx.dropout(attended, self.dropout);
        let x = cx.hidden(self.site(Role::AfterAttention), attended, x, None);

        let normed = cx.norm(self.site(Role::FfnNorm), &self.ffn_norm, x.clone());
        let up = cx.linear(self.site(Role::FfnUp), &self.up, normed);
        let down = cx.linear(self.site(Role::FfnDown), &self.down, self.activation.forward(up));
        let down = cx.dropout(down, self.dropout);
        let x = cx.hidden(self.site(Role::AfterFfn), down, x, None);
        cx.output(self.site(Role::LayerOutput), x)
    }

    fn attention(
        &self,
        x: Tensor<3>,
        mask: Tensor<4>,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let d = x.dims()[2];
        let fused = cx.linear(self.site(Role::QueryKeyValue), &self.attention_input, x.clone());
        let part = |index: usize| self.split_heads(fused.clone().slice_dim(2, index * d..(index + 1) * d));
        let (key, value) = match cache {
            Some(cache) => cache.append(self.index, part(1), part(2)),
            None => (part(1), part(2)),
        };
        let state = KeyValueState::new(key, value, x)
            .with_bias(Some(mask))
            .with_filler(self.padding);
        let state = cx.key_value(self.site(Role::KeyValue), state);
        let dropout = cx
            .pass()
            .dropout
            .as_ref()
            .map(|dropout| (dropout, self.attention_dropout));
        let out = ops::scaled_attention(part(0), state.key, state.value, self.scale, state.bias, dropout);
        let [batch, heads, seq, d_head] = out.dims();
        let out = out.swap_dims(1, 2).reshape([batch, seq, heads * d_head]);
        cx.linear(self.site(Role::AttentionOutput), &self.attention_output, out)
    }

    /// `[batch, seq, d_model] -> [batch, heads, seq, d_head]`
    fn split_heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, seq, d_model] = x.dims();
        x.reshape([batch, seq, self.heads, d_model / self.heads])
            .swap_dims(1, 2)
    }

    fn linear(&self, role: Role) -> Option<&Linear> {
        Some(match role {
            Role::QueryKeyValue => &self.attention_input,
            Role::AttentionOutput => &self.attention_output,
            Role::FfnUp => &self.up,
            Role::FfnDown => &self.down,
            _ => return None,
        })
    }

    fn linear_mut(&mut self, role: Role) -> Option<&mut Linear> {
        Some(match role {
            Role::QueryKeyValue => &mut self.attention_input,
            Role::AttentionOutput => &mut self.attention_output,
            Role::FfnUp => &mut self.up,
            Role::FfnDown => &mut self.down,
            _ => return None,
        })
    }
}

impl Host for Gpt2Model {
    fn architecture(&self) -> &str {
        "gpt2"
    }

    fn class_name(&self) -> &str {
        "GPT2LMHeadModel"
    }

    fn d_model(&self) -> usize {
        self.config.n_embd
    }

    fn base_prefix(&self) -> &str {
        PREFIX
    }

    fn is_larger_class(&self) -> bool {
        true
    }

    fn stores_input_first(&self, site: Site) -> bool {
        site != HEAD
    }

    fn sites(&self) -> Vec<SiteInfo> {
        let c = &self.config;
        let (d, ffn, heads) = (c.n_embd, c.inner(), c.n_head);
        let linear = |d_in, d_out| SiteKind::Linear { d_in, d_out };
        let (norm, hidden) = (SiteKind::Norm { d_model: d }, SiteKind::Hidden { d_model: d });
        let d_head = d / heads;
        // The attention and output adapters have no module of their own in the published checkpoint: these are the names the
        // reference gives them.
        let in_layer = [
            (Role::AttentionNorm, norm, ".ln_1"),
            (Role::QueryKeyValue, linear(d, 3 * d), ".attn.c_attn"),
            (Role::KeyValue, SiteKind::KeyValue { heads, d_head }, ".attn"),
            (Role::AttentionOutput, linear(d, d), ".attn.c_proj"),
            (Role::AfterAttention, hidden, ".attention_adapters"),
            (Role::FfnNorm, norm, ".ln_2"),
            (Role::FfnUp, linear(d, ffn), ".mlp.c_fc"),
            (Role::FfnDown, linear(ffn, d), ".mlp.c_proj"),
            (Role::AfterFfn, hidden, ".output_adapters"),
            (Role::LayerOutput, SiteKind::LayerOutput { d_model: d }, ""),
        ];
        let words = SiteKind::Table {
            rows: c.vocab_size,
            d_model: d,
            padding: None,
        };
        let mut sites = vec![
            SiteInfo::new(WORDS, words, "transformer.wte"),
            SiteInfo::new(TOKENS, SiteKind::Embedding { d_model: d }, "transformer.wte"),
            SiteInfo::new(EMBEDDING, SiteKind::Embedding { d_model: d }, "transformer"),
        ];
        for index in 0..self.layers.len() {
            sites.extend(in_layer.iter().map(|(role, kind, path)| {
                let site = Site::new(Stack::Decoder, index, *role);
                SiteInfo::new(site, *kind, format!("transformer.h.{index}{path}"))
            }));
        }
        sites.push(SiteInfo::new(FINAL_NORM, norm, "transformer.ln_f"));
        sites.push(SiteInfo::new(
            HEAD_INPUT,
            SiteKind::LmHeadInput { d_model: d },
            "lm_head",
        ));
        if self.head.is_some() {
            sites.push(SiteInfo::new(HEAD, linear(d, c.vocab_size), "lm_head"));
        }
        sites
    }

    fn linear(&self, site: Site) -> Option<&Linear> {
        match site.layer {
            Some(index) => self.layers.get(index)?.linear(site.role),
            None if site == HEAD => self.head.as_ref(),
            None => None,
        }
    }

    fn linear_mut(&mut self, site: Site) -> Option<&mut Linear> {
        match site.layer {
            Some(index) => self.layers.get_mut(index)?.linear_mut(site.role),
            None if site == HEAD => self.head.as_mut(),
            None => None,
        }
    }

    fn norm(&self, site: Site) -> Option<NormWeight> {
        let norm = match (site.layer, site.role) {
            (Some(index), Role::AttentionNorm) => &self.layers.get(index)?.attention_norm,
            (Some(index), Role::FfnNorm) => &self.layers.get(index)?.ffn_norm,
            (None, Role::FinalNorm) => &self.norm,
            _ => return None,
        };
        Some(norm.parameters())
    }

    fn set_norm(&mut self, site: Site, parameters: NormWeight) -> Option<()> {
        let norm = match (site.layer, site.role) {
            (Some(index), Role::AttentionNorm) => &mut self.layers.get_mut(index)?.attention_norm,
            (Some(index), Role::FfnNorm) => &mut self.layers.get_mut(index)?.ffn_norm,
            (None, Role::FinalNorm) => &mut self.norm,
            _ => return None,
        };
        *norm = norm.clone().with_parameters(parameters);
        Some(())
    }

    fn table(&self, site: Site) -> Option<&Embedding> {
        (site == WORDS).then_some(&self.words)
    }

    fn table_mut(&mut self, site: Site) -> Option<&mut Embedding> {
        (site == WORDS).then_some(&mut self.words)
    }
}
