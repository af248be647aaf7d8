//! What every method promises, checked on a tiny random model (a BERT unless a case says otherwise) with non-zero inputs.
//!
//! Each check takes a config string and panics with it where the promise is broken; [`all`] runs them all. Ranks are
//! above one and scales are not one where the config string says so: the suite does not choose them.

mod parameter_values;

use std::collections::BTreeSet;
use std::path::Path;

use adapters::core::{AttachedLayer, Call, Causality, Format, LinearState, Pass, SiteLayer, Sited};
use adapters::merge;
use adapters::models::{Input, Model, ModelKind, Pretrained, TextInput, ToTextInput};
use adapters::module::{values, with_fresh_ids};
use adapters::nn::draw;
use adapters::store::{LoadOptions, StoreError, load_adapter, save_adapter};
use adapters::{AdapterSet, Composition, Ctx, Error, Host, METHODS, method};
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Int, Tensor, TensorData};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::model_contract::{ModelCase, random_checkpoint};
use crate::random_bert::write_checkpoint;

use self::parameter_values::largest;
pub use self::parameter_values::{gradients_of, randomized, relative_error};

/// Name of the adapter under test.
const NAME: &str = "under_test";

/// What follows an identifier where the defaults ask for sizes that a tiny model does not have, or for something more.
const OPTIONS: &[(&str, &str)] = &[
    ("fourierft", "[n_frequency=20]"),
    ("miss", "[r=4]"),
    ("road", "[group_size=4]"),
    ("vblora", "[r=2,num_vectors=8,vector_length=4,topk=3]"),
    ("delora", "[r=4]"),
    ("c3a", "[block_size=8]"),
    ("vera", "[attn_matrices=[q]]"),
    ("dvora", "[attn_matrices=[q]]"),
    ("compacter", "[reduction_factor=4]"),
    ("compacter++", "[reduction_factor=4]"),
    ("trainable_tokens", "[token_indices=[5,7,42]]"),
    ("boft", "[boft_block_size=4]"),
    ("oft", "[oft_block_size=4]"),
    ("alora", "[alora_invocation_tokens=[42,8]]"),
    (
        "bdlora",
        "[nblocks=2,target_modules=[q_proj],target_modules_bd_a=[q_proj]]",
    ),
    ("psoft", "[r=4]"),
    ("shira", "[r=1]"),
    ("waveft", "[n_frequency=20]"),
    ("lily", "[r=4]"),
    ("adamss", "[r=4,num_subspaces=2]"),
    ("cartridge", "[num_virtual_tokens=3]"),
    ("poly", "[n_tasks=2]"),
    ("multitask_prompt_tuning", "[num_tasks=2]"),
    ("cpt", "[cpt_token_ids=[5,7,42]]"),
];

/// The config string of the method `identifier` that fits the tiny Llama of the golden cases.
pub fn for_tiny_llama(identifier: &str) -> String {
    let options = OPTIONS.iter().find(|(of, _)| *of == identifier);
    format!("{identifier}{}", options.map_or("", |(_, options)| options))
}

/// What a method may promise beyond what all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// A new adapter leaves the model as it was.
    pub identity_at_init: bool,
    /// It folds into the weights.
    pub mergeable: bool,
    /// The formats that can express it.
    pub formats: &'static [Format],
}

/// A frozen random model and a padded batch for it.
#[derive(Debug)]
pub struct Bench {
    /// The model.
    pub model: Model,
    /// The batch.
    pub input: TextInput,
    /// The ids of the decoder, where the model is an encoder-decoder.
    decoder_ids: Option<Tensor<2, Int>>,
    device: Device,
}

