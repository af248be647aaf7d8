//! How bottleneck adapters enter the system: the family that reads configurations, the method that builds layers.

use std::fmt;

use adapters_core::target::Target;
use adapters_core::{
    AnyMethod, Build, ConfigPart, Erased, ErasedMethod, Error, Format, Host, MethodFamily, Role, Shared, SiteInfo,
    SiteKind, SiteLayer, StoredConfig, config,
};
use adapters_nn::draw;
use adapters_nn::ops::Activation;
use burn::module::Param;
use burn::nn::LayerNormConfig;
use burn::tensor::Tensor;
use serde_json::{Map, Value};

use crate::invertible::{Coupling, slope};
use crate::module::{BottleneckLayer, NonLinearity, Shape};
use crate::preset::IDENTIFIERS;
use crate::projection::{self, Dense, PhmLayer, Project, Side, param};
use crate::wire::{BottleneckWire, object};
use crate::{BottleneckConfig, BottleneckError, Init, LnAfter, Phm, Projection, Scaling};

/// The family's name.
const FAMILY: &str = "bottleneck";

/// A checked [`BottleneckConfig`], which can be attached.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    config: BottleneckConfig,
    activation: Option<Activation>,
}

impl BottleneckConfig {
    /// The checked form, which can be attached.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn into_method(self) -> Result<Bottleneck, BottleneckError> {
        self.check()?;
        let name = self.non_linearity.to_lowercase();
        Ok(Bottleneck {
            // `prelu` learns its slope and is no plain function.
            activation: name.parse().ok(),
            config: self,
        })
    }
}

impl Bottleneck {
    /// The configuration.
    pub fn config(&self) -> &BottleneckConfig {
        &self.config
    }

    fn roles(&self) -> Vec<Role> {
        let config = &self.config;
        let mut roles = Vec::new();
        roles.extend(config.mh_adapter.then_some(Role::AfterAttention));
        roles.extend(config.output_adapter.then_some(Role::AfterFfn));
        roles.extend(config.cross_adapter.then_some(Role::AfterCrossAttention));
        roles.extend(config.invertible.is_some().then_some(Role::Embedding));
        roles
    }

    /// Bottleneck width in `layer`.
    fn width(&self, layer: usize, d_model: usize) -> Result<usize, BottleneckError> {
        let size = self.config.reduction.bottleneck_size(layer, d_model);
        size.ok_or(BottleneckError::Missing {
            field: "reduction_factor",
            expected: "a factor of every layer, or a default",
        })
    }

    fn non_linearity(&self, build: &Build<'_>) -> NonLinearity {
        NonLinearity {
            slope: self.activation.is_none().then(|| slope(build.device)),
            function: self.activation.unwrap_or(Activation::Linear),
        }
    }

    /// Both projections at a width, after checking that hypercomplex ones divide it.
    fn projections(
        &self,
        d_model: usize,
        width: usize,
        build: &Build<'_>,
        rng: &mut rand_chacha::ChaCha8Rng,
    ) -> Result<(Project, Project), BottleneckError> {
        let (init, device) = (self.config.init, build.device);
        Ok(match &self.config.projection {
            Projection::Linear => (
                Project::Linear(Dense::new(d_model, width, init, Side::Down, rng, device)),
                Project::Linear(Dense::new(width, d_model, init, Side::Up, rng, device)),
            ),
            Projection::Phm(phm) => {
                divides(phm, d_model, width)?;
                (
                    Project::Phm(PhmLayer::new(phm, d_model, width, Side::Down, rng, device)),
                    Project::Phm(PhmLayer::new(phm, width, d_model, Side::Up, rng, device)),
                )
            }
        })
    }

