//! What the file of a family of decoders with rotary positions uses.

pub(crate) use adapters_core::Window;
pub(crate) use burn::tensor::Device;
pub(crate) use serde::Deserialize;
pub(crate) use serde::de::IgnoredAny;
pub(crate) use serde_json::{Value, json};

pub(crate) use crate::checkpoint_folder::CheckpointFolder;
pub(crate) use crate::config_check::ConfigCheck;
pub(crate) use crate::error::ModelError;
pub(crate) use crate::feed_forward::FeedForwardPlan;
pub(crate) use crate::model::Model;
pub(crate) use crate::norm::NormKind;
pub(crate) use crate::rotary_config::RotaryDecoderConfig;
pub(crate) use crate::rotary_decoder::RotaryDecoder;
pub(crate) use crate::rotary_family::{
    AdapterHubForm, AttentionPlan, EmbeddingFactor, Family, Logits, Placement, Projections, QueryKeyNorms,
};
