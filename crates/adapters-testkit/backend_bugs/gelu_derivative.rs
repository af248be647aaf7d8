//! The derivative of Burn 0.22.1's `activation::gelu` beside that of the error function, on the device that is named.
//!
//! `gelu` is `x Phi(x)` to rounding on every backend, but `ActivationOps::gelu_backward` has a default that is the derivative of
//! the tanh approximation, and no CubeCL backend overrides it. On `flex`, which does, the last column is rounding.
//!
//! ```text
//! cargo run -p adapters-testkit --features wgpu --example gelu_derivative -- wgpu
//! ```

// A reproduction speaks on standard output.
#![allow(clippy::print_stdout)]

use adapters::parse_device;
use burn::tensor::{Tensor, activation};
use miette::{IntoDiagnostic, Result, miette};

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "flex".to_owned());
    let device = parse_device(&name).into_diagnostic()?.autodiff();
    let points = [-3.0f32, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0];
    let gradient = |f: fn(Tensor<1>) -> Tensor<1>| {
        let x = Tensor::<1>::from_floats(points, &device).require_grad();
        let gradients = f(x.clone()).sum().backward();
        let gradient = x.grad(&gradients).ok_or_else(|| miette!("no gradient"))?;
        Ok::<Vec<f32>, miette::Report>(gradient.into_data().iter().collect())
    };
    let stock = gradient(activation::gelu)?;
    let exact = gradient(|x| (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf().add_scalar(1.0) * 0.5 * x)?;
    println!("{name}: x, gradient of gelu, gradient of x (1 + erf(x / sqrt 2)) / 2, difference");
    for ((x, stock), exact) in points.iter().zip(stock).zip(exact) {
        println!("{x:5.1}  {stock:.6}  {exact:.6}  {:+.1e}", stock - exact);
    }
    Ok(())
}
