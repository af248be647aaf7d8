//! How images become a sequence: patches that do not overlap, a class token, and learned positions.

use crate::image_size::ImageSize;
use crate::modeling::*;

/// Patches of an image, projected by a convolution, with what is put in front of them and added to them.
#[derive(Module, Sites, Debug)]
pub(crate) struct ImagePatches {
    pub(crate) projection: Sited<Linear>,
    /// `[1, 1, d_model]`, in front of the patches.
    pub(crate) class_token: Option<Param<Tensor<3>>>,
    /// `[1, positions, d_model]`, for the class token and the patches row by row.
    pub(crate) positions: Option<Param<Tensor<3>>>,
    #[module(skip)]
    pub(crate) size: ImageSize,
    /// Rows and columns of patches that the positions are for.
    #[module(skip)]
    pub(crate) grid: [usize; 2],
}

/// The kernel of a convolution over patches.
pub(crate) fn patch_kernel(channels: usize, size: ImageSize) -> Vec<usize> {
    vec![channels, size.height, size.width]
}

impl ImagePatches {
    /// The patches of `[batch, channels, height, width]`, `[batch, patches, channels * height * width]`, and how many rows and
    /// columns of them there are. Pixels beyond the last whole patch are not read.
    pub(crate) fn cut(&self, pixels: Tensor<4>) -> (Tensor<3>, [usize; 2]) {
        let [batch, channels, height, width] = pixels.dims();
        let [rows, columns] = ImageSize { height, width } / self.size;
        let ImageSize { height, width } = self.size;
        let patches = pixels
            .slice_dim(2, 0..rows * height)
            .slice_dim(3, 0..columns * width)
            .reshape([batch, channels, rows, height, columns, width])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, channels * height * width]);
        (patches, [rows, columns])
    }

    /// The class token and the patches, row by row, each with its position, in a pass that has begun with the patches:
    /// `[batch, class + patches, d_model]`. Positions for another grid are interpolated.
    pub(crate) fn embed(&self, patches: Tensor<3>, grid: [usize; 2], cx: &mut Hooks<'_>) -> Tensor<3> {
        let patches = cx.linear(&self.projection, patches);
        let rows = patches.dims()[0];
        let all = match &self.class_token {
            Some(token) => Tensor::cat(vec![token.val().repeat_dim(0, rows), patches], 1),
            None => patches,
        };
        match &self.positions {
            Some(positions) => all + self.positions_for(positions.val(), grid),
            None => all,
        }
    }

    /// The positions for this many rows and columns of patches: those of the class token stay, those of patches are
    /// interpolated between their centers by cubic convolution, as `torch.nn.functional.interpolate` does.
    fn positions_for(&self, positions: Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        if grid == self.grid {
            return positions;
        }
        let ([_, count, _], [rows, columns]) = (positions.dims(), self.grid);
        let class = count - rows * columns;
        let table = positions.clone().slice_dim(1, class..count).squeeze_dim(0);
        let table = resampled(table, self.grid, grid, cubic_weights);
        Tensor::cat(vec![positions.slice_dim(1, 0..class), table.unsqueeze()], 1)
    }
}

/// A grid of vectors with another number of rows and columns, `[from_rows * from_columns, d] -> [to_rows * to_columns, d]`.
/// `weights` makes `[to, from]` for a side of both.
pub(crate) fn resampled(
    table: Tensor<2>,
    [rows, columns]: [usize; 2],
    to: [usize; 2],
    weights: fn(usize, usize) -> Vec<f32>,
) -> Tensor<2> {
    let ([_, d], device) = (table.dims(), table.device());
    let along = |from: usize, to: usize| -> Tensor<2> {
        Tensor::from_data(TensorData::new(weights(from, to), [to, from]), &device)
    };
    // Rows first: [to_rows, rows] x [rows, columns * d].
    let table = along(rows, to[0]).matmul(table.reshape([rows, columns * d]));
    let table: Tensor<3> = table.reshape([to[0], columns, d]);
    let table = table
        .swap_dims(1, 2)
        .reshape([to[0] * d, columns])
        .matmul(along(columns, to[1]).transpose());
    let table: Tensor<3> = table.reshape([to[0], d, to[1]]);
    table.swap_dims(1, 2).reshape([to[0] * to[1], d])
}

/// `[to, from]`: the weight of each of `from` samples in each of `to` values, on the straight line between two neighbors; values
/// beyond an end are that end.
pub(crate) fn linear_weights(from: usize, to: usize) -> Vec<f32> {
    let mut weights = vec![0.0; to * from];
    for (index, row) in weights.chunks_mut(from.max(1)).enumerate() {
        let center = ((index as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let (first, t) = (center as usize, center - center.floor());
        row[first] += (1.0 - t) as f32;
        row[(first + 1).min(from - 1)] += t as f32;
    }
    weights
}

/// `[to, from]`: the weight of each of `from` samples in each of `to` values, by cubic convolution with `a = -0.75`; samples
/// beyond an end are that end.
///
/// Paper: *Cubic Convolution Interpolation for Digital Image Processing*, Keys, 1981.
fn cubic_weights(from: usize, to: usize) -> Vec<f32> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let mut weights = vec![0.0; to * from];
    for (index, row) in weights.chunks_mut(from.max(1)).enumerate() {
        let center = (index as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let (first, t) = (center.floor(), center - center.floor());
        for (tap, weight) in [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
            .into_iter()
            .enumerate()
        {
            let at = (first + tap as f64 - 1.0).clamp(0.0, from as f64 - 1.0);
            row[at as usize] += weight as f32;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::cubic_weights;

    /// `torch.nn.functional.interpolate(torch.tensor([[[[1., 4., 2., 7.]]]]), (1, 6), mode="bicubic")`.
    #[test]
    fn values_between_samples_are_those_of_torch() {
        let weights = cubic_weights(4, 6);
        let samples = [1.0, 4.0, 2.0, 7.0];
        let got: Vec<f32> = (weights
            .chunks(4)
            .map(|row| row.iter().zip(samples).map(|(w, x)| w * x).sum()))
        .collect();
        for (got, want) in got.iter().zip(EXPECTED) {
            assert!((got - want).abs() < 1e-5, "{got} is not {want}");
        }
    }

    const EXPECTED: [f32; 6] = [0.739_583_5, 2.6875, 3.886_573_8, 1.905_092_5, 4.3125, 7.434_027_7];
}
