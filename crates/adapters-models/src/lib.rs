#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod albert;
mod architecture;
mod attention;
pub mod bart;
pub mod beit;
pub mod bert;
mod bert_generation;
mod cache;
mod chain;
#[cfg(feature = "tokenizers")]
mod chat;
mod checkpoint_folder;
pub mod clip;
mod config_check;
mod deberta;
mod deberta_v2;
pub mod dinov2;
mod disentangled;
pub mod distilbert;
mod electra;
mod encoded;
pub mod encoder;
pub mod encoder_decoder;
mod error;
mod experts;
mod feed_forward;
mod from_checkpoint;
mod gemma2;
mod gemma3;
mod generate;
pub mod gpt2;
pub mod gpt_decoder;
pub mod gpt_neox;
mod gpt_oss;
pub mod gptj;
mod granite;
pub mod heads;
mod input;
mod kind;
mod linear_scores;
mod llama;
mod lm_head;
mod mistral;
mod mixtral;
mod model;
mod modeling;
mod modernbert;
mod norm;
mod olmo2;
pub mod opt;
mod packing;
mod patches;
mod phi;
mod phi3;
pub mod post_norm;
mod pretrained;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod roberta;
pub mod rotary;
mod rotary_attention;
pub mod rotary_config;
pub mod rotary_decoder;
pub mod rotary_family;
mod rotary_layer;
pub mod rotary_scaling;
mod save_checkpoint;
mod save_merged;
pub mod siglip;
mod smollm3;
mod sound;
pub mod speech;
mod standard_layer;
pub mod t5;
#[cfg(feature = "tokenizers")]
mod text_batch;
pub mod text_embeddings;
#[cfg(feature = "tokenizers")]
mod tokenizer;
mod transformer;
mod two_stacks;
#[cfg(feature = "images")]
pub mod vision;
pub mod vit;
pub mod wav2vec2;
mod weights;
pub mod whisper;
mod xmod;

pub use architecture::{ARCHITECTURES, Architecture, Architectures};
pub use attention::{Attention, AttentionOptions, ProjectedAttention, ProjectionNames};
pub use cache::{KeyValueCache, KeysValues, LayerCache};
pub use chain::{Block, Chain, Flow, Slot, Step, replicated};
#[cfg(feature = "tokenizers")]
pub use chat::{ChatTemplate, ChatTime, Message};
pub use checkpoint_folder::CheckpointFolder;
pub use config_check::ConfigCheck;
pub use encoded::Encoded;
pub use error::ModelError;
pub use feed_forward::{FeedForward, FeedForwardPlan};
pub use from_checkpoint::FromCheckpoint;
pub use generate::{Beams, EarlyStopping, Generation, PromptCache, Sampling};
pub use heads::{Head, HeadConfig, Heads};
pub use input::{
    ImageInput, Input, PaddingSide, SoundInput, Source, SpeechInput, TextAndImageInput, TextInput, ToTextInput,
};
pub use kind::ModelKind;
pub use linear_scores::LinearScores;
pub use model::Model;
pub use norm::{Norm, NormKind};
pub use packing::Packing;
pub use pretrained::Pretrained;
pub use save_checkpoint::{copy_tokenizer, save_checkpoint};
pub use save_merged::save_merged;
#[cfg(feature = "tokenizers")]
pub use tokenizer::{TextStream, TextTokenizer};
pub use transformer::{
    CausalLm, ClassifierLayout, EncodedInput, EncoderDecoder, ImageEncoder, MaskedLmLayout, ModelInfo, SoundEncoder,
    TextAndImage, TextEncoder, Transformer,
};
pub use two_stacks::{DecoderFrame, TwoStacks};
pub use weights::{ReadErrors, Scope, Weights};
