//! Any model of this crate, for what does not care which it is: listing sites, attaching, merging, saving.

use adapters_core::{Host, NormWeight, Site, SiteInfo};
use burn::module::Module;
use burn::nn::{Embedding, Linear};

use crate::causal_lm::CausalLm;
use crate::encoder::Encoder;
use crate::encoder_decoder::EncoderDecoder;
use crate::host::host_of;

/// A pretrained model of any kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One a program, never in a collection.
pub enum Model {
    /// Text to hidden states.
    Encoder(Encoder),
    /// Text to the next token.
    CausalLm(CausalLm),
    /// Text to text.
    EncoderDecoder(EncoderDecoder),
}

/// Runs the same expression on whichever kind it is.
macro_rules! each {
    ($model:expr, $inner:ident => $body:expr) => {
        match $model {
            Model::Encoder($inner) => $body,
            Model::CausalLm($inner) => $body,
            Model::EncoderDecoder($inner) => $body,
        }
    };
}

impl Model {
    /// Longest input in tokens.
    pub fn max_length(&self) -> usize {
        each!(self, model => model.max_length())
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        each!(self, model => model.vocab_size())
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        each!(self, model => model.num_layers())
    }
}

host_of!(Model, each);
