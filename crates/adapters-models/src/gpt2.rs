//! GPT-2, from the published configuration to the logits.
//!
//! Paper: *Language Models are Unsupervised Multitask Learners*, Radford et al., 2019,
//! <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>. Behavior
//! follows `GPT2LMHeadModel` of Hugging Face transformers.

use crate::lm_head::LmHead;
use crate::modeling::*;
use crate::packing::causal_bias;

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
    /// Width of the feed-forward block.
    pub(crate) fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// Checks the values against each other and against what is computed here.
    pub(crate) fn check(&self, check: &ConfigCheck<'_>) -> Result<Activation, ModelError> {
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
        check.activation("activation_function", &self.activation_function)
    }

    /// What heads, tokenizers and reports need.
    pub(crate) fn info(&self) -> ModelInfo {
        ModelInfo {
            num_layers: self.n_layer,
            max_length: Some(self.n_positions),
            vocab_size: self.vocab_size,
            pad_id: self.pad_token_id.unwrap_or(0),
            head_norm_epsilon: 1e-12,
            activation: self.activation_function.clone(),
            ..ModelInfo::default()
        }
    }
}

/// GPT-2: embeddings, layers, norm and head.
#[derive(Module, Sites, Debug)]
pub struct Gpt2Model {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    embedding: Point<EmbeddingHook>,
    positions: Embedding,
    layers: Vec<Gpt2Layer>,
    norm: Sited<LayerNorm>,
    head: LmHead,
    #[module(skip)]
    config: Gpt2Config,
}

#[derive(Module, Sites, Debug)]
struct Gpt2Layer {
    attention_norm: Sited<LayerNorm>,
    /// Query, key and value in one matrix, `[d_model, 3 d_model]`.
    query_key_value: Sited<Linear>,
    key_value: Point<KeyValueHook>,
    attention_output: Sited<Linear>,
    after_attention: Point<ResidualHook>,
    ffn_norm: Sited<LayerNorm>,
    up: Sited<Linear>,
    down: Sited<Linear>,
    after_ffn: Point<ResidualHook>,
    output: Point<OutputHook>,
    dropout: f64,
    #[module(skip)]
    attention: AttentionOptions,
    #[module(skip)]
    activation: Activation,
}

impl FromCheckpoint for Gpt2Model {
    type Config = Gpt2Config;
    /// The oldest checkpoints have none.
    const PREFIX: &'static str = "transformer.";
    const LARGER_CLASS: bool = true;

    fn build(config: Gpt2Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let check = ConfigCheck::new(path);
        let expected = "false: cross attention is not supported";
        check.require(!config.add_cross_attention, "add_cross_attention", expected, "true")?;
        let activation = config.check(&check)?;
        let (d, vocab) = (config.n_embd, config.vocab_size);
        let outside = Location::outside(Stack::Decoder);
        let layers = (0..config.n_layer)
            .map(|index| {
                let location = Location::layer(Stack::Decoder, index);
                Gpt2Layer::build(&config, activation, index, weights.at(location, format!("h.{index}")))
            })
            .collect();
        let mut at = weights.at(outside, "");
        let words = at.table("wte", [vocab, d], None);
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "wte", d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "", d);
        let positions = at.embedding("wpe", [config.n_positions, d]);
        let norm = at.layer_norm(NormRole::FinalNorm, "ln_f", d, config.layer_norm_epsilon);
        let tied = config.tie_word_embeddings.then_some(&words);
        Ok(Self {
            head: LmHead::build("lm_head", false, tied, [d, vocab], weights),
            words,
            embedded,
            embedding,
            positions,
            layers,
            norm,
            config,
        })
    }

    /// The causal masks of old checkpoints, and the table a second time.
    fn is_unused(&self, key: &str) -> bool {
        let mask = key.ends_with(".attn.bias") || key.ends_with(".attn.masked_bias");
        mask || (self.config.tie_word_embeddings && key == "lm_head.weight")
    }
}