impl Bench {
    /// A two-layer BERT of width `heads * d_head` with weights drawn from `seed`, written to a checkpoint folder and
    /// loaded from there.
    pub fn new(heads: usize, d_head: usize, seed: u64, device: &Device) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        write_checkpoint(dir.path(), heads, d_head, seed);
        let model = Pretrained::open(dir.path())
            .and_then(|checkpoint| checkpoint.encoder(device))
            .expect("the checkpoint just written loads");
        Self::with(model, device)
    }

    /// The text model of a case, with random weights.
    ///
    /// # Panics
    ///
    /// Panics where the configuration of the case has no checkpoint that loads.
    pub fn of(case: &ModelCase, device: &Device) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        Self::with(random_checkpoint(case, dir.path(), device).0, device)
    }

    fn with(model: Model, device: &Device) -> Self {
        let tensor = |ids: TensorData| Tensor::<2, Int>::from_data(ids, device);
        let ids = tensor(TensorData::from([
            [5i64, 9, 3, 14, 7],
            [8, 2, 11, 0, 0],
            [1, 6, 0, 0, 0],
        ]));
        let decoder_ids = (model.kind() == ModelKind::EncoderDecoder)
            .then(|| tensor(TensorData::from([[0i64, 4, 6, 12], [0, 13, 2, 9], [0, 3, 10, 1]])));
        let input = TextInput {
            padding: Some(ids.clone().equal_elem(0)),
            token_types: None,
            ids,
            packing: None,
        };
        Self {
            model,
            input,
            decoder_ids,
            device: device.clone(),
        }
    }

    /// A set with the adapter of `config`, active, with its own initial values.
    pub fn attach(&self, config: &str) -> AdapterSet {
        let method = method(config).unwrap_or_else(|e| panic!("{config}: {e}"));
        let mut set = AdapterSet::new();
        set.attach(NAME, method, &self.model, 1, &self.device)
            .unwrap_or_else(|e| panic!("{config}: {e}"));
        set.activate(NAME).unwrap_or_else(|e| panic!("{config}: {e}"));
        set
    }

    /// As [`attach`](Self::attach), with every parameter drawn again: nothing is zero or one.
    pub fn attach_random(&self, config: &str) -> AdapterSet {
        randomized(self.attach(config), 7)
    }

    /// The last hidden state with what is active in `set`, in evaluation.
    pub fn output(&self, set: &AdapterSet) -> TensorData {
        self.run(&self.model, Ctx::new(set)).into_data()
    }

    /// The last hidden state of the model alone.
    pub fn plain(&self) -> TensorData {
        self.run(&self.model, Ctx::plain()).into_data()
    }

    fn run(&self, model: &Model, cx: Ctx<'_>) -> Tensor<3> {
        // A task for each row where the caller gave none, for methods that need to know it.
        let given = cx.pass().tasks.clone();
        let tasks = match given.is_empty() {
            true => (0..self.input.ids.dims()[0]).map(|row| Some(row % 2)).collect(),
            false => given,
        };
        let mut cx = cx.with_tasks(tasks).expect("a composition of two tasks");
        let input: Input = match self.decoder_ids.clone() {
            Some(decoder_ids) => ToTextInput {
                source: self.input.clone().into(),
                decoder_ids,
            }
            .into(),
            None => self.input.clone().into(),
        };
        model.forward(input, &mut cx).expect("the composition fits the input")
    }

    fn loss(&self, set: &AdapterSet) -> Tensor<1> {
        // A square, so that the layer normalization at the end does not hide anything.
        let output = self.run(&self.model, Ctx::new(set));
        let probe = Tensor::<3>::from_data(
            draw::normal(&mut ChaCha8Rng::seed_from_u64(3), output.dims(), 1.0),
            &self.device,
        );
        (output.square() * probe).sum()
    }
}

/// Runs every check on `config`.
///
/// # Panics
///
/// Panics where a promise is broken, naming it and the config string.
pub fn all(config: &str, promises: Promises, device: &Device) {
    all_on(&Bench::new(2, 4, 11, device), config, promises);
}

