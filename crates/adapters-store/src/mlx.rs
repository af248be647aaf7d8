//! Adapters of mlx-lm, read as LoRA of peft.
//!
//! mlx-lm computes `y = x W + scale (x A) B` with `lora_a: [d_in, rank]` and `lora_b: [rank, d_out]`, and keeps both in
//! `adapters.safetensors` under the paths of the modules. Its configuration names a number of layers; which modules are adapted,
//! the keys tell.

use std::path::{Path, PathBuf};

use adapters_core::{ConfigError, Error, Format, Tensors};
use burn::tensor::{DType, TensorData};
use serde_json::{Map, Value, json};

use crate::{StoreError, read_json, read_safetensors};

const WEIGHTS: &str = "adapters.safetensors";

/// An adapter of mlx-lm in the form of peft.
pub(crate) struct MlxAdapter {
    /// As in `adapter_config.json` of peft.
    pub(crate) config: Map<String, Value>,
    /// The file of the weights.
    pub(crate) weights: PathBuf,
    /// Under the keys and with the shapes of peft.
    pub(crate) tensors: Tensors,
}

/// Reads the folder; `None` for one of another tool.
///
/// # Errors
///
/// [`StoreError::ConfigFile`] for kinds of training other than LoRA, otherwise [`StoreError`] for the files.
pub(crate) fn read(dir: &Path) -> Result<Option<MlxAdapter>, StoreError> {
    let path = dir.join("adapter_config.json");
    let file: Map<String, Value> = read_json(&path)?;
    let parameters = match file.get("lora_parameters") {
        Some(Value::Object(parameters)) if !file.contains_key("peft_type") => parameters,
        _ => return Ok(None),
    };
    let refuse = |field, found: &dyn ToString, expected: &'static str| StoreError::ConfigFile {
        path: path.clone(),
        source: Box::new(Error::Config {
            method: "mlx-lm",
            source: Box::new(ConfigError::OutOfRange {
                field,
                expected,
                found: found.to_string(),
            }),
        }),
    };
    let kind = file.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
    if kind != "lora" {
        return Err(refuse(
            "fine_tune_type",
            &kind,
            "lora; fuse the adapter with `mlx_lm.fuse` instead",
        ));
    }
    let Some(scale) = parameters.get("scale").and_then(Value::as_f64) else {
        let found = parameters.get("scale").unwrap_or(&Value::Null);
        return Err(refuse("lora_parameters.scale", found, "a number"));
    };
    let weights = dir.join(WEIGHTS);
    let (found, _) = read_safetensors(&weights)?;
    let (mut tensors, mut modules, mut rank) = (Tensors::new(), Vec::new(), 0);
    for (key, data) in found {
        let split = [(".lora_a", "lora_A"), (".lora_b", "lora_B")];
        let part = split
            .into_iter()
            .find_map(|(end, name)| Some((key.strip_suffix(end)?, name)));
        let (Some((module, name)), &[rows, cols]) = (part, &data.shape().to_vec()[..]) else {
            // What it is, the list of unexpected tensors says.
            tensors.insert(key, data);
            continue;
        };
        if name == "lora_A" {
            modules.push(Value::from(module));
            rank = cols;
        }
        let key = format!("{}{module}.{name}.weight", Format::Peft.key_prefix());
        tensors.insert(key, transposed(data, rows, cols));
    }
    let config = json!({
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": scale * rank as f64,
        "lora_dropout": parameters.get("dropout").cloned().unwrap_or(json!(0.0)),
        "target_modules": modules,
    });
    Ok(Some(MlxAdapter {
        config: config.as_object().cloned().unwrap_or_default(),
        weights,
        tensors,
    }))
}

/// A matrix with rows and columns exchanged, in 32 bits.
fn transposed(data: TensorData, rows: usize, cols: usize) -> TensorData {
    let data = data.convert_dtype(DType::F32);
    let values: Vec<f32> = data.iter().collect();
    let column = |col| (0..rows).map(move |row| (row, col));
    let turned = (0..cols).flat_map(column).map(|(row, col)| values[row * cols + col]);
    TensorData::new(turned.collect::<Vec<f32>>(), [cols, rows])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{write_json, write_safetensors};

    #[test]
    fn factors_are_turned_and_the_scale_is_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = |kind: &str| json!({"fine_tune_type": kind, "lora_parameters": {"rank": 2, "scale": 20.0}});
        let write = |kind| write_json(&dir.path().join("adapter_config.json"), &config(kind)).unwrap();
        let module = "model.layers.1.self_attn.q_proj";
        let tensors = Tensors::from([
            (
                format!("{module}.lora_a"),
                TensorData::from([[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]]),
            ),
            (format!("{module}.lora_b"), TensorData::from([[1.0f32], [2.0]])),
        ]);
        write_safetensors(&dir.path().join(WEIGHTS), &tensors, []).unwrap();
        write("lora");
        let read_as = read(dir.path()).unwrap().unwrap();
        assert_eq!(read_as.config["r"], 2);
        assert_eq!(read_as.config["lora_alpha"], 40.0);
        assert_eq!(read_as.config["target_modules"], json!([module]));
        let key = format!("base_model.model.{module}.lora_A.weight");
        assert_eq!(
            read_as.tensors[&key],
            TensorData::from([[1.0f32, 3.0, 5.0], [2.0, 4.0, 6.0]])
        );
        write("dora");
        let refused = read(dir.path()).err().unwrap();
        assert!(matches!(refused, StoreError::ConfigFile { .. }), "{refused}");
        write_json(&dir.path().join("adapter_config.json"), &json!({"peft_type": "LORA"})).unwrap();
        assert!(read(dir.path()).unwrap().is_none());
    }
}
