//! Targets: which sites of a model a method targets.
//!
//! A target is a value: [`Target::select`] answers what it would hit before anything is attached.

use std::collections::BTreeSet;

pub use adapters_config::{ModuleNames, ModulePattern, name_matches, pattern_value};
use adapters_sites::{Role, Site, SiteInfo, SiteKind, Stack};

use crate::error::Error;
use crate::host::Host;

/// Which sites a method targets.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Sites by role, as AdapterHub configurations name them, in all layers but `leave_out`.
    Roles {
        /// The roles.
        roles: Vec<Role>,
        /// Layers to leave alone.
        leave_out: Vec<usize>,
    },
    /// Modules by path, as peft configurations name them.
    Modules(ModuleTarget),
    /// Sites of any of these targets.
    Any(Vec<Target>),
    /// Whole layers by path: what enters them and what they return.
    Blocks(ModuleTarget),
    /// Modules whose path, or that of a module they are part of, ends in one of these texts, within a component too: how peft reads
    /// `modules_to_save`.
    Endings(Vec<String>),
    /// Parameters by the ends of their paths, which are whole components: peft's `target_parameters`. A parameter is one that has
    /// no module of its own, or the weight of a linear layer.
    Parameters(Vec<String>),
    /// Sites of another target, where embedding tables and the heads whose weights they are go together: one of both means
    /// both.
    Tied(Box<Target>),
    /// Every normalization.
    Norms,
    /// Every linear layer and normalization with a bias.
    Biased,
    /// Sites of another target but those in these stacks, in a model with an encoder and a decoder.
    Outside {
        /// The stacks to leave alone.
        stacks: Vec<Stack>,
        /// The other target.
        target: Box<Target>,
    },
    /// The first site of a role, in the order of the forward pass.
    First(Role),
    /// The last sites of a role, in the order of the forward pass and outside cross attention: so many, or all.
    Last {
        /// The role.
        role: Role,
        /// How many; `None` for all.
        count: Option<usize>,
    },
    /// Sites of a role in these layers alone.
    Layers {
        /// The role.
        role: Role,
        /// The layers.
        layers: Vec<usize>,
    },
}

/// Modules of the published checkpoint by name, regular expression or all linear ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleTarget {
    /// Which modules.
    pub modules: ModulePattern,
    /// Which of them to leave alone.
    pub exclude: Option<ModulePattern>,
    /// Only these layers.
    pub layers: Option<Vec<usize>>,
    /// The components of a path before the number that `layers` counts, such as `layers` or `blocks`; without one it is the first
    /// number of the path, so that the layers of a decoder behind an encoder count from zero again.
    pub layers_pattern: Option<ModuleNames>,
}

/// What a target hits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The sites hit, in the order of the forward pass.
    pub sites: Vec<SiteInfo>,
    /// Paths that matched and were then excluded or left out.
    pub skipped: Vec<String>,
    /// Patterns that matched nothing.
    pub unmatched: Vec<String>,
}

impl Target {
    /// Sites of these roles in every layer.
    pub fn roles(roles: impl Into<Vec<Role>>) -> Self {
        Self::Roles {
            roles: roles.into(),
            leave_out: Vec::new(),
        }
    }

