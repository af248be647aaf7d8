//! The methods a program knows.

use std::borrow::Cow;
use std::fmt;

use adapters_nn::{UnknownName, nearest};
use serde_json::{Map, Value};

use adapters_core::config::to_fields;
use adapters_core::{
    AdapterHub, AnyMethod, Codec, ConfigString, Error, Format, MemberConfig, Method, Peft, StoredConfig,
};

use crate::union::Union;
use crate::with_copies::WithCopies;

/// A configuration inside another method's object, with the field that holds it.
type Nested = (&'static str, Map<String, Value>);

/// One method of a [`Registry`], or a name for a union of several.
#[derive(Clone, Copy)]
pub struct MethodEntry {
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// The functions of a [`Method`].
    Method {
        description: &'static str,
        identifiers: fn() -> Vec<&'static str>,
        defaults: fn(&str) -> Option<Map<String, Value>>,
        configure: fn(&str, Map<String, Value>) -> Result<AnyMethod, Error>,
        read: fn(&StoredConfig<'_>) -> Option<Result<AnyMethod, Error>>,
        read_nested: fn(&StoredConfig<'_>) -> Vec<Nested>,
    },
    /// The config string that the name stands for.
    Union(&'static str),
}

impl MethodEntry {
    /// The entry of a method.
    pub const fn of<M: Method>() -> Self {
        Self {
            name: M::NAME,
            kind: Kind::Method {
                description: M::DESCRIPTION,
                identifiers: identifiers::<M>,
                defaults: defaults::<M>,
                configure: configure::<M>,
                read: read::<M>,
                read_nested: read_nested::<M>,
            },
        }
    }

    /// A name for the union that `config` writes out. A field behind the name goes to each member, as in AdapterHub; files
    /// hold the members.
    pub const fn union(name: &'static str, config: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Union(config),
        }
    }

    /// Name of the method.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it does, in a sentence.
    pub fn description(&self) -> Cow<'static, str> {
        match self.kind {
            Kind::Method { description, .. } => description.into(),
            Kind::Union(config) => format!("Short for `{config}`.").into(),
        }
    }

    /// The identifiers a config string may start with.
    pub fn identifiers(&self) -> Vec<&'static str> {
        match self.kind {
            Kind::Method { identifiers, .. } => identifiers(),
            Kind::Union(_) => vec![self.name],
        }
    }
}

impl MethodEntry {
    /// The fields of the configuration that an identifier stands for; `None` for another identifier, and for a union, which has
    /// the fields of its members.
    pub fn defaults(&self, identifier: &str) -> Option<Map<String, Value>> {
        match self.kind {
            Kind::Method { defaults, .. } => defaults(identifier),
            Kind::Union(_) => None,
        }
    }

    /// The config string that the name of a union stands for.
    pub const fn members(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Method { .. } => None,
            Kind::Union(config) => Some(config),
        }
    }
}

impl fmt::Debug for MethodEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn identifiers<M: Method>() -> Vec<&'static str> {
    M::presets().iter().map(|preset| preset.identifier).collect()
}

fn defaults<M: Method>(identifier: &str) -> Option<Map<String, Value>> {
    let preset = M::presets().iter().find(|preset| preset.identifier == identifier)?;
    Some(to_fields(&(preset.config)(), &[]))
}

fn configure<M: Method>(identifier: &str, fields: Map<String, Value>) -> Result<AnyMethod, Error> {
    let preset = M::presets().iter().find(|preset| preset.identifier == identifier);
    let preset = preset.ok_or_else(|| UnknownName::new("adapter configuration", identifier, identifiers::<M>()))?;
    AnyMethod::new(Error::in_config(M::NAME, preset.with_fields(fields))?)
}

fn read<M: Method>(stored: &StoredConfig<'_>) -> Option<Result<AnyMethod, Error>> {
    let (config, names) = match stored.format {
        Format::AdapterHub => (
            <M as Codec<AdapterHub>>::read(stored),
            <M as Codec<AdapterHub>>::names(),
        ),
        Format::Peft => (<M as Codec<Peft>>::read(stored), <M as Codec<Peft>>::names()),
    };
    let checked = config?.and_then(|config| config.check().map(|()| config));
    let checked = checked.map_err(|error| error.spelled(names));
    Some(Error::in_config(M::NAME, checked).map(AnyMethod::erased))
}

fn read_nested<M: Method>(stored: &StoredConfig<'_>) -> Vec<Nested> {
    match stored.format {
        Format::AdapterHub => <M as Codec<AdapterHub>>::read_nested(stored.fields),
        Format::Peft => <M as Codec<Peft>>::read_nested(stored.fields),
    }
}

/// The methods a program knows. The facade has the full list; a program appends its own with [`with`](Self::with).
#[derive(Clone, Debug, Default)]
pub struct Registry {
    entries: Cow<'static, [MethodEntry]>,
}

impl Registry {
    /// The registry of a list that the program has as a constant.
    pub const fn from_static(entries: &'static [MethodEntry]) -> Self {
        Self {
            entries: Cow::Borrowed(entries),
        }
    }

    /// This registry and one method more.
    #[must_use]
    pub fn with(mut self, entry: MethodEntry) -> Self {
        self.entries.to_mut().push(entry);
        self
    }

