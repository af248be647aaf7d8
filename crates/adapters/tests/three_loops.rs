//! Burn's `Learner`, this library's `Trainer` and a recipe train one classifier of the film reviews: the same weights, the same accuracy.

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use adapters::core::Tensors;
use adapters::prelude::*;
use adapters::store::read_safetensors;
use adapters::train::{
    Classifier, DataSection, Fields, Keep, LabeledText, Labels, Order, Outcome, Recipe, Records, Run, Schedule,
    TextBatcher, TrainSection, Trainer, adamw, epoch_batches, train,
};
use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::train::metric::LossMetric;
use burn::train::{InferenceStep, Learner, SupervisedTraining};
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/all-MiniLM-L6-v2");
const NAMES: [&str; 2] = ["negative", "positive"];
const RATE: f64 = 2e-3;

/// The first sentences of each file of the reviews, and how many make a batch.
struct Reviews {
    dir: TempDir,
    rows: usize,
}

impl Reviews {
    fn new(train: usize, test: usize, rows: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (file, count) in [("train.jsonl", train), ("validation.jsonl", 8), ("test.jsonl", test)] {
            let all = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../data/reviews")
                .join(file);
            let text = fs::read_to_string(all).unwrap();
            let first: String = text.lines().take(count).flat_map(|line| [line, "\n"]).collect();
            fs::write(dir.path().join(file), first).unwrap();
        }
        Self { dir, rows }
    }

    fn path(&self, rest: &str) -> PathBuf {
        self.dir.path().join(rest)
    }

    /// The accuracy on the test sentences and the adapter of a run.
    fn result(outcome: &Outcome) -> (f64, Tensors) {
        let (weights, _) = read_safetensors(&outcome.adapter.join("adapter.safetensors")).unwrap();
        (outcome.summary.test_score().unwrap(), weights)
    }

    fn by_recipe(&self) -> Result<(f64, Tensors), Box<dyn Error>> {
        let recipe = format!(
            "[model]\npath = {MODEL:?}\nmax_length = 64\n\
             [data]\ntrain = \"train.jsonl\"\nvalidation = \"validation.jsonl\"\ntest = \"test.jsonl\"\nlabels = {NAMES:?}\n\
             [adapter]\nname = \"reviews\"\nconfig = \"lora[r=8,alpha=8]\"\n\
             [train]\nepochs = 1\nbatch_size = {}\nlearning_rate = {RATE}\nschedule = \"constant\"\nwarmup = 0.0\nkeep = \"last\"\n",
            self.rows
        );
        fs::write(self.path("recipe.toml"), recipe)?;
        let recipe = Recipe::read(&self.path("recipe.toml"), &[])?;
        let run = Run {
            model_dir: recipe.model.path.clone().into(),
            dir: self.path("by-recipe"),
            registry: METHODS,
            device: Device::flex(),
            recipe,
        };
        Ok(Self::result(&train(&run, &mut |_| ControlFlow::Continue(()))?))
    }

    fn by_trainer(&self) -> Result<(f64, Tensors), Box<dyn Error>> {
        let data = DataSection {
            validation: Some(self.path("validation.jsonl")),
            test: Some(self.path("test.jsonl")),
            labels: Labels::Names(NAMES.map(str::to_owned).to_vec()),
            ..DataSection::new(self.path("train.jsonl"))
        };
        let settings = TrainSection {
            epochs: 1,
            batch_size: self.rows.into(),
            learning_rate: RATE,
            schedule: Schedule::Constant,
            warmup: 0.0,
            keep: Keep::Last,
            ..TrainSection::default()
        };
        let outcome = Trainer::new("classification", MODEL, data, self.path("by-trainer"))?
            .adapter("reviews", lora(), METHODS)?
            .max_length(64)
            .settings(settings)
            .device(Device::flex())
            .train(&mut |_| ControlFlow::Continue(()))?;
        Ok(Self::result(&outcome))
    }

