//! Every encoder architecture behind one type. A new one adds a variant here and a name in
//! [`SUPPORTED`](crate::SUPPORTED).

use adapters_core::{Batch, Ctx, Error, Host, NormWeight, Role, Sequence, Site, SiteInfo, Stack};
use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::bert::BertModel;
use crate::host::host_of;
use crate::staged::{Blocks, Staged};
use crate::tokenizer::Encoded;

/// A pretrained encoder.
///
/// The variant names never reach a file: a base is not recorded, and its keys are the published paths.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One a program, never in a collection.
pub enum Encoder {
    /// BERT and its size variants.
    Bert(BertModel),
}

/// What an encoder reads.
#[derive(Clone, Debug)]
pub struct EncoderInput {
    /// Token ids, `[batch, seq]`.
    pub ids: Tensor<2, Int>,
    /// Token types, `[batch, seq]`; `None` for all zero.
    pub token_types: Option<Tensor<2, Int>>,
    /// True at padding, `[batch, seq]`; `None` when no row is padded.
    pub padding: Option<Tensor<2, Bool>>,
}

impl EncoderInput {
    /// Rows padded on the right to the longest of them.
    pub fn padded(rows: &[&Encoded], pad_id: usize, device: &Device) -> Self {
        let seq = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let shape = [rows.len(), seq];
        let fill = |f: &dyn Fn(&Encoded, usize) -> i64| {
            let values = rows
                .iter()
                .flat_map(|row| (0..seq).map(|t| f(row, t)))
                .collect::<Vec<i64>>();
            TensorData::new(values, shape)
        };
        let ids = fill(&|row, t| row.ids.get(t).map_or(pad_id as i64, |id| i64::from(*id)));
        let typed = rows.iter().any(|row| row.type_ids.iter().any(|t| *t != 0));
        let types = typed.then(|| fill(&|row, t| row.type_ids.get(t).map_or(0, |id| i64::from(*id))));
        let ragged = rows.iter().any(|row| row.ids.len() != seq);
        let padding = ragged.then(|| fill(&|row, t| i64::from(t >= row.ids.len())));
        let tensor = |data| Tensor::<2, Int>::from_data(data, device);
        Self {
            ids: tensor(ids),
            token_types: types.map(tensor),
            padding: padding.map(|data| tensor(data).bool()),
        }
    }
}

impl Batch for EncoderInput {
    fn size(&self) -> [usize; 2] {
        self.ids.dims()
    }

    fn repeated(self, times: usize) -> Self {
        Self {
            ids: self.ids.repeat_dim(0, times),
            token_types: self.token_types.map(|types| types.repeat_dim(0, times)),
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

/// Runs the same expression on whichever architecture it is.
macro_rules! each {
    ($encoder:expr, $model:ident => $body:expr) => {
        match $encoder {
            Encoder::Bert($model) => $body,
        }
    };
}

impl Blocks for Encoder {
    type Input = EncoderInput;

    fn staged(&self, input: EncoderInput, cx: &mut Ctx<'_>) -> Result<Staged<'_>, Error> {
        each!(self, model => model.staged(input, cx))
    }
}

impl Encoder {
    /// The last hidden state.
    ///
    /// # Shapes
    ///
    /// `[batch, seq] -> [batch, seq, d_model]`
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// Panics if `seq` exceeds [`max_length`](Self::max_length) or an id is outside the vocabulary.
    pub fn forward(&self, input: EncoderInput, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        each!(self, model => model.forward(input, cx))
    }

    /// Longest input in tokens.
    pub fn max_length(&self) -> usize {
        each!(self, model => model.config().max_position_embeddings)
    }

    /// Id of the padding token.
    pub fn pad_id(&self) -> usize {
        each!(self, model => model.config().pad_token_id)
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        each!(self, model => model.config().vocab_size)
    }

    /// Token types.
    pub fn token_types(&self) -> usize {
        each!(self, model => model.config().type_vocab_size)
    }

    /// The word embeddings, `[vocab, d_model]`.
    pub fn word_embeddings(&self) -> Tensor<2> {
        each!(self, model => model.word_embeddings())
    }

    /// What the pooler makes of the hidden states, `[batch, seq, d_model] -> [batch, d_model]`; `None` for a checkpoint without
    /// one.
    pub fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        each!(self, model => model.pool(hidden, cx))
    }

    /// Whether the checkpoint has a pooler.
    pub fn has_pooler(&self) -> bool {
        each!(self, model => model.has_pooler())
    }

    /// Dropout probability before a head that names none.
    pub fn head_dropout(&self) -> f64 {
        each!(self, model => {
            let config = model.config();
            config.classifier_dropout.unwrap_or(config.hidden_dropout_prob)
        })
    }

    /// Where adapters act on the embeddings.
    pub fn embedding_site(&self) -> Site {
        Site::outside(Stack::Encoder, Role::Embedding)
    }

    /// Epsilon of the layer norms.
    pub fn norm_epsilon(&self) -> f64 {
        each!(self, model => model.config().layer_norm_eps)
    }

    /// Published name of the activation in the feed-forward blocks.
    pub fn activation_name(&self) -> &str {
        each!(self, model => &model.config().hidden_act)
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        each!(self, model => model.config().num_hidden_layers)
    }
}

host_of!(Encoder, each);
