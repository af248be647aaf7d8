//! Several methods under one adapter's name, each at its own places.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::host::Host;
use crate::method::codec::{Format, Tensors};
use crate::method::layer::SiteLayer;
use crate::method::shared::Shared;
use crate::method::target::Target;
use crate::method::{Build, Encode, Method, StoredConfig, plain_shared_key};
use crate::pass::state::Inserted;
use crate::set::Attached;
use crate::site::SiteInfo;

/// A union of configurations, written `a|b`: an adapter that has layers of each, no two at one place.
///
/// Source: `ConfigUnion` of the `adapters` library; *Towards a Unified View of Parameter-Efficient Transfer Learning*,
/// He et al., 2022, <https://arxiv.org/abs/2110.04366>.
#[derive(Clone, Debug)]
pub struct Union {
    parts: Vec<Arc<dyn Method>>,
}

const FAMILY: &str = "union";

/// A part and the sites of an adapter that are its own.
type PartSites<'a, 's> = (&'a Arc<dyn Method>, Vec<&'s SiteInfo>);

impl Union {
    /// The only part, or the union of several.
    ///
    /// # Errors
    ///
    /// [`Error::UnionConflict`] for two parts aimed at the same role.
    pub fn method(parts: Vec<Arc<dyn Method>>) -> Result<Arc<dyn Method>, Error> {
        // A union of unions is the union of their parts.
        let mut parts: Vec<Arc<dyn Method>> = parts
            .into_iter()
            .flat_map(|part| match Self::of(&*part) {
                Some(union) => union.parts.clone(),
                None => vec![part],
            })
            .collect();
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        for (index, second) in parts.iter().enumerate() {
            for first in &parts[..index] {
                if let Some(role) = common_role(&first.target(), &second.target()) {
                    return Err(conflict(&**first, &**second, role));
                }
            }
        }
        Ok(Arc::new(Self { parts }))
    }

    /// The configurations of a stored union, if it is one.
    pub(crate) fn stored<'a>(stored: &StoredConfig<'a>) -> Option<Vec<StoredConfig<'a>>> {
        if stored.format != Format::AdapterHub || stored.fields.get("architecture")? != FAMILY {
            return None;
        }
        let parts = stored.fields.get("configs")?.as_array()?;
        parts
            .iter()
            .map(|fields| {
                Some(StoredConfig {
                    fields: fields.as_object()?,
                    ..*stored
                })
            })
            .collect()
    }

    /// The union that a method is, if it is one.
    pub fn of(method: &dyn Method) -> Option<&Self> {
        let method: &dyn Any = method;
        method.downcast_ref()
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[Arc<dyn Method>] {
        &self.parts
    }

    /// Each part with those of `sites` that it is aimed at.
    fn shares<'a, 's>(&'a self, sites: &[&'s SiteInfo]) -> Result<Vec<PartSites<'a, 's>>, Error> {
        let mut shares: Vec<PartSites<'a, 's>> = self.parts.iter().map(|part| (part, Vec::new())).collect();
        for site in sites {
            let mut owner: Option<usize> = None;
            for (index, part) in self.parts.iter().enumerate() {
                if !part.target().covers(site)? {
                    continue;
                }
                if let Some(first) = owner {
                    return Err(conflict(&*self.parts[first], &**part, &site.path));
                }
                owner = Some(index);
            }
            if let Some(owner) = owner {
                shares[owner].1.push(site);
            }
        }
        Ok(shares)
    }

    /// The adapter with what `form` makes of each part's layers; `None` if it leaves them all as they are.
    ///
    /// A part is given its layers alone: what an adapter shares stays as it is, since no part that changes form shares.
    fn by_part(
        &self,
        adapter: &Attached,
        form: impl Fn(&dyn Method, &Attached) -> Result<Option<Attached>, Error>,
    ) -> Result<Option<Attached>, Error> {
        let infos: Vec<&SiteInfo> = adapter.layers().map(|l| &l.info).collect();
        let (mut layers, mut parts, mut changed) = (Vec::new(), Vec::new(), false);
        for (part, sites) in self.shares(&infos)? {
            let mine = adapter
                .layers()
                .filter(|l| sites.iter().any(|info| info.site == l.info.site));
            let share = adapter.reformed(part.clone(), mine.cloned().collect());
            let formed = form(&**part, &share)?;
            changed |= formed.is_some();
            let share = formed.unwrap_or(share);
            layers.extend(share.layers().cloned());
            parts.push(share.method().clone());
        }
        Ok(changed.then(|| adapter.reformed(Arc::new(Self { parts }), layers)))
    }

    fn owner(&self, site: &SiteInfo) -> Result<&Arc<dyn Method>, Error> {
        let shares = self.shares(&[site])?;
        let owner = shares.into_iter().find(|(_, sites)| !sites.is_empty());
        owner.map(|(part, _)| part).ok_or_else(|| Error::CannotBuild {
            method: FAMILY,
            path: site.path.clone(),
            reason: "none of its parts is aimed at it".to_owned(),
        })
    }
}

fn conflict(first: &dyn Method, second: &dyn Method, place: impl fmt::Display) -> Error {
    Error::UnionConflict {
        first: first.to_string(),
        second: second.to_string(),
        place: place.to_string(),
    }
}

