//! An architecture of this program: its checkpoints load by their `model_type`, and adapters for linear layers attach.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use adapters::core::{LinearRole, Stack};
use adapters::models::{
    Architecture, Architectures, Chain, CheckpointFolder, KeyValueCache, ModelError, ModelInfo, ModelKind, TextEncoder,
    Transformer, Weights,
};
use adapters::prelude::*;
use adapters::store::write_safetensors;
use adapters::{Ctx, Error, Host, Location, Sited, Sites};
use burn::nn::{Embedding, Linear};
use burn::tensor::{Int, Tensor, TensorData};

/// A table of 9 tokens and a projection, of width 4.
#[derive(Module, Sites, Debug)]
struct Words {
    table: Embedding,
    projection: Sited<Linear>,
}

/// Reads `model.safetensors` of a checkpoint, strictly.
fn load(folder: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let mut weights = Weights::read(folder.dir(), "", device)?;
    let mut at = weights.at(Location::layer(Stack::Encoder, 0), "");
    let table = at.embedding("table", [9, 4]);
    let projection = at.linear(LinearRole::Query, "projection", [4, 4]);
    weights.finish(&[])?;
    Ok(Model::new(Words { table, projection }))
}

impl Host for Words {
    fn architecture(&self) -> &str {
        "words"
    }

    fn d_model(&self) -> usize {
        4
    }
}

impl Transformer for Words {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        ModelInfo::default()
    }

    fn chain(&self, text: TextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (_, text) = cx.begin(self, text)?;
        let words = self.table.forward(text.ids);
        Ok(Chain::new(words).then(|x, hooks| hooks.linear(&self.projection, x).tanh()))
    }
}

impl TextEncoder for Words {}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "words"}"#)?;
    let shapes = [
        ("table.weight", vec![9, 4]),
        ("projection.weight", vec![4, 4]),
        ("projection.bias", vec![4]),
    ];
    let tensors = shapes.map(|(key, shape)| (key.to_owned(), TensorData::ones::<f32, _>(shape)));
    write_safetensors(&dir.path().join("model.safetensors"), &tensors.into(), [])?;

    let known = Architectures::default().with(Architecture::new("words", ModelKind::Encoder, load));
    let mut model = Adapted::new(Pretrained::open_with(dir.path(), known)?.model(&Device::flex())?);
    println!("{}", model.attach("mine", method("lora[r=2,attn_matrices=[q]]")?)?);
    let ids = Tensor::<2, Int>::from_data([[1, 2, 3]], &Device::flex());
    println!("{}", model.forward_as("mine", TextInput::new(ids))?);
    Ok(())
}
