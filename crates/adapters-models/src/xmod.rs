//! X-MOD: RoBERTa with an adapter for each language in every layer, and norms behind or in front of the blocks.
//!
//! Paper: *Lifting the Curse of Multilinguality by Pre-training Modular Transformers*, Pfeiffer et al., 2022,
//! <https://arxiv.org/abs/2205.06266>. Behavior follows `XmodModel` of Hugging Face transformers, all rows in
//! `default_language`. Without a `default_language` it follows the model of AdapterHub's library, which deletes the adapters
//! of languages.

use serde_json::json;

use crate::bert::{self, BertConfig};
use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::encoder::{self, Encoder, EncoderNames, EncoderStack, Pooler};
use crate::model::Model;
use crate::modeling::*;
use crate::roberta;
use crate::standard_layer::{FeedForwardBlock, NormedAttention, ResidualConnection, StandardOptions};
use crate::text_embeddings::{Counting, TextEmbeddings};

const XMOD: EncoderNames = EncoderNames {
    model_type: "xmod",
    class_name: "XmodModel",
    prefix: "roberta.",
    unused: &[
        ".output.adapter_modules.",
        "embeddings.position_ids",
        "lm_head.",
        "classifier.",
        "qa_outputs.",
    ],
    classifier: roberta::CLASSIFIER,
    ..bert::NAMES
};

/// The configuration: BERT's, and what concerns the adapters of languages.
#[derive(Deserialize)]
struct XmodConfig {
    /// Whether norms come before the blocks, as in XLM-R XL.
    pre_norm: bool,
    /// By how much the adapter of a language is narrower than the residual stream.
    adapter_reduction_factor: usize,
    /// Whether the adapters of a layer have a norm of their own in front.
    adapter_layer_norm: bool,
    /// Whether they have the norm of the feed-forward block there, if they have none of their own.
    adapter_reuse_layer_norm: bool,
    /// Whether the residual connection around the adapter begins behind that norm.
    ln_before_adapter: bool,
    /// The languages that the checkpoint has adapters for.
    languages: Vec<String>,
    /// The language of all texts.
    default_language: Option<String>,
    #[serde(flatten)]
    bert: BertConfig,
}

/// The layers, and the norm behind them where norms come first.
#[derive(Module, Sites, Debug)]
struct XmodStack {
    layers: Vec<XmodLayer>,
    norm: Option<Sited<LayerNorm>>,
}

#[derive(Module, Sites, Debug)]
struct XmodLayer {
    attention: NormedAttention,
    feed_forward: FeedForwardBlock,
    output: Point<OutputHook>,
    adapter_norm: Option<Sited<LayerNorm>>,
    language: Option<LanguageAdapter>,
    pre_norm: bool,
    reuses_norm: bool,
    residual_behind_norm: bool,
}

/// `W2 act(W1 x + b1) + b2`, frozen like the rest of the base; nothing attaches to it.
#[derive(Module, Sites, Debug)]
struct LanguageAdapter {
    down: Linear,
    up: Linear,
    dropout: f64,
    #[module(skip)]
    activation: Activation,
}

impl XmodLayer {
    /// The norm in front of the adapter of the language.
    fn adapter_norm(&self) -> Option<&Sited<LayerNorm>> {
        let reused = self.reuses_norm.then_some(&self.feed_forward.residual.norm);
        self.adapter_norm.as_ref().or(reused)
    }

    /// `A(norm(x)) + x`, where the residual connection may begin behind the norm.
    fn in_language(&self, adapter: &LanguageAdapter, x: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let normalized = match self.adapter_norm() {
            Some(norm) => cx.norm(norm, x.clone()),
            None => x.clone(),
        };
        let residual = if self.residual_behind_norm {
            normalized.clone()
        } else {
            x
        };
        let down = adapter.activation.forward(ops::linear(&adapter.down, normalized));
        cx.dropout(ops::linear(&adapter.up, down), adapter.dropout) + residual
    }
}

impl Block for XmodLayer {
    /// The bias of padding, `[batch, 1, 1, seq]`.
    type Frame = Option<Tensor<4>>;

    fn forward(&self, x: Tensor<3>, bias: &Option<Tensor<4>>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (attention, ffn) = (&self.attention.output, &self.feed_forward.residual);
        let behind = |residual: &ResidualConnection, x: Tensor<3>, cx: &mut Hooks<'_>| match self.pre_norm {
            true => x,
            false => cx.norm(&residual.norm, x),
        };
        let read = attention.residual.enter(&x, cx);
        let attended = self
            .attention
            .attention
            .forward(read, bias.clone(), slot, |state| state, cx);
        let attended = cx.linear(&attention.projection, attended);
        let attended = attention.residual.leave(attended, cx);
        let x = cx.residual(&attention.residual.point, attended, x, None);
        let x = behind(&attention.residual, x, cx);
        let read = ffn.enter(&x, cx);
        let fed = self.feed_forward.feed(read, cx);
        let fed = ffn.leave(fed, cx);
        let x = match &self.language {
            Some(adapter) => {
                let x = cx.residual(&ffn.point, fed, x, None);
                self.in_language(adapter, x, cx)
            }
            None => cx.residual(&ffn.point, fed, x, self.adapter_norm()),
        };
        let x = behind(ffn, x, cx);
        cx.output(&self.output, x)
    }
}

