//! What a model implements to be adapted.

use adapters_nn::NormWeight;
use adapters_sites::{LayerRef, Matrices, Role, Site, SiteInfo, Sites, Stack};
use burn::nn::{Embedding, Linear};
use burn::tensor::Device;

use crate::mirror::{Mirror, MirrorPlan};

/// A model that can host adapters.
///
/// Its sites are those of its fields ([`Sites`]); a model adds its width and, where adapters are exchanged with the reference
/// libraries, its published names. In its `forward` it calls the hooks of [`Ctx`](crate::Ctx) with the layers that know
/// their sites.
pub trait Host: Sites {
    /// The published `model_type`, e.g. `"bert"`.
    fn architecture(&self) -> &str;

    /// Width of the residual stream.
    fn d_model(&self) -> usize;

    /// The width in a stack, where stacks differ.
    fn d_model_of(&self, _stack: Stack) -> usize {
        self.d_model()
    }

    /// Class name the reference libraries would give this model, e.g. `"BertModel"`.
    fn class_name(&self) -> &str {
        self.architecture()
    }

    /// Prefix a larger published class puts before this model's paths, e.g. `"bert."`.
    fn base_prefix(&self) -> &str {
        ""
    }

    /// Whether this model is that larger class: the paths of its sites have the prefix, and so have the keys it writes.
    fn is_larger_class(&self) -> bool {
        false
    }

    /// Which layers of its checkpoint it has, as ranges in order, where it uses some several times or not at all; empty for a
    /// model that has each once.
    fn layer_replication(&self) -> &[[usize; 2]] {
        &[]
    }

    /// Dropout probability of the model's attention, which a fusion takes over unless it has its own.
    fn attention_dropout(&self) -> f64 {
        0.0
    }

    /// The role by which AdapterHub's configurations select the sites of `role`: the same, but for models in which its
    /// library wraps the feed-forward projections the other way round, and its `intermediate` is the second of them. A table that
    /// is read under other names is a token table there.
    fn hub_role(&self, role: Role) -> Role {
        match role {
            Role::SharedTable => Role::TokenEmbedding,
            role => role,
        }
    }

    /// Factor of the hidden states that enter a language-model head whose weight is the token table, and not those that enter
    /// one of its own.
    fn tied_head_scale(&self) -> f64 {
        1.0
    }

    /// What published adapter files call the attention of a stack; before a `/`, the path of the module that holds what its
    /// layers share, unless that is the model.
    fn attention_name(&self, stack: Stack) -> &'static str {
        match stack {
            Stack::Cross => "cross_prefix",
            Stack::Encoder if self.sites().iter().any(|info| info.site.stack == Stack::Decoder) => "encoder_prefix",
            Stack::Encoder | Stack::Decoder | Stack::Image => "self_prefix",
        }
    }

    /// A smaller model of its class, with random weights; why not, where there is none.
    ///
    /// # Errors
    ///
    /// The reason, in words.
    fn mirror(&self, _plan: &MirrorPlan, _device: &Device) -> Result<Box<dyn Mirror>, String> {
        Err(format!(
            "a smaller model of the class of this {} model is not made here",
            self.architecture()
        ))
    }

    /// All sites, in the order of the forward pass.
    fn sites(&self) -> Vec<SiteInfo> {
        let mut sites = Vec::new();
        self.visit_sites(&mut |info, _| {
            sites.push(SiteInfo {
                hub_role: self.hub_role(info.site.role),
                ..info.clone()
            });
        });
        sites
    }

    /// The sites that are modules of the published checkpoint.
    fn module_sites(&self) -> Vec<SiteInfo> {
        let mut sites = self.sites();
        sites.retain(SiteInfo::is_module);
        sites
    }

    /// Whether the published weight of a linear layer is `[d_in, d_out]`, and not `[d_out, d_in]` as usual.
    fn stores_input_first(&self, site: Site) -> bool {
        let mut input_first = false;
        self.visit_sites(&mut |info, _| input_first |= info.site == site && info.input_first);
        input_first
    }

    /// The frozen layer of a linear site.
    fn linear(&self, site: Site) -> Option<&Linear> {
        match at(self, site)? {
            LayerRef::Linear(layer) => Some(layer),
            _ => None,
        }
    }

    /// The frozen parameters of a normalization.
    fn norm(&self, site: Site) -> Option<NormWeight> {
        match at(self, site)? {
            LayerRef::Norm(norm) => Some(norm.get()),
            _ => None,
        }
    }

    /// The frozen embedding table of a site.
    fn table(&self, site: Site) -> Option<&Embedding> {
        match at(self, site)? {
            LayerRef::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The frozen matrices of a site.
    fn matrices(&self, site: Site) -> Option<&Matrices> {
        match at(self, site)? {
            LayerRef::Matrices(matrices) => Some(matrices),
            _ => None,
        }
    }
}

/// Whether a module is of a larger class around the model, whose paths it does not share: a layer of a head, or a language-model head
/// of a class that has none.
pub fn is_outside(info: &SiteInfo, host: &dyn Host) -> bool {
    match info.site.role {
        Role::HeadTransform => true,
        Role::LmHead => {
            !host.is_larger_class() && !host.base_prefix().is_empty() && host.class_name().ends_with("Model")
        }
        _ => false,
    }
}

fn at<'a, H: Sites + ?Sized>(host: &'a H, site: Site) -> Option<LayerRef<'a>> {
    let mut found = None;
    host.visit_sites(&mut |info, layer| {
        if info.site == site {
            found = Some(layer);
        }
    });
    found
}
