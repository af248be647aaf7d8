//! The command line.

use std::path::PathBuf;

use adapters::lora::Combination;
use adapters::train::TASKS;
use adapters_hub::RepoId;
use clap::{Parser, Subcommand, ValueEnum};

use crate::commands::chat::ChatArgs;
use crate::commands::convert::ConvertArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::methods::MethodsArgs;
use crate::commands::new::NewArgs;
use crate::commands::recipe::RecipeArgs;
use crate::options::{
    AcceptArgs, DTypeArg, DeviceArgs, ModelArgs, PrecisionArg, SamplingArgs, WriterArgs, dropout, examples, part,
    positive, up_to,
};

/// Fine-tune pretrained models with small adapters: train, evaluate, run, merge and share them.
#[derive(Debug, Parser)]
#[command(name = "adapters", version, after_help = examples(&[
    "adapters train recipes/reviews.toml",
    "adapters predict --adapter runs/reviews/adapter --text \"A wonderful film.\"",
    "adapters merge --adapter runs/reviews/adapter --out merged",
]))]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train an adapter from a recipe file. Run it again to resume an interrupted run.
    Train(TrainArgs),
    /// Measure the quality of an adapter on a labeled file.
    Eval(EvalArgs),
    /// Predict labels, numbers, tags or answers for new inputs: texts, images or sounds.
    Predict(PredictArgs),
    /// Generate text with a language model and an optional adapter.
    Generate(GenerateArgs),
    /// Talk to a chat model and an optional adapter in the terminal.
    ///
    /// Each line of standard input is a message. `/reset` begins a new conversation; `/exit` and the end of the input leave.
    Chat(ChatArgs),
    /// Show what a model, adapter or run folder contains.
    Info(InfoArgs),
    /// Merge an adapter into its base model and save a standalone model.
    Merge(MergeArgs),
    /// Combine adapters into one: average, linear, TIES, DARE, SVD and others.
    #[command(visible_alias = "average")]
    Combine(CombineArgs),
    /// Remove the training-only network of a prefix adapter: a smaller file with the same output.
    Eject(EjectArgs),
    /// Convert an adapter between the formats of AdapterHub and PEFT, or to 16-bit floats.
    Convert(ConvertArgs),
    /// Download a model or an adapter from the Hugging Face Hub.
    ///
    /// Only `.safetensors`, `.json` and the files of tokenizers and chat templates are downloaded. Run it again to resume. HF_TOKEN is the
    /// token for private and gated repositories, HF_ENDPOINT the address of another Hub.
    Pull(PullArgs),
    /// Upload an adapter with its model card to the Hugging Face Hub.
    ///
    /// Set HF_TOKEN to an access token with write permission, and HF_ENDPOINT to use another Hub.
    Push(PushArgs),
    /// Measure the speed of an adapter: attach, save, load, forward, generation, training step and merged forward.
    Bench(BenchArgs),
    /// Create a folder with a recipe and a little data for a task.
    New(NewArgs),
    /// List the adapter methods, or the fields of one.
    Methods(MethodsArgs),
    /// Print the JSON schema of recipes, for editors and checkers.
    Recipe(RecipeArgs),
    /// Show what this build and this machine have: devices, instructions, threads, memory.
    Doctor(DoctorArgs),
    /// Print a completion script for your shell.
    Completions(CompletionsArgs),
}

const TRAIN_EXAMPLES: [&str; 3] = [
    "adapters train recipes/reviews.toml",
    "adapters train recipes/reviews.toml --set train.epochs=3 --set adapter.config='lora[r=16]'",
    "adapters train recipes/reviews.toml --out runs/second-try --threads 1",
];