/// Runs every check on `config` and the model of `bench`.
///
/// # Panics
///
/// Panics where a promise is broken, naming it and the config string.
pub fn all_on(bench: &Bench, config: &str, promises: Promises) {
    identity_at_init(bench, config, promises.identity_at_init);
    only_adapters_get_gradients(bench, config);
    if promises.mergeable {
        merged_equals_unmerged(bench, config);
    } else {
        refuses_to_merge(bench, config);
    }
    for format in Format::ALL {
        if promises.formats.contains(&format) {
            save_load_same_output(bench, config, format);
        } else {
            refuses_to_save(bench, config, format);
        }
    }
    copies_train_apart(bench, config, promises.formats[0]);
    rows_go_apart(bench, config);
    declares_what_it_does(bench, config);
}

/// A new adapter changes nothing where its method promises that; one that is not active changes nothing ever.
pub fn identity_at_init(bench: &Bench, config: &str, promised: bool) {
    let mut set = bench.attach(config);
    let difference = relative_error(&bench.output(&set), &bench.plain());
    assert_eq!(
        difference == 0.0,
        promised,
        "{config}: a new adapter changes the output by {difference:e}"
    );
    let mut random = bench.attach_random(config);
    let difference = relative_error(&bench.output(&random), &bench.plain());
    assert!(
        difference > 1e-4,
        "{config}: random parameters do not act ({difference:e})"
    );
    random.deactivate();
    set.deactivate();
    for set in [set, random] {
        assert_eq!(
            bench.output(&set),
            bench.plain(),
            "{config}: an adapter that is not active acts"
        );
    }
}

/// Every adapter parameter has a gradient that is not zero, and the base has none.
pub fn only_adapters_get_gradients(bench: &Bench, config: &str) {
    let before = values(&bench.model);
    let set = bench.attach_random(config).train();
    let gradients = bench.loss(&set).backward();
    let found = gradients_of(&set, &gradients);
    for param in set.params().filter(|param| !param.fixed) {
        let size = found[&param.id].as_ref().map_or(0.0, largest);
        assert!(
            size > 0.0 && size.is_finite(),
            "{config}: {} at {} has the gradient {size}",
            param.param,
            param.path()
        );
    }
    assert_eq!(
        found.len(),
        // A table and the head that shares it have one parameter at two sites.
        set.params().map(|param| param.id).collect::<BTreeSet<_>>().len(),
        "{config}: a parameter without a name"
    );
    assert!(
        gradients_of(&bench.model, &gradients).values().all(Option::is_none),
        "{config}: a base gradient"
    );
    assert_eq!(values(&bench.model), before, "{config}: attaching changed the base");

    let mut frozen = bench.attach_random(config);
    frozen.set_trainable(NAME, false).expect("it is attached");
    assert!(
        !bench.loss(&frozen.train()).is_tracked(),
        "{config}: a frozen adapter trains"
    );
}

/// Each merged layer alone computes what the layer and its adapter computed, to 1e-5 of its largest output.
///
/// A whole model amplifies the rounding of a layer by whatever its weights are; a layer does not.
pub fn merged_layers_equal_unmerged(bench: &Bench, config: &str) {
    let set = bench.attach_random(config);
    let mut model = bench.model.clone();
    merge(&mut model, &set, NAME).unwrap_or_else(|e| panic!("{config}: {e}"));
    for info in bench.model.module_sites() {
        let (Some(base), Some(merged)) = (bench.model.linear(info.site), model.linear(info.site)) else {
            continue;
        };
        let d_in = base.weight.dims()[0];
        let x = Tensor::from_data(
            draw::normal(&mut ChaCha8Rng::seed_from_u64(7), [2, 3, d_in], 1.0),
            &bench.device,
        );
        let mut cx = Ctx::new(&set);
        let (hooks, x) = cx.begin(&bench.model, x).expect("the set fits the model");
        let base = Sited::at(info.clone(), base.clone());
        let want = hooks.linear(&base, x.clone()).into_data();
        let error = relative_error(&merged.forward(x).into_data(), &want);
        assert!(error <= 1e-5, "{config}: {} is off by {error:e}", info.path);
    }
}

