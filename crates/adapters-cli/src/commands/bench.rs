//! `adapters bench`: medians and spreads of what users wait for.
//!
//! A training step is forward, loss, backward and AdamW. An encoder has a linear head of two classes over the masked mean, which
//! is trained too, and its cross entropy; a model that writes has its own head and the cross entropy of its tokens over the whole
//! vocabulary: of the next ones of a causal model, of the same text of an encoder-decoder.

use std::fs;
use std::time::Instant;

use adapters::models::heads::{HeadKind, Pooling, Scores, Targets};
use adapters::models::{
    Encoded, Generation, Head, HeadConfig, Input, LinearScores, Model, ModelKind, Pretrained, Source, ToTextInput,
};
use adapters::train::{TaskModel, adamw, hidden_states, peak_rss_bytes, text_input};
use adapters::{Adapted, AdapterFiles, Ctx, Host, method};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Serialize;

use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::{folders, loading};

/// Seconds of one operation: of the very first time, in which kernels are compiled and chosen, and of the warm ones.
#[derive(Debug, Serialize)]
struct Times {
    operation: &'static str,
    first_s: f64,
    median_s: f64,
    min_s: f64,
    max_s: f64,
    /// Of all threads together; `None` where the system does not say.
    cpu_median_s: Option<f64>,
    /// Of the median; `None` where no tokens are computed.
    tokens_per_s: Option<f64>,
    repeats: usize,
}

/// Wall-clock seconds, and those of all threads where the system says.
#[derive(Clone, Copy, Debug)]
struct Spent {
    wall: f64,
    cpu: Option<f64>,
}

/// A point in time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    wall: Instant,
    cpu: Option<f64>,
}

impl Clock {
    fn now() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_seconds(),
        }
    }

    fn until(self, later: Self) -> Spent {
        let cpu = self.cpu.zip(later.cpu);
        Spent {
            wall: (later.wall - self.wall).as_secs_f64(),
            cpu: cpu.map(|(before, after)| after - before),
        }
    }
}

/// Processor time of the threads of this process, on Linux; `None` elsewhere.
fn cpu_seconds() -> Option<f64> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let of = |thread: fs::DirEntry| {
        let line = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        line.split(' ').next()?.parse::<u64>().ok()
    };
    // A thread that ended meanwhile is not counted.
    let nanoseconds: u64 = threads.filter_map(|thread| of(thread.ok()?)).sum();
    Some(nanoseconds as f64 / 1e9)
}

/// What warm calls are preceded by.
const WARM_UP: usize = 2;

#[derive(Debug, Serialize)]
struct Report<'a> {
    model: String,
    adapter: &'a str,
    batch: usize,
    seq: usize,
    threads: Option<usize>,
    device: &'a str,
    dropout: Option<f64>,
    precision: &'static str,
    trainable_params: usize,
    times: &'a [Times],
    base_rss_bytes: Option<u64>,
    peak_rss_bytes: Option<u64>,
}

/// Times and prints.
pub(crate) fn run(args: BenchArgs) -> Result<(), Failure> {
    let device = loading::device(&args.device)?;
    let mut adapted = Adapted::new(open(&args)?.model(&device)?);
    check_texts(&args, adapted.base())?;
    let base_rss_bytes = peak_rss_bytes();
    let timer = Timer {
        repeats: args.repeats,
        device: &device,
    };
    let mut times = Vec::new();
    time_adapter(&timer, &mut adapted, &args.adapter, &mut times)?;
    let model = with_head(adapted, &device)?;
    let trainable_params = model.num_params();
    let texts = texts(&args, model.adapted.base().vocab_size());
    let texts: Vec<&Encoded> = texts.iter().collect();
    let input = text_input(&texts, model.adapted.base(), &device);
    time_forward(&timer, model.valid(), &input, &texts, &args, &mut times)?;
    let model = time_training(&timer, model.train(), &input, [args.batch, args.seq], &mut times)?;
    let peak_rss_bytes = peak_rss_bytes();
    time_merged(&timer, model.valid().adapted, &input, &mut times)?;
    let report = Report {
        model: args.model.display().to_string(),
        adapter: &args.adapter,
        batch: args.batch,
        seq: args.seq,
        threads: args.device.threads,
        device: &args.device.device,
        dropout: args.dropout,
        precision: args.precision.unwrap_or_default().precision().name(),
        trainable_params,
        times: &times,
        base_rss_bytes,
        peak_rss_bytes,
    };
    match args.json {
        true => say!("{}", serde_json::to_string(&report).unwrap_or_default()),
        false => report.print(),
    }
    Ok(())
}