/// `adapters train`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&TRAIN_EXAMPLES), after_long_help = data_formats(&TRAIN_EXAMPLES))]
pub(crate) struct TrainArgs {
    /// The recipe, a TOML file.
    pub(crate) recipe: PathBuf,
    /// Folder for the results [default: the recipe's `output.dir`, else runs/NAME].
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    /// Show a dashboard while training: curves, speed and time left. Needs a terminal; elsewhere lines are printed.
    #[arg(long, help_heading = "Output")]
    pub(crate) tui: bool,
    /// Precision of the base model's weights [default: from the recipe].
    #[arg(long, value_enum, help_heading = "Model")]
    pub(crate) precision: Option<PrecisionArg>,
    /// Override a recipe value (repeatable), e.g. --set train.epochs=3.
    #[arg(long = "set", value_name = "KEY=VALUE", help_heading = "Recipe")]
    pub(crate) overrides: Vec<String>,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// The data formats of all tasks, for the help of the commands that read data files.
fn data_formats(commands: &[&str]) -> String {
    let mut help = examples(commands);
    help.push_str(
        "\n\nData files are .jsonl (one JSON object on each line), .csv or .tsv (the first line names the columns). \
         The columns each task reads (rename them with `data.fields` in a recipe):\n",
    );
    for task in TASKS {
        help.push_str(&format!("\n  {}: {}", task.name, task.data));
    }
    help
}

const EVAL_EXAMPLES: [&str; 3] = [
    "adapters eval --adapter runs/reviews/adapter --data data/reviews/test.jsonl",
    "adapters eval --adapter runs/reviews/adapter --data reviews.csv --text-field review --label-field rating",
    "adapters eval --adapter runs/reviews/adapter --data data/reviews/test.jsonl --json",
];

/// `adapters eval`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&EVAL_EXAMPLES), after_long_help = data_formats(&EVAL_EXAMPLES))]
pub(crate) struct EvalArgs {
    /// What to evaluate.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Labeled data: a .jsonl, .csv or .tsv file, or a folder with a folder of images or sounds for each label.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub(crate) data: PathBuf,
    /// Write an answer to each prompt too, and compare it with the completion: ROUGE-L and exact match.
    #[arg(long, help_heading = "Data")]
    pub(crate) generate: bool,
    /// Name of the text column.
    #[arg(long, value_name = "NAME", default_value = "text", help_heading = "Data")]
    pub(crate) text_field: String,
    /// Name of the image column.
    #[arg(long, value_name = "NAME", default_value = "image", help_heading = "Data")]
    pub(crate) image_field: String,
    /// Name of the column with paths of sounds.
    #[arg(long, value_name = "NAME", default_value = "audio", help_heading = "Data")]
    pub(crate) audio_field: String,
    /// Name of the label column.
    #[arg(long, value_name = "NAME", default_value = "label", help_heading = "Data")]
    pub(crate) label_field: String,
    /// Batch size.
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive, help_heading = "Hardware")]
    pub(crate) batch: usize,
    /// Print JSON.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Also draw the confusion table of classes to FILE.svg and FILE.png.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) confusion: Option<PathBuf>,
    /// Also write the raw scores to this safetensors file, as the tensor `logits`.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) logits: Option<PathBuf>,
}

const PREDICT_EXAMPLES: [&str; 3] = [
    "adapters predict --adapter runs/reviews/adapter --text \"A wonderful film.\"",
    "adapters predict --adapter runs/reviews/adapter < reviews.txt",
    "adapters predict --adapter runs/answers/adapter --question \"Who wrote it?\" --text \"It was written by Ada.\"",
];

/// `adapters predict`
#[derive(Debug, clap::Args)]
#[command(
    after_help = examples(&PREDICT_EXAMPLES),
    after_long_help = data_formats(&PREDICT_EXAMPLES)
)]
pub(crate) struct PredictArgs {
    /// What to use.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A text to classify or tag, or the context of a question (repeatable) [default: one text on each line of standard
    /// input].
    #[arg(long, help_heading = "Data")]
    pub(crate) text: Vec<String>,
    /// A question, answered from --text or by one of the --choice texts.
    #[arg(long, value_name = "TEXT", help_heading = "Data")]
    pub(crate) question: Option<String>,
    /// A possible answer (repeatable).
    #[arg(long, value_name = "TEXT", help_heading = "Data")]
    pub(crate) choice: Vec<String>,
    /// Image files, .png or .jpg, to classify.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["text", "question", "choice"], help_heading = "Data")]
    pub(crate) image: Vec<PathBuf>,
    /// Sound files, .wav, to classify.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["text", "question", "choice", "image"], help_heading = "Data")]
    pub(crate) audio: Vec<PathBuf>,
    /// A data file of the task, with or without labels, or a folder of images or sounds, instead of --text, --image or --audio.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "question", "choice", "image", "audio"], help_heading = "Data")]
    pub(crate) data: Option<PathBuf>,
    /// Batch size.
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive, help_heading = "Hardware")]
    pub(crate) batch: usize,
    /// Print one JSON object for each input.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Options that cannot be given with `--audio`. An option that requires `--audio` conflicts with them too: clap drops the requirement
