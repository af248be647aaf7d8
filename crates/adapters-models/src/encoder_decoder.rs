//! An encoder and a decoder of two BERT checkpoints: the decoder attends to the encoder's output.
//!
//! Paper: *Leveraging Pre-trained Checkpoints for Sequence Generation Tasks*, Rothe et al., 2020,
//! <https://arxiv.org/abs/1907.12461>. Behavior follows `EncoderDecoderModel` of Hugging Face transformers with a `BertModel` and
//! a `BertLMHeadModel`.

use serde_json::{Map, Value};

use crate::bert::BertConfig;
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardOptions};
use crate::two_stacks::{DecoderFrame, TwoStacks};

/// `config.json` of a checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct BertToBertConfig {
    /// The encoder's, with its `model_type`.
    pub(crate) encoder: StackConfig,
    /// The decoder's, with its `model_type`.
    pub(crate) decoder: StackConfig,
    /// Id the decoder starts with; that of the decoder's `[CLS]` in published checkpoints.
    #[serde(default)]
    pub(crate) decoder_start_token_id: usize,
    /// Id of the padding token.
    #[serde(default)]
    pub(crate) pad_token_id: usize,
    /// Fields not named here, of which some are refused.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// The configuration of one stack.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct StackConfig {
    /// Only `bert` is computed.
    pub(crate) model_type: String,
    /// Width of the encoder that a decoder reads without a projection; not computed.
    #[serde(default)]
    pub(crate) cross_attention_hidden_size: Option<usize>,
    /// Whether the head of the decoder is its token table, as it is without this field.
    #[serde(default)]
    pub(crate) tie_word_embeddings: Option<bool>,
    /// BERT's.
    #[serde(flatten)]
    pub(crate) bert: BertConfig,
}

impl StackConfig {
    /// Checks the values; returns what the layers of the stack have in common.
    fn check(&self, path: &Path, decoder: bool) -> Result<StandardOptions, ModelError> {
        let (check, c) = (ConfigCheck::new(path), &self.bert);
        check.require(
            self.model_type == "bert",
            "model_type",
            "`bert` in both stacks",
            &self.model_type,
        )?;
        check.sizes([
            ("vocab_size", c.vocab_size),
            ("hidden_size", c.hidden_size),
            ("num_attention_heads", c.num_attention_heads),
            ("intermediate_size", c.intermediate_size),
            ("max_position_embeddings", c.max_position_embeddings),
            ("type_vocab_size", c.type_vocab_size),
        ])?;
        check.layers([("num_hidden_layers", c.num_hidden_layers)])?;
        let heads = ("num_attention_heads", c.num_attention_heads);
        check.multiple(("hidden_size", c.hidden_size), heads)?;
        check.dropouts([
            ("hidden_dropout_prob", c.hidden_dropout_prob),
            ("attention_probs_dropout_prob", c.attention_probs_dropout_prob),
        ])?;
        let (field, expected) = (
            "is_decoder / add_cross_attention",
            "true in the decoder, false in the encoder",
        );
        let found = format!("{} / {}", c.is_decoder, c.add_cross_attention);
        check.require(
            c.is_decoder == decoder && c.add_cross_attention == decoder,
            field,
            expected,
            found,
        )?;
        let width = self.cross_attention_hidden_size;
        check.require(
            width.is_none(),
            "cross_attention_hidden_size",
            "null",
            width.unwrap_or_default(),
        )?;
        Ok(c.layers(check.activation("hidden_act", &c.hidden_act)?))
    }
}

/// The encoder, the decoder, and the language-model head over the decoder's token table.
#[derive(Module, Sites, Debug)]
pub(crate) struct BertToBertModel {
    encoder: BertStack,
    /// Of the encoder's output, where the decoder has another width.
    bridge: Option<Sited<Linear>>,
    decoder: BertStack,
    head: LmTransform,
    #[module(skip)]
    config: BertToBertConfig,
}

#[derive(Module, Sites, Debug)]
struct BertStack {
    words: Sited<Embedding>,
    /// In the encoder.
    embedded: Option<Point<EmbeddingHook>>,
    norm: Sited<LayerNorm>,
    /// In the encoder.
    output: Option<Point<EmbeddingHook>>,
    positions: Embedding,
    token_types: Embedding,
    layers: Vec<StandardLayer>,
    dropout: f64,
    /// Whether positions are added to the embeddings.
    adds_positions: bool,
}

