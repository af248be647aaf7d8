//! A fusion of certain adapters as a method: where it acts, what it builds, and what its files hold.

use adapters_core::target::Target;
use adapters_core::{
    Attached, Build, Capabilities, ConfigError, Erased, ErasedMethod, Error, Format, Host, Penalized, Role, SiteInfo,
    SiteKind, SiteLayer, config,
};
use burn::tensor::Tensor;
use serde_json::{Map, Value};

use crate::config::FusionConfig;
use crate::layer::FusionLayer;

pub(crate) const FAMILY: &str = "fusion";

/// A checked fusion of certain adapters, at the roles where all of them act.
#[derive(Clone, Debug)]
pub struct Fusion {
    config: FusionConfig,
    adapters: Vec<String>,
    roles: Vec<Role>,
    dropout: f64,
}

impl Fusion {
    /// A fusion of these adapters for `host`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a value outside its range, [`Error::CannotFuse`] for adapters that do not answer a fusion or
    /// act at different roles.
    pub fn new(config: FusionConfig, adapters: &[&Attached], host: &dyn Host) -> Result<Self, Error> {
        Error::in_config(FAMILY, config.check())?;
        let names: Vec<String> = adapters.iter().map(|adapter| adapter.name().to_owned()).collect();
        let refuse = |reason: String| Error::CannotFuse {
            adapters: names.join(", "),
            reason,
        };
        let mut common: Option<Vec<Role>> = None;
        for adapter in adapters {
            let roles = fusable_roles(adapter).map_err(&refuse)?;
            match &common {
                Some(common) if *common != roles => {
                    return Err(refuse(format!(
                        "`{}` adapts other modules than `{}`",
                        adapter.name(),
                        names[0]
                    )));
                }
                _ => common = Some(roles),
            }
        }
        let model = host.attention_dropout();
        Ok(Self {
            dropout: config.dropout_prob.filter(|p| *p > 0.0).unwrap_or(model),
            roles: common.ok_or_else(|| refuse("no adapter is named".to_owned()))?,
            adapters: names,
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &FusionConfig {
        &self.config
    }

    /// The fused adapters, in order.
    pub fn adapters(&self) -> &[String] {
        &self.adapters
    }

    /// The fusion an entry of a set is.
    pub fn of(attached: &Attached) -> Option<&Self> {
        attached.method().downcast_ref()
    }
}

/// The roles in a layer where an adapter can be fused.
fn fusable_roles(adapter: &Attached) -> Result<Vec<Role>, String> {
    let mut roles: Vec<Role> = Vec::new();
    for l in adapter.layers() {
        match &l.layer {
            SiteLayer::Hidden(layer) if layer.fusion_query().is_some() => roles.push(l.info.hub_role),
            // Acts for the first adapter of a setup alone.
            SiteLayer::Embedding(_) => {}
            _ => {
                return Err(format!(
                    "`{}` has a layer at `{}` that cannot be fused: AdapterFusion needs adapters that add to the residual stream",
                    adapter.name(),
                    l.info.path
                ));
            }
        }
    }
    roles.sort();
    roles.dedup();
    match roles.is_empty() {
        true => Err(format!("`{}` does not act on the residual stream", adapter.name())),
        false => Ok(roles),
    }
}

impl ErasedMethod for Fusion {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn config_string(&self) -> String {
        let plain = |named: FusionConfig| FusionConfig {
            extra: self.config.extra.clone(),
            ..named
        };
        let kind = if self.config == plain(FusionConfig::dynamic()) {
            "dynamic"
        } else if self.config == plain(FusionConfig::fixed_values()) {
            "static"
        } else {
            "own"
        };
        format!("{kind} fusion of {}", self.adapters.join(", "))
    }

    fn target(&self) -> Target {
        Target::Roles {
            roles: self.roles.clone(),
            leave_out: Vec::new(),
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        match site.kind {
            SiteKind::Hidden { d_model } => {
                let mut rng = build.rng(None, site.site);
                let layer = FusionLayer::new(&self.config, self.dropout, d_model, &mut rng, build.device);
                Ok(SiteLayer::Fusion(Erased::new(layer)))
            }
            _ => Err(Error::CannotBuild {
                method: FAMILY,
                path: site.path.clone(),
                reason: "it acts where blocks join the residual stream".to_owned(),
            }),
        }
    }

    fn key(&self, _format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        format!("{}.adapter_fusion_layer.{adapter}.{param}", site.path)
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            penalty: Some(self),
            ..Capabilities::default()
        }
    }

    fn write(&self, format: Format, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, Error> {
        match format {
            Format::AdapterHub => Ok(config::to_fields(&self.config, &[])),
            Format::Peft => {
                let refused = ConfigError::NotExpressible {
                    format,
                    what: "a fusion",
                };
                Err(Error::config(FAMILY, refused))
            }
        }
    }
}

impl Penalized for Fusion {
    /// That of all value projections together.
    fn penalty(&self, adapter: &Attached) -> Option<Tensor<1>> {
        let layers = adapter.layers().filter_map(|l| match &l.layer {
            SiteLayer::Fusion(layer) => layer.downcast_ref::<FusionLayer>(),
            _ => None,
        });
        layers.filter_map(FusionLayer::penalty).reduce(|sum, one| sum + one)
    }
}