/// A role both targets name.
fn common_role<'a>(first: &'a Target, second: &Target) -> Option<&'a crate::site::Role> {
    match (first, second) {
        (
            Target::Roles { roles, leave_out: a },
            Target::Roles {
                roles: others,
                leave_out: b,
            },
        ) if a == b => roles.iter().find(|role| others.contains(role)),
        _ => None,
    }
}

impl fmt::Display for Union {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join("|"))
    }
}

impl Method for Union {
    fn family(&self) -> &'static str {
        FAMILY
    }

    fn target(&self) -> Target {
        Target::Any(self.parts.iter().map(|part| part.target()).collect())
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        self.owner(site)?.build(site, build)
    }

    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let mut all = Shared::new();
        for part in &self.parts {
            let shared = part.build_shared(build)?;
            // Files have one place for a parameter that is claimed.
            let claimed = |name: &&str| self.parts.iter().filter(|part| part.shares(name)).count() > 1;
            if let Some(name) = shared.names().find(claimed).map(str::to_owned) {
                let mut claiming = self.parts.iter().filter(|part| part.shares(&name));
                if let (Some(first), Some(second)) = (claiming.next(), claiming.next()) {
                    return Err(conflict(&**first, &**second, name));
                }
            }
            all = all.and(shared);
        }
        Ok(all)
    }

    fn shares(&self, param: &str) -> bool {
        self.parts.iter().any(|part| part.shares(param))
    }

    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        match self.parts.iter().find(|part| part.shares(param)) {
            Some(owner) => owner.shared_key(format, adapter, param),
            None => plain_shared_key(format, adapter, param),
        }
    }

    fn fitting(&self, tensors: &Tensors) -> Option<Arc<dyn Method>> {
        let fitting: Vec<_> = self.parts.iter().map(|part| part.fitting(tensors)).collect();
        if fitting.iter().all(Option::is_none) {
            return None;
        }
        let parts = fitting.into_iter().zip(&self.parts);
        Some(Arc::new(Self {
            parts: parts
                .map(|(fitting, part)| fitting.unwrap_or_else(|| part.clone()))
                .collect(),
        }))
    }

    fn positions(&self) -> usize {
        self.parts.iter().map(|part| part.positions()).max().unwrap_or(0)
    }

    fn inserts(&self) -> Option<Inserted> {
        self.parts.iter().find_map(|part| part.inserts())
    }

    fn first_position(&self) -> usize {
        self.parts.iter().map(|part| part.first_position()).sum()
    }

    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match self.owner(site) {
            Ok(part) => part.key_inside(format, site, adapter, param),
            // No part is aimed at this site, so that no layer was built there.
            Err(_) => format!("{}.{param}", site.path),
        }
    }

    fn is_alias(&self, key: &str) -> bool {
        self.parts.iter().any(|part| part.is_alias(key))
    }

    fn stored(&self, format: Format, adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
        self.by_part(adapter, |part, share| part.stored(format, share, host))
    }

    fn loaded(&self, adapter: &Attached) -> Option<Attached> {
        self.by_part(adapter, |part, share| Ok(part.loaded(share))).ok()?
    }

    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<Arc<dyn Method>>, Error> {
        let mut changed = false;
        let mut parts = Vec::new();
        for part in &self.parts {
            let resolved = part.with_tokens(encode)?;
            changed |= resolved.is_some();
            parts.push(resolved.unwrap_or_else(|| part.clone()));
        }
        Ok(changed.then(|| Arc::new(Self { parts }) as Arc<dyn Method>))
    }

    fn wire(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        let shares = self.shares(sites)?;
        if format == Format::AdapterHub {
            let configs = shares.iter().map(|(part, sites)| part.wire(format, sites, host));
            let configs = configs.collect::<Result<Vec<_>, _>>()?;
            return Ok(Map::from_iter([
                ("architecture".to_owned(), FAMILY.into()),
                ("configs".to_owned(), json!(configs)),
            ]));
        }
        // There is no union: one part may have a place for the others inside its own configuration.
        for (index, (part, sites)) in shares.iter().enumerate() {
            let Ok(mut fields) = part.wire(format, sites, host) else {
                continue;
            };
            let mut others = self.parts.iter().enumerate().filter(|(other, _)| *other != index);
            let fits = others.all(|(_, other)| {
                let inside = other.inside(format, &fields);
                inside.is_some_and(|inside| join(&mut fields, inside))
            });
            if fits {
                return Ok(fields);
            }
        }
        Err(Error::config(FAMILY, NotExpressible { format }))
    }
}

/// Adds fields to others; false where one is said already and is not an object, whose entries come together.
fn join(fields: &mut Map<String, Value>, more: Map<String, Value>) -> bool {
    more.into_iter()
        .all(|(field, value)| match (fields.get_mut(&field), value) {
            (Some(Value::Object(there)), Value::Object(more)) => join(there, more),
            (None | Some(Value::Null), value) => {
                fields.insert(field, value);
                true
            }
            _ => false,
        })
}

/// Why a union was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {format} format cannot express a union of configurations")]
pub struct NotExpressible {
    /// The format.
    pub format: Format,
}