/// A reset restores every bit of what a merge changed.
pub fn resets_bit_for_bit(bench: &Bench, config: &str) {
    let set = bench.attach_random(config);
    let mut model = bench.model.clone();
    let before = values(&model);
    let merged = merge(&mut model, &set, NAME).unwrap_or_else(|e| panic!("{config}: {e}"));
    assert_ne!(values(&model), before, "{config}: merging changed nothing");
    merged.reset(&mut model);
    assert_eq!(values(&model), before, "{config}: a reset does not restore the base");
}

/// The plain merged model computes what the adapter computed, and a reset restores every bit.
pub fn merged_equals_unmerged(bench: &Bench, config: &str) {
    let set = bench.attach_random(config);
    let before = values(&bench.model);
    let mut model = bench.model.clone();
    let merged = merge(&mut model, &set, NAME).unwrap_or_else(|e| panic!("{config}: {e}"));
    let got = bench.run(&model, Ctx::plain()).into_data();
    let error = relative_error(&got, &bench.output(&set));
    assert!(error <= 1e-5, "{config}: merged is off by {error:e}");
    assert_ne!(values(&model), before, "{config}: merging changed nothing");
    merged.reset(&mut model);
    assert_eq!(values(&model), before, "{config}: a reset does not restore the base");
    assert_eq!(
        bench.run(&model, Ctx::plain()).into_data(),
        bench.plain(),
        "{config}: a reset does not restore the base"
    );
}

/// Merging is an error that names the site, and nothing has changed.
pub fn refuses_to_merge(bench: &Bench, config: &str) {
    let set = bench.attach_random(config);
    let mut model = bench.model.clone();
    let refused = merge(&mut model, &set, NAME);
    assert!(
        matches!(refused, Err(Error::NotMergeable { .. })),
        "{config}: {refused:?}"
    );
    assert_eq!(
        values(&model),
        values(&bench.model),
        "{config}: a refused merge changed the base"
    );
}

/// Saved in `format` and loaded, the adapter computes the same bits.
pub fn save_load_same_output(bench: &Bench, config: &str, format: Format) {
    save_load_of(bench, &bench.attach_random(config), config, format);
}

/// The adapter of `config` in `set`, saved in `format` and loaded, computes the same bits.
pub fn save_load_of(bench: &Bench, set: &AdapterSet, config: &str, format: Format) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let dir = dir.path().join(NAME);
    save_adapter(&dir, format, set, NAME, &bench.model).unwrap_or_else(|e| panic!("{config}, {format}: {e}"));
    let loaded = load(bench, &dir);
    assert_eq!(
        bench.output(&loaded),
        bench.output(set),
        "{config}, {format}: another output after loading"
    );
    let count = |set: &AdapterSet| set.params().count();
    assert_eq!(
        count(&loaded),
        count(set),
        "{config}, {format}: another number of parameters"
    );
}

/// Saved in `format` and loaded, an adapter whose files hold it in another form computes the same, to `tolerance` of
/// the largest output.
pub fn save_load_equal_output(bench: &Bench, config: &str, format: Format, tolerance: f64) {
    let set = bench.attach_random(config);
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let dir = dir.path().join(NAME);
    save_adapter(&dir, format, &set, NAME, &bench.model).unwrap_or_else(|e| panic!("{config}, {format}: {e}"));
    let error = relative_error(&bench.output(&load(bench, &dir)), &bench.output(&set));
    assert!(error <= tolerance, "{config}, {format}: off by {error:e} after loading");
}

/// Saving in `format` is an error, and no folder appears.
pub fn refuses_to_save(bench: &Bench, config: &str, format: Format) {
    let set = bench.attach_random(config);
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let dir = dir.path().join(NAME);
    let refused = save_adapter(&dir, format, &set, NAME, &bench.model);
    assert!(
        matches!(refused, Err(StoreError::Adapter(Error::Config { .. }))),
        "{config}, {format}: {refused:?}"
    );
    assert!(
        !dir.exists(),
        "{config}, {format}: a refused save left {}",
        dir.display()
    );
}

