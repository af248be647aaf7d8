//! Recipes that train several adapters on shards of the data and fuse them.

use std::path::PathBuf;

use adapters_fusion::FusionConfig;
use serde::{Deserialize, Serialize};

use super::{AdapterSection, Recipe, value};
use crate::data::{Shard, ShardBy};
use crate::error::TrainError;

/// `[fusion]`: the adapter is trained once on each of so many disjoint shards of the data, and then a fusion of them on all
/// of it, with a head of its own. *AdapterFusion*, Pfeiffer et al., 2021, <https://arxiv.org/abs/2005.00247>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionSection {
    /// Names of the adapters, one for each shard.
    pub adapters: Vec<String>,
    /// How the data is cut.
    #[serde(default)]
    pub by: ShardBy,
    /// `dynamic` or `static`.
    #[serde(default = "default_config")]
    pub config: String,
    /// Learning rate of the fusion at its peak; without it that of `[train]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
}

fn default_config() -> String {
    "dynamic".to_owned()
}

impl FusionSection {
    pub(super) fn check(&self, adapter: &AdapterSection) -> Result<(), TrainError> {
        FusionConfig::named(&self.config)?;
        if self.adapters.len() < 2 {
            return Err(value("fusion.adapters", "at least two names", self.adapters.len()));
        }
        for (index, name) in self.adapters.iter().enumerate() {
            let fits = |c: char| c.is_alphanumeric() || "_-".contains(c);
            // They name folders of the run, and the fusion is named after them.
            if name.is_empty() || !name.chars().all(fits) || FUSION == name {
                let expected = "letters, digits, `_` and `-`, and not `fusion`";
                return Err(value("fusion.adapters", expected, format!("`{name}`")));
            }
            if self.adapters[..index].contains(name) {
                return Err(value("fusion.adapters", "names that differ", format!("`{name}` twice")));
            }
        }
        if let Some(rate) = self.learning_rate.filter(|rate| !(*rate > 0.0 && rate.is_finite())) {
            return Err(value("fusion.learning_rate", "a positive number", rate));
        }
        match adapter.fuse.is_empty() {
            true => Ok(()),
            false => Err(value(
                "adapter.fuse",
                "no value when [fusion] is given, which sets it",
                "some",
            )),
        }
    }
}

/// Folder of the fusion inside the run.
pub(crate) const FUSION: &str = "fusion";

impl Recipe {
    /// The recipe of the adapter of one shard.
    pub(crate) fn of_shard(&self, fusion: &FusionSection, index: usize) -> Self {
        let mut recipe = self.clone();
        recipe.fusion = None;
        recipe.adapter.name = fusion.adapters[index].clone();
        recipe.data.shard = Some(Shard {
            index,
            of: fusion.adapters.len(),
            by: fusion.by,
        });
        recipe
    }

    /// The recipe of the fusion of adapters in these folders.
    pub(crate) fn of_fusion(&self, fusion: &FusionSection, folders: Vec<PathBuf>) -> Self {
        let mut recipe = self.clone();
        recipe.fusion = None;
        recipe.adapter = AdapterSection {
            name: fusion.adapters.join(","),
            fuse: folders,
            fusion: Some(fusion.config.clone()),
            stack_on: self.adapter.stack_on.clone(),
            ..AdapterSection::default()
        };
        recipe.train.learning_rate = fusion.learning_rate.unwrap_or(self.train.learning_rate);
        recipe
    }
}

impl AdapterSection {
    /// Checks what a fusion needs and what it does without.
    pub(super) fn check_fuse(&self) -> Result<(), TrainError> {
        if self.fuse.len() < 2 {
            return Err(value("adapter.fuse", "at least two folders", self.fuse.len()));
        }
        if self.config.is_some() || self.method.is_some() || !self.fields.is_empty() {
            let expected = "a table with `fuse`, or with `config` or `method` and its fields";
            return Err(value("adapter", expected, "a table with both"));
        }
        self.fusion_config().map(|_| ())
    }

    /// How the adapters of `fuse` are fused.
    pub(crate) fn fusion_config(&self) -> Result<FusionConfig, TrainError> {
        Ok(FusionConfig::named(self.fusion.as_deref().unwrap_or("dynamic"))?)
    }
}
