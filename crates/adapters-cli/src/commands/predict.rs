//! `adapters predict`

use std::io::{Read, stdin};

use adapters::train::{Dataset, EncodedData, Example, LabelKind};

use crate::args::PredictArgs;
use crate::failure::Failure;
use crate::loading;

/// Prints label, probability and text, one text a line.
pub fn run(args: PredictArgs) -> Result<(), Failure> {
    let loaded = loading::model(&args.model)?;
    let texts = if args.text.is_empty() { read_stdin()? } else { args.text };
    let example = |text: &String| Example {
        text: text.clone(),
        text_pair: None,
        label: None,
    };
    let data = Dataset {
        examples: texts.iter().map(example).collect(),
        path: "the command line".into(),
    };
    let encoded = EncodedData::new(&data, &loaded.tokenizer, loaded.model.base())?;
    let evaluation = loaded.model.evaluate(&encoded, 64, &loaded.device)?;
    for (text, logits) in texts.iter().zip(&evaluation.logits) {
        match loaded.label_kind {
            LabelKind::Class => {
                let (class, probability) = most_probable(logits);
                say!("{}\t{probability:.4}\t{text}", loaded.labels.name(class));
            }
            LabelKind::Number => say!("{:.4}\t{text}", logits.first().copied().unwrap_or(f32::NAN)),
            LabelKind::Several => {
                let with = logits.iter().enumerate().filter(|(_, score)| **score > 0.0);
                let names: Vec<String> = with.map(|(label, _)| loaded.labels.name(label)).collect();
                say!("{}\t{text}", names.join("|"));
            }
        }
    }
    Ok(())
}

fn read_stdin() -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    stdin()
        .read_to_string(&mut text)
        .map_err(|e| Failure::new(format!("cannot read standard input: {e}"), "name texts with --text"))?;
    let texts: Vec<String> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect();
    if texts.is_empty() {
        return Err(Failure::new(
            "no text to label",
            "name texts with --text, or give one a line on standard input",
        ));
    }
    Ok(texts)
}

/// The class with the largest logit and its softmax.
fn most_probable(logits: &[f32]) -> (usize, f32) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
    let class = logits.iter().position(|x| *x == max).unwrap_or(0);
    (class, sum.recip())
}
