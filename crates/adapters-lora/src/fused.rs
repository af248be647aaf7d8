//! A fused projection adapted in parts: query, key and value lie side by side in one matrix.

use adapters_core::{Role, SiteInfo};
use adapters_nn::ops::project;
use burn::tensor::Tensor;

/// Which of the equal parts of a fused projection's output are adapted; the others are left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FusedParts {
    /// For each part whether it is adapted; at least one is.
    adapted: Vec<bool>,
    /// Features of a part.
    width: usize,
}

impl FusedParts {
    /// The parts of `site` that `roles` mean; `None` where they mean the site itself, or it is not fused.
    pub(crate) fn of(site: &SiteInfo, roles: &[Role]) -> Option<Self> {
        let parts = site.site.role.parts();
        let (_, d_out) = site.linear_dims()?;
        if parts.is_empty() || roles.contains(&site.site.role) {
            return None;
        }
        Some(Self {
            adapted: parts.iter().map(|part| roles.contains(part)).collect(),
            width: d_out / parts.len(),
        })
    }

    /// How many parts are adapted.
    pub fn count(&self) -> usize {
        self.adapted.iter().filter(|adapted| **adapted).count()
    }

    /// Features of a part.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Features of all parts together, adapted or not.
    pub(crate) fn d_out(&self) -> usize {
        self.width * self.adapted.len()
    }

    /// Features of the adapted parts together.
    pub fn features(&self) -> usize {
        self.count() * self.width
    }

    /// Whether a feature of the output belongs to an adapted part.
    pub(crate) fn adapts(&self, feature: usize) -> bool {
        self.adapted.get(feature / self.width) == Some(&true)
    }

    /// The adapted parts of the whole, put together; the inverse of [`placed`](Self::placed).
    pub(crate) fn taken<const D: usize>(&self, whole: Tensor<D>, axis: usize) -> Tensor<D> {
        let width = self.width;
        let parts = (0..self.adapted.len()).filter(|part| self.adapted[*part]);
        Tensor::cat(
            parts
                .map(|part| whole.clone().slice_dim(axis, part * width..(part + 1) * width))
                .collect(),
            axis,
        )
    }

    /// The adapted parts at their places in the whole, and `fill` in the others. `axis` has
    /// [`features`](Self::features) entries.
    pub(crate) fn placed<const D: usize>(&self, parts: Tensor<D>, axis: usize, fill: f64) -> Tensor<D> {
        let mut gap = parts.dims();
        gap[axis] = self.width;
        let options = (&parts.device(), parts.dtype());
        let mut start = 0;
        let pieces = self.adapted.iter().map(|adapted| match adapted {
            true => {
                start += self.width;
                parts.clone().slice_dim(axis, start - self.width..start)
            }
            false => Tensor::full(gap, fill, options),
        });
        Tensor::cat(pieces.collect(), axis)
    }

    /// One number a part on all of its features, and one in the parts left alone: `[batch, 1, parts]` to
    /// `[batch, 1, d_out]`.
    pub(crate) fn spread(&self, numbers: Tensor<3>) -> Tensor<3> {
        let [batch, _, parts] = numbers.dims();
        let features = numbers
            .reshape([batch, 1, parts, 1])
            .expand([batch, 1, parts, self.width]);
        self.placed(features.reshape([batch, 1, self.features()]), 2, 1.0)
    }

    /// Each part's A on that part of `x`, side by side: `[batch, seq, d_out]` to `[batch, seq, parts * rank]`.
    ///
    /// # Panics
    ///
    /// Panics if a part is not as wide as `A` reads.
    pub(crate) fn project_each(&self, x: Tensor<3>, a: Tensor<2>) -> Tensor<3> {
        let [rows, _] = a.dims();
        let (rank, width) = (rows / self.count(), self.width);
        let parts = (0..self.adapted.len()).filter(|part| self.adapted[*part]);
        let narrow = parts.enumerate().map(|(index, part)| {
            let own = a.clone().slice_dim(0, index * rank..(index + 1) * rank);
            project(x.clone().slice_dim(2, part * width..(part + 1) * width), own)
        });
        Tensor::cat(narrow.collect(), 2)
    }

    /// The B matrices of the parts, one below the other, as the one matrix that meets their A matrices one below the
    /// other: `[features, rank]` to `[d_out, parts * rank]`, zero where a part would read another's A.
    pub(crate) fn grouped(&self, b: Tensor<2>) -> Tensor<2> {
        let ([_, rank], count) = (b.dims(), self.count());
        let zeros = |columns| Tensor::zeros([self.width, columns], (&b.device(), b.dtype()));
        let rows = (0..count).map(|part| {
            let own = b.clone().slice_dim(0, part * self.width..(part + 1) * self.width);
            let mut blocks = Vec::new();
            if part > 0 {
                blocks.push(zeros(part * rank));
            }
            blocks.push(own);
            if part + 1 < count {
                blocks.push(zeros((count - part - 1) * rank));
            }
            Tensor::cat(blocks, 1)
        });
        self.placed(Tensor::cat(rows.collect(), 0), 0, 0.0)
    }
}

/// The rows of an update at their places: those of all features, where no parts are chosen.
pub(crate) fn placed_rows(parts: Option<&FusedParts>, rows: Tensor<2>) -> Tensor<2> {
    match parts {
        Some(parts) => parts.placed(rows, 0, 0.0),
        None => rows,
    }
}

#[cfg(test)]
mod tests {
    use adapters_core::{Site, SiteKind, Stack};
    use burn::tensor::Device;

    use super::*;

    fn site() -> SiteInfo {
        let site = Site::new(Stack::Decoder, 0, Role::QueryKeyValue);
        SiteInfo::new(site, SiteKind::Linear { d_in: 2, d_out: 6 }, "attn")
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter().collect()
    }

    #[test]
    fn parts_go_to_their_places_and_back() {
        let parts = FusedParts::of(&site(), &[Role::Query, Role::Value]).unwrap();
        assert_eq!((parts.count(), parts.features()), (2, 4));
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &device);
        let whole = parts.placed(x.clone(), 0, 9.0);
        assert_eq!(values(whole.clone()), [1.0, 2.0, 9.0, 9.0, 3.0, 4.0]);
        assert_eq!(values(parts.taken(whole, 0)), values(x));
        let gate = Tensor::<3>::from_floats([[[5.0, 7.0]]], &device);
        assert_eq!(values(parts.spread(gate)), [5.0, 5.0, 1.0, 1.0, 7.0, 7.0]);
    }

    #[test]
    fn each_part_reads_its_own_a() {
        let parts = FusedParts::of(&site(), &[Role::Key, Role::Value]).unwrap();
        let b = Tensor::<2>::from_floats([[1.0], [2.0], [3.0], [4.0]], &Device::flex());
        let expected = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 4.0];
        assert_eq!(values(parts.grouped(b)), expected);
    }

    #[test]
    fn a_role_that_means_the_whole_has_no_parts() {
        assert_eq!(FusedParts::of(&site(), &[Role::QueryKeyValue]), None);
        let plain = SiteInfo {
            site: Site::new(Stack::Decoder, 0, Role::Query),
            ..site()
        };
        assert_eq!(FusedParts::of(&plain, &[Role::Query]), None);
    }
}