/// The base, as it is measured.
fn open(args: &BenchArgs) -> Result<Pretrained, Failure> {
    let pretrained = Pretrained::open(folders::model(&args.model.to_string_lossy())?)?;
    let pretrained = match args.dropout {
        Some(dropout) => pretrained.with_dropout(dropout),
        None => pretrained,
    };
    Ok(pretrained.with_precision(args.precision.unwrap_or_default().precision()))
}

/// Refuses texts that the model does not read.
fn check_texts(args: &BenchArgs, base: &Model) -> Result<(), Failure> {
    if base.vocab_size() == 0 {
        return Err(Failure::new(
            format!("a `{}` model reads no text", base.architecture()),
            "choose a text model",
        ));
    }
    // A text without a token that follows one teaches such a model nothing.
    if args.seq < 2 && base.kind() == ModelKind::CausalLm {
        return Err(Failure::new(
            "--seq is 1, expected at least 2",
            "the model learns which token follows another",
        ));
    }
    /// More tokens in a batch fit into no memory.
    const MOST: usize = 1 << 26;
    let tokens = args.batch * args.seq;
    if tokens > MOST {
        return Err(Failure::new(
            format!("--batch x --seq is {tokens} tokens, expected at most {MOST}"),
            "choose a smaller batch or shorter texts",
        ));
    }
    match base.max_length().filter(|longest| args.seq > *longest) {
        Some(longest) => Err(Failure::new(
            format!("--seq is {}, expected at most {longest}", args.seq),
            "the model has no more positions than that",
        )),
        None => Ok(()),
    }
}

/// Times attaching, saving and loading; the adapter then is active.
fn time_adapter(
    timer: &Timer<'_>,
    adapted: &mut Adapted<Model>,
    config: &str,
    times: &mut Vec<Times>,
) -> Result<(), Failure> {
    let config = method(config)?;
    times.push(timer.time("attach", || {
        adapted.without_adapters().attach("bench", config.clone())?;
        Ok(())
    })?);
    adapted.attach("bench", config)?;
    adapted.activate("bench")?;

    let folder = tempfile::tempdir().map_err(|e| Failure::new(format!("no temporary folder: {e}"), "set TMPDIR"))?;
    times.push(timer.time("save", || {
        adapted.save(folder.path())?;
        Ok(())
    })?);
    times.push(timer.time("load", || {
        adapted.without_adapters().load(folder.path())?;
        Ok(())
    })?);
    Ok(())
}

/// Whether a model has a head of its own that writes.
fn writes(base: &Model) -> bool {
    base.causal_lm().is_ok() || base.encoder_decoder().is_ok()
}

/// The model with a head of two classes, unless it writes.
fn with_head(adapted: Adapted<Model>, device: &Device) -> Result<TaskModel, Failure> {
    if writes(adapted.base()) {
        return Ok(TaskModel { adapted, head: None });
    }
    let pooling = Pooling::Mean;
    let config = HeadConfig::new(HeadKind::Classification { pooling }, ["0", "1"]);
    let config = config.with_layers(1).with_dropout(0.0);
    let head = Some(Head::new(config, adapted.base(), 0, device)?);
    Ok(TaskModel { adapted, head })
}

/// Texts of the same length, of tokens from the whole vocabulary.
fn texts(args: &BenchArgs, vocab: usize) -> Vec<Encoded> {
    let text = |row: usize| Encoded {
        ids: (0..args.seq)
            .map(|t| ((row * 7919 + t * 104_729 + 1000) % vocab) as u32)
            .collect(),
        type_ids: vec![0; args.seq],
        truncated: false,
    };
    (0..args.batch).map(text).collect()
}