/// Each layer at a linear site does what it declares: it changes the frozen layer or its input, adds to its output, and looks
/// ahead, if and only if it says so.
pub fn declares_what_it_does(bench: &Bench, config: &str) {
    let set = bench.attach_random(config);
    let adapter = set.attached(NAME).expect("it was attached");
    let mut pass = Pass::default();
    pass.tasks = vec![Some(1), Some(0)];
    for AttachedLayer { info, layer } in adapter.layers() {
        let (SiteLayer::Linear(layer), Some(frozen)) = (layer, bench.model.linear(info.site)) else {
            continue;
        };
        let call = Call {
            pass: &pass,
            shared: adapter.shared(),
            adapter: NAME,
            site: info.site,
        };
        let [d_in, _] = frozen.weight.dims();
        let x = draw::normal(&mut ChaCha8Rng::seed_from_u64(8), [2, 4, d_in], 1.0);
        let x = Tensor::<3>::from_data(x, &bench.device);
        let applied = |x: Tensor<3>| {
            let state = LinearState {
                input: x,
                layer: frozen.clone(),
                delta: None,
                tokens: None,
                earlier: None,
            };
            layer.apply(layer.open(state), &call)
        };
        let state = applied(x.clone());
        let bias = |layer: &Linear| layer.bias.as_ref().map(|bias| bias.val().into_data());
        let kept = state.input.to_data() == x.to_data()
            && state.layer.weight.val().to_data() == frozen.weight.val().to_data()
            && bias(&state.layer) == bias(frozen);
        let effect = layer.effect();
        assert_eq!(kept, !effect.changes(), "{config}: {effect:?} at {}", info.path);
        assert_eq!(
            state.delta.is_some(),
            effect.source().is_some(),
            "{config}: {effect:?} at {}",
            info.path
        );
        let output = |x: Tensor<3>| layer.finish(applied(x), &call);
        let (whole, start) = (output(x.clone()), output(x.slice_dim(1, 0..2)));
        let error = relative_error(&start.into_data(), &whole.slice_dim(1, 0..2).into_data());
        let causal = layer.causality() == Causality::Causal;
        assert_eq!(causal, error <= 1e-5, "{config}: off by {error:e} at {}", info.path);
    }
}

/// Dropout is off in evaluation and on in training; `config` has a dropout above zero.
pub fn dropout_in_training_only(bench: &Bench, config: &str) {
    let set = bench.attach_random(config);
    assert_eq!(
        bench.output(&set),
        bench.output(&set),
        "{config}: evaluation is not repeatable"
    );
    let train = |seed| bench.run(&bench.model, Ctx::new(&set).training(seed)).into_data();
    assert_eq!(train(1), train(1), "{config}: a seed does not repeat");
    assert_ne!(train(1), train(2), "{config}: dropout does not depend on the seed");
    assert_ne!(train(1), bench.output(&set), "{config}: no dropout in training");
}

