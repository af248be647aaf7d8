//! Starts of LoRA that follow from data or from the weight: those of EVA, CorDA, LoRA-GA and MiCA equal peft's, and LoftQ makes up for a
//! quantized base.

use std::path::Path;

use adapters::core::{Format, Tensors};
use adapters::models::{Model, Pretrained, TextInput};
use adapters::nn::Precision;
use adapters::store::{LoadOptions, load_adapter, read_safetensors, save_adapter};
use adapters::{Adapted, AdapterSet, AttachOptions, METHODS, method};
use adapters_testkit::contract::relative_error;
use burn::tensor::{Device, Int, Tensor, TensorData};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn base(device: &Device) -> Model {
    Pretrained::open(folder("golden/bert/base"))
        .unwrap()
        .model(device)
        .unwrap()
}

fn inputs(device: &Device) -> TextInput {
    let (inputs, _) = read_safetensors(&folder("golden/bert/inputs.safetensors")).unwrap();
    let mask = Tensor::<2, Int>::from_data(inputs["attention_mask"].clone(), device);
    TextInput {
        padding: Some(mask.equal_elem(0)),
        ..TextInput::new(Tensor::from_data(inputs["input_ids"].clone(), device))
    }
}

fn expected(file: &str) -> Tensors {
    read_safetensors(&folder("tests/starts").join(file)).unwrap().0
}

const TARGETS: &str = "r=4,alpha=6,target_modules=[query,value,intermediate.dense]";

fn started(config: &str, device: &Device) -> Adapted<Model> {
    let mut adapted = Adapted::new(base(device));
    let method = method(config).unwrap();
    adapted
        .attach_from_inputs("a", method, [inputs(device)], &AttachOptions::default())
        .unwrap();
    adapted.activate("a").unwrap();
    adapted
}

fn output(adapted: &Adapted<Model>, device: &Device) -> TensorData {
    adapted.forward(inputs(device)).unwrap().into_data()
}

/// What an adapter as peft's files hold it has at each path.
fn stored(adapted: &Adapted<Model>) -> (Tensors, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    save_adapter(dir.path(), Format::Peft, &adapted.set, "a", adapted.base()).unwrap();
    let (tensors, _) = read_safetensors(&dir.path().join("adapter_model.safetensors")).unwrap();
    let strip = |key: String| {
        key.trim_start_matches("base_model.model.")
            .trim_end_matches(".weight")
            .to_owned()
    };
    let config = std::fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
    let tensors = tensors.into_iter().map(|(key, data)| (strip(key), data)).collect();
    (tensors, serde_json::from_str(&config).unwrap())
}

#[test]
fn eva_begins_with_pefts_directions_and_shares_ranks_as_it_does() {
    let device = Device::flex();
    let adapted = started(&format!("lora[{TARGETS},init_weights=eva]"), &device);
    // B is zero.
    assert_eq!(
        output(&adapted, &device),
        Adapted::new(base(&device))
            .forward(inputs(&device))
            .unwrap()
            .into_data()
    );
    let (own, config) = stored(&adapted);
    let expected = expected("eva.safetensors");
    let of = |tensors: &Tensors| {
        let mut paths: Vec<String> = tensors.keys().filter(|key| key.ends_with(".lora_A")).cloned().collect();
        paths.sort();
        paths
    };
    assert_eq!(of(&own), of(&expected));
    let mut ranks = Vec::new();
    for key in of(&own) {
        let (a, wanted) = (own[&key].clone(), expected[&key].clone());
        assert_eq!(a.shape(), wanted.shape(), "{key}");
        ranks.push(a.shape()[0]);
        let [a, wanted] = [a, wanted].map(|data| Tensor::<2>::from_data(data, &device));
        // Unit vectors, whose signs are a convention.
        let cosines: Vec<f32> = (a * wanted).sum_dim(1).abs().into_data().iter().collect();
        assert!(
            cosines.iter().all(|cosine| (cosine - 1.0).abs() < 1e-3),
            "{key}: {cosines:?}"
        );
        let path = key.trim_end_matches(".lora_A");
        let alpha = config["alpha_pattern"][path].as_f64().unwrap_or(6.0);
        let wanted: f64 = expected[&format!("{path}.alpha")].iter().next().unwrap();
        assert!((alpha - wanted).abs() < 1e-6, "{path}: {alpha} and {wanted}");
    }
    assert!(
        ranks.iter().any(|rank| *rank > 4) && ranks.iter().any(|rank| *rank < 4),
        "{ranks:?}"
    );
}