/// Times the forward pass, and generation of a model that writes.
fn time_forward(
    timer: &Timer<'_>,
    model: TaskModel,
    input: &Input,
    texts: &[&Encoded],
    args: &BenchArgs,
    times: &mut Vec<Times>,
) -> Result<(), Failure> {
    let writes = writes(model.adapted.base());
    let forward = timer.time("forward", || {
        if writes {
            let scores = token_scores(&model, input.clone(), &mut Ctx::new(&model.adapted.set))?;
            drop(scores.whole().into_data());
        } else if let Scores::Rows(rows) = model.scores(input.clone(), None)? {
            drop(rows.into_data());
        }
        Ok(())
    })?;
    times.push(forward.of_tokens(args.batch * args.seq));
    if writes {
        times.extend(generation(&model, texts, args)?);
    }
    Ok(())
}

/// Times a training step; returns the model after the last one.
fn time_training(
    timer: &Timer<'_>,
    model: TaskModel,
    input: &Input,
    [batch, seq]: [usize; 2],
    times: &mut Vec<Times>,
) -> Result<TaskModel, Failure> {
    let labels: Vec<i64> = (0..batch as i64).map(|row| row % 2).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [batch]), timer.device);
    let writes = writes(model.adapted.base());
    let (mut of_set, mut of_head) = (adamw(1e-2), adamw(1e-2));
    let mut model = model;
    let step = timer.time("training step", || {
        let loss = match writes {
            true => token_loss(&model, input.clone())?,
            false => {
                let scores = model.scores(input.clone(), Some(0))?;
                let targets = Targets::Classes(labels.clone());
                model.head()?.loss(scores, targets, None, seq)?
            }
        };
        let mut grads = loss.backward();
        let grads_set = GradientsParams::from_module(&mut grads, &model.adapted.set);
        let grads_head = GradientsParams::from_module(&mut grads, &model.head);
        model.adapted.set = of_set.step(1e-5, std::mem::take(&mut model.adapted.set), grads_set);
        model.head = of_head.step(1e-5, model.head.take(), grads_head);
        Ok(())
    })?;
    times.push(step.of_tokens(batch * seq));
    Ok(model)
}

/// Times the forward pass of the base with the adapter merged into it, if the method merges.
fn time_merged(
    timer: &Timer<'_>,
    mut adapted: Adapted<Model>,
    input: &Input,
    times: &mut Vec<Times>,
) -> Result<(), Failure> {
    if adapted.merge("bench").is_ok() {
        times.push(timer.time("merged forward", || {
            let _ = adapted.forward(input.clone())?.into_data();
            Ok(())
        })?);
    }
    Ok(())
}

