//! One adapter: its layers at the sites of a model, what they share, and its parameters with their names in files.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use adapters_module::{Fill, values, with_fresh_ids};
use adapters_sites::{Role, Site, SiteInfo};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::error::Error;
use crate::host::Host;
use crate::method::any::AnyMethod;
use crate::method::build::Build;
use crate::method::named_params::{NamedParams, ParamValues};
use crate::method::shared::Shared;
use crate::method::site_layer::SiteLayer;
use crate::set::model_shape::ModelShape;
use adapters_config::Format;

/// One attached adapter.
#[derive(Clone, Debug)]
pub struct Attached {
    pub(super) name: String,
    pub(super) method: AnyMethod,
    pub(super) layers: BTreeMap<Site, AttachedLayer>,
    pub(super) shared: Shared,
    /// The model it was attached to.
    pub(super) model: Arc<ModelShape>,
    pub(super) trainable: bool,
    /// The adapter whose parameters it uses in place of its own, where the method lets adapters share.
    pub(super) owner: Option<String>,
}

/// An adapter's layer at a site, with the site as the model listed it.
#[derive(Clone, Debug)]
pub struct AttachedLayer {
    /// The site.
    pub info: SiteInfo,
    /// The layer.
    pub layer: SiteLayer,
}

impl Attached {
    /// An adapter with a layer at each of `sites`, in no set yet.
    ///
    /// # Errors
    ///
    /// [`Error::CannotBuild`] for a site the method has no layer for.
    pub fn build(
        name: &str,
        method: AnyMethod,
        sites: Vec<SiteInfo>,
        host: &dyn Host,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        Self::build_within(name, method, sites, host, seed, device, None)
    }

    /// The same for an adapter whose values a file has, which need not hold more numbers than the file.
    pub(super) fn build_within(
        name: &str,
        method: AnyMethod,
        sites: Vec<SiteInfo>,
        host: &dyn Host,
        seed: u64,
        device: &Device,
        file: Option<StoredSize>,
    ) -> Result<Self, Error> {
        let build = Build { seed, device, host };
        let mut adapter = Self::new(name, method, host, Vec::new());
        let (uses, sites): (Vec<_>, Vec<_>) = sites.into_iter().partition(|info| info.tied_to.is_some());
        let mut built = 0;
        for info in sites {
            let layer = adapter.method.build(&info, &build)?;
            if let Some(file) = file {
                built += adapter.stored_elements(&layer, file.format);
                if built > file.most() {
                    return Err(Error::CannotBuild {
                        method: adapter.method.name(),
                        path: info.path,
                        reason: format!(
                            "its layers up to this one have {built} numbers, and the file with their values has {}",
                            file.elements
                        ),
                    });
                }
            }
            adapter.layers.insert(info.site, AttachedLayer { info, layer });
        }
        // Heads first: one with parameters of its own leaves the table idle.
        let tied = host.sites().into_iter().filter(|info| info.tied_to.is_some());
        let (tied_heads, tied_tables): (Vec<_>, Vec<_>) = tied.partition(|info| !info.is_table());
        let (heads, tables): (Vec<_>, Vec<_>) = uses.into_iter().partition(|info| !info.is_table());
        for (tied, own) in [(tied_heads, heads), (tied_tables, tables)] {
            adapter.tie(tied);
            for info in own {
                if !adapter.layers.contains_key(&info.site) {
                    let layer = adapter.method.build(&info, &build)?;
                    adapter.layers.insert(info.site, AttachedLayer { info, layer });
                }
            }
        }
        let shared = adapter.method.build_shared(&build)?;
        if let Some(l) = adapter.layers().find(|l| !l.layer.reads(&shared)) {
            return Err(Error::CannotBuild {
                method: adapter.method.name(),
                path: l.info.path.clone(),
                reason: "its layer needs shared parameters of a type that the method does not build".to_owned(),
            });
        }
        Ok(adapter.with_shared(shared))
    }

    /// An adapter of `model` from built layers, trainable.
    pub fn new(name: impl Into<String>, method: AnyMethod, model: &dyn Host, layers: Vec<AttachedLayer>) -> Self {
        Self {
            name: name.into(),
            method,
            layers: layers.into_iter().map(|l| (l.info.site, l)).collect(),
            shared: Shared::new(),
            model: ModelShape::of(model),
            trainable: true,
            owner: None,
        }
    }

