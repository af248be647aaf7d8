//! The model of a golden set: what its call takes, and what a case's class computes on top of it.

use std::path::Path;

use adapters::core::NamedParams;
use adapters::models::heads::{HeadKind, Scores};
use adapters::models::{
    Head, ImageInput, Input, Model, ModelKind, Pretrained, SoundInput, Source, SpeechInput, TextAndImageInput,
    TextInput, ToTextInput,
};
use adapters::store::read_safetensors;
use adapters::{Ctx, Host};
use burn::module::{Module, ParamId};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use serde_json::Value;

use crate::golden::case::Case;
use crate::golden::verdict::Stop;

/// The keyword arguments of the model call. Which of them a model takes is its own business.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    ids: Option<Tensor<2, Int>>,
    token_types: Option<Tensor<2, Int>>,
    padding: Option<Tensor<2, Bool>>,
    decoder_ids: Option<Tensor<2, Int>>,
    pixels: Option<Tensor<4>>,
    features: Option<Tensor<3>>,
    samples: Option<Tensor<2>>,
}

impl Inputs {
    /// Reads `inputs.safetensors`.
    ///
    /// # Errors
    ///
    /// [`Stop::Unsupported`] for an argument this library does not have.
    pub(crate) fn read(path: &Path, device: &Device) -> Result<Self, Stop> {
        let mut inputs = Self::default();
        let (tensors, _) = read_safetensors(path)?;
        for (key, data) in tensors {
            match key.as_str() {
                "input_ids" => inputs.ids = Some(Tensor::from_data(data, device)),
                "token_type_ids" => inputs.token_types = Some(Tensor::from_data(data, device)),
                "decoder_input_ids" => inputs.decoder_ids = Some(Tensor::from_data(data, device)),
                "pixel_values" => inputs.pixels = Some(Tensor::from_data(data, device)),
                "input_features" => inputs.features = Some(Tensor::from_data(data, device)),
                "input_values" => inputs.samples = Some(Tensor::from_data(data, device)),
                "attention_mask" => inputs.padding = Some(padding_of(&data, device)),
                other => return Err(Stop::unsupported(format!("the model call has the argument `{other}`"))),
            }
        }
        Ok(inputs)
    }

    /// Padded positions of each row; `None` where nothing is padded.
    pub(crate) fn padded(&self) -> Option<Vec<i64>> {
        let padding = self.padding.clone()?;
        Some(padding.int().sum_dim(1).into_data().iter().collect())
    }

    /// The inputs of a case in the folder `dir`: its own file's if it has one, else these.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) fn of(&self, case: &Case, dir: &Path, device: &Device) -> Result<Self, Stop> {
        let inputs = match &case.inputs {
            Some(file) => Self::read(&dir.join(file), device)?,
            None => self.clone(),
        };
        Ok(Self {
            padding: inputs.padding.clone().filter(|_| case.use_attention_mask),
            ..inputs
        })
    }
}

/// An argument that the model takes.
fn needed<T>(argument: Option<T>, name: &str) -> Result<T, Stop> {
    argument.ok_or_else(|| Stop::fail(format!("inputs.safetensors has no `{name}`")))
}

/// True at padding, from a mask that is zero there.
fn padding_of(mask: &TensorData, device: &Device) -> Tensor<2, Bool> {
    let padding: Vec<bool> = mask.iter::<i64>().map(|m| m == 0).collect();
    Tensor::from_data(TensorData::new(padding, mask.shape()), device)
}

/// Loads the checkpoint of a set.
pub(crate) fn load(checkpoint: &Path, device: &Device) -> Result<Model, Stop> {
    Ok(Pretrained::open(checkpoint)?.model(device)?)
}

