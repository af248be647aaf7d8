//! A base model with its adapters: what a program holds.

use adapters_core::{AdapterSet, AttachReport, Composition, Ctx, Error, Forward, Host, IntoMethod, StartsFromInputs};
use adapters_module::Frozen;
use adapters_nn::Precision;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::gradient_sums::GradientSums;
use crate::merge::{MergeReport, merge};
use crate::quantize::{QuantizeReport, quantize};

/// How an adapter is attached.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// Seed of its initial values.
    pub seed: u64,
    /// Where its parameters are made; without one, where the base is.
    pub device: Option<Device>,
}

/// A base model with its adapters.
///
/// As a Burn [`Module`] it is its adapters: optimizers, records and parameter counts see nothing of the base, which is frozen
/// and shared by reference with every clone. [`Module::train`] moves the adapters to the autodiff device, and
/// [`Module::valid`] takes them from it.
#[derive(Module, Debug)]
pub struct Adapted<M: Module + Sync> {
    base: Frozen<M>,
    /// The adapters.
    pub set: AdapterSet,
    /// What was merged.
    merged: Option<Unmerged<M>>,
}

/// The base before an adapter was merged into it.
#[derive(Module, Debug)]
struct Unmerged<M: Module + Sync> {
    base: Frozen<M>,
    #[module(skip)]
    adapter: String,
}

impl<M: Module + Sync> Adapted<M> {
    /// A base without adapters yet.
    pub fn new(base: M) -> Self {
        Self::with_set(Frozen::new(base), AdapterSet::new())
    }

    /// A base that others may share, with the adapters of a set.
    pub fn with_set(base: Frozen<M>, set: AdapterSet) -> Self {
        Self {
            base,
            set,
            merged: None,
        }
    }

    /// The base model.
    pub fn base(&self) -> &M {
        &self.base
    }

    /// The base model and its adapters, for what reads the one and changes the other.
    pub fn base_and_set_mut(&mut self) -> (&M, &mut AdapterSet) {
        (&self.base, &mut self.set)
    }

