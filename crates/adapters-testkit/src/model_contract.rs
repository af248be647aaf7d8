//! What every architecture promises, checked on a checkpoint with random weights.
//!
//! The checkpoint is found out from the loader: it lists what it misses and which shapes it expects. An architecture therefore
//! needs a tiny configuration and nothing else to be checked, one that a program registers itself included.

mod checkpoint;
mod packing;
mod quantized;

use std::collections::BTreeSet;
use std::path::Path;

use adapters::core::{Attached, Role, SiteInfo, Tensors};
use adapters::merge;
use adapters::models::{
    Architectures, ImageInput, Input, KeyValueCache, Model, ModelKind, Pretrained, TextInput, ToTextInput,
    save_checkpoint,
};
use adapters::nn::draw;
use adapters::train::LossGradients;
use adapters::{AdapterSet, Composition, Ctx, Error, Host, method};
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;

pub use self::checkpoint::random_checkpoint;
pub(crate) use self::checkpoint::write_and_load;
use crate::contract::{gradients_of, randomized, relative_error};
use crate::model_inputs::{ids, of_tokens, one_row, two_rows};

/// Why a pass of the contract begins.
const FITS: &str = "the input and the adapters fit the model";

/// An architecture and a tiny configuration of it: a vocabulary of 20 tokens or more, of which 0 is the padding, or images
/// of any size.
#[derive(Clone, Debug)]
pub struct ModelCase {
    /// `config.json`, with `model_type`.
    pub config: Value,
    /// Keys that a checkpoint may have, and has here.
    pub optional_keys: &'static [&'static str],
    /// The architectures, that of the case among them.
    pub architectures: Architectures,
}

/// Runs every check.
///
/// # Panics
///
/// Panics where a promise is broken, naming it and the architecture.
pub fn all(case: &ModelCase) {
    let bench = ModelBench::new(case);
    bench.prefix_makes_no_difference();
    bench.every_tensor_matters();
    bench.every_site_is_hooked();
    bench.batch_equals_rows();
    bench.packed_equals_alone();
    bench.cached_equals_whole();
    bench.recomputed_equals_plain();
    bench.merged_equals_adapted();
    bench.quantized_equals_restored();
}

/// Acts on every linear layer but the head.
const ALL_LINEAR: &str = "lora[r=2,alpha=5,target_modules=all-linear]";

/// A loaded checkpoint of random tensors.
struct ModelBench<'a> {
    case: &'a ModelCase,
    dir: tempfile::TempDir,
    tensors: Tensors,
    model: Model,
    device: Device,
}

impl<'a> ModelBench<'a> {
    fn new(case: &'a ModelCase) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let device = Device::flex();
        let (model, tensors) = random_checkpoint(case, dir.path(), &device);
        Self {
            case,
            dir,
            tensors,
            model,
            device,
        }
    }

    fn name(&self) -> &str {
        self.model.architecture()
    }

    /// Two rows of what the model reads; see [`two_rows`].
    fn padded(&self) -> Input {
        two_rows(&self.model, &self.case.config, &self.device)
    }

    fn input(&self, tokens: Tensor<2, Int>, padding: Option<Tensor<2, Bool>>) -> Input {
        of_tokens(&self.model, tokens, padding)
    }

    fn plain(&self, model: &Model) -> Vec<TensorData> {
        let outputs = outputs(model, self.padded(), &mut Ctx::plain());
        outputs.into_iter().map(Tensor::into_data).collect()
    }

    fn attached(&self, configs: &[&str]) -> Option<AdapterSet> {
        let mut set = AdapterSet::new();
        for (name, config) in ["a", "b"].into_iter().zip(configs) {
            let config = method(config).unwrap_or_else(|e| panic!("{config}: {e}"));
            // Not every architecture has the sites of every method.
            set.attach(name, config, &self.model, 1, &self.device).ok()?;
        }
        let names: Vec<&str> = set.iter().map(Attached::name).collect();
        let composition = Composition::stack(names);
        set.activate(composition).unwrap_or_else(|e| panic!("{configs:?}: {e}"));
        Some(randomized(set, 3))
    }

