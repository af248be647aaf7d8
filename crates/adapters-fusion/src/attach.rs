//! Adding a fusion to a set of adapters.

use adapters_core::{AdapterSet, AnyMethod, AttachReport, Attached, ErasedMethod, Error, Host};
use burn::tensor::Device;

use crate::{Fusion, FusionConfig};

/// Adds a fusion of attached adapters to `set`, trainable, under the name a `Fuse` block of these adapters looks for: their
/// names joined by commas. It has a layer wherever the model has the roles that all of them act at.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`]; [`Error::CannotFuse`] for adapters that do not tell what they add, or that act at different
/// roles; [`Error::NameTaken`]; [`Error::Config`] for a value outside its range.
pub fn attach(
    set: &mut AdapterSet,
    adapters: &[&str],
    config: FusionConfig,
    model: &dyn Host,
    seed: u64,
    device: &Device,
) -> Result<AttachReport, Error> {
    attach_named(set, &adapters.join(","), adapters, config, model, seed, device)
}

/// As [`attach`], under a name of its own: that of a [`named_fuse`](adapters_core::Composition::named_fuse).
///
/// # Errors
///
/// As [`attach`].
pub fn attach_named(
    set: &mut AdapterSet,
    name: &str,
    adapters: &[&str],
    config: FusionConfig,
    model: &dyn Host,
    seed: u64,
    device: &Device,
) -> Result<AttachReport, Error> {
    let (fusion, report) = build(set, name, adapters, config, model, seed, device)?;
    set.insert_fusion(fusion)?;
    Ok(report)
}

/// Builds a fusion without adding it to the set.
///
/// # Errors
///
/// As [`attach`], except for names.
pub fn build(
    set: &AdapterSet,
    name: &str,
    adapters: &[&str],
    config: FusionConfig,
    model: &dyn Host,
    seed: u64,
    device: &Device,
) -> Result<(Attached, AttachReport), Error> {
    let attached = adapters.iter().map(|adapter| set.attached(adapter));
    let method = Fusion::new(config, &attached.collect::<Result<Vec<_>, _>>()?, model)?;
    let target = method.target();
    let selection = target.select(model)?.require(&target, model)?;
    adapters_core::build(name, AnyMethod::erased(method), model, selection, seed, device)
}
