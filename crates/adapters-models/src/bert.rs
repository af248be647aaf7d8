//! BERT, from the published configuration to the last hidden state.
//!
//! Paper: *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*, Devlin et al., 2018,
//! <https://arxiv.org/abs/1810.04805>. Behavior follows `BertModel` of Hugging Face transformers.

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

use crate::encoder::EncoderInput;
use crate::error::ModelError;
use crate::staged::{Block, Blocks, Flow, Staged};
use crate::weights::Weights;

/// `config.json` of a BERT checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Activation of the feed-forward block.
    pub hidden_act: String,
    /// Dropout on embeddings and block outputs, in training.
    pub hidden_dropout_prob: f64,
    /// Dropout on attention weights, in training.
    pub attention_probs_dropout_prob: f64,
    /// Dropout before a head, in training; `hidden_dropout_prob` without it.
    pub classifier_dropout: Option<f64>,
    /// Longest input in tokens.
    pub max_position_embeddings: usize,
    /// Token types.
    pub type_vocab_size: usize,
    /// Epsilon of the layer normalizations.
    pub layer_norm_eps: f64,
    /// Id of the padding token.
    pub pad_token_id: usize,
    /// Only `absolute` is computed.
    pub position_embedding_type: String,
    /// A decoder attends to the past only; not computed.
    pub is_decoder: bool,
    /// Cross attention; not computed.
    pub add_cross_attention: bool,
}

impl Default for BertConfig {
    /// The defaults of the published class (BERT base, uncased).
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            classifier_dropout: None,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
            position_embedding_type: "absolute".to_owned(),
            is_decoder: false,
            add_cross_attention: false,
        }
    }
}

impl BertConfig {
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
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ] {
            if value == 0 || value > 1 << 24 {
                return refuse(field, "between 1 and 2^24", value.to_string());
            }
        }
        if self.num_hidden_layers > 1 << 12 {
            return refuse("num_hidden_layers", "at most 4096", self.num_hidden_layers.to_string());
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected = format!("a multiple of num_attention_heads = {}", self.num_attention_heads);
            return refuse("hidden_size", &expected, self.hidden_size.to_string());
        }
        for (field, value) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ] {
            if !(0.0..1.0).contains(&value) {
                return refuse(field, "0 <= p < 1", value.to_string());
            }
        }
        if self.position_embedding_type != "absolute" {
            return refuse(
                "position_embedding_type",
                "`absolute`",
                self.position_embedding_type.clone(),
            );
        }
        if self.is_decoder || self.add_cross_attention {
            return refuse(
                "is_decoder / add_cross_attention",
                "false: this is an encoder",
                "true".to_owned(),
            );
        }
        Ok(self.hidden_act.parse()?)
    }
}

/// The BERT encoder: embeddings, layers, and the pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct BertModel {
    embeddings: BertEmbeddings,
    layers: Vec<BertLayer>,
    pooler: Option<Linear>,
    #[module(skip)]
    config: BertConfig,
}

#[derive(Module, Debug)]
struct BertEmbeddings {
    word: Embedding,
    position: Embedding,
    token_type: Embedding,
    norm: LayerNorm,
}

#[derive(Module, Debug)]
struct BertLayer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
    index: usize,
    heads: usize,
    padding: usize,
    hidden_dropout: f64,
    attention_dropout: f64,
    #[module(skip)]
    activation: Activation,
}

/// Prefix of the keys in checkpoints of larger classes.
const PREFIX: &str = "bert.";

/// Keys of larger classes and old buffers, which this model has no use for.
const KNOWN_UNUSED: &[&str] = &["embeddings.position_ids", "cls.", "classifier.", "qa_outputs."];

impl BertModel {
    /// Builds the model from a folder with the published `model.safetensors`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for values this model cannot have; [`ModelError::Store`] listing every missing,
    /// misshapen, unexpected or non-finite tensor.
    pub fn load(dir: &Path, config: BertConfig, device: &Device) -> Result<Self, ModelError> {
        let activation = config.check(&dir.join("config.json"))?;
        let mut weights = Weights::read(dir, PREFIX, device)?;
        let model = Self::from_weights(&mut weights, config, activation);
        weights.finish(KNOWN_UNUSED)?;
        Ok(model)
    }

