//! Linear layers, frozen and trained.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use burn::backend::flex::FlexTensor;
use burn::tensor::{Bytes, DType, Tensor, bf16};

use super::graph::{Inputs, Operation, run};
use super::numbers::{constant, constant_of, dense, matrix, numbers, runs_here, tensor};
use crate::kernel::Level;
use crate::kernel::activation::{Plus, zip_rows};
use crate::kernel::exact::{self, Packing};
use crate::kernel::half::{self, Packed};
use crate::kernel::raw::{self, Mat};
use crate::kernel::split;

/// `x w + b` over the last axis, where no gradient goes to `w` and `b`; `w` is `f32` or `bf16`.
pub(crate) fn linear<const D: usize>(x: &Tensor<D>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<D>> {
    let [d_in, d_out] = weight.dims();
    let fits = runs_here(x) && x.dims()[D - 1] == d_in && d_out > 0;
    if !fits || bias.is_some_and(|bias| bias.dims() != [d_out]) {
        return None;
    }
    let bias = match bias {
        Some(bias) => Some(dense(constant(bias)?)),
        None => None,
    };
    let weight = Weight::of(weight)?;
    Some(run(Inputs::One(x.clone().into_dispatch()), Linear { weight, bias }))
}

/// `x w + b`, where gradients go to `w` and `b` as well.
pub(crate) fn trained(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
    let [d_in, d_out] = weight.dims();
    let fits = runs_here(x) && runs_here(weight) && x.dims()[1] == d_in;
    let (x, weight) = (x.clone().into_dispatch(), weight.clone().into_dispatch());
    let inputs = match bias {
        _ if !fits => return None,
        Some(bias) if !runs_here(bias) || bias.dims() != [d_out] => return None,
        Some(bias) => Inputs::Three(x, weight, bias.clone().into_dispatch()),
        None => Inputs::Two(x, weight),
    };
    Some(run(inputs, Trained))
}

#[derive(Debug)]
struct Linear {
    weight: Weight,
    bias: Option<FlexTensor>,
}

/// A weight that no gradient goes to.
#[derive(Debug)]
pub(super) enum Weight {
    /// In `f32`.
    Full(FlexTensor),
    /// In `bf16`.
    Half(FlexTensor),
}

/// A weight packed for the forward and for the backward pass, each when it is first needed; `None` for one in `f32` whose numbers
/// do not fit into bf16.
#[derive(Debug, Default)]
pub(super) struct Packs {
    forward: OnceLock<Option<Packed>>,
    backward: OnceLock<Option<Packed>>,
}

/// A buffer and the view of it.
type View = (usize, usize, [usize; 2], [isize; 2]);

/// Packed weights by what they were packed from.
type Known = HashMap<View, (Weak<Bytes>, Arc<Packs>)>;

/// The packed weights of all buffers that exist.
static PACKED: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// Bytes of all packed weights beyond which none in `f32` is packed any more, so that generation with a large model takes little
/// more memory than the model.
const MOST: usize = 1 << 30;

impl Weight {
    /// `None` for a weight of another type, or one that is tracked.
    pub(super) fn of(weight: &Tensor<2>) -> Option<Self> {
        Some(match weight.dtype() {
            DType::BF16 => Self::Half(constant_of(weight, DType::BF16)?),
            _ => Self::Full(constant(weight)?),
        })
    }

    /// Inputs and outputs of the layer.
    fn shape(&self) -> [usize; 2] {
        let (Self::Full(weight) | Self::Half(weight)) = self;
        view(weight).1
    }
}

impl Packs {
    /// Those of a weight, for as long as its buffer exists.
    pub(super) fn of(weight: &FlexTensor) -> Arc<Self> {
        let buffer = weight.data_arc();
        let (offset, shape, strides) = view(weight);
        let key = (Arc::as_ptr(&buffer) as usize, offset, shape, strides);
        let mut packed = known();
        if let Some((known, packs)) = packed.get(&key)
            && known.strong_count() > 0
        {
            return packs.clone();
        }
        packed.retain(|_, (buffer, _)| buffer.strong_count() > 0);
        let packs = Arc::<Self>::default();
        packed.insert(key, (Arc::downgrade(&buffer), packs.clone()));
        packs
    }

    /// The packed form of that weight, or of the transposed one.
    pub(super) fn get(&self, weight: &FlexTensor, transposed: bool) -> Option<&Packed> {
        let pack = || {
            if weight.dtype() != DType::BF16 {
                let taken: usize = known().values().map(|(_, packs)| packs.bytes()).sum();
                return match taken < MOST {
                    true => Packed::exact(turned_if(transposed, matrix(weight))),
                    false => None,
                };
            }
            let (offset, shape, strides) = view(weight);
            let bits = pulp::bytemuck::cast_slice::<bf16, u16>(weight.storage());
            Some(match transposed {
                true => Packed::new(bits, offset, turned(shape), turned(strides)),
                false => Packed::new(bits, offset, shape, strides),
            })
        };
        let packed = if transposed { &self.backward } else { &self.forward };
        packed.get_or_init(pack).as_ref()
    }

    fn bytes(&self) -> usize {
        let packed = [&self.forward, &self.backward].into_iter();
        packed
            .filter_map(|packed| packed.get()?.as_ref())
            .map(Packed::bytes)
            .sum()
    }
}

fn known() -> MutexGuard<'static, Known> {
    // A panic of another thread leaves the map whole.
    PACKED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn turned_if(transposed: bool, weight: Mat<'_>) -> Mat<'_> {
    if transposed { weight.transposed() } else { weight }
}

pub(super) fn view(weight: &FlexTensor) -> (usize, [usize; 2], [isize; 2]) {
    let layout = weight.layout();
    let (shape, strides) = (layout.shape(), layout.strides());
    (layout.start_offset(), [shape[0], shape[1]], [strides[0], strides[1]])
}

fn turned<T: Copy>([a, b]: [T; 2]) -> [T; 2] {
    [b, a]
}

/// The numbers of the buffer of a weight in `bf16`, in `f32` for the duration of a product.
pub(super) fn widened(weight: &FlexTensor) -> Vec<f32> {
    half::widen(Level::chosen(), pulp::bytemuck::cast_slice(weight.storage::<bf16>()))
}

/// `x w + bias` in `f32`.
fn full_product(x: &[f32], weight: Mat<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let [width, out_width] = weight.shape();
    let rows = x.len() / width;
    if split::is_faster(Level::chosen(), rows, weight.shape()) {
        return split::product(x, weight, bias);
    }
    let mut out = raw::unfilled(rows * out_width);
    raw::layer_product(&mut out, Mat::dense(x, rows, width), weight);
    if let Some(bias) = bias {
        zip_rows(Level::chosen(), Plus, &mut out, bias);
    }
    out
}

impl Linear {
    /// `x` times the weight, or the transposed weight, over the last axis, and the bias if `x` enters the layer.
    fn product(&self, x: FlexTensor, transposed: bool) -> FlexTensor {
        let x = dense(x);
        let [width, out_width] = match transposed {
            true => turned(self.weight.shape()),
            false => self.weight.shape(),
        };
        let bias = self.bias.as_ref().filter(|_| !transposed).map(numbers);
        let (level, rows) = (Level::chosen(), numbers(&x).len() / width);
        let out = match &self.weight {
            Weight::Full(weight) => {
                let matrix = turned_if(transposed, matrix(weight));
                let packing = exact::packing(level, rows, matrix.shape());
                let kept = (packing == Some(Packing::Kept)).then(|| Packs::of(weight));
                let once = (packing == Some(Packing::Once)).then(|| Packed::exact(matrix));
                let kept = kept.as_deref().and_then(|packs| packs.get(weight, transposed));
                match kept.or(once.flatten().as_ref()) {
                    Some(packed) => exact::product(level, numbers(&x), packed, bias),
                    None => full_product(numbers(&x), matrix, bias),
                }
            }
            Weight::Half(weight) => {
                let packs = half::is_worth_packing(level, rows).then(|| Packs::of(weight));
                match packs.as_deref().and_then(|packs| packs.get(weight, transposed)) {
                    Some(packed) => packed.product(level, numbers(&x), bias),
                    None => {
                        let wide = widened(weight);
                        let (offset, shape, strides) = view(weight);
                        let matrix = turned_if(transposed, Mat::new(&wide, offset, shape, strides));
                        full_product(numbers(&x), matrix, bias)
                    }
                }
            }
        };
        let mut shape = x.layout().shape().clone();
        let last = shape.num_dims() - 1;
        shape[last] = out_width;
        tensor(out, shape)
    }
}

impl Operation for Linear {
    fn forward(&self, mut inputs: Vec<FlexTensor>, _keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        (self.product(inputs.remove(0), false), Vec::new())
    }

    fn backward(&self, _kept: Vec<FlexTensor>, grad: FlexTensor, _wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        vec![Some(self.product(grad, true))]
    }
}

#[derive(Debug)]
struct Trained;

impl Operation for Trained {
    fn forward(&self, mut inputs: Vec<FlexTensor>, keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
        let bias = (inputs.len() > 2).then(|| dense(inputs.remove(2)));
        let (weight, x) = (inputs.remove(1), dense(inputs.remove(0)));
        let weight_matrix = matrix(&weight);
        let out = full_product(numbers(&x), weight_matrix, bias.as_ref().map(numbers));
        let out = tensor(out, [x.layout().shape()[0], weight_matrix.shape()[1]]);
        (out, if keep { vec![x, weight] } else { Vec::new() })
    }

    fn backward(&self, kept: Vec<FlexTensor>, grad: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let grad = dense(grad);
        let (x, weight, grad) = (matrix(&kept[0]), matrix(&kept[1]), matrix(&grad));
        let ([rows, d_in], [_, d_out]) = (x.shape(), grad.shape());
        let mut grads = vec![
            wanted[0].then(|| filled([rows, d_in], |out| raw::layer_product(out, grad, weight.transposed()))),
            wanted[1].then(|| filled([d_in, d_out], |out| raw::weight_gradient(out, x, grad))),
        ];
        let ones = vec![1.0; rows];
        let sums = || filled([d_out], |out| raw::layer_product(out, Mat::dense(&ones, 1, rows), grad));
        grads.extend(wanted.get(2).map(|wanted| wanted.then(sums)));
        grads
    }
}

/// A tensor of this shape that `fill` computes.
fn filled<const D: usize>(shape: [usize; D], fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut out = raw::unfilled(shape.iter().product());
    fill(&mut out);
    tensor(out, shape)
}