impl EncoderStack for XmodStack {
    fn chain(&self, embedded: EmbeddingState, bias: Option<Tensor<4>>, _: &mut Hooks<'_>) -> Chain<'_> {
        let chain = Chain::new(embedded.hidden).layers(&self.layers, bias);
        match &self.norm {
            Some(norm) => chain.then(|x, cx| cx.norm(norm, x)),
            None => chain,
        }
    }
}

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let defaults = object(json!({
        "pad_token_id": 1, "pre_norm": false, "adapter_reduction_factor": 2, "adapter_layer_norm": false,
        "adapter_reuse_layer_norm": true, "ln_before_adapter": true, "languages": ["en_XX"], "default_language": null,
    }));
    encoder::load(&XMOD, defaults, (source, device), build)
}

fn build(config: XmodConfig, path: &Path, weights: &mut Weights) -> Result<Encoder<XmodStack>, ModelError> {
    let bert = &config.bert;
    let counting = Counting::BehindPadding {
        pad_id: bert.pad_token_id,
    };
    let options = StandardOptions {
        norm_first: config.pre_norm,
        ..bert.layers(bert.check(counting, path)?)
    };
    config.check(path)?;
    let (d, outside) = (bert.hidden_size, Location::outside(Stack::Encoder));
    Ok(Encoder {
        embeddings: TextEmbeddings::build(
            ["word_embeddings", "LayerNorm"],
            bert.embeddings(d, counting),
            weights.at(outside, "embeddings"),
        ),
        projection: None,
        stack: XmodStack {
            layers: (0..bert.num_hidden_layers)
                .map(|index| config.layer(&options, index, weights))
                .collect(),
            norm: config.pre_norm.then(|| {
                let mut at = weights.at(outside, "encoder");
                at.layer_norm(NormRole::FinalNorm, "LayerNorm", d, bert.layer_norm_eps)
            }),
        },
        pooler: Pooler::build("pooler.dense", d, Activation::Tanh, weights),
        head_transform: None,
        facts: bert.facts(XMOD, counting, Some(roberta::MASKED_LM)),
    })
}

impl XmodConfig {
    fn check(&self, path: &Path) -> Result<(), ModelError> {
        let check = ConfigCheck::new(path);
        let (bert, factor) = (&self.bert, self.adapter_reduction_factor);
        let expected = format!("between 1 and hidden_size = {}", bert.hidden_size);
        check.require(
            (1..=bert.hidden_size).contains(&factor),
            "adapter_reduction_factor",
            expected,
            factor,
        )?;
        match &self.default_language {
            Some(language) => {
                let expected = format!("one of {} or null", self.languages.join(", "));
                check.require(
                    self.languages.contains(language),
                    "default_language",
                    expected,
                    language,
                )
            }
            // The model of AdapterHub's library has no norm to join the residual stream with then.
            None => {
                let has_norm = self.adapter_layer_norm || self.adapter_reuse_layer_norm;
                check.require(
                    has_norm,
                    "adapter_reuse_layer_norm",
                    "true without a default_language",
                    false,
                )
            }
        }
    }

    fn layer(&self, options: &StandardOptions, index: usize, weights: &mut Weights) -> XmodLayer {
        let (d, d_adapter) = (options.d_model, options.d_model / self.adapter_reduction_factor);
        let path = format!("encoder.layer.{index}");
        let language = self.default_language.as_ref().map(|language| {
            let path = format!("{path}.output.adapter_modules.{language}");
            LanguageAdapter {
                down: weights.linear(&format!("{path}.dense1"), d, d_adapter),
                up: weights.linear(&format!("{path}.dense2"), d_adapter, d),
                dropout: options.dropouts[1],
                activation: options.activation,
            }
        });
        let mut at = weights.at(Location::layer(Stack::Encoder, index), path);
        XmodLayer {
            attention: NormedAttention::build(options, &mut at),
            feed_forward: FeedForwardBlock::build(options, &mut at),
            output: at.layer_output(d),
            adapter_norm: self.adapter_layer_norm.then(|| {
                at.layer_norm(
                    NormRole::AdapterNorm,
                    "output.adapter_layer_norm",
                    d,
                    options.norm_epsilon,
                )
            }),
            language,
            pre_norm: self.pre_norm,
            reuses_norm: self.adapter_reuse_layer_norm,
            residual_behind_norm: self.ln_before_adapter,
        }
    }
}
