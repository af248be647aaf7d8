//! Activation functions and their derivatives.

use pulp::{Simd, WithSimd};

use super::simd::{self, Level, Map, Map2, MapKernel, mul_add};
use super::threads;

/// An activation with a kernel of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    /// `x Phi(x)`.
    Gelu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, computed as `x sigmoid(2 ..)`.
    GeluTanh,
    /// `x sigmoid(a x)`.
    Swish(f32),
    /// `max(x, 0)`.
    Relu,
}

/// `f(x)` in place of `x`.
pub(crate) fn apply(level: Level, function: Function, x: &mut [f32]) {
    fn run<F: Map>(level: Level, f: F, x: &mut [f32]) {
        threads::chunks(x, 1, |_, x| level.run(MapKernel(f, x)));
    }
    match function {
        Function::Gelu => run(level, Gelu, x),
        Function::GeluTanh => run(level, GeluTanh, x),
        Function::Swish(a) => run(level, Swish(a), x),
        Function::Relu => run(level, Relu, x),
    }
}

/// `out = f(x)`.
pub(crate) fn apply_into(level: Level, function: Function, x: &[f32], out: &mut [f32]) {
    struct Kernel<'a, F>(F, &'a [f32], &'a mut [f32]);
    impl<F: Map> WithSimd for Kernel<'_, F> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) {
            simd::map_into(s, self.0, self.1, self.2);
        }
    }
    fn run<F: Map>(level: Level, f: F, x: &[f32], out: &mut [f32]) {
        threads::chunks(out, 1, |first, out| {
            level.run(Kernel(f, &x[first..first + out.len()], out));
        });
    }
    match function {
        Function::Gelu => run(level, Gelu, x, out),
        Function::GeluTanh => run(level, GeluTanh, x, out),
        Function::Swish(a) => run(level, Swish(a), x, out),
        Function::Relu => run(level, Relu, x, out),
    }
}

/// `grad f'(x)` in place of `grad`.
pub(crate) fn gradient(level: Level, function: Function, grad: &mut [f32], x: &[f32]) {
    match function {
        Function::Gelu => zip(level, Gelu, grad, x),
        Function::GeluTanh => zip(level, GeluTanh, grad, x),
        Function::Swish(a) => zip(level, Swish(a), grad, x),
        Function::Relu => zip(level, Relu, grad, x),
    }
}

/// `x = f(x, y)` on all threads.
pub(crate) fn zip<F: Map2>(level: Level, f: F, x: &mut [f32], y: &[f32]) {
    struct Kernel<'a, F>(F, &'a mut [f32], &'a [f32]);
    impl<F: Map2> WithSimd for Kernel<'_, F> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) {
            simd::map2(s, self.0, self.1, self.2);
        }
    }
    threads::chunks(x, 1, |first, x| {
        let y = &y[first..first + x.len()];
        level.run(Kernel(f, x, y));
    });
}

/// `row = f(row, y)` of each row of `x`, on all threads.
pub(crate) fn zip_rows<F: Map2>(level: Level, f: F, x: &mut [f32], y: &[f32]) {
    struct Kernel<'a, F>(F, &'a mut [f32], &'a [f32]);
    impl<F: Map2> WithSimd for Kernel<'_, F> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) {
            for row in self.1.chunks_exact_mut(self.2.len()) {
                simd::map2(s, self.0, row, self.2);
            }
        }
    }
    threads::chunks(x, y.len(), |_, x| level.run(Kernel(f, x, y)));
}

/// `x = x + y`, on all threads.
pub(crate) fn add(level: Level, x: &mut [f32], y: &[f32]) {
    struct Kernel<'a>(&'a mut [f32], &'a [f32]);
    impl WithSimd for Kernel<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) {
            simd::map2(s, Plus, self.0, self.1);
        }
    }
    threads::chunks(x, 1, |first, x| {
        let y = &y[first..first + x.len()];
        level.run(Kernel(x, y));
    });
}

/// `out = silu(gate) up`.
pub(crate) fn gated(level: Level, gate: &[f32], up: &[f32], out: &mut [f32]) {
    struct Kernel<'a>(&'a [f32], &'a [f32], &'a mut [f32]);
    impl WithSimd for Kernel<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) {
            simd::map2_into(s, Gated, self.0, self.1, self.2);
        }
    }
    threads::chunks(out, 1, |first, out| {
        let range = first..first + out.len();
        level.run(Kernel(&gate[range.clone()], &up[range], out));
    });
}

