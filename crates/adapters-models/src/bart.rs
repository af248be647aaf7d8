//! BART, from the published configuration to the last hidden state and the scores of the vocabulary.
//!
//! Paper: *BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
//! Comprehension*, Lewis et al., 2019, <https://arxiv.org/abs/1910.13461>. Behavior follows `BartModel` and
//! `BartForConditionalGeneration` of Hugging Face transformers.

use burn::module::Param;

use crate::input::TextToTextInput;
use crate::modeling::*;
use crate::transformer::EncoderDecoder;
use crate::two_stacks::{DecoderFrame, TwoStacks, cached};

/// Rows of the position tables in front of that of position zero.
const POSITION_OFFSET: usize = 2;

/// `config.json` of a BART checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The published names of transformers' `BartConfig`.
pub struct BartConfig {
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub d_model: usize,
    pub encoder_layers: usize,
    pub encoder_attention_heads: usize,
    pub encoder_ffn_dim: usize,
    pub decoder_layers: usize,
    pub decoder_attention_heads: usize,
    pub decoder_ffn_dim: usize,
    pub activation_function: String,
    pub dropout: f64,
    pub attention_dropout: f64,
    pub activation_dropout: f64,
    pub classifier_dropout: f64,
    /// Whether token embeddings are multiplied by the root of their width.
    pub scale_embedding: bool,
    pub pad_token_id: usize,
    pub decoder_start_token_id: usize,
    /// Only 0 is computed, as for `decoder_layerdrop`.
    pub encoder_layerdrop: f64,
    pub decoder_layerdrop: f64,
    /// Only `true` is computed.
    pub tie_word_embeddings: bool,
    /// Only `true` is computed: a norm after the embeddings.
    pub normalize_embedding: bool,
    /// Only `false` is computed, as for the switches below: norms come after the residual connections.
    pub normalize_before: bool,
    pub add_final_layer_norm: bool,
    pub add_bias_logits: bool,
    pub static_position_embeddings: bool,
    pub is_decoder: bool,
}

impl Default for BartConfig {
    /// The defaults of the published class (BART large).
    fn default() -> Self {
        Self {
            vocab_size: 50265,
            max_position_embeddings: 1024,
            d_model: 1024,
            encoder_layers: 12,
            encoder_attention_heads: 16,
            encoder_ffn_dim: 4096,
            decoder_layers: 12,
            decoder_attention_heads: 16,
            decoder_ffn_dim: 4096,
            activation_function: "gelu".to_owned(),
            dropout: 0.1,
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            classifier_dropout: 0.0,
            scale_embedding: false,
            pad_token_id: 1,
            decoder_start_token_id: 2,
            encoder_layerdrop: 0.0,
            decoder_layerdrop: 0.0,
            tie_word_embeddings: true,
            normalize_embedding: true,
            normalize_before: false,
            add_final_layer_norm: false,
            add_bias_logits: false,
            static_position_embeddings: false,
            is_decoder: false,
        }
    }
}

impl BartConfig {
    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("d_model", self.d_model),
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("decoder_attention_heads", self.decoder_attention_heads),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
        ])?;
        check.layers([
            ("encoder_layers", self.encoder_layers),
            ("decoder_layers", self.decoder_layers),
        ])?;
        for (field, heads) in [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ] {
            check.multiple(("d_model", self.d_model), (field, heads))?;
        }
        check.dropouts([
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
            ("classifier_dropout", self.classifier_dropout),
        ])?;
        for (field, value) in [
            ("encoder_layerdrop", self.encoder_layerdrop),
            ("decoder_layerdrop", self.decoder_layerdrop),
        ] {
            check.require(value == 0.0, field, "0: layers are never dropped", value)?;
        }
        for (field, value, computed) in [
            ("tie_word_embeddings", self.tie_word_embeddings, true),
            ("normalize_embedding", self.normalize_embedding, true),
            ("normalize_before", self.normalize_before, false),
            ("add_final_layer_norm", self.add_final_layer_norm, false),
            ("add_bias_logits", self.add_bias_logits, false),
            ("static_position_embeddings", self.static_position_embeddings, false),
            ("is_decoder", self.is_decoder, false),
        ] {
            check.require(value == computed, field, computed.to_string(), value)?;
        }
        Ok(self.activation_function.parse()?)
    }
}

/// BART: two stacks of layers over one embedding table, which is the language-model head, too.
#[derive(Module, Sites, Debug)]
pub struct BartModel {
    shared: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    encoder: BartStack,
    embedding: Point<EmbeddingHook>,
    decoder: BartStack,
    /// `[1, vocab]`, added to the scores; `None` where the checkpoint was saved from a class without scores.
    final_logits_bias: Option<Param<Tensor<2>>>,
    #[module(skip)]
    config: BartConfig,
}

#[derive(Module, Sites, Debug)]
struct BartStack {
    positions: Embedding,
    norm: Sited<LayerNorm>,
    layers: Vec<BartLayer>,
}

