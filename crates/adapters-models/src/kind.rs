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
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoder => "encoder",
            Self::CausalLm => "causal language model",
            Self::EncoderDecoder => "encoder-decoder",
            Self::ImageEncoder => "image encoder",
        })
    }
}