    fn by_learner(&self) -> Result<(f64, Tensors), Box<dyn Error>> {
        let pretrained = Pretrained::open(MODEL)?;
        let mut adapted = Adapted::new(pretrained.model(&Device::flex())?);
        adapted.attach("reviews", lora())?;
        adapted.activate("reviews")?;
        let (fields, tokenizer) = (Fields::default(), pretrained.tokenizer(64)?);
        let labels = Labels::Names(NAMES.map(str::to_owned).to_vec());
        let texts = |file: &str| -> Result<Vec<LabeledText>, Box<dyn Error>> {
            let records = Records::read(self.path(file), &fields)?;
            Ok(LabeledText::of_records(&records, &fields, &labels, &tokenizer)?)
        };
        // The batches that the trainer makes, in its order.
        let all = texts("train.jsonl")?;
        let lengths: Vec<usize> = all.iter().map(|labeled| labeled.text.ids.len()).collect();
        let order = epoch_batches(&lengths, self.rows, 0, 0, Order::default()).concat();
        let ordered: Vec<LabeledText> = order.into_iter().map(|index| all[index].clone()).collect();
        let batcher = TextBatcher::new(&adapted);
        let loader = |texts| {
            DataLoaderBuilder::new(batcher.clone())
                .batch_size(self.rows)
                .build(InMemDataset::new(texts))
        };

        let classifier = Classifier::new(adapted, NAMES, 0)?.train();
        let trained = SupervisedTraining::new(
            self.path("by-learner"),
            loader(ordered),
            loader(texts("validation.jsonl")?),
        )
        .metrics((LossMetric::new(),))
        .num_epochs(1)
        .launch(Learner::new(classifier, adamw(0.0), RATE));
        if let Some(error) = trained.error {
            return Err(error.to_string().into());
        }
        let test = texts("test.jsonl")?;
        let right: usize = test
            .chunks(64)
            .map(|rows| {
                let batch = batcher.batch(rows.to_vec(), &Device::flex());
                let output = InferenceStep::step(&trained.model, batch);
                let guesses = output.output.argmax(1).squeeze_dim::<1>(1);
                let right = guesses.equal(output.targets).int().sum();
                right.into_scalar::<i64>() as usize
            })
            .sum();
        let files = trained.model.model.adapted.save(self.path("by-learner/adapter"))?;
        let (weights, _) = read_safetensors(&files.weights)?;
        Ok((right as f64 / test.len() as f64, weights))
    }
}

fn lora() -> LoraConfig {
    LoraConfig {
        rank: 8,
        alpha: 8.0,
        ..Default::default()
    }
}

/// The accuracy of each loop on the test sentences.
fn accuracies(train: usize, test: usize, rows: usize) -> [f64; 3] {
    let reviews = Reviews::new(train, test, rows);
    let (of_recipe, of_trainer) = (reviews.by_recipe().unwrap(), reviews.by_trainer().unwrap());
    let of_learner = reviews.by_learner().unwrap();
    assert_eq!(of_trainer.1, of_recipe.1, "a trainer is a recipe of values");
    assert!(of_learner.1.keys().eq(of_recipe.1.keys()));
    for (key, expected) in &of_recipe.1 {
        let pairs = of_learner.1[key].iter::<f32>().zip(expected.iter::<f32>());
        let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-3, "{key}: {difference}");
    }
    [of_recipe.0, of_trainer.0, of_learner.0]
}

#[test]
fn three_loops_are_one_training() {
    let [recipe, trainer, learner] = accuracies(48, 24, 16);
    assert_eq!((trainer, learner), (recipe, recipe));
}

/// `cargo test --release -p adapters --features learner --test three_loops -- --ignored --nocapture`
#[test]
#[ignore = "minutes of a release build"]
#[expect(clippy::print_stdout, reason = "the accuracies are what it is run for")]
fn three_loops_on_all_reviews() {
    let [recipe, trainer, learner] = accuracies(usize::MAX, usize::MAX, 32);
    println!("test accuracy: recipe {recipe:.4}, trainer {trainer:.4}, learner {learner:.4}");
    assert!(recipe > 0.78, "{recipe}");
    assert!(
        (trainer - recipe).abs() < 1e-9 && (learner - recipe).abs() < 0.01,
        "{trainer}, {learner}"
    );
}
