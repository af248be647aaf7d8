//! Averaging: a new adapter from the weighted sum of others.

use std::collections::HashMap;

use adapters_core::{AdapterSet, Attached, Error, ParamValues, Site, SiteInfo};
use burn::tensor::TensorData;

/// Weights divided by their sum, as averages take them unless told otherwise.
///
/// # Errors
///
/// [`Error::CannotAverage`] where the sum is zero or not finite.
pub fn normalized(weights: &[(&str, f64)]) -> Result<Vec<(String, f64)>, Error> {
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    if sum == 0.0 || !sum.is_finite() {
        let names: Vec<&str> = weights.iter().map(|(name, _)| *name).collect();
        return Err(Error::CannotAverage {
            first: names.first().copied().unwrap_or_default().to_owned(),
            other: names.last().copied().unwrap_or_default().to_owned(),
            reason: format!("weights that add up to {sum} cannot be normalized"),
        });
    }
    Ok(weights
        .iter()
        .map(|(name, weight)| ((*name).to_owned(), weight / sum))
        .collect())
}

/// Adds `name` to a set, whose parameters are the sum of those of other adapters times their weights; neither active nor
/// different in configuration from the first. Weights are taken as they are: see [`normalized`]. Where the methods scale their
/// updates by constants that differ, as LoRA's `alpha / rank`, the ratio is a factor of the parameters.
///
/// # Errors
///
/// [`Error::NoSuchAdapter`], [`Error::NameTaken`], [`Error::CannotAverage`] for adapters whose parameters differ in
/// site or shape, or for no adapter at all.
pub fn average(set: &mut AdapterSet, name: &str, weights: &[(String, f64)]) -> Result<(), Error> {
    let [(first, weight), others @ ..] = weights else {
        return Err(Error::CannotAverage {
            first: String::new(),
            other: String::new(),
            reason: "no adapter is named".to_owned(),
        });
    };
    let model = set.attached(first)?;
    let sites: HashMap<Site, &SiteInfo> = model.layers().map(|layer| (layer.info.site, &layer.info)).collect();
    let mut sum: ParamValues = model
        .values()
        .into_iter()
        .map(|(key, data)| {
            (
                key,
                if data.dtype().is_float() {
                    scaled(data, *weight)
                } else {
                    data
                },
            )
        })
        .collect();
    for (other, weight) in others {
        let adapter = set.attached(other)?;
        let values = adapter.values();
        let refuse = |reason| Error::CannotAverage {
            first: first.clone(),
            other: other.clone(),
            reason,
        };
        if !values.keys().eq(sum.keys()) {
            return Err(refuse(
                "they have different parameters or adapt different modules".to_owned(),
            ));
        }
        for ((key, sum), data) in sum.iter_mut().zip(values.into_values()) {
            if sum.shape() != data.shape() {
                let (name, shapes) = (&key.1, (sum.shape().to_vec(), data.shape().to_vec()));
                return Err(refuse(format!(
                    "`{name}` has the shapes {:?} and {:?}",
                    shapes.0, shapes.1
                )));
            }
            if data.dtype().is_float() {
                let info = key.0.and_then(|site| sites.get(&site));
                let scale = |of: &Attached| match (info, of.method().capabilities().scaled) {
                    (Some(info), Some(method)) => method.update_scale(info, &key.1),
                    _ => Ok(None),
                };
                // The average has the constant of the first, so what another multiplies its update by more goes into the sum.
                let more = match (scale(adapter)?, scale(model)?) {
                    (Some(other), Some(first)) if other != first => other / first,
                    _ => 1.0,
                };
                if !more.is_finite() {
                    return Err(refuse("the first has a scale of zero".to_owned()));
                }
                *sum = added(sum, scaled(data, *weight * more));
            } else if *sum != data {
                return Err(refuse(format!("`{}` trains other elements of the weight", key.1)));
            }
        }
    }
    let average = model.copied(name).with_values(sum);
    set.insert(average.as_trained())
}

fn scaled(data: TensorData, weight: f64) -> TensorData {
    let values: Vec<f32> = data.iter::<f32>().map(|x| (f64::from(x) * weight) as f32).collect();
    TensorData::new(values, data.shape())
}

fn added(a: &TensorData, b: TensorData) -> TensorData {
    let values: Vec<f32> = a.iter::<f32>().zip(b.iter::<f32>()).map(|(a, b)| a + b).collect();
    TensorData::new(values, b.shape())
}
