//! A forward pass as a chain of blocks: the one pass of a model, run as a whole, with a cache, or block by block.

use std::fmt;
use std::rc::Rc;

use adapters_core::{Hooks, Sites};
use burn::tensor::Tensor;

use crate::cache::{KeyValueCache, LayerCache};

/// A layer of a stack.
pub trait Block {
    /// What all layers of a pass read: masks, positions.
    type Frame;

    /// The hidden state after the layer, `[batch, seq, d_model] -> [batch, seq, d_model]`.
    fn forward(&self, x: Tensor<3>, frame: &Self::Frame, slot: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3>;
}

/// These of the layers of a stack, each as often as it is listed. Copies share their weights, and each has sites of its own.
pub(crate) fn replicated<L: Clone + Sites>(layers: &[L], order: &[usize]) -> Vec<L> {
    let copies = order.iter().enumerate().map(|(index, source)| {
        let mut layer = layers[*source].clone();
        layer.visit_sites_mut(&mut |info, _| info.move_to_layer(index));
        layer
    });
    copies.collect()
}

/// What a layer reads and keeps of its own in a pass.
#[derive(Debug)]
pub struct Slot<'a> {
    /// The encoder's output, `[batch, encoder_seq, d_model]`, in the decoder of a model of two stacks.
    pub encoded: Option<&'a Tensor<3>>,
    /// What it keeps from one pass to the next; `None` in a pass over whole sequences.
    pub cache: Option<&'a mut LayerCache>,
}

impl Slot<'_> {
    /// That of the layer's own positions, without the encoder's output.
    pub fn own(&mut self) -> Slot<'_> {
        Slot {
            encoded: None,
            cache: self.cache.as_deref_mut(),
        }
    }
}

/// What goes from block to block.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The hidden state, `[batch, seq, d_model]`.
    pub hidden: Tensor<3>,
    /// The encoder's output, `[batch, encoder_seq, d_model]`, in the decoder of a model of two stacks.
    pub encoded: Option<Tensor<3>>,
    /// What goes along next to the hidden state, `[batch, seq, d_model]`: that of an adapter, or a sum of hidden states.
    pub carried: Option<Tensor<3>>,
}

/// One step of a chain.
pub(crate) type Step<'m> = Box<dyn Fn(Flow, Option<&mut KeyValueCache>, &mut Hooks<'_>) -> Flow + 'm>;

/// A forward pass that has begun: what enters the first block, and the blocks to come.
///
/// Between two blocks there is nothing but the [`Flow`]: what a training step needs to keep of a block is its input, and
/// the rest of it can be computed again when its gradient is due.
pub struct Chain<'m> {
    /// What enters the first block.
    pub entered: Flow,
    /// The blocks, in order.
    pub steps: Vec<Step<'m>>,
}

impl<'m> Chain<'m> {
    /// Begins with a hidden state.
    pub fn new(hidden: Tensor<3>) -> Self {
        Self {
            entered: Flow {
                hidden,
                encoded: None,
                carried: None,
            },
            steps: Vec::new(),
        }
    }

    /// Begins with a hidden state of a decoder that reads `encoded`.
    pub fn reading(hidden: Tensor<3>, encoded: Tensor<3>) -> Self {
        Self {
            entered: Flow {
                hidden,
                encoded: Some(encoded),
                carried: None,
            },
            steps: Vec::new(),
        }
    }

    /// With what an adapter takes along next to the hidden state ([`Hooks::take_carried`]).
    #[must_use]
    pub fn carrying(mut self, carried: Option<Tensor<3>>) -> Self {
        self.entered.carried = carried;
        self
    }

