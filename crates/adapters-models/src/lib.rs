#![doc = include_str!("../README.md")]

pub mod bert;
mod classifier;
mod encoder;
mod error;
pub mod heads;
mod pretrained;
mod tokenizer;
mod weights;

#[cfg(feature = "hub")]
mod hub;

pub use classifier::{ClassificationHead, SequenceClassifier};
pub use encoder::{Encoder, EncoderInput};
pub use error::ModelError;
pub use heads::{Head, HeadConfig, Heads};
#[cfg(feature = "hub")]
pub use hub::download;
pub use pretrained::{Pretrained, SUPPORTED, save_checkpoint};
pub use tokenizer::{Encoded, TextTokenizer};
pub use weights::Weights;