    /// A model with random weights (see [`Weights::random`]).
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for a configuration that is not computed.
    pub fn random(config: BertConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        let activation = config.check(Path::new("config.json"))?;
        Ok(Self::from_weights(
            &mut Weights::random(seed, device),
            config,
            activation,
        ))
    }

    fn from_weights(w: &mut Weights, config: BertConfig, activation: Activation) -> Self {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let embeddings = BertEmbeddings {
            word: w.embedding("embeddings.word_embeddings", config.vocab_size, d),
            position: w.embedding("embeddings.position_embeddings", config.max_position_embeddings, d),
            token_type: w.embedding("embeddings.token_type_embeddings", config.type_vocab_size, d),
            norm: w.layer_norm("embeddings.LayerNorm", d, eps),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| {
                let at = |rest: &str| format!("encoder.layer.{index}.{rest}");
                BertLayer {
                    query: w.linear(&at("attention.self.query"), d, d),
                    key: w.linear(&at("attention.self.key"), d, d),
                    value: w.linear(&at("attention.self.value"), d, d),
                    attention_output: w.linear(&at("attention.output.dense"), d, d),
                    attention_norm: w.layer_norm(&at("attention.output.LayerNorm"), d, eps),
                    up: w.linear(&at("intermediate.dense"), d, config.intermediate_size),
                    down: w.linear(&at("output.dense"), config.intermediate_size, d),
                    output_norm: w.layer_norm(&at("output.LayerNorm"), d, eps),
                    index,
                    heads: config.num_attention_heads,
                    padding: config.pad_token_id,
                    hidden_dropout: config.hidden_dropout_prob,
                    attention_dropout: config.attention_probs_dropout_prob,
                    activation,
                }
            })
            .collect();
        // Published without a pooler when it was saved from a class that has none.
        let pooler = w.has("pooler.dense.weight").then(|| w.linear("pooler.dense", d, d));
        Self {
            embeddings,
            layers,
            pooler,
            config,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The word embeddings, `[vocab, d_model]`.
    pub fn word_embeddings(&self) -> Tensor<2> {
        self.embeddings.word.weight.val()
    }

    /// The last hidden state.
    ///
    /// # Shapes
    ///
    /// `[batch, seq]` of token ids to `[batch, seq, d_model]`; under a `Parallel` block the output has the batch once a
    /// branch, one after the other.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics if `seq`, with what adapters put in or take up before positions are added, is longer than
    /// `max_position_embeddings`, or an id is outside the vocabulary.
    pub fn forward(&self, input: EncoderInput, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        Ok(self.staged(input, cx)?.run(cx.hooks()))
    }

    /// Whether the checkpoint has a pooler.
    pub fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }

    /// The pooler over the first token, `tanh(W h_0 + b)`, `[batch, seq, d_model] -> [batch, d_model]`; `None` for a
    /// checkpoint without one.
    pub fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        let pooler = self.pooler.as_ref()?;
        let first = hidden.slice_dim(1, 0..1);
        Some(cx.hooks().linear(POOLER, pooler, first).tanh().squeeze_dim(1))
    }
}

impl Blocks for BertModel {
    type Input = EncoderInput;

    fn staged(&self, input: EncoderInput, cx: &mut Ctx<'_>) -> Result<Staged<'_>, Error> {
        let (cx, input) = cx.begin(self, input)?;
        let mut state = self.embeddings.forward(&input, cx);
        state.hidden = cx.dropout(state.hidden, self.config.hidden_dropout_prob);
        let EmbeddingState { hidden, padding, .. } = cx.embedding(EMBEDDING, state);
        let bias = padding.map(ops::padding_bias);
        let block = |layer| -> Block<'_> {
            let bias = bias.clone();
            Flow::block(move |x, cx| BertLayer::forward(layer, x, bias.clone(), cx))
        };
        Ok(Staged {
            entered: Flow::of(hidden),
            blocks: self.layers.iter().map(block).collect(),
        })
    }
}