    /// A checkpoint of a larger class has a prefix on the keys of the model inside.
    fn prefix_makes_no_difference(&self) {
        let prefix = self.model.base_prefix();
        let prefixed = self.tensors.iter().map(|(key, data)| {
            let own = key.starts_with("lm_head") || key == "final_logits_bias";
            let key = if own { key.clone() } else { format!("{prefix}{key}") };
            (key, data.clone())
        });
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let model = write_and_load(self.case, dir.path(), &prefixed.collect(), &self.device)
            .unwrap_or_else(|e| panic!("{}: {e}", self.name()));
        assert_eq!(self.plain(&model), self.plain(&self.model), "{}: prefix", self.name());
    }

    /// A tensor nothing reads is refused, and a tensor that is read changes the output.
    fn every_tensor_matters(&self) {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let load = |tensors: &Tensors| write_and_load(self.case, dir.path(), tensors, &self.device);
        let mut tensors = self.tensors.clone();
        tensors.insert("nobody.reads.this".to_owned(), TensorData::from([1.0f32]));
        let refused = load(&tensors)
            .expect_err("a tensor that nothing reads is refused")
            .to_string();
        assert!(refused.contains("`nobody.reads.this` is not expected"), "{refused}");
        // The bias of keys raises all scores of a query alike: only keys without it, those of a prefix, tell.
        let prefix = self.attached(&["prefix_tuning[prefix_length=2]"]).unwrap_or_default();
        let run = |model: &Model| everything(model, self.padded(), &mut Ctx::new(&prefix)).into_data();
        let before = run(&self.model);
        for (index, key) in self.tensors.keys().enumerate() {
            let mut tensors = self.tensors.clone();
            let changed = tensors.get_mut(key).expect("the key is one of its own");
            let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
            let numbers = draw::normal(&mut rng, [changed.num_elements()], 0.5);
            *changed = TensorData::new(numbers.iter::<f32>().collect(), changed.shape());
            let model = load(&tensors).unwrap_or_else(|e| panic!("{key}: {e}"));
            assert_ne!(run(&model), before, "{}: `{key}` changes nothing", self.name());
        }
    }

    /// Every listed site has a hook: what adapters have there gets a gradient. Sites are listed once each.
    fn every_site_is_hooked(&self) {
        let sites = self.model.sites();
        let listed: BTreeSet<_> = sites.iter().map(|info| info.site).collect();
        assert_eq!(listed.len(), sites.len(), "{}: a site is listed twice", self.name());
        let mut hooked = BTreeSet::new();
        let of_heads = [Role::LmHead, Role::HeadTransform];
        let heads = sites.iter().filter(|info| of_heads.contains(&info.site.role));
        let heads = heads.map(|info| format!("lora[r=2,alpha=5,target_modules=[{}]]", info.path));
        let bare = sites.iter().filter_map(|info| info.parameter.as_ref());
        let bare = bare.map(|parameter| format!("lora[r=2,alpha=5,target_parameters=[{}]]", parameter.name));
        let named: Vec<String> = heads.chain(bare).collect();
        let configs = [
            ALL_LINEAR,
            "lora[r=2,alpha=5,target_modules=[projection]]",
            "lora[r=2,alpha=5,target_modules=[patch_embedding]]",
            "lora[r=2,alpha=5,target_modules=[conv1,conv2]]",
            "lora[r=2,alpha=5,target_modules=[conv]]",
            "ln_tuning",
            "trainable_tokens[token_indices=[3,4,5]]",
            "trainable_tokens[token_indices=[3,4,5],target_modules=[embed_tokens]]",
            "seq_bn",
            "double_seq_bn",
            "double_seq_bn[cross_adapter=true]",
            "seq_bn_inv",
            "prefix_tuning[prefix_length=3]",
            "prefix_tuning[prefix_length=3,encoder_prefix=true,cross_prefix=true]",
            "prompt_tuning[prompt_length=2]",
            "peft_prompt_tuning[num_virtual_tokens=2]",
            "loreft[r=2]",
            "shadow[r=2,shadow_dropout=0]",
        ];
        for config in configs.into_iter().chain(named.iter().map(String::as_str)) {
            let Some(set) = self.attached(&[config]) else { continue };
            let set = set.train();
            let loss = everything(&self.model, self.padded(), &mut Ctx::new(&set));
            let gradients = gradients_of(&set, &loss.backward());
            let moved = |data: &TensorData| data.iter::<f32>().any(|x| x != 0.0);
            for param in set.params() {
                let Some(info) = param.info else { continue };
                if gradients[&param.id].as_ref().is_some_and(moved) {
                    hooked.insert(info.site);
                }
            }
            // What layers share has no site of its own: the layers do.
            if set.params().all(|param| param.info.is_none()) {
                hooked.extend(set.iter().flat_map(Attached::layers).map(|layer| layer.info.site));
            }
        }
        // The hook in front of the head is that of hidden states: no method of this library is there alone. A table that is read under
        // other names acts through what is tied to it.
        let acts = |info: &SiteInfo| match info.site.role {
            Role::LmHeadInput => false,
            Role::SharedTable => sites.iter().any(|other| other.tied_to == Some(info.site)),
            _ => true,
        };
        let missed: Vec<&SiteInfo> = sites
            .iter()
            .filter(|info| acts(info) && !hooked.contains(&info.site))
            .collect();
        assert!(missed.is_empty(), "{}: no hook at {missed:#?}", self.name());
    }

