//! Small inputs of every kind of model.

use std::ops::Range;

use adapters::models::{
    ImageInput, Input, Model, ModelKind, SoundForm, SoundInput, Source, SpeechInput, TextAndImageInput, TextInput,
    ToTextInput,
};
use adapters::nn::draw;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;

pub(crate) fn ids<const N: usize>(rows: [[i64; N]; 2]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::from(rows), &Device::flex())
}

/// Two rows: images, spectrograms, or texts and sounds of which the second is shorter.
pub(crate) fn two_rows(model: &Model, config: &Value, device: &Device) -> Input {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut images = |[channels, height, width]: [usize; 3]| {
        let data = draw::normal(&mut rng, [2, channels, height, width], 1.0);
        let pixels = Tensor::from_data(data, device);
        ImageInput { pixels }
    };
    if let Ok(reader) = model.image_encoder() {
        return images(reader.image_size()).into();
    }
    if let Ok(model) = model.text_and_image() {
        let ids = ids([[5, 9, 3, 14, 7], [8, 2, 11, 0, 0]]);
        let texts = TextInput {
            padding: Some(ids.clone().equal_elem(0)),
            ..TextInput::new(ids)
        };
        let images = images(model.image_size());
        return TextAndImageInput { texts, images }.into();
    }
    let form = model.sound_encoder().map(|model| model.reads());
    if let Ok(SoundForm::Spectrograms { bands, frames }) = form {
        let features = Tensor::from_data(draw::normal(&mut rng, [2, bands, frames], 1.0), device);
        return SpeechInput { features }.into();
    }
    if let Ok(SoundForm::Samples { shortest: least }) = form {
        let length = 8 * least;
        let samples = Tensor::from_data(draw::normal(&mut rng, [2, length], 1.0), device);
        let padded: Vec<bool> = (0..2 * length).map(|at| at >= 2 * length - 2 * least).collect();
        let padding = Some(Tensor::from_data(TensorData::new(padded, [2, length]), device));
        return SoundInput { samples, padding }.into();
    }
    if model.kind() == ModelKind::SpeechToText {
        let size = |field: &str| config[field].as_u64().expect("the configuration has sizes") as usize;
        let shape = [2, size("num_mel_bins"), 2 * size("max_source_positions")];
        let features = Tensor::from_data(draw::normal(&mut rng, shape, 1.0), device);
        return ToTextInput {
            source: SpeechInput { features }.into(),
            decoder_ids: ids([[0, 4, 6, 12], [0, 13, 2, 9]]),
        }
        .into();
    }
    let ids = ids([[5, 9, 3, 14, 7], [8, 2, 11, 0, 0]]);
    of_tokens(model, ids.clone(), Some(ids.equal_elem(0)))
}

/// Texts of these tokens; of an encoder-decoder with what it writes.
pub(crate) fn of_tokens(model: &Model, tokens: Tensor<2, Int>, padding: Option<Tensor<2, Bool>>) -> Input {
    let rows = tokens.dims()[0];
    match model.kind() {
        ModelKind::EncoderDecoder => ToTextInput {
            source: Source::Text(TextInput {
                padding,
                ..TextInput::new(tokens)
            }),
            decoder_ids: ids([[0, 4, 6, 12], [0, 13, 2, 9]]).slice_dim(0, 0..rows),
        }
        .into(),
        _ => TextInput {
            ids: tokens,
            token_types: None,
            padding,
            packing: None,
        }
        .into(),
    }
}

/// One row of an input whose rows are of one length.
///
/// # Panics
///
/// Panics on another input.
pub(crate) fn one_row(input: Input, rows: Range<usize>) -> Input {
    match input {
        Input::Sound(SoundInput { samples, padding }) => SoundInput {
            samples: samples.slice_dim(0, rows.clone()),
            padding: padding.map(|padding| padding.slice_dim(0, rows.clone())),
        }
        .into(),
        Input::Speech(SpeechInput { features }) => SpeechInput {
            features: features.slice_dim(0, rows.clone()),
        }
        .into(),
        Input::TextAndImage(TextAndImageInput { texts, images }) => TextAndImageInput {
            texts: TextInput {
                padding: texts.padding.map(|padding| padding.slice_dim(0, rows.clone())),
                ..TextInput::new(texts.ids.slice_dim(0, rows.clone()))
            },
            images: ImageInput {
                pixels: images.pixels.slice_dim(0, rows.clone()),
            },
        }
        .into(),
        Input::ToText(ToTextInput {
            source: Source::Speech(SpeechInput { features }),
            decoder_ids,
        }) => ToTextInput {
            source: SpeechInput {
                features: features.slice_dim(0, rows.clone()),
            }
            .into(),
            decoder_ids: decoder_ids.slice_dim(0, rows.clone()),
        }
        .into(),
        other => panic!("{other:?} has rows of several lengths"),
    }
}
