//! GPT-J, from the published configuration to the logits.
//!
//! Model: *GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model*, Wang and Komatsuzaki, 2021,
//! <https://github.com/kingoflolz/mesh-transformer-jax>. Behavior follows `GPTJForCausalLM` of Hugging Face transformers:
//! attention and feed-forward block read one normalization of the same hidden state, and neighboring features of the first
//! `rotary_dim` of a head form pairs.

use serde_json::json;

use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::gpt_decoder::{GptDecoder, GptFacts, GptFrame, GptLayer, GptNames};
use crate::gpt2::Gpt2Config;
use crate::model::Model;
use crate::modeling::*;
use crate::rotary::Rotary;
use crate::rotary_scaling::RotaryScaling;

/// `config.json` of a GPT-J checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct GptJConfig {
    #[serde(flatten)]
    gpt2: Gpt2Config,
    /// Features of a head that are rotated.
    rotary_dim: Option<usize>,
}

impl GptJConfig {
    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<(Activation, Rotary), ModelError> {
        let check = ConfigCheck::new(path);
        let activation = self.gpt2.check(&check)?;
        let d_head = self.gpt2.n_embd / self.gpt2.n_head;
        let rotated = self.rotary_dim.unwrap_or(0);
        let expected = format!("an even number from 2 to n_embd / n_head = {d_head}");
        let fits = (2..=d_head).contains(&rotated) && rotated.is_multiple_of(2);
        check.require(fits, "rotary_dim", expected, format!("{:?}", self.rotary_dim))?;
        Ok((activation, Rotary::new(rotated, 1e4, RotaryScaling::Default)))
    }
}

/// Loads a checkpoint, with the defaults of the published class (GPT-J-6B).
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "vocab_size": 50400, "n_positions": 2048, "n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": false,
    }));
    load_relative(source, device, defaults, GptJModel::build)
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
        let config = &config.gpt2;
        Ok(GptFacts {
            d_model: config.n_embd,
            norm_epsilon: config.layer_norm_epsilon,
            embedding_dropout: config.embd_pdrop,
            is_tied: config.tie_word_embeddings,
            activation,
            rotary,
            info: config.info(),
        })
    }

    fn build(config: &GptJConfig, activation: Activation, mut at: Scope<'_>) -> Self {
        let config = &config.gpt2;
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
