//! Numbers from the device. It computes behind the program's back and reports what went wrong when something is read.

use burn::tensor::{Tensor, TensorData};

use crate::error::TrainError;

/// The values of a tensor.
///
/// # Errors
///
/// [`TrainError::OutOfMemory`] and [`TrainError::Device`] for what went wrong where they were computed.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Result<TensorData, TrainError> {
    tensor.try_into_data().map_err(|error| failure(&error.to_string()))
}

/// The value of a tensor with one.
///
/// # Errors
///
/// As [`values`].
pub(crate) fn number(tensor: Tensor<1>) -> Result<f64, TrainError> {
    let number = tensor.try_into_scalar::<f32>();
    Ok(f64::from(number.map_err(|error| failure(&error.to_string()))?))
}

/// What Burn says in words, as an error of its own where it is a lack of memory.
fn failure(reason: &str) -> TrainError {
    // The words of CubeCL: when memory is used up, and for more at once than a device gives.
    const NO_MEMORY: [&str; 2] = ["out of device memory allocating ", "can't allocate buffer of size: "];
    let rest = NO_MEMORY.iter().find_map(|words| Some(reason.split_once(words)?.1));
    let bytes = rest.and_then(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    });
    match bytes {
        Some(bytes) => TrainError::OutOfMemory { bytes },
        None => TrainError::Device {
            reason: reason.to_owned(),
        },
    }
}
