//! Rotary position embeddings: the halves of each head rotated as pairs.

use pulp::{Simd, WithSimd};

use super::attention::Strided;
use super::simd::{Level, mul_add};
use super::threads;

/// Cosines and sines, each dense `[1 | batch, seq, width / 2]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation<'a> {
    /// Cosines of the angles.
    pub cos: &'a [f32],
    /// Sines of the angles.
    pub sin: &'a [f32],
    /// Whether to rotate by the opposite angle, as for a gradient.
    pub back: bool,
}

impl Rotation<'_> {
    /// `(a cos - b sin, b cos + a sin)` for the halves `a` and `b` of each head of `x`, `[batch, heads, seq, width]` with dense
    /// heads, into `out`, `[batch, seq, heads, width]`.
    pub(crate) fn apply(&self, level: Level, x: &Strided<'_>, out: &mut [f32]) {
        let [_, heads, seq, width] = x.shape;
        let half = width / 2;
        threads::chunks(out, heads * width, |first, out| {
            for (row, out) in out.chunks_exact_mut(heads * width).enumerate() {
                let (batch, position) = ((first + row) / seq, (first + row) % seq);
                // One table for all texts, or one for each.
                let table = (first + row) * half % self.cos.len();
                let (cos, sin) = (&self.cos[table..][..half], &self.sin[table..][..half]);
                for (head, out) in out.chunks_exact_mut(width).enumerate() {
                    let back = self.back;
                    let x = x.row(batch, head, position);
                    level.run(Head { x, cos, sin, back, out });
                }
            }
        });
    }
}

struct Head<'a> {
    x: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    back: bool,
    out: &'a mut [f32],
}

impl WithSimd for Head<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let half = self.cos.len();
        let (a, b) = self.x.split_at(half);
        let (first, second) = self.out.split_at_mut(half);
        let sign = s.splat_f32s(if self.back { -1.0 } else { 1.0 });
        let rotated = |a, b, cos, sin| {
            let sin = s.mul_f32s(sin, sign);
            let first = mul_add(s, a, cos, s.neg_f32s(s.mul_f32s(b, sin)));
            (first, mul_add(s, b, cos, s.mul_f32s(a, sin)))
        };
        let lanes = S::F32_LANES;
        for start in (0..half).step_by(lanes) {
            let range = start..half.min(start + lanes);
            let load = |x: &[f32]| s.partial_load_f32s(&x[range.clone()]);
            let (y, z) = rotated(load(a), load(b), load(self.cos), load(self.sin));
            s.partial_store_f32s(&mut first[range.clone()], y);
            s.partial_store_f32s(&mut second[range], z);
        }
    }
}
