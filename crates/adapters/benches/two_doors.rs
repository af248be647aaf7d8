//! LoRA on a stack of linear layers by the activation path and by the weight door: time and peak memory of a training
//! step at several widths. Each is measured in a process of its own, so that the peaks do not mix.
//!
//! ```text
//! cargo bench -p adapters --bench two_doors
//! cargo bench -p adapters --bench two_doors -- weight 1024
//! ```
//!
//! The second form measures one and prints milliseconds and MiB. Memory is the peak of the process above what it began with,
//! the base (`LAYERS * width^2` floats) included, where the system tells it.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::process::{Command, Stdio};
use std::time::Instant;

use adapters::core::{LinearRole, Stack};
use adapters::{AdapterSet, Ctx, Error, ForPaths, Host, Location, Sited, Sites, method};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};

const LAYERS: usize = 8;
const SHAPE: [usize; 2] = [4, 64];
const WIDTHS: [usize; 3] = [384, 1024, 2048];
const CONFIG: &str = "lora[r=8,alpha=16,attn_matrices=['q']]";

#[derive(Module, Sites, Debug)]
struct Layers {
    layers: Vec<Sited<Linear>>,
}

impl Layers {
    fn new(width: usize, device: &Device) -> Self {
        let layer = |index| {
            let (location, path) = (Location::layer(Stack::Encoder, index), format!("layers.{index}"));
            let linear = LinearConfig::new(width, width).init(device);
            Sited::new(location, LinearRole::Query, path, linear)
        };
        Self {
            layers: (0..LAYERS).map(layer).collect(),
        }
    }

    /// With hooks.
    fn forward(&self, x: Tensor<3>, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        let (hooks, x) = cx.begin(self, x)?;
        let layers = self.layers.iter();
        Ok(layers.fold(x, |x, layer| hooks.linear(layer, x).tanh()))
    }

    /// As anybody writes it.
    fn plain(&self, x: Tensor<3>) -> Tensor<3> {
        self.layers.iter().fold(x, |x, layer| layer.forward(x).tanh())
    }
}

impl Host for Layers {
    fn architecture(&self) -> &str {
        "layers"
    }

    fn d_model(&self) -> usize {
        self.layers[0].weight.dims()[0]
    }
}

/// Median time of a step, in milliseconds.
fn measure(mut step: impl FnMut()) -> f64 {
    (0..2).for_each(|_| step());
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            step();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Peak resident memory in MiB, where the system says it.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Time in milliseconds and peak memory in MiB above what the process began with.
fn step(door: &str, width: usize) -> Result<(f64, f64), Error> {
    let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
    let before = peak();
    let x = Tensor::<3>::random([SHAPE[0], SHAPE[1], width], Distribution::Normal(0.0, 1.0), &plain);
    let time = match door {
        "weight" => {
            let layers = Layers::new(width, &autodiff);
            let layers = method(CONFIG)?.for_paths(["*.weight"]).apply(layers)?;
            let x = Tensor::from_data(x.into_data(), &autodiff);
            measure(|| drop(layers.plain(x.clone()).square().sum().backward()))
        }
        _ => {
            let layers = Layers::new(width, &plain);
            let mut set = AdapterSet::new();
            set.attach("lora", method(CONFIG)?, &layers, 0, &plain)?;
            set.activate("lora")?;
            let set = set.train();
            layers.forward(x.clone(), &mut Ctx::new(&set))?;
            measure(|| {
                let output = layers.forward(x.clone(), &mut Ctx::new(&set));
                drop(output.map(|output| output.square().sum().backward()));
            })
        }
    };
    Ok((time, peak() - before))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|text| text != "--bench").collect();
    if let [door, width] = args.as_slice() {
        let (time, memory) = step(door, width.parse()?)?;
        println!("{time:.1} {memory:.1}");
        return Ok(());
    }
    println!(
        "{LAYERS} layers, {} x {} tokens, {CONFIG}; a training step",
        SHAPE[0], SHAPE[1]
    );
    println!("{:>6} {:>10} {:>10} {:>10}", "width", "door", "ms", "peak MiB");
    for width in WIDTHS {
        for door in ["activation", "weight"] {
            let output = Command::new(std::env::current_exe()?)
                .args([door, &width.to_string()])
                .stderr(Stdio::inherit())
                .output()?;
            let output = String::from_utf8(output.stdout)?;
            let (time, memory) = output.trim().split_once(' ').unwrap_or(("failed", ""));
            println!("{width:>6} {door:>10} {time:>10} {memory:>10}");
        }
    }
    Ok(())
}
