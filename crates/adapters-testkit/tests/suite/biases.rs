//! Biases of the base that train (`bias = "all"`).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use adapters::core::Format;
use adapters::models::Pretrained;
use adapters::store::read_safetensors;
use adapters::{AdapterSet, method};
use burn::tensor::Device;

/// Names of biases without a site, which stay frozen: see PARITY D90.
const FROZEN: [&str; 8] = [
    // The positional convolution of wav2vec 2.0, and the normalizations of its feature extractor.
    "encoder.pos_conv_embed.",
    "feature_extractor.conv_layers.",
    // The language adapters of X-MOD.
    ".adapter_modules.",
    // The router of gpt-oss.
    ".mlp.router.",
    // The pooling head of SigLIP.
    "vision_model.head.layernorm.",
    // The head of a BERT that decodes, and the pooler of the encoder in front of it.
    "decoder.cls.predictions.",
    "encoder.pooler.",
    // The scores of ModernBERT's masked language model.
    "decoder.bias",
];

#[test]
fn every_bias_with_a_site_trains() {
    let device = Device::flex();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut wrong = Vec::new();
    let mut frozen = BTreeSet::new();
    for family in fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()) {
        let base = family.join("base");
        if !base.is_dir() {
            continue;
        }
        let model = Pretrained::open(&base).unwrap().model(&device).unwrap();
        let (tensors, _) = read_safetensors(&base.join("model.safetensors")).unwrap();
        let there: BTreeSet<String> = tensors.into_keys().filter(|key| key.ends_with(".bias")).collect();
        let mut set = AdapterSet::new();
        let config = method("lora[r=1,bias=all,target_modules=all-linear]").unwrap();
        set.attach("a", config, &model, 0, &device).unwrap();
        let params = set.attached("a").unwrap().params();
        let keys = params.map(|param| param.key(Format::Peft, "a", &model).replace(".base_layer.", "."));
        let keys = keys.filter_map(|key| Some(key.strip_prefix("base_model.model.")?.to_owned()));
        let trained: BTreeSet<String> = keys.filter(|key| key.ends_with(".bias")).collect();
        for key in there.symmetric_difference(&trained) {
            match FROZEN.into_iter().find(|name| key.contains(name)) {
                Some(name) if there.contains(key) => {
                    frozen.insert(name);
                }
                _ => wrong.push(format!("{}: {key}", base.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        frozen,
        BTreeSet::from(FROZEN),
        "every name in the list is that of a bias"
    );
}
