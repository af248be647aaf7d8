//! `adapters eval`

use adapters::core::Tensors;
use adapters::store::write_safetensors;
use adapters::train::{Dataset, EncodedData, Fields, LabelKind};
use burn::tensor::TensorData;

use crate::args::EvalArgs;
use crate::failure::Failure;
use crate::loading;

/// Scores, prints the figures, writes the logits.
pub fn run(args: EvalArgs) -> Result<(), Failure> {
    let loaded = loading::model(&args.model)?;
    let fields = Fields {
        text: args.text_field,
        label: args.label_field,
        ..Fields::default()
    };
    let data = Dataset::read_as(loaded.label_kind, &args.data, &fields, &loaded.labels)?;
    let encoded = EncodedData::new(&data, &loaded.tokenizer, loaded.model.base())?;
    eprintln!("{}", loaded.report);
    let evaluation = loaded.model.evaluate(&encoded, args.batch, &loaded.device)?;
    let figure = match loaded.label_kind {
        LabelKind::Class | LabelKind::Several => "accuracy",
        LabelKind::Number => "explained",
    };
    say!("{figure} {:.4}", evaluation.accuracy);
    say!("loss {:.4}", evaluation.loss);
    say!("examples {}", data.len());
    if let Some(path) = &args.logits {
        let shape = [data.len(), loaded.model.outputs()];
        let values: Vec<f32> = evaluation.logits.into_iter().flatten().collect();
        let tensors = Tensors::from([("logits".to_owned(), TensorData::new(values, shape))]);
        write_safetensors(path, &tensors, [])?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
