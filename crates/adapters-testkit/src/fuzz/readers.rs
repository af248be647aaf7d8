//! The readers, and valid inputs of each.

mod media;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use adapters::core::Ctx;
use adapters::models::speech::{SpeechPrompt, read_wav};
use adapters::models::{ChatTemplate, Head, Message, Model, ModelKind, Pretrained, TextTokenizer};
use adapters::store::{
    LoadOptions, Manifest, Setup, load_adapter, read_pytorch, read_safetensors, write_json, write_safetensors,
};
use adapters::train::{Event, Fields, Recipe, Records, Run, train};
use adapters::{AdapterSet, Composition, METHODS, method};

use serde_json::{Map, Value, json};

use super::{Fixture, Reader, Seed, golden, golden_models, write};
use crate::model_inputs::two_rows;

/// All readers.
pub static READERS: [Reader; 20] = [
    Reader {
        name: "checkpoint of a model",
        seeds: |fixture| bases(fixture, "model.safetensors"),
        read: model,
    },
    Reader {
        name: "configuration of a model",
        seeds: |fixture| bases(fixture, "config.json"),
        read: model,
    },
    Reader {
        name: "weights of an adapter",
        seeds: |fixture| {
            [
                adapters(fixture, "adapter.safetensors"),
                adapters(fixture, "adapter_model.safetensors"),
            ]
            .into_iter()
            .flatten()
            .collect()
        },
        read: adapter,
    },
    Reader {
        name: "configuration in the format of AdapterHub",
        seeds: |fixture| with_neighbor(adapters(fixture, "adapter_config.json"), "adapter.safetensors"),
        read: adapter,
    },
    Reader {
        name: "configuration in the format of PEFT",
        seeds: |fixture| with_neighbor(adapters(fixture, "adapter_config.json"), "adapter_model.safetensors"),
        read: adapter,
    },
    Reader {
        name: "pickle",
        seeds: |fixture| adapters(fixture, "pytorch_adapter.bin"),
        read: |_, file| read_pytorch(file).is_ok(),
    },
    Reader {
        name: "tokenizer",
        seeds: |fixture| {
            let published = fixture.copy(&fixture.task.path("model"), "tokenizer");
            let mut seeds = vec![Seed::new(published.join("tokenizer.json"))];
            let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters-models/tests/vocabulary_files");
            for (class, vocabulary) in [
                ("BertTokenizer", &["vocab.txt"][..]),
                ("RobertaTokenizer", &["vocab.json", "merges.txt"]),
            ] {
                let folder = fixture.copy(&files, "vocabulary");
                let config = folder.join("tokenizer_config.json");
                write(
                    &config,
                    format!(r#"{{"tokenizer_class": "{class}", "strip_accents": null}}"#).as_bytes(),
                );
                seeds.extend(vocabulary.iter().map(|name| Seed::new(folder.join(name))));
                seeds.push(Seed::new(config));
            }
            seeds
        },
        read: |_, file| {
            let tokenizer = TextTokenizer::load(folder(file), 8);
            let encoded =
                tokenizer.and_then(|tokenizer| tokenizer.encode([("a good film", Some("not  bad \u{1f600}"))]));
            encoded.is_ok()
        },
    },
    Reader {
        name: "chat template",
        seeds: |fixture| {
            TEMPLATES
                .iter()
                .map(|text| fixture.text("chat_template.jinja", text))
                .collect()
        },
        read: |_, file| {
            let messages = [
                Message::new("user", "a"),
                Message::new("assistant", "b\n"),
                Message::new("user", ""),
            ];
            ChatTemplate::load(folder(file)).is_ok_and(|template| template.render_marked(&messages, true).is_ok())
        },
    },
    Reader {
        name: "recipe",
        seeds: |fixture| {
            let folder = fixture.copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes"), "recipes");
            let files = fs::read_dir(&folder).expect("the folder can be read").flatten();
            let recipes = files
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|e| e == "toml"));
            recipes.map(Seed::new).collect()
        },
        read: |_, file| Recipe::read(file, &[]).is_ok_and(|recipe| recipe.adapter.method(&METHODS).is_ok()),
    },
    Reader {
        name: "config string",
        seeds: |fixture| CONFIGS.iter().map(|text| fixture.text("config.txt", text)).collect(),
        read: |fixture, file| {
            let method = text(file).and_then(|text| method(&text).ok());
            let attached =
                method.map(|method| AdapterSet::new().attach("a", method, &fixture.models["bert"], 0, &fixture.device));
            attached.is_some_and(|attached| attached.is_ok())
        },
    },
    Reader {
        name: "composition",
        seeds: |fixture| {
            COMPOSITIONS
                .iter()
                .map(|text| fixture.text("composition.txt", text))
                .collect()
        },
        read: |_, file| {
            let composition = text(file).and_then(|text| text.parse::<Composition>().ok());
            composition.is_some_and(|composition| composition.validate().is_ok())
        },
    },
    Reader {
        name: "data",
        seeds: |fixture| DATA.iter().map(|(name, text)| fixture.text(name, text)).collect(),
        read: |_, file| {
            let records = Records::read(file, &Fields::default());
            records.is_ok_and(|records| records.labels("label", None).is_ok())
        },
    },
    Reader {
        name: "setup",
        seeds: |fixture| {
            let from = golden().join("bert/cases/setup_saved/setup");
            vec![Seed::new(fixture.copy(&from, "setup").join(Setup::FILE))]
        },
        read: |_, file| Setup::read(folder(file)).is_ok_and(|setup| setup.composition.validate().is_ok()),
    },
    Reader {
        name: "manifest and head",
        seeds: |fixture| {
            let run = run(fixture, fixture.folder("run"));
            train(&run, &mut |_| ControlFlow::Continue(())).expect("the tiny task trains");
            let folder = fixture.copy(&run.dir.join("adapter"), "head");
            // Of this library's own kind: a head that no other format has is in the manifest.
            [Manifest::FILE, "head.safetensors"]
                .iter()
                .map(|file| Seed::new(folder.join(file)))
                .collect()
        },
        read: |fixture, file| {
            let base = Pretrained::open(fixture.task.path("model")).and_then(|base| base.model(&fixture.device));
            let base = base.expect("the tiny model loads");
            match Manifest::read(folder(file)) {
                Ok(Some(Manifest { head: Some(head), .. })) => {
                    Head::load_manifest(folder(file), &head, &base, &fixture.device).is_ok()
                }
                _ => false,
            }
        },
    },
    Reader {
        name: "checkpoint of a run",
        seeds: |fixture| {
            let run = run(fixture, fixture.folder("run"));
            let stopped = train(&run, &mut |event| match event {
                Event::Step { step: 8, .. } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            });
            stopped.expect("the tiny task trains");
            vec![Seed::new(run.dir.join("checkpoint.safetensors"))]
        },
        read: |fixture, file| {
            let run = run(fixture, folder(file).to_owned());
            train(&run, &mut |_| ControlFlow::Break(())).is_ok()
        },
    },
    Reader {
        name: "image",
        seeds: media::images,
        read: media::image,
    },
    Reader {
        name: "sound",
        seeds: |fixture| vec![media::sound(fixture)],
        read: |_, file| read_wav(file, media::RATE).is_ok(),
    },
    Reader {
        name: "preprocessing",
        seeds: media::options,
        read: media::preprocessing,
    },
    Reader {
        name: "generation",
        seeds: |fixture| {
            let folder = fixture.copy(&fixture.task.path("model"), "model");
            fs::write(folder.join("generation_config.json"), GENERATION).expect("the folder can be written");
            fs::write(folder.join("tokenizer_config.json"), SPECIAL).expect("the folder can be written");
            ["generation_config.json", "tokenizer_config.json"]
                .map(|name| Seed::new(folder.join(name)))
                .into()
        },
        read: |_, file| {
            let ends = Pretrained::open(folder(file)).and_then(|found| found.generation());
            let begins = SpeechPrompt::load(folder(file), None, false);
            ends.is_ok() && begins.is_ok()
        },
    },
    Reader {
        name: "index of shards",
        seeds: |fixture| {
            let folder = fixture.copy(&golden().join("bert/base"), "base");
            let (whole, half) = (folder.join("model.safetensors"), folder.join("half.safetensors"));
            let (tensors, _) = read_safetensors(&whole).expect("the golden model can be read");
            fs::remove_file(whole).expect("the folder can be written");
            let shard = |index: usize| {
                if index.is_multiple_of(2) {
                    "half.safetensors"
                } else {
                    "other.safetensors"
                }
            };
            let named: Vec<(usize, String)> = tensors.keys().cloned().enumerate().collect();
            for path in [half, folder.join("other.safetensors")] {
                let own = named.iter().filter(|(index, _)| path.ends_with(shard(*index)));
                let own = own.map(|(_, key)| (key.clone(), tensors[key].clone())).collect();
                write_safetensors(&path, &own, []).expect("the folder can be written");
            }
            let map: Map<String, Value> = named
                .into_iter()
                .map(|(index, key)| (key, shard(index).into()))
                .collect();
            let index = folder.join("model.safetensors.index.json");
            write_json(&index, &json!({"metadata": {"total_size": 1}, "weight_map": map}))
                .expect("the folder can be written");
            vec![Seed::new(index)]
        },
        read: model,
    },
];

