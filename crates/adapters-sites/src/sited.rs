//! Layers that know their site: a model states each of them once.
//!
//! A field `query: Sited<Linear>` is built with its role and published path. From it follow the list of sites, access to the
//! weight for merging and quantizing, and the site at the hook. `#[derive(Sites)]` walks the fields of a struct in their
//! order, which is that of the forward pass.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Deref;

use adapters_nn::NormParameters;
use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::conv::{Conv1d, Conv2d};
use burn::nn::{Dropout, Embedding, LayerNorm, Linear, RmsNorm};
use burn::tensor::{Device, Tensor};

use crate::matrices::Matrices;
use crate::site::{
    EmbeddingRole, LinearRole, NormRole, ResidualRole, Role, Site, SiteInfo, SiteKind, Stack, TableRole,
};

/// Something that contains sites: a layer that knows its own, or a struct of such layers, for which `#[derive(Sites)]`
/// implements it.
pub trait Sites {
    /// Calls `visit` with every site and what is there, in the order of the forward pass.
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>));

    /// The same with access for merging, quantizing, and using a layer at several sites.
    fn visit_sites_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>));
}

/// What is at a site.
#[derive(Debug)]
pub enum LayerRef<'a> {
    /// A linear layer.
    Linear(&'a Linear),
    /// A normalization.
    Norm(&'a dyn NormParameters),
    /// An embedding table.
    Table(&'a Embedding),
    /// Matrices in one parameter.
    Matrices(&'a Matrices),
    /// No weights that can be replaced: a point between layers, or a convolution in groups.
    Point,
}

/// What is at a site, to be changed.
#[derive(Debug)]
pub enum LayerMut<'a> {
    /// A linear layer.
    Linear(&'a mut Linear),
    /// A normalization.
    Norm(&'a mut dyn NormParameters),
    /// An embedding table.
    Table(&'a mut Embedding),
    /// Matrices in one parameter.
    Matrices(&'a mut Matrices),
    /// No weights that can be replaced: a point between layers, or a convolution in groups.
    Point,
}

/// A layer of a stack, or what is outside the layers of it: embeddings, pooler, head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The stack.
    pub stack: Stack,
    /// Index of the layer; `None` outside the layers.
    pub layer: Option<usize>,
    /// Index of the expert; `None` outside those.
    pub expert: Option<usize>,
}

impl Location {
    /// In a layer.
    pub const fn layer(stack: Stack, layer: usize) -> Self {
        Self {
            stack,
            layer: Some(layer),
            expert: None,
        }
    }

    /// Outside the layers.
    pub const fn outside(stack: Stack) -> Self {
        Self {
            stack,
            layer: None,
            expert: None,
        }
    }

    /// In one of the experts of this layer.
    #[must_use]
    pub const fn expert(self, index: usize) -> Self {
        Self {
            expert: Some(index),
            ..self
        }
    }

    fn site(self, role: Role) -> Site {
        Site {
            stack: self.stack,
            layer: self.layer,
            role,
            expert: self.expert,
        }
    }
}

/// A layer with weights to which adapters attach.
pub trait Adaptable: Module {
    /// The roles a layer of this type can have.
    type Role: Into<Role>;

    /// The kind of its site.
    fn kind(&self) -> SiteKind;

    /// The layer as a site shows it.
    fn layer(&self) -> LayerRef<'_>;

    /// The layer as a site shows it, to be changed.
    fn layer_mut(&mut self) -> LayerMut<'_>;
}

impl Adaptable for Linear {
    type Role = LinearRole;

    fn kind(&self) -> SiteKind {
        let [d_in, d_out] = self.weight.lazy_shape().dims();
        SiteKind::Linear { d_in, d_out }
    }

    fn layer(&self) -> LayerRef<'_> {
        LayerRef::Linear(self)
    }

    fn layer_mut(&mut self) -> LayerMut<'_> {
        LayerMut::Linear(self)
    }
}

impl Adaptable for Embedding {
    type Role = TableRole;

    fn kind(&self) -> SiteKind {
        let [rows, d_model] = self.weight.lazy_shape().dims();
        SiteKind::Table {
            rows,
            d_model,
            padding: None,
        }
    }

    fn layer(&self) -> LayerRef<'_> {
        LayerRef::Table(self)
    }

    fn layer_mut(&mut self) -> LayerMut<'_> {
        LayerMut::Table(self)
    }
}

macro_rules! adaptable_norm {
    ($norm:ty) => {
        impl Adaptable for $norm {
            type Role = NormRole;

            fn kind(&self) -> SiteKind {
                let [d_model] = self.gamma.lazy_shape().dims();
                SiteKind::Norm { d_model }
            }

            fn layer(&self) -> LayerRef<'_> {
                LayerRef::Norm(self)
            }

            fn layer_mut(&mut self) -> LayerMut<'_> {
                LayerMut::Norm(self)
            }
        }
    };
}

