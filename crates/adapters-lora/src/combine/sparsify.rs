//! Element-by-element steps of TIES and DARE.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::combine::SignElection;
use crate::combine::matrix::Matrix;

/// The elements of largest size, the others zero.
pub(super) fn magnitude_prune(part: &Matrix, density: f64) -> Matrix {
    let keep = (density * part.values.len() as f64) as usize;
    let mut order: Vec<usize> = (0..part.values.len()).collect();
    order.sort_by(|i, j| part.values[*j].abs().total_cmp(&part.values[*i].abs()));
    let mut kept = vec![false; part.values.len()];
    for index in &order[..keep.min(order.len())] {
        kept[*index] = true;
    }
    part.mapped(|i, x| if kept[i] { x } else { 0.0 })
}

/// Elements kept with probability `density` and rescaled, the others zero.
pub(super) fn dare_drop(part: &Matrix, density: f64, rng: &mut ChaCha8Rng) -> Matrix {
    part.mapped(|_, x| {
        if rng.random::<f64>() < density {
            (f64::from(x) / density) as f32
        } else {
            0.0
        }
    })
}

/// `sum w_i M_i` over those whose sign is the elected one, divided by their number.
pub(super) fn ties_merge(parts: &[Matrix], weights: &[f64], election: SignElection) -> Matrix {
    let sign = |x: f32| if x == 0.0 { 0.0 } else { x.signum() };
    parts[0].mapped(|i, _| {
        let votes: f32 = parts
            .iter()
            .map(|part| match election {
                SignElection::Total => part.values[i],
                SignElection::Frequency => sign(part.values[i]),
            })
            .sum();
        let elected = if votes >= 0.0 { 1.0 } else { -1.0 };
        let agree = parts
            .iter()
            .zip(weights)
            .filter(|(part, _)| sign(part.values[i]) == elected);
        let (total, count) = agree.fold((0.0, 0), |(total, count), (part, w)| {
            (total + f64::from(part.values[i]) * w, count + 1)
        });
        (total / f64::from(count.max(1))) as f32
    })
}
