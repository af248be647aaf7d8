//! What other tools call the fields of a configuration and of a recipe.

use adapters_nn::nearest;

/// Names of Hugging Face's `transformers` and `peft`, axolotl and AdapterHub, and what they are called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("all", "all-linear"),
    ("base_model", "path"),
    ("batch", "batch_size"),
    ("cutoff_len", "max_length"),
    ("early_stopping_patience", "early_stopping"),
    ("eval_steps", "evaluate_every"),
    ("gradient_accumulation", "accumulate"),
    ("gradient_accumulation_steps", "accumulate"),
    ("gradient_checkpointing_enable", "gradient_checkpointing"),
    ("load_in_8bit", "precision"),
    ("logging_steps", "log_every"),
    ("lr", "learning_rate"),
    ("lr_ratio", "learning_rate_ratio"),
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
///
/// Many fields of published configurations begin with the name of a method, which is the only difference to others:
/// `x_dropout` is `dropout`, and the other way around.
pub fn nearest_field<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    let candidate = |fits: &dyn Fn(&str) -> bool| candidates.clone().into_iter().find(|known| fits(known));
    let renamed = |name: &str| {
        let mut ours = OTHER_NAMES.iter().filter(|(other, _)| name.eq_ignore_ascii_case(other));
        ours.find_map(|(_, ours)| candidate(&|known| known == *ours))
    };
    let without_method = |name: &str| {
        name.split_once('_')
            .map_or(String::new(), |(_, rest)| rest.to_lowercase())
    };
    let rest = without_method(name);
    let meant = renamed(name)
        .or_else(|| candidate(&|known| known == rest))
        .or_else(|| renamed(&rest))
        .or_else(|| candidate(&|known| without_method(known) == name.to_lowercase()));
    match meant {
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
            ("lr", "learning_rate"),
            ("method_alpha", "alpha"),
            ("method_rank", "r"),
            ("num_train_epochs", "epochs"),
            ("per_device_train_batch_size", "batch_size"),
        ] {
            assert_eq!(nearest_field(other, fields).as_deref(), Some(ours), "{other}");
        }
        assert_eq!(
            nearest_field("dropout", ["method_dropout"]).as_deref(),
            Some("method_dropout")
        );
        assert_eq!(nearest_field("lr", ["weight_decay"]), None);
        assert_eq!(
            nearest_field("all", ["all-linear", "attention"]).as_deref(),
            Some("all-linear")
        );
    }
}
