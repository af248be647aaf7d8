//! What other tools call the fields of a configuration and of a recipe.

use adapters_nn::nearest;

/// Names of Hugging Face's `transformers` and `peft`, axolotl and AdapterHub, and what they are called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("all", "all-linear"),
    ("alpha", "lora_alpha"),
    ("base_model", "path"),
    ("batch", "batch_size"),
    ("cutoff_len", "max_length"),
    ("dropout", "lora_dropout"),
    ("early_stopping_patience", "early_stopping"),
    ("eval_steps", "evaluate_every"),
    ("gradient_accumulation", "accumulate"),
    ("gradient_accumulation_steps", "accumulate"),
    ("gradient_checkpointing_enable", "gradient_checkpointing"),
    ("load_in_8bit", "precision"),
    ("logging_steps", "log_every"),
    ("lora_alpha", "alpha"),
    ("lora_dropout", "dropout"),
    ("lora_r", "r"),
    ("lora_rank", "r"),
    ("loraplus_lr_ratio", "learning_rate_ratio"),
    ("lora_target_modules", "target_modules"),
    ("lr", "learning_rate"),
    ("lr_scheduler", "schedule"),
    ("lr_scheduler_type", "schedule"),
    ("max_grad_norm", "clip_norm"),
    ("max_len", "max_length"),
    ("max_seq_length", "max_length"),
    ("micro_batch_size", "batch_size"),
    ("model_name_or_path", "path"),
    ("num_epochs", "epochs"),
    ("num_train_epochs", "epochs"),
    ("optim", "optimizer"),
    ("output_dir", "dir"),
    ("per_device_eval_batch_size", "eval_batch_size"),
    ("per_device_train_batch_size", "batch_size"),
    ("qlora", "lora"),
    ("rank", "r"),
    ("sample_packing", "pack"),
    ("save_steps", "checkpoint_every"),
    ("sequence_len", "max_length"),
    ("target_module", "target_modules"),
    ("train_file", "train"),
    ("val_set_size", "validation_fraction"),
    ("validation_file", "validation"),
    ("warmup_ratio", "warmup"),
    ("warmup_steps", "warmup"),
];

/// The candidate that another tool calls `name`, or else the one nearest to it in spelling, if one is near enough to be a slip.
pub fn nearest_field<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    let is_meant = |candidate: &str| {
        let mut meant = OTHER_NAMES.iter();
        meant.any(|(other, ours)| name.eq_ignore_ascii_case(other) && *ours == candidate)
    };
    let mut known = candidates.clone().into_iter();
    match known.find(|candidate| is_meant(candidate)) {
        Some(known) => Some(known.to_owned()),
        None => nearest(name, candidates),
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
            assert_eq!(nearest_field(other, fields).as_deref(), Some(ours), "{other}");
        }
        assert_eq!(nearest_field("lr", ["weight_decay"]), None);
        assert_eq!(
            nearest_field("all", ["all-linear", "attention"]).as_deref(),
            Some("all-linear")
        );
    }
}
