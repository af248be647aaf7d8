//! Texts that share a row of a causal language model.

use adapters::Ctx;
use adapters::models::{ModelKind, Packing, PaddingSide, TextInput};
use adapters::nn::draw;
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{ALL_LINEAR, FITS, ModelBench};
use crate::contract::{gradients_of, relative_error};

/// The texts of two rows.
const ROWS: [&[&[u32]]; 2] = [&[&[5, 9, 3, 14, 7], &[8, 2, 11]], &[&[6, 1], &[4, 12, 10]]];

impl ModelBench<'_> {
    /// The loss and every gradient of packed texts are those of the texts in rows of their own.
    pub(super) fn packed_equals_alone(&self) {
        if self.model.kind() != ModelKind::CausalLm {
            return;
        }
        let device = self.device.clone();
        let set = self.attached(&[ALL_LINEAR]).expect("a decoder has linear layers");
        let set = set.train();
        let input = |rows: &[Vec<u32>]| {
            let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            TextInput::padded(&rows, 0, PaddingSide::Right, &device)
        };
        let hidden = |input: TextInput| self.model.forward(input, &mut Ctx::new(&set)).expect(FITS);
        // A loss that differs from text to text and from token to token.
        let loss = |hidden: Tensor<3>, text: u64| -> Tensor<1> {
            let shape = hidden.dims();
            let probe = draw::normal(&mut ChaCha8Rng::seed_from_u64(text), shape, 1.0);
            (hidden.tanh() * Tensor::<3>::from_data(probe, &device)).sum()
        };
        let lengths = ROWS.map(|texts| texts.iter().map(|text| text.len()).collect::<Vec<_>>());
        let together = input(&ROWS.map(<[&[u32]]>::concat));
        let packing = Packing::new(&lengths.each_ref().map(Vec::as_slice), together.ids.dims()[1], &device);
        let packed = hidden(TextInput {
            packing: Some(packing),
            ..together
        });
        // In one batch: the frequencies of some rotary positions follow from its longest text.
        let texts: Vec<Vec<u32>> = ROWS.concat().into_iter().map(<[u32]>::to_vec).collect();
        let alone = hidden(input(&texts));
        let (mut of_packed, mut of_alone) = (Vec::new(), Vec::new());
        for (row, texts) in ROWS.iter().enumerate() {
            let mut from = 0;
            for text in *texts {
                let (index, to) = (of_alone.len(), from + text.len());
                let mine = packed.clone().slice([row..row + 1, from..to]);
                of_packed.push(loss(mine, index as u64));
                let mine = alone.clone().slice([index..index + 1, 0..text.len()]);
                of_alone.push(loss(mine, index as u64));
                from = to;
            }
        }
        let both = [of_packed, of_alone].map(|losses| Tensor::cat(losses, 0));
        let [packed, alone] = both.map(|losses| {
            let gradients = gradients_of(&set, &losses.clone().sum().backward());
            let mut values: Vec<(u64, Vec<f32>)> = gradients
                .into_iter()
                .filter_map(|(id, data)| Some((id.val(), data?.iter::<f32>().collect())))
                .collect();
            values.sort_by_key(|(id, _)| *id);
            (losses.into_data(), values)
        });
        let error = relative_error(&packed.0, &alone.0);
        assert!(error < 5e-6, "{}: packed losses are off by {error:e}", self.name());
        assert!(!packed.1.is_empty(), "{}: no gradient", self.name());
        for ((_, packed), (_, alone)) in packed.1.into_iter().zip(alone.1) {
            let data = |values: Vec<f32>| {
                let count = values.len();
                TensorData::new(values, [count])
            };
            let error = relative_error(&data(packed), &data(alone));
            assert!(error < 2e-5, "{}: a packed gradient is off by {error:e}", self.name());
        }
    }
}
