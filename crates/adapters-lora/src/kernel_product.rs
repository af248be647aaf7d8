//! Updates of convolutions as products of three factors, `sum_ij a[i, out] t[i, j, kernel] b[j, channel]`.
//!
//! Source: LyCORIS, *Navigating Text-To-Image Customization*, Yeh et al., 2023, <https://arxiv.org/abs/2309.14859>.

use adapters_core::SiteInfo;
use burn::module::Param;
use burn::tensor::Tensor;

/// Input channels and samples of the kernel, where three factors are asked for and the kernel has more than one sample.
pub(crate) fn kernel_factors(site: &SiteInfo, asked: bool) -> Option<[usize; 2]> {
    let (channels, sizes) = site.kernel.split_first()?;
    let samples: usize = sizes.iter().product();
    (asked && samples > 1).then_some([*channels, samples])
}

/// The shape in files of the factor with the kernel, `[r * r, kernel]` here: `[r, r, height, width]`, with a width of one
/// where the kernel has none.
pub(crate) fn core_shape(site: &SiteInfo, shape: &[usize]) -> Vec<usize> {
    let r = shape.first().map_or(0, |squared| squared.isqrt());
    let mut stored = vec![r, r];
    stored.extend(site.kernel.iter().skip(1));
    stored.resize(4, 1);
    stored
}

/// `[out, channels * kernel]`: the product of three factors `[r, out]`, `[r * r, kernel]` and `[r, channels]`, or of `a` and
/// `b` alone.
pub(crate) fn of_factors(core: &Option<Param<Tensor<2>>>, a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let Some(core) = core else {
        return a.matmul(b);
    };
    let ([r, out], [_, channels], core) = (a.dims(), b.dims(), core.val());
    let samples = core.dims()[1];
    // [out, r] x [r, r * kernel]: rows of `out`, columns of `j` and the kernel.
    let left = a.transpose().matmul(core.reshape([r, r * samples]));
    let left = left
        .reshape([out, r, samples])
        .swap_dims(1, 2)
        .reshape([out * samples, r]);
    let all = left.matmul(b).reshape([out, samples, channels]);
    all.swap_dims(1, 2).reshape([out, channels * samples])
}
