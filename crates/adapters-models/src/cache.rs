//! Keys and values of the positions a decoder has seen, so that each is computed once.

use burn::tensor::{Bool, Device, Tensor};

/// What a decoder keeps from one pass to the next: the keys and values of every layer, as they are before an adapter acts on
/// them, and where the columns are padded.
///
/// Keys an adapter puts in front are not kept: they are put in front of all keys anew in each pass.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    layers: Vec<(Tensor<4>, Tensor<4>)>,
    padding: Option<Tensor<2, Bool>>,
    columns: usize,
}

impl KeyValueCache {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Columns kept: positions of the prompt, its padding included, and those generated.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Adds columns, `[batch, seq]`, and their padding; the padding of all columns, `None` if there is none.
    pub(crate) fn extend(
        &mut self,
        [batch, seq]: [usize; 2],
        padding: Option<Tensor<2, Bool>>,
        device: &Device,
    ) -> Option<Tensor<2, Bool>> {
        self.padding = self.padding_with([batch, seq], padding, device);
        self.columns += seq;
        self.padding.clone()
    }

    /// The padding of all columns once these are added.
    pub(crate) fn padding_with(
        &self,
        [batch, seq]: [usize; 2],
        padding: Option<Tensor<2, Bool>>,
        device: &Device,
    ) -> Option<Tensor<2, Bool>> {
        if self.padding.is_none() && padding.is_none() {
            return None;
        }
        let none = |columns: usize| Tensor::<2, Bool>::full([batch, columns], false, device);
        let padding = padding.unwrap_or_else(|| none(seq));
        Some(match self.columns {
            0 => padding,
            columns => Tensor::cat(vec![self.padding.clone().unwrap_or_else(|| none(columns)), padding], 1),
        })
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
