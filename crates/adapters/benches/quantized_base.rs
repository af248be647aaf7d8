//! LoRA over a base in floats and over the same base with its linear weights in `bf16` or in eight bits: memory of the base, memory and
//! time of a training step, and how far the outputs are apart. One form a process, so that the peaks do not mix.
//!
//! ```text
//! cargo bench -p adapters --bench quantized_base -- models/all-MiniLM-L6-v2 f32
//! cargo bench -p adapters --bench quantized_base -- models/all-MiniLM-L6-v2 int8
//! cargo bench -p adapters --bench quantized_base -- random:12x768 int8
//! ```
//!
//! Figures in MiB are resident memory as the system counts it; what an allocator keeps after freeing is in them. With
//! glibc, `MALLOC_MMAP_THRESHOLD_=131072` makes it give large blocks back.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use adapters::models::FromCheckpoint;
use adapters::models::bert::{BertConfig, BertModel};
use adapters::models::{Model, ModelError, Pretrained, TextInput};
use adapters::nn::{Precision, float_weight};
use adapters::quantize;
use adapters::{AdapterSet, Ctx, Host, method};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

const SHAPE: [usize; 2] = [8, 64];
const CONFIG: &str = "lora[r=8,alpha=16]";
const MIB: f64 = (1 << 20) as f64;

/// The model of the first argument: a checkpoint folder, or `random:LAYERSxWIDTH`.
fn load(name: &str, device: &Device) -> Result<Model, ModelError> {
    let Some(sizes) = name.strip_prefix("random:") else {
        return Pretrained::open(Path::new(name))?.encoder(device);
    };
    let (layers, width) = sizes.split_once('x').unwrap_or((sizes, ""));
    let width = width.parse().unwrap_or(768);
    let config = BertConfig {
        hidden_size: width,
        intermediate_size: 4 * width,
        num_hidden_layers: layers.parse().unwrap_or(12),
        num_attention_heads: (width / 64).max(1),
        ..BertConfig::default()
    };
    Ok(Model::new(BertModel::random(config, 0, device)?))
}

/// Bytes of a model's parameters.
fn bytes(model: &Model) -> usize {
    #[derive(Default)]
    struct Bytes(usize);
    impl ModuleVisitor for Bytes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            self.0 += match value.dtype() {
                DType::QFloat(_) => value.into_data().bytes().len(),
                dtype => value.shape().num_elements() * dtype.size(),
            };
        }
    }
    let mut bytes = Bytes::default();
    model.visit(&mut bytes);
    bytes.0
}

/// A line of the process's status in MiB, where the system has it.
fn status(key: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

fn input(device: &Device) -> TextInput {
    let ids: Vec<i64> = (0..SHAPE[0] * SHAPE[1])
        .map(|i| (i * 7919 % 20_000) as i64 + 1000)
        .collect();
    TextInput {
        ids: Tensor::<2, Int>::from_data(TensorData::new(ids, SHAPE), device),
        token_types: None,
        padding: None,
        packing: None,
    }
}

/// The largest and the mean distance of two outputs.
fn apart(a: Tensor<3>, b: Tensor<3>) -> (f32, f32) {
    let off = (a - b).abs();
    (off.clone().max().into_scalar(), off.mean().into_scalar())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).filter(|text| text != "--bench");
    let name = args.next().unwrap_or_else(|| "models/all-MiniLM-L6-v2".to_owned());
    let form = args.next().unwrap_or_else(|| "int8".to_owned());
    let device = Device::flex();
    let before = status("VmRSS:");
    let mut model = load(&name, &device)?;
    if form != "f32" {
        quantize(&mut model, form.parse::<Precision>()?);
    }
    let resident = status("VmRSS:") - before;
    let weights = bytes(&model) as f64 / MIB;
    println!("{name} {form}: {weights:.1} MiB of weights; {resident:.1} MiB resident after loading");

    let mut set = AdapterSet::new();
    set.attach("lora", method(CONFIG)?, &model, 0, &device)?;
    set.activate("lora")?;
    let set = set.train();
    let step = || {
        let hidden = model.forward(input(&device), &mut Ctx::new(&set))?;
        drop(hidden.square().sum().backward());
        Ok::<_, adapters::Error>(())
    };
    step()?;
    // From here on the peak is that of training alone.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let start = Instant::now();
    (0..3).try_for_each(|_| step())?;
    println!(
        "LoRA step, {} x {} tokens: {:.0} ms, peak {:.1} MiB with the base",
        SHAPE[0],
        SHAPE[1],
        start.elapsed().as_secs_f64() * 1e3 / 3.0,
        status("VmHWM:") - before
    );

    if form != "f32" {
        let floats = load(&name, &device)?;
        let run = |model: &Model| model.forward(input(&device), &mut Ctx::plain());
        let (largest, mean) = apart(run(&model)?, run(&floats)?);
        println!("against the float base: hidden states differ by {largest:.2e} at most, {mean:.2e} on average");
        let weights = floats.sites().into_iter().filter_map(|info| {
            let (float, quantized) = (floats.linear(info.site)?, model.linear(info.site)?);
            Some(
                (float_weight(float) - float_weight(quantized))
                    .abs()
                    .max()
                    .into_scalar::<f32>(),
            )
        });
        println!("weights by {:.2e} at most", weights.fold(0.0, f32::max));
    }
    Ok(())
}
