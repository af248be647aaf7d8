//! A fused projection of query, key and value: the adapters of its parts compute what adapters of three projections would.

use std::collections::HashMap;
use std::path::Path;

use adapters::core::Format;
use adapters::core::{LinearRole, Location, ParamValues, Role, Sited, Sites, Stack};
use adapters::lora::Combination;
use adapters::merge;
use adapters::models::{Model, Pretrained, TextInput, save_checkpoint};
use adapters::store::{LoadOptions, load_adapter, save_adapter};
use adapters::{AdapterSet, Composition, Ctx, Host, METHODS, Site, method};
use adapters_testkit::contract::{gradients_of, randomized, relative_error};
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

/// Width of the model, and of each part.
const D: usize = 6;

/// One attention's projections, in one matrix or in three.
#[derive(Sites)]
struct Projections {
    layers: Vec<Sited<Linear>>,
}

const PARTS: [LinearRole; 3] = [LinearRole::Query, LinearRole::Key, LinearRole::Value];

fn sited(role: LinearRole, layer: Linear) -> Sited<Linear> {
    Sited::new(
        Location::layer(Stack::Decoder, 0),
        role,
        Role::from(role).to_string(),
        layer,
    )
}

impl Projections {
    fn fused() -> Self {
        let device = Device::flex();
        device.seed(5);
        let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let layer = Linear {
            weight: Param::from_tensor(random([D, 3 * D])).set_require_grad(false),
            bias: Some(Param::from_tensor(random([1, 3 * D]).reshape([3 * D])).set_require_grad(false)),
        };
        Self {
            layers: vec![sited(LinearRole::QueryKeyValue, layer)],
        }
    }

    fn apart(&self) -> Self {
        let fused = &self.layers[0];
        let part = |index: usize| {
            let features = index * D..(index + 1) * D;
            let bias = fused.bias.as_ref().unwrap().val().slice_dim(0, features.clone());
            Linear {
                weight: Param::from_tensor(fused.weight.val().slice_dim(1, features)).set_require_grad(false),
                bias: Some(Param::from_tensor(bias).set_require_grad(false)),
            }
        };
        Self {
            layers: (0..3).map(|index| sited(PARTS[index], part(index))).collect(),
        }
    }

    /// Query, key and value side by side.
    fn output(&self, set: &AdapterSet, x: &Tensor<3>) -> TensorData {
        let mut cx = Ctx::new(set);
        let (hooks, x) = cx.begin(self, x.clone()).unwrap();
        let outputs = self.layers.iter().map(|layer| hooks.linear(layer, x.clone()));
        Tensor::cat(outputs.collect(), 2).into_data()
    }

    fn set(&self, config: &str) -> AdapterSet {
        let mut set = AdapterSet::new();
        for name in ["a", "b"] {
            set.attach(name, method(config).unwrap(), self, 1, &Device::flex())
                .unwrap();
        }
        set
    }
}

impl Host for Projections {
    fn architecture(&self) -> &str {
        "projections"
    }

    fn d_model(&self) -> usize {
        D
    }
}

/// The parameters of an adapter of the fused projection, given to one of the three: each has its rows.
fn distributed(fused: &ParamValues, apart: ParamValues, adapted: &[Role]) -> ParamValues {
    let fused_site = Site::new(Stack::Decoder, 0, Role::QueryKeyValue);
    apart
        .into_iter()
        .map(|((site, name), old)| {
            let of_fused = &fused[&(Some(fused_site), name.clone())];
            let role = site.unwrap().role;
            let index = adapted.iter().position(|of| *of == role).unwrap();
            let size = old.num_elements();
            let values: Vec<f32> = of_fused.iter::<f32>().skip(index * size).take(size).collect();
            ((site, name), TensorData::new(values, old.shape()))
        })
        .collect()
}