#[test]
fn corda_takes_out_of_the_weights_what_peft_takes() {
    let device = Device::flex();
    let wanted = expected("corda.safetensors");
    for kind in ["ipm", "kpm"] {
        let config = format!("lora[{TARGETS},init_weights=corda,corda_method={kind}]");
        let adapted = started(&config, &device);
        let plain = Adapted::new(base(&device))
            .forward(inputs(&device))
            .unwrap()
            .into_data();
        let error = relative_error(&output(&adapted, &device), &plain);
        assert!(error < 1e-5, "{kind}: the start is no identity, {error:e}");
        // Files hold plain LoRA of twice the rank: what trains, and what was taken out.
        let (own, config) = stored(&adapted);
        assert_eq!(config["r"], 8);
        let mut compared = 0;
        for (key, wanted) in wanted.iter().filter(|(key, _)| key.starts_with(kind)) {
            let path = key.trim_start_matches(kind).trim_start_matches('.');
            let of = |name: &str| Tensor::<2>::from_data(own[&format!("{path}.{name}")].clone(), &device);
            let product = of("lora_B").slice_dim(1, 0..4).matmul(of("lora_A").slice_dim(0, 0..4)) * 1.5;
            let error = relative_error(&product.into_data(), wanted);
            assert!(error < 2e-3, "{key}: off by {error:e}");
            compared += 1;
        }
        assert!(compared > 3);
    }
}

/// Rows that are equal but for their signs, which are a convention.
fn same_rows(key: &str, own: Tensor<2>, wanted: Tensor<2>) {
    assert_eq!(own.dims(), wanted.dims(), "{key}");
    let signs = (own.clone() * wanted.clone()).sum_dim(1).sign();
    let error = relative_error(&(own * signs).into_data(), &wanted.into_data());
    assert!(error < 2e-3, "{key}: off by {error:e}");
}

/// Attaches the adapter `a`, which starts from the gradients of two losses, and activates it.
fn start_from_gradients(adapted: &mut Adapted<Model>, config: &str) {
    let device = Device::flex();
    let ids = (0..4).flat_map(|row| (0..12).map(move |at| 5 + (11 * row + 7 * at * (1 + row)) % 80));
    let ids = TensorData::new(ids.collect::<Vec<i64>>(), [4, 12]);
    let loss = |adapted: &Adapted<Model>, power: i32| {
        let text = TextInput::new(Tensor::from_data(ids.clone(), &device));
        let hidden = adapted.forward(text)?.tanh();
        Ok::<_, adapters::Error>(hidden.powi_scalar(power).sum())
    };
    let options = AttachOptions::default();
    adapted
        .attach_from_gradients("a", method(config).unwrap(), [2, 3], loss, &options)
        .unwrap();
    adapted.activate("a").unwrap();
}