/// where an option is given that `--audio` conflicts with.
const OPTIONS_OF_TEXTS: [&str; 4] = ["prompt", "chat", "messages", "system"];

/// `adapters generate`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "adapters generate --model models/SmolLM2-135M --prompt \"Once upon a time\"",
    "adapters generate --adapter runs/pirate/adapter --prompt \"How do I cook rice?\" --temperature 0.7 --top-p 0.9",
    "adapters generate --adapter runs/summaries/adapter --beams 4 --max-tokens 60 --prompt \"..\"",
]))]
pub(crate) struct GenerateArgs {
    /// What writes.
    #[command(flatten)]
    pub(crate) writer: WriterArgs,
    /// Prompt (repeatable; all prompts are generated in one batch).
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present_any = ["audio", "messages"],
        help_heading = "Prompt"
    )]
    pub(crate) prompt: Vec<String>,
    /// Data file of chats to continue, objects with `messages` and, where a chat has them, `tools`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "audio", "system", "plain"], help_heading = "Prompt")]
    pub(crate) messages: Option<PathBuf>,
    /// Tools that the model may call: a JSON file with a list of functions, as the chat template describes them to the model.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["audio", "plain"], help_heading = "Prompt")]
    pub(crate) tools: Option<PathBuf>,
    /// WAV file whose words a speech model writes (repeatable; at the model's sampling rate, at most 30 seconds).
    #[arg(long, value_name = "FILE", conflicts_with_all = OPTIONS_OF_TEXTS, help_heading = "Prompt")]
    pub(crate) audio: Vec<PathBuf>,
    /// Language that is spoken, e.g. en [default: the one in the model's files].
    #[arg(long, value_name = "CODE", requires = "audio", conflicts_with_all = OPTIONS_OF_TEXTS, help_heading = "Prompt")]
    pub(crate) language: Option<String>,
    /// Write English, whatever language is spoken.
    #[arg(long, requires = "audio", conflicts_with_all = OPTIONS_OF_TEXTS, help_heading = "Prompt")]
    pub(crate) translate: bool,
    /// Treat each prompt as a chat message and apply the model's chat template [default if the adapter was trained on
    /// chats].
    #[arg(long, help_heading = "Prompt")]
    pub(crate) chat: bool,
    /// Do not apply a chat template.
    #[arg(long, conflicts_with = "chat", help_heading = "Prompt")]
    pub(crate) plain: bool,
    /// System message (with --chat).
    #[arg(long, value_name = "TEXT", conflicts_with = "plain", help_heading = "Prompt")]
    pub(crate) system: Option<String>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Beam search with this many beams.
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with_all = ["temperature", "top_k", "top_p"], help_heading = "Generation")]
    pub(crate) beams: Option<usize>,
    /// Exponent of the length by which beam scores are divided: above 0 favors long texts, below 0 short ones.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        requires = "beams",
        conflicts_with = "temperature",
        allow_negative_numbers = true,
        help_heading = "Generation"
    )]
    pub(crate) length_penalty: f64,
    /// When to stop beam search after as many texts are complete as there are beams.
    #[arg(
        long,
        default_value = "false",
        requires = "beams",
        conflicts_with = "temperature",
        help_heading = "Generation"
    )]
    pub(crate) early_stopping: EarlyStoppingArg,
    /// Disable the key/value cache (slow; for checking).
    #[arg(long, help_heading = "Generation")]
    pub(crate) no_cache: bool,
    /// Print token ids instead of text.
    #[arg(long, help_heading = "Output")]
    pub(crate) ids: bool,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// `early_stopping` of transformers.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum EarlyStoppingArg {
    /// When no unfinished text would score better if it ended now.
    False,
    /// Immediately.
    True,
    /// When no unfinished text can become better.
    Never,
}

/// `adapters info`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "adapters info models/all-MiniLM-L6-v2",
    "adapters info runs/reviews",
    "adapters info runs/reviews/adapter --sites --json",
]))]
pub(crate) struct InfoArgs {
    /// A model, adapter or run folder.
    pub(crate) path: PathBuf,
    /// Folder of the base model of an adapter [default: the one the adapter was trained on].
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// List every layer that an adapter acts on or can act on.
    #[arg(long, help_heading = "Output")]
    pub(crate) sites: bool,
    /// Print JSON.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// What is accepted.
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
}

