//! `adapters chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, stdin};
use std::path::PathBuf;

use adapters::models::{Message, ModelError, ModelKind, PromptCache};

use crate::failure::Failure;
use crate::loading::Writer;
use crate::options::{DeviceArgs, SamplingArgs, WriterArgs};
use crate::{chats, loading, output};

/// `adapters chat`
#[derive(Debug, clap::Args)]
#[command(after_help = crate::options::examples(&[
    "adapters chat --model models/SmolLM2-135M-Instruct",
    "adapters chat --adapter runs/pirate/adapter --temperature 0.7 --top-p 0.9",
    "adapters chat --model models/SmolLM2-135M-Instruct --system \"Answer in one sentence.\"",
]))]
pub(crate) struct ChatArgs {
    /// What writes.
    #[command(flatten)]
    pub(crate) writer: WriterArgs,
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
    let device = loading::device(&args.device)?;
    let writer = Writer::open(&args.writer)?;
    let pretrained = &writer.pretrained;
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
    let generation = args.sampling.generation(pretrained.generation()?, None);
    let adapted = writer.load(&device)?;
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
