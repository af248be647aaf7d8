#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

mod cpt;
mod layer;
mod multitask_prompt_tuning;
mod p_tuning;
mod peft_file;
mod peft_prompt_tuning;
mod prompt_tuning;
mod start;
#[cfg(test)]
mod tests;
mod virtual_tokens;

pub use cpt::{ContextLoss, CptConfig};
pub use multitask_prompt_tuning::{MultitaskInit, MultitaskPromptTuningConfig};
pub use p_tuning::{NetworkKind, PTuningConfig};
pub use peft_prompt_tuning::{PeftPromptInit, PeftPromptTuningConfig};
pub use prompt_tuning::{Combine, PromptInit, PromptTuningConfig};
pub use start::Start;
pub use virtual_tokens::VirtualTokens;
