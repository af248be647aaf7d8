//! Which layers LoRA and its variants adapt, with the fields of both libraries.

use std::collections::BTreeSet;

use adapters_core::config::{from_fields, to_fields};
use adapters_core::{ConfigError, Host, Role, SiteInfo};
use adapters_core::{target::ModuleNames, target::ModulePattern, target::ModuleTarget, target::Target};
use adapters_methods::{ModuleFields, chooses_among_none};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fused_projection::FusedProjection;

/// Which layers are adapted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TargetFields", into = "TargetFields")]
pub enum LoraTarget {
    /// Projections of a transformer layer by role, as AdapterHub names them.
    Roles(LayerRoles),
    /// Modules by path, as peft names them.
    Modules(ModuleTarget),
}

impl Default for LoraTarget {
    fn default() -> Self {
        Self::Roles(LayerRoles::default())
    }
}

/// Projections of a transformer layer by role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRoles {
    /// Matrices of self-attention.
    pub attention: Vec<AttentionMatrix>,
    /// Whether self-attention is adapted at all.
    pub self_attention: bool,
    /// The first projection of the feed-forward block.
    pub intermediate: bool,
    /// The second projection of the feed-forward block.
    pub output: bool,
    /// Layers left alone.
    pub leave_out: Vec<usize>,
}

/// A projection of self-attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttentionMatrix {
    /// Query.
    #[serde(rename = "q")]
    Query,
    /// Key.
    #[serde(rename = "k")]
    Key,
    /// Value.
    #[serde(rename = "v")]
    Value,
}

/// The fields of a [`LoraTarget`]: AdapterHub's, and peft's in place of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct TargetFields {
    attn_matrices: Vec<AttentionMatrix>,
    selfattn_lora: bool,
    intermediate_lora: bool,
    output_lora: bool,
    leave_out: Vec<usize>,
    target_modules: Option<ModulePattern>,
    exclude_modules: Option<ModulePattern>,
    layers: Option<Vec<usize>>,
    layers_pattern: Option<ModuleNames>,
}

impl Default for TargetFields {
    fn default() -> Self {
        LoraTarget::Roles(LayerRoles::default()).into()
    }
}

impl TryFrom<TargetFields> for LoraTarget {
    type Error = String;

    fn try_from(fields: TargetFields) -> Result<Self, String> {
        let none = ModulePattern::Names(Vec::new());
        let chosen = [
            (
                "exclude_modules",
                fields.exclude_modules.as_ref().is_some_and(|pattern| *pattern != none),
            ),
            (
                "layers",
                fields.layers.as_ref().is_some_and(|layers| !layers.is_empty()),
            ),
        ];
        if let Some((field, _)) = chosen
            .iter()
            .find(|(_, is_set)| *is_set && fields.target_modules.is_none())
        {
            return Err(chooses_among_none(field));
        }
        Ok(match fields.target_modules {
            Some(modules) => Self::Modules(ModuleTarget {
                modules,
                exclude: fields.exclude_modules,
                layers: fields.layers,
                layers_pattern: fields.layers_pattern,
            }),
            None => Self::Roles(LayerRoles {
                attention: fields.attn_matrices,
                self_attention: fields.selfattn_lora,
                intermediate: fields.intermediate_lora,
                output: fields.output_lora,
                leave_out: fields.leave_out,
            }),
        })
    }
}

impl From<LoraTarget> for TargetFields {
    fn from(target: LoraTarget) -> Self {
        let (roles, modules) = match target {
            LoraTarget::Roles(roles) => (roles, None),
            LoraTarget::Modules(modules) => (LayerRoles::default(), Some(modules)),
        };
        let (target_modules, exclude_modules, layers, layers_pattern) = match modules {
            Some(target) => (
                Some(target.modules),
                target.exclude,
                target.layers,
                target.layers_pattern,
            ),
            None => (None, None, None, None),
        };
        Self {
            attn_matrices: roles.attention,
            selfattn_lora: roles.self_attention,
            intermediate_lora: roles.intermediate,
            output_lora: roles.output,
            leave_out: roles.leave_out,
            target_modules,
            exclude_modules,
            layers,
            layers_pattern,
        }
    }
}

impl Default for LayerRoles {
    /// Query and value of self-attention, in every layer.
    fn default() -> Self {
        Self {
            attention: vec![AttentionMatrix::Query, AttentionMatrix::Value],
            self_attention: true,
            intermediate: false,
            output: false,
            leave_out: Vec::new(),
        }
    }
}

impl LayerRoles {
    /// The roles.
    pub fn roles(&self) -> Vec<Role> {
        let attention = self.attention.iter().map(|m| match m {
            AttentionMatrix::Query => Role::Query,
            AttentionMatrix::Key => Role::Key,
            AttentionMatrix::Value => Role::Value,
        });
        let mut roles: Vec<Role> = if self.self_attention {
            attention.collect()
        } else {
            Vec::new()
        };
        roles.extend(self.intermediate.then_some(Role::FfnUp));
        roles.extend(self.output.then_some(Role::FfnDown));
        roles
    }

