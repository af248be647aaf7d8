//! Whisper, from the published configuration to the last hidden state and the scores of the vocabulary.
//!
//! Paper: *Robust Speech Recognition via Large-Scale Weak Supervision*, Radford et al., 2022,
//! <https://arxiv.org/abs/2212.04356>. Behavior follows `WhisperModel` and `WhisperForConditionalGeneration` of Hugging Face
//! transformers; SpecAugment is not applied in training.

use serde_json::{Map, Value};

use crate::modeling::*;
use crate::sound::patches;
use crate::standard_layer::{StandardLayer, StandardOptions};
use crate::two_stacks::{DecoderFrame, TwoStacks};

/// That of all norms: no configuration has another.
const NORM_EPSILON: f64 = 1e-5;

/// Samples of the kernels of both convolutions.
const KERNEL: usize = 3;

/// `config.json` of a Whisper checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the published names of transformers' `WhisperConfig`")]
pub(crate) struct WhisperConfig {
    pub(crate) vocab_size: usize,
    pub(crate) num_mel_bins: usize,
    pub(crate) d_model: usize,
    pub(crate) encoder_layers: usize,
    pub(crate) encoder_attention_heads: usize,
    pub(crate) encoder_ffn_dim: usize,
    pub(crate) decoder_layers: usize,
    pub(crate) decoder_attention_heads: usize,
    pub(crate) decoder_ffn_dim: usize,
    pub(crate) activation_function: String,
    pub(crate) dropout: f64,
    pub(crate) attention_dropout: f64,
    pub(crate) activation_dropout: f64,
    /// Probability that a batch skips a layer of the encoder, in training.
    pub(crate) encoder_layerdrop: f64,
    /// Probability that a batch skips a layer of the decoder, in training.
    pub(crate) decoder_layerdrop: f64,
    /// Positions of the encoder: half of the frames.
    pub(crate) max_source_positions: usize,
    pub(crate) max_target_positions: usize,
    pub(crate) pad_token_id: usize,
    pub(crate) decoder_start_token_id: usize,
    /// Fields not named here, of which some are refused.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

impl Default for WhisperConfig {
    /// The defaults of the published class (Whisper tiny).
    fn default() -> Self {
        Self {
            vocab_size: 51865,
            num_mel_bins: 80,
            d_model: 384,
            encoder_layers: 4,
            encoder_attention_heads: 6,
            encoder_ffn_dim: 1536,
            decoder_layers: 4,
            decoder_attention_heads: 6,
            decoder_ffn_dim: 1536,
            activation_function: "gelu".to_owned(),
            dropout: 0.0,
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            encoder_layerdrop: 0.0,
            decoder_layerdrop: 0.0,
            max_source_positions: 1500,
            max_target_positions: 448,
            pad_token_id: 50256,
            decoder_start_token_id: 50257,
            other: Map::new(),
        }
    }
}

impl WhisperConfig {
    /// Checks the values against each other and against what is computed here.
    fn check(&self, path: &Path) -> Result<Activation, ModelError> {
        let check = ConfigCheck::new(path);
        let heads = [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ];
        check.sizes(heads)?;
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("num_mel_bins", self.num_mel_bins),
            ("max_source_positions", self.max_source_positions),
            ("max_target_positions", self.max_target_positions),
            ("d_model", self.d_model),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
        ])?;
        let layers = ("encoder_layers", self.encoder_layers);
        check.layers([layers, ("decoder_layers", self.decoder_layers)])?;
        for heads in heads {
            check.multiple(("d_model", self.d_model), heads)?;
        }
        check.dropouts([
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
            ("encoder_layerdrop", self.encoder_layerdrop),
            ("decoder_layerdrop", self.decoder_layerdrop),
        ])?;
        check.switches(
            &self.other,
            &["apply_spec_augment", "use_weighted_layer_sum"],
            &["tie_word_embeddings"],
        )?;
        check.activation("activation_function", &self.activation_function)
    }
}

/// Whisper: two convolutions over a spectrogram, and two stacks of layers with norms in front of their blocks.
#[derive(Module, Sites, Debug)]
pub(crate) struct WhisperModel {
    convolutions: Vec<Sited<Linear>>,
    /// `[positions, d_model]`, of the encoder.
    source_positions: Param<Tensor<2>>,
    encoder: WhisperStack,
    /// Behind the encoder, as in AdapterHub.
    embedding: Point<EmbeddingHook>,
    words: Sited<Embedding>,
    /// `[positions, d_model]`, of the decoder.
    target_positions: Param<Tensor<2>>,
    decoder: WhisperStack,
    #[module(skip)]
    config: WhisperConfig,
}

#[derive(Module, Sites, Debug)]
struct WhisperStack {
    layers: Vec<StandardLayer>,
    norm: Sited<LayerNorm>,
}

impl FromCheckpoint for WhisperModel {
    type Config = WhisperConfig;
    const PREFIX: &'static str = "model.";

