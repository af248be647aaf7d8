//! Several methods under one adapter's name, each at its own sites.

mod schedule;

use std::fmt;

use burn::tensor::Tensor;
use serde_json::{Map, Value, json};

use adapters_core::target::Target;
use adapters_core::{
    AnyMethod, Attached, Build, Capabilities, ConfigError, ConvertsForStorage, EditsEmbeddings, Encode, ErasedMethod,
    Error, Format, Host, Inserted, KnowsTasks, LearnsFaster, ModulePatterns, NamedParams, NeedsTokenizer, Penalized,
    Role, ScalesUpdate, Scheduled, Shared, SharedParameters, SiteInfo, SiteLayer, StoredConfig, Tensors, TiesHead,
    TrainingSchedule,
};

use crate::union::schedule::UnionSchedule;

/// A union of configurations, written `a|b`: an adapter that has layers of each, no two at one site.
///
/// Source: `ConfigUnion` of the `adapters` library; *Towards a Unified View of Parameter-Efficient Transfer Learning*,
/// He et al., 2022, <https://arxiv.org/abs/2110.04366>.
#[derive(Clone, Debug)]
pub struct Union {
    members: Vec<AnyMethod>,
}

const NAME: &str = "union";

/// A member and the sites of an adapter that are its own.
type MemberSites<'a, 's> = (&'a AnyMethod, Vec<&'s SiteInfo>);

impl Union {
    /// The only member, or the union of several.
    ///
    /// # Errors
    ///
    /// [`Error::UnionConflict`] for two members that target the same role.
    pub fn method(members: Vec<AnyMethod>) -> Result<AnyMethod, Error> {
        // A union of unions is the union of their members.
        let mut members: Vec<AnyMethod> = members
            .into_iter()
            .flat_map(|member| match Self::of(&member) {
                Some(union) => union.members.clone(),
                None => vec![member],
            })
            .collect();
        if members.len() == 1 {
            return Ok(members.remove(0));
        }
        for (index, second) in members.iter().enumerate() {
            for first in &members[..index] {
                if let Some(role) = common_role(&first.target(), &second.target()) {
                    return Err(conflict(first, second, role));
                }
            }
        }
        Ok(AnyMethod::erased(Self { members }))
    }

    /// The configurations of a stored union, if it is one.
    pub(crate) fn stored<'a>(stored: &StoredConfig<'a>) -> Option<Vec<StoredConfig<'a>>> {
        if stored.format != Format::AdapterHub || stored.fields.get("architecture")? != NAME {
            return None;
        }
        let members = stored.fields.get("configs")?.as_array()?;
        members
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

    /// The members, in order.
    pub fn members(&self) -> &[AnyMethod] {
        &self.members
    }

    /// Each member with those of `sites` that it targets.
    fn sites_of_members<'a, 's>(&'a self, sites: &[&'s SiteInfo]) -> Result<Vec<MemberSites<'a, 's>>, Error> {
        let mut by_member: Vec<MemberSites<'a, 's>> = self.members.iter().map(|member| (member, Vec::new())).collect();
        for site in sites {
            let mut owner: Option<usize> = None;
            for (index, member) in self.members.iter().enumerate() {
                if !member.target().covers(site)? {
                    continue;
                }
                if let Some(first) = owner {
                    return Err(conflict(&self.members[first], member, &site.path));
                }
                owner = Some(index);
            }
            if let Some(owner) = owner {
                by_member[owner].1.push(site);
            }
        }
        Ok(by_member)
    }

    /// The adapter with what `convert` makes of each member's layers; `None` if it leaves them all as they are.
    ///
    /// A member is given its layers alone: shared parameters stay as they are, since no member that converts has any.
    fn by_member(
        &self,
        adapter: &Attached,
        convert: impl Fn(&AnyMethod, &Attached) -> Result<Option<Attached>, Error>,
    ) -> Result<Option<Attached>, Error> {
        let (mut layers, mut members, mut changed) = (Vec::new(), Vec::new(), false);
        for own in self.adapters_of_members(adapter)? {
            let converted = convert(own.method(), &own)?;
            changed |= converted.is_some();
            let own = converted.unwrap_or(own);
            layers.extend(own.layers().cloned());
            members.push(own.method().clone());
        }
        Ok(changed.then(|| adapter.reformed(AnyMethod::erased(Self { members }), layers)))
    }

    /// For each member the adapter with its layers alone.
    fn adapters_of_members(&self, adapter: &Attached) -> Result<Vec<Attached>, Error> {
        let infos: Vec<&SiteInfo> = adapter.own_layers().map(|l| &l.info).collect();
        let of_member = |(member, sites): MemberSites<'_, '_>| {
            let own = adapter
                .layers()
                .filter(|l| sites.iter().any(|info| info.site == l.info.site));
            adapter.reformed(member.clone(), own.cloned().collect())
        };
        Ok(self.sites_of_members(&infos)?.into_iter().map(of_member).collect())
    }

    /// The members that change how many positions a sequence has.
    fn edits(&self) -> impl Iterator<Item = &dyn EditsEmbeddings> {
        self.members
            .iter()
            .filter_map(|member| member.capabilities().embeddings)
    }

    /// Whether the training of a member follows a schedule.
    fn has_schedule(&self) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.capabilities().schedule.is_some())
    }

    /// How many tasks every member knows; `None` where none knows of tasks.
    fn known_tasks(&self) -> Option<usize> {
        let known = self.members.iter().filter_map(|member| member.capabilities().tasks);
        known.map(|known| known.tasks()).min()
    }

    fn owner(&self, site: &SiteInfo) -> Result<&AnyMethod, Error> {
        let sites_of_members = self.sites_of_members(&[site])?;
        let owner = sites_of_members.into_iter().find(|(_, sites)| !sites.is_empty());
        owner.map(|(member, _)| member).ok_or_else(|| Error::CannotBuild {
            method: NAME,
            path: site.path.clone(),
            reason: "no member of the union targets it".to_owned(),
        })
    }
}

