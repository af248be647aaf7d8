//! A pass of T5 block by block: the encoder's layers, the turn to the decoder, and the decoder's layers, which read the
//! encoder's output beside their own hidden state.

use std::cell::RefCell;
use std::rc::Rc;

use adapters_core::{Ctx, Error, Hooks};
use adapters_nn::ops;
use burn::tensor::{Bool, Tensor};

use crate::causal_lm::CausalInput;
use crate::encoder_decoder::{EncodedInput, EncoderDecoderInput};
use crate::staged::{Block, Blocks, Flow, Staged};
use crate::t5::{T5Layer, T5Model, T5Stack};

impl Blocks for T5Model {
    type Input = EncoderDecoderInput;

    fn staged(&self, input: EncoderDecoderInput, cx: &mut Ctx<'_>) -> Result<Staged<'_>, Error> {
        let encoder_input = CausalInput {
            ids: input.ids,
            padding: input.padding,
        };
        let [rows, _] = encoder_input.ids.dims();
        let state = self.embedded(encoder_input, cx)?;
        let mask = state.padding.clone().map(ops::padding_bias);
        let [repeated, positions, _] = state.hidden.dims();
        let cx = cx.hooks();
        let mut blocks = self.encoder.blocks(positions, mask, None, cx);

        // The batch was repeated as often as that of the encoder.
        let ids = input.decoder_ids.repeat_dim(0, repeated / rows.max(1));
        let seq = ids.dims()[1];
        let mask = ops::causal_bias(seq, 0, None, None, &ids.device());
        blocks.push(Box::new(move |flow, cx| Flow {
            hidden: self.decoder_embedded(ids.clone(), cx),
            beside: Some(flow.hidden),
        }));
        blocks.extend(self.decoder.blocks(seq, Some(mask), state.padding, cx));
        Ok(Staged {
            entered: Flow::of(state.hidden),
            blocks,
        })
    }
}

impl T5Stack {
    /// The layers, and the norm after them.
    fn blocks(
        &self,
        queries: usize,
        mask: Option<Tensor<4>>,
        encoder_padding: Option<Tensor<2, Bool>>,
        cx: &Hooks<'_>,
    ) -> Vec<Block<'_>> {
        let distances = Rc::new(RefCell::new(self.distances(queries, 0, cx)));
        let block = |layer| -> Block<'_> {
            let (distances, mask, padding) = (distances.clone(), mask.clone(), encoder_padding.clone());
            Box::new(move |Flow { hidden, beside }, cx| {
                let encoded = beside.clone().map(|hidden| EncodedInput {
                    hidden,
                    padding: padding.clone(),
                });
                let mut distances = distances.borrow_mut();
                Flow {
                    hidden: T5Layer::forward(layer, hidden, mask.clone(), &mut distances, encoded.as_ref(), None, cx),
                    beside,
                }
            })
        };
        let mut blocks: Vec<_> = self.layers.iter().map(block).collect();
        blocks.push(Flow::block(|x, cx| self.end(x, cx)));
        blocks
    }
}
