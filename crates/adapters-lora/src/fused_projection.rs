//! Single projections of a fused one: query, key and value lie side by side in one matrix.

use adapters_core::{Role, SiteInfo};
use adapters_nn::ops::project;
use burn::tensor::Tensor;

/// Which of the equal projections in a fused one are adapted; the others are left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FusedProjection {
    /// For each projection whether it is adapted; at least one is.
    adapted: Vec<bool>,
    /// Output features of one projection.
    width: usize,
    /// In how many pieces each projection lies in the matrix: all projections of the first head, then those of the second.
    pieces: usize,
}

impl FusedProjection {
    /// The projections of `site` that `roles` name; `None` where they name the site itself, or it is not fused.
    pub(crate) fn of(site: &SiteInfo, roles: &[Role]) -> Option<Self> {
        let projections = site.site.role.projections();
        let (_, d_out) = site.linear_dims()?;
        if projections.is_empty() || roles.contains(&site.site.role) {
            return None;
        }
        Some(Self {
            adapted: projections
                .iter()
                .map(|projection| roles.contains(projection))
                .collect(),
            width: d_out / projections.len(),
            pieces: site.interleaved.unwrap_or(1),
        })
    }

    /// How many projections are adapted.
    pub(crate) fn count(&self) -> usize {
        self.adapted.iter().filter(|adapted| **adapted).count()
    }

    /// Features of one projection.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Features of all projections together, adapted or not.
    pub(crate) fn d_out(&self) -> usize {
        self.width * self.adapted.len()
    }

    /// Output features of the adapted projections together.
    pub(crate) fn features(&self) -> usize {
        self.count() * self.width
    }

    /// Whether a feature of the output belongs to an adapted projection.
    pub(crate) fn adapts(&self, feature: usize) -> bool {
        let piece = feature / (self.width / self.pieces);
        self.adapted.get(piece % self.adapted.len()) == Some(&true)
    }

    /// The features of one projection, of all on the axis.
    fn projection<const D: usize>(&self, whole: &Tensor<D>, axis: usize, projection: usize) -> Tensor<D> {
        let (piece, projections) = (self.width / self.pieces, self.adapted.len());
        let starts = (0..self.pieces).map(|index| (index * projections + projection) * piece);
        Tensor::cat(
            starts
                .map(|start| whole.clone().slice_dim(axis, start..start + piece))
                .collect(),
            axis,
        )
    }

    /// The adapted slices of the fused axis, concatenated; the inverse of [`scatter`](Self::scatter).
    pub(crate) fn gather<const D: usize>(&self, whole: Tensor<D>, axis: usize) -> Tensor<D> {
        let projections = (0..self.adapted.len()).filter(|projection| self.adapted[*projection]);
        Tensor::cat(
            projections
                .map(|projection| self.projection(&whole, axis, projection))
                .collect(),
            axis,
        )
    }

    /// The adapted slices at their positions in the fused axis, and `fill` in the others. `axis` has
    /// [`features`](Self::features) entries.
    pub(crate) fn scatter<const D: usize>(&self, projections: Tensor<D>, axis: usize, fill: f64) -> Tensor<D> {
        let (piece, mut gap) = (self.width / self.pieces, projections.dims());
        gap[axis] = piece;
        let options = (&projections.device(), projections.dtype());
        let mut pieces = Vec::new();
        for index in 0..self.pieces {
            let mut start = index * piece;
            for adapted in &self.adapted {
                pieces.push(match adapted {
                    true => projections.clone().slice_dim(axis, start..start + piece),
                    false => Tensor::full(gap, fill, options),
                });
                start += if *adapted { self.width } else { 0 };
            }
        }
        Tensor::cat(pieces, axis)
    }

    /// One number a projection on all of its features, and one in those left alone: `[batch, 1, projections]` to
    /// `[batch, 1, d_out]`.
    pub(crate) fn spread(&self, numbers: Tensor<3>) -> Tensor<3> {
        let [batch, _, projections] = numbers.dims();
        let features = numbers
            .reshape([batch, 1, projections, 1])
            .expand([batch, 1, projections, self.width]);
        self.scatter(features.reshape([batch, 1, self.features()]), 2, 1.0)
    }

