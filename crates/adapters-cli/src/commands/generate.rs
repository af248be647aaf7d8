//! `adapters generate`

use std::path::PathBuf;

use adapters::Adapted;
use adapters::models::speech::{SpeechPrompt, read_wav};
use adapters::models::{
    Beams, EarlyStopping, Generation, Message, Model, ModelError, ModelKind, Pretrained, TextTokenizer,
};

use crate::args::{EarlyStoppingArg, GenerateArgs};
use crate::chats::Chat;
use crate::failure::Failure;
use crate::loading::Writer;
use crate::{chats, loading, output};

/// Prints what the model adds to each prompt: a single one as it comes, several one after the other.
pub(crate) fn run(args: GenerateArgs) -> Result<(), Failure> {
    let device = loading::device(&args.device)?;
    let writer = Writer::open(&args.writer)?;
    let pretrained = &writer.pretrained;
    let tokenizer = pretrained.tokenizer(usize::MAX)?;
    let chat = args.chat || (writer.manifest.chat && !args.plain);
    let prompts = prompts(&args, chat, pretrained, &tokenizer)?;
    let generation = Generation {
        beams: args.beams.map(|count| Beams {
            count,
            length_penalty: args.length_penalty,
            early_stopping: match args.early_stopping {
                EarlyStoppingArg::False => EarlyStopping::False,
                EarlyStoppingArg::True => EarlyStopping::True,
                EarlyStoppingArg::Never => EarlyStopping::Never,
            },
        }),
        cache: !args.no_cache,
        ..args.sampling.generation(pretrained.generation()?, args.beams)
    };
    let hears = pretrained.kind() == ModelKind::SpeechToText;
    if hears == args.audio.is_empty() {
        let (given, reads) = match hears {
            true => ("text", "sound: name WAV files with --audio"),
            false => ("sound", "text: give it with --prompt"),
        };
        return Err(Failure::new(
            format!("a `{}` model does not read {given}", pretrained.model_type()),
            format!("it reads {reads}"),
        ));
    }
    if !hears && !matches!(pretrained.kind(), ModelKind::CausalLm | ModelKind::EncoderDecoder) {
        return Err(Failure::new(
            format!("a `{}` model cannot generate text", pretrained.model_type()),
            "name a causal language model or an encoder-decoder with --model",
        ));
    }
    let adapted = writer.load(&device)?;
    if hears {
        let log_mel = pretrained.log_mel()?;
        let read = |path: &PathBuf| read_wav(path, log_mel.rate());
        let sounds: Vec<Vec<f32>> = args.audio.iter().map(read).collect::<Result<_, _>>()?;
        let start = SpeechPrompt::load(&writer.dir, args.language.as_deref(), args.translate)?;
        let speech = log_mel.input(&sounds, &device)?;
        for tokens in generation.transcribe(&adapted, speech, &start, |_, _| ())? {
            print(&tokens, args.ids, &tokenizer)?;
        }
        return Ok(());
    }
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    if let ([_], false) = (&prompts[..], args.ids) {
        let mut stream = tokenizer.stream();
        let mut failed = None;
        grow(&generation, &adapted, &prompts, |token| match stream.push(token) {
            Ok(text) => output::result_piece(&text),
            Err(error) => failed = Some(error),
        })?;
        say!("");
        return failed.map_or(Ok(()), |error: ModelError| Err(error.into()));
    }
    for tokens in grow(&generation, &adapted, &prompts, |_| ())? {
        print(&tokens, args.ids, &tokenizer)?;
    }
    Ok(())
}

/// A text on a line, or its ids.
fn print(tokens: &[u32], ids: bool, tokenizer: &TextTokenizer) -> Result<(), ModelError> {
    match ids {
        true => say!("{}", tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")),
        false => say!("{}", tokenizer.decode(tokens)?),
    }
    Ok(())
}

/// What the model adds to each prompt, or answers to it.
fn grow(
    generation: &Generation,
    adapted: &Adapted<Model>,
    prompts: &[&[u32]],
    mut on_token: impl FnMut(u32),
) -> Result<Vec<Vec<u32>>, ModelError> {
    let on_token = |_: usize, token: u32| on_token(token);
    match adapted.base().kind() {
        ModelKind::EncoderDecoder => generation.answer(adapted, prompts, on_token),
        _ => generation.run(adapted, prompts, on_token),
    }
}

/// The ids of each prompt, of a text or of a chat.
fn prompts(
    args: &GenerateArgs,
    chat: bool,
    pretrained: &Pretrained,
    tokenizer: &TextTokenizer,
) -> Result<Vec<Vec<u32>>, Failure> {
    if let Some(path) = &args.messages {
        let template = pretrained.chat_template()?;
        let tools = chats::tools(args.tools.as_deref())?;
        let of_chat = |(messages, own): Chat| {
            let template = template.with_tools(if own.is_empty() { tools.clone() } else { own });
            tokenizer.encode_whole(&template.render(&messages, true)?, false)
        };
        let chats = chats::read(path)?.into_iter();
        return Ok(chats.map(of_chat).collect::<Result<_, ModelError>>()?);
    }
    for (option, is_given) in [("--system", args.system.is_some()), ("--tools", args.tools.is_some())] {
        if is_given && !chat {
            return Err(Failure::new(
                format!("{option} needs a chat, and the prompts are plain texts"),
                "add --chat to apply the chat template of the model",
            ));
        }
    }
    let template = match chat {
        true => Some(
            pretrained
                .chat_template()?
                .with_tools(chats::tools(args.tools.as_deref())?),
        ),
        false => None,
    };
    let encode = |prompt: &String| match &template {
        Some(template) => {
            let system = args.system.iter().map(|text| Message::new("system", text));
            let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
            tokenizer.encode_whole(&template.render(&messages, true)?, false)
        }
        None => tokenizer.encode_whole(prompt, true),
    };
    Ok(args.prompt.iter().map(encode).collect::<Result<_, _>>()?)
}
