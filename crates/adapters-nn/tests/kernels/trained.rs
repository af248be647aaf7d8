//! Linear layers whose weight is trained, and sums.

use adapters_nn::ops;
use burn::tensor::Tensor;

use crate::{compare, leaf, random};

#[test]
fn a_trained_weight_gets_its_gradient() {
    let (x, weight) = (leaf(&random([3, 4])), leaf(&random([4, 5])));
    let grads = ops::product(x.clone(), weight.clone()).sum().backward();
    assert!(weight.grad(&grads).is_some() && x.grad(&grads).is_some());
}

#[test]
fn trained_layers_and_sums() {
    for (rows, d_in, d_out) in [(1, 1, 1), (5, 3, 7), (130, 33, 8), (257, 8, 65), (700, 384, 16)] {
        let (x, weight, bias) = (random([rows, d_in]), random([d_out, d_in]), random([1, d_out]));
        let batched = |x: &Tensor<2>| x.clone().unsqueeze_dim::<3>(0);
        let tolerance = 1e-5 * (rows.max(d_in) as f32).sqrt();
        compare(
            "project",
            &[x.clone(), weight.clone()],
            tolerance,
            |t| ops::project(batched(&t[0]), t[1].clone()),
            |t| batched(&t[0].clone().matmul(t[1].clone().transpose())),
        );
        compare(
            "affine",
            &[x, weight, bias],
            tolerance,
            |t| ops::affine(batched(&t[0]), t[1].clone(), t[2].clone().squeeze_dim(0)),
            |t| batched(&(t[0].clone().matmul(t[1].clone().transpose()) + t[2].clone())),
        );
        let y = [random([rows, d_in]), random([d_in, rows])];
        compare(
            "sum",
            &y,
            1e-6,
            |t| ops::add(ops::add(t[0].clone(), t[1].clone().transpose()), t[0].clone()),
            |t| t[0].clone() * 2.0 + t[1].clone().transpose(),
        );
    }
}
