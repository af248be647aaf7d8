//! The command line.

use std::path::PathBuf;

use adapters::models::heads::Pooling;
use adapters::nn::Quantization;
use adapters::train::TASKS;
use clap::{Parser, Subcommand, ValueEnum};

/// Parameter-efficient fine-tuning of pretrained transformers.
#[derive(Debug, Parser)]
#[command(name = "adapters", version, about)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train an adapter and a head by a recipe; goes on where an unfinished run of the recipe stopped.
    Train(TrainArgs),
    /// Score an adapter and a head on labeled data.
    Eval(EvalArgs),
    /// Print predictions for new texts or images: labels, numbers, tags with their words, answers.
    Predict(PredictArgs),
    /// Continue texts with a causal language model, or answer them with an encoder-decoder.
    Generate(GenerateArgs),
    /// Describe a model or an adapter folder.
    Info(InfoArgs),
    /// Fold an adapter into its base and write a plain checkpoint.
    Merge(MergeArgs),
    /// Make one adapter from the weighted sum of several.
    Average(AverageArgs),
    /// Take off what a prefix is only trained with, and keep the vectors it makes.
    Eject(EjectArgs),
    /// Time forward, training step, merged forward, attach, save and load.
    Bench(BenchArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
}

/// Where to compute.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// Device: flex, ndarray, vulkan, cuda:0, .. as compiled in.
    #[arg(long, default_value_t = default_device())]
    pub device: String,
    /// Threads of the CPU backends; all cores without it. One makes a run repeatable bit for bit.
    #[arg(long)]
    pub threads: Option<usize>,
}

fn default_device() -> String {
    let first = adapters::available_devices().first().copied().unwrap_or("flex");
    first.replace(":N", ":0")
}

/// `adapters train`
#[derive(Debug, clap::Args)]
#[command(after_long_help = data_formats())]
pub struct TrainArgs {
    /// The recipe, a TOML file.
    pub recipe: PathBuf,
    /// Run folder, in place of the recipe's or `runs/<recipe>`.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Form the base's linear weights are held in, in place of the recipe's `model.quantize`.
    #[arg(long, value_enum)]
    pub quantize: Option<QuantizeArg>,
    /// Replace a value of the recipe, e.g. `--set train.epochs=3`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// The model, adapter and head to use.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// Folder of the base checkpoint; without it the one in the adapter's manifest.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Folder of the adapter, AdapterHub or peft.
    #[arg(long)]
    pub adapter: PathBuf,
    /// Head file with `weight` and `bias`; without it the head in the adapter's folder: that of its manifest, AdapterHub's
    /// head files, or peft's `modules_to_save`.
    #[arg(long)]
    pub head: Option<PathBuf>,
    /// How hidden states become one vector; without it the manifest's, or the mean.
    #[arg(long, value_enum)]
    pub pooling: Option<PoolingArg>,
    /// Longest input in tokens; without it the manifest's, or 128.
    #[arg(long)]
    pub max_length: Option<usize>,
    /// Form the base's linear weights are held in; without it the manifest's, or floats.
    #[arg(long, value_enum)]
    pub quantize: Option<QuantizeArg>,
    /// Allow reading weights from a PyTorch pickle, with a reader that does not execute it.
    #[arg(long)]
    pub allow_bin: bool,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// The form of a base's weights on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum QuantizeArg {
    /// Floats.
    None,
    /// Eight bits a weight.
    Int8,
}

impl QuantizeArg {
    /// The form it names; `None` for floats.
    pub fn quantization(self) -> Option<Quantization> {
        match self {
            Self::None => None,
            Self::Int8 => Some(Quantization::Int8),
        }
    }
}

/// Pooling on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PoolingArg {
    /// Mean over the tokens of the text.
    Mean,
    /// The first position.
    First,
    /// The last token of the text.
    Last,
    /// The pooler of the model.
    Pooler,
}

impl PoolingArg {
    /// The pooling it names.
    pub fn pooling(self) -> Pooling {
        match self {
            Self::Mean => Pooling::Mean,
            Self::First => Pooling::First,
            Self::Last => Pooling::Last,
            Self::Pooler => Pooling::Pooler,
        }
    }

