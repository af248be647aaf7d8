//! Kinds of models, by what they read and write.

use std::fmt;

/// What a model reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Reads a text.
    Encoder,
    /// Continues a text.
    CausalLm,
    /// Reads a text and writes another.
    EncoderDecoder,
    /// Reads images.
    ImageEncoder,
    /// Hears speech and writes a text.
    SpeechToText,
    /// Compares texts and images.
    TextAndImage,
    /// Hears sounds.
    SoundEncoder,
}

impl ModelKind {
    /// PEFT's `task_type` for such a model with the head it has of its own; `None` where PEFT has none.
    pub fn peft_task_type(self) -> Option<&'static str> {
        match self {
            Self::Encoder => Some("FEATURE_EXTRACTION"),
            Self::CausalLm => Some("CAUSAL_LM"),
            Self::EncoderDecoder => Some("SEQ_2_SEQ_LM"),
            Self::ImageEncoder | Self::SpeechToText | Self::TextAndImage | Self::SoundEncoder => None,
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoder => "encoder",
            Self::CausalLm => "causal language model",
            Self::EncoderDecoder => "encoder-decoder",
            Self::ImageEncoder => "image encoder",
            Self::SpeechToText => "speech-to-text model",
            Self::TextAndImage => "model of texts and images",
            Self::SoundEncoder => "sound encoder",
        })
    }
}
