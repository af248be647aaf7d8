//! The decoder that Llama, Mistral and Qwen2 share, from a checked configuration to logits: root-mean-square norms in front
//! of each block, rotary positions, grouped queries, and a gated feed-forward block.
//!
//! What a family adds, its defaults and its biases and windows, is in its own file. Papers: *RoFormer* for the positions (see
//! [`rotary`](crate::rotary)); *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*,
//! Ainslie et al., 2023, <https://arxiv.org/abs/2305.13245>; *GLU Variants Improve Transformer*, Shazeer, 2020,
//! <https://arxiv.org/abs/2002.05202>; *Root Mean Square Layer Normalization*, Zhang and Sennrich, 2019,
//! <https://arxiv.org/abs/1910.07467>. Behavior follows the causal language models of Hugging Face transformers.

use adapters_core::Role;
use serde_json::{Map, Value};

use crate::checkpoint_folder::CheckpointFolder;
use crate::model::Model;
use crate::modeling::*;
use crate::rotary::{Rotary, Turns};
use crate::rotary_config::{Family, RotaryDecoderConfig};

/// A causal language model of one of the families: embeddings, layers, norm and head.
#[derive(Module, Sites, Debug)]
pub struct RotaryDecoder {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    embedding: Point<EmbeddingHook>,
    layers: Vec<Layer>,
    norm: Sited<RmsNorm>,
    head_input: Point<OutputHook>,
    head: Sited<Linear>,
    #[module(skip)]
    config: RotaryDecoderConfig,
    #[module(skip)]
    family: Family,
    #[module(skip)]
    rotary: Rotary,
}

#[derive(Module, Sites, Debug)]
struct Layer {
    attention_norm: Sited<RmsNorm>,
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    attention_output: Sited<Linear>,
    after_attention: Point<ResidualHook>,
    ffn_norm: Sited<RmsNorm>,
    gate: Sited<Linear>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    #[module(skip)]
    attention: AttentionOptions,
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

impl RotaryDecoder {
    /// Loads a checkpoint of a family: `defaults` are those of its published class.
    pub(crate) fn load_family(
        source: &CheckpointFolder,
        defaults: Map<String, Value>,
        family: fn(&RotaryDecoderConfig) -> Family,
        device: &Device,
    ) -> Result<Model, ModelError> {
        let config: RotaryDecoderConfig = source.config_with(defaults)?;
        let config = (family(&config), config);
        Ok(Model::new(Self::load(source.dir(), config, device)?))
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
}

impl FromCheckpoint for RotaryDecoder {
    type Config = (Family, RotaryDecoderConfig);
    const PREFIX: &'static str = "model.";
    const LARGER_CLASS: bool = true;

    fn build((family, config): Self::Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let (activation, rotary) = config.check(path, &family)?;
        let (d, vocab) = (config.hidden_size, config.vocab_size);
        let outside = Location::outside(Stack::Decoder);
        let mut at = weights.at(outside, "");
        let words = at.table("embed_tokens", [vocab, d], config.pad_token_id);
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "embed_tokens", d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "", d);
        let layers = family.windows.iter().enumerate().map(|(index, window)| {
            let at = weights.at(Location::layer(Stack::Decoder, index), format!("layers.{index}"));
            Layer::build(&config, &family, activation, *window, at)
        });
        let layers = layers.collect();
        let norm = weights
            .at(outside, "")
            .rms_norm(NormRole::FinalNorm, "norm", d, config.rms_norm_eps);
        let mut top = weights.at_top(outside, "lm_head");
        Ok(Self {
            head_input: top.head_input("", d),
            head: top.head(false, config.tie_word_embeddings.then_some(&words), [d, vocab]),
            words,
            embedded,
            embedding,
            layers,
            norm,
            config,
            family,
            rotary,
        })
    }