    /// The same adapter with another configuration and other layers; what the layers share stays.
    #[must_use]
    pub fn reformed(&self, method: AnyMethod, layers: Vec<AttachedLayer>) -> Self {
        let mut reformed = Self {
            method,
            layers: layers.into_iter().map(|l| (l.info.site, l)).collect(),
            ..self.clone()
        };
        reformed.tie(self.layers().map(|l| l.info.clone()));
        reformed
    }

    /// The adapter as files of a format hold it, which may not be how it trains.
    ///
    /// # Errors
    ///
    /// Those of building the adapter that is stored.
    pub fn as_stored(&self, format: Format, host: &dyn Host) -> Result<Cow<'_, Self>, Error> {
        let stored = match self.method.capabilities().storage {
            Some(storage) => storage.to_storage(format, self, host)?,
            None => None,
        };
        Ok(stored.map_or(Cow::Borrowed(self), Cow::Owned))
    }

    /// The adapter as it trains, from one with the values of files, or computed from them.
    #[must_use]
    pub fn as_trained(self) -> Self {
        let storage = self.method.capabilities().storage;
        storage.and_then(|storage| storage.restored(&self)).unwrap_or(self)
    }

    /// Adds what the layers share.
    #[must_use]
    pub fn with_shared(mut self, shared: Shared) -> Self {
        self.shared = shared;
        self
    }

    /// The same adapter under another name.
    #[must_use]
    pub fn renamed(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What the layers share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The checked configuration.
    pub fn method(&self) -> &AnyMethod {
        &self.method
    }

    /// Layers in the order of their sites.
    pub fn layers(&self) -> impl Iterator<Item = &AttachedLayer> {
        self.layers.values()
    }

    /// The layer at what `info` is, a head or a table under another name, made of the layer at the table which is its weight, if
    /// the two have their parameters in common.
    fn tied_layer(&self, info: &SiteInfo) -> Option<SiteLayer> {
        let table = self.layers.get(&info.tied_to?)?;
        let tied = self.method.capabilities().tied?;
        let on_table = || tied.on_tied_table(&table.layer);
        if table.info.site.role == Role::SharedTable {
            // Where no layer reads the table, nothing acts at one use of it alone.
            on_table()?;
            // As in the reference, a head with parameters of its own leaves the table idle.
            let mut heads = self
                .layers()
                .filter(|l| l.info.tied_to == info.tied_to && !l.info.is_table());
            if heads.any(|head| tied.on_tied_head(&table.layer, &head.info).is_none()) {
                return None;
            }
        }
        match info.is_table() {
            true => on_table(),
            false => tied.on_tied_head(&table.layer, info),
        }
    }

    /// The layers that act: all but those at a table that is read under other names, where they do not act at these either. Such a
    /// layer is kept for the file that has it.
    pub fn acting_layers(&self) -> impl Iterator<Item = &AttachedLayer> {
        let acts = move |l: &&AttachedLayer| {
            let mut uses = self.layers().filter(|other| other.info.tied_to == Some(l.info.site));
            l.info.site.role != Role::SharedTable || uses.any(|other| self.tied_layer(&other.info).is_some())
        };
        self.layers().filter(acts)
    }

    /// Puts layers at heads that are tied to an adapted table, or gives them the parameters that the table's layer has now.
    ///
    /// Both hold the same parameters: a gradient is the sum over the two sites. As a [`Module`] the adapter has them once, at
    /// the table.
    fn tie(&mut self, heads: impl IntoIterator<Item = SiteInfo>) {
        for info in heads {
            if let Some(layer) = self.tied_layer(&info) {
                self.layers.insert(info.site, AttachedLayer { info, layer });
            }
        }
    }

    /// Gives the layers at tied heads the parameters that those at their tables have now.
    pub(super) fn tie_again(&mut self) {
        let infos: Vec<SiteInfo> = self.layers().map(|l| l.info.clone()).collect();
        self.tie(infos);
    }

    /// The layers but those whose parameters are all of a layer before, in the order of their sites.
    pub fn own_layers(&self) -> impl Iterator<Item = &AttachedLayer> {
        self.layers().filter(|l| self.tied_layer(&l.info).is_none())
    }

    /// This adapter with the shared parameters of `owner`; `None` where the two share nothing.
    pub(super) fn borrowing(&self, owner: &Self) -> Option<Self> {
        let mut adapter = self.clone();
        for (site, l) in &mut adapter.layers {
            l.layer = l.layer.borrowing(&owner.layers.get(site)?.layer)?;
        }
        adapter.owner = Some(owner.name.clone());
        Some(adapter)
    }

    /// The adapter whose parameters it uses in place of its own.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// Whether its parameters require gradients in training.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Number of parameters.
    pub fn num_params(&self) -> usize {
        let at_sites: usize = self.own_layers().map(|l| l.layer.num_params()).sum();
        at_sites + self.shared.num_params()
    }

    /// Shapes of the parameters, by id.
    pub fn shapes(&self) -> HashMap<ParamId, ParamShape> {
        let mut shapes = Shapes::default();
        for l in self.layers() {
            l.layer.visit(&mut shapes);
        }
        self.shared.visit(&mut shapes);
        shapes.0
    }

    /// How many numbers of a layer a file of this format has to have.
    fn stored_elements(&self, layer: &SiteLayer, format: Format) -> usize {
        let mut shapes = Shapes::default();
        layer.visit(&mut shapes);
        let named = layer.named_params().into_iter();
        let stored = named.filter(|(param, _)| !self.method.may_lack(format, param));
        let shapes = stored.filter_map(|(_, id)| shapes.0.remove(&id));
        shapes.map(|shape| shape.dims.iter().product::<usize>()).sum()
    }

    /// Replaces the values of parameters, found by their id.
    pub fn fill(&mut self, values: HashMap<ParamId, TensorData>) {
        let mut fill = Fill(values);
        self.change_layers(|layer| layer.map(&mut fill));
    }

    /// The parameters under their names, in storage order.
    pub fn params(&self) -> impl Iterator<Item = ParamInfo<'_>> {
        self.params_by_name(self.method.stores_tied_twice())
    }

    /// The parameters under all their names, those of layers at tied heads too, which files may have twice.
    pub fn params_by_all_names(&self) -> impl Iterator<Item = ParamInfo<'_>> {
        self.params_by_name(true)
    }

    fn params_by_name(&self, twice: bool) -> impl Iterator<Item = ParamInfo<'_>> {
        let stored = self
            .layers()
            .filter(move |l| twice || self.tied_layer(&l.info).is_none());
        let at_sites = stored.flat_map(|l| self.listed(Some(&l.info), &l.layer));
        at_sites.chain(self.listed(None, &self.shared))
    }

    fn listed<'a>(&'a self, info: Option<&'a SiteInfo>, layer: &impl NamedParams) -> Vec<ParamInfo<'a>> {
        let fixed = layer.fixed_params();
        let limits: HashMap<ParamId, Vec<usize>> = layer.index_limits().into_iter().collect();
        let named = layer.named_params().into_iter();
        named
            .map(|(param, id)| ParamInfo {
                adapter: &self.name,
                method: &self.method,
                info,
                param,
                id,
                fixed: fixed.contains(&id),
                limits: limits.get(&id).cloned().unwrap_or_default(),
            })
            .collect()
    }

    /// Passes every layer, and what they share, through `change`.
    pub(crate) fn change_layers(&mut self, mut change: impl FnMut(SiteLayer) -> SiteLayer) {
        // What is tied follows its table.
        let own: HashSet<Site> = self.own_layers().map(|l| l.info.site).collect();
        self.layers = std::mem::take(&mut self.layers)
            .into_iter()
            .map(|(site, AttachedLayer { info, layer })| {
                let layer = match own.contains(&site) {
                    true => change(layer),
                    false => layer,
                };
                (site, AttachedLayer { info, layer })
            })
            .collect();
        if let SiteLayer::Shared(shared) = change(SiteLayer::Shared(std::mem::take(&mut self.shared))) {
            self.shared = shared;
        }
        self.tie_again();
    }

    /// Values of the parameters, by Burn's id.
    pub fn values_by_id(&self) -> HashMap<ParamId, TensorData> {
        let layers = self.layers().flat_map(|l| values(&l.layer));
        layers.chain(values(self.shared())).collect()
    }

    /// The device its parameters are on, without autodiff; `None` for an adapter that has none.
    pub fn device(&self) -> Option<Device> {
        let mut layers = self.layers().flat_map(|l| l.layer.devices());
        let device = layers.next().or_else(|| self.shared().devices().into_iter().next());
        device.map(Device::inner)
    }

    /// Values of the parameters.
    pub fn values(&self) -> ParamValues {
        let mut all = self.values_by_id();
        self.params()
            .filter_map(|p| Some(((p.info.map(|i| i.site), p.param.into_owned()), all.remove(&p.id)?)))
            .collect()
    }

    /// The adapter with other values; a parameter without one keeps its own.
    #[must_use]
    pub fn with_values(mut self, mut values: ParamValues) -> Self {
        let by_id = self
            .params()
            .filter_map(|p| Some((p.id, values.remove(&(p.info.map(|i| i.site), p.param.into_owned()))?)))
            .collect();
        let mut fill = Fill(by_id);
        self.change_layers(|layer| layer.map(&mut fill));
        self
    }

    /// A copy under another name, with parameters of its own.
    #[must_use]
    pub fn copied(&self, name: impl Into<String>) -> Self {
        let mut copy = self.clone().renamed(name);
        copy.change_layers(with_fresh_ids);
        copy
    }
}

