//! The lines of a message about tensors that do not fit: what they have in common first, then the first of them.

use std::collections::BTreeSet;

use crate::TensorProblem;

/// Parts of the paths of tables with a row for each token.
const TABLES: [&str; 9] = [
    "embed_tokens",
    "lm_head",
    "word_embeddings",
    "tok_embeddings",
    "wte",
    "embed_in",
    "embed_out",
    "shared",
    "proj_out",
];

/// Heads that may share their weight with a table, by their keys.
const HEADS: [&str; 3] = ["lm_head.weight", "embed_out.weight", "proj_out.weight"];

/// Endings of keys that quantized checkpoints have, and the programs that write them.
const QUANTIZED: [(&str, &str); 7] = [
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
];

/// What is wrong with a file of which these are the problems.
pub(crate) fn kind(problems: &[TensorProblem]) -> &'static str {
    let is_finite = |problem: &TensorProblem| !matches!(problem, TensorProblem::NotFinite { .. });
    match problems.iter().any(is_finite) {
        true => "does not match the adapter and the model",
        false => "has numbers that are not finite",
    }
}

/// The problems in lines, at most twenty of them.
pub(crate) fn list(problems: &[TensorProblem]) -> String {
    const SHOWN: usize = 20;
    let cause = [quantized, tied_head, vocabulary, prefix, adapter_names, width]
        .iter()
        .find_map(|cause| cause(problems));
    let mut lines = cause.map(|cause| format!("\n  {cause}")).unwrap_or_default();
    lines.extend(problems.iter().take(SHOWN).map(|p| format!("\n  - {p}")));
    if let Some(more) = problems.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        lines.push_str(&format!("\n  and {more} more"));
    }
    lines
}

fn shapes(problems: &[TensorProblem]) -> impl Iterator<Item = (&str, &[usize], &[usize])> {
    problems.iter().filter_map(|problem| match problem {
        TensorProblem::Shape { key, expected, found } => Some((key.as_str(), &expected[..], &found[..])),
        _ => None,
    })
}

fn missing(problems: &[TensorProblem]) -> impl Iterator<Item = &str> {
    problems.iter().filter_map(|problem| match problem {
        TensorProblem::Missing { key, .. } => Some(key.as_str()),
        _ => None,
    })
}

fn unexpected(problems: &[TensorProblem]) -> impl Iterator<Item = &str> {
    problems.iter().filter_map(|problem| match problem {
        TensorProblem::Unexpected { key } => Some(key.as_str()),
        _ => None,
    })
}

/// A checkpoint that another program quantized.
fn quantized(problems: &[TensorProblem]) -> Option<String> {
    let by = |key: &str| QUANTIZED.iter().find(|(ending, _)| key.ends_with(ending));
    let (_, program) = unexpected(problems).find_map(by)?;
    Some(format!(
        "the weights were quantized with {program}, which is not read: use the checkpoint in its original precision; \
         `--precision int8` or `model.precision` quantizes it when it is loaded"
    ))
}

/// A head without a weight of its own.
fn tied_head(problems: &[TensorProblem]) -> Option<String> {
    let head = missing(problems).find(|key| HEADS.iter().any(|head| key.ends_with(head)))?;
    (problems.len() == 1).then(|| {
        format!(
            "the file has no weight for the head, `{head}`: if it shares that of the token embeddings, set `tie_word_embeddings` to \
             true in config.json"
        )
    })
}

/// A vocabulary of another size.
fn vocabulary(problems: &[TensorProblem]) -> Option<String> {
    shapes(problems).find_map(|(key, expected, found)| match (expected, found) {
        ([model, width], [file, other])
            if model != file && width == other && key.split('.').any(|part| TABLES.contains(&part)) =>
        {
            Some(format!(
                "the file has {file} rows for tokens, the model {model}: its vocabulary was extended or cut; extend the model's \
                 with `resize_token_embeddings({file})` of transformers, save it, and name that folder"
            ))
        }
        _ => None,
    })
}

/// Keys that have a component in front which those of the model lack, or the other way round.
fn prefix(problems: &[TensorProblem]) -> Option<String> {
    const PEFT: &str = "base_model.model.";
    let (wanted, found): (BTreeSet<&str>, BTreeSet<&str>) =
        (missing(problems).collect(), unexpected(problems).collect());
    let of_peft = |key: &&str| key.strip_prefix(PEFT).is_some_and(|rest| found.contains(rest));
    if wanted.iter().any(of_peft) {
        return Some(format!(
            "the keys begin without `{PEFT}`, which peft puts in front of them: save the adapter with `save_pretrained` of peft"
        ));
    }
    let mut beginnings = found.iter().filter_map(|key| key.split_once('.'));
    let (beginning, _) = beginnings.find(|(_, rest)| wanted.contains(rest))?;
    Some(format!(
        "the keys begin with `{beginning}.`, and those of this model do not: they are of another class of models, or of a program that \
         renames them"
    ))
}

