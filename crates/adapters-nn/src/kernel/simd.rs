//! Which vector instructions are used, and the functions of one vector that kernels are made of.

use std::any::TypeId;
use std::sync::OnceLock;

use pulp::{Simd, WithSimd};

/// The instructions of a processor, from few to many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What every processor of the target has; NEON on `aarch64`.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 (F, BW, CD, DQ, VL).
    Avx512,
    /// AVX-512, and the tile unit AMX for products.
    Amx,
}

impl Level {
    const NAMES: [(&'static str, Self); 4] = [
        ("portable", Self::Portable),
        ("avx2", Self::Avx2),
        ("avx512", Self::Avx512),
        ("amx", Self::Amx),
    ];

    /// The levels this processor has.
    pub(crate) fn available() -> Vec<Self> {
        let levels = Self::NAMES.into_iter().map(|(_, level)| level);
        levels.filter(|level| level.runs()).collect()
    }

    /// The name of the level.
    pub(crate) fn name(self) -> &'static str {
        let named = Self::NAMES.into_iter().find(|(_, level)| *level == self);
        named.map_or("portable", |(name, _)| name)
    }

    /// The highest level this processor has, at most the one that the environment variable `ADAPTERS_SIMD` names; another
    /// value of it is ignored. Looked up once.
    pub(crate) fn chosen() -> Self {
        static CHOSEN: OnceLock<Level> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let cap = std::env::var("ADAPTERS_SIMD").ok();
            let named = |cap: String| Self::NAMES.into_iter().find(|(name, _)| *name == cap);
            let cap = cap.and_then(named).map_or(Self::Amx, |(_, level)| level);
            let levels = Self::available().into_iter().filter(|level| *level <= cap);
            levels.max().unwrap_or(Self::Portable)
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn runs(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => pulp::x86::V3::is_available(),
            Self::Avx512 => pulp::x86::V4::is_available(),
            #[cfg(feature = "flex")]
            Self::Amx => pulp::x86::V4::is_available() && super::raw::tiles::available(),
            #[cfg(not(feature = "flex"))]
            Self::Amx => false,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn runs(self) -> bool {
        self == Self::Portable
    }

    /// Runs `kernel` with the instructions of this level, or with the portable ones where the processor has them not.
    #[inline]
    pub(crate) fn run<K: WithSimd>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Avx512 | Self::Amx => {
                if let Some(simd) = pulp::x86::V4::try_new() {
                    return Simd::vectorize(simd, kernel);
                }
            }
            Self::Avx2 => {
                if let Some(simd) = pulp::x86::V3::try_new() {
                    return Simd::vectorize(simd, kernel);
                }
            }
            Self::Portable => {}
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(simd) = pulp::aarch64::Neon::try_new() {
            return Simd::vectorize(simd, kernel);
        }
        Simd::vectorize(PORTABLE, kernel)
    }
}

/// Four numbers at a time, which compilers turn into the vectors that every processor of the target has.
type PortableVectors = pulp::Scalar128b;
const PORTABLE: PortableVectors = pulp::Scalar128b;

/// Whether a product and a sum round once; the portable level would call a function for it.
#[inline(always)]
fn fuses<S: Simd>() -> bool {
    TypeId::of::<S>() != TypeId::of::<PortableVectors>()
}

/// `a b + c`.
#[inline(always)]
pub(crate) fn mul_add<S: Simd>(s: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    if fuses::<S>() {
        s.mul_add_e_f32s(a, b, c)
    } else {
        s.add_f32s(s.mul_f32s(a, b), c)
    }
}

/// The polynomial whose coefficients are listed from the highest power down.
#[inline(always)]
pub(crate) fn polynomial<S: Simd, const N: usize>(s: S, x: S::f32s, coefficients: [f32; N]) -> S::f32s {
    let mut sum = s.splat_f32s(coefficients[0]);
    for coefficient in &coefficients[1..] {
        sum = mul_add(s, sum, x, s.splat_f32s(*coefficient));
    }
    sum
}

/// `e^x`, within 2 units in the last place; 0 below -87, infinity above 88.72, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let y = exp_up_to_88(s, x);
    s.select_f32s(
        s.greater_than_f32s(x, s.splat_f32s(88.72283)),
        s.splat_f32s(f32::INFINITY),
        y,
    )
}

