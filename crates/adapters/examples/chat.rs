//! A chat with a causal language model and an adapter.
//!
//! ```text
//! cargo run --release -p adapters --example chat
//! ```
//!
//! The model is a tiny GPT-2 with random weights, so its answer is noise: `Pretrained::open(dir)?.model(..)` loads a real one, and
//! `ChatTemplate::load(dir)` its template.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use adapters::models::gpt2::{Gpt2Config, Gpt2Model};
use adapters::models::{ChatTemplate, FromCheckpoint, Generation, Message};
use adapters::prelude::*;

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    let tokenizer = Pretrained::open(folder)?.tokenizer(64)?;
    let config = Gpt2Config {
        vocab_size: tokenizer.vocab_size(),
        n_embd: 32,
        n_layer: 2,
        n_head: 2,
        ..Default::default()
    };
    let mut model = Adapted::new(Model::new(Gpt2Model::random(config, 0, &Device::flex())?));
    model.attach(
        "manners",
        LoraConfig {
            rank: 4,
            ..Default::default()
        },
    )?;
    model.activate("manners")?;

    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("chat_template.jinja"), TEMPLATE)?;
    let template = ChatTemplate::load(dir.path())?;
    let messages = [
        Message::new("system", "You are polite."),
        Message::new("user", "Good morning!"),
    ];
    let prompt = tokenizer.encode_whole(&template.render(&messages, true)?, false)?;

    let generation = Generation {
        max_new_tokens: 12,
        ..Default::default()
    };
    for answer in generation.run(&model, &[&prompt], |_, _| ())? {
        println!("{}", tokenizer.decode(&answer)?);
    }
    Ok(())
}
