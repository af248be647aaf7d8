//! A method of peft next to whose layers biases and whole modules of the base model train: the fields `bias` and `modules_to_save`.

use adapters_core::config::{from_fields, to_fields};
use adapters_core::target::{ModulePattern, ModuleTarget, Target};
use adapters_core::{
    AnyMethod, BaseField, Build, Capabilities, ConfigError, ConfigString, ErasedMethod, Error, Format, Host, SiteInfo,
    SiteLayer, Tensors,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::copies::{BASE_BIAS, bias_copy_of, copy_of, with_bias_copy};

/// What trains next to the layers of a method, as peft's configurations say it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Copies {
    /// Which biases of the base: `none`, `all`, or, of the adapted layers, the method's name and `_only`.
    #[serde(skip_serializing_if = "Option::is_none")]
    bias: Option<String>,
    /// Modules trained as a whole, in copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    modules_to_save: Option<ModulePattern>,
}

impl Copies {
    /// Takes `bias` and `modules_to_save` out of the fields of a configuration; `None` where neither asks for anything, or one is not of
    /// its type.
    fn taken_from(fields: &mut Map<String, Value>) -> Option<Self> {
        let own = ["bias", "modules_to_save"].map(|field| fields.shift_remove_entry(field));
        let mut copies: Self = from_fields(own.into_iter().flatten().collect()).ok()?;
        copies.bias = copies.bias.filter(|bias| bias != "none");
        let none = ModulePattern::Names(Vec::new());
        copies.modules_to_save = copies.modules_to_save.filter(|modules| *modules != none);
        (copies != Self::default()).then_some(copies)
    }

    /// Modules trained as a whole.
    fn saved(&self) -> Option<Target> {
        Some(match self.modules_to_save.clone()? {
            ModulePattern::Names(names) => Target::Endings(names),
            modules => Target::Modules(ModuleTarget::new(modules)),
        })
    }

    /// Whether every bias of the base trains, and not only those of the adapted layers.
    fn has_all_biases(&self) -> bool {
        self.bias.as_deref() == Some("all")
    }

    /// Whether `fields`, which peft has for a method, include those that are set here.
    fn fit(&self, fields: &[BaseField]) -> bool {
        let biases = |bias: &String| fields.contains(&BaseField::Bias) && (bias == "all" || bias.ends_with("_only"));
        let saves = fields.contains(&BaseField::ModulesToSave);
        self.bias.as_ref().is_none_or(biases) && (self.modules_to_save.is_none() || saves)
    }
}

/// A method, and copies of modules and biases that train next to its layers.
#[derive(Clone, Debug)]
pub(crate) struct WithCopies {
    method: AnyMethod,
    copies: Copies,
}

impl WithCopies {
    /// The method that `make` makes of the fields. Where they have `bias` or `modules_to_save`, and peft has these for the method, it gets
    /// the copies next to it; otherwise it is given these fields, too, and refuses them if it does not know them.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub(crate) fn or_alone(
        fields: Map<String, Value>,
        make: impl Fn(Map<String, Value>) -> Result<AnyMethod, Error>,
    ) -> Result<AnyMethod, Error> {
        let mut others = fields.clone();
        if let Some(copies) = Copies::taken_from(&mut others) {
            let method = make(others)?;
            if copies.fit(method.base_fields(Format::Peft)) {
                return Ok(AnyMethod::erased(Self { method, copies }));
            }
        }
        make(fields)
    }

    /// Whether the module at a site is trained in a copy.
    fn saves(&self, site: &SiteInfo) -> Result<bool, Error> {
        self.copies.saved().map_or(Ok(false), |saved| saved.covers(site))
    }

    /// Whether the method has a layer at a site. What is saved is not adapted, as in peft.
    fn adapts(&self, site: &SiteInfo) -> Result<bool, Error> {
        Ok(!self.saves(site)? && self.method.target().covers(site)?)
    }

    /// Whether a parameter at a site is one of the method, and none of a copy.
    fn owns(&self, site: &SiteInfo, param: &str) -> bool {
        param != BASE_BIAS && self.adapts(site).unwrap_or(false)
    }

    fn refuse(&self, site: &SiteInfo, reason: &str) -> Error {
        Error::CannotBuild {
            method: self.method.name(),
            path: site.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

impl ErasedMethod for WithCopies {
    fn name(&self) -> &'static str {
        self.method.name()
    }

    fn config_string(&self) -> String {
        let inner = self.method.config_string();
        let Ok(mut config) = inner.parse::<ConfigString>() else {
            return inner;
        };
        for member in &mut config.members {
            member.fields.extend(to_fields(&self.copies, &[]));
        }
        config.to_string()
    }

    fn target(&self) -> Target {
        let all = self.copies.has_all_biases().then_some(Target::Biased);
        let targets = [self.method.target()].into_iter().chain(self.copies.saved());
        Target::Any(targets.chain(all).collect())
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        if self.saves(site)? {
            let copy = copy_of(build.host, site, build.device);
            return copy.ok_or_else(|| self.refuse(site, "the model gives no access to this weight"));
        }
        if !self.adapts(site)? {
            let copy = bias_copy_of(build.host, site.site, build.device);
            return copy.ok_or_else(|| self.refuse(site, "it has no bias to train"));
        }
        let layer = self.method.build(site, build)?;
        Ok(match &self.copies.bias {
            Some(_) => with_bias_copy(layer, build.host, site.site, build.device),
            None => layer,
        })
    }

    fn capabilities(&self) -> Capabilities<'_> {
        self.method.capabilities()
    }

    fn write(&self, format: Format, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, Error> {
        if format != Format::Peft {
            let what = "biases and modules of the base that train";
            return Err(Error::config(self.name(), ConfigError::NotExpressible { format, what }));
        }
        let mut adapted = Vec::new();
        for site in sites {
            if self.adapts(site)? {
                adapted.push(*site);
            }
        }
        let mut fields = self.method.write(format, &adapted, host)?;
        fields.extend(to_fields(&self.copies, &[]));
        Ok(fields)
    }

    fn key(&self, format: Format, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match self.owns(site, param) {
            true => self.method.key(format, site, adapter, param),
            false => format!("{}.{param}", site.path),
        }
    }

    fn stored_shape(&self, format: Format, site: &SiteInfo, param: &str, shape: Vec<usize>) -> Vec<usize> {
        match self.owns(site, param) {
            true => self.method.stored_shape(format, site, param, shape),
            false => shape,
        }
    }

    fn shared_key(&self, format: Format, adapter: &str, param: &str) -> String {
        self.method.shared_key(format, adapter, param)
    }

    fn stores_tied_twice(&self) -> bool {
        self.method.stores_tied_twice()
    }

    fn is_duplicate(&self, format: Format, key: &str) -> bool {
        self.method.is_duplicate(format, key)
    }

    fn may_lack(&self, format: Format, param: &str) -> bool {
        self.method.may_lack(format, param)
    }

    fn adjusted_to(&self, format: Format, tensors: &Tensors) -> Option<AnyMethod> {
        let method = self.method.adjusted_to(format, tensors)?;
        let copies = self.copies.clone();
        Some(AnyMethod::erased(Self { method, copies }))
    }
}
