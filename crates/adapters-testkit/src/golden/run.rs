//! One case: load, activate, operate, compute, compare.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use adapters::core::{Active, AnyMethod, Format, Record, Tensors};
use adapters::lora::{Arrow, subtract_general};
use adapters::models::{Model, ModelKind};
use adapters::store::{
    CompositionDict, LoadOptions, Setup, layer_replication, load_adapter, load_fusion, read_json, read_safetensors,
    save_adapter, save_fusion, with_shape, write_safetensors,
};
use adapters::{AdapterSet, Ctx, Error, Host, METHODS, Merged, merge};
use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use serde_json::Value;

use crate::golden::active::{composition, without};
use crate::golden::case::{ARROW, AVERAGE, Case, EJECT, Framework, MERGE, Op, RESET, WEIGHTED};
use crate::golden::combined::Combined;
use crate::golden::compare::{Tolerance, each_element, where_compared};
use crate::golden::decided::{PREFIX_UNDER_SDPA, decided, full_rows_equal, is_under_sdpa, prompts_see_padding};
use crate::golden::gradients::{Collect, compare_gradients};
use crate::golden::model::{Inputs, Top, load, load_for_hub};
use crate::golden::records;
use crate::golden::verdict::{Outcome, Stop, Verdict};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the model and its adapters live.
    pub device: Device,
    /// What the backend is allowed beyond the tolerances of a case.
    pub added: Tolerance,
    /// Where to write what was computed, as `<model>/<case>.safetensors`.
    pub dump: Option<PathBuf>,
    /// Where to write what was loaded back, as `<model>/<case>/adapters/<name>/` and the folders of fusions.
    pub resave: Option<PathBuf>,
}

impl Options {
    /// On `device`, with the tolerances of the cases, writing nothing.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            added: Tolerance::ZERO,
            dump: None,
            resave: None,
        }
    }
}

/// A model of a set: its checkpoint and inputs, read once for all its cases.
#[derive(Debug)]
pub struct Prepared {
    base: Model,
    /// With the model as AdapterHub's library has it, where that is another one.
    for_hub: Option<Box<Self>>,
    checkpoint: PathBuf,
    inputs: Inputs,
}

/// What a case runs: the base or a merged copy of it, what is on top, and where no adapter acts.
struct Running<'a> {
    model: &'a Model,
    top: &'a Top,
    skipped: &'a [usize],
    tasks: Vec<Option<usize>>,
}

/// What was computed, under the names of `expected.safetensors`.
struct Computed {
    output: TensorData,
    gradients: BTreeMap<String, TensorData>,
    records: Tensors,
}

