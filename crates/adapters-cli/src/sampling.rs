//! How tokens are chosen, for the commands that generate text.

use adapters::models::{Generation, Sampling};

use crate::args::positive;

/// How tokens are chosen.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Generation")]
pub struct SamplingArgs {
    /// Maximum number of new tokens.
    #[arg(long, value_name = "N", default_value = "128", value_parser = positive)]
    pub max_tokens: usize,
    /// Sampling temperature [default: greedy decoding].
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Sample from the K most likely tokens.
    #[arg(long, value_name = "K", requires = "temperature")]
    pub top_k: Option<usize>,
    /// Sample from the most likely tokens with total probability P.
    #[arg(long, value_name = "P", requires = "temperature")]
    pub top_p: Option<f64>,
    /// Penalty for repeated tokens; 1 disables it.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f64,
    /// Random seed of sampling.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl SamplingArgs {
    /// Generation with these options that ends at `stop`.
    pub fn generation(&self, stop: Vec<u32>) -> Generation {
        Generation {
            max_new_tokens: self.max_tokens,
            sampling: match self.temperature {
                Some(temperature) => Sampling::Random {
                    temperature,
                    top_k: self.top_k,
                    top_p: self.top_p,
                },
                None => Sampling::Greedy,
            },
            repetition_penalty: self.repetition_penalty,
            stop,
            seed: self.seed,
            ..Generation::default()
        }
    }
}
