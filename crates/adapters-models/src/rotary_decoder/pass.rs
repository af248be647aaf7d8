//! A pass of the decoder: what its layers have in common, and the pass block by block.

use std::rc::Rc;

use adapters_core::ops::{self, CausalMask};
use adapters_core::{Ctx, KeyValueState};
use burn::tensor::{Bool, Device, Tensor};

use crate::causal_lm::CausalInput;
use crate::rotary::Turns;
use crate::rotary_decoder::{FINAL_NORM, Layer, RotaryDecoder};
use crate::staged::{Block, Blocks, Staged};

/// What the layers of a pass have in common.
pub(super) struct Frame {
    pub(super) turns: Turns,
    /// Of all keys, those of a cache included.
    pub(super) padding: Option<Tensor<2, Bool>>,
    /// A mask for each window there is.
    masks: Vec<(Option<usize>, CausalMask)>,
}

impl RotaryDecoder {
    pub(super) fn frame(&self, seq: usize, past: usize, padding: Option<Tensor<2, Bool>>, device: &Device) -> Frame {
        let positions = ops::positions(seq, past, padding.as_ref(), device);
        let mut masks: Vec<(Option<usize>, CausalMask)> = Vec::new();
        for window in &self.family.windows {
            if !masks.iter().any(|(of, _)| of == window) {
                let mask = CausalMask::new(seq, past, *window, padding.as_ref(), device);
                masks.push((*window, mask));
            }
        }
        Frame {
            turns: self.rotary.at(positions, device),
            padding,
            masks,
        }
    }
}

impl Frame {
    /// What the queries of a layer may see of its keys.
    pub(super) fn bias(&self, window: Option<usize>, state: &KeyValueState) -> Option<Tensor<4>> {
        let (_, mask) = self.masks.iter().find(|(of, _)| *of == window)?;
        Some(mask.bias(state.key.dims()[2], state.hidden_keys.clone()))
    }
}

impl Blocks for RotaryDecoder {
    type Input = CausalInput;

    fn staged(&self, input: CausalInput, cx: &mut Ctx<'_>) -> Staged<'_> {
        let (hidden, frame) = self.embedded(input, None, cx);
        let frame = Rc::new(frame);
        let block = |layer| -> Block<'_> {
            let frame = frame.clone();
            Box::new(move |x, cx| Layer::forward(layer, x, &frame, None, cx))
        };
        let mut blocks: Vec<_> = self.layers.iter().map(block).collect();
        blocks.push(Box::new(|x, cx| ops::rms_norm(&cx.norm(FINAL_NORM, &self.norm), x)));
        Staged { hidden, blocks }
    }
}