impl Prepared {
    /// Reads `base/` and `inputs.safetensors` of a model's folder.
    ///
    /// # Errors
    ///
    /// [`Stop::Unsupported`] for an architecture or an input this library does not have; [`Stop::Fail`] for files.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Stop> {
        let checkpoint = dir.join("base");
        let inputs = Inputs::read(&dir.join("inputs.safetensors"), device)?;
        let over = |base, for_hub| Self {
            base,
            for_hub,
            checkpoint: checkpoint.clone(),
            inputs: inputs.clone(),
        };
        let for_hub = load_for_hub(&checkpoint, device)?.map(|base| Box::new(over(base, None)));
        Ok(over(load(&checkpoint, device)?, for_hub))
    }

    /// Runs the case in `dir`.
    pub fn run(&self, model: &str, case: &str, dir: &Path, options: &Options) -> Outcome {
        let mut outcome = Outcome::stopped(model, case, Stop::fail(""));
        outcome.verdict = match self.compute_and_compare(dir, options, &mut outcome) {
            Ok(problems) if problems.is_empty() => Verdict::Ok,
            Ok(problems) => match decided(dir, &problems) {
                Some(decision) => Verdict::Unsupported(decision),
                None => Verdict::Fail(problems.join("; ")),
            },
            Err(Stop::Unsupported(reason)) => Verdict::Unsupported(reason),
            Err(Stop::Fail(reason)) => Verdict::Fail(reason),
        };
        outcome
    }

    /// Every problem with the numbers; the numbers themselves go to `outcome`.
    fn compute_and_compare(&self, dir: &Path, options: &Options, outcome: &mut Outcome) -> Result<Vec<String>, Stop> {
        let case = read_json::<Case>(&dir.join("case.json"))?.with_added(options.added);
        if let (Framework::Adapters, Some(prepared)) = (case.framework, &self.for_hub) {
            return prepared.compute_and_compare(dir, options, outcome);
        }
        case.check_features()?;
        if let (Framework::Peft, []) = (case.framework, self.base.layer_replication()) {
            for (_, folder) in case.adapter_dirs()? {
                if let Some(ranges) = layer_replication(&dir.join(folder))? {
                    let replicated = Self {
                        base: self.base.with_layer_replication(&ranges)?,
                        for_hub: None,
                        checkpoint: self.checkpoint.clone(),
                        inputs: self.inputs.clone(),
                    };
                    return replicated.compute_and_compare(dir, options, outcome);
                }
            }
        }
        let top = Top::of(&case, dir, &self.checkpoint, &self.base, &options.device)?;
        let (mut set, mut formats) = self.load_adapters(&case, dir, true, &options.device)?;
        if let Some(out) = &options.resave {
            let out = out.join(&outcome.model).join(&outcome.case);
            for (name, format) in &formats {
                let folder = out.join("adapters").join(name);
                save_adapter(&folder, *format, &set, name, &self.base)?;
                if let (Top::Labels(head), Format::Peft) = (&top, format) {
                    head.save_peft(&folder, &self.base)?;
                }
            }
            for (name, folder) in case.fusion_dirs()? {
                save_fusion(&out.join(folder), &set, name, &self.base)?;
            }
        }
        let (expected, _) = read_safetensors(&dir.join("expected.safetensors"))?;
        let mut problems = Vec::new();
        for op in case
            .ops
            .iter()
            .filter(|op| [AVERAGE, WEIGHTED, EJECT].contains(&op.op.as_str()))
        {
            problems.extend(
                Combined {
                    case: &case,
                    dir,
                    base: &self.base,
                    device: &options.device,
                }
                .run(op, &mut set)?,
            );
            let name = op.name.clone().unwrap_or_default();
            let format = match case.framework {
                Framework::Adapters => Format::AdapterHub,
                Framework::Peft => Format::Peft,
            };
            if !formats.iter().any(|(known, _)| *known == name) {
                formats.push((name, format));
            }
        }
        for op in case.ops.iter().filter(|op| op.op == ARROW) {
            problems.extend(self.route(&case, op, dir, &mut set, &options.device)?);
        }
        if let Some(names) = &case.shared_parameters
            && let [owner, borrowers @ ..] = names.as_slice()
        {
            let borrowers: Vec<&str> = borrowers.iter().map(String::as_str).collect();
            set.tie_parameters(owner, &borrowers)?;
        }
        problems.extend(self.setup(&case, dir, &set, &options.device)?);
        let inputs = self.inputs.of(&case, dir, &options.device)?;
        let mut computed = self.compute(&case, &top, &inputs, set, &formats, &expected)?;
        problems.extend(records::compare(&case, &computed.records, &expected));
        if !case.extra_weights.is_empty() && computed.lacks_a_gradient(&expected) {
            // What tensors beside the files are made into may train in their place: its gradients too.
            let (set, _) = self.load_adapters(&case, dir, false, &options.device)?;
            let plain = self.compute(&case, &top, &inputs, set, &formats, &expected)?;
            for (key, gradient) in plain.gradients {
                computed.gradients.entry(key).or_insert(gradient);
            }
        }
        if let Some(out) = &options.dump {
            dump(&out.join(&outcome.model), &outcome.case, &computed)?;
        }
        // Merged or reset, the model computes what it computed before.
        let want = expected.get("unmerged_output").or_else(|| expected.get("output"));
        let want = want.ok_or_else(|| Stop::fail("expected.safetensors has no `output`"))?;
        let compared = match expected.get("output_mask") {
            Some(mask) => where_compared(&computed.output, want, mask),
            None => computed.output.clone(),
        };
        let output = each_element(&compared, want, case.output_tolerance());
        outcome.max_abs_err = Some(output.max_abs_err);
        if prompts_see_padding(&case, dir) && !full_rows_equal(&computed.output, want, &case, &inputs) {
            problems.push("a row without padding is out of tolerance".to_owned());
        }
        if !output.within {
            let shapes = (computed.output.shape().to_vec(), want.shape().to_vec());
            problems.push(match shapes.0 == shapes.1 {
                true => "output is out of tolerance".to_owned(),
                false => format!("output has shape {:?}, expected {:?}", shapes.0, shapes.1),
            });
        }
        outcome.grads = Some(compare_gradients(&case, &computed.gradients, &expected, &mut problems));
        if !output.within && is_under_sdpa("prefix_tuning", &case, dir) && self.is_plain(&case, &top, &inputs, want)? {
            return Err(Stop::unsupported(PREFIX_UNDER_SDPA));
        }
        Ok(problems)
    }

    /// Adds the router of an operation, under the name that is active; what differs from the directions of the reference.
    fn route(
        &self,
        case: &Case,
        op: &Op,
        dir: &Path,
        set: &mut AdapterSet,
        device: &Device,
    ) -> Result<Vec<String>, Stop> {
        let name = case.active.as_str().unwrap_or_default();
        if op.use_gks {
            let [tasks, general] =
                [&op.task, &op.general].map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
            subtract_general(set, &tasks, &general)?;
        }
        let mut router = Arrow::new(op.task.clone());
        router.top_k = op.top_k.unwrap_or(router.top_k);
        router.router_temperature = op.router_temperature.unwrap_or(router.router_temperature);
        router.rng_seed = op.rng_seed;
        set.attach(name, AnyMethod::new(router)?, &self.base, 0, device)?;
        let Some(file) = case.extra_weights.get(name).and_then(Value::as_str) else {
            return Ok(Vec::new());
        };
        let (expected, _) = read_safetensors(&dir.join(file))?;
        let router = set.fusion(name)?;
        let mut values = router.values_by_id();
        let mut problems = Vec::new();
        for param in router.params() {
            let key = format!("base_model.model.{}.lora_arrow.{name}.{}", param.path(), param.param);
            let got = values.remove(&param.id);
            let within = match (got, expected.get(&key)) {
                (Some(got), Some(want)) => each_element(&got, want, case.output_tolerance()).within,
                _ => false,
            };
            if !within {
                problems.push(format!("`{key}` is not the expected one"));
            }
        }
        Ok(problems)
    }

    /// Whether an output is that of the model without an adapter.
    fn is_plain(&self, case: &Case, top: &Top, inputs: &Inputs, output: &TensorData) -> Result<bool, Stop> {
        let plain = Running {
            model: &self.base,
            top,
            skipped: &[],
            tasks: Vec::new(),
        };
        let (got, _) = plain.forward(inputs.clone(), &AdapterSet::new(), None)?;
        Ok(each_element(&got.into_data(), output, case.output_tolerance()).within)
    }

    /// Loads all adapters in their order, under their names, and says which format each came in; with the tensors
    /// next to their files, or without.
    fn load_adapters(
        &self,
        case: &Case,
        dir: &Path,
        extra: bool,
        device: &Device,
    ) -> Result<(AdapterSet, Vec<(String, Format)>), Stop> {
        let mut set = AdapterSet::new();
        let mut formats = Vec::new();
        for (name, folder) in case.adapter_dirs()? {
            let options = LoadOptions {
                name: Some(name.to_owned()),
                allow_bin: true,
                extra: case
                    .extra_weights
                    .get(name)
                    .and_then(Value::as_str)
                    .filter(|_| extra)
                    .map(|file| dir.join(file))
                    .into_iter()
                    .collect(),
                config: case
                    .config_overrides
                    .get(name)
                    .and_then(Value::as_object)
                    .cloned()
                    .unwrap_or_default(),
            };
            let report = load_adapter(&dir.join(folder), &mut set, &self.base, &METHODS, &options, device)?;
            formats.push((name.to_owned(), report.format));
        }
        for (name, folder) in case.fusion_dirs()? {
            let options = LoadOptions {
                name: Some(name.to_owned()),
                ..LoadOptions::default()
            };
            load_fusion(&dir.join(folder), &mut set, &self.base, &options, device)?;
        }
        Ok((set, formats))
    }

    /// What differs between the adapters and fusions of a case and those of its setup folder, as the library saved it and
    /// as it is saved again; nothing where there is none.
    fn setup(&self, case: &Case, dir: &Path, set: &AdapterSet, device: &Device) -> Result<Vec<String>, Stop> {
        let saved = dir.join("setup");
        if !saved.is_dir() {
            return Ok(Vec::new());
        }
        let load = |dir: &Path| {
            let mut set = AdapterSet::new();
            let setup = Setup::load(dir, &mut set, &self.base, &METHODS, false, device)?;
            Ok::<_, Stop>((setup, set))
        };
        let (setup, loaded) = load(&saved)?;
        let again = tempfile::tempdir().map_err(|e| Stop::fail(format!("no temporary folder: {e}")))?;
        setup.save(again.path(), &loaded, &self.base)?;
        let mut problems = Vec::new();
        for (what, (read, loaded)) in [
            ("setup", (setup, loaded)),
            ("the setup saved again", load(again.path())?),
        ] {
            let said = serde_json::to_value(CompositionDict::from(&read.composition)).unwrap_or_default();
            if said != case.active {
                problems.push(format!("{what} says {}", read.composition));
            }
            let entries = |set: &AdapterSet| {
                let all = set
                    .iter()
                    .chain(set.fusions())
                    .map(|a| (a.name().to_owned(), a.values()));
                all.collect::<BTreeMap<_, _>>()
            };
            if entries(&loaded) != entries(set) {
                problems.push(format!("{what} holds other values"));
            }
        }
        Ok(problems)
    }

    /// The output and the gradients.
    fn compute(
        &self,
        case: &Case,
        top: &Top,
        inputs: &Inputs,
        set: AdapterSet,
        formats: &[(String, Format)],
        expected: &Tensors,
    ) -> Result<Computed, Stop> {
        let mut active = match composition(case)? {
            Some(composition) => Some(set.composition(composition)?),
            None => None,
        };
        let mut copy = None;
        let merged = self.operate(case, &set, active.as_ref(), &mut copy)?;
        if let (Some(merged), Some(all)) = (&merged, &active) {
            // The merged adapter acts through the weights; what else is active goes on acting.
            active = match without(all.composition(), merged.adapter())? {
                Some(rest) => Some(set.composition(rest)?),
                None => None,
            };
        }
        let model = Running {
            model: copy.as_ref().unwrap_or(&self.base),
            top,
            skipped: case.skip_layers.as_deref().unwrap_or_default(),
            tasks: case.tasks(),
        };
        let (output, records) = model.forward(inputs.clone(), &set, active.as_ref())?;
        // The scores of a model of texts and images have two axes in the file.
        let mut shape = output.dims().to_vec();
        if model.model.kind() == ModelKind::TextAndImage {
            shape.truncate(2);
        }
        let mut computed = Computed {
            output: shaped(output, expected.get("output")),
            gradients: BTreeMap::new(),
            records: records::by_key(&records, &self.base),
        };
        if expected.keys().any(|key| key.starts_with("grad/")) {
            let probe = expected
                .get("probe")
                .ok_or_else(|| Stop::fail("expected.safetensors has no `probe`"))?;
            let (set, top) = (set.train(), top.train());
            let model = Running { top: &top, ..model };
            let (output, _) = model.forward(inputs.clone(), &set, active.as_ref())?;
            let probe = with_shape(probe.clone(), output.dims().to_vec());
            let probe = Tensor::<3>::from_data(probe, &output.device());
            let loss = (output * probe).sum();
            let gradients = loss.is_tracked().then(|| loss.backward());
            computed.gradients = self.named_gradients(&set, &top, gradients.as_ref(), formats, expected);
        }
        Ok(computed)
    }

    /// Runs the operations of a case on a copy of the model; what is merged at the end.
    fn operate(
        &self,
        case: &Case,
        set: &AdapterSet,
        active: Option<&Active>,
        copy: &mut Option<Model>,
    ) -> Result<Option<Merged>, Stop> {
        let mut merged: Option<Merged> = None;
        for op in &case.ops {
            if [AVERAGE, WEIGHTED, EJECT, ARROW].contains(&op.op.as_str()) {
                continue;
            }
            let model = copy.get_or_insert_with(|| self.base.clone());
            match op.op.as_str() {
                MERGE => {
                    let name = match (&op.name, active.map(|a| a.adapters().collect::<Vec<_>>()).as_deref()) {
                        (Some(name), _) => name.clone(),
                        (None, Some([name])) => (*name).to_owned(),
                        (None, _) => return Err(Stop::unsupported("merge_adapter of several adapters, or of none")),
                    };
                    if let Some(earlier) = &merged {
                        let merged = earlier.adapter().to_owned();
                        return Err(Error::AlreadyMerged { adapter: name, merged }.into());
                    }
                    merged = Some(merge(model, set, &name)?);
                }
                RESET => {
                    if let Some(merged) = merged.take() {
                        merged.reset(model);
                    }
                }
                other => return Err(Stop::unsupported(format!("op = {other}"))),
            }
        }
        Ok(merged)
    }

    /// The gradient of every parameter under the name `expected` has for it. A parameter that takes no part has a
    /// zero gradient.
    fn named_gradients(
        &self,
        set: &AdapterSet,
        top: &Top,
        gradients: Option<&Gradients>,
        formats: &[(String, Format)],
        expected: &Tensors,
    ) -> BTreeMap<String, TensorData> {
        let mut collect = Collect {
            gradients,
            found: HashMap::new(),
        };
        set.visit(&mut collect);
        if let Some(head) = top.head() {
            head.visit(&mut collect);
        }
        let mut named = BTreeMap::new();
        let adapters = formats
            .iter()
            .filter_map(|(name, format)| Some((set.get(name)?, format)));
        let fusions = set.fusions().map(|fusion| {
            let stored = formats.iter().find(|(name, _)| name == fusion.name());
            (fusion, stored.map_or(&Format::AdapterHub, |(_, format)| format))
        });
        for (adapter, format) in adapters.chain(fusions) {
            let name = adapter.name();
            for param in adapter.params() {
                let Some((data, taken_part)) = collect.found.get(&param.id).cloned() else {
                    continue;
                };
                let shape = param.stored_shape(*format, data.shape().to_vec());
                let data = with_shape(data, shape);
                // The class that saved decides the prefix: its own, or that of a larger class around it.
                let keys = param.keys(*format, name, &self.base);
                let candidates = keys.map(|key| format!("grad/{name}/{key}"));
                match candidates.iter().find(|key| expected.contains_key(*key)) {
                    Some(key) => named.insert(key.clone(), data),
                    None if param.fixed => None,
                    // An adapter that is not active may be left out of the file; one that acts may not.
                    None if taken_part => named.insert(candidates[0].clone(), data),
                    None => None,
                };
            }
        }
        for (path, id, transposed) in top.params(&self.base) {
            let mut keys = formats.iter().flat_map(|(name, _)| {
                ["base_model.model.", "base_model."].map(|prefix| format!("grad/{name}/{prefix}{path}"))
            });
            if let (Some(key), Some((data, _))) = (keys.find(|key| expected.contains_key(key)), collect.found.get(&id))
            {
                let data = match transposed {
                    true => Tensor::<2>::from_data(data.clone(), &Device::flex())
                        .transpose()
                        .into_data(),
                    false => data.clone(),
                };
                named.insert(key, data);
            }
        }
        named
    }
}

