//! [`PrefixTuningConfig`]: the fields, their check, and the layers they build.

use adapters_core::config::published_seed;
use adapters_core::target::Target;
use adapters_core::{
    Attached, Build, Capabilities, ConfigError, ConvertsForStorage, EditsEmbeddings, Erased, Error, Format, Host,
    Method, Preset, Role, Shared, SharedParameters, SiteInfo, SiteLayer, Stack,
};
use adapters_nn::{NonLinearity, draw};
use burn::module::Param;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::eject::flattened;
use crate::layer::{Gate, PrefixLayer};
use crate::vectors::{AttentionStack, Mlp, ParamNames, PrefixVectors, SharedVectors};

/// Prefix tuning: learned key and value vectors in front of those of every attention layer.
///
/// "Prefix-Tuning: Optimizing Continuous Prompts for Generation", Li and Liang (2021),
/// <https://arxiv.org/abs/2101.00190>.
///
/// The fields are those of the `config` object in AdapterHub's `adapter_config.json`, and `definition`. A field that a file
/// leaves out has the default given below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefixTuningConfig {
    /// Width between the two linear layers of the MLP, at least 1; without effect where `flat` is true. Default 512.
    pub bottleneck_size: usize,
    /// Put prefixes into the cross-attention of an encoder-decoder model. Default true.
    pub cross_prefix: bool,
    /// Dropout probability on the vectors, in `[0, 1)`. Default 0.
    pub dropout: f64,
    /// Put prefixes into the encoder of an encoder-decoder model. Default true.
    pub encoder_prefix: bool,
    /// Train the vectors themselves. Otherwise an MLP computes them while they train. Default false.
    pub flat: bool,
    /// Seed that is set again for every layer; zero counts as none. Default none.
    pub init_weights_seed: Option<i64>,
    /// Layers without prefix, counted from 0. Default empty.
    pub leave_out: Vec<usize>,
    /// Name of the activation of the MLP, one of [`NonLinearity`]'s; without effect where `flat` is true. Default `tanh`.
    pub non_linearity: String,
    /// Vectors in each layer, at least 1. Default 30.
    pub prefix_length: usize,
    /// With `use_gating`: one gate for keys and values; otherwise one for each. Default true.
    pub shared_gating: bool,
    /// Multiply the vectors by a learned gate in each layer. Default false.
    pub use_gating: bool,
    /// Whose definition of prefix tuning is computed, `form` in config strings. In no file: a peft file is read with peft's
    /// definition. Default AdapterHub's.
    #[serde(rename = "form")]
    pub definition: Definition,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Whose definition of prefix tuning is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Definition {
    /// AdapterHub's: the tokens keep their positions, and each stack of an encoder-decoder model has vectors of its own.
    #[default]
    AdapterHub,
    /// Peft's: the vectors are the first positions of the sequence, so that the tokens' positions begin after them. It
    /// has an MLP with `tanh`, or none, and no further options. In an encoder-decoder model they are in the self-attention
    /// of the decoder alone, which uses every other pair of vectors.
    Peft,
}

impl Default for PrefixTuningConfig {
    fn default() -> Self {
        Self::prefix_tuning()
    }
}

impl PrefixTuningConfig {
    /// 30 vectors, computed by an MLP of width 512.
    pub fn prefix_tuning() -> Self {
        Self {
            bottleneck_size: 512,
            cross_prefix: true,
            dropout: 0.0,
            encoder_prefix: true,
            flat: false,
            init_weights_seed: None,
            leave_out: Vec::new(),
            non_linearity: "tanh".to_owned(),
            prefix_length: 30,
            shared_gating: true,
            use_gating: false,
            definition: Definition::AdapterHub,
            extra: Map::new(),
        }
    }

    /// 30 vectors, trained directly.
    pub fn prefix_tuning_flat() -> Self {
        Self {
            flat: true,
            ..Self::prefix_tuning()
        }
    }

