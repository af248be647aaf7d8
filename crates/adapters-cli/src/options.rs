//! Options and help texts that several commands share.

use std::path::PathBuf;

use adapters::models::heads::Pooling;
use adapters::models::{Generation, PublishedGeneration, Sampling};
use adapters::nn::Precision;
use burn::tensor::FloatDType;
use clap::ValueEnum;

/// Where to compute.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Hardware")]
pub(crate) struct DeviceArgs {
    #[arg(long, default_value = default_device(), help = device_help())]
    pub(crate) device: String,
    /// Number of CPU threads [default: all cores]. With 1, results are reproducible bit for bit.
    #[arg(long, value_name = "N", value_parser = up_to::<MOST_THREADS>)]
    pub(crate) threads: Option<usize>,
}

fn device_help() -> String {
    format!(
        "Where to compute: {}; `NAME:1` is the second device of a kind. `adapters doctor` lists the devices of this machine",
        adapters::available_backends().join(", ")
    )
}

/// The lines at the end of a help text.
pub(crate) fn examples(commands: &[&str]) -> String {
    let lines: Vec<String> = commands.iter().map(|command| format!("  {command}")).collect();
    format!("Examples:\n{}", lines.join("\n"))
}

fn default_device() -> &'static str {
    adapters::available_backends().first().copied().unwrap_or("flex")
}

/// What is accepted of the files of models and adapters.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct AcceptArgs {
    /// Accept PyTorch `.bin` files. They are parsed, never executed.
    #[arg(long, help_heading = "Model")]
    pub(crate) allow_bin: bool,
    /// Load the adapter even if it was trained on a base model with other weights.
    #[arg(long, help_heading = "Model")]
    pub(crate) any_base: bool,
}

/// The model, adapter and head to use.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Folder of the base model [default: the one the adapter was trained on].
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Folder of the adapter, in AdapterHub's or PEFT's format, or of the run that trained it.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: PathBuf,
    /// Classification head file with the tensors `weight` and `bias` [default: the head next to the adapter].
    #[arg(long, value_name = "FILE")]
    pub(crate) head: Option<PathBuf>,
    /// How the token vectors are combined into one [default: as trained, else mean].
    #[arg(long, value_enum)]
    pub(crate) pooling: Option<PoolingArg>,
    /// Longest input in tokens; longer inputs are cut [default: as trained, else 128].
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<usize>,
    /// Precision of the base model's weights [default: as trained, else f32].
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionArg>,
    /// What is accepted.
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// The model that writes, and an optional adapter.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WriterArgs {
    /// Folder of the base model [default: the one the adapter was trained on].
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// Folder of an adapter, in AdapterHub's or PEFT's format, or of the run that trained it.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) adapter: Option<PathBuf>,
    /// Precision of the base model's weights [default: as trained, else f32].
    #[arg(long, value_enum, help_heading = "Model")]
    pub(crate) precision: Option<PrecisionArg>,
    /// What is accepted.
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
}

/// The precision of a base's weights on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats: halves the memory traffic of the weights; sums and adapters stay in 32 bits.
    Bf16,
    /// 8-bit integers: a quarter of the memory.
    Int8,
}

impl PrecisionArg {
    /// The precision it names.
    pub(crate) fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Int8 => Precision::Int8,
        }
    }
}

/// Pooling on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PoolingArg {
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
    pub(crate) fn pooling(self) -> Pooling {
        match self {
            Self::Mean => Pooling::Mean,
            Self::First => Pooling::First,
            Self::Last => Pooling::Last,
            Self::Pooler => Pooling::Pooler,
        }
    }

    /// Its name in a manifest.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::First => "first",
            Self::Last => "last",
            Self::Pooler => "pooler",
        }
    }
}

/// A number of at least one.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// More threads than any machine has cores take the system minutes to start.
pub(crate) const MOST_THREADS: usize = 1024;

/// A number from one to `MOST`.
pub(crate) fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {MOST}")),
    }
}

/// A probability of dropout.
pub(crate) fn dropout(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..1.0).contains(&number) => Ok(number),
        _ => Err("expected a number of at least 0 and below 1".to_owned()),
    }
}

/// A part of a whole.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 1.0 => Ok(number),
        _ => Err("expected a number above 0 and at most 1".to_owned()),
    }
}

/// Element type of written weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DTypeArg {
    /// 32-bit floats.
    Float32,
    /// 16-bit floats with the range of 32-bit floats.
    Bfloat16,
    /// 16-bit floats up to 65504.
    Float16,
}

impl DTypeArg {
    /// The type it names.
    pub(crate) fn dtype(self) -> FloatDType {
        match self {
            Self::Float32 => FloatDType::F32,
            Self::Bfloat16 => FloatDType::BF16,
            Self::Float16 => FloatDType::F16,
        }
    }
}

/// How tokens are chosen.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct SamplingArgs {
    /// Maximum number of new tokens.
    #[arg(long, value_name = "N", default_value = "128", value_parser = positive)]
    pub(crate) max_tokens: usize,
    /// Sampling temperature [default: greedy decoding].
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f64>,
    /// Sample from the K most likely tokens.
    #[arg(long, value_name = "K", requires = "temperature")]
    pub(crate) top_k: Option<usize>,
    /// Sample from the most likely tokens with total probability P.
    #[arg(long, value_name = "P", requires = "temperature")]
    pub(crate) top_p: Option<f64>,
    /// Penalty for repeated tokens; 1 disables it [default: that of the model's generation_config.json, or 1].
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f64>,
    /// Random seed of sampling.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl SamplingArgs {
    /// Generation with these options by the rules of a checkpoint. What else its files say and is not followed is said.
    pub(crate) fn generation(&self, published: PublishedGeneration, beams: Option<usize>) -> Generation {
        self.note_what_is_not_followed(&published, beams);
        let repetition_penalty = self.repetition_penalty.unwrap_or(published.repetition_penalty);
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
            repetition_penalty,
            seed: self.seed,
            ..published.generation()
        }
    }

    /// Says once which fields of `generation_config.json` have no effect.
    fn note_what_is_not_followed(&self, published: &PublishedGeneration, beams: Option<usize>) {
        let path = published.path.display();
        for (field, value) in &published.unsupported {
            note!("warning: {path} sets `{field}` to {value}, which is not supported and has no effect");
        }
        let decided = [
            ("do_sample", self.temperature.is_some()),
            ("num_beams", beams.is_some()),
        ];
        if decided.iter().any(|(_, is_given)| *is_given) {
            return;
        }
        let options = [
            ("temperature", "--temperature"),
            ("top_k", "--top-k"),
            ("top_p", "--top-p"),
            ("num_beams", "--beams"),
            ("length_penalty", "--length-penalty"),
            ("early_stopping", "--early-stopping"),
        ];
        let said = |field: &str| published.search.get(field);
        let mut named: Vec<String> = options
            .iter()
            .filter_map(|(field, option)| Some(format!("{option} {}", said(field)?)))
            .collect();
        if said("do_sample").is_some() && said("temperature").is_none() {
            named.insert(0, "--temperature 1".to_owned());
        }
        if !named.is_empty() {
            let named = named.join(" ");
            note!("{path} suggests {named}; without these options the likeliest token is taken each time");
        }
    }
}
