//! Texts that share a row of a causal language model.

use std::collections::BTreeMap;

use adapters::Ctx;
use adapters::models::{Model, ModelKind, Packing, PaddingSide, TextInput};
use adapters::nn::draw;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{ALL_LINEAR, FITS, ModelBench};
use crate::contract::{gradients_of, relative_error};

/// By how much a packed loss may differ from that of its text alone, and a gradient where `f32` knows it so well.
const LIMIT: f64 = 1e-6;

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
        let gradients = |loss: Tensor<1>| -> BTreeMap<u64, Vec<f32>> {
            let gradients = gradients_of(&set, &loss.backward()).into_iter();
            gradients
                .filter_map(|(id, data)| Some((id.val(), data?.iter::<f32>().collect())))
                .collect()
        };
        let [packed, alone] = both.map(|losses| (losses.clone().into_data(), gradients(losses.sum())));
        let error = relative_error(&packed.0, &alone.0);
        assert!(error < LIMIT, "{}: packed losses are off by {error:e}", self.name());
        assert!(!packed.1.is_empty(), "{}: no gradient", self.name());

        // Gradients of texts cancel each other, and the errors of their last digits do not: these are measured by the sum of the sizes.
        let of_text = |model: &Model, index: usize| {
            let hidden = model.forward(input(&texts), &mut Ctx::new(&set)).expect(FITS);
            loss(hidden.slice([index..index + 1, 0..texts[index].len()]), index as u64)
        };
        let mut sizes: BTreeMap<u64, f64> = BTreeMap::new();
        for index in 0..texts.len() {
            for (id, gradient) in gradients(of_text(&self.model, index)) {
                *sizes.entry(id).or_default() += apart(&gradient, &vec![0.0; gradient.len()]);
            }
        }
        let error = |of: &BTreeMap<u64, Vec<f32>>| {
            let errors = of
                .iter()
                .map(|(id, gradient)| apart(gradient, &alone.1[id]) / sizes[id]);
            errors.fold(0.0, f64::max)
        };
        // No gradient is known better than to what the last bit of the weights makes of it.
        let moved = self.model.clone().map(&mut LastBits(ChaCha8Rng::seed_from_u64(0)));
        let losses = (0..texts.len()).map(|index| of_text(&moved, index)).collect();
        let limit = error(&gradients(Tensor::cat(losses, 0).sum())).max(LIMIT);
        let error = error(&packed.1);
        assert!(
            error < limit,
            "{}: a packed gradient is off by {error:e}, above {limit:e}",
            self.name()
        );
    }
}

/// The largest difference of two lists.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    pairs.fold(0.0, f64::max)
}

/// Changes the last bit of every other number, by chance.
struct LastBits(ChaCha8Rng);

impl ModuleMapper for LastBits {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let (data, device) = (tensor.to_data(), tensor.device());
        let values = data.iter::<f32>();
        let changed: Vec<f32> = values
            .map(|x| f32::from_bits(x.to_bits() ^ (self.0.next_u32() & 1)))
            .collect();
        let changed = Tensor::from_data(TensorData::new(changed, data.shape().to_vec()), &device);
        Param::from_mapped_value(id, changed, mapper)
    }
}
