//! Element-by-element steps of TIES and DARE.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::combine::SignElection;
use crate::combine::matrix::Matrix;

/// The elements of largest size, the others zero.
pub(super) fn magnitude_prune(matrix: &Matrix, density: f64) -> Matrix {
    let keep = (density * matrix.values.len() as f64) as usize;
    let mut order: Vec<usize> = (0..matrix.values.len()).collect();
    order.sort_by(|i, j| matrix.values[*j].abs().total_cmp(&matrix.values[*i].abs()));
    let mut kept = vec![false; matrix.values.len()];
    for index in &order[..keep.min(order.len())] {
        kept[*index] = true;
    }
    matrix.mapped(|i, x| if kept[i] { x } else { 0.0 })
}

/// Elements kept with probability `density` and rescaled, the others zero.
pub(super) fn dare_drop(matrix: &Matrix, density: f64, rng: &mut ChaCha8Rng) -> Matrix {
    matrix.mapped(|_, x| {
        if rng.random::<f64>() < density {
            (f64::from(x) / density) as f32
        } else {
            0.0
        }
    })
}

/// `sum w_i M_i` over those whose sign is the elected one, divided by their number.
pub(super) fn ties_merge(matrices: &[Matrix], weights: &[f64], election: SignElection) -> Matrix {
    let sign = |x: f32| if x == 0.0 { 0.0 } else { x.signum() };
    matrices[0].mapped(|i, _| {
        let votes: f32 = matrices
            .iter()
            .map(|matrix| match election {
                SignElection::Total => matrix.values[i],
                SignElection::Frequency => sign(matrix.values[i]),
            })
            .sum();
        let elected = if votes >= 0.0 { 1.0 } else { -1.0 };
        let agree = matrices
            .iter()
            .zip(weights)
            .filter(|(matrix, _)| sign(matrix.values[i]) == elected);
        let (total, count) = agree.fold((0.0, 0), |(total, count), (matrix, w)| {
            (total + f64::from(matrix.values[i]) * w, count + 1)
        });
        (total / f64::from(count.max(1))) as f32
    })
}