adaptable_norm!(LayerNorm);
adaptable_norm!(RmsNorm);

/// A layer that knows its site. As a [`Module`] it is the layer: the paths of its parameters are those of the layer.
#[derive(Clone, Debug)]
pub struct Sited<L> {
    layer: L,
    info: SiteInfo,
}

impl<L: Adaptable> Sited<L> {
    /// `layer` at `location` in this role; `path` is that of the module in the published checkpoint. Its sizes are those of
    /// the layer.
    pub fn new(location: Location, role: L::Role, path: impl Into<String>, layer: L) -> Self {
        let info = SiteInfo::new(location.site(role.into()), layer.kind(), path);
        Self { layer, info }
    }
}

impl<L> Sited<L> {
    /// `layer` at a site as a model lists it.
    pub fn at(info: SiteInfo, layer: L) -> Self {
        Self { layer, info }
    }
}

impl Sited<Linear> {
    /// The same layer, which is a convolution: the published weight is `[d_out, channels, sizes..]`, and its input is patches
    /// in the order of `[channels, sizes..]`.
    #[must_use]
    pub fn with_kernel(mut self, kernel: Vec<usize>) -> Self {
        self.info.kernel = kernel;
        self
    }

    /// The same layer, whose published weight is `[d_in, d_out]`.
    #[must_use]
    pub fn stored_input_first(mut self) -> Self {
        self.info.input_first = true;
        self
    }

    /// The same fused projection, whose projections lie head by head in its output.
    #[must_use]
    pub fn interleaved(mut self, heads: usize) -> Self {
        self.info.interleaved = Some(heads);
        self
    }

    /// A language-model head at `location` whose weight is that of `table`, not a copy of it. As a [`Module`] it has no
    /// parameters: the weight is the table's. A table that is replaced, as by merging, leaves the head its weight.
    pub fn tied(
        location: Location,
        path: impl Into<String>,
        table: &Sited<Embedding>,
        bias: Option<Param<Tensor<1>>>,
    ) -> Self {
        let of = table.weight.clone();
        let [rows, d_model] = of.lazy_shape().dims();
        // The table may be one that is read when it is first needed.
        let weight = Param::uninitialized(
            ParamId::new(),
            move |device, _| of.val().transpose().to_device(device),
            table.weight.lazy_device(),
            false,
            [d_model, rows].into(),
        );
        let mut head = Self::new(location, LinearRole::LmHead, path, Linear { weight, bias });
        head.info.weight_of = Some(table.site());
        head.info.tied_to = Some(table.site());
        head
    }
}

impl Sited<Embedding> {
    /// The same table, whose row `row` is that of the padding token and never trains.
    #[must_use]
    pub fn with_padding(mut self, row: Option<usize>) -> Self {
        if let SiteKind::Table { padding, .. } = &mut self.info.kind {
            *padding = row;
        }
        self
    }

    /// The table as the module at `path` reads it: the same weight, not a copy of it. As a [`Module`] it has no parameters. What
    /// adapts the table acts here, too, if `is_tied`.
    pub fn read_at(&self, location: Location, path: impl Into<String>, is_tied: bool) -> Self {
        let layer = Embedding {
            weight: self.weight.clone(),
        };
        let mut table = Self::new(location, TableRole::TokenEmbedding, path, layer);
        table.info.kind = self.info.kind;
        table.info.weight_of = Some(self.site());
        table.info.tied_to = table.info.weight_of.filter(|_| is_tied);
        table
    }
}

impl<L> Sited<L> {
    /// The site.
    pub fn site(&self) -> Site {
        self.info.site
    }

    /// The site as the model lists it.
    pub fn info(&self) -> &SiteInfo {
        &self.info
    }
}

impl<L> Deref for Sited<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.layer
    }
}

impl<L: Adaptable> Sites for Sited<L> {
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {
        visit(&self.info, self.layer.layer());
    }

    fn visit_sites_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {
        visit(&mut self.info, self.layer.layer_mut());
    }
}