/// In a batch over two adapters and none, and on two branches, each row is what it is in a batch of its adapter alone.
/// Where an adapter changes what has no rows, a normalization or the positions of the tokens, such a batch is refused; where
/// it makes rows longer, only a batch in which some rows stay as they are.
pub fn rows_go_apart(bench: &Bench, config: &str) {
    let mut set = AdapterSet::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        let method = method(config).unwrap_or_else(|e| panic!("{config}: {e}"));
        set.attach(name, method, &bench.model, seed, &bench.device)
            .unwrap_or_else(|e| panic!("{config}: {e}"));
    }
    let set = randomized(set, 9);
    let has_no_rows = set.iter().any(|a| {
        let norm = a.layers().any(|l| matches!(l.layer, SiteLayer::Norm(_)));
        let edits = a.method().capabilities().embeddings;
        let moved = edits.is_some_and(|edits| edits.first_position() > 0);
        norm || moved || a.method().capabilities().tasks.is_some()
    });
    let longer = set.iter().any(|a| {
        let edits = a.method().capabilities().embeddings;
        edits.is_some_and(|edits| edits.inserts().is_some())
    });
    let mixed = match set.composition(Composition::multi_task(["a", "b"])) {
        Err(Error::BlockNotRunnable { .. }) if has_no_rows => return,
        Err(Error::BlockNotRunnable { .. }) if longer => None,
        mixed => Some(mixed.unwrap_or_else(|e| panic!("{config}: {e}"))),
    };
    assert!(
        !longer || mixed.is_none(),
        "{config}: rows of different lengths in one batch"
    );
    assert!(
        !has_no_rows,
        "{config}: a normalization, the first position and tasks cannot have two meanings in one batch"
    );
    let forward = |cx: Ctx<'_>| bench.run(&bench.model, cx);
    let alone = |name: &str| {
        let active = set.composition(name).unwrap_or_else(|e| panic!("{config}: {e}"));
        forward(Ctx::with_composition(&set, &active).expect("the set is as it was"))
    };
    let (a, b, none) = (alone("a"), alone("b"), forward(Ctx::plain()));
    let rows = |parts: [(&Tensor<3>, usize); 3]| {
        let rows = parts.map(|(x, row)| x.clone().slice_dim(0, row..row + 1));
        Tensor::cat(rows.to_vec(), 0).into_data()
    };
    let close = |got: Tensor<3>, want: TensorData, what: &str| {
        let error = relative_error(&got.into_data(), &want);
        // A batch of another size adds its products in another order.
        assert!(error <= 3e-5, "{config}: {what} is off by {error:e}");
    };
    if let Some(mixed) = mixed {
        let cx = Ctx::with_composition(&set, &mixed).and_then(|cx| cx.with_tasks([Some(1), None, Some(0)]));
        let got = forward(cx.unwrap_or_else(|e| panic!("{config}: {e}")));
        close(
            got,
            rows([(&b, 0), (&none, 1), (&a, 2)]),
            "a batch over two adapters and none",
        );
    }
    let block = |block: Composition| {
        let active = set.composition(block).unwrap_or_else(|e| panic!("{config}: {e}"));
        forward(Ctx::with_composition(&set, &active).expect("the set is as it was"))
    };
    let got = block(Composition::batch_split(["a", "b"], [2, 1]));
    close(got, rows([(&a, 0), (&a, 1), (&b, 2)]), "a batch split in two");
    let got = block(Composition::parallel(["a", "b"]));
    close(got, Tensor::cat(vec![a, b], 0).into_data(), "two branches");
}

/// Two adapters loaded from one folder, or cloned with fresh ids, are told apart by a gradient.
pub fn copies_train_apart(bench: &Bench, config: &str, format: Format) {
    let set = bench.attach_random(config);
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let dir = dir.path().join(NAME);
    save_adapter(&dir, format, &set, NAME, &bench.model).unwrap_or_else(|e| panic!("{config}: {e}"));
    let (one, other) = (load(bench, &dir).train(), load(bench, &dir).train());
    for other in [other, with_fresh_ids(one.clone())] {
        let gradients = bench.loss(&one).backward();
        let mine = gradients_of(&one, &gradients);
        let mut trained = one.params().filter(|param| !param.fixed);
        assert!(
            trained.all(|param| mine[&param.id].is_some()),
            "{config}: a loaded parameter has no gradient"
        );
        assert!(
            other.params().all(|p| !mine.contains_key(&p.id)),
            "{config}: two copies have one id"
        );
        assert!(
            gradients_of(&other, &gradients).values().all(Option::is_none),
            "{config}: the copy has a gradient"
        );
        assert_eq!(
            bench.output(&one.valid()),
            bench.output(&other.valid()),
            "{config}: the copy is not one"
        );
    }
}

fn load(bench: &Bench, dir: &Path) -> AdapterSet {
    let mut set = AdapterSet::new();
    load_adapter(
        dir,
        &mut set,
        &bench.model,
        &METHODS,
        &LoadOptions::default(),
        &bench.device,
    )
    .unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    set.activate(NAME).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    set
}
