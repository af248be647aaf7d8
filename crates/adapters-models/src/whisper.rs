//! Whisper, from the published configuration to the last hidden state and the scores of the vocabulary.
//!
//! Paper: *Robust Speech Recognition via Large-Scale Weak Supervision*, Radford et al., 2022,
//! <https://arxiv.org/abs/2212.04356>. Behavior follows `WhisperModel` and `WhisperForConditionalGeneration` of Hugging Face
//! transformers; SpecAugment is not applied in training.

mod encoder;

use serde_json::{Map, Value, json};

use self::encoder::WhisperEncoder;
pub(crate) use self::encoder::load_encoder;
use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::model::Model;
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardOptions};
use crate::standard_stacks::{NORM_EPSILON, StacksConfig};
use crate::two_stacks::{DecoderFrame, TwoStacks};

/// `config.json` of a Whisper checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct WhisperConfig {
    #[serde(flatten)]
    pub(crate) stacks: StacksConfig,
    pub(crate) num_mel_bins: usize,
    /// Probability that a batch skips a layer of the encoder, in training.
    pub(crate) encoder_layerdrop: f64,
    /// Probability that a batch skips a layer of the decoder, in training.
    pub(crate) decoder_layerdrop: f64,
    /// Positions of the encoder: half of the frames.
    pub(crate) max_source_positions: usize,
    pub(crate) max_target_positions: usize,
    /// Whether classes are told by a weighted sum of all hidden states of the encoder, and not by the last one.
    pub(crate) use_weighted_layer_sum: bool,
    /// Fields not named here, of which some are refused.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// The defaults of the published class (Whisper tiny).
fn with_defaults() -> Map<String, Value> {
    object(json!({
        "vocab_size": 51865, "num_mel_bins": 80, "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536, "decoder_layers": 4, "decoder_attention_heads": 6, "decoder_ffn_dim": 1536,
        "activation_function": "gelu", "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "max_source_positions": 1500, "max_target_positions": 448,
        "use_weighted_layer_sum": false, "pad_token_id": 50256, "decoder_start_token_id": 50257,
    }))
}

/// Loads a checkpoint.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    load_relative(source, device, with_defaults(), WhisperModel::build)
}

impl WhisperConfig {
    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        let activation = self.stacks.check(&check)?;
        check.sizes([
            ("num_mel_bins", self.num_mel_bins),
            ("max_source_positions", self.max_source_positions),
            ("max_target_positions", self.max_target_positions),
        ])?;
        check.dropouts([
            ("encoder_layerdrop", self.encoder_layerdrop),
            ("decoder_layerdrop", self.decoder_layerdrop),
        ])?;
        check.switches(&self.other, &["apply_spec_augment"], &["tie_word_embeddings"])?;
        Ok(activation)
    }

    /// The layers of a stack.
    fn layers(&self, stack: Stack, activation: Activation, weights: &mut Weights) -> Vec<StandardLayer> {
        let options = StandardOptions {
            // Keys have none.
            biases: [true, false, true, true],
            layer_drop: match stack {
                Stack::Encoder | Stack::Image => self.encoder_layerdrop,
                Stack::Decoder | Stack::Cross => self.decoder_layerdrop,
            },
            ..self.stacks.options(stack, activation)
        };
        self.stacks.layers(&options, stack, weights)
    }
}

/// Whisper: an encoder of spectrograms, and a decoder with norms in front of its blocks.
#[derive(Module, Sites, Debug)]
pub(crate) struct WhisperModel {
    encoder: WhisperEncoder,
    words: Sited<Embedding>,
    /// `[positions, d_model]`.
    positions: Param<Tensor<2>>,
    layers: Vec<StandardLayer>,
    norm: Sited<LayerNorm>,
    proj_out: Sited<Linear>,
    #[module(skip)]
    config: WhisperConfig,
}

impl FromCheckpoint for WhisperModel {
    type Config = WhisperConfig;
    const PREFIX: &'static str = "model.";

    fn build(config: WhisperConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let activation = config.check(path)?;
        let sum = config.use_weighted_layer_sum;
        ConfigCheck::new(path).require(!sum, "use_weighted_layer_sum", "`false` where text is written", sum)?;
        let (d, vocab) = (config.stacks.d_model, config.stacks.vocab_size);
        let encoder = WhisperEncoder::of(&config, activation, weights);
        let layers = config.layers(Stack::Decoder, activation, weights);
        let outside = Location::outside(Stack::Decoder);
        let mut at = weights.at(outside, "decoder");
        let words = at.table("embed_tokens", [vocab, d], Some(config.stacks.pad_token_id));
        let norm = at.layer_norm(NormRole::FinalNorm, "layer_norm", d, NORM_EPSILON);
        Ok(Self {
            encoder,
            proj_out: weights
                .at_top(outside, "proj_out")
                .head(false, Some(&words), [d, vocab]),
            words,
            layers,
            norm,
            positions: weights.matrix("decoder.embed_positions.weight", config.max_target_positions, d),
            config,
        })
    }

    /// A second name of the token table, and the head of a larger class.
    fn is_unused(&self, key: &str) -> bool {
        ["proj_out.", "projector.", "classifier."]
            .iter()
            .any(|known| key.starts_with(known))
    }
}

impl TwoStacks for WhisperModel {
    type Source = SpeechInput;

    const READS_SPEECH: bool = true;

    fn decoder_start(&self) -> usize {
        self.config.stacks.decoder_start_token_id
    }

    /// # Panics
    ///
    /// Panics on other numbers of bands and frames than the model reads.
    fn embed(&self, input: SpeechInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        EmbeddingState::new(self.encoder.embed(input, cx), None)
    }

    fn encoder_layers<'m>(&'m self, chain: Chain<'m>, _: usize, _: Option<Tensor<4>>) -> Chain<'m> {
        self.encoder.extend(chain)
    }

    fn embed_decoder(&self, ids: Tensor<2, Int>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let seq = ids.dims()[1];
        let positions = self.positions.val().slice_dim(0, first..first + seq);
        let hidden = cx.lookup(&self.words, ids) + positions.unsqueeze();
        cx.dropout(hidden, self.config.stacks.dropout)
    }

    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, frame: DecoderFrame) -> Chain<'m> {
        let chain = chain.layers(&self.layers, [Some(frame.mask), frame.encoded_mask]);
        chain.then(|x, cx| cx.norm(&self.norm, x))
    }

    fn vocabulary_scores(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> LinearScores {
        LinearScores::of(&self.proj_out, hidden, cx)
    }
}

impl Transformer for WhisperModel {
    type Input = ToTextInput;

    fn info(&self) -> ModelInfo {
        let stacks = &self.config.stacks;
        ModelInfo {
            num_layers: stacks.encoder_layers + stacks.decoder_layers,
            max_length: Some(self.config.max_target_positions),
            vocab_size: stacks.vocab_size,
            pad_id: stacks.pad_token_id,
            head_norm_epsilon: 1e-12,
            head_dropout: stacks.dropout,
            activation: stacks.activation_function.clone(),
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

impl Host for WhisperModel {
    fn architecture(&self) -> &str {
        "whisper"
    }

    fn class_name(&self) -> &str {
        "WhisperModel"
    }

    fn d_model(&self) -> usize {
        self.config.stacks.d_model
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.stacks.attention_dropout
    }
}
