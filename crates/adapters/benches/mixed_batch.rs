//! What a batch over several LoRAs costs beside a batch of one: time of a forward pass of the repository's MiniLM, and the
//! ratio. The frozen layers run once on the whole batch; only the narrow products are shared out.
//!
//! ```text
//! cargo bench -p adapters --features x86-v4 --bench mixed_batch -- [adapters] [rounds]
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::time::{Duration, Instant};

use adapters::models::{Model, Pretrained, TextInput};
use adapters::{AdapterSet, Composition, Ctx, method};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

const ROWS: usize = 16;
const SEQ: usize = 128;
const CONFIG: &str = "lora[r=8,alpha=16]";

/// Random values for what begins at zero.
struct Redraw;

impl ModuleMapper for Redraw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| old.random_like(Distribution::Normal(0.0, 0.02)))
    }
}

/// A way to run the batch: a composition, and the task of each row where it tells tasks apart.
struct Way {
    name: String,
    composition: Option<Composition>,
    tasks: Vec<Option<usize>>,
    times: Vec<Duration>,
    /// Processor ticks of all rounds.
    ticks: u64,
}

/// Processor time this process has taken, in ticks of the system; `None` where it does not say.
fn ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name in parentheses: user and system time are the 12th and 13th field.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

impl Way {
    fn new(name: impl Into<String>, composition: Option<Composition>) -> Self {
        Self {
            name: name.into(),
            composition,
            tasks: Vec::new(),
            times: Vec::new(),
            ticks: 0,
        }
    }

    fn run(&mut self, model: &Model, set: &AdapterSet, input: &TextInput) -> Result<(), adapters::Error> {
        let active = self
            .composition
            .clone()
            .map(|block| set.composition(block))
            .transpose()?;
        let (started, before) = (Instant::now(), ticks());
        let cx = match &active {
            Some(active) => Ctx::with_composition(set, active)?,
            None => Ctx::plain(),
        };
        let mut cx = cx.with_tasks(self.tasks.iter().copied())?;
        // Reading an element waits for the result.
        let sum: f32 = model.forward(input.clone(), &mut cx)?.sum().into_scalar();
        assert!(sum.is_finite());
        self.times.push(started.elapsed());
        if let (Some(before), Some(now)) = (before, ticks()) {
            self.ticks += now - before;
        }
        Ok(())
    }

    /// The median and the least time. On a machine that does other things too, the least and the processor's time say more.
    fn seconds(&self) -> [f64; 2] {
        let mut times = self.times.clone();
        times.sort();
        [times[times.len() / 2], times[0]].map(|time| time.as_secs_f64())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|text| text != "--bench")
        .map(|text| text.parse::<usize>());
    let k = arguments.next().transpose()?.unwrap_or(4).clamp(1, ROWS);
    let rounds = arguments.next().transpose()?.unwrap_or(15).max(1);
    let device = Device::flex();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let model = Pretrained::open(&dir)?.encoder(&device)?;
    let ids: Vec<i64> = (0..ROWS * SEQ).map(|i| 1000 + (i as i64 * 7919) % 20000).collect();
    let input = TextInput {
        ids: Tensor::<2, Int>::from_data(TensorData::new(ids, [ROWS, SEQ]), &device),
        token_types: None,
        padding: None,
        packing: None,
    };
    let mut set = AdapterSet::new();
    let names: Vec<String> = (0..k).map(|index| format!("lora{index}")).collect();
    for (name, seed) in names.iter().zip(0..) {
        set.attach(name, method(CONFIG)?, &model, seed, &device)?;
    }
    let set = set.map(&mut Redraw);
    let sizes: Vec<usize> = (0..k).map(|index| ROWS * (index + 1) / k - ROWS * index / k).collect();
    let mut ways = [
        Way::new("no adapter", None),
        Way::new("one LoRA", Some(Composition::adapter(&names[0]))),
        Way::new(
            format!("{k} LoRAs, row after row"),
            Some(Composition::multi_task(names.clone())),
        ),
        Way::new(
            format!("{k} LoRAs, in {k} blocks of rows"),
            Some(Composition::batch_split(names.clone(), sizes)),
        ),
    ];
    ways[2].tasks = (0..ROWS).map(|row| Some(row % k)).collect();
    for round in 0..=rounds {
        for way in &mut ways {
            way.run(&model, &set, &input)?;
            if round == 0 {
                // The first pass warms up.
                (way.times, way.ticks) = (Vec::new(), 0);
            }
        }
    }
    let ([one, least_one], ticks_one) = (ways[1].seconds(), ways[1].ticks);
    println!("batch {ROWS} x {SEQ}, {CONFIG}, {rounds} rounds in turn; each time over that of one LoRA");
    println!("   median            least             processor");
    for way in &ways {
        let [median, least] = way.seconds();
        println!(
            "{:>9.1} ms {:.3}   {:>9.1} ms {:.3}   {:.3}   {}",
            median * 1e3,
            median / one,
            least * 1e3,
            least / least_one,
            way.ticks as f64 / ticks_one as f64,
            way.name
        );
    }
    Ok(())
}
