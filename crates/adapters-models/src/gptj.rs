//! GPT-J, from the published configuration to the logits.
//!
//! Model: *GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model*, Wang and Komatsuzaki, 2021,
//! <https://github.com/kingoflolz/mesh-transformer-jax>. Behavior follows `GPTJForCausalLM` of Hugging Face transformers:
//! attention and feed-forward block read one normalization of the same hidden state, and neighboring features of the first
//! `rotary_dim` of a head form pairs.

use crate::gpt_decoder::{GptDecoder, GptFacts, GptFrame, GptLayer, GptNames};
use crate::modeling::*;
use crate::rotary::Rotary;
use crate::rotary_scaling::RotaryScaling;

/// `config.json` of a GPT-J checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct GptJConfig {
    /// Tokens in the vocabulary.
    pub(crate) vocab_size: usize,
    /// Longest input in tokens.
    pub(crate) n_positions: usize,
    /// Width of the residual stream.
    pub(crate) n_embd: usize,
    /// Layers.
    pub(crate) n_layer: usize,
    /// Attention heads.
    pub(crate) n_head: usize,
    /// Features of a head that are rotated.
    pub(crate) rotary_dim: Option<usize>,
    /// Width of the feed-forward block; without it four times `n_embd`.
    pub(crate) n_inner: Option<usize>,
    /// Activation of the feed-forward block.
    pub(crate) activation_function: String,
    /// Dropout on block outputs, in training.
    pub(crate) resid_pdrop: f64,
    /// Dropout on embeddings, in training.
    pub(crate) embd_pdrop: f64,
    /// Dropout on attention weights, in training.
    pub(crate) attn_pdrop: f64,
    /// Epsilon of the layer normalizations.
    pub(crate) layer_norm_epsilon: f64,
    /// Whether the weight of the language-model head is the table of the token embeddings.
    pub(crate) tie_word_embeddings: bool,
    /// Id of the padding token.
    pub(crate) pad_token_id: Option<usize>,
}

impl Default for GptJConfig {
    /// The defaults of the published class (GPT-J-6B).
    fn default() -> Self {
        Self {
            vocab_size: 50400,
            n_positions: 2048,
            n_embd: 4096,
            n_layer: 28,
            n_head: 16,
            rotary_dim: Some(64),
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            resid_pdrop: 0.0,
            embd_pdrop: 0.0,
            attn_pdrop: 0.0,
            layer_norm_epsilon: 1e-5,
            tie_word_embeddings: false,
            pad_token_id: None,
        }
    }
}

impl GptJConfig {
    fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<(Activation, Rotary), ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_head", self.n_head),
            ("n_inner", self.inner()),
        ])?;
        check.layers([("n_layer", self.n_layer)])?;
        check.multiple(("n_embd", self.n_embd), ("n_head", self.n_head))?;
        check.dropouts([
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ])?;
        let d_head = self.n_embd / self.n_head;
        let rotated = self.rotary_dim.unwrap_or(0);
        let expected = format!("an even number from 2 to n_embd / n_head = {d_head}");
        let fits = (2..=d_head).contains(&rotated) && rotated.is_multiple_of(2);
        check.require(fits, "rotary_dim", expected, format!("{:?}", self.rotary_dim))?;
        let rotary = Rotary::new(rotated, 1e4, RotaryScaling::Default);
        Ok((
            check.activation("activation_function", &self.activation_function)?,
            rotary,
        ))
    }
}

/// GPT-J: embeddings, layers, norm and head.
pub(crate) type GptJModel = GptDecoder<GptJLayer>;

/// A layer of GPT-J.
#[derive(Module, Sites, Debug)]
pub(crate) struct GptJLayer {
    norm: Sited<LayerNorm>,
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    attention_output: Sited<Linear>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    after_attention: Point<ResidualHook>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    dropout: f64,
    #[module(skip)]
    attention: AttentionOptions,
    #[module(skip)]
    activation: Activation,
}

impl GptLayer for GptJLayer {
    type Config = GptJConfig;

    const NAMES: GptNames = GptNames {
        model_type: "gptj",
        class_name: "GPTJForCausalLM",
        prefix: "transformer.",
        table: "wte",
        layers: "h",
        norm: "ln_f",
        head: "lm_head",
        head_bias: true,
        // The causal masks of old checkpoints.
        unused: &[".attn.bias", ".attn.masked_bias"],
    };

    fn facts(config: &GptJConfig, path: &Path) -> Result<GptFacts, ModelError> {
        let (activation, rotary) = config.check(path)?;
        Ok(GptFacts {
            d_model: config.n_embd,
            norm_epsilon: config.layer_norm_epsilon,
            embedding_dropout: config.embd_pdrop,
            is_tied: config.tie_word_embeddings,
            activation,
            rotary,
            info: ModelInfo {
                num_layers: config.n_layer,
                max_length: Some(config.n_positions),
                vocab_size: config.vocab_size,
                pad_id: config.pad_token_id.unwrap_or(0),
                token_types: None,
                head_norm_epsilon: 1e-12,
                head_dropout: 0.0,
                activation: config.activation_function.clone(),
                masked_lm: None,
            },
        })
    }

    fn build(config: &GptJConfig, activation: Activation, mut at: Scope<'_>) -> Self {
        let (d, inner, heads) = (config.n_embd, config.inner(), config.n_head);
        let d_head = d / heads;
        let mut linear = |role, name| at.linear_with(false, role, name, [d, d]);
        // The adapters of attention and output have no module of their own in the published checkpoint: these are the names
        // the reference gives them.
        Self {
            query: linear(LinearRole::Query, "attn.q_proj"),
            key: linear(LinearRole::Key, "attn.k_proj"),
            value: linear(LinearRole::Value, "attn.v_proj"),
            attention_output: linear(LinearRole::AttentionOutput, "attn.out_proj"),
            norm: at.layer_norm(NormRole::AttentionNorm, "ln_1", d, config.layer_norm_epsilon),
            key_value: at.key_value("attn", heads, d_head),
            up: at.linear(LinearRole::FfnUp, "mlp.fc_in", [d, inner]),
            down: at.linear(LinearRole::FfnDown, "mlp.fc_out", [inner, d]),
            after_attention: at.residual(ResidualRole::AfterAttention, "attention_adapters", d),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
            output: at.layer_output(d),
            dropout: config.resid_pdrop,
            attention: AttentionOptions::new(d_head, config.attn_pdrop, config.pad_token_id.unwrap_or(0)),
            activation,
        }
    }
}

impl Block for GptJLayer {
    type Frame = GptFrame;

    fn forward(&self, x: Tensor<3>, frame: &GptFrame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (heads, rotation) = (&self.attention, &frame.rotation);
        let normed = cx.norm(&self.norm, x.clone());
        let query = rotation.apply_to_neighbors(heads.split(cx.linear(&self.query, normed.clone())));
        let key = rotation.apply_to_neighbors(heads.split(cx.linear(&self.key, normed.clone())));
        let value = heads.split(cx.linear(&self.value, normed.clone()));
        let mask = Some(frame.mask.clone());
        let attended = heads.attend(query, (key, value), normed.clone(), mask, (&self.key_value, slot), cx);
        let attended = cx.linear(&self.attention_output, attended);
        let attended = cx.dropout(attended, self.dropout);

        let up = cx.linear(&self.up, normed);
        let down = cx.linear(&self.down, self.activation.forward(up));
        let down = cx.dropout(down, self.dropout);
        let x = cx.residual(&self.after_attention, attended, x, None);
        let x = cx.residual(&self.after_ffn, down, x, None);
        cx.output(&self.output, x)
    }
}
