#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod adapter_folder;
mod albert;
mod architecture;
mod attention;
mod bart;
mod beit;
pub mod bert;
mod bert_generation;
mod cache;
mod chain;
#[cfg(feature = "tokenizers")]
mod chat;
mod checkpoint_folder;
mod clip;
mod config_check;
mod deberta;
mod deberta_config;
mod deberta_v2;
mod dinov2;
mod disentangled;
mod distance_scores;
mod distilbert;
mod electra;
mod encoded;
mod encoder;
mod encoder_decoder;
mod error;
mod experts;
mod feed_forward;
mod from_checkpoint;
mod gemma2;
mod gemma3;
mod generate;
pub mod gpt2;
mod gpt_decoder;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
pub mod heads;
mod image_size;
mod input;
mod kind;
mod linear_scores;
mod llama;
mod lm_head;
mod mbart;
mod mistral;
mod mixtral;
mod model;
mod modeling;
mod modernbert;
mod modernbert_config;
mod norm;
mod olmo2;
mod opt;
mod packing;
mod patches;
mod phi;
mod phi3;
mod plbart;
mod pretrained;
#[cfg(feature = "tokenizers")]
mod published_generation;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod roberta;
mod rotary;
mod rotary_attention;
mod rotary_config;
mod rotary_decoder;
mod rotary_family;
mod rotary_layer;
mod rotary_modeling;
mod rotary_scaling;
mod save_checkpoint;
mod save_merged;
mod siglip;
mod smollm3;
mod sound;
pub mod speech;
mod standard_layer;
mod standard_stacks;
mod t5;
#[cfg(feature = "tokenizers")]
mod text_batch;
mod text_embeddings;
#[cfg(feature = "tokenizers")]
mod tokenizer;
#[cfg(feature = "tokenizers")]
mod tokenizer_parts;
mod transformer;
mod two_stacks;
#[cfg(feature = "images")]
pub mod vision;
mod vision_encoder;
#[doc(hidden)]
pub mod vit;
#[cfg(feature = "tokenizers")]
mod vocabulary_files;
mod wav2vec2;
mod wav2vec2_adapters;
mod weights;
mod whisper;
mod xmod;

pub use architecture::{ARCHITECTURES, Architecture, Architectures};
pub use attention::{Attention, AttentionOptions};
pub use cache::KeyValueCache;
pub use chain::{Block, Chain, Flow, Slot};
#[cfg(feature = "tokenizers")]
pub use chat::{ChatTemplate, ChatTime, Message};
pub use error::ModelError;
pub use from_checkpoint::FromCheckpoint;
pub use generate::{Beams, EarlyStopping, Generation, PromptCache, Sampling, TokenRules};
pub use heads::{Head, HeadConfig, Heads};
pub use image_size::ImageSize;
pub use input::{
    ImageInput, Input, PaddingSide, SoundInput, Source, SpeechInput, TextAndImageInput, TextInput, ToTextInput,
};
pub use kind::ModelKind;
pub use linear_scores::LinearScores;
pub use model::Model;
pub use packing::Packing;
pub use pretrained::Pretrained;
#[cfg(feature = "tokenizers")]
pub use published_generation::PublishedGeneration;
pub use save_checkpoint::save_checkpoint;
pub use save_merged::save_merged;
#[cfg(feature = "tokenizers")]
pub use tokenizer::{TextStream, TextTokenizer};
pub use transformer::{
    CausalLm, ClassifierLayout, EncodedInput, EncoderDecoder, ImageEncoder, MaskedLmLayout, ModelInfo, SoundEncoder,
    SoundForm, TextAndImage, TextEncoder, Transformer,
};
pub use weights::{ReadErrors, Scope, Weights};

// For the crates of this workspace.
#[doc(hidden)]
pub use adapter_folder::{AdapterFolder, WrittenAdapter};
#[doc(hidden)]
pub use checkpoint_folder::CheckpointFolder;
#[doc(hidden)]
pub use encoded::Encoded;
#[doc(hidden)]
pub use save_checkpoint::copy_tokenizer;
