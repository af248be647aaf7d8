//! A quantized base: adapters train over it as over the same weights in floats.

use std::path::{Path, PathBuf};

use adapters::core::{LayerMut, Role, SiteKind};
use adapters::models::FromCheckpoint;
use adapters::models::bert::{BertConfig, BertModel};
use adapters::models::{Model, PaddingSide, Pretrained, TextInput, save_checkpoint};
use adapters::nn::ops::cross_entropy;
use adapters::nn::{Precision, float_weight};
use adapters::quantize;
use adapters::{AdapterSet, Ctx, Host, merge, method};
use adapters_testkit::contract::{gradients_of, randomized};
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData, Tolerance};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn small(device: &Device) -> Model {
    let dir = repository().join("crates/adapters-testkit/golden/bert/base");
    Pretrained::open(&dir).unwrap().encoder(device).unwrap()
}

/// The same model with its quantized weights restored to floats once and for all.
fn restored<M: Host + Clone>(quantized: &M) -> M {
    let mut model = quantized.clone();
    model.visit_sites_mut(&mut |_, layer| {
        if let LayerMut::Linear(layer) = layer {
            layer.weight = Param::from_tensor(float_weight(layer)).set_require_grad(false);
        }
    });
    model
}

fn is_quantized(model: &impl Host) -> Vec<bool> {
    let linear = model.sites().into_iter().filter_map(|info| model.linear(info.site));
    linear
        .map(|layer| matches!(layer.weight.val().dtype(), DType::QFloat(_)))
        .collect()
}

fn in_bf16(model: &impl Host) -> usize {
    let linear = model.sites().into_iter().filter_map(|info| model.linear(info.site));
    linear.filter(|layer| layer.weight.val().dtype() == DType::BF16).count()
}

fn input(device: &Device) -> TextInput {
    let ids: Vec<i64> = (0..14).map(|i| 5 + i * 3 % 40).collect();
    TextInput {
        ids: Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 7]), device),
        token_types: None,
        padding: None,
        packing: None,
    }
}

fn close(a: Tensor<3>, b: Tensor<3>, within: f32) {
    a.into_data()
        .assert_approx_eq::<f32>(&b.into_data(), Tolerance::absolute(within));
}

#[test]
fn every_method_that_acts_on_linear_layers_trains_over_it_as_over_the_restored_floats() {
    let device = Device::flex();
    let mut base = small(&device);
    let report = quantize(&mut base, Precision::Int8);
    let linear = base
        .sites()
        .into_iter()
        .filter(|s| matches!(s.kind, SiteKind::Linear { .. }));
    assert_eq!(report.layers, linear.count());
    assert!(is_quantized(&base).into_iter().all(|quantized| quantized));
    assert!(report.bytes_after * 3 < report.bytes_before, "{report:?}");
    let floats = restored(&base);
    assert!(!is_quantized(&floats).into_iter().any(|quantized| quantized));

    for config in [
        "lora[r=3,alpha=5]",
        "lora[r=2,intermediate_lora=true,output_lora=true,use_gating=true]",
        "dora[r=2]",
        "ia3",
        "par_bn",
        "lora[r=2,init_weights=pissa]",
    ] {
        let Ok(method) = method(config) else {
            panic!("{config} is no config string")
        };
        let mut set = AdapterSet::new();
        set.attach("a", method, &base, 7, &device).unwrap();
        set.activate("a").unwrap();
        let set = randomized(set, 3).train();
        let run = |model: &Model| {
            let hidden = model.forward(input(&device), &mut Ctx::new(&set)).unwrap();
            let probe = Tensor::<3>::from_data(probe(hidden.dims()), &device);
            let gradients = (hidden.clone() * probe).sum().backward();
            (hidden.inner(), gradients_of(&set, &gradients))
        };
        let ((own, own_grads), (wanted, wanted_grads)) = (run(&base), run(&floats));
        close(own, wanted, 1e-5);
        let mut compared = 0;
        for (id, wanted) in wanted_grads {
            // Parameters that are only stored have none.
            let (Some(own), Some(wanted)) = (&own_grads[&id], &wanted) else {
                assert_eq!(own_grads[&id], wanted, "{config}");
                continue;
            };
            assert!(wanted.iter::<f32>().any(|g| g != 0.0), "{config}: a gradient is zero");
            own.assert_approx_eq::<f32>(wanted, Tolerance::absolute(1e-4).set_relative(1e-4));
            compared += 1;
        }
        assert!(compared > 0, "{config}");
    }
}