/// An output, in the shape of the expected one where both have as many elements: scores of whole texts have no positions.
fn shaped(output: Tensor<3>, expected: Option<&TensorData>) -> TensorData {
    let data = output.into_data();
    match expected.filter(|expected| expected.num_elements() == data.num_elements()) {
        Some(expected) if expected.shape().len() == 2 => {
            TensorData::new(data.iter::<f32>().collect::<Vec<_>>(), expected.shape())
        }
        _ => data,
    }
}

impl Computed {
    /// Whether a gradient is expected that is not there.
    fn lacks_a_gradient(&self, expected: &Tensors) -> bool {
        let mut wanted = expected.keys().filter(|key| key.starts_with("grad/"));
        wanted.any(|key| !self.gradients.contains_key(key))
    }
}

impl Running<'_> {
    /// The output, and what was recorded on the way.
    fn forward(
        &self,
        inputs: Inputs,
        set: &AdapterSet,
        active: Option<&Active>,
    ) -> Result<(Tensor<3>, Vec<Record>), Stop> {
        let cx = match active {
            Some(active) => Ctx::with_composition(set, active)?,
            None => Ctx::plain(),
        };
        let mut cx = cx
            .skipping_layers(self.skipped.iter().copied())
            .with_tasks(self.tasks.iter().copied())?
            .recording();
        let output = self.top.forward(self.model, inputs, &mut cx)?;
        Ok((output, cx.records()))
    }
}

/// Writes what was computed under the names of `expected.safetensors`.
fn dump(dir: &Path, case: &str, computed: &Computed) -> Result<(), Stop> {
    fs::create_dir_all(dir).map_err(|e| Stop::fail(format!("cannot make {}: {e}", dir.display())))?;
    let mut tensors: Tensors = computed.gradients.clone();
    tensors.insert("output".to_owned(), computed.output.clone());
    Ok(write_safetensors(
        &dir.join(format!("{case}.safetensors")),
        &tensors,
        [],
    )?)
}