/// `E norm(act(W h + b)) + c` with the word embeddings `E`, or a table of its own.
#[derive(Module, Sites, Debug)]
struct LmTransform {
    dense: Linear,
    norm: LayerNorm,
    table: Option<Param<Tensor<2>>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    activation: Activation,
}

impl FromCheckpoint for BertToBertModel {
    type Config = BertToBertConfig;
    const PREFIX: &'static str = "";

    fn build(config: BertToBertConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let encoder = config.encoder.check(path, false)?;
        let decoder = config.decoder.check(path, true)?;
        let check = ConfigCheck::new(path);
        check.switches(&config.other, &["tie_encoder_decoder"], &[])?;
        let [read, written] = [&config.encoder, &config.decoder].map(|stack| stack.bert.vocab_size);
        for (field, id, rows) in [
            ("pad_token_id", config.pad_token_id, read.min(written)),
            ("decoder_start_token_id", config.decoder_start_token_id, written),
        ] {
            let expected = format!("a token id below the vocab_size of its stacks, {rows}");
            check.require(id < rows, field, expected, id)?;
        }
        let [from, d] = [encoder.d_model, decoder.d_model];
        let stacks = [
            BertStack::build(&config.encoder.bert, &encoder, "encoder", Stack::Encoder, weights),
            BertStack::build(&config.decoder.bert, &decoder, "decoder.bert", Stack::Decoder, weights),
        ];
        let [encoder_stack, decoder_stack] = stacks;
        let mut at = weights.at(Location::outside(Stack::Cross), "");
        let bridge = (from != d).then(|| at.linear(LinearRole::InputProjection, "enc_to_dec_proj", [from, d]));
        let transform = "decoder.cls.predictions.transform";
        Ok(Self {
            encoder: encoder_stack,
            bridge,
            decoder: decoder_stack,
            head: LmTransform {
                dense: weights.linear(&format!("{transform}.dense"), d, d),
                norm: weights.layer_norm(&format!("{transform}.LayerNorm"), d, decoder.norm_epsilon),
                table: (config.decoder.tie_word_embeddings == Some(false))
                    .then(|| weights.matrix("decoder.cls.predictions.decoder.weight", written, d)),
                bias: weights.vector("decoder.cls.predictions.bias", written),
                activation: decoder.activation,
            },
            config,
        })
    }

    /// The encoder's pooler, old buffers, and second names of the decoder's token table and of the bias of its head.
    fn is_unused(&self, key: &str) -> bool {
        key.starts_with("encoder.pooler.")
            || key.ends_with("embeddings.position_ids")
            || key.starts_with("decoder.cls.predictions.decoder.")
    }
}

impl BertStack {
    fn build(c: &BertConfig, options: &StandardOptions, name: &str, stack: Stack, weights: &mut Weights) -> Self {
        let (d, eps) = (c.hidden_size, c.layer_norm_eps);
        // Each stack counts its own, as in AdapterHub.
        let path = format!("{name}.encoder.layer");
        let layers = StandardLayer::stack(options, (stack, &path), c.num_hidden_layers, weights);
        let outside = Location::outside(stack);
        // AdapterHub's invertible blocks belong to the whole model.
        let top = weights.at(outside, "");
        let point = |role| (stack == Stack::Encoder).then(|| top.embedded(role, "embeddings", d));
        let [embedded, output] = [EmbeddingRole::EmbeddedTokens, EmbeddingRole::Embedding].map(point);
        let mut at = weights.at(outside, format!("{name}.embeddings"));
        Self {
            words: at.table("word_embeddings", [c.vocab_size, d], Some(c.pad_token_id)),
            embedded,
            norm: at.layer_norm(NormRole::EmbeddingNorm, "LayerNorm", d, eps),
            output,
            positions: at.embedding("position_embeddings", [c.max_position_embeddings, d]),
            token_types: at.embedding("token_type_embeddings", [c.type_vocab_size, d]),
            layers,
            dropout: c.hidden_dropout_prob,
            adds_positions: c.distances().is_none(),
        }
    }

