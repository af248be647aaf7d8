//! `adapters eval`

use std::collections::BTreeMap;

use adapters::core::Tensors;
use adapters::store::write_safetensors;
use adapters::train::{Confusion, Records, draw_confusion};
use burn::tensor::TensorData;
use serde_json::json;

use crate::args::EvalArgs;
use crate::failure::Failure;
use crate::{folders, loading};

/// Scores, prints the figures, writes the logits.
pub(crate) fn run(args: EvalArgs) -> Result<(), Failure> {
    let mut loaded = loading::model(&args.model)?;
    if args.generate && !loaded.task.is_generative {
        return Err(Failure::new(
            format!("--generate is given, and {} writes no answers", loaded.task.name),
            "leave it out for this task",
        ));
    }
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
        let figures = json!({
            "task": loaded.task.name,
            "metric": metric,
            "score": score,
            "loss": evaluation.loss,
            "figures": evaluation.figures.values.iter().copied().collect::<BTreeMap<_, _>>(),
            "f1_of_labels": evaluation.figures.of_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            "confusion": evaluation.figures.confusion.as_ref().map(|confusion| {
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
    if let Some(path) = &args.confusion {
        let confusion = evaluation.figures.confusion.as_ref();
        let Some(confusion) = confusion.filter(|confusion| confusion.labels().len() <= Confusion::SHOWN) else {
            return Err(Failure::new(
                format!(
                    "--confusion is given, and {} of this head has no table of at most {} classes",
                    loaded.task.name,
                    Confusion::SHOWN
                ),
                "leave it out for this task",
            ));
        };
        let [svg, png] = ["svg", "png"].map(|ending| path.with_added_extension(ending));
        for file in [&svg, &png] {
            folders::check_file(file)?;
        }
        draw_confusion("Classes and predictions", confusion, &svg, &png)?;
        note!("wrote {} and {}", svg.display(), png.display());
    }
    if let Some(path) = &args.logits {
        if evaluation.outputs.is_empty() {
            return Err(Failure::new(
                format!(
                    "--logits is given, and {} has no head whose scores could be written",
                    loaded.task.name
                ),
                "leave it out for this task",
            ));
        }
        let width = evaluation.outputs.first().map_or(0, |outputs| outputs.values.len());
        if evaluation.outputs.iter().any(|outputs| outputs.values.len() != width) {
            return Err(Failure::new(
                format!(
                    "--logits is given, and {} has as many outputs as an input has tokens",
                    loaded.task.name
                ),
                "leave it out for this task",
            ));
        }
        let shape = [evaluation.outputs.len(), width];
        let values: Vec<f32> = evaluation
            .outputs
            .into_iter()
            .flat_map(|outputs| outputs.values)
            .collect();
        let tensors = Tensors::from([("logits".to_owned(), TensorData::new(values, shape))]);
        folders::check_file(path)?;
        write_safetensors(path, &tensors, [])?;
        note!("wrote {}", path.display());
    }
    Ok(())
}
