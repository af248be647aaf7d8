//! Matrices on the host.

use burn::tensor::{Device, Tensor, TensorData};

/// A matrix on the host, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) values: Vec<f32>,
}

impl Matrix {
    pub(super) fn new(data: &TensorData) -> Option<Self> {
        let [rows, cols] = *data.shape().to_vec().first_chunk()?;
        Some(Self {
            rows,
            cols,
            values: data.iter::<f32>().collect(),
        })
    }

    pub(super) fn of(tensor: Tensor<2>) -> Self {
        let [rows, cols] = tensor.dims();
        Self {
            rows,
            cols,
            values: tensor.into_data().iter::<f32>().collect(),
        }
    }

    pub(super) fn tensor(&self, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.values.clone(), [self.rows, self.cols]), device)
    }

    /// One of several equal blocks of rows.
    pub(super) fn rows_of(&self, block: usize, blocks: usize) -> Self {
        let (rows, size) = (self.rows / blocks, self.values.len() / blocks);
        Self {
            rows,
            cols: self.cols,
            values: self.values[block * size..(block + 1) * size].to_vec(),
        }
    }

    pub(super) fn into_data(self) -> TensorData {
        TensorData::new(self.values, [self.rows, self.cols])
    }

    pub(super) fn mapped(&self, mut change: impl FnMut(usize, f32) -> f32) -> Self {
        let values = self.values.iter().enumerate().map(|(i, x)| change(i, *x)).collect();
        Self { values, ..*self }
    }
}

/// The matrices one below the other.
pub(super) fn vstack(matrices: Vec<Matrix>) -> Matrix {
    Matrix {
        rows: matrices.iter().map(|matrix| matrix.rows).sum(),
        cols: matrices[0].cols,
        values: matrices.into_iter().flat_map(|matrix| matrix.values).collect(),
    }
}

/// `sum w_i M_i`.
pub(super) fn weighted_sum(matrices: &[Matrix], weights: &[f64]) -> Matrix {
    matrices[0].mapped(|i, _| {
        let terms = matrices
            .iter()
            .zip(weights)
            .map(|(matrix, w)| f64::from(matrix.values[i]) * w);
        terms.sum::<f64>() as f32
    })
}