    /// Old buffers, and the table a second time.
    fn is_unused(&self, key: &str) -> bool {
        key.ends_with(".rotary_emb.inv_freq") || (self.config.tie_word_embeddings && key == "lm_head.weight")
    }
}

impl Layer {
    fn build(
        config: &RotaryDecoderConfig,
        family: &Family,
        activation: Activation,
        window: Option<usize>,
        mut at: Scope<'_>,
    ) -> Self {
        let (d, ffn, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let [heads, kv_heads, d_head] = config.heads();
        let (width, kv, qkv) = (heads * d_head, kv_heads * d_head, family.qkv_bias);
        // The adapters of attention and output have no module of their own in the published checkpoint: these are the names
        // the reference gives them.
        Self {
            attention_norm: at.rms_norm(NormRole::AttentionNorm, "input_layernorm", d, eps),
            query: at.linear_with(qkv, LinearRole::Query, "self_attn.q_proj", [d, width]),
            key: at.linear_with(qkv, LinearRole::Key, "self_attn.k_proj", [d, kv]),
            value: at.linear_with(qkv, LinearRole::Value, "self_attn.v_proj", [d, kv]),
            key_value: at.key_value("self_attn", kv_heads, d_head),
            attention_output: at.linear_with(
                family.output_bias,
                LinearRole::AttentionOutput,
                "self_attn.o_proj",
                [width, d],
            ),
            after_attention: at.residual(ResidualRole::AfterAttention, "attention_adapters", d),
            ffn_norm: at.rms_norm(NormRole::FfnNorm, "post_attention_layernorm", d, eps),
            gate: at.linear_with(family.ffn_bias, LinearRole::FfnGate, "mlp.gate_proj", [d, ffn]),
            up: at.linear_with(family.ffn_bias, LinearRole::FfnUp, "mlp.up_proj", [d, ffn]),
            down: at.linear_with(family.ffn_bias, LinearRole::FfnDown, "mlp.down_proj", [ffn, d]),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
            output: at.layer_output(d),
            attention: AttentionOptions::new(d_head, config.attention_dropout, config.pad_token_id.unwrap_or(0)),
            window,
            activation,
        }
    }
}

impl Block for Layer {
    type Frame = Frame;

    fn forward(&self, x: Tensor<3>, frame: &Frame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let heads = &self.attention;
        let normed = cx.norm(&self.attention_norm, x.clone());
        let query = frame.turns.turn(heads.split(cx.linear(&self.query, normed.clone())));
        let key = frame.turns.turn(heads.split(cx.linear(&self.key, normed.clone())));
        let value = heads.split(cx.linear(&self.value, normed.clone()));
        let bias = frame.bias(self.window);
        let attended = heads.attend(query, (key, value), normed, bias, (&self.key_value, slot), cx);
        let attended = cx.linear(&self.attention_output, attended);
        let x = cx.residual(&self.after_attention, attended, x, None);

        let normed = cx.norm(&self.ffn_norm, x.clone());
        let gate = cx.linear(&self.gate, normed.clone());
        let up = cx.linear(&self.up, normed);
        let down = cx.linear(&self.down, self.activation.gated(gate, up));
        let x = cx.residual(&self.after_ffn, down, x, None);
        cx.output(&self.output, x)
    }
}

impl Frame {
    /// What the queries of a layer may see of its keys.
    fn bias(&self, window: Option<usize>) -> Option<Tensor<4>> {
        let mut biases = self.biases.iter();
        biases.find(|(of, _)| *of == window).map(|(_, bias)| bias.clone())
    }
}

impl Transformer for RotaryDecoder {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: c.max_position_embeddings,
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id.unwrap_or(0),
            token_types: None,
            head_norm_epsilon: 1e-12,
            head_dropout: 0.0,
            activation: c.hidden_act.clone(),
            masked_lm: None,
        }
    }

    fn chain(&self, input: TextInput, cache: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (Begun { ids, padding, past, .. }, cx) = Begun::new(self, input, cache, cx)?;
        let hidden = cx.lookup(&self.words, ids);
        let state = cx.embedding(&self.embedded, EmbeddingState::new(hidden, padding).after(past));
        let EmbeddingState { hidden, padding, .. } = cx.embedding(&self.embedding, state);
        let [_, seq, _] = hidden.dims();
        let frame = self.frame(seq, past, cx.first_position(), padding, &hidden.device());
        let chain = Chain::new(hidden).layers(&self.layers, frame);
        Ok(chain.then(|x, cx| cx.norm(&self.norm, x)))
    }

    fn causal_lm(&self) -> Option<&dyn CausalLm> {
        Some(self)
    }
}

impl CausalLm for RotaryDecoder {
    fn logits(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Tensor<3> {
        let cx = cx.hooks();
        let hidden = match self.family.undoes_embeddings {
            true => cx.before_lm_head(self.embedding.site(), hidden),
            false => hidden,
        };
        let hidden = cx.output(&self.head_input, hidden);
        cx.linear(&self.head, hidden)
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
        Self::PREFIX
    }

    fn is_larger_class(&self) -> bool {
        Self::LARGER_CLASS
    }

    fn hub_role(&self, role: Role) -> Role {
        match role {
            Role::FfnUp if self.family.swaps_feed_forward => Role::FfnDown,
            Role::FfnDown if self.family.swaps_feed_forward => Role::FfnUp,
            role => role,
        }
    }
}