    /// A batch computes what its rows compute alone, padded on the right and, where a model continues texts, on the left.
    fn batch_equals_rows(&self) {
        if let Input::Image(ImageInput { pixels }) = self.padded() {
            return self.images_equal_rows(pixels);
        }
        let several = [ModelKind::Encoder, ModelKind::CausalLm, ModelKind::EncoderDecoder];
        if !several.contains(&self.model.kind()) {
            return self.whole_rows_equal(self.padded());
        }
        let long = ids([[5, 9, 3, 14, 7]; 2]).slice_dim(0, 0..1);
        let short = ids([[8, 2, 11]; 2]).slice_dim(0, 0..1);
        let run = |input: Input| self.model.forward(input, &mut Ctx::plain()).expect(FITS);
        let alone = [run(self.input(long.clone(), None)), run(self.input(short, None))];
        let mut sides = vec![(ids([[5, 9, 3, 14, 7], [8, 2, 11, 0, 0]]), 0..3)];
        // Padding in front has positions, which GPT-2 adds to its embeddings, but where a text is generated.
        if self.model.kind() == ModelKind::CausalLm && self.model.architecture() != "gpt2" {
            sides.push((ids([[5, 9, 3, 14, 7], [0, 0, 8, 2, 11]]), 2..5));
        }
        for (tokens, of_text) in sides {
            let batch = run(self.input(tokens.clone(), Some(tokens.equal_elem(0))));
            let two_stacks = self.model.kind() == ModelKind::EncoderDecoder;
            for (row, alone) in alone.iter().enumerate() {
                let mut got = batch.clone().slice_dim(0, row..row + 1);
                let mut want = alone.clone();
                match (two_stacks, row) {
                    // The decoder's second row begins with other ids than alone.
                    (true, 1) => {
                        let input = ids([[8, 2, 11]; 2]);
                        want = run(self.input(input, None)).slice_dim(0, 1..2);
                    }
                    (false, 1) => got = got.slice_dim(1, of_text.clone()),
                    _ => {}
                }
                let error = relative_error(&got.into_data(), &want.into_data());
                assert!(
                    error < 1e-5,
                    "{}: row {row} is off by {error:e} in a batch",
                    self.name()
                );
            }
        }
    }

    /// The same for rows of one length.
    fn whole_rows_equal(&self, input: Input) {
        let run = |input: Input| self.model.forward(input, &mut Ctx::plain()).expect(FITS);
        let batch = run(input.clone());
        for row in 0..2 {
            let rows = row..row + 1;
            let alone = one_row(input.clone(), rows.clone());
            let mut got = batch.clone().slice_dim(0, rows.clone());
            if self.model.kind() == ModelKind::TextAndImage {
                got = got.slice_dim(1, rows);
            }
            let error = relative_error(&got.into_data(), &run(alone).into_data());
            assert!(
                error < 1e-5,
                "{}: row {row} is off by {error:e} in a batch",
                self.name()
            );
        }
    }

