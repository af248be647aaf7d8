//! Adapters of a model that compares texts and images.

use std::path::Path;

use adapters::core::Composition;
use adapters::models::{ImageInput, Model, Pretrained, TextAndImageInput, TextInput};
use adapters::store::read_safetensors;
use adapters::{AdapterSet, Ctx, method};
use adapters_testkit::contract::{randomized, relative_error};
use burn::tensor::{Device, Int, Tensor};

fn golden(device: &Device) -> (Model, TextAndImageInput) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/clip");
    let model = Pretrained::open(folder.join("base")).unwrap().model(device).unwrap();
    let (inputs, _) = read_safetensors(&folder.join("inputs.safetensors")).unwrap();
    let mask = Tensor::<2, Int>::from_data(inputs["attention_mask"].clone(), device);
    let texts = TextInput {
        padding: Some(mask.equal_elem(0)),
        ..TextInput::new(Tensor::from_data(inputs["input_ids"].clone(), device))
    };
    let images = ImageInput {
        pixels: Tensor::from_data(inputs["pixel_values"].clone(), device),
    };
    (model, TextAndImageInput { texts, images })
}

/// The scores of a `Parallel` block compare each branch's images with each branch's texts; those of one branch are a block on the
/// diagonal.
#[test]
fn branches_are_blocks_of_the_scores() {
    let device = Device::flex();
    let (model, input) = golden(&device);
    let mut set = AdapterSet::new();
    for (name, config) in [("a", "lora[r=3,alpha=6]"), ("b", "seq_bn[reduction_factor=4]")] {
        set.attach(name, method(config).unwrap(), &model, 1, &device).unwrap();
    }
    let set = randomized(set, 5);
    let scores = |composition: Composition| -> Tensor<2> {
        let active = set.composition(composition).unwrap();
        let mut cx = Ctx::with_composition(&set, &active).unwrap();
        model.forward(input.clone(), &mut cx).unwrap().squeeze_dim(2)
    };
    let alone = ["a", "b"].map(|name| scores(Composition::adapter(name)));
    let [images, texts] = alone[0].dims();
    let both = scores(Composition::parallel(["a", "b"]));
    assert_eq!(both.dims(), [2 * images, 2 * texts]);
    for (branch, alone) in alone.into_iter().enumerate() {
        let of_branch = |size: usize| branch * size..(branch + 1) * size;
        let block = both.clone().slice([of_branch(images), of_branch(texts)]);
        let error = relative_error(&block.into_data(), &alone.into_data());
        assert!(error < 1e-5, "branch {branch} is off by {error}");
    }
}
