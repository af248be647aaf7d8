//! Taking the MLP of a trained prefix off: inference needs only the vectors it makes.

use adapters_core::{AdapterSet, AnyMethod, Attached, Error, Host, Union};
use burn::module::Module;
use burn::tensor::TensorData;

use crate::error::PrefixError;
use crate::inject::{FAMILY, Prefix};

/// What ejecting did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// Parameters of the adapter before.
    pub before: usize,
    /// And after.
    pub after: usize,
}

/// Puts the vectors that the MLP of adapter `name` makes in its place, and says so in its configuration; of a union, in
/// that of the prefix. What it computes stays as it is.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`]; [`PrefixError::NothingToEject`] for an adapter without an MLP that makes a prefix.
pub fn eject(set: &mut AdapterSet, name: &str, host: &dyn Host) -> Result<Ejected, Error> {
    let adapter = set.attached(name)?;
    let flat = flattened(adapter, host)?.ok_or_else(|| {
        let nothing = PrefixError::NothingToEject {
            adapter: name.to_owned(),
            found: adapter.method().to_string(),
        };
        Error::config(FAMILY, nothing)
    })?;
    let ejected = Ejected {
        before: adapter.num_params(),
        after: flat.num_params(),
    };
    set.replace(name, flat)?;
    Ok(ejected)
}

/// The adapter with vectors in place of what makes them; `None` if it has no such prefix.
pub(crate) fn flattened(adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
    let method = adapter.method();
    let parts = match Union::of(method) {
        Some(union) => union.parts().to_vec(),
        None => vec![method.clone()],
    };
    let mut values = adapter.values();
    let mut changed = false;
    let mut flat: Vec<AnyMethod> = Vec::new();
    for part in parts {
        match part.downcast_ref::<Prefix>() {
            Some(prefix) if prefix.is_reparametrized() => {
                for source in prefix.sources(host)? {
                    let rows = source.rows(adapter.shared()).into_data();
                    let shape = match source.names.rows {
                        true => rows.shape().to_vec(),
                        false => vec![rows.shape().iter().product()],
                    };
                    let rows: Vec<f32> = rows.iter().collect();
                    values.insert((None, source.names.flat), TensorData::new(rows, shape));
                }
                changed = true;
                flat.push(AnyMethod::erased(prefix.flat()));
            }
            _ => flat.push(part),
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
