//! Folding an adapter into the base weights, and taking it out again exactly.

use std::fmt;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::ElementConversion;

use crate::error::Error;
use crate::host::Host;
use crate::set::{AdapterSet, AttachedLayer};
use crate::site::Site;
use crate::state::{LinearState, LinearWeight};

/// An adapter folded into a model, with the layers it replaced.
///
/// The original tensors are kept, not computed back, so [`reset`](Self::reset) restores every bit.
#[derive(Debug)]
pub struct Merged {
    adapter: String,
    originals: Vec<(Site, Linear)>,
    /// What changed.
    pub report: MergeReport,
}

/// The largest change merging made to each weight.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeReport {
    /// Path of the layer and the largest absolute change of an element.
    pub changes: Vec<(String, f32)>,
}

impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, change) in &self.changes {
            writeln!(f, "{path}: largest change {change:.3e}")?;
        }
        Ok(())
    }
}

/// Folds adapter `name` of `set` into the weights of `model`: the plain model then computes what the model with
/// the adapter computed. The set is not changed; do not activate the adapter on the merged model.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`], [`Error::AlreadyMerged`] if `earlier` is given, [`Error::NotMergeable`] with the site
/// where the method refuses. The model is unchanged on error.
pub fn merge(model: &mut impl Host, set: &AdapterSet, name: &str, earlier: Option<&Merged>) -> Result<Merged, Error> {
    if let Some(earlier) = earlier {
        return Err(Error::AlreadyMerged {
            adapter: name.to_owned(),
            merged: earlier.adapter.clone(),
        });
    }
    let attached = set.attached(name)?;
    let mut replaced = Vec::new();
    let mut changes = Vec::new();
    for AttachedLayer { info, .. } in attached.layers() {
        let refuse = |reason| Error::NotMergeable {
            adapter: name.to_owned(),
            path: info.path.clone(),
            reason,
        };
        let layer = set
            .layer::<LinearState>(name, info.site)
            .ok_or_else(|| refuse("it does not act on a linear layer"))?;
        let base = model
            .linear(info.site)
            .ok_or_else(|| refuse("the model gives no access to this weight"))?;
        let before = base.weight.val();
        let weight = LinearWeight {
            weight: before.clone(),
            bias: base.bias.as_ref().map(|b| b.val()),
        };
        let merged = layer.merged(weight).map_err(|e| refuse(e.reason))?;
        let change = (merged.weight.clone() - before).abs().max().into_scalar::<f32>();
        changes.push((info.path.clone(), change.elem()));
        replaced.push((
            info.site,
            Linear {
                weight: Param::from_tensor(merged.weight).set_require_grad(false),
                bias: merged.bias.map(|b| Param::from_tensor(b).set_require_grad(false)),
            },
        ));
    }
    let originals = replaced
        .into_iter()
        .filter_map(|(site, merged)| Some((site, std::mem::replace(model.linear_mut(site)?, merged))))
        .collect();
    Ok(Merged {
        adapter: name.to_owned(),
        originals,
        report: MergeReport { changes },
    })
}

impl Merged {
    /// The adapter that is merged.
    pub fn adapter(&self) -> &str {
        &self.adapter
    }

    /// Puts the original layers back, bit for bit.
    pub fn reset(self, model: &mut impl Host) {
        for (site, original) in self.originals {
            if let Some(layer) = model.linear_mut(site) {
                *layer = original;
            }
        }
    }
}