/// As [`exp`], for numbers up to 88 only.
#[inline(always)]
pub(crate) fn exp_up_to_88<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    // x = n ln 2 + r with |r| <= ln(2) / 2. Adding 1.5 * 2^23 rounds to an integer, whose low bits are then those of the sum.
    let shifter = s.splat_f32s(12_582_912.0);
    let shifted = mul_add(s, x, s.splat_f32s(std::f32::consts::LOG2_E), shifter);
    let n = s.sub_f32s(shifted, shifter);
    let r = mul_add(s, n, s.splat_f32s(-0.693_359_4), x);
    let r = mul_add(s, n, s.splat_f32s(2.121_944_4e-4), r);
    let p = polynomial(
        s,
        r,
        [
            1.987_569_2e-4,
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ],
    );
    let p = mul_add(s, s.mul_f32s(r, r), p, s.add_f32s(r, s.splat_f32s(1.0)));
    let exponent = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    let y = s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(p), exponent));
    s.select_f32s(s.less_than_f32s(x, s.splat_f32s(-87.0)), s.splat_f32s(0.0), y)
}

/// The error function, within 4e-7 of its value: a quotient of polynomials in `x^2`, and one where that rounds to one.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let square = s.mul_f32s(x, x);
    let above = polynomial(
        s,
        square,
        [
            2.290_506_6e-4,
            3.408_291e-3,
            5.095_569_5e-2,
            1.852_083_2e-1,
            std::f32::consts::FRAC_2_SQRT_PI,
        ],
    );
    let below = polynomial(
        s,
        square,
        [
            -1.179_160_3e-7,
            2.354_796_6e-5,
            1.017_962_5e-3,
            1.407_047e-2,
            1.109_850_5e-1,
            4.974_692_5e-1,
            1.0,
        ],
    );
    let y = s.div_f32s(s.mul_f32s(x, above), below);
    let (end, one) = (s.splat_f32s(3.832_507), s.splat_f32s(1.0));
    let y = s.select_f32s(s.greater_than_f32s(x, end), one, y);
    s.select_f32s(s.less_than_f32s(x, s.neg_f32s(end)), s.neg_f32s(one), y)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let one = s.splat_f32s(1.0);
    s.div_f32s(one, s.add_f32s(one, exp(s, s.neg_f32s(x))))
}

/// A function of one vector.
pub(crate) trait Map: Copy + Send + Sync {
    /// Its value.
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s;
}

/// A function of two vectors.
pub(crate) trait Map2: Copy + Send + Sync {
    /// Its value.
    fn call<S: Simd>(self, s: S, x: S::f32s, y: S::f32s) -> S::f32s;
}

/// A sum, maximum or other combination of numbers.
pub(crate) trait Fold: Copy {
    /// What is combined with nothing.
    const START: f32;
    /// Two vectors of partial results.
    fn join<S: Simd>(self, s: S, a: S::f32s, b: S::f32s) -> S::f32s;
    /// One number of a vector of partial results.
    fn finish<S: Simd>(self, s: S, a: S::f32s) -> f32;
}

/// `out = f(x)`.
#[inline(always)]
pub(crate) fn map_into<S: Simd, F: Map>(s: S, f: F, x: &[f32], out: &mut [f32]) {
    let (x, x_tail) = S::as_simd_f32s(x);
    let (out, out_tail) = S::as_mut_simd_f32s(out);
    for (out, x) in out.iter_mut().zip(x) {
        *out = f.call(s, *x);
    }
    if !out_tail.is_empty() {
        s.partial_store_f32s(out_tail, f.call(s, s.partial_load_f32s(x_tail)));
    }
}

/// `x = f(x)`.
#[inline(always)]
pub(crate) fn map<S: Simd, F: Map>(s: S, f: F, x: &mut [f32]) {
    let (x, tail) = S::as_mut_simd_f32s(x);
    for x in x {
        *x = f.call(s, *x);
    }
    if !tail.is_empty() {
        let y = f.call(s, s.partial_load_f32s(tail));
        s.partial_store_f32s(tail, y);
    }
}

/// `x = f(x, y)`.
#[inline(always)]
pub(crate) fn map2<S: Simd, F: Map2>(s: S, f: F, x: &mut [f32], y: &[f32]) {
    let (x, x_tail) = S::as_mut_simd_f32s(x);
    let (y, y_tail) = S::as_simd_f32s(y);
    for (x, y) in x.iter_mut().zip(y) {
        *x = f.call(s, *x, *y);
    }
    if !x_tail.is_empty() {
        let y = f.call(s, s.partial_load_f32s(x_tail), s.partial_load_f32s(y_tail));
        s.partial_store_f32s(x_tail, y);
    }
}