    /// What this target hits in `host`. Not hitting anything is not an error here: see [`Selection::require`].
    ///
    /// # Errors
    ///
    /// [`Error::TargetPattern`] for an invalid regular expression.
    pub fn select(&self, host: &dyn Host) -> Result<Selection, Error> {
        let mut selection = Selection::default();
        match self {
            Self::Any(targets) => {
                for target in targets {
                    let selected = target.select(host)?;
                    selection.sites.extend(selected.sites);
                    selection.skipped.extend(selected.skipped);
                    selection.unmatched.extend(selected.unmatched);
                }
                let order = host.sites();
                let index = |info: &SiteInfo| order.iter().position(|other| other.site == info.site);
                selection.sites.sort_by_key(index);
                selection.sites.dedup();
                return Ok(selection);
            }
            Self::Outside { stacks, target } => {
                selection = target.select(host)?;
                let has = |stack| host.sites().iter().any(|info| info.site.stack == stack);
                if has(Stack::Encoder) && has(Stack::Decoder) {
                    // The encoder of two models in one is named as one that stands alone.
                    let alone = !host.attention_name(Stack::Encoder).ends_with("encoder_prefix");
                    let outside = selection.sites.extract_if(.., |info| {
                        stacks.contains(&info.site.stack) && !(alone && info.site.stack == Stack::Encoder)
                    });
                    selection.skipped.extend(outside.map(|info| info.path));
                }
                return Ok(selection);
            }
            Self::Tied(target) => {
                selection = target.select(host)?;
                let sites = host.sites();
                let has = |site: Site| selection.sites.iter().any(|info| info.site == site);
                let meant = |info: &&SiteInfo| {
                    let of_head = |head: &SiteInfo| {
                        head.linear_dims().is_some() && head.tied_to == Some(info.site) && has(head.site)
                    };
                    has(info.site) || tied_table(info).is_some_and(has) || sites.iter().any(of_head)
                };
                selection.sites = sites.iter().filter(meant).cloned().collect();
                return Ok(selection);
            }
            _ => {}
        }
        let sites = host.sites();
        selection.unmatched = self.unmatched(&sites)?;
        for info in sites {
            match self.choice(&info)? {
                Choice::Hit => selection.sites.push(info),
                Choice::Skipped => selection.skipped.push(info.path),
                Choice::Other => {}
            }
        }
        match self {
            Self::First(_) => selection.sites.truncate(1),
            Self::Last { count: Some(count), .. } => {
                let left_out = selection.sites.len().saturating_sub(*count);
                selection.sites.drain(..left_out);
            }
            Self::Biased => selection.sites.retain(|info| {
                let linear = host.linear(info.site).is_some_and(|layer| layer.bias.is_some());
                linear || host.norm(info.site).is_some_and(|norm| norm.bias.is_some())
            }),
            _ => {}
        }
        Ok(selection)
    }

