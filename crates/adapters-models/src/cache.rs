//! Keys and values of the positions a decoder has seen, so that each is computed once.

use adapters_core::{Batch, Ctx, EmbeddingHook, EmbeddingState, Error, Hooks, Host, Point, Sequence, Sited};
use burn::nn::Embedding;
use burn::tensor::{Bool, Device, Int, Tensor};

use crate::input::TextInput;
use crate::packing::Packing;

/// Keys and values, `[batch, kv_heads, seq, d_head]` both.
pub(crate) type KeysValues = (Tensor<4>, Tensor<4>);

/// What a decoder keeps from one pass to the next: the keys and values of every layer, as they are before an adapter acts on
/// them, those of an encoder's output, and where the columns are padded.
///
/// Keys an adapter puts in front are not kept: they are put in front of all keys again in each pass.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    layers: Vec<LayerCache>,
    /// Of the text.
    padding: Option<Tensor<2, Bool>>,
    /// Ids of the text.
    tokens: Option<Tensor<2, Int>>,
    /// Columns of the text.
    text: usize,
    /// Columns of the keys: those of the text, and those an adapter put in.
    columns: usize,
}

/// What one layer keeps.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    own: Option<Grown>,
    /// Of the encoder's output, which never change.
    encoded: Option<KeysValues>,
}

impl LayerCache {
    /// Adds keys and values of the layer's own positions; those of all columns.
    pub fn append(&mut self, (key, value): KeysValues) -> KeysValues {
        let own = match self.own.take() {
            Some(own) => own.append((key, value)),
            None => Grown::new((key, value)),
        };
        self.own.insert(own).all()
    }

    /// Keys and values of the encoder's output, computed in the first pass.
    pub fn encoded(&mut self, compute: impl FnOnce() -> KeysValues) -> KeysValues {
        self.encoded.get_or_insert_with(compute).clone()
    }
}

/// Keys and values with room behind them, so that they need not be copied for each token.
#[derive(Clone, Debug)]
struct Grown {
    both: KeysValues,
    /// Columns that are there; what is behind them is room.
    columns: usize,
}

impl Grown {
    /// Columns of room that are made at once, at least.
    const ROOM: usize = 128;

    /// Without room.
    fn new(both: KeysValues) -> Self {
        let [_, _, columns, _] = both.0.dims();
        Self { both, columns }
    }

    /// With more columns.
    fn append(self, (key, value): KeysValues) -> Self {
        let (columns, [_, _, more, _]) = (self.columns, key.dims());
        let (keys, values) = self.both;
        Self {
            both: (put(keys, columns, key), put(values, columns, value)),
            columns: columns + more,
        }
    }

    /// With the rows of these indices.
    fn select(self, rows: &[usize]) -> Self {
        let (keys, values) = self.both;
        let index = row_index(rows, &keys.device());
        Self {
            both: (keys.select(0, index.clone()), values.select(0, index)),
            columns: self.columns,
        }
    }

    /// All columns.
    fn all(&self) -> KeysValues {
        let of = |tensor: &Tensor<4>| tensor.clone().slice_dim(2, 0..self.columns);
        (of(&self.both.0), of(&self.both.1))
    }
}

/// `before` with `new` behind its first columns, with more room where there is none.
fn put(before: Tensor<4>, columns: usize, new: Tensor<4>) -> Tensor<4> {
    let [batch, heads, room, width] = before.dims();
    let end = columns + new.dims()[2];
    let with_room = match end > room {
        true => {
            let room = end + (end / 4).max(Grown::ROOM);
            let zeros = Tensor::zeros([batch, heads, room, width], (&before.device(), before.dtype()));
            zeros.slice_assign(
                [0..batch, 0..heads, 0..columns, 0..width],
                before.slice_dim(2, 0..columns),
            )
        }
        false => before,
    };
    with_room.slice_assign([0..batch, 0..heads, columns..end, 0..width], new)
}

/// Indices of rows, as a tensor.
pub(crate) fn row_index(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    Tensor::from_data(rows.as_slice(), device)
}

impl KeyValueCache {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces each row by the row of this index, which is of the same text: padding, and what is kept of an encoder's output,
    /// are the same.
    pub(crate) fn reorder(&mut self, rows: &[usize]) {
        let tokens = self.tokens.take();
        self.tokens = tokens.map(|ids| ids.clone().select(0, row_index(rows, &ids.device())));
        for layer in &mut self.layers {
            layer.own = layer.own.take().map(|own| own.select(rows));
        }
    }

    /// Columns kept: positions of the prompt, its padding included, those an adapter put in among the embeddings, and those
    /// generated.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Columns of text.
    pub(crate) fn text(&self) -> usize {
        self.text
    }

    /// Forgets all columns after the first `text` columns of text, and after those an adapter put in before them.
    pub(crate) fn truncate(&mut self, text: usize) {
        let text = text.min(self.text);
        self.columns -= self.text - text;
        for layer in &mut self.layers {
            if let Some(own) = &mut layer.own {
                own.columns = own.columns.min(self.columns);
            }
        }
        self.padding = self.padding.take().map(|padding| padding.slice_dim(1, 0..text));
        self.tokens = self.tokens.take().map(|tokens| tokens.slice_dim(1, 0..text));
        self.text = text;
    }

