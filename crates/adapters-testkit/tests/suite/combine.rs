//! Combinations of LoRAs against what they are defined to be.

use adapters::lora::{Combination, SignElection};
use adapters::module::values;
use adapters::{AdapterSet, Ctx, Error, average, method};
use adapters_testkit::contract::{Bench, randomized, relative_error};
use burn::tensor::{Device, Tensor, TensorData};

/// Two random LoRAs of `ranks` on query and value, named `a` and `b`.
fn two(bench: &Bench, ranks: [usize; 2]) -> AdapterSet {
    let mut set = AdapterSet::new();
    for (seed, (name, rank)) in ["a", "b"].into_iter().zip(ranks).enumerate() {
        let lora = method(&format!("lora[r={rank},alpha=6]")).unwrap();
        set.attach(name, lora, &bench.model, seed as u64, &Device::flex())
            .unwrap();
    }
    randomized(set, 3)
}

fn weights(a: f64, b: f64) -> Vec<(String, f64)> {
    vec![("a".to_owned(), a), ("b".to_owned(), b)]
}

/// The last hidden state with what is active.
fn output(bench: &Bench, set: &AdapterSet) -> TensorData {
    bench
        .model
        .forward(bench.input.clone(), &mut Ctx::new(set))
        .unwrap()
        .into_data()
}

fn combined(bench: &Bench, set: &mut AdapterSet, combination: Combination, weights: &[(String, f64)]) -> TensorData {
    combination
        .combine(set, "new", weights, &bench.model, &Device::flex())
        .unwrap();
    set.activate("new").unwrap();
    let output = output(bench, set);
    set.remove("new").unwrap();
    output
}

#[test]
fn a_concatenation_and_all_singular_vectors_are_the_weighted_sum() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let mut set = two(&bench, [2, 3]);
    // The sum of both with weight one is what both compute together.
    set.activate(adapters::Composition::sum(["a", "b"])).unwrap();
    let want = output(&bench, &set);
    for combination in [
        Combination::Cat,
        Combination::Svd { rank: 5 },
        Combination::Svd { rank: 9 },
    ] {
        let got = combined(&bench, &mut set, combination, &weights(1.0, 1.0));
        let error = relative_error(&got, &want);
        assert!(error < 1e-5, "{combination:?} is off by {error:e}");
    }
    let cut = combined(&bench, &mut set, Combination::Svd { rank: 1 }, &weights(1.0, 1.0));
    assert!(relative_error(&cut, &want) > 1e-3);
}

#[test]
fn an_average_counts_the_scale_of_each_adapter() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let mut set = AdapterSet::new();
    // Scales of 1, of 4, and of 2 / sqrt(2), with the same A and B.
    for (name, config) in [
        ("a", "lora[r=2,alpha=2]"),
        ("loud", "lora[r=2,alpha=8]"),
        ("stabilized", "lora[r=2,alpha=2,use_rslora=true]"),
    ] {
        let lora = method(config).unwrap();
        set.attach(name, lora, &bench.model, 0, &Device::flex()).unwrap();
    }
    let mut set = randomized(set, 3);
    let values = set.attached("a").unwrap().values();
    for other in ["loud", "stabilized"] {
        set.put_values(other, values.clone()).unwrap();
    }
    for (other, scale) in [("loud", 4.0), ("stabilized", 2.0 / 2f64.sqrt())] {
        average(&mut set, "mean", &[("a".into(), 0.25), (other.into(), 0.75)]).unwrap();
        let mean = set.attached("mean").unwrap().values();
        for ((key, mean), before) in mean.iter().zip(values.values()) {
            let factor = if key.1 == "lora_B" { 0.25 + 0.75 * scale } else { 1.0 };
            for (mean, before) in mean.iter::<f32>().zip(before.iter::<f32>()) {
                let expected = before * factor as f32;
                assert!(
                    (mean - expected).abs() < 1e-5,
                    "{other}, {key:?}: {mean}, not {expected}"
                );
            }
        }
        set.remove("mean").unwrap();
    }
}

#[test]
fn keeping_everything_is_the_linear_combination() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let mut set = two(&bench, [3, 3]);
    let weights = weights(0.7, 0.3);
    let linear = combined(&bench, &mut set, Combination::Linear, &weights);
    for combination in [
        Combination::MagnitudePrune { density: 1.0 },
        Combination::DareLinear { density: 1.0, seed: 1 },
    ] {
        assert_eq!(
            combined(&bench, &mut set, combination, &weights),
            linear,
            "{combination:?}"
        );
    }
    let dropped =
        |set: &mut AdapterSet, seed| combined(&bench, set, Combination::DareLinear { density: 0.5, seed }, &weights);
    assert_eq!(dropped(&mut set, 1), dropped(&mut set, 1));
    assert_ne!(dropped(&mut set, 1), dropped(&mut set, 2));
    let ties = Combination::DareTies {
        density: 0.5,
        sign: SignElection::Frequency,
        seed: 1,
    };
    assert_ne!(combined(&bench, &mut set, ties, &weights), linear);
}

#[test]
fn what_does_not_fit_is_refused() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let mut set = two(&bench, [2, 3]);
    let before = values(&set);
    let device = Device::flex();
    let mut refuse = |combination: Combination, weights: &[(String, f64)]| {
        combination
            .combine(&mut set, "new", weights, &bench.model, &device)
            .unwrap_err()
    };
    let ranks = refuse(Combination::Linear, &weights(1.0, 1.0));
    assert!(
        matches!(&ranks, Error::CannotAverage { reason, .. } if reason.contains("ranks")),
        "{ranks}"
    );
    let density = Combination::MagnitudePrune { density: 1.5 };
    assert!(matches!(refuse(density, &weights(1.0, 1.0)), Error::Config { .. }));
    let unknown = refuse(Combination::Cat, &[("c".to_owned(), 1.0)]);
    assert!(matches!(unknown, Error::NoSuchAdapter { .. }), "{unknown}");
    assert_eq!(values(&set), before);
    let shapes = average(&mut set, "new", &weights(0.5, 0.5)).unwrap_err();
    assert!(matches!(shapes, Error::CannotAverage { .. }), "{shapes}");
    assert!(set.get("new").is_none());
}

#[test]
fn tasks_go_to_their_own_adapters() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let mut set = two(&bench, [2, 3]);
    set.activate("a").unwrap();
    let of_a = output(&bench, &set);
    set.activate("b").unwrap();
    let of_b = output(&bench, &set);
    set.activate(adapters::Composition::multi_task(["a", "b"])).unwrap();
    let cx = Ctx::new(&set).with_tasks([Some(1), None, Some(0)]).unwrap();
    let mut cx = cx;
    let mixed = bench.model.forward(bench.input.clone(), &mut cx).unwrap();
    let row = |data: &TensorData, row: usize| {
        Tensor::<3>::from_data(data.clone(), &Device::flex())
            .slice_dim(0, row..row + 1)
            .into_data()
    };
    let mixed = mixed.into_data();
    for (index, want) in [&of_b, &bench.plain(), &of_a].into_iter().enumerate() {
        let error = relative_error(&row(&mixed, index), &row(want, index));
        assert!(error < 1e-6, "row {index} is off by {error:e}");
    }
    let missing = Ctx::new(&set).with_tasks([Some(2)]);
    assert!(matches!(missing, Err(Error::NoSuchTask { task: 2, tasks: 2 })));
}
