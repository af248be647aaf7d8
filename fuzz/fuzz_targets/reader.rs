//! A reader under libFuzzer: the one that the program is named by.
//!
//! The readers, their valid inputs and half of the changes are those of `adapters_testkit::fuzz`. The first byte of an input chooses
//! the valid input in whose place the others are read.

#![no_main]

use std::path::Path;

use adapters_testkit::fuzz::{READERS, Subject, Verdict, mutated};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

thread_local! {
    static SUBJECT: Subject = {
        let name = env!("CARGO_BIN_NAME").replace('_', " ");
        let reader = READERS.iter().find(|reader| reader.name == name);
        Subject::new(reader.expect("each program has the name of a reader"))
    };
}

/// Writes the valid inputs where `cargo fuzz` looks for them.
fn write_seeds() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(env!("CARGO_BIN_NAME"));
    std::fs::create_dir_all(&dir).expect("the folder of inputs can be made");
    SUBJECT.with(|subject| {
        for (index, seed) in subject.seeds().enumerate() {
            std::fs::write(dir.join(format!("seed-{index}")), seed).expect("the folder of inputs can be written");
        }
    });
}

fuzz_target!(
    init: {
        // A panic that a reader catches is no fault: only what leaves it ends the program.
        drop(std::panic::take_hook());
        write_seeds();
    },
    |input: &[u8]| {
        if let Verdict::Panicked { message, .. } = SUBJECT.with(|subject| subject.read_bytes(input)) {
            eprintln!("{message}");
            std::process::abort();
        }
    }
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 || size < 2 {
        return fuzzer_mutate(data, size, max_size);
    }
    let changed = mutated(&data[1..size], &mut ChaCha8Rng::seed_from_u64(seed.into()));
    let length = changed.len().min(max_size - 1);
    data[1..=length].copy_from_slice(&changed[..length]);
    length + 1
});