    fn layer(&self, site: &SiteInfo, d_model: usize, build: &Build<'_>) -> Result<BottleneckLayer, BottleneckError> {
        let config = &self.config;
        let mut rng = build.rng(self.seed(), site.site);
        let width = self.width(site.site.layer.unwrap_or(0), d_model)?;
        let (down, up) = self.projections(d_model, width, build, &mut rng)?;
        let norm = |wanted: bool| wanted.then(|| LayerNormConfig::new(d_model).with_epsilon(1e-5).init(build.device));
        let gate = config.use_gating.then(|| {
            let mut gate = Dense::new(d_model, 1, Init::Bert, Side::Down, &mut rng, build.device);
            if config.init == Init::Houlsby {
                // The reference leaves this one as torch makes it.
                let bound = (d_model as f32).sqrt().recip();
                gate.weight = param(draw::uniform(&mut rng, [1, d_model], bound), build.device);
                gate.bias = param(draw::uniform(&mut rng, [1], bound), build.device);
            }
            gate
        });
        let ones = |size: usize| Param::from_tensor(Tensor::<1>::ones([size], build.device));
        let (factor, scaling) = match config.scaling {
            Scaling::Fixed(factor) => (factor, None),
            Scaling::Learned => (1.0, Some(ones(1))),
            Scaling::Channel => (1.0, Some(ones(d_model))),
        };
        let parallel = config.insertion == crate::Insertion::Parallel;
        Ok(BottleneckLayer {
            ln_before: norm(config.ln_before),
            down,
            non_linearity: self.non_linearity(build),
            up,
            scaling,
            gate,
            ln_after: norm(config.ln_after != LnAfter::Off),
            shape: Shape {
                insertion: config.insertion,
                original_ln_after: config.original_ln_after,
                ln_after: config.ln_after,
                factor,
                dropout: config.dropout,
                stochastic_depth: if parallel { 0.0 } else { config.stochastic_depth },
            },
        })
    }

    /// The seed of the initial values, if the configuration has one; zero means none, as in the reference.
    fn seed(&self) -> Option<u64> {
        self.config.init_seed.filter(|seed| *seed != 0).map(|seed| seed as u64)
    }
}

/// Hypercomplex layers divide both widths into `dim` parts.
fn divides(phm: &Phm, d_model: usize, width: usize) -> Result<(), BottleneckError> {
    for (what, size) in [("the model's width", d_model), ("the bottleneck's width", width)] {
        if !size.is_multiple_of(phm.dim) {
            return Err(BottleneckError::Conflict {
                field: "phm_dim",
                expected: "a divisor of the model's width and of the bottleneck's",
                found: format!("{}, and {what} is {size}", phm.dim),
            });
        }
    }
    Ok(())
}

impl fmt::Display for Bottleneck {
    /// The config string: the preset with the fewest differences, and those.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = object(BottleneckWire::from(&self.config));
        // What a file said beyond the known fields is no part of a config string.
        fields.retain(|key, _| !self.config.extra.contains_key(key));
        let parts = IDENTIFIERS.iter().filter_map(|identifier| {
            let preset = object(BottleneckWire::from(&BottleneckConfig::preset(identifier).ok()?));
            let differing = fields.iter().filter(|(key, value)| preset.get(*key) != Some(value));
            Some(ConfigPart {
                identifier: (*identifier).to_owned(),
                fields: differing.map(|(k, v)| (k.clone(), v.clone())).collect(),
            })
        });
        match parts.min_by_key(|part| part.fields.len()) {
            Some(part) => part.fmt(f),
            None => f.write_str(FAMILY),
        }
    }
}

impl ErasedMethod for Bottleneck {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn config_string(&self) -> String {
        self.to_string()
    }

    fn target(&self) -> Target {
        Target::Roles {
            roles: self.roles(),
            leave_out: self.config.leave_out.clone(),
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        match (site.kind, self.config.invertible) {
            (SiteKind::Hidden { d_model }, _) => {
                let layer = self.layer(site, d_model, build);
                Ok(SiteLayer::Hidden(Erased::new(
                    layer.map_err(|e| Error::config(FAMILY, e))?,
                )))
            }
            (SiteKind::Embedding { d_model }, Some(invertible)) => {
                let mut rng = build.rng(self.seed(), site.site);
                let non_linearity = || self.non_linearity(build);
                let block = Coupling::new(invertible, d_model, non_linearity, &mut rng, build.device);
                Ok(SiteLayer::Embedding(Erased::new(block)))
            }
            _ => Err(Error::CannotBuild {
                method: FAMILY,
                path: site.path.clone(),
                reason: "it acts after a block, and its invertible part after the embeddings".to_owned(),
            }),
        }
    }

    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let Projection::Phm(phm) = &self.config.projection else {
            return Ok(Shared::new());
        };
        let shared = || {
            let width = self.width(0, build.host.d_model())?;
            divides(phm, build.host.d_model(), width)?;
            let mut rng = build.shared_rng(self.seed());
            Ok(projection::shared(
                phm,
                build.host.d_model(),
                width,
                &mut rng,
                build.device,
            ))
        };
        shared().map_err(|e: BottleneckError| Error::config(FAMILY, e))
    }

    fn key(&self, _format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match site.kind {
            // In the module that holds the embeddings, where that is not the model itself.
            SiteKind::Embedding { .. } => {
                let holder = site.path.rsplit_once('.').map(|(holder, _)| format!("{holder}."));
                format!("{}invertible_adapters.{adapter}.{param}", holder.unwrap_or_default())
            }
            _ => format!("{}.adapters.{adapter}.{param}", site.path),
        }
    }