/// The largest difference as a fraction of the largest number of `b`.
fn apart(a: &TensorData, b: &TensorData) -> f32 {
    let largest = |data: &mut dyn Iterator<Item = f32>| data.fold(0f32, |most, x| most.max(x.abs()));
    let off = largest(&mut a.iter::<f32>().zip(b.iter::<f32>()).map(|(a, b)| a - b));
    off / largest(&mut b.iter::<f32>()).max(f32::MIN_POSITIVE)
}

/// In chunks of the vocabulary, for the few and the many rows that kernels treat apart.
#[test]
fn the_loss_over_a_head_in_bf16_is_that_of_its_scores() {
    let device = Device::flex();
    let source = repository().join("crates/adapters-testkit/golden/llama/base");
    let pretrained = Pretrained::open(&source).unwrap().with_precision(Precision::Bf16);
    let model = pretrained.causal_lm(&device).unwrap();
    for rows in [5, 40] {
        let hidden = Tensor::<3>::random([1, rows, model.d_model()], Distribution::Normal(0.0, 1.0), &device);
        let targets: Vec<i64> = (0..rows as i64).map(|row| row * 7 % 50).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &device);
        let run = |whole: bool| {
            let hidden = Tensor::<3>::from_data(hidden.to_data(), &device.clone().autodiff()).require_grad();
            let scores = model.scores(hidden.clone(), &mut Ctx::plain()).unwrap();
            let losses = match whole {
                true => cross_entropy(scores.whole().squeeze_dim(0), targets.clone()),
                false => scores.cross_entropy(targets.clone()),
            };
            let gradients = losses.clone().sum().backward();
            (losses.into_data(), hidden.grad(&gradients).unwrap().into_data())
        };
        let ((own, own_grads), (wanted, wanted_grads)) = (run(false), run(true));
        assert!(
            apart(&own, &wanted) < 1e-4 && apart(&own_grads, &wanted_grads) < 0.02,
            "{rows} rows"
        );
    }
}

/// A tied head in `bf16` is still the table of the checkpoint.
#[test]
fn a_tied_head_in_bf16_is_not_written() {
    let device = Device::flex();
    let source = repository().join("crates/adapters-testkit/golden/qwen2_tied/base");
    let pretrained = Pretrained::open(&source).unwrap().with_precision(Precision::Bf16);
    let model = pretrained.causal_lm(&device).unwrap();
    assert!(in_bf16(&model) > 0);
    let out = tempfile::tempdir().unwrap();
    save_checkpoint(&model, &Pretrained::open(&source).unwrap(), out.path(), None).unwrap();
    let (tensors, _) = adapters::store::read_safetensors(&out.path().join("model.safetensors")).unwrap();
    assert!(!tensors.contains_key("lm_head.weight"));
}

/// Outputs within 1 % of the largest and gradients within 5 %: rounding to eight bits of mantissa is off by 0.2 % at most, and
/// several layers add up. Adapters and their gradients are in `f32`.
#[test]
fn adapters_train_over_a_base_in_bf16_as_over_floats_but_for_rounding() {
    let device = Device::flex();
    for name in ["bert", "llama", "gpt2"] {
        let dir = repository()
            .join("crates/adapters-testkit/golden")
            .join(name)
            .join("base");
        let pretrained = Pretrained::open(&dir).unwrap();
        let floats = pretrained.model(&device).unwrap();
        let base = pretrained.with_precision(Precision::Bf16).model(&device).unwrap();
        let sites = base.sites();
        let linear = sites.iter().filter(|info| info.linear_dims().is_some());
        assert_eq!(in_bf16(&base), linear.count(), "{name}");
        for config in [
            "lora[r=3,alpha=5]",
            "dora[r=2,alpha=5]",
            "seq_bn[reduction_factor=2,non_linearity=swish]",
            "ia3",
        ] {
            let mut set = AdapterSet::new();
            set.attach("a", method(config).unwrap(), &floats, 7, &device).unwrap();
            set.activate("a").unwrap();
            let set = randomized(set, 3).train();
            let run = |model: &Model| {
                let mut cx = Ctx::new(&set);
                let hidden = model.forward(input(&device), &mut cx).unwrap();
                let output = model.logits(hidden.clone(), &mut cx).unwrap_or(hidden);
                let probe = Tensor::<3>::from_data(probe(output.dims()), &device);
                let gradients = (output.clone() * probe).sum().backward();
                (output.inner().into_data(), gradients_of(&set, &gradients))
            };
            let ((own, own_grads), (wanted, wanted_grads)) = (run(&base), run(&floats));
            let off = apart(&own, &wanted);
            assert!(off > 0.0 && off < 0.01, "{name}, {config}: {off}");
            for (id, wanted) in wanted_grads {
                let (Some(own), Some(wanted)) = (&own_grads[&id], &wanted) else {
                    continue;
                };
                assert_eq!(own.dtype(), DType::F32);
                let off = apart(own, wanted);
                assert!(off < 0.05, "{name}, {config}: a gradient is off by {off}");
            }
        }
    }
}