/// What a text that is written begins and ends with.
const GENERATION: &str = r#"{"bos_token_id": 2, "eos_token_id": [3, 1], "pad_token_id": 0, "decoder_start_token_id": 2,
 "forced_decoder_ids": [[1, 5], [2, 6]], "no_timestamps_token_id": 7, "suppress_tokens": [8, 9], "begin_suppress_tokens": [10]}"#;
const SPECIAL: &str =
    r#"{"bos_token": "[CLS]", "eos_token": {"content": "[SEP]", "lstrip": false}, "pad_token": "[PAD]"}"#;

/// Chat templates as models have them.
const TEMPLATES: [&str; 3] = [
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "{%- if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{%- set ns = namespace(n=0) %}{%- for m in \
     messages %}{%- set ns.n = ns.n + 1 %}{{ m.content.split('\\n')[-1].strip() ~ ns.n }}{%- endfor %}",
    "{% macro part(text, n=3) %}{{ text * n }}{% endmacro %}{% for m in messages %}{{ part(m.content) }}{{ m | tojson }}{{ range(3) | \
     join(',') }}{% endfor %}",
];

/// Config strings of several families.
const CONFIGS: [&str; 10] = [
    "lora[r=4,alpha=8,dropout=0.1,leave_out=[0],attn_matrices=[q,v]]",
    "seq_bn[reduction_factor=4,non_linearity=gelu]|lora[r=2,use_gating=true]",
    "prefix_tuning[prefix_length=3,bottleneck_size=8]",
    "loreft[r=2,prefix_positions=1,suffix_positions=1]",
    "compacter[phm_dim=4,reduction_factor=8]",
    "boft[target_modules=[query],boft_block_size=4,boft_n_butterfly_factor=1]",
    "adalora[init_r=4,target_r=2]",
    "vera[r=4,target_modules=[query,value]]",
    "prompt_tuning[prompt_length=3]",
    "fourierft[n_frequency=10,target_modules=\".*(query|value)\"]",
];

