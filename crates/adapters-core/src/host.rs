//! What a model implements to be adapted.

use burn::nn::{Embedding, Linear};

use crate::pass::state::NormWeight;
use crate::site::{Site, SiteInfo, Stack};

/// A model that can host adapters: it lists its sites and gives access to the weights of its linear ones.
///
/// The other half of the contract is in the model's `forward`: it calls the hooks of [`Ctx`](crate::Ctx) at
/// the sites it lists.
pub trait Host {
    /// The published `model_type`, e.g. `"bert"`.
    fn architecture(&self) -> &str;

    /// Class name the reference libraries would give this model, e.g. `"BertModel"`.
    fn class_name(&self) -> &str;

    /// Width of the residual stream.
    fn d_model(&self) -> usize;

    /// Prefix a larger published class puts before this model's paths, e.g. `"bert."`.
    fn base_prefix(&self) -> &str;

    /// Whether the published weight of a linear layer is `[d_in, d_out]`, and not `[d_out, d_in]` as usual.
    fn stores_input_first(&self, _site: Site) -> bool {
        false
    }

    /// Whether this model is that larger class: the paths of its sites have the prefix, and so have the keys it writes.
    fn is_larger_class(&self) -> bool {
        false
    }

    /// All sites, in the order of the forward pass.
    fn sites(&self) -> Vec<SiteInfo>;

    /// What published adapter files call the attention of a stack.
    fn attention_name(&self, stack: Stack) -> &'static str {
        match stack {
            Stack::Cross => "cross_prefix",
            Stack::Encoder if self.sites().iter().any(|info| info.site.stack == Stack::Decoder) => "encoder_prefix",
            Stack::Encoder | Stack::Decoder => "self_prefix",
        }
    }

    /// The frozen layer of a linear site.
    fn linear(&self, site: Site) -> Option<&Linear>;

    /// The frozen layer of a linear site, for merging.
    fn linear_mut(&mut self, site: Site) -> Option<&mut Linear>;

    /// The frozen parameters of a normalization.
    fn norm(&self, _site: Site) -> Option<NormWeight> {
        None
    }

    /// Puts others in their place, for merging; `None` where there is no such normalization.
    fn set_norm(&mut self, _site: Site, _parameters: NormWeight) -> Option<()> {
        None
    }

    /// The frozen embedding table of a site.
    fn table(&self, _site: Site) -> Option<&Embedding> {
        None
    }

    /// The frozen embedding table of a site, for merging.
    fn table_mut(&mut self, _site: Site) -> Option<&mut Embedding> {
        None
    }

    /// Dropout probability of the model's attention, which a fusion takes over unless it has its own.
    fn attention_dropout(&self) -> f64 {
        0.0
    }

    /// The sites that are modules of the published checkpoint.
    fn module_sites(&self) -> Vec<SiteInfo> {
        let mut sites = self.sites();
        sites.retain(SiteInfo::is_module);
        sites
    }
}