impl<L: Module> Module for Sited<L> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.layer.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.with(|layer| layer.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.with(|layer| layer.to_device(device))
    }

    fn train(self) -> Self {
        self.with(Module::train)
    }

    fn valid(&self) -> Self {
        Self {
            layer: self.layer.valid(),
            info: self.info.clone(),
        }
    }

    fn materialize(self) -> Self {
        self.with(Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if self.info.weight_of.is_none() {
            self.layer.visit(visitor);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self.info.weight_of {
            Some(_) => self,
            None => self.with(|layer| layer.map(mapper)),
        }
    }
}

impl<L> Sited<L> {
    fn with(self, change: impl FnOnce(L) -> L) -> Self {
        Self {
            layer: change(self.layer),
            info: self.info,
        }
    }
}

impl<L: ModuleDisplay> ModuleDisplayDefault for Sited<L> {
    fn content(&self, content: Content) -> Option<Content> {
        self.layer.content(content)
    }
}

impl<L: ModuleDisplay> ModuleDisplay for Sited<L> {}

/// A point between layers where adapters act, without weights of its own. `K` names the hook that is called there.
#[derive(Module, Debug)]
pub struct Point<K: Clone + Debug + Send> {
    #[module(skip)]
    info: SiteInfo,
    #[module(skip)]
    hook: PhantomData<K>,
}

/// The hook of keys and values.
#[derive(Clone, Debug)]
pub enum KeyValueHook {}
/// The hook where a block joins the residual stream.
#[derive(Clone, Debug)]
pub enum ResidualHook {}
/// The hook of embedded tokens.
#[derive(Clone, Debug)]
pub enum EmbeddingHook {}
/// The hook of hidden states that enter or leave a layer, or enter the language-model head.
#[derive(Clone, Debug)]
pub enum OutputHook {}

impl<K: Clone + Debug + Send> Point<K> {
    fn new(location: Location, role: impl Into<Role>, kind: SiteKind, path: impl Into<String>) -> Self {
        Self {
            info: SiteInfo::new(location.site(role.into()), kind, path),
            hook: PhantomData,
        }
    }

    /// The site.
    pub fn site(&self) -> Site {
        self.info.site
    }

    /// The site as the model lists it.
    pub fn info(&self) -> &SiteInfo {
        &self.info
    }
}

impl Point<KeyValueHook> {
    /// Keys and values of an attention: `heads` heads of `d_head` features.
    pub fn key_value(location: Location, path: impl Into<String>, heads: usize, d_head: usize) -> Self {
        Self::new(location, Role::KeyValue, SiteKind::KeyValue { heads, d_head }, path)
    }
}

impl Point<ResidualHook> {
    /// Where a block joins the residual stream.
    pub fn residual(location: Location, role: ResidualRole, path: impl Into<String>, d_model: usize) -> Self {
        Self::new(location, role, SiteKind::Hidden { d_model }, path)
    }
}

impl Point<EmbeddingHook> {
    /// Embedded tokens.
    pub fn embedding(location: Location, role: EmbeddingRole, path: impl Into<String>, d_model: usize) -> Self {
        Self::new(location, role, SiteKind::Embedding { d_model }, path)
    }
}

impl Point<OutputHook> {
    /// The hidden state that enters a whole layer.
    pub fn layer_input(location: Location, path: impl Into<String>, d_model: usize) -> Self {
        Self::new(location, Role::LayerInput, SiteKind::LayerInput { d_model }, path)
    }

    /// The hidden state a whole layer returns.
    pub fn layer_output(location: Location, path: impl Into<String>, d_model: usize) -> Self {
        Self::new(location, Role::LayerOutput, SiteKind::LayerOutput { d_model }, path)
    }

    /// The hidden state that enters the language-model head.
    pub fn head_input(location: Location, path: impl Into<String>, d_model: usize) -> Self {
        Self::new(location, Role::LmHeadInput, SiteKind::LmHeadInput { d_model }, path)
    }
}

impl<K: Clone + Debug + Send> Sites for Point<K> {
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {
        visit(&self.info, LayerRef::Point);
    }

    fn visit_sites_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {
        visit(&mut self.info, LayerMut::Point);
    }
}

impl<T: Sites> Sites for Option<T> {
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {
        self.iter().for_each(|inner| inner.visit_sites(visit));
    }

    fn visit_sites_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {
        self.iter_mut().for_each(|inner| inner.visit_sites_mut(visit));
    }
}

impl<T: Sites> Sites for Vec<T> {
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {
        self.iter().for_each(|inner| inner.visit_sites(visit));
    }

    fn visit_sites_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {
        self.iter_mut().for_each(|inner| inner.visit_sites_mut(visit));
    }
}

/// Types a model may have as fields that have no site: numbers, and layers to which nothing attaches.
macro_rules! no_sites {
    ($($type:ty),* $(,)?) => {
        $(impl Sites for $type {
            fn visit_sites<'a>(&'a self, _: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {}

            fn visit_sites_mut<'a>(&'a mut self, _: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {}
        })*
    };
}

no_sites!(
    bool, usize, f32, f64, String, Linear, Embedding, LayerNorm, RmsNorm, Conv1d, Conv2d, Dropout
);

impl<const D: usize> Sites for Param<Tensor<D>> {
    fn visit_sites<'a>(&'a self, _: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {}

    fn visit_sites_mut<'a>(&'a mut self, _: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {}
}