    /// The A of each projection on its slice of `x`, side by side: `[batch, seq, d_out]` to `[batch, seq, n * rank]`.
    ///
    /// # Panics
    ///
    /// Panics if a slice is not as wide as `A` reads.
    pub(crate) fn project_each(&self, x: Tensor<3>, a: Tensor<2>) -> Tensor<3> {
        let [rows, _] = a.dims();
        let rank = rows / self.count();
        let projections = (0..self.adapted.len()).filter(|projection| self.adapted[*projection]);
        let narrow = projections.enumerate().map(|(index, projection)| {
            let own = a.clone().slice_dim(0, index * rank..(index + 1) * rank);
            project(self.projection(&x, 2, projection), own)
        });
        Tensor::cat(narrow.collect(), 2)
    }

    /// The B matrices of the projections, one below the other, as the one matrix that meets their A matrices one below the
    /// other: `[features, rank]` to `[d_out, n * rank]`, zero where a projection would read the A of another.
    pub(crate) fn block_diagonal(&self, b: Tensor<2>) -> Tensor<2> {
        let ([_, rank], count) = (b.dims(), self.count());
        let zeros = |columns| Tensor::zeros([self.width, columns], (&b.device(), b.dtype()));
        let rows = (0..count).map(|projection| {
            let own = b
                .clone()
                .slice_dim(0, projection * self.width..(projection + 1) * self.width);
            let mut blocks = Vec::new();
            if projection > 0 {
                blocks.push(zeros(projection * rank));
            }
            blocks.push(own);
            if projection + 1 < count {
                blocks.push(zeros((count - projection - 1) * rank));
            }
            Tensor::cat(blocks, 1)
        });
        self.scatter(Tensor::cat(rows.collect(), 0), 0, 0.0)
    }
}

/// The rows of an update at their positions among all features.
pub(crate) fn scatter_rows(fused: Option<&FusedProjection>, rows: Tensor<2>) -> Tensor<2> {
    match fused {
        Some(fused) => fused.scatter(rows, 0, 0.0),
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
    fn scatter_and_gather_are_inverse() {
        let fused = FusedProjection::of(&site(), &[Role::Query, Role::Value]).unwrap();
        assert_eq!((fused.count(), fused.features()), (2, 4));
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &device);
        let whole = fused.scatter(x.clone(), 0, 9.0);
        assert_eq!(values(whole.clone()), [1.0, 2.0, 9.0, 9.0, 3.0, 4.0]);
        assert_eq!(values(fused.gather(whole, 0)), values(x));
        let gate = Tensor::<3>::from_floats([[[5.0, 7.0]]], &device);
        assert_eq!(values(fused.spread(gate)), [5.0, 5.0, 1.0, 1.0, 7.0, 7.0]);
    }

    #[test]
    fn the_pieces_of_interleaved_projections_are_found() {
        let site = SiteInfo {
            interleaved: Some(2),
            kind: SiteKind::Linear { d_in: 2, d_out: 6 },
            ..site()
        };
        let fused = FusedProjection::of(&site, &[Role::Query, Role::Value]).unwrap();
        let x = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &Device::flex());
        let whole = fused.scatter(x.clone(), 0, 9.0);
        // Query, key and value of the first head, then of the second.
        assert_eq!(values(whole.clone()), [1.0, 9.0, 3.0, 2.0, 9.0, 4.0]);
        assert_eq!(values(fused.gather(whole, 0)), values(x));
        let adapted: Vec<bool> = (0..6).map(|feature| fused.adapts(feature)).collect();
        assert_eq!(adapted, [true, false, true, true, false, true]);
    }

    #[test]
    fn each_projection_reads_its_own_a() {
        let fused = FusedProjection::of(&site(), &[Role::Key, Role::Value]).unwrap();
        let b = Tensor::<2>::from_floats([[1.0], [2.0], [3.0], [4.0]], &Device::flex());
        let expected = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 4.0];
        assert_eq!(values(fused.block_diagonal(b)), expected);
    }

    #[test]
    fn the_role_of_the_fused_projection_adapts_it_as_a_whole() {
        assert_eq!(FusedProjection::of(&site(), &[Role::QueryKeyValue]), None);
        let plain = SiteInfo {
            site: Site::new(Stack::Decoder, 0, Role::Query),
            ..site()
        };
        assert_eq!(FusedProjection::of(&plain, &[Role::Query]), None);
    }
}