const EMBEDDING: Site = Site::outside(Stack::Encoder, Role::Embedding);
const WORDS: Site = Site::outside(Stack::Encoder, Role::TokenEmbedding);
const TOKENS: Site = Site::outside(Stack::Encoder, Role::EmbeddedTokens);
const EMBEDDING_NORM: Site = Site::outside(Stack::Encoder, Role::EmbeddingNorm);
const POOLER: Site = Site::outside(Stack::Encoder, Role::Pooler);

impl BertEmbeddings {
    fn forward(&self, input: &EncoderInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let words = cx.lookup(WORDS, &self.word, input.ids.clone());
        let state = cx.embedding(TOKENS, EmbeddingState::new(words, input.padding.clone()));
        let [batch, seq, _] = state.hidden.dims();
        let types = match &input.token_types {
            Some(types) => {
                // What stands in front of the text is of the first type.
                let more = Tensor::zeros([batch, seq - types.dims()[1]], &types.device());
                self.token_type.forward(Tensor::cat(vec![more, types.clone()], 1))
            }
            // All zeros: one row, broadcast.
            None => self.token_type.weight.val().slice_dim(0, 0..1).unsqueeze(),
        };
        let first = cx.first_position();
        let positions = self.position.weight.val().slice_dim(0, first..first + seq).unsqueeze();
        EmbeddingState {
            hidden: cx.norm(EMBEDDING_NORM, &self.norm, state.hidden + types + positions),
            ..state
        }
    }
}

impl BertLayer {
    fn site(&self, role: Role) -> Site {
        Site::new(Stack::Encoder, self.index, role)
    }

    fn forward(&self, x: Tensor<3>, bias: Option<Tensor<4>>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let attended = self.attention(x.clone(), bias, cx);
        let attended = cx.dropout(attended, self.hidden_dropout);
        let norm = (self.site(Role::AttentionNorm), &self.attention_norm);
        let x = cx.hidden(self.site(Role::AfterAttention), attended, x, Some(norm));

        let up = cx.linear(self.site(Role::FfnUp), &self.up, x.clone());
        let down = cx.linear(self.site(Role::FfnDown), &self.down, self.activation.forward(up));
        let down = cx.dropout(down, self.hidden_dropout);
        let norm = (self.site(Role::FfnNorm), &self.output_norm);
        let x = cx.hidden(self.site(Role::AfterFfn), down, x, Some(norm));
        cx.output(self.site(Role::LayerOutput), x)
    }

    fn attention(&self, x: Tensor<3>, bias: Option<Tensor<4>>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let query = cx.linear(self.site(Role::Query), &self.query, x.clone());
        let key = cx.linear(self.site(Role::Key), &self.key, x.clone());
        let value = cx.linear(self.site(Role::Value), &self.value, x.clone());
        let state = KeyValueState::new(self.split_heads(key), self.split_heads(value), x)
            .with_bias(bias)
            .with_filler(self.padding);
        let state = cx.key_value(self.site(Role::KeyValue), state);
        let dropout = cx
            .pass()
            .dropout
            .as_ref()
            .map(|dropout| (dropout, self.attention_dropout));
        let out = ops::attention(self.split_heads(query), state.key, state.value, state.bias, dropout);
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
            Role::Query => &self.query,
            Role::Key => &self.key,
            Role::Value => &self.value,
            Role::AttentionOutput => &self.attention_output,
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
            Role::FfnUp => &mut self.up,
            Role::FfnDown => &mut self.down,
            _ => return None,
        })
    }
}

impl Host for BertModel {
    fn architecture(&self) -> &str {
        "bert"
    }

    fn class_name(&self) -> &str {
        "BertModel"
    }

