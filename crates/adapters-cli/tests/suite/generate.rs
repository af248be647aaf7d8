//! `adapters generate` as a user runs it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use adapters::store::{read_safetensors, write_safetensors};
use serde_json::{Value, json};

use crate::words::{golden, model};

fn generate(model: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
    command.arg("generate").arg("--model").arg(model);
    command.args(["--max-tokens", "8"]).args(args).output().unwrap()
}

fn ok(model: &Path, args: &[&str]) -> String {
    let output = generate(model, args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn texts_are_continued_alone_and_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    model("llama", dir.path(), &json!({}));
    let (one, two) = ("w5 w17 w42 w8 w61", "w33 w7");
    let streamed = ok(dir.path(), &["--prompt", one]);
    assert!((1..=8).contains(&streamed.split_whitespace().count()), "{streamed}");
    let both = ok(dir.path(), &["--prompt", one, "--prompt", two]);
    assert_eq!(both.lines().next(), streamed.lines().next());
    assert_eq!(ok(dir.path(), &["--prompt", one, "--prompt", two, "--no-cache"]), both);
    let ids = ok(dir.path(), &["--prompt", one, "--ids"]);
    assert_eq!(ids.trim(), streamed.trim().replace('w', ""));

    let adapter = golden("llama").join("cases/lora_all/adapters/a");
    let adapter = adapter.to_str().unwrap();
    let adapted = ok(dir.path(), &["--prompt", one, "--prompt", two, "--adapter", adapter]);
    assert_ne!(adapted, both);

    let random = |seed| {
        ok(
            dir.path(),
            &["--prompt", one, "--temperature", "1", "--top-k", "50", "--seed", seed],
        )
    };
    assert_eq!(random("1"), random("1"));
    assert_ne!(random("1"), random("2"));
}

#[test]
fn what_of_the_published_generation_is_not_followed_is_said() {
    let dir = tempfile::tempdir().unwrap();
    model("llama", dir.path(), &json!({}));
    let said = |published: &Value, args: &[&str]| {
        std::fs::write(dir.path().join("generation_config.json"), published.to_string()).unwrap();
        let output = generate(dir.path(), &[&["--prompt", "w5 w17"], args].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        text
    };
    let unsupported = json!({"guidance_scale": 1.5, "stop_strings": ["w3"]});
    let text = said(&unsupported, &[]);
    for part in [
        "warning: ",
        "generation_config.json sets `guidance_scale` to 1.5, which is not supported and has no effect",
        "sets `stop_strings` to [\"w3\"], which is not supported and has no effect",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("suggests"), "{text}");

    let suggested = json!({"do_sample": true, "temperature": 0.6, "top_p": 0.9});
    let text = said(&suggested, &[]);
    let hint = "suggests --temperature 0.6 --top-p 0.9; without these options the likeliest token is taken each time";
    assert!(text.contains(hint) && !text.contains("warning"), "{text}");
    assert!(!said(&suggested, &["--temperature", "0.6"]).contains("suggests"));
    assert!(said(&json!({"do_sample": true}), &[]).contains("suggests --temperature 1;"));
    assert!(said(&json!({"num_beams": 3}), &[]).contains("suggests --beams 3;"));
    assert!(!said(&json!({"num_beams": 3}), &["--beams", "2"]).contains("suggests"));
}

#[test]
fn a_chat_goes_through_the_template_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{{ 'w2 ' if m.role == 'system' else 'w4 ' }}{{ m.content }} {% endfor %}w9";
    model("llama", dir.path(), &json!({"chat_template": template}));
    let said = ok(dir.path(), &["--chat", "--system", "w5", "--prompt", "w6"]);
    assert_eq!(said, ok(dir.path(), &["--prompt", "w2 w5 w4 w6 w9"]));
    assert_ne!(said, ok(dir.path(), &["--prompt", "w6"]));
}

#[test]
fn tools_and_their_calls_reach_the_template() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% if tools %}w{{ 20 + tools | length }} {% endif %}{% for m in messages %}\
                    {{ {'user': 'w4', 'assistant': 'w6', 'tool': 'w8'}[m.role] }} \
                    {{ m.tool_calls[0].function.name if m.tool_calls else m.content }} {% endfor %}w9";
    model("llama", dir.path(), &json!({"chat_template": template}));
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let tools = json!([{"type": "function", "function": {"name": "w33"}}]);
    std::fs::write(path("tools.json"), tools.to_string()).unwrap();
    let chat = json!({"messages": [
        {"role": "user", "content": "w5"},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "w33", "arguments": {}}}]},
        {"role": "tool", "content": "w7"},
    ]});
    let mut own = chat.clone();
    own["tools"] = json!([{"name": "w34"}, {"name": "w35"}]);
    std::fs::write(path("chats.jsonl"), format!("{chat}\n{own}\n")).unwrap();

    let (tools, chats) = (path("tools.json"), path("chats.jsonl"));
    let both = [
        "--prompt",
        "w21 w4 w5 w6 w33 w8 w7 w9",
        "--prompt",
        "w22 w4 w5 w6 w33 w8 w7 w9",
    ];
    let said = ok(dir.path(), &["--messages", &chats, "--tools", &tools]);
    assert_eq!(said, ok(dir.path(), &both));
    let said = ok(dir.path(), &["--chat", "--prompt", "w5", "--tools", &tools]);
    assert_eq!(said, ok(dir.path(), &["--prompt", "w21 w4 w5 w9"]));

    // In a conversation a line may be what a tool says.
    let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
    command
        .args(["chat", "--max-tokens", "8", "--tools", &tools, "--model"])
        .arg(dir.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"/tool w7\n").unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said, ok(dir.path(), &["--prompt", "w21 w8 w7 w9"]));

    std::fs::write(path("wrong.json"), "{}").unwrap();
    for (args, part) in [
        (["--prompt", "w5", "--tools", &tools], "--tools needs a chat"),
        (
            ["--messages", &chats, "--tools", &path("wrong.json")],
            "a JSON list of objects",
        ),
        (["--messages", &chats, "--tools", &path("absent.json")], "cannot read"),
        (
            ["--max-tokens", "8", "--messages", &path("tools.json")],
            "there are no messages",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
        let output = command
            .args(["generate", "--model"])
            .arg(dir.path())
            .args(args)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        let flat = error.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(part), "{args:?}: {error}");
    }
}

