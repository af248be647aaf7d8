//! Names from a closed list, and the error for a name that is not in it.

/// A name that is not in its list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{found}`{}; known: {known}", did_you_mean(.nearest))]
pub struct UnknownName {
    /// What was named, e.g. `"activation"`.
    pub what: &'static str,
    /// The name.
    pub found: String,
    /// The known name that is spelled most alike.
    pub nearest: Option<String>,
    /// All known names, joined by commas.
    pub known: String,
}

impl UnknownName {
    /// The error for `found`, which is none of `known`.
    pub fn new<'a>(what: &'static str, found: impl Into<String>, known: impl IntoIterator<Item = &'a str>) -> Self {
        let (found, known) = (found.into(), known.into_iter().collect::<Vec<_>>());
        Self {
            what,
            nearest: nearest(&found, known.iter().copied()),
            known: known.join(", "),
            found,
        }
    }
}

/// Names that other programs have, and what they are called here; the first that is among the candidates counts.
const ALIASES: &[(&str, &[&str])] = &[
    ("all", &["all-linear"]),
    ("alpha", &["lora_alpha"]),
    ("base_model", &["path"]),
    ("batch", &["batch_size"]),
    ("cutoff_len", &["max_length"]),
    ("dropout", &["lora_dropout"]),
    ("early_stopping_patience", &["early_stopping"]),
    ("eval_steps", &["evaluate_every"]),
    ("gradient_accumulation", &["accumulate"]),
    ("gradient_accumulation_steps", &["accumulate"]),
    ("gradient_checkpointing_enable", &["gradient_checkpointing"]),
    ("load_in_8bit", &["precision"]),
    ("logging_steps", &["log_every"]),
    ("lora_alpha", &["alpha"]),
    ("lora_dropout", &["dropout"]),
    ("lora_r", &["r"]),
    ("lora_rank", &["r"]),
    ("loraplus_lr_ratio", &["learning_rate_ratio"]),
    ("lora_target_modules", &["target_modules"]),
    ("lr", &["learning_rate"]),
    ("lr_scheduler", &["schedule"]),
    ("lr_scheduler_type", &["schedule"]),
    ("max_grad_norm", &["clip_norm"]),
    ("max_len", &["max_length"]),
    ("max_seq_length", &["max_length"]),
    ("micro_batch_size", &["batch_size"]),
    ("model_name_or_path", &["path"]),
    ("num_epochs", &["epochs"]),
    ("num_train_epochs", &["epochs"]),
    ("optim", &["optimizer"]),
    ("output_dir", &["dir"]),
    ("per_device_eval_batch_size", &["eval_batch_size"]),
    ("per_device_train_batch_size", &["batch_size"]),
    ("qlora", &["lora"]),
    ("rank", &["r"]),
    ("sample_packing", &["pack"]),
    ("save_steps", &["checkpoint_every"]),
    ("sequence_len", &["max_length"]),
    ("target_module", &["target_modules"]),
    ("train_file", &["train"]),
    ("val_set_size", &["validation_fraction"]),
    ("validation_file", &["validation"]),
    ("warmup_ratio", &["warmup"]),
    ("warmup_steps", &["warmup"]),
];

/// The candidate that other programs call `name`, else the one nearest to it in spelling, if one is near enough to be a slip.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // No name is as long, and the comparison takes quadratic time.
    if name.len() > 256 {
        return None;
    }
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let aliases = ALIASES.iter().find(|(other, _)| name.eq_ignore_ascii_case(other));
    let mut aliases = aliases.into_iter().flat_map(|(_, ours)| *ours);
    if let Some(alias) = aliases.find(|ours| candidates.contains(ours)) {
        return Some((*alias).to_owned());
    }
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(&name.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c.to_owned())
}

/// ``; did you mean `x`?`` or nothing.
pub fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_programs_are_known() {
        let fields = [
            "path",
            "r",
            "alpha",
            "learning_rate",
            "epochs",
            "batch_size",
            "rank_pattern",
        ];
        for (other, ours) in [
            ("rank", "r"),
            ("lora_alpha", "alpha"),
            ("lr", "learning_rate"),
            ("num_train_epochs", "epochs"),
            ("per_device_train_batch_size", "batch_size"),
        ] {
            assert_eq!(nearest(other, fields).as_deref(), Some(ours), "{other}");
        }
        assert_eq!(nearest("lr", ["weight_decay"]), None);
        assert_eq!(
            nearest("all", ["all-linear", "attention"]).as_deref(),
            Some("all-linear")
        );
    }

    #[test]
    fn nearest_ignores_case_and_gives_up_on_other_words() {
        let blocks = [
            "Stack",
            "Fuse",
            "Split",
            "BatchSplit",
            "Parallel",
            "Average",
            "MultiTask",
        ];
        let near = |word: &str| nearest(word, blocks);
        assert_eq!(near("stack").as_deref(), Some("Stack"));
        assert_eq!(near("Paralel").as_deref(), Some("Parallel"));
        assert_eq!(near("batch_split").as_deref(), Some("BatchSplit"));
        assert_eq!(near("houlsby"), None);
        assert_eq!(near(&"Stack".repeat(100)), None);
    }
}
