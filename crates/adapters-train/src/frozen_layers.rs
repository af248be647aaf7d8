//! Hidden states below the first adapter, kept from one epoch to the next (`train.cache_frozen`).
//!
//! The layers below the lowest one with an adapter compute the same of an example in every epoch, as long as there is no dropout in
//! them. They run once over an example, and every later pass begins above them.

use adapters_adapted::Adapted;
use adapters_core::{Causality, Ctx, Error, Role, Site};
use adapters_models::{Flow, Input, Model, ModelKind};
use burn::tensor::{Device, Tensor};

use crate::batches::eval_batches;
use crate::error::TrainError;
use crate::recipe::{TrainSection, value};
use crate::tasks::TaskData;

const FIELD: &str = "train.cache_frozen";

/// What enters the lowest layer with an adapter, by example.
pub(crate) struct FrozenLayers {
    /// How many layers are below it.
    layers: usize,
    /// Examples of similar length, which run together. They are the same whatever the batches of training are, so that a resumed run
    /// computes the same numbers.
    groups: Vec<Vec<usize>>,
    /// The group of each example.
    group_of: Vec<usize>,
    /// What is known so far, `[1, seq of the group, d_model]`: the hidden state, and what goes along next to it.
    rows: Vec<Option<(Tensor<3>, Option<Tensor<3>>)>>,
}

impl FrozenLayers {
    /// Those of an adapted model, before a pass.
    ///
    /// # Errors
    ///
    /// [`TrainError::Value`] where nothing can be kept, with the reason.
    pub(crate) fn new(train: &TrainSection, data: &dyn TaskData, model: &Adapted<Model>) -> Result<Self, TrainError> {
        let refused = |expected: &str, found: String| Err(value(FIELD, expected, found));
        if train.base_dropout != Some(0.0) {
            let found = train
                .base_dropout
                .map_or_else(|| "as published".to_owned(), |dropout| dropout.to_string());
            return refused("a base without dropout, `train.base_dropout = 0.0`", found);
        }
        if train.gradient_checkpointing {
            return refused("`train.gradient_checkpointing = false`", "both of them true".to_owned());
        }
        if data.changes() {
            return refused(
                "a task whose texts stay as they are",
                "hidden tokens that are drawn again in each epoch".to_owned(),
            );
        }
        if matches!(
            model.base().kind(),
            ModelKind::EncoderDecoder | ModelKind::SpeechToText | ModelKind::TextAndImage
        ) {
            return refused(
                "a model of one stack of layers",
                format!("a model of the kind {:?}", model.base().kind()),
            );
        }
        if Ctx::new(&model.set).causality() == Causality::LooksAhead {
            return refused(
                "adapters that read each position alone",
                "one that reads the whole sequence".to_owned(),
            );
        }
        let Some(layers) = lowest(model).filter(|layers| *layers > 0) else {
            return refused(
                "an adapter whose first layers are left out, for example with `leave_out` or `layers_to_transform`",
                "one that acts in the first layer or on the embeddings".to_owned(),
            );
        };
        let groups = eval_batches(data.lengths(), train.eval_batch_size);
        let mut group_of = vec![0; data.lengths().len()];
        for (group, examples) in groups.iter().enumerate() {
            examples.iter().for_each(|example| group_of[*example] = group);
        }
        Ok(Self {
            layers,
            rows: vec![None; group_of.len()],
            groups,
            group_of,
        })
    }

    /// Runs the layers over the examples that have not been through them.
    ///
    /// # Errors
    ///
    /// Those of making a batch and of beginning a pass.
    pub(crate) fn fill(
        &mut self,
        examples: &[usize],
        data: &dyn TaskData,
        model: &Adapted<Model>,
        device: &Device,
    ) -> Result<(), TrainError> {
        for example in examples {
            if self.rows[*example].is_some() {
                continue;
            }
            let group = &self.groups[self.group_of[*example]];
            let batch = data.batch(group, 0, model.base(), device)?;
            let mut cx = Ctx::new(&model.set);
            let chain = model.base().chain(batch.input, &mut cx)?;
            let below = chain.steps.iter().take(self.layers);
            let flow = below.fold(chain.entered, |flow, layer| layer(flow, None, cx.hooks()));
            for (row, example) in group.iter().enumerate() {
                let of_row = |x: &Tensor<3>| x.clone().slice_dim(0, row..row + 1);
                self.rows[*example] = Some((of_row(&flow.hidden), flow.carried.as_ref().map(of_row)));
            }
        }
        Ok(())
    }

    /// The last hidden state of a batch of these examples, `[batch, seq, d_model]`, from what they have below. Positions of padding
    /// that were not computed are zero: nothing reads them.
    ///
    /// # Errors
    ///
    /// Those of beginning a pass.
    pub(crate) fn hidden_states(
        &self,
        base: &Model,
        input: Input,
        examples: &[usize],
        cx: &mut Ctx<'_>,
    ) -> Result<Tensor<3>, Error> {
        let chain = base.chain(input, cx)?;
        let seq = chain.entered.hidden.dims()[1];
        let rows: Option<Vec<_>> = examples.iter().map(|example| self.rows[*example].clone()).collect();
        let (skipped, entered) = match rows {
            Some(rows) => {
                let (hidden, carried): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
                let joined =
                    |rows: Vec<Tensor<3>>| Tensor::cat(rows.into_iter().map(|row| of_length(row, seq)).collect(), 0);
                let flow = Flow {
                    hidden: joined(hidden),
                    encoded: None,
                    carried: carried.into_iter().collect::<Option<Vec<_>>>().map(joined),
                };
                (self.layers, flow)
            }
            None => (0, chain.entered),
        };
        let above = chain.steps.iter().skip(skipped);
        Ok(above.fold(entered, |flow, layer| layer(flow, None, cx.hooks())).hidden)
    }
}

/// The lowest layer where something that is active acts: zero where it acts on the embeddings, and `None` if it acts in no layer.
fn lowest(model: &Adapted<Model>) -> Option<usize> {
    let set = &model.set;
    let active = set.active()?;
    let adapters = active.adapters().filter_map(|name| set.attached(name).ok());
    let layers = adapters.chain(set.fusions()).flat_map(|adapter| adapter.layers());
    layers.filter_map(|layer| above(&layer.info.site)).min()
}

/// The layer of a site; `None` behind the last one.
fn above(site: &Site) -> Option<usize> {
    let is_behind = matches!(
        site.role,
        Role::Pooler | Role::LmHeadInput | Role::FinalNorm | Role::LmHead
    );
    match site.layer {
        None if is_behind => None,
        layer => Some(layer.unwrap_or_default()),
    }
}

/// `[1, _, d_model]` to `[1, seq, d_model]`.
fn of_length(x: Tensor<3>, seq: usize) -> Tensor<3> {
    let [_, found, width] = x.dims();
    if found >= seq {
        return x.slice_dim(1, 0..seq);
    }
    let rest = Tensor::zeros([1, seq - found, width], &x.device());
    Tensor::cat(vec![x, rest], 1)
}
