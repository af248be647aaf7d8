//! `adapters chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, stdin};
use std::path::{Path, PathBuf};

use adapters::Adapted;
use adapters::models::{Message, ModelError, ModelKind, PromptCache};
use adapters::store::Manifest;

use crate::failure::Failure;
use crate::options::{AcceptArgs, DeviceArgs, SamplingArgs};
use crate::{chats, folders, loading, output};

/// `adapters chat`
#[derive(Debug, clap::Args)]
#[command(after_help = crate::options::examples(&[
    "adapters chat --model models/SmolLM2-135M-Instruct",
    "adapters chat --adapter runs/pirate/adapter --temperature 0.7 --top-p 0.9",
    "adapters chat --model models/SmolLM2-135M-Instruct --system \"Answer in one sentence.\"",
]))]
pub(crate) struct ChatArgs {
    /// Folder of the base model [default: the one the adapter was trained on].
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// Folder of an adapter, in AdapterHub's or PEFT's format, or of the run that trained it.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub(crate) adapter: Option<PathBuf>,
    /// What is accepted.
    #[command(flatten)]
    pub(crate) accept: AcceptArgs,
    /// System message.
    #[arg(long, value_name = "TEXT", help_heading = "Prompt")]
    pub(crate) system: Option<String>,
    /// Tools that the model may call: a JSON file with a list of functions. A line `/tool TEXT` gives it the result of a call.
    #[arg(long, value_name = "FILE", help_heading = "Prompt")]
    pub(crate) tools: Option<PathBuf>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Where to compute.
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// Answers each line of standard input, with all that was said before it.
pub(crate) fn run(args: ChatArgs) -> Result<(), Failure> {
    loading::check_named(args.model.as_deref(), args.adapter.as_deref())?;
    let device = loading::device(&args.device)?;
    let adapter = args.adapter.as_deref().map(folders::adapter).transpose()?;
    let manifest = match &adapter {
        Some(adapter) => loading::manifest(adapter)?,
        None => Manifest::default(),
    };
    let dir = loading::base_dir(
        args.model.as_deref(),
        &manifest,
        adapter.as_deref().unwrap_or(Path::new("")),
        args.accept,
    )?;
    let pretrained = loading::pretrained(&dir, adapter.as_deref(), args.accept)?.with_precision(manifest.precision);
    if pretrained.kind() != ModelKind::CausalLm {
        return Err(Failure::new(
            format!("a `{}` model cannot hold a conversation", pretrained.model_type()),
            "name a causal language model with a chat template",
        ));
    }
    let template = pretrained
        .chat_template()?
        .with_tools(chats::tools(args.tools.as_deref())?);
    let tokenizer = pretrained.tokenizer(usize::MAX)?;
    let generation = args.sampling.generation(pretrained.stop_tokens()?);
    let model = pretrained.model(&device)?;
    let adapted = match &adapter {
        Some(adapter) => loading::adapted(model, adapter, args.accept.allow_bin, &device)?.0,
        None => Adapted::new(model),
    };
    let first: Vec<Message> = args.system.iter().map(|text| Message::new("system", text)).collect();
    let mut messages = first.clone();
    let mut cache = PromptCache::new(&adapted);
    let is_typed = stdin().is_terminal();
    let mut lines = stdin().lock().lines();
    loop {
        if is_typed {
            output::result_piece("> ");
        }
        let Some(line) = lines.next() else {
            return Ok(());
        };
        let line =
            line.map_err(|e| Failure::new(format!("cannot read standard input: {e}"), "type a message a line"))?;
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/reset" => {
                messages.clone_from(&first);
                continue;
            }
            message => messages.push(match message.strip_prefix("/tool ") {
                Some(result) => Message::new("tool", result),
                None => Message::new("user", message),
            }),
        }
        let prompt = tokenizer.encode_whole(&template.render(&messages, true)?, false)?;
        let mut stream = tokenizer.stream();
        let mut answer = String::new();
        let mut failed = None;
        generation.run_cached(&mut cache, &prompt, |token| match stream.push(token) {
            Ok(text) => {
                output::result_piece(&text);
                answer.push_str(&text);
            }
            Err(error) => failed = Some(error),
        })?;
        say!("");
        if let Some(error) = failed {
            return Err(ModelError::into(error));
        }
        messages.push(Message::new("assistant", answer.trim()));
    }
}
