//! One case: load, activate, operate, compute, compare.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use adapters::core::Active;
use adapters::core::store::{
    LoadOptions, Tensors, load_adapter, read_json, read_safetensors, save_adapter, write_safetensors,
};
use adapters::core::{Merged, merge};
use adapters::models::{Encoder, EncoderInput, Head, Pretrained};
use adapters::store::Grammar;
use adapters::{AdapterSet, Composition, Ctx, Host, METHODS};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Device, Gradients, Int, Tensor, TensorData};
use serde_json::Value;

use crate::golden::case::{AVERAGE, Case, Framework, MERGE, RESET, WEIGHTED};
use crate::golden::combined::Combined;
use crate::golden::compare::{each_element, whole_tensor};
use crate::golden::verdict::{Outcome, Stop, Verdict};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the model and its adapters live.
    pub device: Device,
    /// Where to write what was computed, as `<model>/<case>.safetensors`.
    pub dump: Option<PathBuf>,
    /// Where to write the loaded adapters back, as `<model>/<case>/adapters/<name>/`.
    pub resave: Option<PathBuf>,
}

impl Options {
    /// On `device`, writing nothing.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            dump: None,
            resave: None,
        }
    }
}

/// A model of a set: its checkpoint and inputs, read once for all its cases.
#[derive(Debug)]
pub struct Prepared {
    base: Encoder,
    checkpoint: PathBuf,
    input: EncoderInput,
}

/// What a case runs: the base or a merged copy of it, a head, and where no adapter acts.
struct Model<'a> {
    encoder: &'a Encoder,
    head: Option<&'a Head>,
    skipped: &'a [usize],
    tasks: Vec<Option<usize>>,
}

/// What was computed, under the names of `expected.safetensors`.
struct Computed {
    output: TensorData,
    gradients: BTreeMap<String, TensorData>,
}