#[test]
fn the_parts_compute_what_three_projections_do() {
    let fused = Projections::fused();
    let apart = fused.apart();
    let x = Tensor::<3>::random([2, 3, D], Distribution::Normal(0.0, 1.0), &Device::flex());
    let two = [Role::Query, Role::Value];
    for (config, adapted) in [
        ("lora[r=2,alpha=5]", &two[..]),
        ("lora[r=2,alpha=5,attn_matrices=[k]]", &[Role::Key]),
        (
            "lora[r=2,alpha=5,attn_matrices=[q,k,v],lora_bias=true]",
            &PARTS.map(Role::from),
        ),
        ("lora[r=2,use_gating=true]", &two),
        ("dora[r=2,alpha=5]", &two),
        (
            "dora[r=2,alpha=5,attn_matrices=[k,v],form=peft]",
            &[Role::Key, Role::Value],
        ),
        ("ia3[intermediate_lora=false]", &[Role::Key, Role::Value]),
        (
            "ia3[intermediate_lora=false,use_gating=true]",
            &[Role::Key, Role::Value],
        ),
    ] {
        let mut of_fused = randomized(fused.set(config), 3);
        let mut of_apart = apart.set(config);
        for name in ["a", "b"] {
            let adapter = of_apart.remove(name).unwrap();
            let values = distributed(&of_fused.attached(name).unwrap().values(), adapter.values(), adapted);
            of_apart.insert(adapter.with_values(values)).unwrap();
        }
        let compositions = [
            Composition::adapter("a"),
            Composition::stack(["a", "b"]),
            Composition::sum(["a", "b"]),
        ];
        for composition in compositions {
            of_fused.activate(composition.clone()).unwrap();
            of_apart.activate(composition.clone()).unwrap();
            let (got, want) = (fused.output(&of_fused, &x), apart.output(&of_apart, &x));
            let error = relative_error(&got, &want);
            assert!(error < 1e-5, "{config}, {composition}: off by {error:e}");
        }
        of_fused.deactivate();
        of_apart.activate("a").unwrap();
        let acts = relative_error(&fused.output(&of_fused, &x), &apart.output(&of_apart, &x));
        assert!(acts > 1e-2, "{config} does nothing");
    }
}

#[test]
fn combinations_of_parts_are_those_of_three_projections() {
    let fused = Projections::fused();
    let apart = fused.apart();
    let x = Tensor::<3>::random([2, 3, D], Distribution::Normal(0.0, 1.0), &Device::flex());
    let config = "lora[r=2,alpha=5]";
    let mut of_fused = randomized(fused.set(config), 3);
    let mut of_apart = apart.set(config);
    for name in ["a", "b"] {
        let adapter = of_apart.remove(name).unwrap();
        let values = of_fused.attached(name).unwrap().values();
        let values = distributed(&values, adapter.values(), &[Role::Query, Role::Value]);
        of_apart.insert(adapter.with_values(values)).unwrap();
    }
    let weights = [("a".to_owned(), 0.7), ("b".to_owned(), -0.4)];
    for (index, combination) in [
        Combination::Cat,
        Combination::Linear,
        Combination::NegateB,
        Combination::Svd { rank: 3 },
        Combination::DeltaSvd { rank: 1 },
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("new{index}");
        for (set, host) in [(&mut of_fused, &fused), (&mut of_apart, &apart)] {
            combination
                .combine(set, &name, &weights, host, &Device::flex())
                .unwrap();
            set.activate(name.as_str()).unwrap();
        }
        let error = relative_error(&fused.output(&of_fused, &x), &apart.output(&of_apart, &x));
        assert!(error < 1e-5, "{combination:?} is off by {error:e}");
    }
}

fn gpt2() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/gpt2/base")
}

fn logits(model: &Model, cx: &mut Ctx<'_>) -> Tensor<3> {
    let device = Device::flex();
    let ids = Tensor::<2, Int>::from_data(TensorData::from([[5i64, 9, 3, 14, 7], [8, 2, 11, 6, 1]]), &device);
    let hidden = model.forward(TextInput::new(ids), cx).unwrap();
    model.logits(hidden, cx).unwrap()
}

