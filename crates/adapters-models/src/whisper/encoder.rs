//! The encoder of Whisper, which is a model of its own, too: what the published class for classes of sounds reads.

use super::{WhisperConfig, with_defaults};
use crate::checkpoint_folder::CheckpointFolder;
use crate::model::Model;
use crate::modeling::*;
use crate::sound::{LayerSum, patches};
use crate::standard_layer::StandardLayer;
use crate::standard_stacks::NORM_EPSILON;

/// Samples of the kernels of both convolutions.
const KERNEL: usize = 3;

/// Two convolutions over a spectrogram, and layers with norms in front of their blocks.
///
/// As a model of its own it computes the hidden state that `WhisperForAudioClassification` of Hugging Face transformers
/// classifies.
#[derive(Module, Sites, Debug)]
pub(crate) struct WhisperEncoder {
    convolutions: Vec<Sited<Linear>>,
    /// `[positions, d_model]`.
    positions: Param<Tensor<2>>,
    layers: Vec<StandardLayer>,
    norm: Sited<LayerNorm>,
    /// Behind the norm, as in AdapterHub; `None` where the layers are summed, which have as many positions each.
    embedding: Option<Point<EmbeddingHook>>,
    sum: Option<LayerSum>,
    #[module(skip)]
    config: WhisperConfig,
}

/// Loads the encoder of a checkpoint.
pub(crate) fn load_encoder(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    load_relative(source, device, with_defaults(), WhisperEncoder::build)
}

impl WhisperEncoder {
    /// The encoder of a model.
    pub(super) fn of(config: &WhisperConfig, activation: Activation, weights: &mut Weights) -> Self {
        let d = config.stacks.d_model;
        let channels = [config.num_mel_bins, d].into_iter().enumerate();
        let convolutions = channels.map(|(index, channels)| {
            let mut at = weights.at(Location::layer(Stack::Encoder, index), "encoder");
            at.convolution(&format!("conv{}", index + 1), true, vec![channels, KERNEL], d)
        });
        let convolutions = convolutions.collect();
        let layers = config.layers(Stack::Encoder, activation, weights);
        let mut at = weights.at(Location::outside(Stack::Encoder), "encoder");
        Self {
            convolutions,
            layers,
            norm: at.layer_norm(NormRole::FinalNorm, "layer_norm", d, NORM_EPSILON),
            embedding: Some(at.embedded(EmbeddingRole::Embedding, "layer_norm", d)),
            positions: weights.matrix("encoder.embed_positions.weight", config.max_source_positions, d),
            sum: None,
            config: config.clone(),
        }
    }

    /// What enters the first layer.
    ///
    /// # Panics
    ///
    /// Panics on other numbers of bands and frames than the model reads.
    pub(super) fn embed(&self, input: SpeechInput, cx: &mut Hooks<'_>) -> Tensor<3> {
        let mut x = input.features;
        for (index, convolution) in self.convolutions.iter().enumerate() {
            // The second one leaves every other position out.
            let y = cx.linear(convolution, patches(x, KERNEL, index + 1, KERNEL / 2));
            x = Activation::Gelu.forward(y).swap_dims(1, 2);
        }
        let hidden = x.swap_dims(1, 2) + self.positions.val().unsqueeze();
        cx.dropout(hidden, self.config.stacks.dropout)
    }

    /// Goes on with the layers and what is behind them.
    pub(super) fn extend<'m>(&'m self, chain: Chain<'m>) -> Chain<'m> {
        let chain = chain.layers(&self.layers, [None, None]).then(|x, cx| {
            let x = cx.norm(&self.norm, x);
            match &self.embedding {
                Some(embedding) => cx.embedding(embedding, EmbeddingState::new(x, None)).hidden,
                None => x,
            }
        });
        match &self.sum {
            Some(sum) => sum.extend(chain),
            None => chain,
        }
    }
}

impl FromCheckpoint for WhisperEncoder {
    type Config = WhisperConfig;
    const PREFIX: &'static str = "model.";

    fn build(config: WhisperConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let activation = config.check(path)?;
        let sum = LayerSum::build(config.use_weighted_layer_sum, config.stacks.encoder_layers, weights);
        let encoder = Self::of(&config, activation, weights);
        Ok(Self {
            embedding: encoder.embedding.filter(|_| sum.is_none()),
            sum,
            ..encoder
        })
    }

    /// The decoder, and heads of larger classes.
    fn is_unused(&self, key: &str) -> bool {
        let known = ["decoder.", "proj_out.", "projector.", "classifier."];
        known.iter().any(|known| key.starts_with(known))
    }
}

impl Transformer for WhisperEncoder {
    type Input = SpeechInput;

    fn info(&self) -> ModelInfo {
        ModelInfo {
            num_layers: self.config.stacks.encoder_layers,
            max_length: None,
            head_norm_epsilon: 1e-12,
            activation: self.config.stacks.activation_function.clone(),
            ..ModelInfo::default()
        }
    }

    fn chain(&self, input: SpeechInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (cx, input) = cx.begin(self, input)?;
        Ok(self.extend(Chain::new(self.embed(input, cx))))
    }

    fn sound_encoder(&self) -> Option<&dyn SoundEncoder> {
        Some(self)
    }

    fn classifier(&self) -> Option<ClassifierLayout> {
        Some(ClassifierLayout {
            prefixed: false,
            ..ClassifierLayout::of(ModelKind::SoundEncoder)
        })
    }
}

impl SoundEncoder for WhisperEncoder {
    fn reads(&self) -> SoundForm {
        SoundForm::Spectrograms {
            bands: self.config.num_mel_bins,
            frames: 2 * self.config.max_source_positions,
        }
    }
}

impl Host for WhisperEncoder {
    fn architecture(&self) -> &str {
        "whisper"
    }

    fn class_name(&self) -> &str {
        "WhisperForAudioClassification"
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
