//! What models read.

use adapters_core::{Batch, Error, Host, Sequence};
use burn::tensor::kind::Basic;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::encoded::Encoded;
use crate::packing::Packing;

/// What a model reads. Each model reads one of these, its [`Transformer::Input`](crate::Transformer::Input).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// Of encoders and decoders of text.
    Text(TextInput),
    /// Of encoder-decoders.
    ToText(ToTextInput),
    /// Of encoders of images.
    Image(ImageInput),
    /// Of models of texts and images.
    TextAndImage(TextAndImageInput),
    /// Of encoders of sound that read samples.
    Sound(SoundInput),
    /// Of encoders of sound that read spectrograms.
    Speech(SpeechInput),
}

/// A batch of texts.
#[derive(Clone, Debug)]
pub struct TextInput {
    /// Token ids, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// Token types, `[batch, seq]`; `None` for all zero. Models without token types do not read them.
    pub token_types: Option<Tensor<2, Int>>,
    /// True at padding, `[batch, seq]`; `None` when no row is padded.
    pub padding: Option<Tensor<2, Bool>>,
    /// Several texts in a row, of causal language models without a cache and without adapters that insert positions; `None` where
    /// every row is a text.
    pub packing: Option<Packing>,
}

/// What an encoder-decoder reads.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a pass")]
pub enum Source {
    /// Texts.
    Text(TextInput),
    /// Speech.
    Speech(SpeechInput),
}

/// A batch of sounds, spoken texts for one, as spectrograms of one length.
#[derive(Clone, Debug)]
pub struct SpeechInput {
    /// `[batch, bands, frames]`.
    pub features: Tensor<3>,
}

/// A batch of sounds.
#[derive(Clone, Debug)]
pub struct SoundInput {
    /// Samples, `[batch, samples]`.
    pub samples: Tensor<2>,
    /// True at padding, `[batch, samples]`; `None` when no row is padded.
    pub padding: Option<Tensor<2, Bool>>,
}

/// Texts and images, each of which is compared with each.
#[derive(Clone, Debug)]
pub struct TextAndImageInput {
    /// The texts.
    pub texts: TextInput,
    /// The images; where adapters act by row, as many as there are texts.
    pub images: ImageInput,
}

/// What an encoder-decoder reads, and what it writes of each row.
#[derive(Clone, Debug)]
pub struct ToTextInput {
    /// What the encoder reads.
    pub source: Source,
    /// Token ids of the decoder, `[batch, decoder_seq]`, from its start token on. Padded on the right, where no earlier
    /// position sees it.
    pub decoder_ids: Tensor<2, Int>,
}

/// A batch of images, scaled and normalized.
#[derive(Clone, Debug)]
pub struct ImageInput {
    /// `[batch, channels, height, width]`.
    pub pixels: Tensor<4>,
}

/// On which side of a row its padding lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaddingSide {
    /// In front: for generation, so that every row ends with its last token.
    Left,
    /// Behind: for training.
    Right,
}

impl TextInput {
    /// Rows of one length, of one type.
    pub fn new(ids: Tensor<2, Int>) -> Self {
        Self {
            ids,
            token_types: None,
            padding: None,
            packing: None,
        }
    }

    /// Rows of token ids, padded to the longest of them.
    pub fn padded(rows: &[&[u32]], pad_id: usize, side: PaddingSide, device: &Device) -> Self {
        let seq = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let shape = [rows.len(), seq];
        let token = |row: &[u32], column: usize| match side {
            PaddingSide::Right => row.get(column).copied(),
            PaddingSide::Left => column.checked_sub(seq - row.len()).map(|at| row[at]),
        };
        let tokens: Vec<Option<u32>> = rows
            .iter()
            .flat_map(|row| (0..seq).map(|column| token(row, column)))
            .collect();
        let ids = tokens
            .iter()
            .map(|token| token.map_or(pad_id as i64, i64::from))
            .collect::<Vec<_>>();
        let ragged = tokens.iter().any(Option::is_none);
        let padding = tokens.iter().map(Option::is_none).collect::<Vec<_>>();
        Self {
            ids: Tensor::from_data(TensorData::new(ids, shape), device),
            token_types: None,
            padding: ragged.then(|| Tensor::from_data(TensorData::new(padding, shape), device)),
            packing: None,
        }
    }

    /// Encoded texts with their types, padded on the right to the longest of them.
    pub fn encoded(rows: &[&Encoded], pad_id: usize, device: &Device) -> Self {
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
        let input = Self::padded(&ids, pad_id, PaddingSide::Right, device);
        let typed = rows.iter().any(|row| row.type_ids.iter().any(|t| *t != 0));
        let token_types = typed.then(|| {
            let types: Vec<&[u32]> = rows.iter().map(|row| row.type_ids.as_slice()).collect();
            Self::padded(&types, 0, PaddingSide::Right, device).ids
        });
        Self { token_types, ..input }
    }
}

