//! A model as the larger class around it names its modules.

use adapters_core::{
    AnyMethod, Error, Host, LayerMut, LayerRef, Mirror, MirrorPlan, Role, SiteInfo, Sites, Stack, target::Target,
};
use burn::tensor::Device;

/// A base model whose paths are those of a larger class: `model.layers.0.attn.Wo` in place of `layers.0.attn.Wo`. What a class
/// keeps outside the base is named alike in both.
pub(crate) struct LargerClass<'h>(&'h dyn Host);

impl<'h> LargerClass<'h> {
    /// The larger class, where a file of an adapter with this method names modules as it does; `None` where the names are those
    /// of the model. A file that adapts a layer of the larger class itself, `of_head`, names all as it does.
    ///
    /// # Errors
    ///
    /// [`Error::TargetPattern`] for an invalid regular expression.
    pub(crate) fn named_by(
        method: &AnyMethod,
        target: &Target,
        of_head: bool,
        host: &'h dyn Host,
    ) -> Result<Option<Self>, Error> {
        let prefix = host.base_prefix().trim_end_matches('.');
        if prefix.is_empty() || host.is_larger_class() {
            return Ok(None);
        }
        let larger = Self(host);
        let begins = |pattern: &str| {
            let rest = pattern.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with('.') || rest.starts_with("\\."))
        };
        let patterns = method.capabilities().patterns.map(|method| method.patterns());
        let in_patterns = patterns.iter().flatten().any(|(_, pattern)| begins(pattern));
        let (own, other) = (target.select(host)?, target.select(&larger)?);
        let better = other.unmatched.len() < own.unmatched.len() || other.sites.len() > own.sites.len();
        Ok((in_patterns || better || of_head).then_some(larger))
    }
}

impl Sites for LargerClass<'_> {
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {
        self.0.visit_sites(visit);
    }

    /// Nothing is changed through a name.
    fn visit_sites_mut<'a>(&'a mut self, _visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {}
}

impl Host for LargerClass<'_> {
    fn sites(&self) -> Vec<SiteInfo> {
        let named = self.0.sites().into_iter().map(|info| match info.site.role {
            Role::HeadTransform | Role::LmHead => info,
            _ => SiteInfo {
                path: format!("{}{}", self.0.base_prefix(), info.path),
                ..info
            },
        });
        named.collect()
    }

    fn is_larger_class(&self) -> bool {
        true
    }

    fn architecture(&self) -> &str {
        self.0.architecture()
    }

    fn d_model(&self) -> usize {
        self.0.d_model()
    }

    fn mirror(&self, plan: &MirrorPlan, device: &Device) -> Result<Box<dyn Mirror>, String> {
        self.0.mirror(plan, device)
    }

    fn d_model_of(&self, stack: Stack) -> usize {
        self.0.d_model_of(stack)
    }

    fn class_name(&self) -> &str {
        self.0.class_name()
    }

    fn base_prefix(&self) -> &str {
        self.0.base_prefix()
    }

    fn layer_replication(&self) -> &[[usize; 2]] {
        self.0.layer_replication()
    }

    fn attention_dropout(&self) -> f64 {
        self.0.attention_dropout()
    }

    fn hub_role(&self, role: Role) -> Role {
        self.0.hub_role(role)
    }

    fn tied_head_scale(&self) -> f64 {
        self.0.tied_head_scale()
    }

    fn attention_name(&self, stack: Stack) -> &'static str {
        self.0.attention_name(stack)
    }
}