/// The model as AdapterHub's library has it, where that is another one: it deletes the adapters of X-MOD's languages.
pub(crate) fn load_for_hub(checkpoint: &Path, device: &Device) -> Result<Option<Model>, Stop> {
    let pretrained = Pretrained::open(checkpoint)?;
    if pretrained.model_type() != "xmod" {
        return Ok(None);
    }
    let model = pretrained.with_config("default_language", Value::Null).model(device)?;
    Ok(Some(model))
}

/// What a case's class computes on top of the model.
#[allow(clippy::large_enum_variant, reason = "there is one for each case")]
pub(crate) enum Top {
    /// Nothing: the last hidden state.
    Nothing,
    /// Scores of all tokens by a head of its own.
    MaskedLm(Head),
    /// Scores of all tokens by the model's head.
    OwnHead,
    /// Scores of labels by a head that peft saved with an adapter.
    Labels(Head),
}

impl Top {
    /// That of the case's class.
    ///
    /// # Errors
    ///
    /// [`Stop::Unsupported`] for a class this library does not have.
    pub(crate) fn of(case: &Case, dir: &Path, checkpoint: &Path, model: &Model, device: &Device) -> Result<Self, Stop> {
        let (class, output, head) = (case.model_class.as_str(), case.output.as_str(), case.head.as_deref());
        let own = class == model.class_name();
        if let (Some(class), "logits", None) = (head_class(class), output, head) {
            let (_, folder) = *case.adapter_dirs()?.first().ok_or_else(|| unknown(case))?;
            let head = Head::load_peft(&dir.join(folder), checkpoint, model, device)?;
            let head = head.ok_or_else(|| Stop::unsupported(format!("{class} without a head in its first adapter")))?;
            return Ok(Self::Labels(head));
        }
        if let (true, "logits", Some(head)) = (class.ends_with("AdapterModel"), output, head) {
            let head = Head::load(&dir.join(head), model, false, device)?.1;
            return Ok(match head.config().kind {
                HeadKind::LanguageModel { .. } => Self::MaskedLm(head),
                _ => Self::Labels(head),
            });
        }
        match (model.kind(), output, head) {
            // Of an encoder-decoder, it is that of the decoder.
            (kind, "last_hidden_state", None) if own && kind != ModelKind::CausalLm => Ok(Self::Nothing),
            (ModelKind::TextAndImage, "logits_per_image", None) if own => Ok(Self::Nothing),
            (ModelKind::CausalLm | ModelKind::EncoderDecoder, "logits", None) if own => Ok(Self::OwnHead),
            (ModelKind::EncoderDecoder | ModelKind::SpeechToText, "logits", None)
                if class
                    == format!(
                        "{}ForConditionalGeneration",
                        model.class_name().trim_end_matches("Model")
                    ) =>
            {
                Ok(Self::OwnHead)
            }
            (ModelKind::Encoder, "logits", None) => {
                let name = model.class_name().trim_end_matches("Model");
                match class == format!("{name}ForMaskedLM") {
                    true => Ok(Self::MaskedLm(Head::from_checkpoint(checkpoint, model, false, device)?)),
                    false => Err(unknown(case)),
                }
            }
            _ => Err(unknown(case)),
        }
    }