/// What a file has of an adapter that is built for its values.
#[derive(Clone, Copy, Debug)]
pub struct StoredSize {
    /// The format of the file.
    pub format: Format,
    /// Numbers in all its tensors.
    pub elements: usize,
}

impl StoredSize {
    /// How many numbers the layers may have before the file is said not to fit them. A difference that is no larger is found tensor by
    /// tensor, and told by their names.
    fn most(self) -> usize {
        const SLACK: usize = 1 << 24;
        self.elements.saturating_mul(4).saturating_add(SLACK)
    }
}

/// Finds the shapes of the parameters of a module.
#[derive(Default)]
struct Shapes(HashMap<ParamId, ParamShape>);

impl ModuleVisitor for Shapes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let dims = param.lazy_shape().to_vec();
        self.0.insert(param.id, ParamShape { dims, integers: false });
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let dims = param.lazy_shape().to_vec();
        self.0.insert(param.id, ParamShape { dims, integers: true });
    }
}

/// What a parameter of a set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamShape {
    /// The sizes of its axes.
    pub dims: Vec<usize>,
    /// Whether its elements are integers, which are indices and never train.
    pub integers: bool,
}

/// Where a parameter of a set lives.
#[derive(Clone, Debug)]
pub struct ParamInfo<'a> {
    /// Name of the adapter.
    pub adapter: &'a str,
    /// Its method.
    pub method: &'a AnyMethod,
    /// The site; `None` for what the layers share.
    pub info: Option<&'a SiteInfo>,
    /// The method's name of the parameter.
    pub param: Cow<'static, str>,
    /// Burn's id of the parameter.
    pub id: ParamId,
    /// Whether it is stored and never trained.
    pub fixed: bool,
    /// How many things a parameter of integers points into: one number, or one for each of its rows.
    pub limits: Vec<usize>,
}

