//! The decisions of PARITY.md that explain a difference.

use std::path::Path;

use adapters::store::read_json;
use burn::tensor::TensorData;
use serde_json::Value;

use crate::golden::case::Case;
use crate::golden::compare::each_element;
use crate::golden::model::Inputs;

/// The decision about prefixes that the reference leaves out.
pub(super) const PREFIX_UNDER_SDPA: &str =
    "PARITY D26, prefixes act whatever the kernel: under its sdpa kernel the reference leaves this one out";

/// Whether the reference ran a method of this architecture under the kernel that lets prompts see padding and leaves the
/// prefixes of some models out.
pub(super) fn is_under_sdpa(architecture: &str, case: &Case, dir: &Path) -> bool {
    case.attn_implementation.as_deref() == Some("sdpa") && has_architecture(architecture, case, dir)
}

/// Whether an adapter of AdapterHub's library is of this architecture.
fn has_architecture(architecture: &str, case: &Case, dir: &Path) -> bool {
    let mut folders = case.adapters.values().filter_map(Value::as_str);
    folders.any(|folder| {
        let config = read_json::<Value>(&dir.join(folder).join("adapter_config.json"));
        config.is_ok_and(|config| config["config"]["architecture"] == architecture)
    })
}

/// Whether the reference lets prompts see padding: under its sdpa kernel, and in DeBERTa.
pub(super) fn prompts_see_padding(case: &Case, dir: &Path) -> bool {
    let always = case.model_class.starts_with("Deberta") && has_architecture("prompt_tuning", case, dir);
    always || is_under_sdpa("prompt_tuning", case, dir)
}

/// The decision of PARITY.md that explains a difference: what is wrong in the reference is not reproduced. For wrong
/// gradients it explains problems with gradients alone; for prompts that see padding, those of padded rows alone.
pub(super) fn decided(dir: &Path, problems: &[String]) -> Option<String> {
    const PROMPTS: &str =
        "PARITY D25, prompts see no padding: under its sdpa kernel, and in DeBERTa, the reference lets them";
    const WRONG_GRADIENTS: &[(&str, &str, &str)] = &[
        (
            "peft_type",
            "C3A",
            "PARITY D20: the reference's gradient with respect to a layer's input is not the derivative",
        ),
        (
            "use_effective_conv2d",
            "LOHA",
            "PARITY D20: the reference's gradient of a factor is computed from the other product",
        ),
    ];
    const ADDED_MASK: &str = "PARITY D42: under its sdpa kernel the reference adds the mask to DistilBERT's scores";
    let case: Case = read_json(&dir.join("case.json")).ok()?;
    let folder = case.adapters.values().next()?.as_str()?;
    let config: Value = read_json(&dir.join(folder).join("adapter_config.json")).ok()?;
    let extends_mask = ["prefix_tuning", "prompt_tuning"];
    if case.model_class.starts_with("DistilBert") && extends_mask.iter().any(|of| is_under_sdpa(of, &case, dir)) {
        return Some(ADDED_MASK.to_owned());
    }
    if prompts_see_padding(&case, dir) {
        let padded_rows = |problem: &String| !problem.starts_with("a row without padding");
        return problems.iter().all(padded_rows).then(|| PROMPTS.to_owned());
    }
    let (.., decision) = WRONG_GRADIENTS.iter().find(|(field, peft_type, _)| {
        config["peft_type"] == *peft_type && config[field].as_bool() != Some(false) && !config[field].is_null()
    })?;
    let gradients = |problem: &String| problem.starts_with("grad/") || problem.ends_with("more gradients");
    problems.iter().all(gradients).then(|| (*decision).to_owned())
}

/// Whether the outputs of the rows that have no padding are right.
pub(super) fn full_rows_equal(got: &TensorData, want: &TensorData, case: &Case, inputs: &Inputs) -> bool {
    let Some(padded) = inputs.padded() else {
        return each_element(got, want, case.output_tolerance()).within;
    };
    let rows = |data: &TensorData| {
        let all: Vec<f32> = data.iter().collect();
        let size = all.len() / padded.len();
        let full = all.chunks(size).zip(&padded).filter(|(_, padded)| **padded == 0);
        let values: Vec<f32> = full.flat_map(|(row, _)| row.iter().copied()).collect();
        let count = values.len();
        TensorData::new(values, [count])
    };
    padded.contains(&0) && each_element(&rows(got), &rows(want), case.output_tolerance()).within
}