    /// Tokens of the first type at positions from `first` on.
    fn embed(&self, input: TextInput, first: usize, cx: &mut Hooks<'_>) -> EmbeddingState {
        let words = cx.lookup(&self.words, input.ids);
        let mut state = EmbeddingState::new(words, input.padding);
        if let Some(point) = &self.embedded {
            state = cx.embedding(point, state);
        }
        let [_, seq, _] = state.hidden.dims();
        let types: Tensor<3> = self.token_types.weight.val().slice_dim(0, 0..1).unsqueeze();
        state.hidden = state.hidden + types;
        if self.adds_positions {
            let positions = self.positions.weight.val().slice_dim(0, first..first + seq).unsqueeze();
            state.hidden = state.hidden + positions;
        }
        state.hidden = cx.norm(&self.norm, state.hidden);
        state.hidden = cx.dropout(state.hidden, self.dropout);
        match &self.output {
            Some(point) => cx.embedding(point, state),
            None => state,
        }
    }
}

impl TwoStacks for BertToBertModel {
    type Source = TextInput;
    const DECODER_COUNTS_ITS_ROWS: bool = true;

    fn decoder_start(&self) -> usize {
        self.config.decoder_start_token_id
    }

    fn embed(&self, input: TextInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let first = cx.first_position();
        self.encoder.embed(input, first, cx)
    }

    fn encoder_layers<'m>(&'m self, chain: Chain<'m>, _: usize, mask: Option<Tensor<4>>) -> Chain<'m> {
        let chain = chain.layers(&self.encoder.layers, [mask, None]);
        match &self.bridge {
            Some(bridge) => chain.then(|x, cx| cx.linear(bridge, x)),
            None => chain,
        }
    }

    fn embed_decoder(&self, ids: Tensor<2, Int>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        self.decoder.embed(TextInput::new(ids), first, cx).hidden
    }

    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, frame: DecoderFrame) -> Chain<'m> {
        chain.layers(&self.decoder.layers, [Some(frame.mask), frame.encoded_mask])
    }

    fn vocabulary_scores(&self, hidden: Tensor<3>, _: &mut Hooks<'_>) -> LinearScores {
        let head = &self.head;
        let x = head.activation.forward(ops::linear(&head.dense, hidden));
        let x = ops::layer_norm(&head.norm, x);
        let table = head.table.as_ref().unwrap_or(&self.decoder.words.weight);
        LinearScores::projected(x, table.val(), Some(head.bias.val()))
    }
}

impl Transformer for BertToBertModel {
    type Input = ToTextInput;

    fn info(&self) -> ModelInfo {
        let (encoder, decoder) = (&self.config.encoder.bert, &self.config.decoder.bert);
        ModelInfo {
            num_layers: encoder.num_hidden_layers + decoder.num_hidden_layers,
            max_length: Some(encoder.max_position_embeddings.min(decoder.max_position_embeddings)),
            vocab_size: decoder.vocab_size,
            pad_id: self.config.pad_token_id,
            head_norm_epsilon: decoder.layer_norm_eps,
            head_dropout: decoder.classifier_dropout.unwrap_or(decoder.hidden_dropout_prob),
            activation: decoder.hidden_act.clone(),
            ..ModelInfo::default()
        }
    }

    fn chain(&self, input: ToTextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        self.both_stacks(input, cx)
    }

    fn encoder_decoder(&self) -> Option<&dyn EncoderDecoder> {
        Some(self)
    }
}

impl Host for BertToBertModel {
    fn architecture(&self) -> &str {
        "encoder-decoder"
    }

    fn class_name(&self) -> &str {
        "EncoderDecoderModel"
    }

    fn d_model(&self) -> usize {
        self.config.decoder.bert.hidden_size
    }

    fn d_model_of(&self, stack: Stack) -> usize {
        match stack {
            Stack::Encoder => self.config.encoder.bert.hidden_size,
            _ => self.d_model(),
        }
    }

    fn attention_dropout(&self) -> f64 {
        self.config.encoder.bert.attention_probs_dropout_prob
    }

    fn attention_name(&self, stack: Stack) -> &'static str {
        match stack {
            Stack::Cross => "decoder.bert/cross_prefix",
            Stack::Decoder => "decoder.bert/self_prefix",
            Stack::Encoder | Stack::Image => "encoder/self_prefix",
        }
    }
}
