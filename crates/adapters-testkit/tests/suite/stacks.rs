//! Stacks of adapters at linear layers: where one reads what the one before it adds, and where that does not fit.

use std::path::Path;

use adapters::models::{Model, Pretrained, TextInput};
use adapters::{AdapterSet, Composition, Ctx, Error, method};
use adapters_testkit::contract::randomized;
use burn::tensor::{Device, Int, Tensor, TensorData};

fn load(name: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name)
        .join("base");
    Pretrained::open(&dir).unwrap().causal_lm(&Device::flex()).unwrap()
}

/// Two adapters of these configurations.
fn set_of(lm: &Model, below: &str, above: &str) -> AdapterSet {
    let mut set = AdapterSet::new();
    for (name, config) in [("below", below), ("above", above)] {
        set.attach(name, method(config).unwrap(), lm, 1, &Device::flex())
            .unwrap();
    }
    randomized(set, 3)
}

fn logits(lm: &Model, set: &AdapterSet) -> TensorData {
    let ids = Tensor::<2, Int>::from_data([[5i64, 9, 3, 14], [8, 2, 11, 6]], &Device::flex());
    let mut cx = Ctx::new(set);
    let hidden = lm.forward(TextInput::new(ids), &mut cx).unwrap();
    lm.logits(hidden, &mut cx).unwrap().into_data()
}

fn stack() -> Composition {
    Composition::stack(["below", "above"])
}

#[test]
fn shapes_that_do_not_fit_are_refused_with_the_site_and_the_features() {
    // Llama's queries have 32 features and its values, whose heads are shared, 16.
    let (llama, gpt2) = (load("llama"), load("gpt2"));
    for (lm, config, path, reads, adds) in [
        (&llama, "lora[r=2]", "model.layers.0.self_attn.v_proj", 32, 16),
        (&llama, "dora[r=2]", "model.layers.0.self_attn.v_proj", 32, 16),
        (
            &llama,
            "mtl_lora[r=2,attn_matrices=[v]]",
            "model.layers.0.self_attn.v_proj",
            32,
            16,
        ),
        (
            &llama,
            "lora[r=2,attn_matrices=[q],output_lora=true]",
            "model.layers.0.mlp.up_proj",
            32,
            64,
        ),
        (&gpt2, "vera[r=2]", "transformer.h.0.attn.c_attn", 32, 96),
        (&gpt2, "mtl_lora[r=2]", "transformer.h.0.attn.c_attn", 32, 96),
        (
            &gpt2,
            "lora[r=2,intermediate_lora=true]",
            "transformer.h.0.mlp.c_fc",
            32,
            64,
        ),
    ] {
        let mut set = set_of(lm, config, config);
        set.activate("below").unwrap();
        let error = set.activate(stack()).unwrap_err();
        assert!(
            matches!(&error, Error::CannotStack { adapter, path: at, reason, .. } if adapter == "above" && at == path
                && *reason == format!("in `Stack(below, above)` it reads {reads} features, and `below` before it adds {adds} features")),
            "{config}: {error:?}"
        );
        // What was active still is, and both are added up without a Stack.
        assert_eq!(set.active().unwrap().to_string(), "below");
        let below = logits(lm, &set);
        set.activate(Composition::sum(["below", "above"])).unwrap();
        assert_ne!(logits(lm, &set), below, "{config}");
        // Also inside other blocks.
        let nested = Composition::parallel([stack(), "below".into()]);
        assert!(
            matches!(set.activate(nested), Err(Error::CannotStack { .. })),
            "{config}"
        );
    }
    let error = set_of(&llama, "lora[r=2]", "lora[r=2]").activate(stack()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`above` cannot be stacked at `model.layers.0.self_attn.v_proj`: in `Stack(below, above)` it reads 32 features, and \
         `below` before it adds 16 features; to add several adapters up, use an Average or `Composition::sum`"
    );
}

#[test]
fn shapes_that_fit_run() {
    let (llama, gpt2) = (load("llama"), load("gpt2"));
    for (lm, below, above) in [
        (&llama, "lora[r=2,attn_matrices=[q]]", "lora[r=3,attn_matrices=[q]]"),
        // At different layers, and where the one above reads the layer's input in any case.
        (&llama, "lora[r=2,attn_matrices=[v]]", "lora[r=2,attn_matrices=[q]]"),
        (&llama, "lora[r=2]", "loha[r=2,target_modules=[v_proj]]"),
        // Nothing is added before it: the one below changes what goes into the layer.
        (
            &llama,
            "hra[r=2,target_modules=[v_proj]]",
            "lora[r=2,attn_matrices=[v]]",
        ),
        // Each part of a fused projection reads its own part.
        (&gpt2, "lora[r=2]", "lora[r=2]"),
    ] {
        let mut set = set_of(lm, below, above);
        set.activate("above").unwrap();
        let alone = logits(lm, &set);
        set.activate(stack()).unwrap();
        let both = logits(lm, &set);
        assert_ne!(both, alone, "{below}, {above}");
        assert!(both.iter::<f32>().all(f32::is_finite), "{below}, {above}");
    }
}
