//! What the file of an architecture uses.

pub(crate) use std::borrow::Cow;
pub(crate) use std::path::Path;

pub(crate) use adapters_core::{
    Batch, Ctx, EmbeddingHook, EmbeddingRole, EmbeddingState, Error, Hooks, Host, Inserted, KeyValueHook, LinearRole,
    Location, NormRole, OutputHook, Point, ResidualHook, ResidualRole, Sited, Sites, Stack,
};
pub(crate) use adapters_nn::ops::{self, Activation};
pub(crate) use burn::module::{Module, Param};
pub(crate) use burn::nn::{Embedding, LayerNorm, Linear, RmsNorm};
pub(crate) use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
pub(crate) use serde::Deserialize;

pub(crate) use crate::attention::{Attended, Attention, AttentionOptions};
pub(crate) use crate::cache::{Begun, Embedded, KeyValueCache};
pub(crate) use crate::chain::{Block, Chain, Slot, replicated};
pub(crate) use crate::config_check::ConfigCheck;
pub(crate) use crate::error::ModelError;
pub(crate) use crate::from_checkpoint::{FromCheckpoint, load_relative};
pub(crate) use crate::input::{ImageInput, SoundInput, SpeechInput, TextAndImageInput, TextInput, ToTextInput};
pub(crate) use crate::kind::ModelKind;
pub(crate) use crate::linear_scores::LinearScores;
pub(crate) use crate::transformer::{
    CausalLm, ClassifierLayout, EncoderDecoder, ImageEncoder, MaskedLmLayout, ModelInfo, SoundEncoder, SoundForm,
    TextAndImage, TextEncoder, Transformer,
};
pub(crate) use crate::weights::{Scope, Weights};