impl Prepared {
    /// Reads `base/` and `inputs.safetensors` of a model's folder.
    ///
    /// # Errors
    ///
    /// [`Stop::Unsupported`] for an architecture or an input this library does not have; [`Stop::Fail`] for files.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Stop> {
        let checkpoint = dir.join("base");
        let base = Pretrained::open(&checkpoint)?.encoder(device)?;
        let (tensors, _) = read_safetensors(&dir.join("inputs.safetensors"))?;
        let (mut ids, mut token_types, mut padding) = (None, None, None);
        for (key, data) in tensors {
            match key.as_str() {
                "input_ids" => ids = Some(Tensor::<2, Int>::from_data(data, device)),
                "token_type_ids" => token_types = Some(Tensor::<2, Int>::from_data(data, device)),
                "attention_mask" => padding = Some(padding_of(&data, device)),
                other => return Err(Stop::unsupported(format!("the model call has the argument `{other}`"))),
            }
        }
        let ids = ids.ok_or_else(|| Stop::fail("inputs.safetensors has no `input_ids`"))?;
        Ok(Self {
            base,
            checkpoint,
            input: EncoderInput {
                ids,
                token_types,
                padding,
            },
        })
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
        let case: Case = read_json(&dir.join("case.json"))?;
        case.check_features()?;
        let head = self.head(&case, dir, &options.device)?;
        let (mut set, mut grammars) = self.load_adapters(&case, dir, &options.device)?;
        if let Some(out) = &options.resave {
            let out = out.join(&outcome.model).join(&outcome.case).join("adapters");
            for (name, grammar) in &grammars {
                save_adapter(&out.join(name), *grammar, &set, name, &self.base)?;
            }
        }
        let (expected, _) = read_safetensors(&dir.join("expected.safetensors"))?;
        let mut problems = Vec::new();
        for op in case
            .ops
            .iter()
            .filter(|op| [AVERAGE, WEIGHTED].contains(&op.op.as_str()))
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
            let grammar = match case.framework {
                Framework::Adapters => Grammar::AdapterHub,
                Framework::Peft => Grammar::Peft,
            };
            grammars.push((name, grammar));
        }
        if let Some(names) = &case.shared_parameters
            && let [owner, borrowers @ ..] = names.as_slice()
        {
            let borrowers: Vec<&str> = borrowers.iter().map(String::as_str).collect();
            set.share(owner, &borrowers)?;
        }
        let computed = self.compute(&case, head.as_ref(), set, &grammars, &expected)?;
        if let Some(out) = &options.dump {
            dump(&out.join(&outcome.model), &outcome.case, &computed)?;
        }
        // Merged or reset, the model computes what it computed before.
        let want = expected.get("unmerged_output").or_else(|| expected.get("output"));
        let want = want.ok_or_else(|| Stop::fail("expected.safetensors has no `output`"))?;
        let output = each_element(&computed.output, want, case.output_tolerance());
        outcome.max_abs_err = Some(output.max_abs_err);
        if !output.within {
            let shapes = (computed.output.shape().to_vec(), want.shape().to_vec());
            problems.push(match shapes.0 == shapes.1 {
                true => "output is out of tolerance".to_owned(),
                false => format!("output has shape {:?}, expected {:?}", shapes.0, shapes.1),
            });
        }
        outcome.grads = Some(compare_gradients(&case, &computed, &expected, &mut problems));
        Ok(problems)
    }

    /// The head of the case's class; `None` for the bare encoder.
    fn head(&self, case: &Case, dir: &Path, device: &Device) -> Result<Option<Head>, Stop> {
        let masked_lm = format!("{}ForMaskedLM", self.base.class_name().trim_end_matches("Model"));
        let flexible = format!("{}AdapterModel", self.base.class_name().trim_end_matches("Model"));
        match (&case.model_class, case.output.as_str(), &case.head) {
            (class, "last_hidden_state", None) if class == self.base.class_name() => Ok(None),
            (class, "logits", None) if *class == masked_lm => Ok(Some(Head::from_checkpoint(
                &self.checkpoint,
                &self.base,
                false,
                device,
            )?)),
            (class, "logits", Some(head)) if *class == flexible => {
                Ok(Some(Head::load(&dir.join(head), &self.base, false, device)?.1))
            }
            (class, output, head) => Err(Stop::unsupported(format!(
                "model_class = {class}, output = {output}, head = {head:?}"
            ))),
        }
    }

    /// Loads all adapters in their order, under their names, and says which grammar each came in.
    fn load_adapters(
        &self,
        case: &Case,
        dir: &Path,
        device: &Device,
    ) -> Result<(AdapterSet, Vec<(String, Grammar)>), Stop> {
        let mut set = AdapterSet::new();
        let mut grammars = Vec::new();
        for (name, folder) in case.adapter_dirs()? {
            let options = LoadOptions {
                name: Some(name.to_owned()),
                allow_bin: true,
                extra: case
                    .extra_weights
                    .get(name)
                    .and_then(Value::as_str)
                    .map(|file| dir.join(file))
                    .into_iter()
                    .collect(),
            };
            let report = load_adapter(&dir.join(folder), &mut set, &self.base, METHODS, &options, device)?;
            grammars.push((name.to_owned(), report.grammar));
        }
        Ok((set, grammars))
    }

    /// The output and the gradients.
    fn compute(
        &self,
        case: &Case,
        head: Option<&Head>,
        set: AdapterSet,
        grammars: &[(String, Grammar)],
        expected: &Tensors,
    ) -> Result<Computed, Stop> {
        let mut active = match composition(case)? {
            Some(composition) => Some(set.composition(composition)?),
            None => None,
        };
        let mut model = None;
        let merged = self.operate(case, &set, active.as_ref(), &mut model)?;
        if let (Some(merged), Some(all)) = (&merged, &active) {
            // The merged adapter acts through the weights; what else is active goes on acting.
            active = match without(all.composition(), merged.adapter())? {
                Some(rest) => Some(set.composition(rest)?),
                None => None,
            };
        }
        let model = Model {
            encoder: model.as_ref().unwrap_or(&self.base),
            head,
            skipped: case.skip_layers.as_deref().unwrap_or_default(),
            tasks: case.tasks(),
        };
        let input = EncoderInput {
            padding: self.input.padding.clone().filter(|_| case.use_attention_mask),
            ..self.input.clone()
        };
        let output = model.forward(input.clone(), &set, active.as_ref())?.into_data();
        let mut computed = Computed {
            output,
            gradients: BTreeMap::new(),
        };
        if expected.keys().any(|key| key.starts_with("grad/")) {
            let probe = expected
                .get("probe")
                .ok_or_else(|| Stop::fail("expected.safetensors has no `probe`"))?;
            let set = set.train();
            let output = model.forward(input, &set, active.as_ref())?;
            let probe = Tensor::<3>::from_data(probe.clone(), &output.device());
            let loss = (output * probe).sum();
            let gradients = loss.is_tracked().then(|| loss.backward());
            computed.gradients = self.named_gradients(&set, gradients.as_ref(), grammars, expected);
        }
        Ok(computed)
    }

    /// Runs the operations of a case on a copy of the model; what is merged at the end.
    fn operate(
        &self,
        case: &Case,
        set: &AdapterSet,
        active: Option<&Active>,
        copy: &mut Option<Encoder>,
    ) -> Result<Option<Merged>, Stop> {
        let mut merged: Option<Merged> = None;
        for op in &case.ops {
            if [AVERAGE, WEIGHTED].contains(&op.op.as_str()) {
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
                    let folded = merge(model, set, &name, merged.as_ref())?;
                    merged = Some(folded);
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
        gradients: Option<&Gradients>,
        grammars: &[(String, Grammar)],
        expected: &Tensors,
    ) -> BTreeMap<String, TensorData> {
        let mut collect = Collect {
            gradients,
            found: HashMap::new(),
        };
        set.visit(&mut collect);
        let mut named = BTreeMap::new();
        for (name, grammar) in grammars {
            let Some(adapter) = set.get(name) else { continue };
            for place in adapter.params() {
                let Some((data, taken_part)) = collect.found.get(&place.id).cloned() else {
                    continue;
                };
                // The class that saved decides the prefix: its own, or that of a larger class around it.
                let keys = place.keys(*grammar, name, self.base.base_prefix());
                let candidates = keys.map(|key| format!("grad/{name}/{key}"));
                match candidates.iter().find(|key| expected.contains_key(*key)) {
                    Some(key) => named.insert(key.clone(), data),
                    None if place.fixed => None,
                    // An adapter that is not active may be left out of the file; one that acts may not.
                    None if taken_part => named.insert(candidates[0].clone(), data),
                    None => None,
                };
            }
        }
        named
    }
}

/// The decision of PARITY.md that explains problems with gradients alone: a gradient of the reference that is wrong is not
/// reproduced.
fn decided(dir: &Path, problems: &[String]) -> Option<String> {
    const WRONG_GRADIENTS: &[(&str, &str)] = &[(
        "C3A",
        "PARITY D20: the reference's gradient with respect to a layer's input is not the derivative",
    )];
    let case: Case = read_json(&dir.join("case.json")).ok()?;
    let folder = case.adapters.values().next()?.as_str()?;
    let config: Value = read_json(&dir.join(folder).join("adapter_config.json")).ok()?;
    let (_, decision) = WRONG_GRADIENTS
        .iter()
        .find(|(peft_type, _)| config["peft_type"] == *peft_type)?;
    let gradients = |problem: &String| problem.starts_with("grad/") || problem.ends_with("more gradients");
    problems.iter().all(gradients).then(|| (*decision).to_owned())
}

/// True at padding, from a mask that is zero there.
fn padding_of(mask: &TensorData, device: &Device) -> Tensor<2, Bool> {
    let padding: Vec<bool> = mask.iter::<i64>().map(|m| m == 0).collect();
    Tensor::from_data(TensorData::new(padding, mask.shape()), device)
}

impl Model<'_> {
    fn forward(&self, input: EncoderInput, set: &AdapterSet, active: Option<&Active>) -> Result<Tensor<3>, Stop> {
        let cx = match active {
            Some(active) => Ctx::with_composition(set, active),
            None => Ctx::plain(),
        };
        let mut cx = cx
            .skipping_layers(self.skipped.iter().copied())
            .with_tasks(self.tasks.iter().copied())?;
        let hidden = self.encoder.forward(input, &mut cx);
        Ok(match self.head {
            Some(head) => head.scores(hidden, self.encoder, &mut cx),
            None => hidden,
        })
    }
}