    /// The output of the case's class.
    ///
    /// # Errors
    ///
    /// [`Stop::Unsupported`] for a model without this output.
    pub(crate) fn forward(&self, model: &Model, inputs: Inputs, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Stop> {
        let Inputs {
            ids,
            token_types,
            padding,
            decoder_ids,
            pixels,
            features,
            samples,
        } = inputs;
        let text = |ids, padding| TextInput {
            padding,
            ..TextInput::new(ids)
        };
        let input: Input = match model.kind() {
            ModelKind::ImageEncoder => ImageInput {
                pixels: needed(pixels, "pixel_values")?,
            }
            .into(),
            ModelKind::EncoderDecoder => ToTextInput {
                source: text(needed(ids, "input_ids")?, padding).into(),
                decoder_ids: needed(decoder_ids, "decoder_input_ids")?,
            }
            .into(),
            ModelKind::SpeechToText => ToTextInput {
                source: SpeechInput {
                    features: needed(features, "input_features")?,
                }
                .into(),
                decoder_ids: needed(decoder_ids, "decoder_input_ids")?,
            }
            .into(),
            ModelKind::TextAndImage => TextAndImageInput {
                texts: text(needed(ids, "input_ids")?, padding),
                images: ImageInput {
                    pixels: needed(pixels, "pixel_values")?,
                },
            }
            .into(),
            ModelKind::SoundEncoder => match features {
                Some(features) => SpeechInput { features }.into(),
                None => SoundInput {
                    samples: needed(samples, "input_values")?,
                    padding,
                }
                .into(),
            },
            ModelKind::Encoder | ModelKind::CausalLm => TextInput {
                ids: needed(ids, "input_ids")?,
                token_types,
                padding,
                packing: None,
            }
            .into(),
        };
        let text = match &input {
            Input::ToText(ToTextInput {
                source: Source::Text(text),
                ..
            }) => text.padding.clone(),
            _ => None,
        };
        let hidden = model.forward(input, cx)?;
        match self {
            Self::Labels(head) => {
                if model.encoder_decoder().is_ok() {
                    cx.hooks().next_stack(text);
                }
                let padding = cx.pass().padding.clone();
                match head.forward(hidden, padding, model, cx) {
                    Scores::Rows(rows) => Ok(rows.unsqueeze_dim(1)),
                    Scores::Tokens(tokens) => Ok(tokens),
                    Scores::Spans { .. } => Err(Stop::unsupported("a head of question answering")),
                }
            }
            Self::Nothing => Ok(hidden),
            Self::MaskedLm(head) => Ok(head.scores(hidden, model, cx).whole()),
            Self::OwnHead => {
                let logits = model.logits(hidden, cx);
                logits.ok_or_else(|| Stop::unsupported("the model has no language-model head"))
            }
        }
    }
}

/// The part of a class's name that says which head it has, where a task type of peft stands for it.
fn head_class(class: &str) -> Option<&str> {
    [
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForImageClassification",
    ]
    .into_iter()
    .find(|head| class.ends_with(head))
}

impl Top {
    /// With parameters that train.
    pub(crate) fn train(&self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            Self::OwnHead => Self::OwnHead,
            Self::MaskedLm(head) => Self::MaskedLm(head.clone().train()),
            Self::Labels(head) => Self::Labels(head.clone().train()),
        }
    }

    /// The parameters of a head that was saved with an adapter, by their paths in the class of transformers; `true` where the
    /// published matrix is the transposed one.
    pub(crate) fn params(&self, model: &Model) -> Vec<(String, ParamId, bool)> {
        let Self::Labels(head) = self else {
            return Vec::new();
        };
        let layout = model.classifier();
        let layers: Vec<&str> = match head.config().layers {
            1 => vec![layout.last],
            _ => layout
                .hidden
                .iter()
                .map(|(path, _)| *path)
                .chain([layout.last])
                .collect(),
        };
        let mut params = Vec::new();
        let mut layer = 0;
        for (name, id) in head.named_params() {
            let is_weight = name.ends_with(".weight");
            layer += usize::from(is_weight);
            let Some(path) = layers.get(layer - 1) else { break };
            let kind = if is_weight { "weight" } else { "bias" };
            params.push((format!("{path}.{kind}"), id, is_weight && layer < layers.len()));
        }
        params
    }

    /// The head as a module; `None` without one.
    pub(crate) fn head(&self) -> Option<&Head> {
        match self {
            Self::MaskedLm(head) | Self::Labels(head) => Some(head),
            Self::Nothing | Self::OwnHead => None,
        }
    }
}

fn unknown(case: &Case) -> Stop {
    Stop::unsupported(format!(
        "model_class = {}, output = {}, head = {:?}",
        case.model_class, case.output, case.head
    ))
}
