//! A pass of training reads nothing from the device. It runs on one that records what is computed and computes nothing: there, a
//! value that is read is an error. Gradients are not recorded there: they are those of Burn's operations, which read nothing.
//!
//! ```text
//! cargo test -p adapters-testkit --features capture --test suite device_reads
//! ```

use std::path::Path;

use adapters::models::heads::{HeadKind, Pooling, Targets};
use adapters::models::{Encoded, Head, HeadConfig, Pretrained};
use adapters::train::{TaskModel, text_input};
use adapters::{Adapted, METHODS, method};
use adapters_testkit::contract::for_tiny_llama;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// A Llama with an adapter and a head with dropout.
fn model(config: &str) -> TaskModel {
    let device = Device::flex();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/llama/base");
    let base = Pretrained::open(&folder).unwrap().model(&device).unwrap();
    let mut adapted = Adapted::new(base);
    let method = method(config).unwrap_or_else(|e| panic!("{config}: {e}"));
    adapted.attach("a", method).unwrap_or_else(|e| panic!("{config}: {e}"));
    adapted.activate("a").unwrap();
    let head = HeadConfig::new(HeadKind::Classification { pooling: Pooling::Last }, ["0", "1", "2"]);
    let head = Head::new(head.with_dropout(0.1), adapted.base(), 2, &device).unwrap();
    TaskModel {
        adapted,
        head: Some(head),
    }
}

/// The loss of a pass of training, with dropout.
fn loss(model: &TaskModel, device: &Device) -> Tensor<1> {
    let rows: Vec<Encoded> = (0..3)
        .map(|row| Encoded {
            ids: (0..5 + row).map(|t| (row * 7 + t * 5) % 32).chain([42, 8, 3]).collect(),
            type_ids: vec![0; 8 + row as usize],
            truncated: false,
        })
        .collect();
    let rows: Vec<&Encoded> = rows.iter().collect();
    let input = text_input(&rows, model.adapted.base(), device);
    let labels = TensorData::new(vec![0i64, 1, 2], [3]);
    let targets = Targets::Classes(Tensor::<1, Int>::from_data(labels, device));
    let scores = model.scores(input, Some(1)).unwrap();
    model.head().unwrap().loss(scores, targets, None, 10).unwrap()
}

#[test]
fn a_pass_reads_nothing_from_the_device() {
    // Routers need the adapters that they route to, and the others the task of each row.
    let left_out = ["arrow", "xlora", "poly", "multitask_prompt_tuning"];
    for name in METHODS.identifiers().filter(|name| !left_out.contains(name)) {
        let built = model(&for_tiny_llama(name));
        let device = Device::capture();
        let captured = device.capture_scope(|scope| {
            let model = TaskModel {
                adapted: built.adapted.to_device(&device),
                head: built.head.map(|head| head.to_device(&device)),
            };
            let loss = loss(&model, &device);
            assert!(
                loss.try_into_scalar::<f32>().is_err(),
                "{name}: nothing is to be read here"
            );
            scope.complete([], [])
        });
        let operations = captured.unwrap().graph.operations.len();
        assert!(operations > 50, "{name}: {operations} operations");
    }
}
