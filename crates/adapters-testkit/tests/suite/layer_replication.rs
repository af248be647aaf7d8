//! Models that use some of their layers several times, and adapters of such models.

use std::path::Path;

use adapters::core::Format;
use adapters::models::{Model, Pretrained, TextInput, save_checkpoint};
use adapters::store::{LoadOptions, layer_replication, load_adapter, save_adapter};
use adapters::{AdapterSet, Ctx, Host, METHODS, method};
use adapters_testkit::contract::randomized;
use adapters_testkit::golden::chain;
use burn::tensor::{Device, Tensor, TensorData};

const RANGES: [[usize; 2]; 2] = [[0, 2], [1, 2]];

fn golden(model: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(model)
        .join("base");
    Pretrained::open(&folder).unwrap().model(&Device::flex()).unwrap()
}

fn output(model: &Model, set: &AdapterSet) -> TensorData {
    let ids = Tensor::from_data(
        TensorData::from([[5i64, 17, 42, 8, 61], [33, 7, 2, 9, 4]]),
        &Device::flex(),
    );
    model
        .forward(TextInput::new(ids), &mut Ctx::new(set))
        .unwrap()
        .into_data()
}

#[test]
fn copies_have_sites_of_their_own_and_the_weights_of_one() {
    for model in ["llama", "gpt2", "bert", "modernbert"] {
        let base = golden(model);
        let replicated = base.with_layer_replication(&RANGES).unwrap();
        assert_eq!(replicated.num_layers(), 3, "{model}");
        let (sites, own) = (replicated.sites(), base.sites());
        let of = |layer: usize| {
            sites
                .iter()
                .filter(move |info| info.site.layer == Some(layer))
                .collect::<Vec<_>>()
        };
        let source = own.iter().filter(|info| info.site.layer == Some(1));
        for ((copy, middle), source) in of(2).into_iter().zip(of(1)).zip(source) {
            assert_eq!(middle, source, "{model}");
            assert_eq!(copy.path, source.path.replacen('1', "2", 1), "{model}");
            let weight = |model: &Model, site| model.linear(site).map(|layer| layer.weight.val().into_data());
            assert_eq!(weight(&replicated, copy.site), weight(&base, source.site), "{model}");
        }
        assert_ne!(
            output(&replicated, &AdapterSet::new()),
            output(&base, &AdapterSet::new()),
            "{model}"
        );
        // Each layer once is the model itself.
        let same = base.with_layer_replication(&[[0, base.num_layers()]]).unwrap();
        assert_eq!(
            output(&same, &AdapterSet::new()),
            output(&base, &AdapterSet::new()),
            "{model}"
        );
    }
}

#[test]
fn an_adapter_is_of_the_model_that_it_was_trained_on() {
    let (base, device) = (golden("llama"), Device::flex());
    let replicated = base.with_layer_replication(&RANGES).unwrap();
    let mut set = AdapterSet::new();
    let lora = method("lora[r=2,target_modules=[q_proj,down_proj]]").unwrap();
    set.attach("a", lora, &replicated, 1, &device).unwrap();
    set.activate("a").unwrap();
    let set = randomized(set, 3);
    let dir = tempfile::tempdir().unwrap();
    save_adapter(dir.path(), Format::Peft, &set, "a", &replicated).unwrap();
    assert_eq!(layer_replication(dir.path()).unwrap(), Some(RANGES.to_vec()));
    let load = |model: &Model| {
        let options = LoadOptions {
            name: Some("a".to_owned()),
            ..LoadOptions::default()
        };
        let mut loaded = AdapterSet::new();
        load_adapter(dir.path(), &mut loaded, model, &METHODS, &options, &device)?;
        loaded.activate("a")?;
        Ok::<_, adapters::store::StoreError>(loaded)
    };
    assert_eq!(
        output(&replicated, &load(&replicated).unwrap()),
        output(&replicated, &set)
    );
    let error = chain(&load(&base).unwrap_err());
    assert!(
        error.contains("`layer_replication` is [[0, 2], [1, 2]], and that of the model is []"),
        "{error}"
    );
}

#[test]
fn what_is_not_a_published_model_is_refused() {
    let base = golden("llama");
    for (ranges, found) in [
        (vec![], "found none"),
        (vec![[0, 2], [1, 1]], "found [1, 1]"),
        (vec![[0, 3]], "expected ranges within [0, 2], found [0, 3]"),
    ] {
        let error = base.with_layer_replication(&ranges).unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
    }
    let replicated = base.with_layer_replication(&RANGES).unwrap();
    assert!(replicated.with_layer_replication(&RANGES).is_err());
    assert!(golden("t5").with_layer_replication(&RANGES).is_err());
    let (source, out) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/llama/base"),
        tempfile::tempdir().unwrap(),
    );
    let error = save_checkpoint(&replicated, &Pretrained::open(&source).unwrap(), out.path(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot be saved"), "{error}");
}