fn probe(shape: [usize; 3]) -> TensorData {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect();
    TensorData::new(values, shape)
}

#[test]
fn decoders_compute_and_train_over_it_as_over_the_restored_floats() {
    let device = Device::flex();
    for name in ["llama", "gpt2"] {
        let dir = repository()
            .join("crates/adapters-testkit/golden")
            .join(name)
            .join("base");
        let pretrained = Pretrained::open(&dir).unwrap();
        let floats = pretrained.causal_lm(&device).unwrap();
        let base = pretrained.with_precision(Precision::Int8).causal_lm(&device).unwrap();
        let sites = base.sites();
        let quantized = sites.iter().filter(|s| {
            let layer = base.linear(s.site);
            layer.is_some_and(|layer| matches!(layer.weight.val().dtype(), DType::QFloat(_)))
        });
        let head = |s: &&adapters::core::SiteInfo| s.site.role == Role::LmHead;
        let linear = sites.iter().filter(|s| s.linear_dims().is_some());
        assert_eq!(quantized.count(), linear.filter(|s| !head(s)).count(), "{name}");
        // What the scores of the vocabulary are computed with keeps twice the bits.
        let of_head = sites.iter().filter(head).filter_map(|s| base.linear(s.site));
        for layer in of_head {
            assert_eq!(layer.weight.val().dtype(), DType::BF16, "{name}");
        }
        let restored = restored(&base);
        let mut set = AdapterSet::new();
        set.attach("a", method("lora[r=2,alpha=6]").unwrap(), &base, 7, &device)
            .unwrap();
        set.activate("a").unwrap();
        let set = randomized(set, 3).train();
        let run = |model: &Model| {
            let rows: [&[u32]; 2] = [&[5, 8, 3, 9, 4], &[7, 2, 6, 1, 8]];
            let input = TextInput::padded(&rows, 0, PaddingSide::Right, &device);
            let mut cx = Ctx::new(&set);
            let hidden = model.forward(input, &mut cx).unwrap();
            let probe = Tensor::<3>::from_data(probe(hidden.dims()), &device);
            let gradients = (hidden.clone() * probe).sum().backward();
            (hidden.inner(), gradients_of(&set, &gradients))
        };
        let ((own, own_grads), (wanted, wanted_grads)) = (run(&base), run(&restored));
        close(own.clone(), wanted, 1e-4);
        for (id, wanted) in wanted_grads {
            let (own, wanted) = (own_grads[&id].as_ref().unwrap(), wanted.unwrap());
            own.assert_approx_eq::<f32>(&wanted, Tolerance::absolute(1e-3).set_relative(1e-3));
        }
        // And it is not the float model itself.
        let off = (own - run(&floats).0).abs().max().into_scalar::<f32>();
        assert!(off > 1e-5, "{name}: {off}");
    }
}

#[test]
fn a_random_model_repeats_with_its_seed_and_is_quantized_like_any_other() {
    let device = Device::flex();
    let config = BertConfig {
        vocab_size: 50,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        ..BertConfig::default()
    };
    let draw = |seed| Model::new(BertModel::random(config.clone(), seed, &device).unwrap());
    let run = |model: &Model| model.forward(input(&device), &mut Ctx::plain()).unwrap().into_data();
    let (mut one, same, other) = (draw(1), draw(1), draw(2));
    assert_eq!(run(&one), run(&same));
    assert_ne!(run(&one), run(&other));
    assert!(run(&one).iter::<f32>().all(f32::is_finite));
    let report = quantize(&mut one, Precision::Int8);
    // Six in each layer, and the pooler.
    assert_eq!(report.layers, 13);
    assert_ne!(run(&one), run(&same));
}

