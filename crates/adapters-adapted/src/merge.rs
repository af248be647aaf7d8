//! Folding an adapter into the base weights, and taking it out again exactly.

use std::fmt;

use adapters_core::{
    AdapterSet, Attached, AttachedLayer, Error, Host, LayerMut, LinearWeight, Matrices, NormWeight, NotMergeable,
    Shared, Site, SiteLayer,
};
use adapters_nn::float_weight;
use burn::module::Param;
use burn::nn::{Embedding, Linear};
use burn::tensor::{ElementConversion, Tensor};

/// An adapter folded into a model, with the layers it replaced.
///
/// The original tensors are kept, not computed back, so [`reset`](Self::reset) restores every bit.
#[derive(Debug)]
pub struct Merged {
    adapter: String,
    originals: Vec<(Site, FrozenLayer)>,
    /// What changed.
    pub report: MergeReport,
}

/// A layer of the base model.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each layer that is merged; a box would be one more thing to read"
)]
pub enum FrozenLayer {
    /// A linear layer.
    Linear(Linear),
    /// The parameters of a normalization.
    Norm(NormWeight),
    /// An embedding table.
    Table(Embedding),
    /// Matrices in one parameter.
    Matrices(Matrices),
}

impl FrozenLayer {
    /// The layer at a site of `model`; `None` for a site without weights.
    pub fn of(model: &impl Host, site: Site) -> Option<Self> {
        let linear = model.linear(site).cloned().map(Self::Linear);
        let norm = || model.norm(site).map(Self::Norm);
        let table = || model.table(site).cloned().map(Self::Table);
        let matrices = || model.matrices(site).cloned().map(Self::Matrices);
        linear.or_else(norm).or_else(table).or_else(matrices)
    }

    /// Puts this layer into the model; the one that was there, if the model has the site.
    fn swap(self, model: &mut impl Host, site: Site) -> Option<Self> {
        let (mut new, mut old) = (Some(self), None);
        model.visit_sites_mut(&mut |info, at| {
            if info.site != site {
                return;
            }
            old = match (at, new.take()) {
                (LayerMut::Linear(at), Some(Self::Linear(layer))) => Some(Self::Linear(std::mem::replace(at, layer))),
                (LayerMut::Norm(at), Some(Self::Norm(parameters))) => {
                    let before = at.get();
                    at.set(parameters);
                    Some(Self::Norm(before))
                }
                (LayerMut::Table(at), Some(Self::Table(layer))) => Some(Self::Table(std::mem::replace(at, layer))),
                (LayerMut::Matrices(at), Some(Self::Matrices(layer))) => {
                    Some(Self::Matrices(std::mem::replace(at, layer)))
                }
                _ => None,
            };
        });
        old
    }
}

/// The largest change merging made to each weight.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Path of the layer and the largest absolute change of an element.
    pub changes: Vec<(String, f32)>,
}

impl MergeReport {
    /// A report of these changes.
    pub fn new(changes: Vec<(String, f32)>) -> Self {
        Self { changes }
    }
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
/// the adapter computed. The set is not changed; do not activate the adapter on the merged model, and reset it before another
/// is merged, as [`Adapted::merge`](crate::Adapted::merge) requires.
///
/// A layer whose weight is quantized is restored to floats first and stays so while it is merged: quantizing the sum again
/// would round the adapter away. Resetting puts the quantized layer back.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`], and [`Error::NotMergeable`] with the site where the method refuses. The model is unchanged on error.
pub fn merge(model: &mut impl Host, set: &AdapterSet, name: &str) -> Result<Merged, Error> {
    let attached = set.attached(name)?;
    let mut replaced = Vec::new();
    let mut changes = Vec::new();
    for layer in attached.acting_layers() {
        let (merged, change) = fold(attached, layer, model)?;
        changes.push((layer.info.path.clone(), change));
        replaced.push((layer.info.site, merged));
    }
    let originals = replaced
        .into_iter()
        .filter_map(|(site, merged)| Some((site, merged.swap(model, site)?)))
        .collect();
    Ok(Merged {
        adapter: name.to_owned(),
        originals,
        report: MergeReport { changes },
    })
}

/// The layer of `model` at the site of `layer`, which is one of `attached`, with it folded in, and the largest change of an
/// element. The model is not changed.
///
/// # Errors
///
/// [`Error::NotMergeable`] where the method refuses.
pub fn fold(attached: &Attached, layer: &AttachedLayer, model: &impl Host) -> Result<(FrozenLayer, f32), Error> {
    let AttachedLayer { info, layer } = layer;
    folded(layer, attached.shared(), model, info.site).map_err(|e| Error::NotMergeable {
        adapter: attached.name().to_owned(),
        path: info.path.clone(),
        reason: e.reason,
    })
}

/// The frozen layer at `site` with `layer` folded in, and the largest change of an element.
fn folded(
    layer: &SiteLayer,
    shared: &Shared,
    model: &impl Host,
    site: Site,
) -> Result<(FrozenLayer, f32), NotMergeable> {
    let no_access = NotMergeable {
        reason: "the model gives no access to this weight",
    };
    match layer {
        SiteLayer::Linear(layer) => {
            let base = model.linear(site).ok_or(no_access)?;
            let weight = float_weight(base);
            let merged = layer.merged(
                LinearWeight {
                    weight: weight.clone(),
                    bias: base.bias.as_ref().map(|b| b.val()),
                },
                shared,
            )?;
            let change = largest_change(weight, merged.weight.clone());
            let merged = Linear {
                weight: frozen(merged.weight),
                bias: merged.bias.map(frozen),
            };
            Ok((FrozenLayer::Linear(merged), change))
        }
        SiteLayer::Norm(layer) => {
            let base = model.norm(site).ok_or(no_access)?;
            let merged = layer.merged(base.clone(), shared)?;
            let change = largest_change(base.weight, merged.weight.clone());
            let merged = NormWeight {
                weight: frozen(merged.weight).val(),
                bias: merged.bias.map(|bias| frozen(bias).val()),
            };
            Ok((FrozenLayer::Norm(merged), change))
        }
        SiteLayer::Table(layer) => {
            let weight = model.table(site).ok_or(no_access)?.weight.val();
            let merged = layer.merged(weight.clone(), shared)?;
            let change = largest_change(weight, merged.clone());
            let merged = Embedding { weight: frozen(merged) };
            Ok((FrozenLayer::Table(merged), change))
        }
        SiteLayer::Matrices(layer) => {
            let weight = model.matrices(site).ok_or(no_access)?.weight.val();
            let merged = layer.merged(weight.clone(), shared)?;
            let change = largest_change(weight, merged.clone());
            let merged = Matrices { weight: frozen(merged) };
            Ok((FrozenLayer::Matrices(merged), change))
        }
        _ => Err(NotMergeable {
            reason: "it does not act on a weight",
        }),
    }
}

fn frozen<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor).set_require_grad(false)
}

fn largest_change<const D: usize>(before: Tensor<D>, after: Tensor<D>) -> f32 {
    (after - before).abs().max().into_scalar::<f32>().elem()
}

impl Merged {
    /// The adapter that is merged.
    pub fn adapter(&self) -> &str {
        &self.adapter
    }

    /// Puts the original layers back, bit for bit.
    pub fn reset(self, model: &mut impl Host) {
        for (site, original) in self.originals {
            original.swap(model, site);
        }
    }
}