#[derive(Module, Sites, Debug)]
struct BartLayer {
    attention: BartAttention,
    /// In the decoder.
    cross: Option<BartAttention>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    ffn_norm: Sited<LayerNorm>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    dropout: f64,
    activation_dropout: f64,
    #[module(skip)]
    activation: Activation,
}

/// An attention, and the norm after its residual connection.
#[derive(Module, Sites, Debug)]
struct BartAttention {
    query: Sited<Linear>,
    key: Sited<Linear>,
    value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    output: Sited<Linear>,
    norm: Sited<LayerNorm>,
    after: Point<ResidualHook>,
    dropout: f64,
    #[module(skip)]
    options: AttentionOptions,
}

impl FromCheckpoint for BartModel {
    type Config = BartConfig;
    const PREFIX: &'static str = "model.";

    fn build(config: BartConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let activation = config.check(path)?;
        let (d, vocab) = (config.d_model, config.vocab_size);
        let outside = Location::outside(Stack::Encoder);
        let shared = weights
            .at(outside, "")
            .table("shared", [vocab, d], Some(config.pad_token_id));
        let at = weights.at(outside, "encoder");
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "embed_tokens", d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "", d);
        let bias = "final_logits_bias";
        Ok(Self {
            shared,
            embedded,
            encoder: BartStack::build(&config, activation, Stack::Encoder, weights),
            embedding,
            decoder: BartStack::build(&config, activation, Stack::Decoder, weights),
            final_logits_bias: weights.has(bias).then(|| weights.matrix(bias, 1, vocab)),
            config,
        })
    }

    /// Second names of the embedding table, versions in the oldest checkpoints, and the heads of larger classes.
    fn is_unused(&self, key: &str) -> bool {
        let names = [
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            "lm_head.weight",
        ];
        let more = ["encoder.version", "decoder.version"];
        let head = key.starts_with("classification_head.") || key.starts_with("qa_outputs.");
        head || names.contains(&key) || more.contains(&key)
    }
}

impl BartStack {
    fn build(config: &BartConfig, activation: Activation, stack: Stack, weights: &mut Weights) -> Self {
        let (name, first, count) = match stack {
            Stack::Encoder => ("encoder", 0, config.encoder_layers),
            Stack::Decoder | Stack::Cross => ("decoder", config.encoder_layers, config.decoder_layers),
        };
        let layers = (0..count).map(|index| {
            let at = weights.at(Location::layer(stack, first + index), format!("{name}.layers.{index}"));
            BartLayer::build(config, activation, stack, at)
        });
        let layers = layers.collect();
        let mut at = weights.at(Location::outside(stack), name);
        let rows = config.max_position_embeddings + POSITION_OFFSET;
        Self {
            positions: at.embedding("embed_positions", [rows, config.d_model]),
            norm: at.layer_norm(NormRole::EmbeddingNorm, "layernorm_embedding", config.d_model, 1e-5),
            layers,
        }
    }

    /// `norm(tokens + positions)`, for positions from `first` on.
    fn embed(&self, tokens: Tensor<3>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (first, seq) = (first + POSITION_OFFSET, tokens.dims()[1]);
        let positions = self.positions.weight.val().slice_dim(0, first..first + seq);
        cx.norm(&self.norm, tokens + positions.unsqueeze())
    }
}

impl BartLayer {
    fn build(config: &BartConfig, activation: Activation, stack: Stack, mut at: Scope<'_>) -> Self {
        let d = config.d_model;
        let (ffn, heads) = match stack {
            Stack::Encoder => (config.encoder_ffn_dim, config.encoder_attention_heads),
            Stack::Decoder | Stack::Cross => (config.decoder_ffn_dim, config.decoder_attention_heads),
        };
        Self {
            attention: BartAttention::build(config, heads, stack, &mut at),
            cross: (stack == Stack::Decoder).then(|| BartAttention::build(config, heads, Stack::Cross, &mut at)),
            up: at.linear(LinearRole::FfnUp, "fc1", [d, ffn]),
            down: at.linear(LinearRole::FfnDown, "fc2", [ffn, d]),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, "final_layer_norm", d, 1e-5),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
            output: at.layer_output(d),
            dropout: config.dropout,
            activation_dropout: config.activation_dropout,
            activation,
        }
    }
}

impl BartAttention {
    /// That of the layer at `at` over itself, or over the encoder's output.
    fn build(config: &BartConfig, heads: usize, stack: Stack, at: &mut Scope<'_>) -> Self {
        let d = config.d_model;
        let (name, after, path) = match stack {
            Stack::Cross => (
                "encoder_attn",
                ResidualRole::AfterCrossAttention,
                "cross_attention_adapters",
            ),
            Stack::Encoder | Stack::Decoder => ("self_attn", ResidualRole::AfterAttention, "attention_adapters"),
        };
        // AdapterHub's name: the published checkpoint has no module there.
        let after = at.residual(after, path, d);
        let location = Location { stack, ..at.location() };
        let norm = at.within_at(location, &format!("{name}_layer_norm"));
        let norm = { norm }.layer_norm(NormRole::AttentionNorm, "", d, 1e-5);
        let mut at = at.within_at(location, name);
        Self {
            query: at.linear(LinearRole::Query, "q_proj", [d, d]),
            key: at.linear(LinearRole::Key, "k_proj", [d, d]),
            value: at.linear(LinearRole::Value, "v_proj", [d, d]),
            key_value: at.key_value("", heads, d / heads),
            output: at.linear(LinearRole::AttentionOutput, "out_proj", [d, d]),
            norm,
            after,
            dropout: config.dropout,
            options: AttentionOptions::new(d / heads, config.attention_dropout, config.pad_token_id),
        }
    }