    /// Whether a site is among those this target hits, as far as the site alone tells: of which stacks a model is made, which
    /// site is the first of its role, and where there is a bias shows in a model only.
    ///
    /// # Errors
    ///
    /// [`Error::TargetPattern`] for an invalid regular expression.
    pub fn covers(&self, info: &SiteInfo) -> Result<bool, Error> {
        match self {
            Self::Any(targets) => {
                for target in targets {
                    if target.covers(info)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            // Which table belongs to a head is decided where sites are selected.
            Self::Tied(target) => Ok(tied_table(info).is_some() || target.covers(info)?),
            Self::Outside { target, .. } => target.covers(info),
            target => Ok(target.choice(info)? == Choice::Hit),
        }
    }

    /// What a target that is not made of others does with a site.
    fn choice(&self, info: &SiteInfo) -> Result<Choice, Error> {
        let in_layers = |layers: &[usize]| info.site.layer.is_some_and(|layer| layers.contains(&layer));
        Ok(match self {
            Self::Roles { roles, leave_out } => Choice::of(meant(roles, info), in_layers(leave_out)),
            Self::Modules(target) => {
                let named = target.names(info)?;
                Choice::of(named, named && target.skips(info)?)
            }
            Self::Blocks(target) => {
                let named = is_of_block(info) && target.modules.matches(&info.path)?;
                Choice::of(named, named && target.skips(info)?)
            }
            Self::Norms => Choice::of(matches!(info.kind, SiteKind::Norm { .. }), false),
            Self::Biased => Choice::of(
                matches!(info.kind, SiteKind::Linear { .. } | SiteKind::Norm { .. }),
                false,
            ),
            Self::First(role) => Choice::of(meant(&[*role], info), false),
            Self::Last { role, .. } => Choice::of(meant(&[*role], info) && info.site.stack != Stack::Cross, false),
            Self::Layers { role, layers } => Choice::of(meant(&[*role], info) && in_layers(layers), false),
            Self::Endings(endings) => Choice::of(ends_in(endings, info), false),
            Self::Parameters(names) => {
                let path = parameter_path(info);
                let named = path.is_some_and(|path| names.iter().any(|name| name_matches(name, &path)));
                Choice::of(named, false)
            }
            Self::Any(_) | Self::Outside { .. } | Self::Tied(_) => Choice::Other,
        })
    }
}

/// The table that [`Target::Tied`] means together with this head. One that stacks read under other names is meant alone.
fn tied_table(head: &SiteInfo) -> Option<Site> {
    head.tied_to.filter(|table| table.role != Role::SharedTable)
}

/// Whether any of the roles means this site. A fused projection is meant by each of its projections.
pub(super) fn meant(roles: &[Role], info: &SiteInfo) -> bool {
    roles.iter().any(|role| info.hub_role.holds(*role))
}

/// What a target does with a site.
#[derive(Clone, Copy, PartialEq)]
enum Choice {
    Hit,
    /// It matches and is excluded or left out.
    Skipped,
    Other,
}

impl Choice {
    fn of(matches: bool, skipped: bool) -> Self {
        match (matches, skipped) {
            (false, _) => Self::Other,
            (true, true) => Self::Skipped,
            (true, false) => Self::Hit,
        }
    }
}

impl ModuleTarget {
    /// The modules that match `modules`, in every layer.
    pub fn new(modules: ModulePattern) -> Self {
        Self {
            modules,
            exclude: None,
            layers: None,
            layers_pattern: None,
        }
    }

    /// The pattern of names that selects exactly these sites: last components where they suffice, else whole paths.
    pub fn naming(sites: &[&SiteInfo], host: &dyn Host) -> ModulePattern {
        let mut names: Vec<String> = Vec::new();
        for site in sites {
            let last = site.path.rsplit('.').next().unwrap_or(&site.path).to_owned();
            if !names.contains(&last) {
                names.push(last);
            }
        }
        let short = ModulePattern::Names(names);
        let selected = Target::Modules(Self::new(short.clone())).select(host);
        let chosen: BTreeSet<_> = sites.iter().map(|s| s.site).collect();
        match selected {
            Ok(selection) if selection.sites.iter().map(|s| s.site).collect::<BTreeSet<_>>() == chosen => short,
            _ => ModulePattern::Names(sites.iter().map(|s| s.path.clone()).collect()),
        }
    }

    /// Whether the site is a module that `modules` names.
    pub(super) fn names(&self, info: &SiteInfo) -> Result<bool, Error> {
        Ok(match &self.modules {
            ModulePattern::AllLinear => {
                let left_alone = [Role::LmHead, Role::HeadTransform, Role::Convolution];
                info.linear_dims().is_some() && !left_alone.contains(&info.site.role)
            }
            // Not every class around the model computes it, so that the last component of its path does not name it.
            ModulePattern::Names(names) if info.site.role == Role::HeadTransform => {
                let is_named =
                    |name: &String| *name == info.path || name.contains('.') && name_matches(name, &info.path);
                names.iter().any(is_named)
            }
            modules => info.is_module() && modules.matches(&info.path)?,
        })
    }

    /// The number that `layers` counts.
    pub(super) fn layer(&self, info: &SiteInfo) -> Option<usize> {
        match &self.layers_pattern {
            Some(names) => names.index(&info.path),
            None => {
                let mut parts = info.path.split('.');
                parts.find_map(|part| part.parse().ok()).or(info.site.layer)
            }
        }
    }

    /// Whether a site that is named is to be left alone. One that is named by its whole path is meant whatever the layers, as in peft.
    pub(super) fn skips(&self, info: &SiteInfo) -> Result<bool, Error> {
        let by_path = matches!(&self.modules, ModulePattern::Names(names) if names.contains(&info.path));
        let in_layers = match (&self.layers, self.layer(info)) {
            (Some(layers), Some(layer)) => by_path || layers.contains(&layer),
            (Some(_), None) => by_path,
            (None, _) => true,
        };
        Ok(!in_layers || self.exclude.as_ref().map_or(Ok(false), |e| e.matches(&info.path))?)
    }
}

/// Whether what enters or leaves a whole layer is meant.
pub(super) fn is_of_block(info: &SiteInfo) -> bool {
    matches!(info.kind, SiteKind::LayerInput { .. } | SiteKind::LayerOutput { .. })
}

/// Whether the path of a module, or of one that it is part of, ends in one of these texts.
pub(super) fn ends_in(endings: &[String], info: &SiteInfo) -> bool {
    let path = info.path.as_str();
    let mut modules = path.match_indices('.').map(|(end, _)| &path[..end]).chain([path]);
    info.is_module() && modules.any(|module| endings.iter().any(|ending| module.ends_with(ending.as_str())))
}

/// The path of the parameter that `target_parameters` means by a site; `None` where there is none.
pub(super) fn parameter_path(info: &SiteInfo) -> Option<String> {
    match (&info.parameter, info.kind) {
        (Some(parameter), _) => Some(format!("{}.{}", info.path, parameter.name)),
        (None, SiteKind::Linear { .. }) => Some(format!("{}.weight", info.path)),
        _ => None,
    }
}
