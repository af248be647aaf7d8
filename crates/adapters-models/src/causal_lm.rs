//! Every causal language model behind one type. A new one adds a variant here and a name in
//! [`SUPPORTED`](crate::SUPPORTED).

use adapters_core::{Batch, Ctx, Error, Host, NormWeight, Sequence, Site, SiteInfo};
use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::cache::KeyValueCache;
use crate::gpt2::Gpt2Model;
use crate::host::host_of;
use crate::rotary_decoder::RotaryDecoder;
use crate::staged::{Blocks, Staged};

/// A pretrained decoder with its language-model head.
///
/// The variant names never reach a file: a base is not recorded, and its keys are the published paths.
#[derive(Module, Debug)]
pub enum CausalLm {
    /// Llama, Mistral, Qwen2.
    Rotary(RotaryDecoder),
    /// GPT-2.
    Gpt2(Gpt2Model),
}

/// What a causal language model reads.
#[derive(Clone, Debug)]
pub struct CausalInput {
    /// Token ids, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// True at padding, `[batch, seq]`; `None` when no row is padded.
    pub padding: Option<Tensor<2, Bool>>,
}

/// On which side of a row its padding lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaddingSide {
    /// In front: for generation, so that every row ends with its last token.
    Left,
    /// Behind: for training.
    Right,
}

impl CausalInput {
    /// Rows padded to the longest of them.
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
            padding: ragged.then(|| Tensor::from_data(TensorData::new(padding, shape), device)),
        }
    }
}

impl Batch for CausalInput {
    fn size(&self) -> [usize; 2] {
        self.ids.dims()
    }

    fn repeated(self, times: usize) -> Self {
        Self {
            ids: self.ids.repeat_dim(0, times),
            padding: self.padding.map(|padding| padding.repeat_dim(0, times)),
        }
    }

    fn sequence(&mut self) -> Sequence {
        Sequence {
            padding: self.padding.clone(),
            past: 0,
        }
    }
}

/// What follows the columns of a cache, where there is one.
pub(crate) struct CachedInput<'c> {
    pub(crate) input: CausalInput,
    pub(crate) cache: Option<&'c mut KeyValueCache>,
}

impl Batch for CachedInput<'_> {
    fn size(&self) -> [usize; 2] {
        self.input.size()
    }

    fn repeated(self, times: usize) -> Self {
        Self {
            input: self.input.repeated(times),
            ..self
        }
    }

    /// The padding is that of all text, that of the cache included.
    fn sequence(&mut self) -> Sequence {
        let Some(cache) = &mut self.cache else {
            return self.input.sequence();
        };
        let (ids, padding) = (&self.input.ids, self.input.padding.clone());
        Sequence {
            past: cache.columns(),
            padding: cache.read(ids.dims(), padding, &ids.device()),
        }
    }
}

/// Runs the same expression on whichever architecture it is.
macro_rules! each {
    ($lm:expr, $model:ident => $body:expr) => {
        match $lm {
            CausalLm::Rotary($model) => $body,
            CausalLm::Gpt2($model) => $body,
        }
    };
}

impl Blocks for CausalLm {
    type Input = CausalInput;

    fn staged(&self, input: CausalInput, cx: &mut Ctx<'_>) -> Result<Staged<'_>, Error> {
        each!(self, model => model.staged(input, cx))
    }
}

impl CausalLm {
    /// The last hidden state, which enters the head.
    ///
    /// # Shapes
    ///
    /// `[batch, seq] -> [batch, seq, d_model]`; an adapter may make `seq` longer.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics if an id is outside the vocabulary.
    pub fn forward(&self, input: CausalInput, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        each!(self, model => model.forward(input, None, cx))
    }

    /// The same for what follows the columns of a cache, which takes it in.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and on a cache of another batch or model.
    pub fn forward_cached(
        &self,
        input: CausalInput,
        cache: &mut KeyValueCache,
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<3>, Error> {
        each!(self, model => model.forward(input, Some(cache), cx))
    }

    /// Scores of all tokens of the vocabulary.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, seq, vocab]`
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    pub fn logits(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Tensor<3> {
        each!(self, model => model.logits(hidden, cx))
    }

    /// Longest input in tokens.
    pub fn max_length(&self) -> usize {
        match self {
            Self::Rotary(model) => model.config().max_position_embeddings,
            Self::Gpt2(model) => model.config().n_positions,
        }
    }

    /// Id of the padding token; zero where the checkpoint has none.
    pub fn pad_id(&self) -> usize {
        each!(self, model => model.config().pad_token_id.unwrap_or(0))
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        each!(self, model => model.device())
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        each!(self, model => model.config().vocab_size)
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        match self {
            Self::Rotary(model) => model.config().num_hidden_layers,
            Self::Gpt2(model) => model.config().n_layer,
        }
    }
}

host_of!(CausalLm, each);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_on_the_side_asked_for() {
        let device = Device::flex();
        let rows: [&[u32]; 2] = [&[5], &[6, 7]];
        let left = CausalInput::padded(&rows, 9, PaddingSide::Left, &device);
        left.ids
            .into_data()
            .assert_eq(&TensorData::from([[9, 5], [6, 7]]), false);
        let padding = left.padding.unwrap().into_data();
        padding.assert_eq(&TensorData::from([[true, false], [false, false]]), false);
        let right = CausalInput::padded(&rows, 9, PaddingSide::Right, &device);
        right
            .ids
            .into_data()
            .assert_eq(&TensorData::from([[5, 9], [6, 7]]), false);
        assert!(
            CausalInput::padded(&rows[1..], 9, PaddingSide::Left, &device)
                .padding
                .is_none()
        );
    }
}
