//! Embeddings of encoders of text: words, positions and token types, added and normalized.

use crate::modeling::*;

/// Words, positions and token types where the model has them, added, projected and normalized.
#[derive(Module, Sites, Debug)]
pub(crate) struct TextEmbeddings {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    projection: Option<Sited<Linear>>,
    norm: Sited<LayerNorm>,
    output: Point<EmbeddingHook>,
    positions: Option<Embedding>,
    token_types: Option<Embedding>,
    #[module(skip)]
    options: EmbeddingOptions,
}

/// The numbers of [`TextEmbeddings`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct EmbeddingOptions {
    /// Tokens in the vocabulary.
    pub(crate) vocab_size: usize,
    /// Width of the tables.
    pub(crate) width: usize,
    /// Width of what is normalized; a projection leads to it where it is not `width`.
    pub(crate) normalized: usize,
    /// Rows of the position table; zero for a model that has none.
    pub(crate) positions: usize,
    /// Whether they are added.
    pub(crate) adds_positions: bool,
    /// Where tokens stand.
    pub(crate) counting: Counting,
    /// Token types; zero for a model that has none.
    pub(crate) token_types: usize,
    /// Id of the padding token.
    pub(crate) pad_id: usize,
    /// Whether the normalization has a bias.
    pub(crate) norm_bias: bool,
    /// Epsilon of the normalization.
    pub(crate) epsilon: f64,
    /// Dropout on the embeddings, in training.
    pub(crate) dropout: f64,
    /// Whether padding becomes zero.
    pub(crate) zeroes_padding: bool,
}

/// Where the tokens of a text stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// At zero, one, .., whatever they are.
    FromZero,
    /// Tokens that are no padding stand at `pad_id + 1`, `pad_id + 2`, .., and padding at `pad_id`. Where an adapter
    /// inserted vectors there are no ids to tell padding by, and all positions count, as in the reference.
    BehindPadding {
        /// Id of the padding token.
        pad_id: usize,
    },
}

impl Counting {
    /// Rows of the position table in front of the first token's.
    pub(crate) fn reserved(self) -> usize {
        match self {
            Self::FromZero => 0,
            Self::BehindPadding { pad_id } => pad_id + 1,
        }
    }

    /// Rows of the table for what was embedded, `[1 or batch, seq, width]`; `first` positions are taken before.
    fn rows(self, table: &Embedding, ids: Tensor<2, Int>, state: &EmbeddingState, first: usize) -> Tensor<3> {
        match self {
            Self::BehindPadding { pad_id } if state.inserted.is_empty() => {
                let counted = ids.not_equal_elem(pad_id as i64).int();
                table.forward((counted.clone().cumsum(1) + first as i64) * counted + pad_id as i64)
            }
            _ => {
                let (first, seq) = (self.reserved() + first, state.hidden.dims()[1]);
                table.weight.val().slice_dim(0, first..first + seq).unsqueeze()
            }
        }
    }
}

impl TextEmbeddings {
    /// Width of the token table.
    pub(crate) fn width(&self) -> usize {
        self.options.width
    }

    /// With the layers of these names, of the token table and the normalization.
    pub(crate) fn build([words, norm]: [&str; 2], options: EmbeddingOptions, mut at: Scope<'_>) -> Self {
        let EmbeddingOptions { width, normalized, .. } = options;
        let mut table = |rows: usize, name: &str| (rows > 0).then(|| at.embedding(name, [rows, width]));
        Self {
            positions: table(options.positions, "position_embeddings"),
            token_types: table(options.token_types, "token_type_embeddings"),
            words: at.table(words, [options.vocab_size, width], Some(options.pad_id)),
            embedded: at.embedded(EmbeddingRole::EmbeddedTokens, words, width),
            projection: (width != normalized).then(|| {
                at.linear_with(
                    false,
                    LinearRole::EmbeddingProjection,
                    "embed_proj",
                    [width, normalized],
                )
            }),
            norm: at.layer_norm_with(
                options.norm_bias,
                NormRole::EmbeddingNorm,
                norm,
                normalized,
                options.epsilon,
            ),
            output: at.embedded(EmbeddingRole::Embedding, "", normalized),
            options,
        }
    }

    /// `dropout(norm(P (words + types + positions)))`, and what adapters insert.
    ///
    /// # Shapes
    ///
    /// `[batch, seq]` of ids to `[batch, seq, normalized]`
    ///
    /// # Panics
    ///
    /// Panics on an id outside a table, and where `seq` is beyond the longest input.
    pub(crate) fn forward(&self, input: TextInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let words = cx.lookup(&self.words, input.ids.clone());
        let state = cx.embedding(&self.embedded, EmbeddingState::new(words, input.padding));
        let (mut hidden, shape) = (state.hidden.clone(), state.hidden.dims());
        if let Some(table) = &self.token_types {
            hidden = hidden + typed(table, input.token_types, shape);
        }
        if let (Some(table), true) = (&self.positions, self.options.adds_positions) {
            let first = cx.first_position();
            hidden = hidden + self.options.counting.rows(table, input.ids, &state, first);
        }
        if let Some(projection) = &self.projection {
            hidden = cx.linear(projection, hidden);
        }
        hidden = cx.norm(&self.norm, hidden);
        if let (true, Some(padding)) = (self.options.zeroes_padding, &state.padding) {
            hidden = hidden.mask_fill(padding.clone().unsqueeze_dim(2), 0.0);
        }
        let hidden = cx.dropout(hidden, self.options.dropout);
        cx.embedding(&self.output, EmbeddingState { hidden, ..state })
    }
}

/// Rows of the types, `[1 or batch, 1 or seq, width]`. What is inserted in front of the text is of the first type.
fn typed(table: &Embedding, types: Option<Tensor<2, Int>>, [batch, seq, _]: [usize; 3]) -> Tensor<3> {
    match types {
        Some(types) => {
            let more = Tensor::zeros([batch, seq - types.dims()[1]], &types.device());
            table.forward(Tensor::cat(vec![more, types], 1))
        }
        // All zeros: one row, broadcast.
        None => table.weight.val().slice_dim(0, 0..1).unsqueeze(),
    }
}