    /// The same for images; one of another size is refused, or has more patches.
    fn images_equal_rows(&self, pixels: Tensor<4>) {
        let run = |pixels: Tensor<4>| self.model.forward(ImageInput { pixels }, &mut Ctx::plain());
        let of = |pixels: Tensor<4>| run(pixels).unwrap_or_else(|e| panic!("{}: {e}", self.name()));
        let batch = of(pixels.clone());
        for row in 0..2 {
            let alone = of(pixels.clone().slice_dim(0, row..row + 1)).into_data();
            let error = relative_error(&batch.clone().slice_dim(0, row..row + 1).into_data(), &alone);
            assert!(
                error < 1e-5,
                "{}: image {row} is off by {error:e} in a batch",
                self.name()
            );
        }
        let larger = Tensor::cat(vec![pixels.clone(), pixels], 3);
        // A model that interpolates its positions reads it.
        match run(larger) {
            Err(Error::ImageSize { .. }) => {}
            Ok(hidden) => assert!(hidden.dims()[1] > batch.dims()[1], "{}: a larger image", self.name()),
            Err(error) => panic!("{}: {error}", self.name()),
        }
    }

    /// A decoder that keeps keys and values continues where it stopped.
    fn cached_equals_whole(&self) {
        for configs in [
            &[
                "lora[r=2,alpha=5,attn_matrices=[q,k,v],output_lora=true]",
                "double_seq_bn",
            ][..],
            &["loreft[r=2]"],
        ] {
            let set = self.attached(configs).unwrap_or_default();
            let (steps, whole) = match (self.model.causal_lm(), self.model.encoder_decoder()) {
                (Ok(lm), _) => {
                    let tokens = ids([[0, 5, 9, 3, 14], [8, 2, 11, 6, 1]]);
                    let columns = |from: usize, to: usize| TextInput {
                        padding: Some(tokens.clone().equal_elem(0).slice_dim(1, from..to)),
                        ..TextInput::new(tokens.clone().slice_dim(1, from..to))
                    };
                    let whole = lm.forward(columns(0, 5), &mut Ctx::new(&set)).expect(FITS);
                    let mut cache = KeyValueCache::new();
                    let steps = [(0, 3), (3, 4), (4, 5)].map(|(from, to)| {
                        assert_eq!(cache.columns(), from);
                        lm.forward_cached(columns(from, to), &mut cache, &mut Ctx::new(&set))
                            .expect(FITS)
                    });
                    // What a padded position computes does not matter.
                    let of_text = |x: Tensor<3>| x.slice_dim(1, 1..5);
                    (of_text(Tensor::cat(steps.into(), 1)), of_text(whole))
                }
                (_, Ok(model)) => {
                    let tokens = ids([[7, 5, 9, 3, 1], [8, 2, 1, 0, 0]]);
                    let decoder = ids([[0, 4, 6, 12], [0, 13, 2, 9]]);
                    let padding = Some(tokens.clone().equal_elem(0));
                    let text = TextInput {
                        padding,
                        ..TextInput::new(tokens)
                    };
                    let source = match self.padded() {
                        Input::ToText(ToTextInput { source, .. }) if model.reads_speech() => source,
                        _ => text.into(),
                    };
                    let mut encoded = model.encode(source, &mut Ctx::new(&set)).expect(FITS);
                    let whole = model
                        .decode(decoder.clone(), &encoded, None, &mut Ctx::new(&set))
                        .expect(FITS);
                    let mut cache = KeyValueCache::new();
                    let steps = [(0, 1), (1, 3), (3, 4)].map(|(from, to)| {
                        assert_eq!(cache.columns(), from);
                        let ids = decoder.clone().slice_dim(1, from..to);
                        let step = model
                            .decode(ids, &encoded, Some(&mut cache), &mut Ctx::new(&set))
                            .expect(FITS);
                        // Its keys and values are in the cache from the first step on.
                        encoded.hidden = encoded.hidden.clone() * 0.0;
                        step
                    });
                    (Tensor::cat(steps.into(), 1), whole)
                }
                _ => return,
            };
            let error = relative_error(&steps.into_data(), &whole.into_data());
            assert!(
                error < 1e-5,
                "{}, {configs:?}: off by {error:e} with a cache",
                self.name()
            );
        }
    }

