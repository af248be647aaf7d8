//! Averaging: a new adapter from the weighted sum of others.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ParamId};
use burn::tensor::{Device, TensorData};

use crate::error::Error;
use crate::method::layer::{each_kind, map_kind};
use crate::set::values::{Fill, values};
use crate::set::{AdapterSet, Attached, with_fresh_ids};
use crate::site::Site;

/// Values of an adapter's parameters, by site (`None` for what its layers share) and name.
pub type ParamValues = BTreeMap<(Option<Site>, String), TensorData>;

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

impl Attached {
    /// Values of the parameters, by Burn's id.
    pub fn values_by_id(&self) -> HashMap<ParamId, TensorData> {
        let layers = self.layers().flat_map(|l| each_kind!(&l.layer, layer => values(layer)));
        layers.chain(values(self.shared())).collect()
    }

    /// The device its parameters are on, without autodiff; `None` for an adapter that has none.
    pub fn device(&self) -> Option<Device> {
        let mut layers = self
            .layers()
            .flat_map(|l| each_kind!(&l.layer, layer => layer.devices()));
        let device = layers.next().or_else(|| self.shared().devices().into_iter().next());
        device.map(Device::inner)
    }

    /// Values of the parameters.
    pub fn values(&self) -> ParamValues {
        let mut all = self.values_by_id();
        self.params()
            .filter_map(|p| Some(((p.info.map(|i| i.site), p.param.into_owned()), all.remove(&p.id)?)))
            .collect()
    }

    /// The adapter with other values; a parameter without one keeps its own.
    #[must_use]
    pub fn with_values(mut self, mut values: ParamValues) -> Self {
        let by_id = self
            .params()
            .filter_map(|p| Some((p.id, values.remove(&(p.info.map(|i| i.site), p.param.into_owned()))?)))
            .collect();
        let mut fill = Fill(by_id);
        self.change_layers(|layer| map_kind!(layer, l => l.map(&mut fill)));
        self
    }

    /// A copy under another name, with parameters of its own.
    #[must_use]
    pub fn copied(&self, name: impl Into<String>) -> Self {
        let mut copy = self.clone().renamed(name);
        copy.change_layers(|layer| map_kind!(layer, l => with_fresh_ids(l)));
        copy
    }
}

impl AdapterSet {
    /// Adds `name`, whose parameters are the sum of those of other adapters times their weights; neither active nor
    /// different in configuration from the first. Weights are taken as they are: see [`normalized`].
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`], [`Error::NameTaken`], [`Error::CannotAverage`] for adapters whose parameters differ in
    /// place or shape, or for no adapter at all.
    pub fn average(&mut self, name: &str, weights: &[(String, f64)]) -> Result<(), Error> {
        let [(first, weight), others @ ..] = weights else {
            return Err(Error::CannotAverage {
                first: String::new(),
                other: String::new(),
                reason: "no adapter is named".to_owned(),
            });
        };
        let model = self.attached(first)?;
        let mut sum: ParamValues = model
            .values()
            .into_iter()
            .map(|(place, data)| {
                (
                    place,
                    if data.dtype().is_float() {
                        scaled(data, *weight)
                    } else {
                        data
                    },
                )
            })
            .collect();
        for (other, weight) in others {
            let values = self.attached(other)?.values();
            let refuse = |reason| Error::CannotAverage {
                first: first.clone(),
                other: other.clone(),
                reason,
            };
            if !values.keys().eq(sum.keys()) {
                return Err(refuse("they have different parameters or different places".to_owned()));
            }
            for ((place, sum), data) in sum.iter_mut().zip(values.into_values()) {
                if sum.shape() != data.shape() {
                    let (name, shapes) = (&place.1, (sum.shape().to_vec(), data.shape().to_vec()));
                    return Err(refuse(format!(
                        "`{name}` has the shapes {:?} and {:?}",
                        shapes.0, shapes.1
                    )));
                }
                if data.dtype().is_float() {
                    *sum = added(sum, scaled(data, *weight));
                } else if *sum != data {
                    return Err(refuse(format!("`{}` chooses other elements", place.1)));
                }
            }
        }
        let average = model.copied(name).with_values(sum);
        let trained = average.method().restored(&average);
        self.insert(trained.unwrap_or(average))
    }
}

fn scaled(data: TensorData, weight: f64) -> TensorData {
    let values: Vec<f32> = data.iter::<f32>().map(|x| (f64::from(x) * weight) as f32).collect();
    TensorData::new(values, data.shape())
}

fn added(a: &TensorData, b: TensorData) -> TensorData {
    let values: Vec<f32> = a.iter::<f32>().zip(b.iter::<f32>()).map(|(a, b)| a + b).collect();
    TensorData::new(values, b.shape())
}