    fn build(config: WhisperConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let activation = config.check(path)?;
        let (d, pad) = (config.d_model, config.pad_token_id);
        let channels = [config.num_mel_bins, d].into_iter().enumerate();
        let convolutions = channels.map(|(index, channels)| {
            let mut at = weights.at(Location::layer(Stack::Encoder, index), "encoder");
            at.convolution(&format!("conv{}", index + 1), true, vec![channels, KERNEL], d)
        });
        let convolutions = convolutions.collect();
        let at = weights.at(Location::outside(Stack::Encoder), "encoder");
        let embedding = at.embedded(EmbeddingRole::Embedding, "layer_norm", d);
        let mut at = weights.at(Location::outside(Stack::Decoder), "decoder");
        Ok(Self {
            convolutions,
            embedding,
            words: at.table("embed_tokens", [config.vocab_size, d], Some(pad)),
            source_positions: weights.matrix("encoder.embed_positions.weight", config.max_source_positions, d),
            encoder: WhisperStack::build(&config, activation, Stack::Encoder, weights),
            target_positions: weights.matrix("decoder.embed_positions.weight", config.max_target_positions, d),
            decoder: WhisperStack::build(&config, activation, Stack::Decoder, weights),
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

impl WhisperStack {
    fn build(c: &WhisperConfig, activation: Activation, stack: Stack, weights: &mut Weights) -> Self {
        let encoder = stack == Stack::Encoder;
        let (name, first, count) = match encoder {
            true => ("encoder", 0, c.encoder_layers),
            false => ("decoder", c.encoder_layers, c.decoder_layers),
        };
        let either = |of_encoder, of_decoder| if encoder { of_encoder } else { of_decoder };
        let options = StandardOptions {
            norm_epsilon: NORM_EPSILON,
            // Keys have none.
            biases: [true, false, true, true],
            dropouts: [c.dropout; 2],
            attention_dropout: c.attention_dropout,
            activation_dropout: c.activation_dropout,
            layer_drop: if encoder {
                c.encoder_layerdrop
            } else {
                c.decoder_layerdrop
            },
            filler: c.pad_token_id,
            ..StandardOptions::of(
                [
                    c.d_model,
                    either(c.encoder_attention_heads, c.decoder_attention_heads),
                    either(c.encoder_ffn_dim, c.decoder_ffn_dim),
                ],
                activation,
            )
        };
        let layers = (0..count).map(|index| {
            let at = weights.at(Location::layer(stack, first + index), format!("{name}.layers.{index}"));
            StandardLayer::build(&options, at)
        });
        let layers = layers.collect();
        let mut at = weights.at(Location::outside(stack), name);
        Self {
            layers,
            norm: at.layer_norm(NormRole::FinalNorm, "layer_norm", c.d_model, NORM_EPSILON),
        }
    }

    fn extend<'m>(&'m self, chain: Chain<'m>, masks: [Option<Tensor<4>>; 2]) -> Chain<'m> {
        chain.layers(&self.layers, masks).then(|x, cx| cx.norm(&self.norm, x))
    }
}

impl TwoStacks for WhisperModel {
    type Source = SpeechInput;

    const READS_SPEECH: bool = true;

    fn decoder_start(&self) -> usize {
        self.config.decoder_start_token_id
    }

    /// # Panics
    ///
    /// Panics on other numbers of bands and frames than the model reads.
    fn embed(&self, input: SpeechInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let mut x = input.features;
        for (index, convolution) in self.convolutions.iter().enumerate() {
            // The second one leaves every other position out.
            let y = cx.linear(convolution, patches(x, KERNEL, index + 1, KERNEL / 2));
            x = Activation::Gelu.forward(y).swap_dims(1, 2);
        }
        let hidden = x.swap_dims(1, 2) + self.source_positions.val().unsqueeze();
        EmbeddingState::new(cx.dropout(hidden, self.config.dropout), None)
    }

    fn encoder_layers<'m>(&'m self, chain: Chain<'m>, _: usize, _: Option<Tensor<4>>) -> Chain<'m> {
        let chain = self.encoder.extend(chain, [None, None]);
        chain.then(|x, cx| cx.embedding(&self.embedding, EmbeddingState::new(x, None)).hidden)
    }

    fn embed_decoder(&self, ids: Tensor<2, Int>, first: usize, cx: &mut Hooks<'_>) -> Tensor<3> {
        let seq = ids.dims()[1];
        let positions = self.target_positions.val().slice_dim(0, first..first + seq);
        let hidden = cx.lookup(&self.words, ids) + positions.unsqueeze();
        cx.dropout(hidden, self.config.dropout)
    }

    fn decoder_layers<'m>(&'m self, chain: Chain<'m>, frame: DecoderFrame) -> Chain<'m> {
        self.decoder.extend(chain, [Some(frame.mask), frame.encoded_mask])
    }

    fn vocabulary_scores(&self, hidden: Tensor<3>, _: &mut Hooks<'_>) -> LinearScores {
        LinearScores::projected(hidden, self.words.weight.val(), None)
    }
}

impl Transformer for WhisperModel {
    type Input = ToTextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.encoder_layers + c.decoder_layers,
            max_length: c.max_target_positions,
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id,
            head_norm_epsilon: 1e-12,
            head_dropout: c.dropout,
            activation: c.activation_function.clone(),
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
        self.config.d_model
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_dropout
    }
}
