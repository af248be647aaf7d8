//! The decoder that Llama, Mistral and Qwen2 share, from a checked configuration to logits: root-mean-square norms in front
//! of each block, rotary positions, grouped queries, and a gated feed-forward block.
//!
//! What a family adds, its defaults and its biases and windows, is in its own file. Papers: *RoFormer* for the positions (see
//! [`rotary`](crate::rotary)); *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*,
//! Ainslie et al., 2023, <https://arxiv.org/abs/2305.13245>; *GLU Variants Improve Transformer*, Shazeer, 2020,
//! <https://arxiv.org/abs/2002.05202>; *Root Mean Square Layer Normalization*, Zhang and Sennrich, 2019,
//! <https://arxiv.org/abs/1910.07467>. Behavior follows the causal language models of Hugging Face transformers.

use std::path::Path;
use std::rc::Rc;

use adapters_core::{
    Ctx, EmbeddingState, Error, Hooks, Host, KeyValueState, NormWeight, Normalization, Role, Site, SiteInfo, SiteKind,
    Stack,
};
use adapters_nn::ops::{self, Activation};
use burn::module::{Module, Param, ParamId};
use burn::nn::{Embedding, Linear, RmsNorm};
use burn::tensor::{Bool, Device, Tensor};

use crate::cache::KeyValueCache;
use crate::causal_lm::{CachedInput, CausalInput};
use crate::error::ModelError;
use crate::rotary::{Rotary, Turns};
use crate::rotary_config::{Family, RotaryDecoderConfig};
use crate::staged::{Block, Blocks, Flow, Staged};
use crate::weights::Weights;

/// A causal language model of one of the families: embeddings, layers, norm and head.
#[derive(Module, Debug)]
pub struct RotaryDecoder {
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// `None` where it is the table of the embeddings.
    head: Option<Linear>,
    #[module(skip)]
    config: RotaryDecoderConfig,
    #[module(skip)]
    family: Family,
    #[module(skip)]
    rotary: Rotary,
}

#[derive(Module, Debug)]
struct Layer {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    ffn_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    index: usize,
    d_head: usize,
    padding: usize,
    attention_dropout: f64,
    #[module(skip)]
    window: Option<usize>,
    #[module(skip)]
    activation: Activation,
}

/// What the layers of a pass have in common.
struct Frame {
    turns: Turns,
    /// What queries may see, for each window there is.
    biases: Vec<(Option<usize>, Tensor<4>)>,
}

/// Prefix of the keys of the model inside the language model.
const PREFIX: &str = "model.";

impl RotaryDecoder {
    /// Builds the model from a folder with the published `model.safetensors`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for values this model cannot have; [`ModelError::Store`] listing every missing,
    /// misshapen, unexpected or non-finite tensor.
    pub fn load(dir: &Path, config: RotaryDecoderConfig, family: Family, device: &Device) -> Result<Self, ModelError> {
        let (activation, rotary) = config.check(&dir.join("config.json"), &family)?;
        let mut weights = Weights::read(dir, PREFIX, device)?;
        // Old buffers, and the table a second time.
        let tied = config.tie_word_embeddings;
        weights.ignore(|key| key.ends_with(".rotary_emb.inv_freq") || (tied && key == "lm_head.weight"));
        let model = Self::from_weights(&mut weights, config, family, activation, rotary);
        weights.finish(&[])?;
        Ok(model)
    }