/// Compositions of every block.
const COMPOSITIONS: [&str; 4] = [
    "Stack(a, Fuse(b, c), d)",
    "Split(a, b, splits=[2, 5])",
    "Parallel(a, BatchSplit(b, c, batch_sizes=[1, 2]))",
    "Average(a, b, weights=[0.25, 0.75])",
];

/// Data files of every format.
const DATA: [(&str, &str); 5] = [
    (
        "rows.jsonl",
        "{\"text\": \"a\", \"label\": 1}\n\n{\"text\": \"b \\ud83d\\ude00\", \"label\": 0}\n",
    ),
    (
        "rows.json",
        "[{\"text\": \"a\", \"label\": \"yes\"},\n {\"text\": \"b\", \"label\": \"no\"}]\n",
    ),
    ("rows.csv", "text,label\n\"a, \"\"b\"\"\",1\nc,0\n"),
    ("more.csv", "text;label\na;x\nb;y\n"),
    ("rows.tsv", "text\tlabel\na \"b\t1\nc\t0\n"),
];

fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("."))
}

fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok()
}

/// A file of the tiny models of all families.
fn bases(fixture: &Fixture, name: &str) -> Vec<Seed> {
    let copied = golden_models().map(|(_, folder)| fixture.copy(&folder.join("base"), "base"));
    copied.map(|folder| Seed::new(folder.join(name))).collect()
}