    /// Refuses what peft's definition does not have.
    fn check_peft(&self) -> Result<(), ConfigError> {
        let tanh = self.flat || self.non_linearity.eq_ignore_ascii_case("tanh");
        for (fits, field, found) in [
            (tanh, "non_linearity", self.non_linearity.clone()),
            (self.encoder_prefix, "encoder_prefix", false.to_string()),
            (self.cross_prefix, "cross_prefix", false.to_string()),
            (self.leave_out.is_empty(), "leave_out", format!("{:?}", self.leave_out)),
            (self.dropout == 0.0, "dropout", self.dropout.to_string()),
            (!self.use_gating, "use_gating", true.to_string()),
        ] {
            ConfigError::unless(
                fits,
                field,
                "the default: peft's prefix tuning has no such option",
                found,
            )?;
        }
        Ok(())
    }

    /// The same prefix with the vectors themselves as parameters; `None` if it is that already.
    pub(crate) fn flattened(&self) -> Option<Self> {
        if self.flat {
            return None;
        }
        let mut flat = Self {
            bottleneck_size: 512,
            flat: true,
            non_linearity: "tanh".to_owned(),
            ..self.clone()
        };
        if self.definition == Definition::Peft {
            // Peft's file still has the width of the MLP that is gone.
            let width = Value::from(self.bottleneck_size);
            flat.extra.insert("encoder_hidden_size".to_owned(), width);
        }
        Some(flat)
    }

    /// The attentions among `sites`, stack by stack.
    pub(crate) fn stacks<'a>(
        &self,
        sites: impl IntoIterator<Item = &'a SiteInfo>,
        host: &dyn Host,
    ) -> Vec<AttentionStack> {
        let has = |stack| host.sites().iter().any(|info| info.site.stack == stack);
        let submodules = match self.definition == Definition::Peft && has(Stack::Encoder) && has(Stack::Decoder) {
            true => 2,
            false => 1,
        };
        let mut stacks: Vec<AttentionStack> = Vec::new();
        for info in sites {
            let Some(new) = AttentionStack::of(info, submodules, host) else {
                continue;
            };
            match stacks.iter_mut().find(|stack| stack.stack == new.stack) {
                Some(stack) => stack.sites.push(info.site),
                None => stacks.push(new),
            }
        }
        stacks
    }

    /// How the vectors of each stack are computed.
    pub(crate) fn vectors(&self, host: &dyn Host) -> Result<Vec<PrefixVectors>, Error> {
        let activation = Error::in_config(Self::NAME, NonLinearity::function(&self.non_linearity))?;
        let sites = self.target().select(host)?.sites;
        let vectors = self.stacks(&sites, host).into_iter().map(|attentions| {
            let (names, d_in) = match self.definition {
                Definition::AdapterHub => (
                    ParamNames::adapterhub(attentions.name),
                    host.d_model_of(attentions.stack),
                ),
                Definition::Peft => (ParamNames::peft(), attentions.heads * attentions.d_head),
            };
            PrefixVectors {
                length: self.prefix_length,
                attentions,
                names,
                mlp: (!self.flat).then_some(Mlp {
                    d_in,
                    width: self.bottleneck_size,
                    activation,
                }),
            }
        });
        Ok(vectors.collect())
    }

    fn gate(&self, site: &SiteInfo, build: &Build<'_>) -> Option<Gate> {
        let (rows, d_model) = (
            if self.shared_gating { 1 } else { 2 },
            build.host.d_model_of(site.site.stack),
        );
        self.use_gating.then(|| {
            let mut rng = build.rng(published_seed(self.init_weights_seed), site.site);
            // A weight that torch would give the layer is drawn first, and replaced.
            let _ = draw::linear(&mut rng, [rows, d_model], d_model);
            let bias = draw::linear(&mut rng, [rows], d_model);
            let weight = draw::normal(&mut rng, [rows, d_model], 0.02);
            Gate {
                weight: Param::from_data(weight, build.device),
                bias: Param::from_data(bias, build.device),
            }
        })
    }
}