#[test]
fn a_weight_differs_from_its_float_by_at_most_half_a_step_of_its_output() {
    let device = Device::flex();
    let floats = small(&device);
    let mut base = floats.clone();
    quantize(&mut base, Precision::Int8);
    for info in floats.sites() {
        let (Some(before), Some(after)) = (floats.linear(info.site), base.linear(info.site)) else {
            continue;
        };
        let before = before.weight.val();
        let step = before.clone().abs().max_dim(0) / 127.0;
        let off = ((float_weight(after) - before).abs() / step).max().into_scalar::<f32>();
        assert!(off <= 0.5001 && off > 0.1, "{}: {off} steps", info.path);
    }
    // A second time there is nothing left to do.
    assert_eq!(quantize(&mut base, Precision::Int8).layers, 0);
}

#[test]
fn merging_restores_the_layers_it_folds_into_and_resetting_quantizes_them_again() {
    let device = Device::flex();
    let mut base = small(&device);
    quantize(&mut base, Precision::Int8);
    let before = is_quantized(&base);
    let mut set = AdapterSet::new();
    set.attach("a", method("lora[r=2,alpha=6]").unwrap(), &base, 1, &device)
        .unwrap();
    set.activate("a").unwrap();
    let set = randomized(set, 5);
    let adapted = base.forward(input(&device), &mut Ctx::new(&set)).unwrap();
    let plain = base.forward(input(&device), &mut Ctx::plain()).unwrap();
    let mut model = base.clone();
    let merged = merge(&mut model, &set, "a").unwrap();
    close(model.forward(input(&device), &mut Ctx::plain()).unwrap(), adapted, 1e-4);
    let layers = set.attached("a").unwrap().layers().count();
    let floats = is_quantized(&model).into_iter().filter(|quantized| !quantized).count();
    assert_eq!(floats, layers);

    // A plain checkpoint of it is floats throughout.
    let out = tempfile::tempdir().unwrap();
    let source = repository().join("crates/adapters-testkit/golden/bert/base");
    save_checkpoint(&model, &Pretrained::open(&source).unwrap(), out.path(), None).unwrap();
    let again = Pretrained::open(out.path()).unwrap().encoder(&device).unwrap();
    close(
        again.forward(input(&device), &mut Ctx::plain()).unwrap(),
        model.forward(input(&device), &mut Ctx::plain()).unwrap(),
        1e-5,
    );

    merged.reset(&mut model);
    assert_eq!(is_quantized(&model), before);
    assert_eq!(
        model.forward(input(&device), &mut Ctx::plain()).unwrap().into_data(),
        plain.into_data()
    );
}

#[test]
fn a_checkpoint_stored_in_int8_rows_loses_nothing() {
    let device = Device::flex();
    let pretrained = Pretrained::open(repository().join("models/all-MiniLM-L6-v2")).unwrap();
    let floats = pretrained.encoder(&device).unwrap();
    let quantized = pretrained.with_precision(Precision::Int8).encoder(&device).unwrap();
    assert!(is_quantized(&quantized).into_iter().all(|quantized| quantized));
    let ids = Tensor::<1, Int>::arange(1000..1012, &device).reshape([2, 6]);
    let run = |model: &Model| {
        let input = TextInput {
            ids: ids.clone(),
            token_types: None,
            padding: None,
            packing: None,
        };
        model.forward(input, &mut Ctx::plain()).unwrap()
    };
    close(run(&quantized), run(&floats), 2e-5);
}

#[test]
fn a_reparameterization_composes_over_a_quantized_weight() {
    use adapters::ForPaths;
    use burn::nn::LinearConfig;
    let device = Device::flex();
    let mut layer = LinearConfig::new(8, 6).init(&device);
    let scheme =
        burn::tensor::quantization::QuantScheme::default().with_value(burn::tensor::quantization::QuantValue::Q8S);
    let quantized = layer.weight.val().quantize_dynamic(&scheme);
    layer.weight = Param::from_tensor(quantized.clone());
    let layer = method("lora[r=2]").unwrap().for_paths(["weight"]).apply(layer).unwrap();
    let x = Tensor::<2>::random([3, 8], Distribution::Normal(0.0, 1.0), &device);
    let bias = layer.bias.as_ref().unwrap().val();
    let wanted = x.clone().matmul(quantized.dequantize()) + bias.unsqueeze();
    layer
        .forward(x)
        .into_data()
        .assert_approx_eq::<f32>(&wanted.into_data(), Tolerance::absolute(1e-5));
}