/// A file of every golden adapter that has it and that loads alone, in a folder with the name of its model.
fn adapters(fixture: &Fixture, name: &str) -> Vec<Seed> {
    let of_model = |(model, folder): (String, PathBuf)| {
        let cases = fs::read_dir(folder.join("cases"))
            .expect("the folder can be read")
            .flatten();
        let adapters = cases.map(|case| case.path().join("adapters/a"));
        let mut folders: Vec<PathBuf> = adapters.filter(|folder| folder.join(name).is_file()).collect();
        folders.sort();
        let seeds = folders.into_iter().map(move |folder| (model.clone(), folder));
        seeds.collect::<Vec<_>>()
    };
    let seeds = golden_models()
        .flat_map(of_model)
        .map(|(model, folder)| Seed::new(fixture.copy(&folder, &model).join(name)));
    seeds.filter(|seed| adapter(fixture, &seed.file)).collect()
}

/// The seeds that have this file next to them.
fn with_neighbor(mut seeds: Vec<Seed>, name: &str) -> Vec<Seed> {
    seeds.retain(|seed| seed.file.with_file_name(name).is_file());
    seeds
}

/// Whether it is accepted; what is computes.
fn model(fixture: &Fixture, file: &Path) -> bool {
    let model = Pretrained::open(folder(file)).and_then(|found| found.model(&fixture.device));
    let Ok(model) = model else {
        return false;
    };
    forward(&model, &AdapterSet::new());
    true
}

/// Whether it is accepted; what is acts.
fn adapter(fixture: &Fixture, file: &Path) -> bool {
    let options = LoadOptions {
        allow_bin: true,
        ..LoadOptions::default()
    };
    let model = folder(file).file_name().unwrap_or_default().to_string_lossy();
    let (_, model) = model.split_once('-').expect("the folder has the name of a model");
    let (mut set, base) = (AdapterSet::new(), &fixture.models[model]);
    let loaded = load_adapter(folder(file), &mut set, base, &METHODS, &options, &fixture.device);
    let Ok(report) = loaded else {
        return false;
    };
    if set.activate(report.attached.adapter.as_str()).is_ok() {
        forward(base, &set);
    }
    true
}

/// A pass over two short texts, or images of a moderate size.
fn forward(model: &Model, set: &AdapterSet) {
    const LARGEST_IMAGE: usize = 256;
    let small = |[channels, height, width]: [usize; 3]| channels <= 4 && height.max(width) <= LARGEST_IMAGE;
    let is_moderate = match model.kind() {
        ModelKind::SpeechToText | ModelKind::SoundEncoder => false,
        ModelKind::ImageEncoder => model.image_encoder().is_ok_and(|images| small(images.image_size())),
        ModelKind::TextAndImage => model.text_and_image().is_ok_and(|images| small(images.image_size())),
        ModelKind::Encoder | ModelKind::CausalLm | ModelKind::EncoderDecoder => true,
    };
    if is_moderate && model.max_length().is_none_or(|longest| longest >= 8) {
        let input = two_rows(model, &Value::Null, &model.device());
        // An error is an answer.
        let _ = model.forward(input, &mut Ctx::new(set));
    }
}

/// A run of the tiny task.
fn run(fixture: &Fixture, dir: PathBuf) -> Run {
    let overrides = ["train.checkpoint_every=4".to_owned(), "train.epochs=1".to_owned()];
    let recipe = Recipe::read(&fixture.task.recipe(), &overrides).expect("the recipe of the tiny task is right");
    Run {
        model_dir: fixture.task.path("model"),
        dir,
        registry: METHODS,
        device: fixture.device.clone(),
        recipe,
    }
}