    /// What the layer of this index in its stack keeps.
    pub(crate) fn layer(&mut self, index: usize) -> &mut LayerCache {
        if self.layers.len() <= index {
            self.layers.resize_with(index + 1, LayerCache::default);
        }
        &mut self.layers[index]
    }

    /// Adds columns of text, `[batch, seq]`, and their padding; the padding of all text, `None` if there is none.
    pub(crate) fn read(&mut self, ids: &Tensor<2, Int>, padding: Option<Tensor<2, Bool>>) -> Option<Tensor<2, Bool>> {
        let ([batch, seq], device) = (ids.dims(), &ids.device());
        self.tokens = Some(match self.tokens.take() {
            Some(before) if self.text > 0 => Tensor::cat(vec![before, ids.clone()], 1),
            _ => ids.clone(),
        });
        let none = |columns: usize| Tensor::<2, Bool>::full([batch, columns], false, device);
        let before = self.padding.take();
        self.padding = match (before, padding) {
            (None, None) => None,
            (before, padding) => {
                let padding = padding.unwrap_or_else(|| none(seq));
                Some(match self.text {
                    0 => padding,
                    text => Tensor::cat(vec![before.unwrap_or_else(|| none(text)), padding], 1),
                })
            }
        };
        self.text += seq;
        self.padding.clone()
    }

    /// Counts the columns of a pass, once all layers have added theirs.
    pub(crate) fn grow(&mut self, seq: usize) {
        self.columns += seq;
    }
}

/// The begin of a decoder's pass: its batch as often as adapters need it, and what a cache holds of earlier passes.
pub(crate) struct Begun {
    /// `[batch, seq]`.
    pub(crate) ids: Tensor<2, Int>,
    /// That of all text, what a cache holds included.
    pub(crate) padding: Option<Tensor<2, Bool>>,
    /// Several texts in a row, each of which is read alone.
    pub(crate) packing: Option<Packing>,
    /// Columns before those of this pass.
    pub(crate) past: usize,
    /// Columns of text before those of this pass.
    pub(crate) past_text: usize,
}

/// The batch of a decoder with what its cache holds.
struct CachedBatch<'c> {
    input: TextInput,
    cache: Option<&'c mut KeyValueCache>,
}

impl Batch for CachedBatch<'_> {
    fn size(&self) -> [usize; 2] {
        self.input.size()
    }

    fn repeated(self, times: usize) -> Self {
        Self {
            input: self.input.repeated(times),
            ..self
        }
    }

    /// Counts the text of this pass into the cache.
    fn sequence(&mut self) -> Sequence {
        let past = self.cache.as_ref().map_or(0, |cache| cache.columns);
        let earlier = self.cache.as_ref().filter(|cache| cache.text > 0);
        let earlier = earlier.and_then(|cache| cache.tokens.clone());
        if let Some(cache) = &mut self.cache {
            self.input.padding = cache.read(&self.input.ids, self.input.padding.take());
        }
        let padding = self.input.padding.clone();
        Sequence {
            padding,
            past,
            tokens: Some(self.input.ids.clone()),
            earlier,
        }
    }
}

impl Begun {
    /// Begins the pass of `model`, and returns the hooks to call.
    ///
    /// # Errors
    ///
    /// Those of [`Ctx::begin`].
    pub(crate) fn new<'h, 'a>(
        model: &dyn Host,
        input: TextInput,
        cache: Option<&mut KeyValueCache>,
        cx: &'h mut Ctx<'a>,
    ) -> Result<(Self, &'h mut Hooks<'a>), Error> {
        let (past, past_text) = cache.as_ref().map_or((0, 0), |cache| (cache.columns, cache.text));
        let (hooks, CachedBatch { input, .. }) = cx.begin(model, CachedBatch { input, cache })?;
        let begun = Self {
            ids: input.ids,
            padding: input.padding,
            packing: input.packing,
            past,
            past_text,
        };
        Ok((begun, hooks))
    }

    /// The rows of `words` for the tokens, as `scale` leaves them and as the adapters at `point` do.
    pub(crate) fn embed(
        self,
        words: &Sited<Embedding>,
        point: &Point<EmbeddingHook>,
        scale: impl FnOnce(Tensor<3>) -> Tensor<3>,
        cx: &mut Hooks<'_>,
    ) -> Embedded {
        let rows = scale(cx.lookup(words, self.ids));
        Embedded {
            state: cx.embedding(point, EmbeddingState::new(rows, self.padding).after(self.past)),
            packing: self.packing,
            past: self.past,
            past_text: self.past_text,
        }
    }
}

/// The embedded tokens of a decoder's pass.
pub(crate) struct Embedded {
    /// What the adapters left.
    pub(crate) state: EmbeddingState,
    /// See [`Begun`].
    pub(crate) packing: Option<Packing>,
    /// See [`Begun`].
    pub(crate) past: usize,
    /// See [`Begun`].
    pub(crate) past_text: usize,
}