#[test]
fn lora_ga_begins_with_pefts_directions_of_the_gradient() {
    let device = Device::flex();
    let wanted = expected("lora_ga.safetensors");
    let plain = output(&Adapted::new(base(&device)), &device);
    for case in ["ArB2r.stable", "A2rBr.weight_svd", "ArBr.gd_scale", "ArB2r.unit"] {
        let (direction, scale) = case.split_once('.').unwrap();
        let config = format!(
            "lora[r=8,alpha=12,target_modules=[query,value,intermediate.dense],init_weights=lora_ga,\
             ga_direction={direction},ga_scale={scale},ga_gamma=9]"
        );
        let mut adapted = Adapted::new(base(&device));
        let unread = adapted.attach("a", method(&config).unwrap()).unwrap_err();
        assert!(unread.to_string().contains("attach_from_gradients"), "{unread}");
        start_from_gradients(&mut adapted, &config);
        let error = relative_error(&output(&adapted, &device), &plain);
        assert!(error < 1e-5, "{case}: the start is no identity, {error:e}");
        // Files hold plain LoRA of twice the rank: what trains, and what was taken out.
        let (own, _) = stored(&adapted);
        let mut compared = 0;
        for (key, wanted) in wanted.iter().filter(|(key, _)| key.starts_with(case)) {
            let path = key.trim_start_matches(case).trim_start_matches('.');
            let [own, wanted] = [&own[path], wanted].map(|data| Tensor::<2>::from_data(data.clone(), &device));
            match path.ends_with("lora_A") {
                true => same_rows(key, own.slice_dim(0, 0..8), wanted),
                false => same_rows(key, own.slice_dim(1, 0..8).transpose(), wanted.transpose()),
            }
            compared += 1;
        }
        assert!(compared > 6, "{case}");
    }
}

/// `direction = "random"` of peft, too, gives A and B the same directions, which it draws from the `2 r` largest.
#[test]
fn lora_ga_draws_directions_that_a_and_b_share() {
    let device = Device::flex();
    let wanted = expected("lora_ga.safetensors");
    let plain = output(&Adapted::new(base(&device)), &device);
    let of_seed = |seed: u64| {
        let config = format!(
            "lora[r=8,alpha=12,init_weights_seed={seed},target_modules=[query,value,intermediate.dense],init_weights=lora_ga,\
             ga_direction=random,ga_scale=unit]"
        );
        let mut adapted = Adapted::new(base(&device));
        start_from_gradients(&mut adapted, &config);
        let error = relative_error(&output(&adapted, &device), &plain);
        assert!(error < 1e-5, "the start is no identity, {error:e}");
        stored(&adapted).0
    };
    let own = of_seed(3);
    let path = "encoder.layer.0.attention.self.query";
    // Which of the 16 directions each row is: those of A are the rows of both cases below each other, those of B the other way round.
    let directions = |factor: &str, own: Tensor<2>, cases: [&str; 2]| -> Vec<usize> {
        let of = |case: &str| {
            let rows = Tensor::<2>::from_data(wanted[&format!("{case}.{path}.{factor}")].clone(), &device);
            let rows = if factor == "lora_B" { rows.transpose() } else { rows };
            rows.clone() / rows.powi_scalar(2).sum_dim(1).sqrt()
        };
        let all = Tensor::cat(cases.map(of).to_vec(), 0);
        let own = own.clone() / own.powi_scalar(2).sum_dim(1).sqrt();
        let cosines: Vec<f32> = own.matmul(all.transpose()).abs().into_data().iter().collect();
        let same = |row: &[f32]| row.iter().position(|cosine| (cosine - 1.0).abs() < 1e-3);
        cosines.chunks(16).map(|row| same(row).expect("a direction")).collect()
    };
    let part = |own: &Tensors, factor: &str| Tensor::<2>::from_data(own[&format!("{path}.{factor}")].clone(), &device);
    let a = part(&own, "lora_A").slice_dim(0, 0..8);
    let b = part(&own, "lora_B").slice_dim(1, 0..8).transpose();
    let drawn = directions("lora_A", a.clone(), ["ArB2r.unit", "A2rBr.weight_svd"]);
    assert_eq!(directions("lora_B", b, ["A2rBr.weight_svd", "ArB2r.unit"]), drawn);
    let mut each: Vec<usize> = drawn.clone();
    each.sort_unstable();
    each.dedup();
    assert_eq!(each.len(), 8, "{drawn:?}");
    let other = part(&of_seed(4), "lora_A").slice_dim(0, 0..8);
    assert_ne!(directions("lora_A", other, ["ArB2r.unit", "A2rBr.weight_svd"]), drawn);
}

