//! What counts as equal.

use burn::tensor::TensorData;

/// A relative and an absolute tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Times the expected size.
    pub relative: f64,
    /// Added to it.
    pub absolute: f64,
}

impl Tolerance {
    /// None.
    pub const ZERO: Self = Self {
        relative: 0.0,
        absolute: 0.0,
    };

    /// What a backend, by the name of its device, is allowed beyond the tolerances of a case.
    ///
    /// On CUDA products of `f32` run on tensor cores, which read their factors with 11 bits (TF32) and have no switch in Burn
    /// 0.22; every other backend computes in `f32`.
    pub fn of_backend(device: &str) -> Self {
        match device.split(':').next() {
            Some("cuda") => Self {
                relative: 5e-3,
                absolute: 5e-3,
            },
            _ => Self::ZERO,
        }
    }
}

/// How far a tensor is from the expected one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Comparison {
    /// Largest absolute difference; infinite for another shape and for elements that are not finite.
    pub max_abs_err: f64,
    /// Whether it is within the tolerance.
    pub within: bool,
}

const WRONG: Comparison = Comparison {
    max_abs_err: f64::INFINITY,
    within: false,
};

/// The rule of outputs: `|got - want| <= absolute + relative |want|` for every element.
pub(crate) fn each_element(got: &TensorData, want: &TensorData, tolerance: Tolerance) -> Comparison {
    compare(got, want, |got, want| {
        let bound = |want: &f64| tolerance.absolute + tolerance.relative * want.abs();
        got.iter().zip(want).all(|(g, w)| (g - w).abs() <= bound(w))
    })
}

/// The rule of gradients: `max |got - want| <= absolute + relative max |want|`.
pub(crate) fn whole_tensor(got: &TensorData, want: &TensorData, tolerance: Tolerance) -> Comparison {
    compare(got, want, |got, want| {
        let size = want.iter().fold(0.0, |size: f64, w| size.max(w.abs()));
        max_abs_err(got, want) <= tolerance.absolute + tolerance.relative * size
    })
}

/// `got` with the values of `want` at the positions that a mask `[batch, seq]` leaves out, so that they are not compared.
/// `got` and `want` are `[batch, seq, ..]`.
pub(super) fn where_compared(got: &TensorData, want: &TensorData, mask: &TensorData) -> TensorData {
    let positions: usize = mask.shape().iter().product();
    let values = want.shape().iter().product::<usize>() / positions.max(1);
    if got.shape().to_vec() != want.shape().to_vec() || values == 0 {
        return got.clone();
    }
    let counts: Vec<bool> = mask.iter::<f64>().map(|m| m != 0.0).collect();
    let both = got.iter::<f32>().zip(want.iter::<f32>()).enumerate();
    let values: Vec<f32> = both
        .map(|(i, (got, want))| if counts[i / values] { got } else { want })
        .collect();
    TensorData::new(values, got.shape())
}

fn compare(got: &TensorData, want: &TensorData, within: impl Fn(&[f64], &[f64]) -> bool) -> Comparison {
    if got.shape().to_vec() != want.shape().to_vec() {
        return WRONG;
    }
    let (got, want): (Vec<f64>, Vec<f64>) = (got.iter::<f64>().collect(), want.iter::<f64>().collect());
    if got.iter().any(|g| !g.is_finite()) {
        return WRONG;
    }
    Comparison {
        max_abs_err: max_abs_err(&got, &want),
        within: within(&got, &want),
    }
}

fn max_abs_err(got: &[f64], want: &[f64]) -> f64 {
    got.iter().zip(want).fold(0.0, |worst: f64, (g, w)| {
        let err = (g - w).abs();
        if err.is_nan() { f64::INFINITY } else { worst.max(err) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance {
        relative: 0.1,
        absolute: 0.0,
    };

    #[test]
    fn an_output_is_judged_element_by_element_a_gradient_as_a_whole() {
        let (got, want) = (TensorData::from([1.5f32, 100.0]), TensorData::from([1.0f32, 100.0]));
        assert!(!each_element(&got, &want, TOLERANCE).within);
        assert!(whole_tensor(&got, &want, TOLERANCE).within);
        assert_eq!(each_element(&got, &want, TOLERANCE).max_abs_err, 0.5);
    }

    #[test]
    fn positions_outside_the_mask_are_not_compared() {
        let (got, want) = (
            TensorData::from([[[f32::NAN, 9.0], [1.0, 2.0]]]),
            TensorData::from([[[1.0f32, 2.0], [1.0, 2.0]]]),
        );
        let masked = |mask: [[i64; 2]; 1]| where_compared(&got, &want, &TensorData::from(mask));
        assert!(each_element(&masked([[0, 1]]), &want, TOLERANCE).within);
        assert!(!each_element(&masked([[1, 1]]), &want, TOLERANCE).within);
    }

    #[test]
    fn nan_and_other_shapes_are_wrong() {
        let want = TensorData::from([1.0f32, 2.0]);
        let loose = Tolerance {
            relative: 0.0,
            absolute: f64::INFINITY,
        };
        for got in [
            TensorData::from([1.0f32, f32::NAN]),
            TensorData::from([[1.0f32, 2.0]]),
            TensorData::from([1.0f32]),
        ] {
            assert_eq!(each_element(&got, &want, loose), WRONG);
            assert_eq!(whole_tensor(&got, &want, loose), WRONG);
        }
        let nan = TensorData::from([f32::NAN, 2.0]);
        assert!(!each_element(&want, &nan, loose).within && !whole_tensor(&want, &nan, loose).max_abs_err.is_finite());
    }
}