/// What every member of the family promises, on a whole GPT-2: it trains, is stored and read back, and folds into the
/// weights, which are published input first.
#[test]
fn the_family_trains_is_stored_and_merges_in_gpt2() {
    let device = Device::flex();
    let model = Pretrained::open(gpt2()).unwrap().causal_lm(&device).unwrap();
    for config in [
        "lora[r=2,alpha=5,attn_matrices=[q,k,v],intermediate_lora=true,output_lora=true]",
        "lora[r=2,alpha=5,attn_matrices=[k]]",
        "ia3[alpha=2]",
        "dora[r=2,alpha=5]",
        "vera[r=2,alpha=5]",
        "dvora[r=2,alpha=5]",
        "mtl_lora[r=2,alpha=5,n_up_projection=2]",
    ] {
        let mut set = AdapterSet::new();
        set.attach("a", method(config).unwrap(), &model, 1, &device).unwrap();
        set.activate("a").unwrap();
        let set = randomized(set, 3);
        let want = logits(&model, &mut Ctx::new(&set)).into_data();

        let train = set.clone().train();
        let gradients = logits(&model, &mut Ctx::new(&train)).square().sum().backward();
        let gradients: HashMap<_, _> = gradients_of(&train, &gradients);
        for param in train.params().filter(|param| !param.fixed) {
            let gradient = gradients[&param.id].as_ref().unwrap();
            let largest = gradient.iter::<f32>().fold(0f32, |most, x| most.max(x.abs()));
            assert!(largest > 0.0, "{config}: {} at {}", param.param, param.path());
        }

        let dir = tempfile::tempdir().unwrap();
        save_adapter(&dir.path().join("a"), Format::AdapterHub, &set, "a", &model).unwrap();
        let mut loaded = AdapterSet::new();
        let options = LoadOptions::default();
        load_adapter(&dir.path().join("a"), &mut loaded, &model, &METHODS, &options, &device).unwrap();
        loaded.activate("a").unwrap();
        assert_eq!(logits(&model, &mut Ctx::new(&loaded)).into_data(), want, "{config}");
        let refused = save_adapter(&dir.path().join("p"), Format::Peft, &set, "a", &model).unwrap_err();
        assert!(std::error::Error::source(&refused).is_some(), "{config}: {refused}");

        let mut merged = model.clone();
        merge(&mut merged, &set, "a").unwrap();
        let plain = dir.path().join("plain");
        save_checkpoint(&merged, &Pretrained::open(gpt2()).unwrap(), &plain, None).unwrap();
        let again = Pretrained::open(&plain).unwrap().causal_lm(&device).unwrap();
        for model in [merged, again] {
            let error = relative_error(&logits(&model, &mut Ctx::plain()).into_data(), &want);
            assert!(error < 1e-5, "{config}: merged is off by {error:e}");
        }
    }
}

/// Named by path, the matrix is adapted as a whole, and peft is told how it lies in the file.
#[test]
fn a_fused_matrix_named_by_path_is_peft_s() {
    let device = Device::flex();
    let model = Pretrained::open(gpt2()).unwrap().causal_lm(&device).unwrap();
    let mut set = AdapterSet::new();
    let lora = method("lora[r=2,target_modules=[c_attn]]").unwrap();
    set.attach("a", lora, &model, 1, &device).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = save_adapter(dir.path(), Format::Peft, &set, "a", &model).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(files.config).unwrap()).unwrap();
    assert_eq!(config["fan_in_fan_out"], true);
    let shapes: Vec<_> = set
        .attached("a")
        .unwrap()
        .values()
        .into_values()
        .map(|data| data.shape().to_vec())
        .collect();
    assert_eq!(shapes[..2], [vec![2, 32], vec![96, 2]]);
    let refused = save_adapter(&dir.path().join("hub"), Format::AdapterHub, &set, "a", &model);
    assert!(refused.is_err());
}