#[test]
fn mistakes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    model("llama", dir.path(), &json!({}));
    for (args, code, part) in [
        (&["--prompt", "w5", "--chat"][..], 1, "no chat_template"),
        (&["--prompt", "w5", "--temperature", "0"], 1, "temperature"),
        (&["--prompt", "w5", "--max-tokens", "100"], 1, "--max-tokens sets it"),
        (
            &["--prompt", "w5", "--beams", "9223372036854775807"],
            1,
            "expected 1 to 1024",
        ),
        (&["--prompt", ""], 1, "at least one token"),
        (&["--prompt", "w5", "--top-k", "3"], 2, "--temperature"),
        (&[], 2, "--prompt"),
    ] {
        let args: Vec<&str> = args.to_vec();
        let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
        let output = command
            .arg("generate")
            .arg("--model")
            .arg(dir.path())
            .args(&args)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let flat = error.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(flat.contains(part), "{args:?}: {error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_adapter_brings_its_own_template_and_folders_above_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("models--some--base/snapshots/0123");
    std::fs::create_dir_all(&base).unwrap();
    let set = |template: &str, dir: &Path| std::fs::write(dir.join("chat_template.jinja"), template).unwrap();
    model("llama", &base, &json!({}));
    set("w4 {{ messages[0].content }} w9", &base);
    let adapter = dir.path().join("run/reviews");
    std::fs::create_dir_all(&adapter).unwrap();
    for file in ["adapter_config.json", "adapter.safetensors"] {
        let from = golden("llama").join("cases/lora_all/adapters/a").join(file);
        std::fs::copy(from, adapter.join(file)).unwrap();
    }
    let path = adapter.to_str().unwrap();
    let chat = ["--prompt", "w5 w17", "--chat", "--adapter", path];
    let of_base = ok(&base, &chat);
    set("w7 w2 {{ messages[0].content }} w11", &adapter);
    let plain = ["--prompt", "w7 w2 w5 w17 w11", "--plain", "--adapter", path];
    assert_eq!(ok(&base, &chat), ok(&base, &plain));
    assert_ne!(ok(&base, &chat), of_base);

    let fails = |model: &Path, args: &[&str]| {
        let output = generate(model, args);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let cache = dir.path().join("models--some--base");
    let said = fails(&cache, &["--prompt", "w5"])
        .split_whitespace()
        .collect::<String>();
    assert!(said.contains("snapshots/0123"), "{said}");
    let above = dir.path().join("run");
    let said = fails(&base, &["--prompt", "w5", "--adapter", above.to_str().unwrap()]);
    let said = said.split_whitespace().collect::<String>();
    assert!(said.contains("run/reviews"), "{said}");
}

/// Adapters of peft that need more than their own files: a model that uses layers several times, and the experts of a router.
#[test]
fn layers_are_replicated_and_experts_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    model("llama", dir.path(), &json!({}));
    let prompt = "w5 w17 w42 w8 w61";
    let plain = ok(dir.path(), &["--prompt", prompt]);
    let cases = golden("llama").join("cases");
    let replicated = cases.join("peft_lora_layer_replication/adapters/a");
    let replicated = ok(
        dir.path(),
        &["--prompt", prompt, "--adapter", replicated.to_str().unwrap()],
    );
    assert_ne!(replicated, plain);

    let case = cases.join("quirk_peft_xlora_layerwise/adapters");
    let folder = tempfile::tempdir().unwrap();
    for expert in ["0", "1", "2", "x"] {
        let (from, to) = (case.join(expert), folder.path().join(expert));
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        // Large enough to change which token is the likeliest.
        let config = to.join("adapter_config.json");
        let mut fields: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        if fields.get("lora_alpha").is_some() {
            fields["lora_alpha"] = json!(500);
            std::fs::write(&config, fields.to_string()).unwrap();
        }
    }
    // peft's file lacks the layers whose number is an expert's name.
    let weights = folder.path().join("x/adapter_model.safetensors");
    let (mut tensors, _) = read_safetensors(&weights).unwrap();
    tensors.extend(read_safetensors(&folder.path().join("x/extra.safetensors")).unwrap().0);
    write_safetensors(&weights, &tensors, []).unwrap();
    let router = folder.path().join("x");
    let routed = ok(dir.path(), &["--prompt", prompt, "--adapter", router.to_str().unwrap()]);
    assert_ne!(routed, plain);
    std::fs::remove_dir_all(folder.path().join("1")).unwrap();
    let output = generate(dir.path(), &["--prompt", prompt, "--adapter", router.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("../1"), "{error}");
}

/// Copies the files of a folder of the testkit's adapters over other tokens than their base, with a tokenizer of so many words.
fn with_words(name: &str, words: u32, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters-testkit/tests/vocabulary");
    for file in std::fs::read_dir(from.join(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.join(file.file_name())).unwrap();
    }
    let vocab: serde_json::Map<String, Value> = (0..words).map(|id| (format!("w{id}"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "truncation": null, "padding": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w1"},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// What is made of an adapter over other tokens than its base has these tokens too, or is refused.
#[test]
fn adapters_keep_tokens_that_their_base_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    with_words("base", 20, &dir.join("base"));
    for (name, words) in [("copies", 23), ("tokens", 23), ("trained", 23), ("cut", 17)] {
        with_words(name, words, &dir.join(name));
    }
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adapters"));
        let output = command.current_dir(dir).args(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let ok = |args: &[&str]| {
        let (code, said, error) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {error}");
        said
    };
    let fails = |args: &[&str], says: &str| {
        let (code, _, error) = run(args);
        let flat = error.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == Some(1) && flat.contains(says), "{args:?}: {flat}");
    };
    let line = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion}).to_string() + "\n";
    let added = line("w20 w5 w22", "w21 w6") + &line("w3 w21", "w20 w20");
    std::fs::write(dir.join("added.jsonl"), &added).unwrap();
    std::fs::write(
        dir.join("few.jsonl"),
        line("w3 w5 w16", "w11 w6") + &line("w3", "w2 w9"),
    )
    .unwrap();
    let loss = |adapter: &str| -> f64 {
        let data = if adapter.contains("cut") {
            "few.jsonl"
        } else {
            "added.jsonl"
        };
        let said = ok(&[
            "eval",
            "--model",
            "base",
            "--adapter",
            adapter,
            "--data",
            data,
            "--json",
        ]);
        serde_json::from_str::<Value>(&said).unwrap()["loss"].as_f64().unwrap()
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 2e-3 * a, "{a} and {b}");
    for name in ["copies", "tokens", "trained", "cut"] {
        let half = format!("half-{name}");
        ok(&[
            "convert",
            "--model",
            "base",
            "--adapter",
            name,
            "--dtype",
            "float16",
            "--out",
            &half,
        ]);
        close(loss(name), loss(&half));
        let hub = format!("hub-{name}");
        fails(
            &[
                "convert",
                "--model",
                "base",
                "--adapter",
                name,
                "--to",
                "adapterhub",
                "--out",
                &hub,
            ],
            "cannot store the embeddings",
        );

        let other = format!("again-{name}");
        with_words(name, if name == "cut" { 17 } else { 23 }, &dir.join(&other));
        let both = format!("both-{name}");
        ok(&["combine", "--model", "base", name, &other, "--out", &both]);
        close(loss(name), loss(&both));
    }
    fails(
        &["combine", "--model", "base", "copies", "cut", "--out", "mixed"],
        "the tokens of copies are 23, and those of cut are 17",
    );

    let recipe = |overrides: &str| {
        let text = format!(
            "[model]\npath = \"base\"\nmax_length = 12\n[data]\ntrain = \"added.jsonl\"\nvalidation = \"added.jsonl\"\n\
             [head]\nkind = \"causal_lm\"\n[train]\nepochs = 3\nbatch_size = 2\nlearning_rate = 0.05\nkeep = \"last\"\n{overrides}"
        );
        std::fs::write(dir.join("recipe.toml"), text).unwrap();
    };
    let mut best = loss("copies");
    let mut from = "copies".to_owned();
    for out in ["runs/first", "runs/second"] {
        recipe(&format!("[adapter]\nfrom = \"{from}\"\n"));
        ok(&["train", "recipe.toml", "--out", out]);
        from = format!("{out}/adapter");
        let trained = loss(&from);
        assert!(trained < best, "{out}: {trained}, from {best}");
        best = trained;
        let (tensors, _) = read_safetensors(&dir.join(&from).join("adapter_model.safetensors")).unwrap();
        let tables = tensors.values().filter(|data| data.shape().first() == Some(&23));
        assert_eq!(tables.count(), 2, "{out}");
    }
    assert!(!dir.join("runs/second/adapter-peft").exists());
    recipe("[adapter]\nconfig = \"lora\"\nstack_on = \"copies\"\n");
    fails(
        &["train", "recipe.toml", "--out", "runs/stacked"],
        "copies over 23 tokens, expected an adapter over the tokens of the base",
    );
    recipe("[adapter]\nfuse = [\"copies\", \"tokens\"]\n");
    fails(
        &["train", "recipe.toml", "--out", "runs/fused"],
        "copies over 23 tokens, expected an adapter over the tokens of the base, as the adapters of a composition have \
         one table of tokens: with `adapters merge` write a base with the other tokens, and train all of its adapters on it",
    );
}