    /// A model without adapters that shares this base.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        Self::with_set(self.base.clone(), AdapterSet::new())
    }

    /// Activates a composition: the name of an adapter, or several in blocks. Copies no weight.
    ///
    /// # Errors
    ///
    /// As [`AdapterSet::composition`], and [`Error::AlreadyMerged`] for an adapter that is merged into the base; what was
    /// active then stays so.
    pub fn activate(&mut self, composition: impl Into<Composition>) -> Result<(), Error> {
        let composition = composition.into();
        self.check_unmerged(composition.adapters())?;
        self.set.activate(composition)
    }

    /// Leaves the base model alone.
    pub fn deactivate(&mut self) {
        self.set.deactivate();
    }

    /// Puts the base back that an adapter was merged into, bit for bit, and returns the name of the adapter; `None` if none
    /// was merged. The adapter is attached and not active.
    pub fn reset(&mut self) -> Option<String> {
        let Unmerged { base, adapter } = self.merged.take()?;
        self.base = base;
        Some(adapter)
    }

    /// Refuses the adapter that is merged.
    fn check_unmerged<'a>(&self, mut adapters: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        match &self.merged {
            Some(merged) if adapters.any(|adapter| adapter == merged.adapter) => Err(Error::AlreadyMerged {
                adapter: merged.adapter.clone(),
                merged: merged.adapter.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl<M: Host + Module + Sync> Adapted<M> {
    /// Attaches a new adapter, trainable and not active, where the base is and with seed 0.
    ///
    /// # Errors
    ///
    /// As [`attach_with`](Self::attach_with).
    pub fn attach(&mut self, name: &str, method: impl IntoMethod) -> Result<AttachReport, Error> {
        self.attach_with(name, method, &AttachOptions::default())
    }

    /// Attaches a new adapter, trainable and not active.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a field outside its range, [`Error::NameTaken`], [`Error::NoTarget`] if one of its targets
    /// matches nothing.
    pub fn attach_with(
        &mut self,
        name: &str,
        method: impl IntoMethod,
        options: &AttachOptions,
    ) -> Result<AttachReport, Error> {
        let device = options.device.clone().unwrap_or_else(|| self.device());
        let method = method.into_method()?;
        self.set.attach(name, method, &*self.base, options.seed, &device)
    }

    /// Attaches a new adapter as [`attach_with`](Self::attach_with), with initial values that follow from what its layers read of
    /// `inputs` in the base alone, where its method has such (LoRA's `eva` and `corda`). Others read nothing.
    ///
    /// # Errors
    ///
    /// As [`attach_with`](Self::attach_with), those of the base's forward pass, and [`Error::CannotBuild`] for a layer that no input
    /// has reached.
    pub fn attach_from_inputs<I: Into<M::Input>>(
        &mut self,
        name: &str,
        method: impl IntoMethod,
        inputs: impl IntoIterator<Item = I>,
        options: &AttachOptions,
    ) -> Result<AttachReport, Error>
    where
        M: Forward,
    {
        let method = method.into_method()?;
        let start = method.capabilities().from_inputs;
        let Some(start) = start.filter(|start| !start.reads_gradients()) else {
            return self.attach_with(name, method, options);
        };
        let recording = self.recording(name, start)?;
        for input in inputs {
            recording.forward(input)?;
        }
        let started = start.started(recording.set.attached(name)?, recording.base())?;
        self.attach_with(name, started, options)
    }

    /// Attaches a new adapter as [`attach_with`](Self::attach_with), with initial values that follow from the gradients of the base's
    /// weights, where its method has such (LoRA's `lora_ga`). `loss` makes the loss of a batch with the model it is given, which
    /// computes what the base alone does. Others read nothing.
    ///
    /// # Errors
    ///
    /// As [`attach_with`](Self::attach_with), those of `loss`, and [`Error::CannotBuild`] for a layer that no batch has reached.
    pub fn attach_from_gradients<T, E: From<Error>>(
        &mut self,
        name: &str,
        method: impl IntoMethod,
        batches: impl IntoIterator<Item = T>,
        mut loss: impl FnMut(&Self, T) -> Result<Tensor<1>, E>,
        options: &AttachOptions,
    ) -> Result<AttachReport, E> {
        let method = method.into_method()?;
        let start = method.capabilities().from_inputs;
        let Some(start) = start.filter(|start| start.reads_gradients()) else {
            return Ok(self.attach_with(name, method, options)?);
        };
        let mut recording = self.recording(name, start)?;
        recording.set = recording.set.train();
        let mut sums = GradientSums::default();
        for batch in batches {
            sums.add(&recording.set, &loss(&recording, batch)?.backward());
        }
        let set = sums.in_place_of_parameters(recording.set.valid());
        let started = start.started(set.attached(name)?, self.base())?;
        Ok(self.attach_with(name, started, options)?)
    }

    /// The base with the recorder of a start for its only adapter.
    fn recording(&self, name: &str, start: &dyn StartsFromInputs) -> Result<Self, Error> {
        let mut recording = self.without_adapters();
        recording.attach(name, start.recorder()?)?;
        recording.activate(name)?;
        Ok(recording)
    }

    /// Merges an adapter into the base of this model: it then computes without adapters what it computed with that one
    /// active. Others that share the base keep theirs. A composition with the adapter is deactivated, and
    /// [`reset`](Self::reset) takes the adapter out again.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchAdapter`], [`Error::AlreadyMerged`], and [`Error::NotMergeable`] with the site where the method refuses.
    /// The model is unchanged on error.
    pub fn merge(&mut self, name: &str) -> Result<MergeReport, Error> {
        if let Some(merged) = &self.merged {
            return Err(Error::AlreadyMerged {
                adapter: name.to_owned(),
                merged: merged.adapter.clone(),
            });
        }
        let mut base = self.base.clone();
        let report = merge(base.make_mut(), &self.set, name)?.report;
        self.merged = Some(Unmerged {
            base: std::mem::replace(&mut self.base, base),
            adapter: name.to_owned(),
        });
        if self
            .set
            .active()
            .is_some_and(|active| active.adapters().any(|adapter| adapter == name))
        {
            self.deactivate();
        }
        Ok(report)
    }

    /// Holds the weights of the base in fewer bits, as [`quantize`] does. Others that share the base keep theirs.
    pub fn quantize(&mut self, precision: Precision) -> QuantizeReport {
        quantize(self.base.make_mut(), precision)
    }

    /// Where the base is.
    pub fn device(&self) -> Device {
        self.base.devices().into_iter().next().unwrap_or_default()
    }
}

impl<M: Forward + Module + Sync> Adapted<M> {
    /// The forward pass with the active adapters, without dropout.
    ///
    /// # Errors
    ///
    /// As [`Forward::forward`].
    ///
    /// # Panics
    ///
    /// As the model's.
    pub fn forward(&self, input: impl Into<M::Input>) -> Result<M::Output, Error> {
        self.base.forward(input.into(), &mut Ctx::new(&self.set))
    }

    /// The forward pass of training, with dropout masks drawn from `seed`. Give every pass another.
    ///
    /// # Errors
    ///
    /// As [`Forward::forward`].
    ///
    /// # Panics
    ///
    /// As the model's.
    pub fn training_forward(&self, input: impl Into<M::Input>, seed: u64) -> Result<M::Output, Error> {
        self.base.forward(input.into(), &mut Ctx::new(&self.set).training(seed))
    }

    /// The forward pass with another composition than the active one, for this call alone.
    ///
    /// # Errors
    ///
    /// As [`activate`](Self::activate) and [`Forward::forward`].
    ///
    /// # Panics
    ///
    /// As the model's.
    pub fn forward_as(
        &self,
        composition: impl Into<Composition>,
        input: impl Into<M::Input>,
    ) -> Result<M::Output, Error> {
        let composition = composition.into();
        self.check_unmerged(composition.adapters())?;
        let active = self.set.composition(composition)?;
        let mut cx = Ctx::with_composition(&self.set, &active)?;
        self.base.forward(input.into(), &mut cx)
    }
}