impl ImageInput {
    /// The pixels, whose channels are those that `model` reads, and whose height and width are at least `smallest`.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] for images of other channels and smaller ones.
    pub(crate) fn of_size_or_larger(
        self,
        expected: [usize; 3],
        smallest: usize,
        model: &impl Host,
    ) -> Result<Tensor<4>, Error> {
        let [_, channels, height, width] = self.pixels.dims();
        match channels == expected[0] && height.min(width) >= smallest {
            true => Ok(self.pixels),
            false => self.of_size(expected, model),
        }
    }

    /// The pixels, whose channels, height and width are those that `model` reads.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSize`] for images of another size.
    pub(crate) fn of_size(self, expected: [usize; 3], model: &impl Host) -> Result<Tensor<4>, Error> {
        let [_, found @ ..] = self.pixels.dims();
        match found == expected {
            true => Ok(self.pixels),
            false => Err(Error::ImageSize {
                architecture: model.architecture().to_owned(),
                expected,
                found,
            }),
        }
    }
}

impl Batch for TextInput {
    fn size(&self) -> [usize; 2] {
        self.ids.dims()
    }

    fn repeated(self, times: usize) -> Self {
        Self {
            ids: repeated(self.ids, times),
            token_types: self.token_types.map(|types| repeated(types, times)),
            padding: self.padding.map(|padding| repeated(padding, times)),
            packing: self.packing.map(|packing| packing.repeated(times)),
        }
    }

    fn sequence(&mut self) -> Sequence {
        Sequence {
            padding: self.padding.clone(),
            past: 0,
            tokens: Some(self.ids.clone()),
            earlier: None,
        }
    }
}

impl Batch for SpeechInput {
    fn size(&self) -> [usize; 2] {
        let [rows, _, frames] = self.features.dims();
        [rows, frames]
    }

    fn repeated(self, times: usize) -> Self {
        Self {
            features: self.features.repeat_dim(0, times),
        }
    }
}

impl From<TextInput> for Source {
    fn from(input: TextInput) -> Self {
        Self::Text(input)
    }
}

impl From<SpeechInput> for Source {
    fn from(input: SpeechInput) -> Self {
        Self::Speech(input)
    }
}

impl TryFrom<Source> for TextInput {
    type Error = Source;

    fn try_from(source: Source) -> Result<Self, Source> {
        match source {
            Source::Text(input) => Ok(input),
            other => Err(other),
        }
    }
}

impl TryFrom<Source> for SpeechInput {
    type Error = Source;

    fn try_from(source: Source) -> Result<Self, Source> {
        match source {
            Source::Speech(input) => Ok(input),
            other => Err(other),
        }
    }
}

impl Source {
    /// What is read, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Speech(_) => "speech",
        }
    }
}

/// The whole batch `times` times, one copy after the other.
fn repeated<K: Basic>(batch: Tensor<2, K>, times: usize) -> Tensor<2, K> {
    match times {
        1 => batch,
        times => batch.repeat_dim(0, times),
    }
}

/// Conversions into [`Input`], and back where it is of that kind.
macro_rules! input {
    ($kind:ident, $input:ty) => {
        impl From<$input> for Input {
            fn from(input: $input) -> Self {
                Self::$kind(input)
            }
        }

        impl TryFrom<Input> for $input {
            type Error = Input;

            fn try_from(input: Input) -> Result<Self, Input> {
                match input {
                    Input::$kind(input) => Ok(input),
                    other => Err(other),
                }
            }
        }
    };
}

input!(Text, TextInput);
input!(ToText, ToTextInput);
input!(Image, ImageInput);
input!(TextAndImage, TextAndImageInput);
input!(Sound, SoundInput);
input!(Speech, SpeechInput);

impl Input {
    /// What is read, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::ToText(ToTextInput {
                source: Source::Text(_),
                ..
            }) => "a text and the text to write",
            Self::ToText(_) => "speech and the text to write",
            Self::Image(_) => "an image",
            Self::TextAndImage(_) => "a text and an image",
            Self::Sound(_) => "a sound",
            Self::Speech(_) => "speech",
        }
    }

    /// The device its tensors are on.
    pub fn device(&self) -> Device {
        match self {
            Self::Text(input) => input.ids.device(),
            Self::ToText(input) => input.decoder_ids.device(),
            Self::Image(input) => input.pixels.device(),
            Self::TextAndImage(input) => input.texts.ids.device(),
            Self::Sound(input) => input.samples.device(),
            Self::Speech(input) => input.features.device(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_on_the_side_asked_for() {
        let device = Device::flex();
        let rows: [&[u32]; 2] = [&[5], &[6, 7]];
        let left = TextInput::padded(&rows, 9, PaddingSide::Left, &device);
        left.ids
            .into_data()
            .assert_eq(&TensorData::from([[9, 5], [6, 7]]), false);
        let padding = left.padding.unwrap().into_data();
        padding.assert_eq(&TensorData::from([[true, false], [false, false]]), false);
        let right = TextInput::padded(&rows, 9, PaddingSide::Right, &device);
        right
            .ids
            .into_data()
            .assert_eq(&TensorData::from([[5, 9], [6, 7]]), false);
        assert!(
            TextInput::padded(&rows[1..], 9, PaddingSide::Left, &device)
                .padding
                .is_none()
        );
    }
}