    fn from_weights(
        w: &mut Weights,
        config: RotaryDecoderConfig,
        family: Family,
        activation: Activation,
        rotary: Rotary,
    ) -> Self {
        let (d, ffn, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let [heads, kv_heads, d_head] = config.heads();
        let embedding = w.embedding("embed_tokens", config.vocab_size, d);
        let linear = |w: &mut Weights, path: String, d_in, d_out, bias| match bias {
            true => w.linear(&path, d_in, d_out),
            false => w.linear_without_bias(&path, d_in, d_out),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| {
                let at = |rest: &str| format!("layers.{index}.{rest}");
                let (qkv, out, mlp) = (family.qkv_bias, family.output_bias, family.ffn_bias);
                Layer {
                    attention_norm: w.rms_norm(&at("input_layernorm"), d, eps),
                    query: linear(w, at("self_attn.q_proj"), d, heads * d_head, qkv),
                    key: linear(w, at("self_attn.k_proj"), d, kv_heads * d_head, qkv),
                    value: linear(w, at("self_attn.v_proj"), d, kv_heads * d_head, qkv),
                    attention_output: linear(w, at("self_attn.o_proj"), heads * d_head, d, out),
                    ffn_norm: w.rms_norm(&at("post_attention_layernorm"), d, eps),
                    gate: linear(w, at("mlp.gate_proj"), d, ffn, mlp),
                    up: linear(w, at("mlp.up_proj"), d, ffn, mlp),
                    down: linear(w, at("mlp.down_proj"), ffn, d, mlp),
                    index,
                    d_head,
                    padding: config.pad_token_id.unwrap_or(0),
                    attention_dropout: config.attention_dropout,
                    window: family.windows[index],
                    activation,
                }
            })
            .collect();
        Self {
            embedding,
            layers,
            norm: w.rms_norm("norm", d, eps),
            head: (!config.tie_word_embeddings).then(|| w.linear_without_bias("lm_head", d, config.vocab_size)),
            config,
            family,
            rotary,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &RotaryDecoderConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.embedding.weight.val().device()
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
    /// Panics on an id outside the vocabulary.
    pub fn forward(
        &self,
        input: CausalInput,
        mut cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<3>, Error> {
        let (mut hidden, frame) = self.embedded(input, cache.as_deref_mut(), cx)?;
        let cx = cx.hooks();
        for layer in &self.layers {
            hidden = layer.forward(hidden, &frame, cache.as_deref_mut(), cx);
        }
        if let Some(cache) = cache {
            cache.grow(hidden.dims()[1]);
        }
        Ok(cx.norm(FINAL_NORM, &self.norm, hidden))
    }

    /// What enters the first layer, and what all have in common.
    fn embedded(
        &self,
        input: CausalInput,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<(Tensor<3>, Frame), Error> {
        let (cx, CachedInput { input, .. }) = cx.begin(self, CachedInput { input, cache })?;
        let (padding, past) = (cx.pass().padding.clone(), cx.pass().past);
        let hidden = cx.lookup(WORDS, &self.embedding, input.ids);
        let state = cx.embedding(TOKENS, EmbeddingState::new(hidden, padding).after(past));
        let EmbeddingState { hidden, padding, .. } = cx.embedding(EMBEDDING, state);
        let [_, seq, _] = hidden.dims();
        let frame = self.frame(seq, past, cx.first_position(), padding, &hidden.device());
        Ok((hidden, frame))
    }

    fn frame(&self, seq: usize, past: usize, first: usize, padding: Option<Tensor<2, Bool>>, device: &Device) -> Frame {
        let positions = ops::positions(seq, past, padding.as_ref(), device) + first as i64;
        let mut biases: Vec<(Option<usize>, Tensor<4>)> = Vec::new();
        for window in &self.family.windows {
            if !biases.iter().any(|(of, _)| of == window) {
                biases.push((*window, ops::causal_bias(seq, past, *window, padding.as_ref(), device)));
            }
        }
        Frame {
            turns: self.rotary.at(positions, device),
            biases,
        }
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
        let hidden = match self.family.undoes_embeddings {
            true => cx.before_lm_head(EMBEDDING, hidden),
            false => hidden,
        };
        let hidden = cx.output(HEAD_INPUT, hidden);
        match &self.head {
            Some(head) => cx.linear(HEAD, head, hidden),
            None => ops::project(hidden, self.embedding.weight.val()),
        }
    }
}

impl Blocks for RotaryDecoder {
    type Input = CausalInput;

    fn staged(&self, input: CausalInput, cx: &mut Ctx<'_>) -> Result<Staged<'_>, Error> {
        let (hidden, frame) = self.embedded(input, None, cx)?;
        let frame = Rc::new(frame);
        let block = |layer| -> Block<'_> {
            let frame = frame.clone();
            Flow::block(move |x, cx| Layer::forward(layer, x, &frame, None, cx))
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

impl Layer {
    fn site(&self, role: Role) -> Site {
        Site::new(Stack::Decoder, self.index, role)
    }

    fn forward(&self, x: Tensor<3>, frame: &Frame, cache: Option<&mut KeyValueCache>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let normed = cx.norm(self.site(Role::AttentionNorm), &self.attention_norm, x.clone());
        let attended = self.attention(normed, frame, cache, cx);
        let x = cx.hidden(self.site(Role::AfterAttention), attended, x, None);

        let normed = cx.norm(self.site(Role::FfnNorm), &self.ffn_norm, x.clone());
        let gate = cx.linear(self.site(Role::FfnGate), &self.gate, normed.clone());
        let up = cx.linear(self.site(Role::FfnUp), &self.up, normed);
        let down = cx.linear(self.site(Role::FfnDown), &self.down, self.activation.gated(gate, up));
        let x = cx.hidden(self.site(Role::AfterFfn), down, x, None);
        cx.output(self.site(Role::LayerOutput), x)
    }

    fn attention(
        &self,
        x: Tensor<3>,
        frame: &Frame,
        cache: Option<&mut KeyValueCache>,
        cx: &mut Hooks<'_>,
    ) -> Tensor<3> {
        let query = cx.linear(self.site(Role::Query), &self.query, x.clone());
        let key = cx.linear(self.site(Role::Key), &self.key, x.clone());
        let value = cx.linear(self.site(Role::Value), &self.value, x.clone());
        let query = frame.turns.turn(self.split_heads(query));
        let key = frame.turns.turn(self.split_heads(key));
        let value = self.split_heads(value);
        let (key, value) = match cache {
            Some(cache) => cache.append(self.index, key, value),
            None => (key, value),
        };
        let state = KeyValueState::new(key, value, x)
            .with_bias(frame.bias(self.window))
            .with_filler(self.padding);
        let state = cx.key_value(self.site(Role::KeyValue), state);
        let dropout = cx
            .pass()
            .dropout
            .as_ref()
            .map(|dropout| (dropout, self.attention_dropout));
        let out = ops::attention(query, state.key, state.value, state.bias, dropout);
        let [batch, heads, seq, d_head] = out.dims();
        let out = out.swap_dims(1, 2).reshape([batch, seq, heads * d_head]);
        cx.linear(self.site(Role::AttentionOutput), &self.attention_output, out)
    }

    /// `[batch, seq, heads * d_head] -> [batch, heads, seq, d_head]`
    fn split_heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, seq, width] = x.dims();
        x.reshape([batch, seq, width / self.d_head, self.d_head])
            .swap_dims(1, 2)
    }

    fn linear(&self, role: Role) -> Option<&Linear> {
        Some(match role {
            Role::Query => &self.query,
            Role::Key => &self.key,
            Role::Value => &self.value,
            Role::AttentionOutput => &self.attention_output,
            Role::FfnGate => &self.gate,
            Role::FfnUp => &self.up,
            Role::FfnDown => &self.down,
            _ => return None,
        })
    }

    fn linear_mut(&mut self, role: Role) -> Option<&mut Linear> {
        Some(match role {
            Role::Query => &mut self.query,
            Role::Key => &mut self.key,
            Role::Value => &mut self.value,
            Role::AttentionOutput => &mut self.attention_output,
            Role::FfnGate => &mut self.gate,
            Role::FfnUp => &mut self.up,
            Role::FfnDown => &mut self.down,
            _ => return None,
        })
    }
}

impl Frame {
    /// What the queries of a layer may see of its keys.
    fn bias(&self, window: Option<usize>) -> Option<Tensor<4>> {
        let mut biases = self.biases.iter();
        biases.find(|(of, _)| *of == window).map(|(_, bias)| bias.clone())
    }
}

impl Host for RotaryDecoder {
    fn architecture(&self) -> &str {
        self.family.model_type
    }

    fn class_name(&self) -> &str {
        self.family.class_name
    }

    fn d_model(&self) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        PREFIX
    }

    fn is_larger_class(&self) -> bool {
        true
    }

    fn sites(&self) -> Vec<SiteInfo> {
        let c = &self.config;
        let [q_heads, heads, d_head] = c.heads();
        let (d, ffn, width, kv) = (c.hidden_size, c.intermediate_size, q_heads * d_head, heads * d_head);
        let linear = |d_in, d_out| SiteKind::Linear { d_in, d_out };
        let (norm, hidden) = (SiteKind::Norm { d_model: d }, SiteKind::Hidden { d_model: d });
        // The attention and output adapters have no module of their own in the published checkpoint: these are the names the
        // reference gives them.
        let in_layer = [
            (Role::AttentionNorm, norm, ".input_layernorm"),
            (Role::Query, linear(d, width), ".self_attn.q_proj"),
            (Role::Key, linear(d, kv), ".self_attn.k_proj"),
            (Role::Value, linear(d, kv), ".self_attn.v_proj"),
            (Role::KeyValue, SiteKind::KeyValue { heads, d_head }, ".self_attn"),
            (Role::AttentionOutput, linear(width, d), ".self_attn.o_proj"),
            (Role::AfterAttention, hidden, ".attention_adapters"),
            (Role::FfnNorm, norm, ".post_attention_layernorm"),
            (Role::FfnGate, linear(d, ffn), ".mlp.gate_proj"),
            (Role::FfnUp, linear(d, ffn), ".mlp.up_proj"),
            (Role::FfnDown, linear(ffn, d), ".mlp.down_proj"),
            (Role::AfterFfn, hidden, ".output_adapters"),
            (Role::LayerOutput, SiteKind::LayerOutput { d_model: d }, ""),
        ];
        let words = SiteKind::Table {
            rows: c.vocab_size,
            d_model: d,
            padding: c.pad_token_id,
        };
        let mut sites = vec![
            SiteInfo::new(WORDS, words, "model.embed_tokens"),
            SiteInfo::new(TOKENS, SiteKind::Embedding { d_model: d }, "model.embed_tokens"),
            SiteInfo::new(EMBEDDING, SiteKind::Embedding { d_model: d }, "model"),
        ];
        for index in 0..self.layers.len() {
            sites.extend(in_layer.iter().map(|(role, kind, path)| {
                let site = Site::new(Stack::Decoder, index, *role);
                let info = SiteInfo::new(site, *kind, format!("model.layers.{index}{path}"));
                match role {
                    Role::FfnUp if self.family.swapped_places => info.at_place(Role::FfnDown),
                    Role::FfnDown if self.family.swapped_places => info.at_place(Role::FfnUp),
                    _ => info,
                }
            }));
        }
        sites.push(SiteInfo::new(FINAL_NORM, norm, "model.norm"));
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
        (site == WORDS).then_some(&self.embedding)
    }

    /// A head that is the table keeps the weight it has.
    fn table_mut(&mut self, site: Site) -> Option<&mut Embedding> {
        if site != WORDS {
            return None;
        }
        self.head.get_or_insert_with(|| Linear {
            weight: Param::initialized(ParamId::new(), self.embedding.weight.val().transpose()),
            bias: None,
        });
        Some(&mut self.embedding)
    }
}
