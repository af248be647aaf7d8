//! Replacing the MLP of a trained prefix by the vectors it computes, which are all that inference needs.

use adapters_core::{AdapterSet, AnyMethod, Attached, Error, Host, Method};
use adapters_methods::Union;
use burn::module::Module;

use crate::prefix_tuning::PrefixTuningConfig;
use crate::vectors::SharedVectors;

/// What ejecting did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ejected {
    /// Parameters of the adapter before.
    pub before: usize,
    /// And after.
    pub after: usize,
}

/// An adapter without an MLP that could be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("adapter `{adapter}` has no prefix that an MLP computes: expected a `prefix_tuning` adapter, found `{found}`")]
pub struct NothingToEject {
    /// The adapter.
    pub adapter: String,
    /// Its config string.
    pub found: String,
}

/// Replaces the MLP of adapter `name` by the vectors it computes, and sets `flat` in its configuration; in a union, in that
/// of the prefix. What the adapter computes stays as it is.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`]; [`NothingToEject`] as the source of an [`Error::Config`].
pub fn eject(set: &mut AdapterSet, name: &str, host: &dyn Host) -> Result<Ejected, Error> {
    let adapter = set.attached(name)?;
    let flat = flattened(adapter, host)?.ok_or_else(|| {
        let nothing = NothingToEject {
            adapter: name.to_owned(),
            found: adapter.method().to_string(),
        };
        Error::config(PrefixTuningConfig::NAME, nothing)
    })?;
    let ejected = Ejected {
        before: adapter.num_params(),
        after: flat.num_params(),
    };
    set.replace(name, flat)?;
    Ok(ejected)
}

/// The adapter with vectors in place of the MLP that computes them; `None` if it has no such prefix.
pub(crate) fn flattened(adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
    let method = adapter.method();
    let members = match Union::of(method) {
        Some(union) => union.members().to_vec(),
        None => vec![method.clone()],
    };
    let mut values = adapter.values();
    let mut changed = false;
    let mut flat: Vec<AnyMethod> = Vec::new();
    for member in members {
        let prefix = member.downcast_ref::<PrefixTuningConfig>();
        match prefix.and_then(|prefix| Some((prefix, prefix.flattened()?))) {
            Some((prefix, flattened)) => {
                let shared: Option<&SharedVectors> = adapter.shared().get();
                for vectors in prefix.vectors(host)? {
                    if let Some(own) = shared.and_then(|shared| shared.of(vectors.attentions.stack)) {
                        values.insert((None, vectors.names.flat.clone()), vectors.flat(own));
                    }
                }
                changed = true;
                flat.push(AnyMethod::new(flattened)?);
            }
            None => flat.push(member),
        }
    }
    let devices = adapter.shared().devices();
    let Some(device) = devices.first().filter(|_| changed) else {
        return Ok(None);
    };
    let sites = adapter.layers().map(|l| l.info.clone()).collect();
    let built = Attached::build(adapter.name(), Union::method(flat)?, sites, host, 0, device)?;
    Ok(Some(built.with_values(values)))
}