/// Names of adapters in the keys, as a whole model's state dict has them.
fn adapter_names(problems: &[TensorProblem]) -> Option<String> {
    let wanted: BTreeSet<&str> = missing(problems).collect();
    let name = |key: &str| {
        let components: Vec<&str> = key.split('.').collect();
        let without = |at: usize| [&components[..at], &components[at + 1..]].concat().join(".");
        let at = (0..components.len()).find(|at| wanted.contains(without(*at).as_str()))?;
        Some(components[at].to_owned())
    };
    let names: BTreeSet<String> = unexpected(problems).filter_map(name).collect();
    if names.is_empty() {
        return None;
    }
    let names = names.into_iter().take(5).collect::<Vec<_>>().join("`, `");
    Some(format!(
        "the keys have the names of adapters in them, `{names}`, as those of a whole model in peft: save the adapter with \
         `save_pretrained` of peft, which takes them out"
    ))
}

/// Tensors of a model that is wider or narrower.
fn width(problems: &[TensorProblem]) -> Option<String> {
    let differences = |expected: &[usize], found: &[usize]| -> BTreeSet<(usize, usize)> {
        let pairs = expected.iter().copied().zip(found.iter().copied());
        pairs.filter(|(expected, found)| expected != found).collect()
    };
    let mut all = shapes(problems)
        .filter(|(_, expected, found)| expected.len() == found.len())
        .map(|(_, expected, found)| differences(expected, found));
    let (first, second) = (all.next()?, all.next()?);
    let common = first.intersection(&second).copied().collect();
    let common: BTreeSet<(usize, usize)> =
        all.fold(common, |common, pairs| common.intersection(&pairs).copied().collect());
    let (expected, found) = common.into_iter().next()?;
    Some(format!(
        "the file has {found} where the model has {expected}, in every tensor that differs: they are of models of another width"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(key: &str, expected: [usize; 2], found: [usize; 2]) -> TensorProblem {
        TensorProblem::Shape {
            key: key.to_owned(),
            expected: expected.to_vec(),
            found: found.to_vec(),
        }
    }

    fn lacks(key: &str) -> TensorProblem {
        TensorProblem::Missing {
            key: key.to_owned(),
            nearest: None,
        }
    }

    fn has(key: &str) -> TensorProblem {
        TensorProblem::Unexpected { key: key.to_owned() }
    }

    /// What the problems have in common is the first line, and only where they have it.
    #[test]
    fn the_likely_cause_is_said_before_the_tensors() {
        let of_width = [
            shape("q.lora_A.weight", [4, 16], [4, 32]),
            shape("q.lora_B.weight", [16, 4], [32, 4]),
        ];
        let cases: [(&[TensorProblem], &str); 9] = [
            (
                &[shape("model.embed_tokens.weight", [258, 16], [260, 16])],
                "260 rows for tokens, the model 258",
            ),
            (&of_width, "32 where the model has 16"),
            (
                &[
                    lacks("q.lora_A.weight"),
                    has("q.lora_A.a.weight"),
                    has("q.lora_A.b.weight"),
                ],
                "the names of adapters in them, `a`, `b`",
            ),
            (
                &[lacks("q.weight"), has("q.weight.absmax")],
                "quantized with bitsandbytes",
            ),
            (&[lacks("q.weight"), has("q.qweight")], "quantized with GPTQ"),
            (
                &[lacks("q.weight"), has("model.q.weight")],
                "the keys begin with `model.`",
            ),
            (
                &[lacks("base_model.model.q.lora_A.weight"), has("q.lora_A.weight")],
                "without `base_model.model.`",
            ),
            (&[lacks("lm_head.weight")], "`tie_word_embeddings`"),
            (&[has("x")], "\n  - `x` is not expected"),
        ];
        for (problems, said) in cases {
            let lines = list(problems);
            assert!(
                lines.trim_start().lines().next().unwrap().contains(said.trim_start()),
                "{lines}"
            );
        }
        for other in [
            &[shape("layers.0.q_proj.weight", [258, 16], [260, 16])][..],
            &[shape("model.embed_tokens.weight", [258, 16], [258, 32])],
            &[shape("a", [4, 16], [4, 32]), shape("b", [16, 4], [16, 8])],
            &[lacks("lm_head.weight"), lacks("q.weight")],
        ] {
            assert!(list(other).starts_with("\n  - "), "{}", list(other));
        }
    }

    #[test]
    fn twenty_problems_are_shown() {
        let problems: Vec<TensorProblem> = (0..25).map(|index| has(&format!("k{index}"))).collect();
        let lines = list(&problems);
        assert!(
            lines.contains("`k19`") && !lines.contains("`k20`") && lines.ends_with("and 5 more"),
            "{lines}"
        );
    }
}
