//! Where a parameter of a set lives, and what it is called in files.

use std::borrow::Cow;

use burn::module::ParamId;

use crate::method::Method;
use crate::site::SiteInfo;
use crate::store::Grammar;

/// Where a parameter of a set lives.
#[derive(Clone, Debug)]
pub struct ParamPlace<'a> {
    /// Name of the adapter.
    pub adapter: &'a str,
    /// Its method.
    pub method: &'a dyn Method,
    /// The site; `None` for what the layers share.
    pub info: Option<&'a SiteInfo>,
    /// The method's name of the parameter.
    pub param: Cow<'static, str>,
    /// Burn's id of the parameter.
    pub id: ParamId,
    /// Whether it is stored and never trained.
    pub fixed: bool,
}

impl ParamPlace<'_> {
    /// The key of the parameter in a storage grammar, for an adapter stored as `name`.
    pub fn key(&self, grammar: Grammar, name: &str) -> String {
        self.key_in(grammar, name, "")
    }

    /// The keys a file may have for it: that of the model's own class, and that of a larger class around it.
    pub fn keys(&self, grammar: Grammar, name: &str, base_prefix: &str) -> [String; 2] {
        ["", base_prefix].map(|prefix| self.key_in(grammar, name, prefix))
    }

    fn key_in(&self, grammar: Grammar, name: &str, prefix: &str) -> String {
        match self.info {
            Some(info) => {
                let key = self.method.key(grammar, info, name, &self.param);
                format!("{}{prefix}{key}", grammar.key_prefix())
            }
            None => {
                let key = self.method.shared_key(grammar, name, &self.param);
                match grammar {
                    Grammar::AdapterHub => format!("{prefix}{key}"),
                    Grammar::Peft => key,
                }
            }
        }
    }

    /// Path of the module it belongs to in the published checkpoint, or `shared`.
    pub fn path(&self) -> &str {
        self.info.map_or("shared", |info| &info.path)
    }
}
