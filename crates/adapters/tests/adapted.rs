//! What a program holds: an adapted model, from attaching to files, on the model of the repository.

use std::path::Path;

use adapters::prelude::*;
use adapters::store::StoreError;
use adapters::{Ctx, Error, lora};
use burn::module::{ModuleMapper, Param};
use burn::tensor::{Distribution, Tensor, TensorData, Tolerance};

/// Other values for what begins at zero.
struct Redraw;

impl ModuleMapper for Redraw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|old| old.random_like(Distribution::Normal(0.0, 0.05)))
    }
}

fn lora(rank: usize) -> LoraConfig {
    LoraConfig {
        rank,
        ..LoraConfig::default()
    }
}

/// The model of the repository with two adapters that change its output, and a batch.
fn model() -> (Adapted<Model>, TextInput) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let pretrained = Pretrained::open(folder).unwrap();
    let device = Device::flex();
    device.seed(5);
    let mut model = Adapted::new(pretrained.model(&device).unwrap());
    model.attach("typed", lora(4)).unwrap();
    model.attach("text", method("lora[r=2]").unwrap()).unwrap();
    let texts = ["A film I would gladly see again.", "No."];
    let batch = pretrained.tokenizer(16).unwrap().input(texts, model.base()).unwrap();
    (model.map(&mut Redraw), batch)
}

fn output(model: &Adapted<Model>, batch: &TextInput) -> TensorData {
    model.forward(batch.clone()).unwrap().into_data()
}

fn close(a: &TensorData, b: &TensorData) {
    a.assert_approx_eq::<f32>(b, Tolerance::absolute(2e-4));
}

#[test]
fn a_composition_acts_until_it_is_deactivated_or_for_one_call() {
    let (mut model, batch) = model();
    let plain = output(&model, &batch);
    model.activate("typed").unwrap();
    let typed = output(&model, &batch);
    assert_ne!(typed, plain);
    let text = model.forward_as("text", batch.clone()).unwrap().into_data();
    assert!(text != plain && text != typed);
    assert_eq!(output(&model, &batch), typed, "the other composition was for one call");
    model.deactivate();
    assert_eq!(output(&model, &batch), plain);
    let error = model.activate("txt").unwrap_err().to_string();
    assert!(error.contains("did you mean `text`?"), "{error}");
}

#[test]
fn a_pass_of_training_depends_on_its_seed() {
    let (mut model, batch) = model();
    let dropout = LoraConfig {
        dropout: 0.5,
        ..lora(4)
    };
    model.attach("dropped", dropout).unwrap();
    model = model.map(&mut Redraw);
    model.activate("dropped").unwrap();
    let pass = |seed| model.training_forward(batch.clone(), seed).unwrap().into_data();
    assert_eq!(pass(1), pass(1));
    assert_ne!(pass(1), pass(2));
    assert_ne!(pass(1), output(&model, &batch));
}

#[test]
fn merging_is_taken_back_bit_for_bit() {
    let (mut model, batch) = model();
    let plain = output(&model, &batch);
    model.activate("typed").unwrap();
    let (adapted, shared) = (output(&model, &batch), model.clone());
    assert!(model.reset().is_none());
    model.merge("typed").unwrap();
    assert!(model.set.active().is_none());
    close(&output(&model, &batch), &adapted);
    assert_eq!(output(&shared, &batch), adapted, "a clone keeps its base");
    let twice = [
        model.merge("text").map(drop),
        model.activate("typed"),
        model.forward_as("typed", batch.clone()).map(drop),
    ];
    for refused in twice {
        assert!(matches!(refused, Err(Error::AlreadyMerged { .. })), "{refused:?}");
    }
    assert_eq!(model.reset().as_deref(), Some("typed"));
    assert_eq!(output(&model, &batch), plain);
    model.activate("typed").unwrap();
    assert_eq!(output(&model, &batch), adapted);
}

#[test]
fn what_is_saved_is_loaded_again() {
    let (mut model, batch) = model();
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let error = model.save(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::WhichAdapter { .. }), "{error}");
    let error = model.without_adapters().save(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::NoAdapter), "{error}");
    model.activate("text").unwrap();
    let text = output(&model, &batch);
    model.save_with(dir.path(), Format::Peft).unwrap();
    let options = SaveOptions {
        adapter: Some("typed".to_owned()),
        ..SaveOptions::default()
    };
    model.save_with(other.path(), options).unwrap();

    let mut fresh = model.without_adapters();
    let loaded = fresh.load(dir.path()).unwrap();
    assert_eq!(loaded.format, Format::Peft);
    fresh.activate(loaded.attached.adapter).unwrap();
    assert_eq!(output(&fresh, &batch), text);
    assert_eq!(fresh.load(other.path()).unwrap().format, Format::AdapterHub);
    let typed = fresh.forward_as("typed", batch.clone()).unwrap().into_data();
    assert_eq!(typed, model.forward_as("typed", batch).unwrap().into_data());
}

#[test]
fn a_typed_configuration_is_checked() {
    let (mut model, _) = model();
    let error = model.attach("none", lora(0)).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    let lora::LoraConfig { alpha, .. } = lora(1);
    assert_eq!(alpha, 8.0);
}

/// The code in the tables of the book, word for word.
fn code_of_the_tables(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let base = |dir| Pretrained::open(dir)?.model(&Device::flex());
    let name = "reviews";
    let model = base(&folder)?;
    let mut model = Adapted::new(model);
    model.attach(name, method("lora[r=8]")?)?;
    model.activate(name)?;
    model.save(dir)?;
    model.set.set_trainable(name, false)?;
    model.merge(name)?;
    model.reset();
    model.deactivate();
    assert_eq!(model.without_adapters().set.iter().count(), 0);

    let mut model = model.without_adapters();
    model.load(dir)?;
    model.attach("a", method("lora")?)?;
    model.merge("a")?;

    let mut model = model.without_adapters();
    model.reset();
    model.attach("a", method("seq_bn[reduction_factor=16]")?)?;
    model.attach("b", method("seq_bn")?)?;
    model.activate(Composition::stack(["a", "b"]))?;
    let mut cx = Ctx::skipping_layers(Ctx::new(&model.set), [0]);
    let batch = Pretrained::open(&folder)?
        .tokenizer(16)?
        .input(["A film."], model.base())?;
    model.base().forward(batch, &mut cx)?;
    Ok(())
}

#[test]
fn the_code_in_the_tables_of_the_book_runs() {
    let dir = tempfile::tempdir().unwrap();
    code_of_the_tables(&dir.path().join("reviews")).unwrap();
    let pages = [
        include_str!("../../../book/src/from-peft.md"),
        include_str!("../../../book/src/from-adapterhub.md"),
    ];
    let rows = pages
        .iter()
        .flat_map(|page| page.lines().filter_map(|line| line.strip_prefix("| ")));
    let ours = rows.filter_map(|row| row.split(" | ").nth(1));
    let spans = ours.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let code: Vec<&str> = spans
        .filter(|code| code.contains("::") || code.starts_with("model.") && code.contains('('))
        .collect();
    assert!(code.len() > 12, "{code:?}");
    for code in code {
        assert!(include_str!("adapted.rs").contains(code), "{code}");
    }
}
