//! `adapters bench`: medians and spreads of what users wait for.
//!
//! A training step is forward, loss, backward and AdamW. An encoder has a linear head of two classes over the masked mean, which
//! is trained too, and its cross entropy; a model that writes has its own head and the cross entropy of its tokens over the whole
//! vocabulary: of the next ones of a causal model, of the same text of an encoder-decoder.

use std::fs;
use std::time::Instant;

use adapters::models::heads::{HeadKind, Pooling, Scores, Targets};
use adapters::models::{Encoded, Generation, Head, HeadConfig, Input, LinearScores, Pretrained, Source, ToTextInput};
use adapters::train::{TaskModel, adamw, hidden_states, peak_rss_bytes, text_input};
use adapters::{Adapted, AdapterFiles, Ctx, method};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;

use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::loading;

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
    let mut pretrained = Pretrained::open(&args.model)?;
    if let Some(dropout) = args.dropout {
        pretrained = pretrained.with_dropout(dropout);
    }
    let precision = args.precision.unwrap_or_default().precision();
    pretrained = pretrained.with_precision(precision);
    let mut adapted = Adapted::new(pretrained.model(&device)?);
    if args.batch == 0 || args.seq == 0 || args.seq > adapted.base().max_length() || args.repeats == 0 {
        return Err(Failure::new(
            format!(
                "cannot time {} x {} tokens {} times",
                args.batch, args.seq, args.repeats
            ),
            format!(
                "--batch, --seq and --repeats are at least 1, --seq at most {}",
                adapted.base().max_length()
            ),
        ));
    }
    if adapted.base().vocab_size() == 0 {
        return Err(Failure::new(
            format!("a `{}` model reads no text", pretrained.model_type()),
            "choose a text model",
        ));
    }
    let base_rss_bytes = peak_rss_bytes();
    let config = method(&args.adapter)?;
    let sync = || {
        // A device that cannot be waited for gives times that are too short, not wrong results.
        let _ = device.sync();
    };
    let time =
        |operation, action: &mut dyn FnMut() -> Result<(), Failure>| measure(operation, args.repeats, &sync, action);

    let mut times = Vec::new();
    times.push(time("attach", &mut || {
        adapted.without_adapters().attach("bench", config.clone())?;
        Ok(())
    })?);
    adapted.attach("bench", config)?;
    adapted.activate("bench")?;

    let folder = tempfile::tempdir().map_err(|e| Failure::new(format!("no temporary folder: {e}"), "set TMPDIR"))?;
    times.push(time("save", &mut || {
        adapted.save(folder.path())?;
        Ok(())
    })?);
    times.push(time("load", &mut || {
        adapted.without_adapters().load(folder.path())?;
        Ok(())
    })?);

    let writes = adapted.base().causal_lm().is_ok() || adapted.base().encoder_decoder().is_ok();
    let head = match writes {
        true => None,
        false => {
            let pooling = Pooling::Mean;
            let config = HeadConfig::new(HeadKind::Classification { pooling }, ["0", "1"]);
            let config = config.with_layers(1).with_dropout(0.0);
            Some(Head::new(config, adapted.base(), 0, &device)?)
        }
    };
    let mut model = TaskModel { adapted, head };
    let trainable_params = model.num_params();
    let vocab = model.adapted.base().vocab_size();
    let rows: Vec<Encoded> = (0..args.batch)
        .map(|row| Encoded {
            ids: (0..args.seq)
                .map(|t| ((row * 7919 + t * 104_729 + 1000) % vocab) as u32)
                .collect(),
            type_ids: vec![0; args.seq],
            truncated: false,
        })
        .collect();
    let rows: Vec<&Encoded> = rows.iter().collect();
    let input = text_input(&rows, model.adapted.base(), &device);
    let labels: Vec<i64> = (0..args.batch as i64).map(|row| row % 2).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [args.batch]), &device);

    let tokens = args.batch * args.seq;
    let plain = model.valid();
    let forward = time("forward", &mut || {
        if writes {
            let scores = token_scores(&plain, input.clone(), &mut Ctx::new(&plain.adapted.set))?;
            drop(scores.whole().into_data());
        } else if let Scores::Rows(rows) = plain.scores(input.clone(), None)? {
            drop(rows.into_data());
        }
        Ok(())
    })?;
    times.push(forward.of_tokens(tokens));
    if writes {
        times.extend(generation(&plain, &rows, &args)?);
    }
    drop(plain);

    let (mut of_set, mut of_head) = (adamw(1e-2), adamw(1e-2));
    model = model.train();
    let mut training = Some(model);
    let step = time("training step", &mut || {
        let Some(mut model) = training.take() else {
            return Ok(());
        };
        let loss = match writes {
            true => token_loss(&model, input.clone())?,
            false => {
                let scores = model.scores(input.clone(), Some(0))?;
                let targets = Targets::Classes(labels.clone());
                model.head()?.loss(scores, targets, None, args.seq)?
            }
        };
        let mut grads = loss.backward();
        let grads_set = GradientsParams::from_module(&mut grads, &model.adapted.set);
        let grads_head = GradientsParams::from_module(&mut grads, &model.head);
        model.adapted.set = of_set.step(1e-5, model.adapted.set, grads_set);
        model.head = of_head.step(1e-5, model.head, grads_head);
        training = Some(model);
        Ok(())
    })?;
    times.push(step.of_tokens(tokens));
    let peak = peak_rss_bytes();

    if let Some(model) = training {
        let mut adapted = model.valid().adapted;
        if adapted.merge("bench").is_ok() {
            times.push(time("merged forward", &mut || {
                let _ = adapted.forward(input.clone())?.into_data();
                Ok(())
            })?);
        }
    }

    let report = Report {
        model: args.model.display().to_string(),
        adapter: &args.adapter,
        batch: args.batch,
        seq: args.seq,
        threads: args.device.threads,
        device: &args.device.device,
        dropout: args.dropout,
        precision: precision.name(),
        trainable_params,
        times: &times,
        base_rss_bytes,
        peak_rss_bytes: peak,
    };
    if args.json {
        say!("{}", serde_json::to_string(&report).unwrap_or_default());
        return Ok(());
    }
    say!(
        "{} over {precision} on {}, {} x {} tokens, {} trainable parameters",
        args.adapter,
        args.device.device,
        args.batch,
        args.seq,
        trainable_params
    );
    for t in &times {
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
    if let (Some(base), Some(peak)) = (base_rss_bytes, peak) {
        say!(
            "peak memory      {:.0} MiB, {:.0} MiB of it after the base was loaded",
            mib(peak),
            mib(peak - base.min(peak))
        );
    }
    Ok(())
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
    let new_tokens = args.new_tokens.min(base.max_length().saturating_sub(args.seq));
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

/// The warm-up calls, then `repeats` timed ones; the device is idle at both ends of each.
fn measure(
    operation: &'static str,
    repeats: usize,
    sync: &dyn Fn(),
    action: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<Times, Failure> {
    let mut once = || {
        sync();
        let started = Clock::now();
        action()?;
        sync();
        Ok::<_, Failure>(started.until(Clock::now()))
    };
    let spent = (0..WARM_UP + repeats).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    Ok(Times::of(operation, &spent))
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
