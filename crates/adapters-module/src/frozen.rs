//! A frozen base model inside a module.

use std::ops::Deref;
use std::sync::Arc;

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

/// A base model carried along inside a module without being part of it: moved and forked with the rest, never
/// visited or mapped. Records, optimizers and parameter counts see nothing of it.
///
/// Shared by reference: cloning copies no weight.
#[derive(Debug)]
pub struct Frozen<M>(Arc<M>);

impl<M> Frozen<M> {
    /// Freezes `model`. Its tensors should live on a plain device, where nothing can ask for their gradient.
    pub fn new(model: M) -> Self {
        Self(Arc::new(model))
    }

    /// The model, to be changed: this one alone if others share it.
    pub fn make_mut(&mut self) -> &mut M
    where
        M: Clone,
    {
        Arc::make_mut(&mut self.0)
    }
}

impl<M> Clone for Frozen<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Deref for Frozen<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M: Module + Sync> Module for Frozen<M> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn to_device(self, device: &Device) -> Self {
        // A frozen base stays off autodiff wherever its adapters go.
        let device = device.clone().inner();
        if self.0.devices().iter().all(|d| *d == device) {
            return self;
        }
        Self::new(Arc::unwrap_or_clone(self.0).to_device(&device))
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, _visitor: &mut V) {}

    fn map<Mapper: ModuleMapper>(self, _mapper: &mut Mapper) -> Self {
        self
    }
}

impl<M> ModuleDisplayDefault for Frozen<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&"frozen").optional()
    }
}

impl<M> ModuleDisplay for Frozen<M> {}
