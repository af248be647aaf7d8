//! The token table that the two stacks of T5 and BART read under names of their own.

use std::path::{Path, PathBuf};

use adapters::core::Format;
use adapters::models::{Input, Model, Pretrained, TextInput, ToTextInput, save_checkpoint};
use adapters::store::{read_safetensors, save_adapter};
use adapters::{Adapted, AdapterFiles, AdapterSet, Ctx, method};
use adapters_testkit::contract::{randomized, relative_error};
use burn::tensor::{Device, Int, Tensor, TensorData};

fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(model)
}

fn open(model: &str) -> Pretrained {
    Pretrained::open(golden(model).join("base")).unwrap()
}

/// The scores of the vocabulary.
fn scores(model: &Adapted<Model>) -> TensorData {
    let ids = Tensor::<2, Int>::from_data([[3i64, 5, 9, 14], [7, 3, 20, 5]], &Device::flex());
    let input = ToTextInput {
        source: TextInput::new(ids.clone()).into(),
        decoder_ids: ids,
    };
    let mut cx = Ctx::new(&model.set);
    let hidden = model.base().forward(Input::from(input), &mut cx).unwrap();
    model.base().logits(hidden, &mut cx).unwrap().into_data()
}

#[test]
fn a_new_adapter_that_would_not_act_is_refused() {
    let device = Device::flex();
    for (family, config) in [
        ("t5", "lora[r=2,target_modules=[q,shared]]"),
        ("t5", "lora[r=2,target_modules=[q],modules_to_save=[shared]]"),
        ("bart", "lora[r=2,target_modules=[shared]]"),
        ("bart", "dora[r=2,form=peft,target_modules=[shared]]"),
        ("mt5", "trainable_tokens[token_indices=[3],target_modules=[shared]]"),
        ("mt5", "trainable_tokens[token_indices=[3]]"),
        // As in peft, other rows in the head leave those of the table idle.
        (
            "t5",
            "trainable_tokens[token_indices=[3],target_modules=[shared]]|trainable_tokens[token_indices=[5],target_modules=[lm_head]]",
        ),
    ] {
        let model = open(family).model(&device).unwrap();
        let attached = AdapterSet::new().attach("a", method(config).unwrap(), &model, 0, &device);
        let error = attached.unwrap_err().to_string();
        let says = "the model reads this table as `encoder.embed_tokens`, `decoder.embed_tokens`";
        assert!(error.contains(says), "{family} {config}: {error}");
    }
    for (family, config) in [
        ("t5", "lora[r=2,target_modules=[embed_tokens]]"),
        ("bart", "lora[r=2,target_modules=[encoder.embed_tokens]]"),
        ("t5", "trainable_tokens[token_indices=[3]]"),
        (
            "mt5",
            "trainable_tokens[token_indices=[3],target_modules=[embed_tokens]]",
        ),
        ("bart", "trainable_tokens[token_indices=[3],target_modules=[shared]]"),
        (
            "t5",
            "trainable_tokens[token_indices=[3],target_modules=[shared]]|trainable_tokens[token_indices=[3],target_modules=[lm_head]]",
        ),
        (
            "t5",
            "trainable_tokens[token_indices=[3],target_modules=[embed_tokens]]|trainable_tokens[token_indices=[5],target_modules=[lm_head]]",
        ),
    ] {
        let model = open(family).model(&device).unwrap();
        let attached = AdapterSet::new().attach("a", method(config).unwrap(), &model, 0, &device);
        attached.unwrap_or_else(|error| panic!("{family} {config}: {error}"));
    }
}

/// Peft's layer at `shared` is kept in files and acts nowhere; rows of the table act wherever it is read, when merged too.
#[test]
fn what_a_file_has_at_the_shared_table_is_kept_and_merged() {
    for case in ["peft_lora_shared", "peft_tokens"] {
        let folder = golden("t5").join("cases").join(case).join("adapters/a");
        let pretrained = open("t5");
        let mut model = Adapted::new(pretrained.model(&Device::flex()).unwrap());
        model.load(&folder).unwrap();
        model.activate("a").unwrap();
        let adapted = scores(&model);

        let out = tempfile::tempdir().unwrap();
        save_adapter(out.path(), Format::Peft, &model.set, "a", model.base()).unwrap();
        let tensors = |dir: &Path| read_safetensors(&dir.join("adapter_model.safetensors")).unwrap().0;
        assert_eq!(tensors(out.path()), tensors(&folder), "{case}");

        model.merge("a").unwrap();
        let checkpoint = tempfile::tempdir().unwrap();
        save_checkpoint(model.base(), &pretrained, checkpoint.path(), None).unwrap();
        let keys = read_safetensors(&checkpoint.path().join("model.safetensors"))
            .unwrap()
            .0;
        let tables = keys
            .keys()
            .filter(|key| key.contains("embed_tokens") || key.contains("lm_head"));
        assert_eq!(tables.count(), 0, "{case}");
        let merged = Adapted::new(
            Pretrained::open(checkpoint.path())
                .unwrap()
                .model(&Device::flex())
                .unwrap(),
        );
        let off = relative_error(&scores(&merged), &adapted);
        assert!(off < 1e-5, "{case} is off by {off:e}");
    }
}

#[test]
fn a_merged_table_of_one_stack_is_not_saved() {
    for (family, config, path) in [
        (
            "t5",
            "lora[r=2,alpha=4,target_modules=[encoder.embed_tokens]]",
            "encoder.embed_tokens",
        ),
        (
            "bart",
            "lora[r=2,alpha=4,target_modules=[decoder.embed_tokens]]",
            "decoder.embed_tokens",
        ),
        ("bart", "lora[r=2,alpha=4,target_modules=[lm_head]]", "lm_head"),
    ] {
        let pretrained = open(family);
        let mut model = Adapted::new(pretrained.model(&Device::flex()).unwrap());
        model.attach("a", method(config).unwrap()).unwrap();
        model.set = randomized(model.set.clone(), 3);
        model.activate("a").unwrap();
        let adapted = scores(&model);
        model.merge("a").unwrap();
        let off = relative_error(&scores(&model), &adapted);
        assert!(off < 1e-5, "{family} {config} is off by {off:e}");
        let out = tempfile::tempdir().unwrap();
        let error = save_checkpoint(model.base(), &pretrained, out.path(), None)
            .unwrap_err()
            .to_string();
        let says = format!("has one weight for `{path}` and `shared`, and the two differ here");
        assert!(error.contains(&says), "{family} {config}: {error}");
    }
}
