//! Configurations of checkpoints and adapters as they are published (`published/`).

use std::fs;
use std::path::{Path, PathBuf};

use adapters::models::ARCHITECTURES;
use adapters_testkit::published::Published;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published")
}

fn read(name: &str) -> Published {
    Published::read(&folder().join(format!("{name}.json"))).unwrap()
}

/// A test each, so that they run beside each other and fail alone.
macro_rules! checked {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() {
            read($name).check();
        })*

        const CHECKED: &[&str] = &[$($name),*];
    };
}

checked!(
    albert: "albert",
    bart: "bart",
    beit: "beit",
    bert: "bert",
    bert_generation: "bert-generation",
    bge: "bge",
    clip: "clip",
    clip_text: "clip-text",
    clip_vision: "clip-vision",
    deberta: "deberta",
    deberta_v2: "deberta-v2",
    deberta_v3: "deberta-v3",
    dinov2: "dinov2",
    distilbert: "distilbert",
    electra: "electra",
    encoder_decoder: "encoder-decoder",
    flan_t5: "flan-t5",
    gemma2: "gemma2",
    gemma3: "gemma3",
    gemma3_270m: "gemma3-270m",
    gpt_neox: "gpt-neox",
    gpt_oss: "gpt-oss",
    gpt_oss_mxfp4: "gpt-oss-mxfp4",
    gpt2: "gpt2",
    gptj: "gptj",
    granite: "granite",
    llama: "llama",
    llama_3_2: "llama-3.2",
    mbart: "mbart",
    mistral: "mistral",
    mixtral: "mixtral",
    modernbert: "modernbert",
    mt5: "mt5",
    olmo2: "olmo2",
    opt: "opt",
    opt_350m: "opt-350m",
    phi: "phi",
    phi3: "phi3",
    phi3_128k: "phi3-128k",
    phi4_mini: "phi4-mini",
    plbart: "plbart",
    pythia: "pythia",
    qwen2: "qwen2",
    qwen3: "qwen3",
    qwen3_moe: "qwen3-moe",
    roberta: "roberta",
    siglip_vision: "siglip-vision",
    smollm3: "smollm3",
    t5: "t5",
    vit: "vit",
    wav2vec2: "wav2vec2",
    whisper: "whisper",
    whisper_audio: "whisper-audio",
    xlm_roberta: "xlm-roberta",
    xmod: "xmod",
);

#[test]
fn no_file_and_no_architecture_is_left_out() {
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().path().with_extension("");
        let name = name.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(CHECKED.contains(&name.as_str()), "{name}");
    }
    let configs: Vec<_> = CHECKED.iter().map(|name| read(name).config).collect();
    let published: Vec<_> = configs.iter().map(|config| config["model_type"].clone()).collect();
    let classes: Vec<_> = configs
        .iter()
        .filter_map(|config| config.get("architectures")?.get(0))
        .collect();
    for known in ARCHITECTURES {
        let class = known
            .class
            .is_none_or(|class| classes.iter().any(|named| *named == class));
        assert!(class, "{:?}", known.class);
        // XLM-RoBERTa has two spellings, of which one is published.
        let spelled = known.model_type.replace("xlm_roberta", "xlm-roberta");
        assert!(published.contains(&spelled.as_str().into()), "{}", known.model_type);
    }
}