    /// Goes on with the layers of a stack.
    #[must_use]
    pub fn layers<B>(mut self, layers: impl IntoIterator<Item = &'m B>, frame: B::Frame) -> Self
    where
        B: Block + 'm,
        B::Frame: 'm,
    {
        let frame = Rc::new(frame);
        self.steps
            .extend(layers.into_iter().enumerate().map(|(index, layer)| -> Step<'m> {
                let frame = Rc::clone(&frame);
                Box::new(
                    move |Flow {
                              hidden,
                              encoded,
                              carried,
                          },
                          cache,
                          cx| {
                        cx.carry(carried);
                        let slot = Slot {
                            encoded: encoded.as_ref(),
                            cache: cache.map(|cache| cache.layer(index)),
                        };
                        let hidden = layer.forward(hidden, &frame, slot, cx);
                        let carried = cx.take_carried();
                        Flow {
                            hidden,
                            encoded,
                            carried,
                        }
                    },
                )
            }));
        self
    }

    /// Goes on with what makes one hidden state of another.
    #[must_use]
    pub fn then(mut self, run: impl Fn(Tensor<3>, &mut Hooks<'_>) -> Tensor<3> + 'm) -> Self {
        self.steps.push(Box::new(move |flow, _, cx| Flow {
            hidden: run(flow.hidden, cx),
            ..flow
        }));
        self
    }

    /// Goes on in the decoder: the hidden state becomes the encoder's output, and `begin` makes the decoder's first.
    #[must_use]
    pub fn decoding(mut self, begin: impl Fn(&mut Hooks<'_>) -> Tensor<3> + 'm) -> Self {
        self.steps.push(Box::new(move |flow, _, cx| Flow {
            hidden: begin(cx),
            encoded: Some(flow.hidden),
            carried: None,
        }));
        self
    }

    /// Goes on with what makes one hidden state of it and of the encoder's output, of which nothing is read then.
    #[must_use]
    pub(crate) fn with_encoded(mut self, run: impl Fn(Tensor<3>, Tensor<3>, &mut Hooks<'_>) -> Tensor<3> + 'm) -> Self {
        self.steps.push(Box::new(move |flow, _, cx| Flow {
            hidden: match flow.encoded {
                Some(encoded) => run(flow.hidden, encoded, cx),
                None => flow.hidden,
            },
            encoded: None,
            carried: None,
        }));
        self
    }

    /// Ends with a sum in place of the last hidden state: of what enters each of the first steps, and of the last one, in this order,
    /// each times its weight. There are as many weights, `[steps + 1]`.
    #[must_use]
    pub(crate) fn summed(mut self, weights: Tensor<1>) -> Self {
        let last = weights.dims()[0] - 1;
        let weight = |index: usize| weights.clone().slice_dim(0, index..index + 1).reshape([1, 1, 1]);
        let add = |sum: Option<Tensor<3>>, part: Tensor<3>| match sum {
            Some(sum) => sum + part,
            None => part,
        };
        let summing = |(index, step): (usize, Step<'m>)| -> Step<'m> {
            if index >= last {
                return step;
            }
            let weight = weight(index);
            Box::new(move |flow, cache, cx| {
                let part = flow.hidden.clone() * weight.clone();
                let carried = Some(add(flow.carried.clone(), part));
                step(Flow { carried, ..flow }, cache, cx)
            })
        };
        self.steps = self.steps.into_iter().enumerate().map(summing).collect();
        let weight = weight(last);
        self.steps.push(Box::new(move |flow, _, _| Flow {
            hidden: add(flow.carried, flow.hidden * weight.clone()),
            encoded: flow.encoded,
            carried: None,
        }));
        self
    }

    /// Ends the pass: the last hidden state, `[batch, seq, d_model]`. A cache takes in the columns of the pass.
    pub fn run(self, mut cache: Option<&mut KeyValueCache>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let mut flow = self.entered;
        for step in &self.steps {
            flow = step(flow, cache.as_deref_mut(), cx);
        }
        if let Some(cache) = cache {
            cache.grow(flow.hidden.dims()[1]);
        }
        flow.hidden
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("entered", &self.entered.hidden.dims())
            .field("steps", &self.steps.len())
            .finish()
    }
}