    /// Attention over the layer's own positions, or those of `slot.encoded`, and the residual connection.
    fn forward(&self, x: Tensor<3>, mask: Option<Tensor<4>>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let (heads, key_value) = (&self.options, &self.key_value);
        let query = heads.split(cx.linear(&self.query, x.clone()));
        let mut keys_values = |x, cx: &mut Hooks<'_>| heads.keys_values(&self.key, &self.value, x, cx);
        let attended = match slot.encoded {
            Some(encoded) => {
                let read = cached(slot.cache, || keys_values(encoded.clone(), cx));
                let state = heads.adapted(read, x.clone(), mask, key_value, cx);
                heads.weighted(query, state, cx)
            }
            None => {
                let own = keys_values(x.clone(), cx);
                heads.attend(query, own, x.clone(), mask, (key_value, slot), cx)
            }
        };
        let attended = cx.linear(&self.output, attended);
        let attended = cx.dropout(attended, self.dropout);
        cx.residual(&self.after, attended, x, Some(&self.norm))
    }
}

impl Block for BartLayer {
    /// What queries may see of their own stack, and of the encoder's output.
    type Frame = [Option<Tensor<4>>; 2];

    fn forward(&self, x: Tensor<3>, [own, encoded]: &Self::Frame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let mut cache = slot.cache;
        let over_itself = Slot {
            encoded: None,
            cache: cache.as_deref_mut(),
        };
        let mut x = self.attention.forward(x, own.clone(), over_itself, cx);
        if let Some(cross) = &self.cross {
            x = cross.forward(x, encoded.clone(), Slot { cache, ..slot }, cx);
        }
        let up = self.activation.forward(cx.linear(&self.up, x.clone()));
        let up = cx.dropout(up, self.activation_dropout);
        let down = cx.linear(&self.down, up);
        let down = cx.dropout(down, self.dropout);
        let x = cx.residual(&self.after_ffn, down, x, Some(&self.ffn_norm));
        cx.output(&self.output, x)
    }
}

impl BartModel {
    fn looked_up(&self, ids: Tensor<2, Int>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let tokens = cx.lookup(&self.shared, ids);
        match self.config.scale_embedding {
            true => tokens * (self.config.d_model as f64).sqrt(),
            false => tokens,
        }
    }
}

impl TwoStacks for BartModel {
    fn decoder_start(&self) -> usize {
        self.config.decoder_start_token_id
    }

    fn embed(&self, TextInput { ids, padding, .. }: TextInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let tokens = self.looked_up(ids, cx);
        let mut state = cx.embedding(&self.embedded, EmbeddingState::new(tokens, padding));
        state.hidden = self.encoder.embed(state.hidden, 0, cx);
        let mut state = cx.embedding(&self.embedding, state);
        state.hidden = cx.dropout(state.hidden, self.config.dropout);
        state
    }

    fn encoder_layers<'m>(&'m self, chain: Chain<'m>, _: usize, mask: Option<Tensor<4>>) -> Chain<'m> {
        chain.layers(&self.encoder.layers, [mask, None])
    }

    fn embed_decoder(&self, ids: Tensor<2, Int>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let tokens = self.looked_up(ids, cx);
        let hidden = self.decoder.embed(tokens, first, cx);
        cx.dropout(hidden, self.config.dropout)
    }

    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, frame: DecoderFrame) -> Chain<'m> {
        chain.layers(&self.decoder.layers, [Some(frame.mask), frame.encoded_mask])
    }

    fn vocabulary_scores(&self, hidden: Tensor<3>, _: &mut Hooks<'_>) -> Tensor<3> {
        let scores = ops::project(hidden, self.shared.weight.val());
        match &self.final_logits_bias {
            Some(bias) => scores + bias.val().unsqueeze(),
            None => scores,
        }
    }
}

impl Transformer for BartModel {
    type Input = TextToTextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.encoder_layers + c.decoder_layers,
            max_length: c.max_position_embeddings,
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id,
            token_types: None,
            head_norm_epsilon: 1e-12,
            head_dropout: c.classifier_dropout,
            activation: c.activation_function.clone(),
        }
    }

    fn chain(
        &self,
        input: TextToTextInput,
        _: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Chain<'_>, Error> {
        self.both_stacks(input, cx)
    }

    fn encoder_decoder(&self) -> Option<&dyn EncoderDecoder> {
        Some(self)
    }
}

impl Host for BartModel {
    fn architecture(&self) -> &str {
        "bart"
    }

    fn class_name(&self) -> &str {
        "BartModel"
    }

    fn d_model(&self) -> usize {
        self.config.d_model
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_dropout
    }
}