    /// Its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::First => "first",
            Self::Last => "last",
            Self::Pooler => "pooler",
        }
    }
}

/// The data formats of all tasks, for the help of the commands that read data files.
fn data_formats() -> String {
    let mut help =
        "Data files are .jsonl (one object a line), .csv or .tsv (the first row names the fields). Fields by task, \
                    renamed with `data.fields` of a recipe:\n"
            .to_owned();
    for task in TASKS {
        help.push_str(&format!("\n  {}: {}", task.name, task.data));
    }
    help
}

/// `adapters eval`
#[derive(Debug, clap::Args)]
#[command(after_long_help = data_formats())]
pub struct EvalArgs {
    /// What to score.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Labeled data: `.jsonl`, `.csv` or `.tsv`, or a folder with a folder of images for each label.
    #[arg(long)]
    pub data: PathBuf,
    /// Name of the text field.
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// Name of the image field.
    #[arg(long, default_value = "image")]
    pub image_field: String,
    /// Name of the label field.
    #[arg(long, default_value = "label")]
    pub label_field: String,
    /// Rows of a batch.
    #[arg(long, default_value = "64", value_parser = positive)]
    pub batch: usize,
    /// Write the logits, row by row in the order of the file, as tensor `logits`.
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
}

/// A number of at least one.
fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// `adapters predict`
#[derive(Debug, clap::Args)]
#[command(after_long_help = data_formats())]
pub struct PredictArgs {
    /// What to use.
    #[command(flatten)]
    pub model: ModelArgs,
    /// A text: what a label or number is predicted for, the words to tag, or the context of a question. Repeat for more, except
    /// with --question. Without it, one text a line of standard input.
    #[arg(long)]
    pub text: Vec<String>,
    /// The question, for question answering (about --text) and multiple choice (with --choice).
    #[arg(long)]
    pub question: Option<String>,
    /// A text to choose from; repeat for each.
    #[arg(long)]
    pub choice: Vec<String>,
    /// Image files, .png or .jpg, to classify.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["text", "question", "choice"])]
    pub image: Vec<PathBuf>,
    /// A data file of the task, whose targets may be absent, or a folder of images, in place of texts or images.
    #[arg(long, conflicts_with_all = ["text", "question", "choice", "image"])]
    pub data: Option<PathBuf>,
    /// Rows of a batch.
    #[arg(long, default_value = "64", value_parser = positive)]
    pub batch: usize,
}

/// `adapters generate`
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// Folder of the base checkpoint; without it the one in the adapter's manifest.
    #[arg(long, required_unless_present = "adapter")]
    pub model: Option<PathBuf>,
    /// Folder of an adapter, AdapterHub or peft.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// A text to continue; repeat for more, which are continued side by side.
    #[arg(long, required = true)]
    pub prompt: Vec<String>,
    /// Take each prompt for a message and answer it, by the chat template of the model; so it is without this where the
    /// adapter was trained so.
    #[arg(long)]
    pub chat: bool,
    /// Continue each prompt as it is, whatever the adapter was trained on.
    #[arg(long, conflicts_with = "chat")]
    pub plain: bool,
    /// The message before it that says how to answer.
    #[arg(long, conflicts_with = "plain")]
    pub system: Option<String>,
    /// Tokens to add at most.
    #[arg(long, default_value = "128", value_parser = positive)]
    pub max_tokens: usize,
    /// Draw tokens, with chances evened out above 1 and sharpened below; without it the likeliest token is taken.
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Draw among this many tokens only.
    #[arg(long, requires = "temperature")]
    pub top_k: Option<usize>,
    /// Draw among the tokens that make up this probability only.
    #[arg(long, requires = "temperature")]
    pub top_p: Option<f64>,
    /// Search among this many continuations and print the likeliest.
    #[arg(long, value_parser = positive, conflicts_with = "temperature")]
    pub beams: Option<usize>,
    /// Favor long continuations of the search above zero, short ones below.
    #[arg(long, default_value_t = 1.0, requires = "beams", allow_negative_numbers = true)]
    pub length_penalty: f64,
    /// When the search ends, once as many continuations as there are beams have ended.
    #[arg(long, default_value = "false", requires = "beams")]
    pub early_stopping: EarlyStoppingArg,
    /// Divide the scores of tokens that were there already.
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f64,
    /// Seed of what is drawn.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Compute all keys and values anew for each token.
    #[arg(long)]
    pub no_cache: bool,
    /// Print token ids in place of text.
    #[arg(long)]
    pub ids: bool,
    /// Allow reading weights from a PyTorch pickle.
    #[arg(long)]
    pub allow_bin: bool,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `early_stopping` of transformers.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum EarlyStoppingArg {
    /// When the best of those that go on would be worse if it ended now.
    False,
    /// At once.
    True,
    /// When none of those that go on can become better.
    Never,
}