/// `adapters merge`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "adapters merge --adapter runs/reviews/adapter --out merged",
    "adapters merge --adapter runs/pirate/adapter --dtype bfloat16 --out merged",
    "adapters merge --model models/all-MiniLM-L6-v2 --adapter downloaded-adapter --out merged",
]))]
pub(crate) struct MergeArgs {
    /// Folder of the base model [default: the one the adapter was trained on].
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// Folder of the adapter, or of the run that trained it.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) adapter: PathBuf,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Folder for the merged model; must be new or empty.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) out: PathBuf,
    /// Element type of the merged weights [default: that of the base model].
    #[arg(long, value_name = "TYPE", help_heading = "Output")]
    pub(crate) dtype: Option<DTypeArg>,
    /// What is accepted.
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
}

/// `adapters combine`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "adapters combine runs/a/adapter=0.7 runs/b/adapter=0.3 --out runs/mixed",
    "adapters combine runs/a/adapter runs/b/adapter --combination ties --density 0.2 --out runs/ties",
    "adapters combine runs/a/adapter runs/b/adapter --combination svd --rank 8 --out runs/svd",
]))]
pub(crate) struct CombineArgs {
    /// Adapter folders with their weights, e.g. runs/a/adapter=0.7 [default weight: 1].
    #[arg(required = true, value_name = "DIR[=WEIGHT]")]
    pub(crate) adapters: Vec<String>,
    /// Folder for the new adapter, in the format of the first one; must be new or empty.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) out: PathBuf,
    /// Folder of the base model [default: the one the first adapter was trained on].
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// How LoRA adapters are combined [default: the average of each parameter, which works for every method].
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Combination::NAMES.map(|(name, _)| name)), help_heading = "Combination")]
    pub(crate) combination: Option<String>,
    /// Rank of the new adapter, for svd, ties_svd and delta_svd.
    #[arg(long, value_name = "R", value_parser = up_to::<65536>, requires = "combination", help_heading = "Combination")]
    pub(crate) rank: Option<usize>,
    /// Fraction of the values kept by ties, dare_linear, dare_ties and magnitude_prune.
    #[arg(long, value_name = "X", value_parser = part, requires = "combination", help_heading = "Combination")]
    pub(crate) density: Option<f64>,
    /// How TIES chooses the sign of each value.
    #[arg(long, value_enum, default_value = "total", help_heading = "Combination")]
    pub(crate) sign: SignArg,
    /// Random seed of DARE.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Combination")]
    pub(crate) seed: u64,
    /// Use the weights of an average as they are: do not divide them by their sum.
    #[arg(long, help_heading = "Combination")]
    pub(crate) raw: bool,
    /// What is accepted.
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// `adapters eject`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&["adapters eject --adapter runs/prefix/adapter --out smaller"]))]
pub(crate) struct EjectArgs {
    /// Folder of the adapter, or of the run that trained it.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) adapter: PathBuf,
    /// Folder for the smaller adapter, in the same format; must be new or empty.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) out: PathBuf,
    /// Folder of the base model [default: the one the adapter was trained on].
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// What is accepted.
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// The sign election of TIES on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SignArg {
    /// The sign of the sum of the values.
    Total,
    /// The sign that most adapters have.
    Frequency,
}

/// `adapters pull`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "adapters pull sentence-transformers/all-MiniLM-L6-v2",
    "adapters pull owner/adapter --revision refs/pr/1 --out adapters/reviews",
    "HF_ENDPOINT=https://hub.example.com adapters pull owner/adapter",
]))]
pub(crate) struct PullArgs {
    /// The id of the repository, `owner/name`.
    pub(crate) id: RepoId,
    /// Branch, tag or commit.
    #[arg(long, value_name = "NAME", default_value = "main", help_heading = "Repository")]
    pub(crate) revision: String,
    /// Folder for the files [default: models/NAME, or adapters/NAME for an adapter].
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    /// Accept PyTorch `.bin` files of adapters. They are parsed, never executed.
    #[arg(long, help_heading = "Repository")]
    pub(crate) allow_bin: bool,
}

