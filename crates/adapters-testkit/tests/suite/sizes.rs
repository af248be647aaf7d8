//! Sizes of adapters that are well formed and beyond all memory: refused before anything is built of them.

use std::error::Error as StdError;
use std::fs;
use std::path::Path;

use adapters::models::{Model, Pretrained};
use adapters::store::{LoadOptions, StoreError, load_adapter};
use adapters::{AdapterSet, METHODS, method};
use burn::tensor::Device;
use serde_json::Value;

fn golden(model: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(model)
}

fn base(model: &str) -> Model {
    let found = Pretrained::open(golden(model).join("base")).unwrap();
    found.model(&Device::flex()).unwrap()
}

/// Each number is in its range, and what they make together is not.
#[test]
fn numbers_that_ask_for_too_much_together_are_refused_by_name() {
    let (bert, llama) = (base("bert"), base("llama"));
    for (config, named) in [
        ("vblora[r=4,num_vectors=70000,vector_length=8]", "num_vectors"),
        ("vblora[r=60000,num_vectors=60000,vector_length=8]", "r x num_vectors"),
        (
            "vblora[r=4,num_vectors=60000,vector_length=60000]",
            "num_vectors x vector_length",
        ),
        ("unilora[r=70000]", "`r`"),
        ("unilora[theta_d_length=9223372036854775807]", "theta_d_length"),
        ("randlora[r=9223372036854775807]", "`r`"),
        ("pvera[r=9223372036854775807]", "`r`"),
        ("tinylora[r=60000,u=60000]", "u x r x r"),
        ("peanut[r=60000,depth=60]", "depth x r x r"),
        ("peanut[r=1,depth=9223372036854775807]", "depth"),
        ("poly[r=60000,n_skills=60000]", "n_skills x r"),
        (
            "poly[n_tasks=60000,n_skills=60000,r=1]",
            "n_tasks x n_skills x n_splits",
        ),
        ("mtl_lora[r=60000,n_up_projection=60000]", "n_up_projection x r"),
        ("mtl_lora[r=60000]", "r x r"),
        ("vera[r=60000]", "r x r"),
        ("compacter[phm_dim=9223372036854775807]", "phm_dim"),
        ("compacter[phm_dim=4,phm_rank=9223372036854775807]", "phm_rank"),
        ("compacter[phm_dim=4096]", "phm_dim x phm_dim"),
        ("lily[r=60000,num_B=60000]", "num_B x r"),
        ("monteclora[r=60000]", "r x r"),
        ("gralora[r=4,gralora_k=2,hybrid_r=70000]", "hybrid_r"),
        ("supertuning[r=70000]", "`r`"),
        (
            "oft[oft_block_size=4,num_cayley_neumann_terms=9223372036854775807]",
            "num_cayley_neumann_terms",
        ),
        (
            "psoft[r=4,num_cayley_neumann_terms=9223372036854775807]",
            "num_cayley_neumann_terms",
        ),
        (
            "p_tuning[encoder_hidden_size=60000]",
            "encoder_hidden_size x encoder_hidden_size",
        ),
        (
            "multitask_prompt_tuning[num_tasks=60000,num_ranks=60000]",
            "num_tasks x num_ranks",
        ),
        ("xlora[xlora_depth=60000,xlora_size=60000]", "xlora_depth x xlora_size"),
        (
            "shadow[shadow_num_hidden_layers=4000,shadow_intermediate_size=60000]",
            "layers would have",
        ),
    ] {
        for host in [&bert, &llama] {
            let attached = method(config).map(|method| AdapterSet::new().attach("a", method, host, 0, &Device::flex()));
            let error = match attached {
                Err(error) | Ok(Err(error)) => {
                    let why = error.source().map_or(String::new(), ToString::to_string);
                    format!("{error}: {why}")
                }
                Ok(Ok(_)) => panic!("{config} was built"),
            };
            // An encoder has no place for it.
            let absent = config.starts_with("shadow") && error.contains("matches nothing");
            assert!(error.contains(named) || absent, "{config}: {error}");
        }
    }
}

/// A file says how much it has, which the sizes of its configuration are compared with while the layers are made.
#[test]
fn a_configuration_that_asks_for_far_more_than_its_file_has_is_refused_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let from = golden("bert").join("cases/lora_all/adapters/a");
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let model = base("bert");
    for (rank, is_far) in [(16, false), (65536, true)] {
        config["config"]["r"] = rank.into();
        fs::write(&path, config.to_string()).unwrap();
        let options = LoadOptions::default();
        let loaded = load_adapter(
            dir.path(),
            &mut AdapterSet::new(),
            &model,
            &METHODS,
            &options,
            &Device::flex(),
        );
        match loaded.unwrap_err() {
            StoreError::ConfigFile { path, source } => {
                let why = source.source().map_or(source.to_string(), ToString::to_string);
                assert!(is_far && path.ends_with("adapter_config.json"), "{why}");
                assert!(why.contains("numbers"), "{why}");
            }
            // One by one, by the names of the tensors.
            StoreError::Mismatch { problems, .. } => assert!(!is_far && problems.len() > 3, "{problems:?}"),
            other => panic!("{other}"),
        }
    }
}
