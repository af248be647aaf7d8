//! What the hooks of a forward pass cost: a BERT of twelve layers so narrow that its arithmetic hardly counts.
//!
//! ```text
//! cargo bench -p adapters --no-default-features --features lora,models,flex --bench hooks
//! ```

#![allow(missing_docs)] // `criterion_group!` makes a public function.

use adapters::models::bert::{BertConfig, BertModel};
use adapters::models::{FromCheckpoint, TextInput, Transformer};
use adapters::{AdapterSet, Composition, Ctx, method};
use burn::tensor::{Device, Int, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn model(device: &Device) -> BertModel {
    let config = BertConfig {
        vocab_size: 32,
        hidden_size: 8,
        num_hidden_layers: 12,
        num_attention_heads: 2,
        intermediate_size: 8,
        max_position_embeddings: 16,
        ..BertConfig::default()
    };
    BertModel::random(config, 0, device).expect("the configuration is valid")
}

fn input(rows: usize, device: &Device) -> TextInput {
    TextInput {
        ids: Tensor::<2, Int>::ones([rows, 4], device),
        token_types: None,
        padding: None,
        packing: None,
    }
}

fn hooks(criterion: &mut Criterion) {
    let device = Device::flex();
    let model = model(&device);
    let mut set = AdapterSet::new();
    for (seed, name) in NAMES.into_iter().enumerate() {
        let lora = method("lora[r=2,alpha=2]").expect("a method");
        set.attach(name, lora, &model, seed as u64, &device).expect("it fits");
    }
    let [one, four] = [1, 4].map(|rows| input(rows, &device));
    let ways: [(&str, Option<Composition>, &TextInput); 5] = [
        ("plain", None, &one),
        ("one LoRA", Some("a".into()), &one),
        ("Stack of 3", Some(Composition::stack(["a", "b", "c"])), &one),
        ("plain, 4 rows", None, &four),
        ("BatchSplit of 4", Some(Composition::batch_split(NAMES, [1; 4])), &four),
    ];
    let mut group = criterion.benchmark_group("hooks");
    for (name, composition, input) in ways {
        match composition {
            Some(composition) => set.activate(composition).expect("it runs"),
            None => set.deactivate(),
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| model.forward(input.clone(), &mut Ctx::new(&set)).expect("it fits"));
        });
    }
    group.finish();
}

criterion_group!(benches, hooks);
criterion_main!(benches);