impl ParamInfo<'_> {
    /// The key of the parameter in a storage format, for an adapter of `host` stored as `name`.
    pub fn key(&self, format: Format, name: &str, host: &dyn Host) -> String {
        let [own, _] = self.keys(format, name, host);
        own
    }

    /// The keys a file may have for it: that of the model's own class, and that of a class around or inside it.
    pub fn keys(&self, format: Format, name: &str, host: &dyn Host) -> [String; 2] {
        let prefix = host.base_prefix();
        let (key, at_a_path) = match self.info {
            Some(info) => {
                let key = self.method.key(format, info, name, &self.param);
                let at_a_path = key.starts_with(&info.path);
                (key, at_a_path)
            }
            None => (self.method.shared_key(format, name, &self.param), false),
        };
        if self.info.is_none() && format == Format::Peft {
            return [key.clone(), key];
        }
        let [own, other] = match (host.is_larger_class(), at_a_path) {
            (false, _) => [key.clone(), format!("{prefix}{key}")],
            // What is at no site's path lives in the model inside.
            (true, false) => [format!("{prefix}{key}"), key],
            (true, true) => [key.clone(), key.strip_prefix(prefix).unwrap_or(&key).to_owned()],
        };
        let of_format = match self.info {
            Some(_) => format.key_prefix(),
            None => "",
        };
        [own, other].map(|key| format!("{of_format}{key}"))
    }

    /// Its shape in a storage format, from its own.
    pub fn stored_shape(&self, format: Format, shape: Vec<usize>) -> Vec<usize> {
        match self.info {
            Some(info) => self.method.stored_shape(format, info, &self.param, shape),
            None => shape,
        }
    }

    /// Path of the module it belongs to in the published checkpoint, or `shared`.
    pub fn path(&self) -> &str {
        self.info.map_or("shared", |info| &info.path)
    }
}