/// `out = f(x, y)`.
#[inline(always)]
pub(crate) fn map2_into<S: Simd, F: Map2>(s: S, f: F, x: &[f32], y: &[f32], out: &mut [f32]) {
    let (x, x_tail) = S::as_simd_f32s(x);
    let (y, y_tail) = S::as_simd_f32s(y);
    let (out, out_tail) = S::as_mut_simd_f32s(out);
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = f.call(s, *x, *y);
    }
    if !out_tail.is_empty() {
        let y = f.call(s, s.partial_load_f32s(x_tail), s.partial_load_f32s(y_tail));
        s.partial_store_f32s(out_tail, y);
    }
}

/// The sum of numbers, in an order that does not depend on threads.
#[derive(Clone, Copy)]
pub(crate) struct Sum;

impl Fold for Sum {
    const START: f32 = 0.0;
    #[inline(always)]
    fn join<S: Simd>(self, s: S, a: S::f32s, b: S::f32s) -> S::f32s {
        s.add_f32s(a, b)
    }
    #[inline(always)]
    fn finish<S: Simd>(self, s: S, a: S::f32s) -> f32 {
        s.reduce_sum_f32s(a)
    }
}

/// The largest of numbers.
#[derive(Clone, Copy)]
pub(crate) struct Max;

impl Fold for Max {
    const START: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn join<S: Simd>(self, s: S, a: S::f32s, b: S::f32s) -> S::f32s {
        s.max_f32s(a, b)
    }
    #[inline(always)]
    fn finish<S: Simd>(self, s: S, a: S::f32s) -> f32 {
        s.reduce_max_f32s(a)
    }
}

/// Combines `f(x, y)` of all pairs, four vectors at a time.
#[inline(always)]
pub(crate) fn fold2<S: Simd, F: Map2, R: Fold>(s: S, f: F, fold: R, x: &[f32], y: &[f32]) -> f32 {
    let lanes = S::F32_LANES;
    let (x, x_tail) = S::as_simd_f32s(x);
    let (y, y_tail) = S::as_simd_f32s(y);
    let mut parts = [s.splat_f32s(R::START); 4];
    let (x4, x_rest) = x.as_chunks::<4>();
    let (y4, y_rest) = y.as_chunks::<4>();
    for (x, y) in x4.iter().zip(y4) {
        for i in 0..4 {
            parts[i] = fold.join(s, parts[i], f.call(s, x[i], y[i]));
        }
    }
    for (x, y) in x_rest.iter().zip(y_rest) {
        parts[0] = fold.join(s, parts[0], f.call(s, *x, *y));
    }
    let sum = fold.join(s, fold.join(s, parts[0], parts[1]), fold.join(s, parts[2], parts[3]));
    if x_tail.is_empty() {
        return fold.finish(s, sum);
    }
    // The lanes behind the tail hold zeros, which are not numbers of the slice.
    let last = f.call(s, s.partial_load_f32s(x_tail), s.partial_load_f32s(y_tail));
    debug_assert!(x_tail.len() < lanes);
    let inside = s.less_than_u32s(lane_numbers(s), s.splat_u32s(x_tail.len() as u32));
    let last = s.select_f32s(inside, last, s.splat_f32s(R::START));
    fold.finish(s, fold.join(s, sum, last))
}

/// 0, 1, 2, ...
#[inline(always)]
pub(crate) fn lane_numbers<S: Simd>(s: S) -> S::u32s {
    const COUNT: [u32; 64] = {
        let mut count = [0; 64];
        let mut i = 0;
        while i < 64 {
            count[i] = i as u32;
            i += 1;
        }
        count
    };
    s.partial_load_u32s(&COUNT[..S::U32_LANES])
}

/// Combines `f(x)` of all numbers.
#[inline(always)]
pub(crate) fn fold<S: Simd, F: Map, R: Fold>(s: S, f: F, fold: R, x: &[f32]) -> f32 {
    #[derive(Clone, Copy)]
    struct First<F>(F);
    impl<F: Map> Map2 for First<F> {
        #[inline(always)]
        fn call<S: Simd>(self, s: S, x: S::f32s, _y: S::f32s) -> S::f32s {
            self.0.call(s, x)
        }
    }
    fold2(s, First(f), fold, x, x)
}

