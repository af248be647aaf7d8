#![doc = include_str!("../README.md")]

pub mod bert;
mod cache;
mod causal_lm;
mod chat;
mod classifier;
mod encoder;
mod encoder_decoder;
mod error;
mod generate;
pub mod gpt2;
pub mod heads;
mod host;
mod llama;
mod mistral;
mod model;
mod pretrained;
mod qwen2;
pub mod rotary;
pub mod rotary_config;
pub mod rotary_decoder;
mod staged;
pub mod t5;
mod tokenizer;
pub mod vision;
mod weights;

#[cfg(feature = "hub")]
mod hub;

pub use cache::KeyValueCache;
pub use causal_lm::{CausalInput, CausalLm, PaddingSide};
pub use chat::{ChatTemplate, Message};
pub use classifier::{ClassificationHead, SequenceClassifier};
pub use encoder::{Encoder, EncoderInput};
pub use encoder_decoder::{DecoderCache, EncodedInput, EncoderDecoder, EncoderDecoderInput};
pub use error::ModelError;
pub use generate::{Generation, Sampling};
pub use heads::{Head, HeadConfig, Heads};
#[cfg(feature = "hub")]
pub use hub::download;
pub use model::Model;
pub use pretrained::{ModelKind, Pretrained, SUPPORTED, save_checkpoint};
pub use staged::{Block, Blocks, Flow, Staged};
pub use tokenizer::{Encoded, TextStream, TextTokenizer};
pub use weights::Weights;
