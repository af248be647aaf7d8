//! LoRA on a stack of linear layers by hooks and by reparameterization: time and peak memory of a training step at several
//! widths.
//!
//! ```text
//! cargo bench -p adapters --bench hooks_and_weights
//! cargo bench -p adapters --bench hooks_and_weights -- reparameterization/1024
//! ```

#![allow(missing_docs)] // `criterion_group!` makes a public function.

#[path = "common/peak.rs"]
mod peak;

use adapters::core::{LinearRole, Stack};
use adapters::{AdapterSet, Ctx, Error, ForPaths, Host, Location, Sited, Sites, method};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const LAYERS: usize = 8;
const SHAPE: [usize; 2] = [4, 64];
const WIDTHS: [usize; 3] = [384, 1024, 2048];

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

fn steps(criterion: &mut Criterion) {
    let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
    let lora = || method("lora[r=8,alpha=16,attn_matrices=['q']]").expect("a method");
    let mut group = criterion.benchmark_group("hooks_and_weights");
    group.sample_size(10);
    for width in WIDTHS {
        let x = Tensor::<3>::random([SHAPE[0], SHAPE[1], width], Distribution::Normal(0.0, 1.0), &plain);
        let hooked = Layers::new(width, &plain);
        let mut set = AdapterSet::new();
        set.attach("lora", lora(), &hooked, 0, &plain).expect("it fits");
        set.activate("lora").expect("it runs");
        let set = set.train();
        let hooks = || {
            let output = hooked.forward(x.clone(), &mut Ctx::new(&set)).expect("it fits");
            drop(output.square().sum().backward());
        };
        let layers = Layers::new(width, &autodiff);
        let layers = lora().for_paths(["*.weight"]).apply(layers).expect("it fits");
        let tracked = Tensor::<3>::from_data(x.to_data(), &autodiff);
        let reparameterization = || drop(layers.plain(tracked.clone()).square().sum().backward());
        let ways: [(&str, &dyn Fn()); 2] = [("hooks", &hooks), ("reparameterization", &reparameterization)];
        for (way, step) in ways {
            let mut is_first = true;
            group.bench_function(BenchmarkId::new(way, width), |bencher| {
                if std::mem::take(&mut is_first) {
                    peak::print(&format!("{way}, width {width}"), step);
                }
                bencher.iter(step);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