    fn is_duplicate(&self, _format: Format, key: &str) -> bool {
        key.contains(".adapter_norm_before.") || (key.contains(".adapter_down.") && key.ends_with(".f.weight"))
    }

    fn write(&self, format: Format, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, Error> {
        match format {
            Format::AdapterHub => Ok(object(BottleneckWire::from(&self.config))),
            Format::Peft => Err(Error::config(FAMILY, BottleneckError::NotExpressible { format })),
        }
    }
}

/// Reads bottleneck configurations.
#[derive(Clone, Copy, Debug)]
pub struct BottleneckFamily;

impl MethodFamily for BottleneckFamily {
    fn name(&self) -> &'static str {
        FAMILY
    }

    fn identifiers(&self) -> &'static [&'static str] {
        IDENTIFIERS
    }

    fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<AnyMethod, Error> {
        let preset = Error::in_config(FAMILY, BottleneckConfig::preset(identifier))?;
        let mut all = object(BottleneckWire::from(&preset));
        Error::in_config(FAMILY, config::refuse_unknown(&fields, all.keys()))?;
        all.extend(fields);
        method(all)
    }

    fn read(&self, stored: &StoredConfig<'_>) -> Option<Result<AnyMethod, Error>> {
        if stored.format != Format::AdapterHub {
            return None;
        }
        // The reference's own files have no architecture; those of its methods that have one say which.
        let mine = match stored.fields.get("architecture") {
            None | Some(Value::Null) => stored.fields.contains_key("reduction_factor"),
            Some(architecture) => architecture == "adapter" || architecture == FAMILY,
        };
        let mut fields = stored.fields.clone();
        if !stored.versioned && fields.get("non_linearity").is_some_and(|name| name == "gelu") {
            // Files older than versions meant what is called `gelu_new` now.
            fields.insert("non_linearity".to_owned(), "gelu_new".into());
        }
        mine.then(|| method(fields))
    }
}

/// From a wire object to a checked method.
fn method(fields: Map<String, Value>) -> Result<AnyMethod, Error> {
    let wire: BottleneckWire = Error::in_config(FAMILY, config::from_fields(fields))?;
    let checked = BottleneckConfig::try_from(wire).and_then(BottleneckConfig::into_method);
    Ok(AnyMethod::erased(Error::in_config(FAMILY, checked)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AnyMethod, Error> {
        adapters_core::Registry::default()
            .with(adapters_core::MethodEntry::family(FAMILY, &BottleneckFamily))
            .parse(text)
    }

    #[test]
    fn config_strings_read_and_print() {
        for text in [
            "seq_bn",
            "double_seq_bn",
            "par_bn[scaling=2.0]",
            "scaled_par_bn",
            "seq_bn_inv[inv_adapter=glow]",
            "compacter++[phm_dim=2]",
            "adapter_plus[mh_adapter=true]",
            "seq_bn[non_linearity=prelu,reduction_factor=8]",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for (old, new) in [("pfeiffer", "seq_bn"), ("houlsby+inv", "double_seq_bn_inv")] {
            assert_eq!(parse(old).unwrap().to_string(), new);
        }
    }

    #[test]
    fn files_without_a_version_mean_the_old_gelu() {
        let mut fields = object(BottleneckWire::from(&BottleneckConfig::seq_bn()));
        fields.insert("non_linearity".to_owned(), "gelu".into());
        let read = |format, versioned| {
            let stored = StoredConfig {
                format,
                fields: &fields,
                version: None,
                versioned,
            };
            BottleneckFamily.read(&stored).map(|method| method.unwrap().to_string())
        };
        let (old, new) = (read(Format::AdapterHub, false), read(Format::AdapterHub, true));
        assert_eq!(old.unwrap(), "seq_bn[non_linearity=gelu_new]");
        assert_eq!(new.unwrap(), "seq_bn[non_linearity=gelu]");
        assert!(read(Format::Peft, true).is_none());
    }

    #[test]
    fn slips_are_named() {
        for (text, part) in [
            ("seq_bn[reduction=4]", "did you mean `reduction_factor`?"),
            ("seq_bn[reduction_factor=0]", "`reduction_factor` is out of range"),
            ("seq_bn[non_linearity=rellu]", "found `rellu`"),
        ] {
            let error = parse(text).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(part), "{text}: {source}");
        }
    }
}
