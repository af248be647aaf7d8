//! A training step reads nothing from the device. It runs on one that records what is computed and computes nothing: there, a value
//! that is read is an error.
//!
//! ```text
//! cargo test -p adapters-testkit --features capture --test device_reads
//! ```
#![cfg(feature = "capture")]

use std::path::Path;

use adapters::models::heads::{HeadKind, Pooling, Targets};
use adapters::models::{Encoded, Head, HeadConfig, Pretrained};
use adapters::train::{TaskModel, adamw, text_input};
use adapters::{Adapted, METHODS, method};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Methods that act on a decoder, or beside another adapter, and are not tried on BERT.
const OF_OTHERS: &[&str] = &["adaption_prompt", "cartridge", "xlora", "arrow"];

/// The config string of a method that its name alone does not make for this model.
fn config_of(name: &str) -> &str {
    match name {
        "boft" => "boft[boft_block_size=4]",
        name => name,
    }
}

/// BERT with an adapter and a head with dropout.
fn model(config: &str) -> TaskModel {
    let device = Device::flex();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/bert/base");
    let base = Pretrained::open(&folder).unwrap().model(&device).unwrap();
    let mut adapted = Adapted::new(base);
    let method = method(config).unwrap_or_else(|e| panic!("{config}: {e}"));
    adapted.attach("a", method).unwrap_or_else(|e| panic!("{config}: {e}"));
    adapted.activate("a").unwrap();
    let head = HeadConfig::new(HeadKind::Classification { pooling: Pooling::Mean }, ["0", "1", "2"]);
    let head = Head::new(head.with_dropout(0.1), adapted.base(), 2, &device).unwrap();
    TaskModel {
        adapted,
        head: Some(head),
    }
}

/// Two steps of training; returns the loss of the second.
fn train(model: TaskModel, device: &Device) -> Tensor<1> {
    let mut model = model.train();
    let (mut of_set, mut of_head) = (adamw(1e-2), adamw(1e-2));
    let rows: Vec<Encoded> = (0..3)
        .map(|row| Encoded {
            ids: (0..5 + row).map(|t| (row * 7 + t * 5) % 32).collect(),
            type_ids: vec![0; 5 + row as usize],
            truncated: false,
        })
        .collect();
    let rows: Vec<&Encoded> = rows.iter().collect();
    let mut last = None;
    for step in 0..2 {
        let input = text_input(&rows, model.adapted.base(), device);
        let labels = TensorData::new(vec![0i64, 1, 2], [3]);
        let targets = Targets::Classes(Tensor::<1, Int>::from_data(labels, device));
        let scores = model.scores(input, Some(step)).unwrap();
        let loss = model.head().unwrap().loss(scores, targets, None, 7).unwrap();
        let mut gradients = loss.backward();
        let for_set = GradientsParams::from_module(&mut gradients, &model.adapted.set);
        let for_head = GradientsParams::from_module(&mut gradients, &model.head);
        assert!(!for_head.is_empty());
        model.adapted.set = of_set.step(1e-3, model.adapted.set, for_set);
        model.head = of_head.step(1e-3, model.head, for_head);
        last = Some(loss.inner());
    }
    last.unwrap()
}

#[test]
fn a_step_reads_nothing_from_the_device() {
    for name in METHODS.identifiers().filter(|name| !OF_OTHERS.contains(name)) {
        println!("{name}");
        let built = model(config_of(name));
        let device = Device::capture();
        let captured = device.capture_scope(|scope| {
            let model = TaskModel {
                adapted: built.adapted.to_device(&device),
                head: built.head.map(|head| head.to_device(&device)),
            };
            let loss = train(model, &device);
            assert!(
                loss.try_into_scalar::<f32>().is_err(),
                "{name}: nothing is to be read here"
            );
            scope.complete([], [])
        });
        let operations = captured.unwrap().graph.operations.len();
        assert!(operations > 100, "{name}: {operations} operations");
    }
}