#[test]
fn mica_begins_with_pefts_minor_directions_which_do_not_train() {
    let device = Device::flex();
    let plain = output(&Adapted::new(base(&device)), &device);
    let mut adapted = Adapted::new(base(&device));
    let config = format!("lora[{TARGETS},init_weights=mica]");
    adapted.attach("a", method(&config).unwrap()).unwrap();
    adapted.activate("a").unwrap();
    assert_eq!(output(&adapted, &device), plain);
    let params = adapted.set.attached("a").unwrap();
    assert!(params.params().all(|param| param.fixed == (param.param == "lora_B")));
    let (own, config) = stored(&adapted);
    assert_eq!(config["init_lora_weights"], "mica");
    let wanted = expected("mica.safetensors");
    for (key, wanted) in &wanted {
        let own = &own[key.trim_start_matches("mica.")];
        let [own, wanted] = [own, wanted].map(|data| Tensor::<2>::from_data(data.clone(), &device).transpose());
        same_rows(key, own, wanted);
    }
    assert!(wanted.len() > 3);
    // A file of it is trained further in the same way, on an embedding table, too.
    let dir = tempfile::tempdir().unwrap();
    let mut adapted = Adapted::new(base(&device));
    let table = "lora[r=4,target_modules=[word_embeddings],init_weights=mica]";
    adapted.attach("a", method(table).unwrap()).unwrap();
    save_adapter(dir.path(), Format::Peft, &adapted.set, "a", adapted.base()).unwrap();
    let mut set = AdapterSet::new();
    let options = LoadOptions::default();
    load_adapter(dir.path(), &mut set, adapted.base(), &METHODS, &options, &device).unwrap();
    let fixed = set
        .params()
        .filter(|param| param.fixed)
        .map(|param| param.param.into_owned());
    assert_eq!(fixed.collect::<Vec<_>>(), ["lora_embedding_B"]);
}

#[test]
fn orthogonal_factors_have_a_product_of_zero() {
    let device = Device::flex();
    let mut adapted = Adapted::new(base(&device));
    let config = format!("lora[{TARGETS},init_weights=orthogonal]");
    adapted.attach("a", method(&config).unwrap()).unwrap();
    adapted.activate("a").unwrap();
    let plain = output(&Adapted::new(base(&device)), &device);
    let error = relative_error(&output(&adapted, &device), &plain);
    assert!(error < 1e-5, "{error:e}");
    let values = adapted.set.attached("a").unwrap().values();
    let least = |data: &TensorData| data.iter::<f32>().fold(0.0, |most: f32, x| most.max(x.abs()));
    assert!(values.values().all(|data| least(data) > 0.05));
    let odd = method("lora[r=3,init_weights=orthogonal]").unwrap();
    let refused = adapted.attach("odd", odd).unwrap_err().to_string();
    assert!(refused.contains("even"), "{refused}");
}

#[test]
fn loftq_makes_up_for_what_a_quantized_base_loses() {
    let device = Device::flex();
    let plain = output(&Adapted::new(base(&device)), &device);
    let mut quantized = Adapted::new(base(&device));
    quantized.quantize(Precision::Int8);
    let lost = relative_error(&output(&quantized, &device), &plain);

    let mut adapted = Adapted::new(base(&device));
    let config = "lora[r=16,alpha=24,target_modules=all-linear,init_weights=loftq]";
    adapted.attach("a", method(config).unwrap()).unwrap();
    adapted.quantize(Precision::Int8);
    adapted.activate("a").unwrap();
    let left = relative_error(&output(&adapted, &device), &plain);
    assert!(left < 0.7 * lost, "{left:e} of {lost:e}");

    // It is plain LoRA in files.
    let dir = tempfile::tempdir().unwrap();
    save_adapter(dir.path(), Format::Peft, &adapted.set, "a", adapted.base()).unwrap();
    let mut set = AdapterSet::new();
    load_adapter(
        dir.path(),
        &mut set,
        quantized.base(),
        &METHODS,
        &LoadOptions::default(),
        &device,
    )
    .unwrap();

    let late = quantized
        .attach("late", method(config).unwrap())
        .unwrap_err()
        .to_string();
    assert!(late.contains("quantized already"), "{late}");
    let unread = quantized
        .attach("eva", method("lora[init_weights=eva]").unwrap())
        .unwrap_err();
    assert!(unread.to_string().contains("attach_from_inputs"), "{unread}");
}