impl Report<'_> {
    fn print(&self) {
        say!(
            "{} over {} on {}, {} x {} tokens, {} trainable parameters",
            self.adapter,
            self.precision,
            self.device,
            self.batch,
            self.seq,
            self.trainable_params
        );
        for t in self.times {
            let cpu = t.cpu_median_s.map(|cpu| format!("   CPU {:>9.2}", cpu * 1e3));
            let speed = t.tokens_per_s.map(|speed| format!("   {speed:.0} tokens a second"));
            say!(
                "{:<16} median {:>9.2} ms{}   min {:>9.2}   max {:>9.2}   first {:>9.2}{}",
                t.operation,
                t.median_s * 1e3,
                cpu.unwrap_or_default(),
                t.min_s * 1e3,
                t.max_s * 1e3,
                t.first_s * 1e3,
                speed.unwrap_or_default()
            );
        }
        if let (Some(base), Some(peak)) = (self.base_rss_bytes, self.peak_rss_bytes) {
            say!(
                "peak memory      {:.0} MiB, {:.0} MiB of it after the base was loaded",
                mib(peak),
                mib(peak - base.min(peak))
            );
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Scores of the vocabulary at the positions of the texts.
fn token_scores(model: &TaskModel, input: Input, cx: &mut Ctx<'_>) -> Result<LinearScores, Failure> {
    let base = model.adapted.base();
    let hidden = hidden_states(base, input, cx)?;
    base.scores(hidden, cx)
        .ok_or_else(|| Failure::new("the model has no language-model head", "choose a language model"))
}

/// Mean cross entropy of the texts' own tokens, in training.
fn token_loss(model: &TaskModel, input: Input) -> Result<Tensor<1>, Failure> {
    let (ids, later) = match &input {
        Input::Text(text) => (text.ids.clone(), 1),
        Input::ToText(ToTextInput {
            source: Source::Text(text),
            ..
        }) => (text.ids.clone(), 0),
        _ => return Err(Failure::new("the model does not read text", "choose a text model")),
    };
    let [batch, seq] = ids.dims();
    let scores = token_scores(model, input, &mut Ctx::new(&model.adapted.set).training(0))?;
    // An adapter may have put positions in front.
    let first = scores.positions() - seq;
    let targets = ids.slice_dim(1, later..seq).reshape([batch * (seq - later)]);
    let scores = scores.at_positions(first, first + seq - later);
    Ok(scores.cross_entropy(targets).mean())
}

/// Times of reading the texts up to the first new token, and of the tokens after it.
fn generation(model: &TaskModel, rows: &[&Encoded], args: &BenchArgs) -> Result<Vec<Times>, Failure> {
    let base = model.adapted.base();
    let new_tokens = args
        .new_tokens
        .min(base.max_length().unwrap_or(usize::MAX).saturating_sub(args.seq));
    if new_tokens < 2 {
        return Ok(Vec::new());
    }
    let generation = Generation {
        max_new_tokens: new_tokens,
        ..Generation::default()
    };
    let prompts: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let (mut reading, mut writing) = (Vec::new(), Vec::new());
    for _ in 0..WARM_UP + args.repeats {
        let (begun, mut first) = (Clock::now(), None);
        let on_token = |row, _| {
            if row + 1 == args.batch && first.is_none() {
                first = Some(Clock::now());
            }
        };
        match base.causal_lm() {
            Ok(_) => generation.run(&model.adapted, &prompts, on_token)?,
            Err(_) => generation.answer(&model.adapted, &prompts, on_token)?,
        };
        let first = first.unwrap_or(begun);
        reading.push(begun.until(first));
        writing.push(first.until(Clock::now()));
    }
    Ok(vec![
        Times::of("prompt", &reading).of_tokens(args.batch * args.seq),
        Times::of("decoding", &writing).of_tokens(args.batch * (new_tokens - 1)),
    ])
}

/// Times operations on a device.
struct Timer<'a> {
    repeats: usize,
    device: &'a Device,
}

impl Timer<'_> {
    /// The warm-up calls, then the timed ones; the device is idle at both ends of each.
    fn time(&self, operation: &'static str, mut action: impl FnMut() -> Result<(), Failure>) -> Result<Times, Failure> {
        let sync = || {
            // A device that cannot be waited for gives times that are too short, not wrong results.
            let _ = self.device.sync();
        };
        let mut once = || {
            sync();
            let started = Clock::now();
            action()?;
            sync();
            Ok::<_, Failure>(started.until(Clock::now()))
        };
        let spent = (0..WARM_UP + self.repeats)
            .map(|_| once())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Times::of(operation, &spent))
    }
}

impl Times {
    /// Those of all calls, the warm-up ones first.
    fn of(operation: &'static str, spent: &[Spent]) -> Self {
        let warm = &spent[WARM_UP..];
        let sorted = |seconds: Vec<f64>| {
            let mut seconds = seconds;
            seconds.sort_by(f64::total_cmp);
            seconds
        };
        let median = |sorted: &[f64]| (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        let wall = sorted(warm.iter().map(|spent| spent.wall).collect());
        let cpu: Option<Vec<f64>> = warm.iter().map(|spent| spent.cpu).collect();
        Self {
            operation,
            first_s: spent[0].wall,
            median_s: median(&wall),
            min_s: wall[0],
            max_s: wall[wall.len() - 1],
            cpu_median_s: cpu.map(|cpu| median(&sorted(cpu))),
            tokens_per_s: None,
            repeats: warm.len(),
        }
    }

    /// With the speed of an operation over so many tokens.
    fn of_tokens(self, tokens: usize) -> Self {
        Self {
            tokens_per_s: Some(tokens as f64 / self.median_s),
            ..self
        }
    }
}