/// `x` itself.
#[derive(Clone, Copy)]
pub(crate) struct Identity;

impl Map for Identity {
    #[inline(always)]
    fn call<S: Simd>(self, _s: S, x: S::f32s) -> S::f32s {
        x
    }
}

/// `x y`.
#[derive(Clone, Copy)]
pub(crate) struct Product;

impl Map2 for Product {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s, y: S::f32s) -> S::f32s {
        s.mul_f32s(x, y)
    }
}

/// A kernel over a slice that is changed, for [`Level::run`].
pub(crate) struct MapKernel<'a, F>(pub F, pub &'a mut [f32]);

impl<F: Map> WithSimd for MapKernel<'_, F> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        map(s, self.0, self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Which {
        Exp,
        Erf,
        Sigmoid,
    }

    impl Map for Which {
        #[inline(always)]
        fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
            match self {
                Self::Exp => exp(s, x),
                Self::Erf => erf(s, x),
                Self::Sigmoid => sigmoid(s, x),
            }
        }
    }

    fn values(level: Level, which: Which, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        level.run(MapKernel(which, &mut y));
        y
    }

    /// The error function by its series and its continued fraction, in `f64`.
    fn erf_of(x: f64) -> f64 {
        if x.abs() > 3.0 {
            let mut tail = 0.0;
            for k in (1..60).rev() {
                tail = f64::from(k) / 2.0 / (x.abs() + tail);
            }
            let small = (-x * x).exp() / ((x.abs() + tail) * std::f64::consts::PI.sqrt());
            return (1.0 - small).copysign(x);
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn farthest(level: Level, which: Which, x: &[f32], wanted: impl Fn(f64) -> f64) -> f64 {
        let y = values(level, which, x);
        let errors = x.iter().zip(y).map(|(x, y)| {
            let wanted = wanted(f64::from(*x));
            ((f64::from(y) - wanted) / wanted.abs().max(1e-30)).abs()
        });
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_right_to_the_last_bits() {
        let grid = |from: f32, to: f32| (0..100_003).map(move |i| from + (to - from) * i as f32 / 100_002.0);
        for level in Level::available() {
            let x: Vec<f32> = grid(-86.9, 88.7).collect();
            let error = farthest(level, Which::Exp, &x, f64::exp);
            assert!(error < 2.4e-7, "{level:?}: exp {error:e}");
            let x: Vec<f32> = grid(-5.0, 5.0).collect();
            let error = farthest(level, Which::Erf, &x, erf_of);
            assert!(error < 4e-7, "{level:?}: erf {error:e}");
            let x: Vec<f32> = grid(-80.0, 80.0).collect();
            let error = farthest(level, Which::Sigmoid, &x, |x| 1.0 / (1.0 + (-x).exp()));
            assert!(error < 4e-7, "{level:?}: sigmoid {error:e}");
        }
    }

    #[test]
    fn the_ends_of_the_exponential() {
        let x = [
            f32::NEG_INFINITY,
            f32::MIN,
            -88.0,
            -0.0,
            0.0,
            88.73,
            f32::MAX,
            f32::INFINITY,
        ];
        let wanted = [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY];
        for level in Level::available() {
            assert_eq!(values(level, Which::Exp, &x), wanted, "{level:?}");
            let nan = values(level, Which::Exp, &[f32::NAN, -f32::NAN]);
            assert!(nan.iter().all(|x| x.is_nan()), "{level:?}: {nan:?}");
        }
    }

    struct Folded<'a>(&'a [f32]);

    impl WithSimd for Folded<'_> {
        type Output = (f32, f32);
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) -> (f32, f32) {
            (fold(s, Identity, Sum, self.0), fold(s, Identity, Max, self.0))
        }
    }

    #[test]
    fn sums_and_maxima_of_any_length() {
        for level in Level::available() {
            for len in (1..70).chain([129, 1000]) {
                let x: Vec<f32> = (0..len).map(|i| -1.0 - ((i * 37) % 11) as f32).collect();
                let wanted = (x.iter().sum(), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                assert_eq!(level.run(Folded(&x)), wanted, "{level:?} {len}");
            }
        }
    }
}
