//! Readers that never panic, and runs that survive being killed; `src/bin/fuzz.rs` and `src/bin/kill_test.rs` do both at length.

use std::process::Command;

use adapters_testkit::fuzz::{READERS, Subject, Verdict};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[test]
fn no_input_makes_a_reader_panic() {
    for reader in &READERS {
        let subject = Subject::new(reader);
        let config = ProptestConfig {
            cases: 40,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let read = TestRunner::new(config).run(&any::<u64>(), |number| match subject.read(number) {
            Verdict::Panicked { message, input, .. } => {
                let input = String::from_utf8_lossy(&input).into_owned();
                Err(TestCaseError::fail(format!("{message}\n{input}")))
            }
            Verdict::Accepted | Verdict::Refused => Ok(()),
        });
        if let Err(error) = read {
            panic!("{}: {error}", reader.name);
        }
    }
}

#[test]
fn five_kills_change_nothing() {
    let program = env!("CARGO_BIN_EXE_kill_test");
    let output = Command::new(program).args(["--kills", "5"]).output().unwrap();
    let (said, failed) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}{failed}");
    assert!(said.starts_with("5 kills in "), "{said}");
}
