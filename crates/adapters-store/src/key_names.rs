//! Keys of adapter files as other programs and older versions wrote them, under today's names.

use std::collections::BTreeSet;

use adapters_core::Tensors;

/// What the first versions of AdapterHub's library called things, and what it reads them as.
const OLDER: [(&str, &str); 5] = [
    ("attention_text_task_adapters", "adapters"),
    ("attention_text_lang_adapters", "adapters"),
    ("layer_text_task_adapters", "adapters"),
    ("layer_text_lang_adapters", "adapters"),
    ("invertible_lang_adapters", "invertible_adapters"),
];

/// Gives keys of 2020 and 2021 the names that AdapterHub's library has now.
pub(crate) fn renew(tensors: Tensors) -> Tensors {
    let renewed = |key: String| OLDER.iter().fold(key, |key, (old, new)| key.replace(old, new));
    tensors.into_iter().map(|(key, data)| (renewed(key), data)).collect()
}

/// Takes the name of the adapter out of the keys of a model's whole state dict in peft: `lora_A.default.weight` is
/// `lora_A.weight` of a saved adapter. A name counts if it alone is between the components of keys that are `wanted`.
pub(crate) fn without_adapter_name(tensors: Tensors, wanted: &BTreeSet<String>) -> Tensors {
    let shorter = |key: &str| {
        let components: Vec<&str> = key.split('.').collect();
        let without = |at: usize| [&components[..at], &components[at + 1..]].concat().join(".");
        // A magnitude of DoRA is the weight of a layer there: `lora_magnitude_vector.default.weight`.
        let whole = |at: usize| match components[at + 1..] {
            ["weight"] => components[..at].join("."),
            _ => without(at),
        };
        let names = (0..components.len()).flat_map(|at| [(at, without(at)), (at, whole(at))]);
        let (at, key) = names.into_iter().find(|(_, key)| wanted.contains(key))?;
        Some((components[at].to_owned(), key))
    };
    let unknown = || tensors.keys().filter(|key| !wanted.contains(*key));
    let names: BTreeSet<String> = unknown().filter_map(|key| Some(shorter(key)?.0)).collect();
    if names.len() != 1 || unknown().count() != tensors.len() {
        return tensors;
    }
    let renamed = tensors.into_iter().map(|(key, data)| match shorter(&key) {
        Some((_, key)) => (key, data),
        None => (key, data),
    });
    renamed.collect()
}

/// Takes out what peft stores of a module next to its copy: the copy again, with a resized vocabulary
/// (`embed_tokens.modules_to_save.weight` next to `embed_tokens.weight`) or as a bias where all of them train, and the bias that the copy
/// stands in place of (`original_module.bias`). A second copy with other values stays, and is refused with everything else that is not
/// expected.
pub(crate) fn without_second_names(mut tensors: Tensors) -> Tensors {
    let second = |key: &String| {
        let first = tensors.get(&key.replacen(".modules_to_save.", ".", 1));
        key.contains(".modules_to_save.") && first == tensors.get(key)
    };
    let replaced = |key: &String| {
        key.ends_with(".original_module.bias") && tensors.contains_key(&key.replace(".original_module.", "."))
    };
    let repeated: Vec<String> = tensors
        .keys()
        .filter(|key| second(key) || replaced(key))
        .cloned()
        .collect();
    for key in repeated {
        tensors.remove(&key);
    }
    tensors
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn keyed(keys: &[&str]) -> Tensors {
        let tensor = || TensorData::from([1.0f32]);
        keys.iter().map(|key| ((*key).to_owned(), tensor())).collect()
    }

    #[test]
    fn one_name_in_all_keys_is_the_adapters() {
        let wanted = BTreeSet::from(["q.lora_A.weight".to_owned(), "q.lora_B.weight".to_owned()]);
        let read = |keys: &[&str]| {
            without_adapter_name(keyed(keys), &wanted)
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            read(&["q.lora_A.default.weight", "q.lora_B.default.weight"]),
            ["q.lora_A.weight", "q.lora_B.weight"]
        );
        let magnitude = BTreeSet::from(["q.lora_magnitude_vector".to_owned()]);
        let read = without_adapter_name(keyed(&["q.lora_magnitude_vector.default.weight"]), &magnitude);
        assert_eq!(read, keyed(&["q.lora_magnitude_vector"]));
        let read = |keys: &[&str]| {
            without_adapter_name(keyed(keys), &wanted)
                .into_keys()
                .collect::<Vec<_>>()
        };
        for kept in [
            ["q.lora_A.a.weight", "q.lora_B.b.weight"],
            ["q.lora_A.a.weight", "q.lora_A.weight"],
        ] {
            assert_eq!(read(&kept), kept);
        }
    }

    #[test]
    fn a_second_copy_of_a_table_is_left_out() {
        let biases = keyed(&["n.bias", "n.modules_to_save.bias", "n.original_module.bias"]);
        assert_eq!(without_second_names(biases), keyed(&["n.bias"]));
        let mut tensors = keyed(&["e.modules_to_save.weight", "e.weight", "h.modules_to_save.weight"]);
        assert_eq!(
            without_second_names(tensors.clone()),
            keyed(&["e.weight", "h.modules_to_save.weight"])
        );
        tensors.insert("e.weight".to_owned(), TensorData::from([2.0f32]));
        assert_eq!(without_second_names(tensors.clone()), tensors);
    }

    #[test]
    fn keys_of_the_first_hub_have_todays_names() {
        let renewed = renew(keyed(&[
            "bert.encoder.layer.0.output.layer_text_task_adapters.sst.adapter_up.bias",
        ]));
        assert_eq!(
            renewed,
            keyed(&["bert.encoder.layer.0.output.adapters.sst.adapter_up.bias"])
        );
    }
}
