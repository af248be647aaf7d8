//! `adapters eval`

use std::collections::BTreeMap;
use std::path::PathBuf;

use adapters::core::Tensors;
use adapters::models::Head;
use adapters::models::heads::HeadKind;
use adapters::store::write_safetensors;
use adapters::train::{Confusion, Records, draw_confusion};
use burn::tensor::TensorData;
use serde_json::json;

use crate::args::EvalArgs;
use crate::failure::Failure;
use crate::folders;
use crate::loading::{self, Loaded};

/// How the header of a file of scores begins.
const SCORES: &str = r#"{"__metadata__":{"format":"pt"},"logits":"#;

/// Scores, prints the figures, writes the logits.
pub(crate) fn run(args: EvalArgs) -> Result<(), Failure> {
    let mut loaded = loading::model(&args.model)?;
    if args.generate && !loaded.task.is_generative {
        return Err(Failure::new(
            format!("--generate is given, and {} writes no answers", loaded.task.name),
            "leave it out for this task",
        ));
    }
    let pictures = check_outputs(&args, &loaded)?;
    loaded.write_answers(args.generate);
    let fields = loaded.fields();
    fields.text = args.text_field;
    fields.label = args.label_field;
    fields.image = args.image_field;
    fields.audio = args.audio_field;
    let records = Records::read(&args.data, fields)?;
    let data = loaded.examples(&records, true)?;
    note!("{}", loaded.report);
    let evaluation = loaded.evaluate(&*data, args.batch)?;
    if args.json {
        let (metric, score) = evaluation.main().unzip();
        let confusion = evaluation.figures.confusion.as_ref();
        let confusion = confusion.filter(|confusion| confusion.labels().len() <= Confusion::WRITTEN);
        let figures = json!({
            "task": loaded.task.name,
            "metric": metric,
            "score": score,
            "loss": evaluation.loss,
            "figures": evaluation.figures.values.iter().copied().collect::<BTreeMap<_, _>>(),
            "f1_of_labels": evaluation.figures.of_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            "confusion": confusion.map(|confusion| {
                json!({"labels": confusion.labels(), "counts": confusion.rows().map(|(_, counts)| counts).collect::<Vec<_>>()})
            }),
            "examples": data.lengths().len(),
            "truncated": data.truncated(),
        });
        say!("{figures}");
    } else {
        for (name, value) in &evaluation.figures.values {
            say!("{name} {value:.4}");
        }
        say!("loss {:.4}", evaluation.loss);
        say!("examples {}", data.lengths().len());
        for (label, f1) in &evaluation.figures.of_labels {
            say!("f1 of {label} {f1:.4}");
        }
        let confusion = evaluation.figures.confusion.as_ref();
        if let Some(confusion) = confusion.filter(|confusion| confusion.labels().len() <= Confusion::SHOWN) {
            say!("\n{confusion}");
        }
    }
    if let (Some([svg, png]), Some(confusion)) = (&pictures, &evaluation.figures.confusion) {
        draw_confusion("Classes and predictions", confusion, svg, png)?;
        note!("wrote {} and {}", svg.display(), png.display());
    }
    if let Some(path) = &args.logits {
        let rows = evaluation.outputs.len();
        let values: Vec<f32> = evaluation
            .outputs
            .into_iter()
            .flat_map(|outputs| outputs.values)
            .collect();
        let shape = [rows, values.len() / rows.max(1)];
        let tensors = Tensors::from([("logits".to_owned(), TensorData::new(values, shape))]);
        write_safetensors(path, &tensors, [])?;
        note!("wrote {}", path.display());
    }
    Ok(())
}

/// The files of the picture of the confusion table, if one is asked for. Files that the task has nothing for, or that may not be
/// replaced, are refused.
fn check_outputs(args: &EvalArgs, loaded: &Loaded) -> Result<Option<[PathBuf; 2]>, Failure> {
    let task = loaded.task.name;
    let refuse = |why: String| Failure::new(why, "leave it out for this task");
    let head = loaded.model.head.as_ref().map(Head::config);
    if let Some(path) = &args.logits {
        match head.map(|head| &head.kind) {
            None | Some(HeadKind::LanguageModel { .. }) => {
                let why = format!("--logits is given, and {task} has no head whose scores could be written");
                return Err(refuse(why));
            }
            Some(HeadKind::Tagging | HeadKind::QuestionAnswering) => {
                let why = format!("--logits is given, and {task} has as many outputs as an input has tokens");
                return Err(refuse(why));
            }
            // The header, behind the eight bytes of its length, begins with the scores.
            _ => folders::check_file(path, |bytes| {
                bytes
                    .get(8..)
                    .is_some_and(|header| header.starts_with(SCORES.as_bytes()))
            })?,
        }
    }
    let Some(path) = &args.confusion else { return Ok(None) };
    let has_table = head.is_some_and(|head| {
        matches!(head.kind, HeadKind::Classification { .. } | HeadKind::Tagging)
            && (2..=Confusion::SHOWN).contains(&head.labels.len())
    });
    if !has_table {
        return Err(refuse(format!(
            "--confusion is given, and {task} of this head has no table of at most {} classes",
            Confusion::SHOWN
        )));
    }
    let files = ["svg", "png"].map(|ending| path.with_added_extension(ending));
    let data = args.data.canonicalize().ok().filter(|data| data.is_dir());
    for (file, begins) in files.iter().zip([&b"<svg"[..], b"\x89PNG"]) {
        // A picture in a folder of data is one of the data.
        let place = data.as_ref().zip(file.canonicalize().ok());
        let of_data = place.is_some_and(|(data, file)| file.starts_with(data));
        folders::check_file(file, |bytes| bytes.starts_with(begins) && !of_data)?;
    }
    Ok(Some(files))
}