    /// Gradients with the memory of one block are those of the whole graph, with and without what layers share, what acts on
    /// the embeddings, and what acts in few layers.
    fn recomputed_equals_plain(&self) {
        let model = Pretrained::open_with(self.dir.path(), self.case.architectures.clone())
            // Masks are drawn in every block, and must be the same the second time.
            .and_then(|source| source.with_dropout(0.2).model(&self.device))
            .unwrap_or_else(|e| panic!("{}: {e}", self.name()));
        for configs in [
            &["lora[r=2,alpha=5,dropout=0.3,output_lora=true]"][..],
            &["double_seq_bn[dropout=0.1]", "lora[r=2,leave_out=[0]]"],
            &["compacter[reduction_factor=4]"],
            &["seq_bn_inv"],
            &["adalora[init_r=3,target_modules=all-linear]"],
            &["ln_tuning"],
            &["prefix_tuning[prefix_length=3]"],
            &["prompt_tuning[prompt_length=2]"],
            &["loreft[r=2]"],
            &["unipelt"],
        ] {
            let Some(set) = self.attached(configs) else { continue };
            let set = set.train();
            // The scores of texts and images have no features.
            let width = match model.kind() {
                ModelKind::TextAndImage => 1,
                _ => model.d_model(),
            };
            let head: Linear = LinearConfig::new(width, 3).init(&self.device).train();
            let loss = |hidden: Tensor<3>, cx: &mut Ctx<'_>| {
                let loss = head.forward(cx.hooks().dropout(hidden, 0.4)).tanh().square().sum();
                match set.penalty() {
                    Some(penalty) => loss + penalty,
                    None => loss,
                }
            };
            let cx = Ctx::new(&set).training(9);
            let begin = |cx: &mut Ctx<'_>| model.chain(self.padded(), cx);
            let got = LossGradients::by_block(begin, &set, &head, &cx, loss).expect(FITS);
            let mut cx = Ctx::new(&set).training(9);
            let hidden = model.forward(self.padded(), &mut cx).expect(FITS);
            let whole = loss(hidden, &mut cx);
            let want = LossGradients::of(&whole, &set, &head);
            let context = format!("{}, {configs:?}", self.name());
            let losses = [&got, &want].map(|of| of.loss.clone().into_scalar::<f32>());
            assert!(
                (losses[0] - losses[1]).abs() < 1e-5 * losses[1].abs(),
                "{context}: loss"
            );
            let both = |gradients: &LossGradients| {
                let mut both = gradients_in_order(&set, &gradients.adapter_grads);
                both.extend(gradients_in_order(&head, &gradients.head_grads));
                both
            };
            same_gradients(&both(&got), &both(&want), &context);
        }
    }

    /// A merged model computes what the adapted one does, before and after its checkpoint is written and read; a reset
    /// restores every bit.
    fn merged_equals_adapted(&self) {
        // The first attaches to every architecture.
        assert!(self.attached(&[ALL_LINEAR]).is_some(), "{}: {ALL_LINEAR}", self.name());
        for config in [
            ALL_LINEAR,
            "lora[r=2,alpha=5,attn_matrices=[q,v],intermediate_lora=true,output_lora=true]",
            "ln_tuning",
        ] {
            let Some(set) = self.attached(&[config]) else { continue };
            let context = format!("{}, {config}", self.name());
            let adapted = outputs(&self.model, self.padded(), &mut Ctx::new(&set));
            let (mut model, before) = (self.model.clone(), parameters(&self.model));
            let merged = merge(&mut model, &set, "a").unwrap_or_else(|e| panic!("{context}: {e}"));
            let plain = self.plain(&model);
            assert_eq!(plain.len(), adapted.len(), "{context}: outputs");
            for (plain, adapted) in plain.iter().zip(adapted) {
                let error = relative_error(plain, &adapted.into_data());
                assert!(error < 1e-4, "{context}: merged is off by {error:e}");
            }
            assert_ne!(self.plain(&self.model), plain, "{context}: merging changed nothing");
            let out = tempfile::tempdir().expect("a temporary folder can be made");
            let open = |dir: &Path| Pretrained::open_with(dir, self.case.architectures.clone());
            let again = open(self.dir.path())
                .and_then(|source| save_checkpoint(&model, &source, out.path(), None))
                .and_then(|()| open(out.path())?.model(&self.device))
                .unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(self.plain(&again), plain, "{context}: saved and loaded");
            merged.reset(&mut model);
            assert_eq!(parameters(&model), before, "{context}: reset");
        }
    }
}

