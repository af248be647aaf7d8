//! `adapters predict`

use std::io::{Read, stdin};

use adapters::train::{Fields, Record, Records};
use serde_json::{Map, Value, json};

use crate::args::PredictArgs;
use crate::failure::Failure;
use crate::loading;

/// Prints one line for each input: the prediction, and the text or image it is for unless the prediction contains it.
pub fn run(args: PredictArgs) -> Result<(), Failure> {
    let loaded = loading::model(&args.model)?;
    let fields = Fields::default();
    let (records, inputs) = match &args.data {
        Some(path) => {
            let records = Records::read(path, &fields)?;
            let files = match path.is_dir() {
                true => records.records.iter().map(Record::location).collect(),
                false => Vec::new(),
            };
            (records, files)
        }
        None if !args.image.is_empty() => {
            let names = args.image.iter().map(|file| file.display().to_string()).collect();
            (Records::of_images(&args.image, &fields), names)
        }
        None => {
            let (objects, texts) = inputs(&args)?;
            (Records::of_objects(objects, "the command line"), texts)
        }
    };
    let data = loaded.examples(&records, false)?;
    let evaluation = loaded.evaluate(&*data, args.batch)?;
    for (index, outputs) in evaluation.outputs.iter().enumerate() {
        let prediction = data.describe(index, outputs);
        match inputs.get(index).filter(|_| !loaded.task.repeats_input) {
            Some(input) => say!("{prediction}\t{input}"),
            None => say!("{prediction}"),
        }
    }
    Ok(())
}

/// Records as JSON objects, and the texts to print next to the predictions.
type Inputs = (Vec<Map<String, Value>>, Vec<String>);

/// The inputs that the arguments or standard input describe.
fn inputs(args: &PredictArgs) -> Result<Inputs, Failure> {
    let fields = Fields::default();
    let object = |values: Vec<(&String, Value)>| -> Map<String, Value> {
        values.into_iter().map(|(key, value)| (key.clone(), value)).collect()
    };
    match (&args.question, args.choice.as_slice(), args.text.as_slice()) {
        (Some(question), [], [context]) => {
            let record = object(vec![
                (&fields.question, json!(question)),
                (&fields.context, json!(context)),
            ]);
            return Ok((vec![record], Vec::new()));
        }
        (Some(question), choices @ [_, ..], context @ ([] | [_])) => {
            let context = context.first().cloned().unwrap_or_default();
            let record = object(vec![
                (&fields.question, json!(question)),
                (&fields.context, json!(context)),
                (&fields.choices, json!(choices)),
            ]);
            return Ok((vec![record], Vec::new()));
        }
        (None, [], _) => {}
        _ => {
            return Err(Failure::new(
                "--question stands with one --text, or with several --choice",
                "name a file with --data for several questions",
            ));
        }
    }
    let texts = if args.text.is_empty() {
        read_stdin()?
    } else {
        args.text.clone()
    };
    let record = |text: &String| {
        let words: Vec<&str> = text.split_whitespace().collect();
        object(vec![(&fields.text, json!(text)), (&fields.words, json!(words))])
    };
    Ok((texts.iter().map(record).collect(), texts))
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