    /// The roles that name exactly these sites of `host`, if there are such.
    fn naming(sites: &[&SiteInfo], host: &dyn Host) -> Option<Self> {
        let has = |role| sites.iter().any(|s| s.hub_role == role);
        let layers = |infos: &mut dyn Iterator<Item = Option<usize>>| infos.flatten().collect::<BTreeSet<_>>();
        let used = layers(&mut sites.iter().map(|s| s.site.layer));
        let all = layers(&mut host.sites().iter().map(|s| s.site.layer));
        let attention: Vec<_> = [
            (Role::Query, AttentionMatrix::Query),
            (Role::Key, AttentionMatrix::Key),
            (Role::Value, AttentionMatrix::Value),
        ]
        .into_iter()
        .filter(|(role, _)| has(*role))
        .map(|(_, matrix)| matrix)
        .collect();
        let roles = Self {
            self_attention: !attention.is_empty(),
            attention,
            intermediate: has(Role::FfnUp),
            output: has(Role::FfnDown),
            leave_out: all.difference(&used).copied().collect(),
        };
        let target = LoraTarget::Roles(roles.clone()).to_target();
        let named: BTreeSet<_> = target.select(host).ok()?.sites.iter().map(|s| s.site).collect();
        (named == sites.iter().map(|s| s.site).collect()).then_some(roles)
    }
}

impl LoraTarget {
    /// The projections of a fused one that roles name. Modules named by path are adapted as a whole.
    pub(crate) fn fused(&self, site: &SiteInfo) -> Option<FusedProjection> {
        match self {
            Self::Roles(roles) => FusedProjection::of(site, &roles.roles()),
            Self::Modules(_) => None,
        }
    }

    /// Input and output features of what is adapted at a linear site.
    pub(crate) fn dims(&self, site: &SiteInfo) -> Option<(usize, usize)> {
        let (d_in, d_out) = site.linear_dims()?;
        Some((d_in, self.fused(site).map_or(d_out, |fused| fused.features())))
    }

    /// The target as core knows it.
    pub(crate) fn to_target(&self) -> Target {
        match self {
            Self::Roles(roles) => Target::Roles {
                roles: roles.roles(),
                leave_out: roles.leave_out.clone(),
            },
            Self::Modules(modules) => Target::Modules(modules.clone()),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let any = match self {
            Self::Roles(roles) => !roles.roles().is_empty(),
            Self::Modules(_) => true,
        };
        ConfigError::unless(
            any,
            "attn_matrices, selfattn_lora, intermediate_lora, output_lora",
            "at least one projection",
            "none",
        )
    }

    /// The same layers by role, for an adapter at `sites`; `None` where no roles name exactly those.
    pub(crate) fn by_role(&self, sites: &[&SiteInfo], host: &dyn Host) -> Option<Self> {
        match self {
            Self::Roles(_) => Some(self.clone()),
            Self::Modules(_) => LayerRoles::naming(sites, host).map(Self::Roles),
        }
    }

    /// Reads the target of a peft object, and the fields besides it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unsupported`] for a field that would change the computation, [`ConfigError::OutOfRange`] if no module
    /// is named.
    pub(crate) fn from_peft(fields: &Map<String, Value>) -> Result<(Self, Map<String, Value>), ConfigError> {
        let fields: ModuleFields = from_fields(fields.clone())?;
        fields.refuse(REFUSED)?;
        match fields.target() {
            Some(target) => {
                let mut rest = fields.extra;
                rest.shift_remove("peft_type");
                Ok((Self::Modules(target), rest))
            }
            None => Err(ConfigError::OutOfRange {
                field: "target_modules",
                expected: "names, a regular expression or \"all-linear\"",
                found: "null".to_owned(),
            }),
        }
    }

    /// The start of a peft object for an adapter at `sites`: its type, its modules, and what a file of peft had in `extra`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NotExpressible`] where only some projections of a fused one are adapted.
    pub(crate) fn to_peft(
        &self,
        peft_type: &str,
        extra: &Map<String, Value>,
        sites: &[&SiteInfo],
        host: &dyn Host,
    ) -> Result<Map<String, Value>, ConfigError> {
        if sites.iter().any(|site| self.fused(site).is_some()) {
            return Err(crate::peft::refuse("single projections of a fused one"));
        }
        let modules = match self {
            Self::Modules(target) => ModuleFields::of(target.clone(), extra.clone()),
            // What a file of AdapterHub had besides has no meaning here.
            Self::Roles(_) => ModuleFields::of(ModuleTarget::new(ModuleTarget::naming(sites, host)), Map::new()),
        };
        let mut fields = to_fields(&modules, &[]);
        fields.insert("peft_type".to_owned(), peft_type.into());
        let input_first = sites.iter().any(|site| host.stores_input_first(site.site));
        for (field, value) in [
            ("layers_pattern", Value::Null),
            ("task_type", Value::Null),
            ("inference_mode", Value::Bool(true)),
            ("fan_in_fan_out", Value::Bool(input_first)),
        ] {
            fields.entry(field).or_insert(value);
        }
        Ok(fields)
    }
}

/// Fields of peft's configurations that change what is computed or stored, once they hold a value.
const REFUSED: &[&str] = &[
    "use_bdlora",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
];
