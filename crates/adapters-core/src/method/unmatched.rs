//! What of a target hits nothing, and the error that says so.

use std::fmt;

use adapters_config::nearest_field;
use adapters_sites::{Role, SiteInfo, Stack};

use crate::error::Error;
use crate::host::Host;
use crate::method::target::{
    ModulePattern, ModuleTarget, Selection, Target, ends_in, is_of_block, meant, name_matches, parameter_path,
};

impl Target {
    /// The patterns of a target that is not made of others that no site matches.
    pub(super) fn unmatched(&self, sites: &[SiteInfo]) -> Result<Vec<String>, Error> {
        let has = |role: &Role| sites.iter().any(|info| meant(&[*role], info));
        let missing = |roles: &[Role]| -> Vec<String> {
            let missing = roles.iter().filter(|role| !has(role));
            missing.map(ToString::to_string).collect()
        };
        Ok(match self {
            Self::Roles { roles, .. } => missing(roles),
            Self::First(role) => missing(&[*role]),
            Self::Last { role, count } => {
                let of_role = |info: &&SiteInfo| meant(&[*role], info) && info.site.stack != Stack::Cross;
                let there = sites.iter().filter(of_role).count();
                match count.unwrap_or(1) > there {
                    true => vec![format!("{self} (the model has {there})")],
                    false => Vec::new(),
                }
            }
            Self::Layers { role, layers } => {
                let is = |info: &SiteInfo, layer| meant(&[*role], info) && info.site.layer == Some(layer);
                let absent = layers
                    .iter()
                    .filter(|layer| !sites.iter().any(|info| is(info, **layer)));
                let absent = absent.map(|layer| format!("{role} of layer {layer}"));
                missing(&[*role]).into_iter().chain(absent).collect()
            }
            Self::Modules(target) => target.unmatched(sites, SiteInfo::is_module)?,
            Self::Blocks(target) => target.unmatched(sites, is_of_block)?,
            Self::Endings(endings) => {
                let missing = endings.iter().filter(|ending| {
                    let ending = std::slice::from_ref(*ending);
                    !sites.iter().any(|info| ends_in(ending, info))
                });
                missing.cloned().collect()
            }
            Self::Parameters(names) => {
                let paths: Vec<String> = sites.iter().filter_map(parameter_path).collect();
                let missing = names
                    .iter()
                    .filter(|name| !paths.iter().any(|path| name_matches(name, path)));
                missing.cloned().collect()
            }
            Self::Any(_) | Self::Outside { .. } | Self::Tied(_) | Self::Norms | Self::Biased => Vec::new(),
        })
    }

    /// The first layer that is named and is not among these sites, with the field that names it.
    fn absent_layer(&self, sites: &[SiteInfo]) -> Option<(&'static str, usize)> {
        match self {
            Self::Roles { leave_out, .. } => {
                let is_there = |layer: &usize| sites.iter().any(|info| info.site.layer == Some(*layer));
                let absent = leave_out.iter().find(|layer| !is_there(layer))?;
                Some(("leave_out", *absent))
            }
            Self::Modules(target) | Self::Blocks(target) => {
                let is_there = |layer: &usize| sites.iter().any(|info| target.layer(info) == Some(*layer));
                let absent = target.layers.iter().flatten().find(|layer| !is_there(layer))?;
                Some(("layers, layers_to_transform", *absent))
            }
            Self::Any(targets) => targets.iter().find_map(|target| target.absent_layer(sites)),
            Self::Outside { target, .. } | Self::Tied(target) => target.absent_layer(sites),
            _ => None,
        }
    }

