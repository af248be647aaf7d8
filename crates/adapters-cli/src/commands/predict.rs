//! `adapters predict`

use std::io::{Read, stdin};

use adapters::train::{Fields, Records};
use serde_json::{Map, Value, json};

use crate::args::PredictArgs;
use crate::failure::Failure;
use crate::loading;

/// Prints one line for each input: the prediction, and the text, image or sound it is for unless the prediction contains it.
pub(crate) fn run(args: PredictArgs) -> Result<(), Failure> {
    let loaded = loading::model(&args.model)?;
    if loaded.model.head.is_none() {
        return Err(loading::no_head(&args.model.adapter));
    }
    let fields = Fields::default();
    let (records, inputs) = match &args.data {
        Some(path) => {
            let records = Records::read(path, &fields)?;
            let files = match path.is_dir() {
                true => records.records.iter().map(|record| Some(record.location())).collect(),
                false => Vec::new(),
            };
            (records, files)
        }
        None if !args.image.is_empty() || !args.audio.is_empty() => {
            let names = args
                .image
                .iter()
                .chain(&args.audio)
                .map(|file| Some(file.display().to_string()))
                .collect();
            (Records::of_media(&args.image, &args.audio, &fields), names)
        }
        None => {
            let (objects, texts) = inputs(&args)?;
            (Records::of_objects(objects, "the command line"), texts)
        }
    };
    let data = loaded.examples(&records, false)?;
    let evaluation = loaded.evaluate(&*data, args.batch)?;
    if evaluation.outputs.is_empty() && !records.records.is_empty() {
        return Err(Failure::new(
            format!("a head for {} predicts hidden tokens only", loaded.task.name),
            "use `adapters eval` for its loss",
        ));
    }
    let mut inputs = inputs.into_iter();
    for (index, outputs) in evaluation.outputs.iter().enumerate() {
        let prediction = data.describe(index, outputs)?;
        let input = inputs.by_ref().find_map(|input| {
            if input.is_none() {
                blank(args.json);
            }
            input
        });
        if args.json {
            let object = json!({"input": input, "prediction": prediction.text, "scores": outputs.values});
            say!("{object}");
            continue;
        }
        let mut cells = vec![prediction.text];
        cells.extend(prediction.probability.map(|probability| format!("{probability:.4}")));
        // A line has one input, and its cells end at tabs.
        let input = input.filter(|_| !loaded.task.repeats_input);
        cells.extend(input.map(|input| input.replace('\t', "\\t").replace('\n', "\\n")));
        say!("{}", cells.join("\t"));
    }
    for _ in inputs {
        blank(args.json);
    }
    Ok(())
}

/// What stands for a blank line of the input.
fn blank(as_json: bool) {
    match as_json {
        true => say!("null"),
        false => say!(""),
    }
}

/// Records as JSON objects, and the texts to print next to the predictions; `None` for a blank line, which is printed as one.
type Inputs = (Vec<Map<String, Value>>, Vec<Option<String>>);

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
                "--question needs one --text, or at least two --choice",
                "name a file with --data for several questions",
            ));
        }
    }
    let texts = if args.text.is_empty() {
        read_stdin()?
    } else {
        args.text.iter().cloned().map(Some).collect()
    };
    let record = |text: &String| {
        let words: Vec<&str> = text.split_whitespace().collect();
        object(vec![(&fields.text, json!(text)), (&fields.words, json!(words))])
    };
    Ok((texts.iter().flatten().map(record).collect(), texts))
}

/// The lines of standard input, `None` for blank ones.
fn read_stdin() -> Result<Vec<Option<String>>, Failure> {
    let mut text = String::new();
    stdin()
        .read_to_string(&mut text)
        .map_err(|e| Failure::new(format!("cannot read standard input: {e}"), "name texts with --text"))?;
    let line = |line: &str| (!line.trim().is_empty()).then(|| line.to_owned());
    let texts: Vec<Option<String>> = text.lines().map(line).collect();
    if texts.iter().all(Option::is_none) {
        return Err(Failure::new(
            "no text to label",
            "name texts with --text, or give one a line on standard input",
        ));
    }
    Ok(texts)
}
