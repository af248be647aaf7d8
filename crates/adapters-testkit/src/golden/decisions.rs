//! Decisions of PARITY.md that explain why a case of the reference is not reproduced.

use std::path::Path;

use adapters::store::read_json;
use serde_json::Value;

use crate::golden::case::Case;

/// The decision about prefixes that the reference leaves out.
pub(crate) const PREFIX_UNDER_SDPA: &str =
    "PARITY D26, prefixes act whatever the kernel: under its sdpa kernel the reference leaves this one out";

/// Whether the reference ran a method of this architecture under the kernel that lets prompts see padding and leaves the
/// prefixes of some models out.
pub(crate) fn is_under_sdpa(architecture: &str, case: &Case, dir: &Path) -> bool {
    let mut folders = case.adapters.values().filter_map(Value::as_str);
    case.attn_implementation.as_deref() == Some("sdpa")
        && folders.any(|folder| {
            let config = read_json::<Value>(&dir.join(folder).join("adapter_config.json"));
            config.is_ok_and(|config| config["config"]["architecture"] == architecture)
        })
}

/// The decision of PARITY.md that explains a difference: what is wrong in the reference is not reproduced. For wrong
/// gradients it explains problems with gradients alone; for prompts that see padding, those of padded rows alone.
pub(crate) fn decided(dir: &Path, problems: &[String]) -> Option<String> {
    const PROMPTS_UNDER_SDPA: &str =
        "PARITY D25, prompts see no padding: under its sdpa kernel the reference lets them";
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
    if is_under_sdpa("prompt_tuning", &case, dir) {
        let padded_rows = |problem: &String| !problem.starts_with("a row without padding");
        return problems.iter().all(padded_rows).then(|| PROMPTS_UNDER_SDPA.to_owned());
    }
    let (.., decision) = WRONG_GRADIENTS.iter().find(|(field, peft_type, _)| {
        config["peft_type"] == *peft_type && config[field].as_bool() != Some(false) && !config[field].is_null()
    })?;
    let gradients = |problem: &String| problem.starts_with("grad/") || problem.ends_with("more gradients");
    problems.iter().all(gradients).then(|| (*decision).to_owned())
}