    /// The methods, in order.
    pub fn entries(&self) -> &[MethodEntry] {
        &self.entries
    }

    /// All identifiers, in the order of the methods.
    pub fn identifiers(&self) -> impl Iterator<Item = &'static str> {
        self.entries.iter().flat_map(MethodEntry::identifiers)
    }

    /// A method from an identifier and fields.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownName`] for an identifier no method has; [`Error::Config`] for fields the method refuses.
    pub fn configure(&self, identifier: &str, fields: Map<String, Value>) -> Result<AnyMethod, Error> {
        let mut entries = self.entries.iter();
        let Some(entry) = entries.find(|entry| entry.identifiers().contains(&identifier)) else {
            return Err(UnknownName::new("adapter configuration", identifier, self.identifiers()).into());
        };
        match entry.kind {
            Kind::Method { configure, .. } => WithCopies::or_alone(fields, |fields| configure(identifier, fields)),
            Kind::Union(config) => self.parse_with(config, &fields),
        }
    }

    /// A method from a config string such as `lora[r=8,alpha=16]`.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure), [`Error::ConfigString`] if it does not parse, [`Error::UnionConflict`] for
    /// members of a union that target the same module.
    pub fn parse(&self, config: &str) -> Result<AnyMethod, Error> {
        self.parse_with(config, &Map::new())
    }

    /// A method from a config string, with further fields for each of its members.
    fn parse_with(&self, config: &str, fields: &Map<String, Value>) -> Result<AnyMethod, Error> {
        let ConfigString { members } = config.parse()?;
        let configure = |mut member: MemberConfig| {
            member.fields.extend(fields.clone());
            self.configure(&member.identifier, member.fields)
        };
        Union::method(members.into_iter().map(configure).collect::<Result<_, _>>()?)
    }

    /// A method from the configuration object of a file. Unknown fields are kept and written back.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownName`] if no method reads it; [`Error::Config`] for what the method refuses.
    pub fn read(&self, stored: &StoredConfig<'_>) -> Result<AnyMethod, Error> {
        match stored.format {
            Format::AdapterHub => self.read_members(stored),
            Format::Peft => WithCopies::or_alone(stored.fields.clone(), |fields| {
                self.read_members(&StoredConfig {
                    fields: &fields,
                    ..*stored
                })
            }),
        }
    }

    /// [`read`](Self::read), without what trains next to a method that has no fields for it.
    fn read_members(&self, stored: &StoredConfig<'_>) -> Result<AnyMethod, Error> {
        if let Some(members) = Union::stored(stored) {
            return Union::method(
                members
                    .iter()
                    .map(|member| self.read(member))
                    .collect::<Result<_, _>>()?,
            );
        }
        let nested = self.nested(stored);
        if !nested.is_empty() {
            let mut outer = stored.fields.clone();
            outer.retain(|key, _| nested.iter().all(|(field, _)| field != key));
            let configs = [&outer].into_iter().chain(nested.iter().map(|(_, fields)| fields));
            let members = configs.map(|fields| self.read(&StoredConfig { fields, ..*stored }));
            return Union::method(members.collect::<Result<_, _>>()?);
        }
        let found = self.entries.iter().find_map(|entry| match entry.kind {
            Kind::Method { read, .. } => read(stored),
            Kind::Union(_) => None,
        });
        found.unwrap_or_else(|| Err(self.unknown_object(stored)))
    }

    fn nested(&self, stored: &StoredConfig<'_>) -> Vec<Nested> {
        let nested = self.entries.iter().map(|entry| match entry.kind {
            Kind::Method { read_nested, .. } => read_nested(stored),
            Kind::Union(_) => Vec::new(),
        });
        nested.flatten().collect()
    }

    /// The refusal of an object that no method reads.
    fn unknown_object(&self, stored: &StoredConfig<'_>) -> Error {
        let key = match stored.format {
            Format::AdapterHub => "architecture",
            Format::Peft => "peft_type",
        };
        let found = stored
            .fields
            .get(key)
            .map_or_else(|| format!("(no `{key}`)"), Value::to_string);
        let methods = self
            .entries
            .iter()
            .filter(|entry| !matches!(entry.kind, Kind::Union(_)));
        UnknownName {
            nearest: self.nearest_type(stored, key),
            ..UnknownName::new("adapter method", found, methods.map(MethodEntry::name))
        }
        .into()
    }

    /// The type in files that a method reads and whose spelling is most like that of the field `key`, e.g. `LORA` for `lora`.
    fn nearest_type(&self, stored: &StoredConfig<'_>, key: &str) -> Option<String> {
        let found = stored.fields.get(key)?.as_str()?;
        let names = self.entries.iter().map(|entry| match stored.format {
            Format::AdapterHub => entry.name().to_owned(),
            Format::Peft => entry.name().to_uppercase(),
        });
        let is_read = |name: &String| {
            let mut fields = stored.fields.clone();
            fields.insert(key.to_owned(), name.as_str().into());
            let stored = StoredConfig {
                fields: &fields,
                ..*stored
            };
            self.entries.iter().any(|entry| match entry.kind {
                Kind::Method { read, .. } => read(&stored).is_some(),
                Kind::Union(_) => false,
            })
        };
        let names: Vec<String> = names.filter(is_read).collect();
        nearest(found, names.iter().map(String::as_str))
    }
}