impl Method for PrefixTuningConfig {
    const NAME: &'static str = "prefix_tuning";
    const DESCRIPTION: &'static str = "Trained keys and values in front of those of each attention.";

    fn presets() -> &'static [Preset<Self>] {
        const PRESETS: &[Preset<PrefixTuningConfig>] = &[
            Preset::new("prefix_tuning", PrefixTuningConfig::prefix_tuning),
            Preset::new("prefix_tuning_flat", PrefixTuningConfig::prefix_tuning_flat),
        ];
        PRESETS
    }

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("prefix_length", self.prefix_length)?;
        if !self.flat {
            ConfigError::size("bottleneck_size", self.bottleneck_size)?;
        }
        let field = "non_linearity";
        NonLinearity::check(&self.non_linearity).map_err(|unknown| ConfigError::UnknownName { field, unknown })?;
        ConfigError::probability("dropout", self.dropout)?;
        match self.definition {
            Definition::AdapterHub => Ok(()),
            Definition::Peft => self.check_peft(),
        }
    }

    fn target(&self) -> Target {
        let target = Target::Roles {
            roles: vec![Role::KeyValue],
            leave_out: self.leave_out.clone(),
        };
        // Peft's are in the self-attention of the decoder alone.
        let adapterhub = self.definition == Definition::AdapterHub;
        let optional = [
            (adapterhub && self.encoder_prefix, Stack::Encoder),
            (adapterhub && self.cross_prefix, Stack::Cross),
        ];
        let stacks: Vec<Stack> = optional.iter().filter(|(on, _)| !on).map(|(_, stack)| *stack).collect();
        match stacks.is_empty() {
            true => target,
            false => Target::Outside {
                stacks,
                target: Box::new(target),
            },
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        for vectors in self.vectors(build.host)? {
            if let Some(index) = vectors.attentions.sites.iter().position(|other| *other == site.site) {
                let features = vectors.attentions.features();
                Self::check_elements(site, "prefix_length", [vectors.length, features])?;
                let width = vectors.mlp.map_or(1, |mlp| mlp.width);
                Self::check_elements(site, "bottleneck_size", [width, features])?;
                let layer = PrefixLayer::new(vectors, index, self.gate(site, build), self.dropout, self.definition);
                return Ok(SiteLayer::KeyValue(Erased::new(layer)));
            }
        }
        Err(Self::refuse(
            site,
            "it adapts the keys and values of attention layers only",
        ))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        let peft = self.definition == Definition::Peft;
        Capabilities {
            shared: Some(self),
            embeddings: peft.then_some(self as &dyn EditsEmbeddings),
            storage: peft.then_some(self as &dyn ConvertsForStorage),
            ..Capabilities::default()
        }
    }
}

impl SharedParameters for PrefixTuningConfig {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let mut rng = build.shared_rng(published_seed(self.init_weights_seed));
        let vectors = self.vectors(build.host)?;
        let stacks = vectors.iter().map(|vectors| vectors.draw(&mut rng, build.device));
        Ok(Shared::of(SharedVectors {
            stacks: stacks.collect(),
        }))
    }

    fn owns(&self, param: &str) -> bool {
        ParamNames::are_prefix(param)
    }
}

/// In peft's definition the tokens' positions begin after the prefix.
impl EditsEmbeddings for PrefixTuningConfig {
    fn first_position(&self) -> usize {
        self.prefix_length
    }

    fn positions(&self) -> usize {
        self.prefix_length
    }
}

/// Peft stores the vectors in place of the MLP that computes them.
impl ConvertsForStorage for PrefixTuningConfig {
    fn to_storage(&self, format: Format, adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
        match format {
            Format::Peft => flattened(adapter, host),
            Format::AdapterHub => Ok(None),
        }
    }
}