/// `adapters push`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "adapters push runs/reviews/adapter owner/reviews --base-model sentence-transformers/all-MiniLM-L6-v2",
    "adapters push runs/reviews/adapter-peft owner/reviews-peft --private",
    "adapters push runs/reviews/adapter owner/reviews --revision second --message \"Three epochs\"",
]))]
pub(crate) struct PushArgs {
    /// Folder of the adapter, or of the run that trained it.
    pub(crate) adapter: PathBuf,
    /// The id of the repository, `owner/name`; it is created if there is none.
    pub(crate) id: RepoId,
    /// The id of the base model on the Hub, written into the uploaded files in place of a folder of this machine.
    #[arg(long, value_name = "OWNER/NAME", help_heading = "Repository")]
    pub(crate) base_model: Option<RepoId>,
    /// Branch to commit to.
    #[arg(long, value_name = "NAME", default_value = "main", help_heading = "Repository")]
    pub(crate) revision: String,
    /// Summary of the commit.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "Upload an adapter",
        help_heading = "Repository"
    )]
    pub(crate) message: String,
    /// Create the repository as a private one.
    #[arg(long, help_heading = "Repository")]
    pub(crate) private: bool,
}

/// `adapters bench`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&[
    "adapters bench --model models/all-MiniLM-L6-v2",
    "adapters bench --model models/all-MiniLM-L6-v2 --adapter 'seq_bn[reduction_factor=16]' --batch 8 --seq 64",
    "adapters bench --model models/SmolLM2-135M --precision bf16 --json",
]))]
pub(crate) struct BenchArgs {
    /// Folder of the base model.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) model: PathBuf,
    /// The adapter as a config string, e.g. 'lora[r=16]'.
    #[arg(long, value_name = "CONFIG", default_value = "lora", help_heading = "Model")]
    pub(crate) adapter: String,
    /// Batch size.
    #[arg(long, value_name = "N", default_value = "16", value_parser = up_to::<65536>, help_heading = "Measurement")]
    pub(crate) batch: usize,
    /// Tokens in each text.
    #[arg(long, value_name = "N", default_value = "128", value_parser = up_to::<1048576>, help_heading = "Measurement")]
    pub(crate) seq: usize,
    /// Tokens that a language model generates after each text.
    #[arg(long, value_name = "N", default_value = "32", value_parser = up_to::<1048576>, help_heading = "Measurement")]
    pub(crate) new_tokens: usize,
    /// Timed repetitions, after 2 warm-up runs.
    #[arg(long, value_name = "N", default_value = "9", value_parser = up_to::<1000000>, help_heading = "Measurement")]
    pub(crate) repeats: usize,
    /// Dropout probability of the base model [default: from its configuration].
    #[arg(long, value_name = "P", value_parser = dropout, help_heading = "Model")]
    pub(crate) dropout: Option<f64>,
    /// Precision of the base model's weights [default: f32].
    #[arg(long, value_enum, help_heading = "Model")]
    pub(crate) precision: Option<PrecisionArg>,
    /// Print JSON.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// `adapters completions`
#[derive(Debug, clap::Args)]
#[command(after_help = examples(&["adapters completions bash > adapters.bash"]))]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_its_options_stand_under_headings() {
        for command in Args::command().get_subcommands() {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("adapters {name}")), "`{name}` has no example");
            let options = command.get_opts().filter(|option| !option.is_hide_set());
            for option in options {
                let heading = option.get_help_heading();
                assert!(heading.is_some(), "`{name} --{}` is under no heading", option.get_id());
            }
        }
    }

    /// Also where another option that is given conflicts with the one that is needed.
    #[test]
    fn options_without_what_they_need_are_refused() {
        for (options, accepted) in [
            ("--prompt a --language de", false),
            ("--prompt a --translate", false),
            ("--messages a --translate", false),
            ("--audio a --language de --translate", true),
            ("--prompt a --temperature 1 --length-penalty 2", false),
            ("--prompt a --temperature 1 --early-stopping true", false),
            ("--prompt a --beams 2 --length-penalty 2 --early-stopping true", true),
            ("--prompt a --beams 2 --top-k 2", false),
            ("--prompt a --beams 2 --top-p 0.5", false),
            ("--prompt a --temperature 1 --top-k 2 --top-p 0.5", true),
        ] {
            let words = ["adapters", "generate", "--model", "m"]
                .into_iter()
                .chain(options.split(' '));
            assert_eq!(Args::try_parse_from(words).is_ok(), accepted, "{options}");
        }
    }
}