/// The active composition: a dictionary, or peft's name of one adapter.
fn composition(case: &Case) -> Result<Option<Composition>, Stop> {
    if let Some(names) = case.row_adapters() {
        return Ok(Some(Composition::multi_task(names)));
    }
    match (&case.active, case.framework) {
        (Value::Null, _) => Ok(None),
        (Value::String(name), Framework::Peft) => Ok(Some(Composition::adapter(name))),
        // The updates of several active adapters add up.
        (Value::Array(names), Framework::Peft) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            Ok(Some(Composition::sum(names)))
        }
        (dict, _) => Ok(Some(Composition::from_dict(dict)?)),
    }
}

/// A composition without one adapter; `None` if nothing is left.
fn without(composition: &Composition, name: &str) -> Result<Option<Composition>, Stop> {
    match composition {
        Composition::Adapter(adapter) if adapter == name => Ok(None),
        other if !other.contains(name) => Ok(Some(other.clone())),
        Composition::Stack(children) => {
            let rest: Vec<Composition> = children
                .iter()
                .filter_map(|child| without(child, name).transpose())
                .collect::<Result<_, _>>()?;
            Ok((!rest.is_empty()).then_some(Composition::Stack(rest)))
        }
        other => Err(Stop::unsupported(format!("merging `{name}` out of {other}"))),
    }
}

