//! Several methods under one adapter's name, each at its own places.

use std::fmt;

use serde_json::{Map, Value, json};

use adapters_core::target::Target;
use adapters_core::{
    AnyMethod, Attached, Build, ConfigError, Encode, ErasedMethod, Error, Format, Host, Inserted, NamedParams, Role,
    Shared, SiteInfo, SiteLayer, StoredConfig, Tensors,
};

/// A union of configurations, written `a|b`: an adapter that has layers of each, no two at one place.
///
/// Source: `ConfigUnion` of the `adapters` library; *Towards a Unified View of Parameter-Efficient Transfer Learning*,
/// He et al., 2022, <https://arxiv.org/abs/2110.04366>.
#[derive(Clone, Debug)]
pub struct Union {
    parts: Vec<AnyMethod>,
}

const NAME: &str = "union";

/// A part and the sites of an adapter that are its own.
type PartSites<'a, 's> = (&'a AnyMethod, Vec<&'s SiteInfo>);

impl Union {
    /// The only part, or the union of several.
    ///
    /// # Errors
    ///
    /// [`Error::UnionConflict`] for two members that target the same role.
    pub fn method(parts: Vec<AnyMethod>) -> Result<AnyMethod, Error> {
        // A union of unions is the union of their parts.
        let mut parts: Vec<AnyMethod> = parts
            .into_iter()
            .flat_map(|part| match Self::of(&part) {
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
                    return Err(conflict(first, second, role));
                }
            }
        }
        Ok(AnyMethod::erased(Self { parts }))
    }

    /// The configurations of a stored union, if it is one.
    pub(crate) fn stored<'a>(stored: &StoredConfig<'a>) -> Option<Vec<StoredConfig<'a>>> {
        if stored.format != Format::AdapterHub || stored.fields.get("architecture")? != NAME {
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
    pub fn of(method: &AnyMethod) -> Option<&Self> {
        method.downcast_ref()
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[AnyMethod] {
        &self.parts
    }

    /// Each member with those of `sites` that it targets.
    fn shares<'a, 's>(&'a self, sites: &[&'s SiteInfo]) -> Result<Vec<PartSites<'a, 's>>, Error> {
        let mut shares: Vec<PartSites<'a, 's>> = self.parts.iter().map(|part| (part, Vec::new())).collect();
        for site in sites {
            let mut owner: Option<usize> = None;
            for (index, part) in self.parts.iter().enumerate() {
                if !part.target().covers(site)? {
                    continue;
                }
                if let Some(first) = owner {
                    return Err(conflict(&self.parts[first], part, &site.path));
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
        form: impl Fn(&AnyMethod, &Attached) -> Result<Option<Attached>, Error>,
    ) -> Result<Option<Attached>, Error> {
        let infos: Vec<&SiteInfo> = adapter.own_layers().map(|l| &l.info).collect();
        let (mut layers, mut parts, mut changed) = (Vec::new(), Vec::new(), false);
        for (part, sites) in self.shares(&infos)? {
            let mine = adapter
                .layers()
                .filter(|l| sites.iter().any(|info| info.site == l.info.site));
            let share = adapter.reformed(part.clone(), mine.cloned().collect());
            let formed = form(part, &share)?;
            changed |= formed.is_some();
            let share = formed.unwrap_or(share);
            layers.extend(share.layers().cloned());
            parts.push(share.method().clone());
        }
        Ok(changed.then(|| adapter.reformed(AnyMethod::erased(Self { parts }), layers)))
    }

    fn owner(&self, site: &SiteInfo) -> Result<&AnyMethod, Error> {
        let shares = self.shares(&[site])?;
        let owner = shares.into_iter().find(|(_, sites)| !sites.is_empty());
        owner.map(|(part, _)| part).ok_or_else(|| Error::CannotBuild {
            method: NAME,
            path: site.path.clone(),
            reason: "no member of the union targets it".to_owned(),
        })
    }
}

fn conflict(first: &AnyMethod, second: &AnyMethod, place: impl fmt::Display) -> Error {
    Error::UnionConflict {
        first: first.to_string(),
        second: second.to_string(),
        place: place.to_string(),
    }
}

/// A role both targets name.
fn common_role<'a>(first: &'a Target, second: &Target) -> Option<&'a Role> {
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

impl ErasedMethod for Union {
    fn name(&self) -> &'static str {
        NAME
    }

    fn config_string(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(ToString::to_string).collect();
        parts.join("|")
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
            for (name, _) in shared.named_params() {
                let mut claiming = self.parts.iter().filter(|part| part.owns(&name));
                if let (Some(first), Some(second)) = (claiming.next(), claiming.next()) {
                    return Err(conflict(first, second, name));
                }
            }
            all = all.and(shared);
        }
        Ok(all)
    }

    fn owns(&self, param: &str) -> bool {
        self.parts.iter().any(|part| part.owns(param))
    }

    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        match self.parts.iter().find(|part| part.owns(param)) {
            Some(owner) => owner.shared_key(format, adapter, param),
            None => format.shared_key(adapter, param),
        }
    }

    fn adjusted_to(&self, format: Format, tensors: &Tensors) -> Option<AnyMethod> {
        let adjusted: Vec<_> = self
            .parts
            .iter()
            .map(|part| part.adjusted_to(format, tensors))
            .collect();
        if adjusted.iter().all(Option::is_none) {
            return None;
        }
        let parts = adjusted.into_iter().zip(&self.parts);
        Some(AnyMethod::erased(Self {
            parts: parts
                .map(|(adjusted, part)| adjusted.unwrap_or_else(|| part.clone()))
                .collect(),
        }))
    }

    fn positions(&self) -> usize {
        self.parts.iter().map(|part| part.positions()).max().unwrap_or(0)
    }

    fn learns_faster(&self, param: &str) -> bool {
        self.parts.iter().any(|part| part.learns_faster(param))
    }

    fn patterns(&self) -> Vec<(&'static str, &str)> {
        self.parts.iter().flat_map(|part| part.patterns()).collect()
    }

    fn update_scale(&self, site: &SiteInfo, param: &str) -> Result<Option<f64>, Error> {
        self.owner(site)?.update_scale(site, param)
    }

    fn inserts(&self) -> Option<Inserted> {
        self.parts.iter().find_map(|part| part.inserts())
    }

    /// Every part has to know each task.
    fn tasks(&self) -> Option<usize> {
        self.parts.iter().filter_map(|part| part.tasks()).min()
    }

    fn first_position(&self) -> usize {
        self.parts.iter().map(|part| part.first_position()).sum()
    }

    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match self.owner(site) {
            Ok(part) => part.nested_key(format, site, adapter, param),
            // No part is aimed at this site, so that no layer was built there.
            Err(_) => format!("{}.{param}", site.path),
        }
    }

    fn on_tied_head(&self, table: &SiteLayer) -> Option<SiteLayer> {
        self.parts.iter().find_map(|part| part.on_tied_head(table))
    }

    /// What has a place of its own inside the file of another method is there once.
    fn stores_tied_twice(&self) -> bool {
        false
    }

    fn is_duplicate(&self, format: Format, key: &str) -> bool {
        self.parts.iter().any(|part| part.is_duplicate(format, key))
    }

    fn to_storage(&self, format: Format, adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
        self.by_part(adapter, |part, share| part.to_storage(format, share, host))
    }

    fn restored(&self, adapter: &Attached) -> Option<Attached> {
        self.by_part(adapter, |part, share| Ok(part.restored(share))).ok()?
    }

    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        let mut changed = false;
        let mut parts = Vec::new();
        for part in &self.parts {
            let resolved = part.with_tokens(encode)?;
            changed |= resolved.is_some();
            parts.push(resolved.unwrap_or_else(|| part.clone()));
        }
        Ok(changed.then(|| AnyMethod::erased(Self { parts })))
    }

    fn write(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        let shares = self.shares(sites)?;
        if format == Format::AdapterHub {
            let configs = shares.iter().map(|(part, sites)| part.write(format, sites, host));
            let configs = configs.collect::<Result<Vec<_>, _>>()?;
            return Ok(Map::from_iter([
                ("architecture".to_owned(), NAME.into()),
                ("configs".to_owned(), json!(configs)),
            ]));
        }
        // There is no union: one part may have a place for the others inside its own configuration.
        for (index, (part, sites)) in shares.iter().enumerate() {
            let Ok(mut fields) = part.write(format, sites, host) else {
                continue;
            };
            let mut others = self.parts.iter().enumerate().filter(|(other, _)| *other != index);
            let fits = others.all(|(_, other)| {
                let inside = other.write_nested(format, &fields);
                inside.is_some_and(|inside| join(&mut fields, inside))
            });
            if fits {
                return Ok(fields);
            }
        }
        let what = "a union of configurations";
        Err(Error::config(NAME, ConfigError::NotExpressible { format, what }))
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
