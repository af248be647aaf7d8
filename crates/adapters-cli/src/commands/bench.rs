//! `adapters bench`: medians and spreads of what users wait for.
//!
//! A training step is forward, masked mean, linear head, cross-entropy, backward and AdamW on adapter and head: the
//! step of the Python baseline.

use std::time::Instant;

use adapters::core::Format;
use adapters::models::heads::{HeadKind, Pooling, Scores, Targets};
use adapters::models::{Encoded, Head, HeadConfig, Pretrained};
use adapters::train::{TaskModel, adamw, peak_rss_bytes, text_input};
use adapters::{Adapted, AdapterFiles, method};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;

use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::loading;
use crate::options::QuantizeArg;

/// Seconds of one operation: of the very first time, in which kernels are compiled and chosen, and of the warm ones.
#[derive(Debug, Serialize)]
struct Times {
    operation: &'static str,
    first_s: f64,
    median_s: f64,
    min_s: f64,
    max_s: f64,
    repeats: usize,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    model: String,
    adapter: &'a str,
    batch: usize,
    seq: usize,
    threads: Option<usize>,
    device: &'a str,
    dropout: Option<f64>,
    trainable_params: usize,
    times: &'a [Times],
    base_rss_bytes: Option<u64>,
    peak_rss_bytes: Option<u64>,
}

/// Times and prints.
pub fn run(args: BenchArgs) -> Result<(), Failure> {
    let device = loading::device(&args.device)?;
    let mut pretrained = Pretrained::open(&args.model)?;
    if let Some(dropout) = args.dropout {
        pretrained = pretrained.with_dropout(dropout);
    }
    pretrained = pretrained.with_quantization(args.quantize.and_then(QuantizeArg::quantization));
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
        adapted.save_with(folder.path(), Format::AdapterHub)?;
        Ok(())
    })?);
    times.push(time("load", &mut || {
        adapted.without_adapters().load(folder.path())?;
        Ok(())
    })?);

    let pooling = Pooling::Mean;
    let config = HeadConfig::new(HeadKind::Classification { pooling }, ["0", "1"]);
    let config = config.with_layers(1).with_dropout(0.0);
    let head = Some(Head::new(config, adapted.base(), 0, &device)?);
    let mut model = TaskModel { adapted, head };
    let trainable_params = model.num_params();
    let vocab = model.adapted.base().vocab_size();
    let rows: Vec<Encoded> = (0..args.batch)
        .map(|row| Encoded {
            ids: (0..args.seq)
                .map(|t| ((row * 7919 + t * 104_729 + 1000) % vocab) as u32)
                .collect(),
            type_ids: vec![0; args.seq],
        })
        .collect();
    let rows: Vec<&Encoded> = rows.iter().collect();
    let input = text_input(&rows, model.adapted.base(), &device);
    let labels: Vec<i64> = (0..args.batch as i64).map(|row| row % 2).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [args.batch]), &device);

    let plain = model.valid();
    times.push(time("forward", &mut || {
        if let Scores::Rows(rows) = plain.scores(input.clone(), None)? {
            let _ = rows.into_data();
        }
        Ok(())
    })?);
    drop(plain);

    let (mut of_set, mut of_head) = (adamw(1e-2), adamw(1e-2));
    model = model.train();
    let mut training = Some(model);
    times.push(time("training step", &mut || {
        let Some(mut model) = training.take() else {
            return Ok(());
        };
        let scores = model.scores(input.clone(), Some(0))?;
        let loss = model
            .head()?
            .loss(scores, Targets::Classes(labels.clone()), None, args.seq)?;
        let mut grads = loss.backward();
        let grads_set = GradientsParams::from_module(&mut grads, &model.adapted.set);
        let grads_head = GradientsParams::from_module(&mut grads, &model.head);
        model.adapted.set = of_set.step(1e-5, model.adapted.set, grads_set);
        model.head = of_head.step(1e-5, model.head, grads_head);
        training = Some(model);
        Ok(())
    })?);
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
        "{} on {}, {} x {} tokens, {} trainable parameters",
        args.adapter,
        args.device.device,
        args.batch,
        args.seq,
        trainable_params
    );
    for t in &times {
        say!(
            "{:<16} median {:>9.2} ms   min {:>9.2}   max {:>9.2}   first {:>9.2}",
            t.operation,
            t.median_s * 1e3,
            t.min_s * 1e3,
            t.max_s * 1e3,
            t.first_s * 1e3
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

/// Two warm-up calls, then `repeats` timed ones; the device is idle at both ends of each.
fn measure(
    operation: &'static str,
    repeats: usize,
    sync: &dyn Fn(),
    action: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<Times, Failure> {
    let mut once = || {
        sync();
        let started = Instant::now();
        action()?;
        sync();
        Ok::<f64, Failure>(started.elapsed().as_secs_f64())
    };
    let first_s = once()?;
    once()?;
    let mut seconds = (0..repeats).map(|_| once()).collect::<Result<Vec<f64>, Failure>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(Times {
        operation,
        first_s,
        median_s: (seconds[(repeats - 1) / 2] + seconds[repeats / 2]) / 2.0,
        min_s: seconds[0],
        max_s: seconds[repeats - 1],
        repeats,
    })
}
