//! The adapters to combine, as matrices on the host.

use adapters_core::{AdapterSet, Attached, Error, SiteInfo, SiteKind};
use burn::tensor::Device;

use crate::combine::matrix::Matrix;
use crate::lora_config::LoraConfig;
use crate::scaling::Scaling;

/// One adapter's layer at a site.
pub(super) struct Factor {
    /// `[rank, d_in]`.
    pub(super) a: Matrix,
    /// `[d_out, rank]`.
    pub(super) b: Matrix,
    pub(super) scale: f64,
    pub(super) weight: f64,
}

impl Factor {
    pub(super) fn weighted_scale(&self) -> f64 {
        self.weight * self.scale
    }

    /// The factors of one of several products whose A lie one below the other, and whose B do.
    pub(super) fn group(&self, group: usize, groups: usize) -> Self {
        Self {
            a: self.a.rows_of(group, groups),
            b: self.b.rows_of(group, groups),
            ..*self
        }
    }

    /// `s B A`.
    pub(super) fn update(&self, device: &Device) -> Matrix {
        Matrix::of(self.b.tensor(device).matmul(self.a.tensor(device)) * self.scale)
    }
}

/// The adapters to combine, site by site.
pub(super) struct Inputs {
    pub(super) config: LoraConfig,
    pub(super) sites: Vec<(SiteInfo, Vec<Factor>)>,
}

pub(super) fn names(kind: SiteKind) -> [&'static str; 2] {
    match kind {
        SiteKind::Table { .. } => ["lora_embedding_A", "lora_embedding_B"],
        _ => ["lora_A", "lora_B"],
    }
}

impl Inputs {
    pub(super) fn read(set: &AdapterSet, weights: &[(String, f64)], one_rank: bool) -> Result<Self, Error> {
        let first = weights.first().map(|(name, _)| name.clone()).unwrap_or_default();
        let model = set.attached(&first)?;
        let model_config = plain(model).ok_or_else(|| Error::CannotAverage {
            first: first.clone(),
            other: first.clone(),
            reason: "only plain LoRA adapters can be combined this way".to_owned(),
        })?;
        let mut sites: Vec<(SiteInfo, Vec<Factor>)> = model.layers().map(|l| (l.info.clone(), Vec::new())).collect();
        for (name, weight) in weights {
            let refuse = |reason: &str| Error::CannotAverage {
                first: first.clone(),
                other: name.clone(),
                reason: reason.to_owned(),
            };
            let adapter = set.attached(name)?;
            let config = plain(adapter).ok_or_else(|| refuse("only plain LoRA adapters can be combined this way"))?;
            let mut values = adapter.values();
            if values.len() != 2 * sites.len() {
                return Err(refuse("they adapt different modules, or have more than A and B"));
            }
            for (info, factors) in &mut sites {
                let mut matrix = |param: &str| {
                    let data = values.remove(&(Some(info.site), param.to_owned()))?;
                    Matrix::new(&data)
                };
                let [name_a, name_b] = names(info.kind);
                let (Some(a), Some(b)) = (matrix(name_a), matrix(name_b)) else {
                    return Err(refuse("they adapt different modules, or have more than A and B"));
                };
                if one_rank && factors.first().is_some_and(|f| f.a.rows != a.rows) {
                    return Err(refuse("they have different ranks"));
                }
                if config.target.fused(info) != model_config.target.fused(info) {
                    return Err(refuse("they adapt different projections of a fused layer"));
                }
                let (_, scale) = config.rank_and_scale(&info.path)?;
                factors.push(Factor {
                    a,
                    b,
                    scale,
                    weight: *weight,
                });
            }
        }
        Ok(Self {
            config: model_config,
            sites,
        })
    }
}

/// The configuration of an adapter that is plain LoRA.
fn plain(adapter: &Attached) -> Option<LoraConfig> {
    let config: &LoraConfig = adapter.method().downcast_ref()?;
    (config.scaling != Scaling::Gated).then(|| config.clone())
}