impl Gpt2Layer {
    fn build(config: &Gpt2Config, activation: Activation, index: usize, mut at: Scope<'_>) -> Self {
        let (d, inner, heads, eps) = (config.n_embd, config.inner(), config.n_head, config.layer_norm_epsilon);
        let mut attention = AttentionOptions::new(d / heads, config.attn_pdrop, config.pad_token_id.unwrap_or(0));
        if !config.scale_attn_weights {
            attention.scale = 1.0;
        }
        if config.scale_attn_by_inverse_layer_idx {
            attention.scale /= (index + 1) as f64;
        }
        // The adapters of attention and output have no module of their own in the published checkpoint: these are the names
        // the reference gives them.
        Self {
            attention_norm: at.layer_norm(NormRole::AttentionNorm, "ln_1", d, eps),
            query_key_value: at.linear_input_first(LinearRole::QueryKeyValue, "attn.c_attn", [d, 3 * d]),
            key_value: at.key_value("attn", heads, d / heads),
            attention_output: at.linear_input_first(LinearRole::AttentionOutput, "attn.c_proj", [d, d]),
            after_attention: at.residual(ResidualRole::AfterAttention, "attention_adapters", d),
            ffn_norm: at.layer_norm(NormRole::FfnNorm, "ln_2", d, eps),
            up: at.linear_input_first(LinearRole::FfnUp, "mlp.c_fc", [d, inner]),
            down: at.linear_input_first(LinearRole::FfnDown, "mlp.c_proj", [inner, d]),
            after_ffn: at.residual(ResidualRole::AfterFfn, "output_adapters", d),
            output: at.layer_output(d),
            dropout: config.resid_pdrop,
            attention,
            activation,
        }
    }
}

impl Block for Gpt2Layer {
    /// What queries may see.
    type Frame = Tensor<4>;

    fn forward(&self, x: Tensor<3>, mask: &Tensor<4>, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let heads = &self.attention;
        let (normed, d) = (cx.norm(&self.attention_norm, x.clone()), x.dims()[2]);
        let fused = cx.linear(&self.query_key_value, normed.clone());
        let [query, key, value] =
            [0, 1, 2].map(|part| heads.split(fused.clone().slice_dim(2, part * d..(part + 1) * d)));
        let mask = Some(mask.clone());
        let attended = heads.attend_with(None, query, (key, value), normed, mask, (&self.key_value, slot), cx);
        let projected = cx.linear(&self.attention_output, attended.values);
        let attended = Attended {
            values: cx.dropout(projected, self.dropout),
            // Not projected, as in the reference.
            added: attended.added,
        }
        .sum();
        let x = cx.residual(&self.after_attention, attended, x, None);

        let normed = cx.norm(&self.ffn_norm, x.clone());
        let up = cx.linear(&self.up, normed);
        let down = cx.linear(&self.down, self.activation.forward(up));
        let down = cx.dropout(down, self.dropout);
        let x = cx.residual(&self.after_ffn, down, x, None);
        cx.output(&self.output, x)
    }
}

impl Transformer for Gpt2Model {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        self.config.info()
    }

    fn chain(&self, input: TextInput, cache: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (begun, cx) = Begun::new(self, input, cache, cx)?;
        let Embedded {
            state,
            packing,
            past,
            past_text,
        } = begun.embed(&self.words, &self.embedded, |rows| rows, cx);
        let device = state.hidden.device();
        // What an adapter inserts among the tokens has positions, what it inserts later has none.
        let inserted: usize = state.inserted.iter().map(|inserted| inserted.count).sum();
        let before = if past == 0 { 0 } else { past_text + inserted };
        let [_, seq, _] = state.hidden.dims();
        let positions = match &packing {
            Some(packing) => packing.positions(),
            // As with rotary positions, padding has positions, but where a text is generated.
            None => {
                let padding = state.padding.as_ref().filter(|_| cx.pass().prompt.is_some());
                ops::positions(seq, before, padding, &device)
            }
        } + cx.first_position() as i64;
        let hidden = state.hidden + self.positions.forward(positions);
        let hidden = cx.dropout(hidden, self.config.embd_pdrop);
        let state = cx.embedding(&self.embedding, EmbeddingState { hidden, ..state });
        let [_, seq, _] = state.hidden.dims();
        let mask = match packing.as_ref() {
            None => ops::causal_bias_over_padding(seq, past, state.padding.as_ref(), &device),
            packing => causal_bias([seq, past], None, state.padding.as_ref(), packing, &device),
        };
        let chain = Chain::new(state.hidden).layers(&self.layers, mask);
        Ok(chain.then(|x, cx| cx.norm(&self.norm, x)))
    }

    fn with_layers(mut self, order: &[usize]) -> Option<Self> {
        self.layers = replicated(&self.layers, order);
        self.config.n_layer = order.len();
        Some(self)
    }

    fn causal_lm(&self) -> Option<&dyn CausalLm> {
        Some(self)
    }
}

impl CausalLm for Gpt2Model {
    fn scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> LinearScores {
        self.head.scores(hidden, cx.hooks())
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
        Self::PREFIX
    }

    fn is_larger_class(&self) -> bool {
        Self::LARGER_CLASS
    }
}
