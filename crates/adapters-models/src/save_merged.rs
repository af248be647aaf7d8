//! A base and an adapter as one plain checkpoint, merged a layer at a time.

use std::collections::BTreeMap;
use std::path::Path;

use adapters_adapted::{FrozenLayer, MergeReport, fold};
use adapters_core::{AdapterSet, Attached, SiteInfo, SiteKind};
use burn::tensor::{Device, FloatDType};

use crate::error::ModelError;
use crate::model::Model;
use crate::pretrained::Pretrained;
use crate::save_checkpoint::write_checkpoint;
use crate::weights::ReadErrors;

/// Bytes of the base's layers that are kept before it is opened again.
const KEPT: usize = 1 << 24;

/// Writes a plain checkpoint of `pretrained` with the adapter `name` of `set` merged into it, as merging a model and
/// [`save_checkpoint`](crate::save_checkpoint) do, without the model in memory: a tensor is read when it is merged or copied,
/// and written before the next. The adapter is one that was attached to the model of `pretrained`; its parameters are on `device`.
///
/// # Errors
///
/// [`ModelError::Adapter`] for an adapter that is not there or cannot be merged; as `save_checkpoint`. Nothing is written then.
pub fn save_merged(
    pretrained: &Pretrained,
    set: &AdapterSet,
    name: &str,
    out: &Path,
    dtype: Option<FloatDType>,
    device: &Device,
) -> Result<MergeReport, ModelError> {
    let attached = set.attached(name)?;
    let (model, _) = pretrained.model_on_demand(device)?;
    let mut merging = Merging {
        open: || pretrained.model_on_demand(device),
        base: pretrained.model_on_demand(device)?,
        attached,
        kept: 0,
        changes: BTreeMap::new(),
    };
    write_checkpoint(&model, &mut |info| merging.layer(info), pretrained, out, dtype)?;
    let changes = attached.layers().filter_map(|layer| {
        let change = merging.changes.get(&layer.info.path)?;
        Some((layer.info.path.clone(), *change))
    });
    Ok(MergeReport::new(changes.collect()))
}

/// The base, of which a tensor stays in memory once it was read, and what is merged into it.
struct Merging<'a, F> {
    open: F,
    base: (Model, ReadErrors),
    attached: &'a Attached,
    /// Bytes of the layers of `base` that were read.
    kept: usize,
    /// The largest change of an element, by path.
    changes: BTreeMap<String, f32>,
}

impl<F: Fn() -> Result<(Model, ReadErrors), ModelError>> Merging<'_, F> {
    /// The merged layer of a site; `None` for one that stays as it is.
    fn layer(&mut self, info: &SiteInfo) -> Result<Option<FrozenLayer>, ModelError> {
        let at = |site| self.attached.acting_layers().find(|layer| layer.info.site == site);
        let layer = at(info.site);
        // A head keeps its weight where the table that it shares changes, and so does a table under another name.
        if layer.is_none() && info.weight_of.and_then(at).is_none() {
            return Ok(None);
        }
        if self.kept > KEPT {
            self.base = (self.open)()?;
            self.kept = 0;
        }
        self.kept += bytes(&info.kind);
        let (base, read_errors) = &self.base;
        let layer = match layer {
            Some(layer) => {
                let (layer, change) = fold(self.attached, layer, base)?;
                self.changes.insert(info.path.clone(), change);
                Some(layer)
            }
            None => {
                let kept = FrozenLayer::of(base, info.site);
                match &kept {
                    Some(FrozenLayer::Linear(head)) => drop(head.weight.val()),
                    Some(FrozenLayer::Table(table)) => drop(table.weight.val()),
                    _ => {}
                }
                kept
            }
        };
        read_errors.check()?;
        Ok(layer)
    }
}

/// Bytes of the weight of a site in 32 bits.
fn bytes(kind: &SiteKind) -> usize {
    let elements = match *kind {
        SiteKind::Linear { d_in, d_out } => d_in * d_out,
        SiteKind::Table { rows, d_model, .. } => rows * d_model,
        SiteKind::Matrices { count, rows, cols } => count * rows * cols,
        _ => 0,
    };
    elements * size_of::<f32>()
}
