//! Every bottleneck `config` of the reference's files, where the golden folder is at hand.
//! The folder is `ADAPTERS_GOLDEN_DIR`, or `shared/golden` beside the workspace.

use adapters_bottleneck::BottleneckConfig;
use serde_json::Value;
use std::path::Path;

#[test]
fn golden_files_are_written_back_as_read() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden");
    let root = std::env::var("ADAPTERS_GOLDEN_DIR").unwrap_or_else(|_| default.to_owned());
    let entries = |path: &Path| -> Vec<_> {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect()
    };
    let mut seen = 0;
    for case in entries(root.as_ref())
        .iter()
        .flat_map(|model| entries(&model.join("cases")))
    {
        for adapter in entries(&case.join("adapters")) {
            let Ok(text) = std::fs::read_to_string(adapter.join("adapter_config.json")) else {
                continue;
            };
            let file: Value = serde_json::from_str(&text).expect("golden JSON");
            let parts = file["config"]["configs"].as_array().cloned();
            for config in parts.unwrap_or_else(|| vec![file["config"].clone()]) {
                if config["mh_adapter"].is_boolean() {
                    let read: BottleneckConfig =
                        serde_json::from_value(config.clone()).unwrap_or_else(|error| panic!("{config}: {error}"));
                    assert_eq!(
                        serde_json::to_value(read).expect("plain data"),
                        config,
                        "{}",
                        adapter.display()
                    );
                    seen += 1;
                }
            }
        }
    }
    assert!(
        seen > 0 || !Path::new(&root).exists(),
        "no bottleneck config under {root}"
    );
}