/// `adapters info`
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// A model folder or an adapter folder.
    pub path: PathBuf,
    /// The model an adapter belongs to, to list what the adapter touches.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// List every site.
    #[arg(long)]
    pub sites: bool,
    /// Allow reading weights from a PyTorch pickle.
    #[arg(long)]
    pub allow_bin: bool,
}

/// `adapters merge`
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Folder of the base checkpoint; without it the one in the adapter's manifest.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Folder of the adapter.
    #[arg(long)]
    pub adapter: PathBuf,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Folder of the merged checkpoint.
    #[arg(long)]
    pub out: PathBuf,
    /// Allow reading weights from a PyTorch pickle.
    #[arg(long)]
    pub allow_bin: bool,
}

/// `adapters average`
#[derive(Debug, clap::Args)]
pub struct AverageArgs {
    /// Adapter folders with their weights, e.g. `runs/a/adapter=0.7`; a weight of 1 without one.
    #[arg(required = true, value_name = "DIR[=WEIGHT]")]
    pub adapters: Vec<String>,
    /// Folder of the new adapter, in the format of the first.
    #[arg(long)]
    pub out: PathBuf,
    /// Folder of the base checkpoint; without it the one in the first adapter's manifest.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// How LoRAs are combined in place of the average of each parameter: linear, negate_b, delta_svd, cat, svd, ties,
    /// ties_svd, dare_linear, dare_ties, magnitude_prune. The weights are then taken as they are.
    #[arg(long, value_name = "NAME")]
    pub combination: Option<String>,
    /// Rank of the new adapter, for the ways that choose it.
    #[arg(long)]
    pub rank: Option<usize>,
    /// Share of the elements kept, for the ways that leave some out.
    #[arg(long)]
    pub density: Option<f64>,
    /// How TIES elects a sign.
    #[arg(long, value_enum, default_value = "total")]
    pub sign: SignArg,
    /// Seed of what is left out at random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Take the weights of an average as they are, not divided by their sum.
    #[arg(long)]
    pub raw: bool,
    /// Allow reading weights from a PyTorch pickle.
    #[arg(long)]
    pub allow_bin: bool,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `adapters eject`
#[derive(Debug, clap::Args)]
pub struct EjectArgs {
    /// Folder of the adapter.
    #[arg(long)]
    pub adapter: PathBuf,
    /// Folder of the smaller adapter, in the same format.
    #[arg(long)]
    pub out: PathBuf,
    /// Folder of the base checkpoint; without it the one in the adapter's manifest.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Allow reading weights from a PyTorch pickle.
    #[arg(long)]
    pub allow_bin: bool,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Sign election on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SignArg {
    /// The sign of the sum.
    Total,
    /// The sign most adapters have.
    Frequency,
}

/// `adapters bench`
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Folder of the base checkpoint.
    #[arg(long)]
    pub model: PathBuf,
    /// Config string of the adapter.
    #[arg(long, default_value = "lora")]
    pub adapter: String,
    /// Rows of a batch.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 128)]
    pub seq: usize,
    /// Timed repeats, after two that are not.
    #[arg(long, default_value_t = 9)]
    pub repeats: usize,
    /// Dropout probability of the base; without it the checkpoint's.
    #[arg(long)]
    pub dropout: Option<f64>,
    /// Form the base's linear weights are held in; without it floats.
    #[arg(long, value_enum)]
    pub quantize: Option<QuantizeArg>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `adapters completions`
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