    /// The names a user could have meant, for the error about a target without hits.
    fn available(&self, host: &dyn Host) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Roles { .. } | Self::First(_) | Self::Last { .. } | Self::Layers { .. } => {
                host.sites().iter().map(|s| s.site.role.to_string()).collect()
            }
            Self::Parameters(_) => host.sites().iter().filter_map(parameter_path).collect(),
            Self::Modules(_) | Self::Endings(_) => host
                .module_sites()
                .iter()
                .map(|s| s.path.rsplit('.').next().unwrap_or(&s.path).to_owned())
                .collect(),
            Self::Blocks(_) => {
                let layers = host.sites().into_iter().filter(is_of_block);
                layers.map(|info| info.path).collect()
            }
            Self::Any(targets) => targets.iter().flat_map(|target| target.available(host)).collect(),
            Self::Norms | Self::Biased => Vec::new(),
            Self::Outside { target, .. } | Self::Tied(target) => target.available(host),
        };
        names.sort();
        names.dedup();
        names
    }
}

impl ModuleTarget {
    /// Names and patterns that hit nothing.
    fn unmatched(&self, sites: &[SiteInfo], is_meant: fn(&SiteInfo) -> bool) -> Result<Vec<String>, Error> {
        let sites: Vec<&SiteInfo> = sites.iter().filter(|info| is_meant(info)).collect();
        let mut missing = unmatched_by(&self.modules, &sites)?;
        if let Some(exclude) = &self.exclude {
            missing.extend(unmatched_by(exclude, &sites)?);
        }
        Ok(missing)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = |roles: &[Role]| roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Roles { roles: of, .. } => f.write_str(&roles(of)),
            Self::First(role) => write!(f, "{role}"),
            Self::Last { role, count: None } => write!(f, "{role}"),
            Self::Last {
                role,
                count: Some(count),
            } => write!(f, "{role} of the last {count} layers"),
            Self::Layers { role, layers } => write!(f, "{role} of layers {layers:?}"),
            Self::Modules(target) | Self::Blocks(target) => match &target.modules {
                ModulePattern::Names(names) => f.write_str(&names.join(", ")),
                ModulePattern::Regex(text) => f.write_str(text),
                ModulePattern::AllLinear => f.write_str("all-linear"),
            },
            Self::Endings(names) | Self::Parameters(names) => f.write_str(&names.join(", ")),
            Self::Any(targets) => {
                let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
                f.write_str(&targets.join(", "))
            }
            Self::Outside { target, .. } | Self::Tied(target) => target.fmt(f),
            Self::Norms => f.write_str("all norms"),
            Self::Biased => f.write_str("all biases"),
        }
    }
}

/// Names that match no module; the expression, if it matches none.
fn unmatched_by(pattern: &ModulePattern, sites: &[&SiteInfo]) -> Result<Vec<String>, Error> {
    match pattern {
        ModulePattern::Names(names) => {
            let hits = |name: &str| sites.iter().any(|info| name_matches(name, &info.path));
            Ok(names.iter().filter(|name| !hits(name)).cloned().collect())
        }
        ModulePattern::Regex(text) => {
            for info in sites {
                if pattern.matches(&info.path)? {
                    return Ok(Vec::new());
                }
            }
            Ok(vec![text.clone()])
        }
        ModulePattern::AllLinear => Ok(Vec::new()),
    }
}

impl Selection {
    /// This selection, if every pattern of `target` hit something and the model has every layer it names.
    ///
    /// # Errors
    ///
    /// [`Error::NoTarget`] naming the first pattern without a hit, near misses and what there is; [`Error::NoSuchLayer`].
    pub fn require(self, target: &Target, host: &dyn Host) -> Result<Self, Error> {
        let sites = host.sites();
        if let Some((field, layer)) = target.absent_layer(&sites) {
            return Err(Error::NoSuchLayer {
                field,
                layer,
                last: sites.iter().filter_map(|info| info.site.layer).max().unwrap_or(0),
                architecture: host.architecture().to_owned(),
            });
        }
        let missed = match (&self.unmatched[..], &self.sites[..]) {
            ([first, ..], _) => first.clone(),
            ([], []) => target.to_string(),
            _ => return Ok(self),
        };
        let available = target.available(host);
        // The one word that stands for modules and is none.
        let word = matches!(target, Target::Modules(_)).then_some("all-linear");
        Err(Error::NoTarget {
            nearest: nearest_field(&missed, available.iter().map(String::as_str).chain(word)),
            target: missed,
            architecture: host.architecture().to_owned(),
            available: available.join(", "),
        })
    }
}