    fn d_model(&self) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_probs_dropout_prob
    }

    fn sites(&self) -> Vec<SiteInfo> {
        let c = &self.config;
        let (d, ffn, heads) = (c.hidden_size, c.intermediate_size, c.num_attention_heads);
        let linear = |d_in, d_out| SiteKind::Linear { d_in, d_out };
        let norm = SiteKind::Norm { d_model: d };
        let d_head = d / heads;
        let in_layer = [
            (Role::Query, linear(d, d), "attention.self.query"),
            (Role::Key, linear(d, d), "attention.self.key"),
            (Role::Value, linear(d, d), "attention.self.value"),
            (Role::KeyValue, SiteKind::KeyValue { heads, d_head }, "attention.self"),
            (Role::AttentionOutput, linear(d, d), "attention.output.dense"),
            (Role::AttentionNorm, norm, "attention.output.LayerNorm"),
            (
                Role::AfterAttention,
                SiteKind::Hidden { d_model: d },
                "attention.output",
            ),
            (Role::FfnUp, linear(d, ffn), "intermediate.dense"),
            (Role::FfnDown, linear(ffn, d), "output.dense"),
            (Role::FfnNorm, norm, "output.LayerNorm"),
            (Role::AfterFfn, SiteKind::Hidden { d_model: d }, "output"),
        ];
        let words = SiteKind::Table {
            rows: c.vocab_size,
            d_model: d,
            padding: Some(c.pad_token_id),
        };
        let mut sites: Vec<SiteInfo> = [
            (WORDS, words, "embeddings.word_embeddings"),
            (TOKENS, SiteKind::Embedding { d_model: d }, "embeddings.word_embeddings"),
            (EMBEDDING_NORM, norm, "embeddings.LayerNorm"),
            (EMBEDDING, SiteKind::Embedding { d_model: d }, "embeddings"),
        ]
        .map(|(site, kind, path)| SiteInfo::new(site, kind, path))
        .into();
        for index in 0..self.layers.len() {
            let at = |role| Site::new(Stack::Encoder, index, role);
            sites.extend(
                in_layer
                    .iter()
                    .map(|(role, kind, path)| SiteInfo::new(at(*role), *kind, format!("encoder.layer.{index}.{path}"))),
            );
            let output = SiteKind::LayerOutput { d_model: d };
            sites.push(SiteInfo::new(
                at(Role::LayerOutput),
                output,
                format!("encoder.layer.{index}"),
            ));
        }
        if self.pooler.is_some() {
            sites.push(SiteInfo::new(POOLER, linear(d, d), "pooler.dense"));
        }
        sites
    }

    fn linear(&self, site: Site) -> Option<&Linear> {
        match site.layer {
            Some(index) => self.layers.get(index)?.linear(site.role),
            None if site == POOLER => self.pooler.as_ref(),
            None => None,
        }
    }

    fn linear_mut(&mut self, site: Site) -> Option<&mut Linear> {
        match site.layer {
            Some(index) => self.layers.get_mut(index)?.linear_mut(site.role),
            None if site == POOLER => self.pooler.as_mut(),
            None => None,
        }
    }

    fn norm(&self, site: Site) -> Option<NormWeight> {
        let norm = match (site.layer, site.role) {
            (None, Role::EmbeddingNorm) => &self.embeddings.norm,
            (Some(index), Role::AttentionNorm) => &self.layers.get(index)?.attention_norm,
            (Some(index), Role::FfnNorm) => &self.layers.get(index)?.output_norm,
            _ => return None,
        };
        Some(norm.parameters())
    }

    fn set_norm(&mut self, site: Site, parameters: NormWeight) -> Option<()> {
        let norm = match (site.layer, site.role) {
            (None, Role::EmbeddingNorm) => &mut self.embeddings.norm,
            (Some(index), Role::AttentionNorm) => &mut self.layers.get_mut(index)?.attention_norm,
            (Some(index), Role::FfnNorm) => &mut self.layers.get_mut(index)?.output_norm,
            _ => return None,
        };
        *norm = norm.clone().with_parameters(parameters);
        Some(())
    }

    fn table(&self, site: Site) -> Option<&Embedding> {
        (site == WORDS).then_some(&self.embeddings.word)
    }

    fn table_mut(&mut self, site: Site) -> Option<&mut Embedding> {
        (site == WORDS).then_some(&mut self.embeddings.word)
    }
}
