//! Values of options that are one of a few.

use adapters::models::heads::Pooling;
use adapters::nn::Quantization;
use clap::ValueEnum;

/// The precision of a base's weights on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum QuantizeArg {
    /// 32-bit floats.
    None,
    /// 8-bit integers: a quarter of the memory.
    Int8,
}

impl QuantizeArg {
    /// The quantization it names; `None` for floats.
    pub fn quantization(self) -> Option<Quantization> {
        match self {
            Self::None => None,
            Self::Int8 => Some(Quantization::Int8),
        }
    }
}

/// Pooling on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PoolingArg {
    /// The mean of all tokens.
    Mean,
    /// The first token.
    First,
    /// The last token.
    Last,
    /// The pooler layer of the model.
    Pooler,
}

impl PoolingArg {
    /// The pooling it names.
    pub fn pooling(self) -> Pooling {
        match self {
            Self::Mean => Pooling::Mean,
            Self::First => Pooling::First,
            Self::Last => Pooling::Last,
            Self::Pooler => Pooling::Pooler,
        }
    }

    /// Its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::First => "first",
            Self::Last => "last",
            Self::Pooler => "pooler",
        }
    }
}