/// Whether a shared parameter of that name is one of a member's.
fn owns(member: &AnyMethod, param: &str) -> bool {
    let shared = member.capabilities().shared;
    shared.is_some_and(|shared| shared.owns(param))
}

fn conflict(first: &AnyMethod, second: &AnyMethod, target: impl fmt::Display) -> Error {
    Error::UnionConflict {
        first: first.to_string(),
        second: second.to_string(),
        target: target.to_string(),
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
        let members: Vec<String> = self.members.iter().map(ToString::to_string).collect();
        members.join("|")
    }

    fn target(&self) -> Target {
        Target::Any(self.members.iter().map(|member| member.target()).collect())
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        self.owner(site)?.build(site, build)
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            schedule: self.has_schedule().then_some(self),
            penalty: Some(self),
            faster: Some(self),
            patterns: Some(self),
            scaled: Some(self),
            embeddings: Some(self),
            tokenizer: Some(self),
            tasks: self.known_tasks().map(|_| self as &dyn KnowsTasks),
            // A router is a fusion, and no part of a union.
            routes: None,
            // Other members act from the first token on.
            invoked: None,
            // Which inputs a member would read depends on the others.
            from_inputs: None,
            // Where a context is depends on what other members insert.
            context: None,
            tied: Some(self),
            storage: Some(self),
        }
    }

    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        match self.members.iter().find(|member| owns(member, param)) {
            Some(owner) => owner.shared_key(format, adapter, param),
            None => format.shared_key(adapter, param),
        }
    }

    fn adjusted_to(&self, format: Format, tensors: &Tensors) -> Option<AnyMethod> {
        let adjusted: Vec<_> = self
            .members
            .iter()
            .map(|member| member.adjusted_to(format, tensors))
            .collect();
        if adjusted.iter().all(Option::is_none) {
            return None;
        }
        let members = adjusted.into_iter().zip(&self.members);
        Some(AnyMethod::erased(Self {
            members: members
                .map(|(adjusted, member)| adjusted.unwrap_or_else(|| member.clone()))
                .collect(),
        }))
    }

    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match self.owner(site) {
            Ok(member) => member.nested_key(format, site, adapter, param),
            // No member targets this site: what is there is tied to a table. The members inside the file of another are the last.
            Err(_) => match self
                .members
                .iter()
                .rev()
                .find(|member| member.capabilities().tied.is_some())
            {
                Some(member) => member.nested_key(format, site, adapter, param),
                None => format!("{}.{param}", site.path),
            },
        }
    }

    /// What has a field of its own inside the file of another method is there once.
    fn stores_tied_twice(&self) -> bool {
        false
    }

    fn is_duplicate(&self, format: Format, key: &str) -> bool {
        self.members.iter().any(|member| member.is_duplicate(format, key))
    }

    fn write(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        let sites_of_members = self.sites_of_members(sites)?;
        if format == Format::AdapterHub {
            let configs = sites_of_members
                .iter()
                .map(|(member, sites)| member.write(format, sites, host));
            let configs = configs.collect::<Result<Vec<_>, _>>()?;
            return Ok(Map::from_iter([
                ("architecture".to_owned(), NAME.into()),
                ("configs".to_owned(), json!(configs)),
            ]));
        }
        // There is no union: one member may have fields for the others inside its own configuration.
        for (index, (member, sites)) in sites_of_members.iter().enumerate() {
            let Ok(mut fields) = member.write(format, sites, host) else {
                continue;
            };
            let mut others = self.members.iter().enumerate().filter(|(other, _)| *other != index);
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

impl ModulePatterns for Union {
    fn patterns(&self) -> Vec<(&'static str, &str)> {
        let of_members = self.members.iter().filter_map(|member| member.capabilities().patterns);
        of_members.flat_map(ModulePatterns::patterns).collect()
    }
}

impl ScalesUpdate for Union {
    fn update_scale(&self, site: &SiteInfo, param: &str) -> Result<Option<f64>, Error> {
        let scaled = self.owner(site)?.capabilities().scaled;
        scaled.map_or(Ok(None), |method| method.update_scale(site, param))
    }
}

impl SharedParameters for Union {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let mut all = Shared::new();
        for member in &self.members {
            let shared = member.build_shared(build)?;
            // A file holds one parameter of a name.
            for (name, _) in shared.named_params() {
                let mut claiming = self.members.iter().filter(|member| owns(member, &name));
                if let (Some(first), Some(second)) = (claiming.next(), claiming.next()) {
                    return Err(conflict(first, second, name));
                }
            }
            all = all.and(shared);
        }
        Ok(all)
    }

    fn owns(&self, param: &str) -> bool {
        self.members.iter().any(|member| owns(member, param))
    }
}

impl Scheduled for Union {
    fn schedule(&self, adapter: &Attached, steps: u64) -> Box<dyn TrainingSchedule> {
        // The members of an attached adapter target different sites.
        let adapters = self.adapters_of_members(adapter).unwrap_or_default();
        Box::new(UnionSchedule::new(&adapters, steps))
    }
}

impl Penalized for Union {
    fn penalty(&self, adapter: &Attached) -> Option<Tensor<1>> {
        let adapters = self.adapters_of_members(adapter).ok()?;
        let penalties = adapters
            .iter()
            .filter_map(|own| own.method().capabilities().penalty?.penalty(own));
        penalties.reduce(|sum, penalty| sum + penalty)
    }
}

impl EditsEmbeddings for Union {
    fn inserts(&self) -> Option<Inserted> {
        self.edits().find_map(|edits| edits.inserts())
    }

    fn first_position(&self) -> usize {
        self.edits().map(|edits| edits.first_position()).sum()
    }

    fn positions(&self) -> usize {
        self.edits().map(|edits| edits.positions()).max().unwrap_or(0)
    }
}

impl KnowsTasks for Union {
    fn tasks(&self) -> usize {
        self.known_tasks().unwrap_or(0)
    }
}

impl LearnsFaster for Union {
    fn learns_faster(&self, param: &str) -> bool {
        let mut faster = self.members.iter().filter_map(|member| member.capabilities().faster);
        faster.any(|faster| faster.learns_faster(param))
    }
}

impl NeedsTokenizer for Union {
    fn with_tokens(&self, encode: &Encode<'_>) -> Result<Option<AnyMethod>, Error> {
        let mut changed = false;
        let mut members = Vec::new();
        for member in &self.members {
            let resolved = match member.capabilities().tokenizer {
                Some(text) => text.with_tokens(encode)?,
                None => None,
            };
            changed |= resolved.is_some();
            members.push(resolved.unwrap_or_else(|| member.clone()));
        }
        Ok(changed.then(|| AnyMethod::erased(Self { members })))
    }
}

impl TiesHead for Union {
    /// A head that a member targets is that member's: it may tie it, too.
    fn on_tied_head(&self, table: &SiteLayer, head: &SiteInfo) -> Option<SiteLayer> {
        if let Ok(owner) = self.owner(head) {
            return owner.capabilities().tied?.on_tied_head(table, head);
        }
        let mut tied = self.members.iter().filter_map(|member| member.capabilities().tied);
        tied.find_map(|tied| tied.on_tied_head(table, head))
    }

    fn on_tied_table(&self, table: &SiteLayer) -> Option<SiteLayer> {
        let mut tied = self.members.iter().filter_map(|member| member.capabilities().tied);
        tied.find_map(|tied| tied.on_tied_table(table))
    }
}

impl ConvertsForStorage for Union {
    fn to_storage(&self, format: Format, adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
        self.by_member(adapter, |member, own| match member.capabilities().storage {
            Some(storage) => storage.to_storage(format, own, host),
            None => Ok(None),
        })
    }

    fn restored(&self, adapter: &Attached) -> Option<Attached> {
        let restored = |member: &AnyMethod, own: &Attached| {
            let storage = member.capabilities().storage;
            Ok(storage.and_then(|storage| storage.restored(own)))
        };
        self.by_member(adapter, restored).ok()?
    }
}

/// Adds fields to others; false where one is there already, unless both are objects, whose entries are joined.
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