/// Gradients by parameter, and whether the parameter had one.
struct Collect<'a> {
    gradients: Option<&'a Gradients>,
    found: HashMap<ParamId, (TensorData, bool)>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let gradient = self.gradients.and_then(|gradients| value.grad(gradients));
        let taken_part = gradient.is_some();
        let data = gradient.unwrap_or_else(|| value.inner().zeros_like()).into_data();
        self.found.insert(param.id, (data, taken_part));
    }
}

/// Right and expected gradients; what is wrong goes to `problems`.
fn compare_gradients(
    case: &Case,
    computed: &Computed,
    expected: &Tensors,
    problems: &mut Vec<String>,
) -> (usize, usize) {
    let (mut right, mut all) = (0, 0);
    let mut wrong = Vec::new();
    for (key, want) in expected.iter().filter(|(key, _)| key.starts_with("grad/")) {
        all += 1;
        match computed.gradients.get(key) {
            None => wrong.push(format!("{key} is absent")),
            Some(got) => {
                let comparison = whole_tensor(got, want, case.grad_tolerance());
                match comparison.within {
                    true => right += 1,
                    false => wrong.push(format!("{key} is off by {:.3e}", comparison.max_abs_err)),
                }
            }
        }
    }
    let unknown = computed.gradients.keys().filter(|key| !expected.contains_key(*key));
    wrong.extend(unknown.map(|key| format!("{key} is not expected")));
    let more = wrong.len().saturating_sub(3);
    problems.extend(wrong.into_iter().take(3));
    if more > 0 {
        problems.push(format!("{more} more gradients"));
    }
    (right, all)
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
