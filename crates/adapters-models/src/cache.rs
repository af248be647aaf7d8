//! Keys and values of the positions a decoder has seen, so that each is computed once.

use burn::tensor::{Bool, Device, Tensor};

/// What a decoder keeps from one pass to the next: the keys and values of every layer, as they are before an adapter acts on
/// them, and where the columns are padded.
///
/// Keys an adapter puts in front are not kept: they are put in front of all keys anew in each pass.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    layers: Vec<(Tensor<4>, Tensor<4>)>,
    /// Of the text.
    padding: Option<Tensor<2, Bool>>,
    /// Columns of the text.
    text: usize,
    /// Columns of the keys: those of the text, and those an adapter put in.
    columns: usize,
}

impl KeyValueCache {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Columns kept: positions of the prompt, its padding included, those an adapter put in among the embeddings, and those
    /// generated.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Columns of the text, those of adapters left out.
    pub(crate) fn text(&self) -> usize {
        self.text
    }

    /// Adds columns of text, `[batch, seq]`, and their padding; the padding of all text, `None` if there is none.
    pub(crate) fn read(
        &mut self,
        [batch, seq]: [usize; 2],
        padding: Option<Tensor<2, Bool>>,
        device: &Device,
    ) -> Option<Tensor<2, Bool>> {
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

    /// Adds the keys and values of a layer, `[batch, kv_heads, seq, d_head]`; those of all columns. Layers come in order.
    pub(crate) fn append(&mut self, layer: usize, key: Tensor<4>, value: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let all = match self.layers.get(layer) {
            Some((keys, values)) => (
                Tensor::cat(vec![keys.clone(), key], 2),
                Tensor::cat(vec![values.clone(), value], 2),
            ),
            None => (key, value),
        };
        match self.layers.get_mut(layer) {
            Some(kept) => *kept = all.clone(),
            None => self.layers.push(all.clone()),
        }
        all
    }
}