/// Everything the model computes of an input, each output in one row: its hidden states, its scores and what its pooler
/// makes of them, where it has those.
fn outputs(model: &Model, input: Input, cx: &mut Ctx<'_>) -> Vec<Tensor<1>> {
    let flat = |x: Tensor<3>| {
        let size: usize = x.dims().iter().product();
        x.reshape([size])
    };
    let hidden = model.forward(input, cx).expect(FITS);
    let mut outputs = vec![flat(hidden.clone())];
    outputs.extend(model.logits(hidden.clone(), cx).map(flat));
    // What heads compute.
    let sites = model.module_sites();
    let transform = sites.iter().find(|info| info.site.role == Role::HeadTransform);
    if let Some((site, layer)) = transform.and_then(|info| Some((info.site, model.linear(info.site)?))) {
        outputs.push(flat(cx.hooks().linear_at(site, layer, hidden.clone())));
    }
    outputs.extend(model.pool(hidden, cx).map(|pooled| flat(pooled.unsqueeze_dim(1))));
    outputs
}

/// Everything the model computes of an input, as one number with a gradient for all of it.
pub(crate) fn everything(model: &Model, input: Input, cx: &mut Ctx<'_>) -> Tensor<1> {
    let weighted = |x: Tensor<1>| {
        let data = draw::normal(&mut ChaCha8Rng::seed_from_u64(3), x.dims(), 1.0);
        let probe = Tensor::from_data(data, &x.device().inner());
        (x.tanh() * probe).sum()
    };
    let outputs = outputs(model, input, cx).into_iter().map(weighted);
    outputs
        .reduce(|sum, output| sum + output)
        .expect("a model has an output")
}

/// Gradients in the order of the parameters; `None` for one without.
fn gradients_in_order(module: &impl Module, gradients: &GradientsParams) -> Vec<Option<TensorData>> {
    struct Values<'a>(&'a GradientsParams, Vec<Option<TensorData>>);
    impl ModuleVisitor for Values<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push(self.0.get::<D>(param.id).map(Tensor::into_data));
        }
    }
    let mut values = Values(gradients, Vec::new());
    module.visit(&mut values);
    values.1
}

/// The values of all parameters in order.
fn parameters(model: &Model) -> Vec<TensorData> {
    struct Values(Vec<TensorData>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().into_data());
        }
    }
    let mut values = Values(Vec::new());
    model.visit(&mut values);
    values.0
}

fn largest(data: &TensorData) -> f64 {
    data.iter::<f64>().map(f64::abs).fold(0.0, f64::max)
}

fn same_gradients(got: &[Option<TensorData>], want: &[Option<TensorData>], context: &str) {
    // A gate's gradient may be what is left of large terms that cancel: no float has it to 1e-4 of itself.
    let most = want.iter().flatten().map(largest).fold(0.0, f64::max);
    let mut compared = 0;
    for (got, want) in got.iter().zip(want) {
        match (got, want) {
            (Some(got), Some(want)) => {
                assert_eq!(got.shape(), want.shape(), "{context}");
                assert!(got.iter::<f64>().all(f64::is_finite), "{context}");
                let off = got
                    .iter::<f64>()
                    .zip(want.iter::<f64>())
                    .map(|(got, want)| (got - want).abs());
                let error = off.fold(0.0, f64::max);
                let bound = 1e-4 * largest(want) + 1e-6 * most;
                assert!(error <= bound, "{context}: off by {error:e}, of {:e}", largest(want));
                compared += 1;
            }
            (None, None) => {}
            _ => panic!("{context}: {} and {}", got.is_some(), want.is_some()),
        }
    }
    assert!(compared >= 3, "{context}: only {compared} gradients");
}