/// The gradients of [`gated`]: `grad` becomes that of `gate`, and `up_grad` is filled.
pub(crate) fn gated_gradient(level: Level, gate: &[f32], up: &[f32], grad: &mut [f32], up_grad: &mut [f32]) {
    struct Kernel<'a>(&'a [f32], &'a [f32], &'a mut [f32], &'a mut [f32]);
    impl WithSimd for Kernel<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, s: S) {
            let Self(gate, up, grad, up_grad) = self;
            // grad of `up` first, while `grad` is that of the output: grad silu(gate).
            simd::map2_into(s, Gated, gate, grad, up_grad);
            simd::map2(s, simd::Product, grad, up);
            simd::map2(s, Swish(1.0), grad, gate);
        }
    }
    threads::chunks2(grad, up_grad, 1, |first, grad, up_grad| {
        // In stretches that stay in the nearest cache between the three passes.
        for (index, (grad, up_grad)) in grad.chunks_mut(2048).zip(up_grad.chunks_mut(2048)).enumerate() {
            let start = first + index * 2048;
            let range = start..start + grad.len();
            level.run(Kernel(&gate[range.clone()], &up[range], grad, up_grad));
        }
    });
}

#[derive(Clone, Copy)]
struct Gelu;

impl Map for Gelu {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        let half = s.mul_f32s(x, s.splat_f32s(0.5));
        let erf = simd::erf(s, s.mul_f32s(x, s.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)));
        mul_add(s, half, erf, half)
    }
}

impl Map2 for Gelu {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, grad: S::f32s, x: S::f32s) -> S::f32s {
        let half = s.splat_f32s(0.5);
        let erf = simd::erf(s, s.mul_f32s(x, s.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)));
        let phi = mul_add(s, half, erf, half);
        let bell = simd::exp_up_to_88(s, s.mul_f32s(s.mul_f32s(x, x), s.splat_f32s(-0.5)));
        // 1 / sqrt(2 pi)
        let bell = s.mul_f32s(bell, s.splat_f32s(0.398_942_3));
        s.mul_f32s(grad, mul_add(s, x, bell, phi))
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

/// `2 sqrt(2 / pi)` and that times the coefficient of the cube.
const TANH_LINEAR: f32 = std::f32::consts::SQRT_2 * std::f32::consts::FRAC_2_SQRT_PI;
const TANH_CUBE: f32 = 0.044_715 * TANH_LINEAR;

impl Map for GeluTanh {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        let slope = mul_add(s, s.mul_f32s(x, x), s.splat_f32s(TANH_CUBE), s.splat_f32s(TANH_LINEAR));
        s.mul_f32s(x, simd::sigmoid(s, s.mul_f32s(x, slope)))
    }
}

impl Map2 for GeluTanh {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, grad: S::f32s, x: S::f32s) -> S::f32s {
        let square = s.mul_f32s(x, x);
        let (linear, cube) = (s.splat_f32s(TANH_LINEAR), s.splat_f32s(TANH_CUBE));
        let inner = s.mul_f32s(x, mul_add(s, square, cube, linear));
        let slope = mul_add(s, square, s.splat_f32s(3.0 * TANH_CUBE), linear);
        s.mul_f32s(grad, sigmoid_slope(s, x, inner, slope))
    }
}

/// The derivative of `x sigmoid(inner)`, where `slope` is that of `inner`: `p + x p (1 - p) slope`.
#[inline(always)]
fn sigmoid_slope<S: Simd>(s: S, x: S::f32s, inner: S::f32s, slope: S::f32s) -> S::f32s {
    let p = simd::sigmoid(s, inner);
    let rest = s.sub_f32s(s.splat_f32s(1.0), p);
    mul_add(s, s.mul_f32s(s.mul_f32s(x, p), rest), slope, p)
}

#[derive(Clone, Copy)]
struct Swish(f32);

impl Map for Swish {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        s.mul_f32s(x, simd::sigmoid(s, s.mul_f32s(x, s.splat_f32s(self.0))))
    }
}

impl Map2 for Swish {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, grad: S::f32s, x: S::f32s) -> S::f32s {
        let a = s.splat_f32s(self.0);
        s.mul_f32s(grad, sigmoid_slope(s, x, s.mul_f32s(x, a), a))
    }
}

/// `silu(x) y`.
#[derive(Clone, Copy)]
struct Gated;

impl Map2 for Gated {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s, y: S::f32s) -> S::f32s {
        s.mul_f32s(Map::call(Swish(1.0), s, x), y)
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Map for Relu {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        let zero = s.splat_f32s(0.0);
        s.select_f32s(s.less_than_f32s(x, zero), zero, x)
    }
}

impl Map2 for Relu {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, grad: S::f32s, x: S::f32s) -> S::f32s {
        let zero = s.splat_f32s(0.0);
        s.select_f32s(s.less_than_or_equal_f32s(x, zero), zero, grad)
    }
}

/// `x + y`.
#[derive(Clone, Copy)]
pub(crate) struct Plus;

impl Map2 for Plus {
    #[inline(always)]
    fn call<S: Simd>(self, s: S, x: S::f32s, y: S::f32s) -> S::f32s {
        s.add_f32s(x, y)
    }
}
