//! The examples of this crate run to their ends.

#[path = "../examples/any_burn_model.rs"]
mod any_burn_model;
#[path = "../examples/burn_learner.rs"]
mod burn_learner;
#[path = "../examples/chat.rs"]
mod chat;
#[path = "../examples/classify.rs"]
mod classify;
#[path = "../examples/compose_rows.rs"]
mod compose_rows;
#[path = "../examples/merge_and_export.rs"]
mod merge_and_export;
#[path = "../examples/own_architecture.rs"]
mod own_architecture;
#[path = "../examples/own_loop.rs"]
mod own_loop;
#[path = "../examples/own_method.rs"]
mod own_method;
#[path = "../examples/own_model.rs"]
mod own_model;
#[path = "../examples/two_formats.rs"]
mod two_formats;

#[test]
fn any_burn_model_runs() {
    any_burn_model::main().unwrap();
}

#[test]
fn burn_learner_runs() {
    burn_learner::main().unwrap();
}

#[test]
fn chat_runs() {
    chat::main().unwrap();
}

#[test]
fn classify_runs() {
    classify::main().unwrap();
}

#[test]
fn compose_rows_runs() {
    compose_rows::main().unwrap();
}

#[test]
fn merge_and_export_runs() {
    merge_and_export::main().unwrap();
}

#[test]
fn own_architecture_runs() {
    own_architecture::main().unwrap();
}

#[test]
fn own_loop_runs() {
    own_loop::main().unwrap();
}

#[test]
fn own_method_runs() {
    own_method::main().unwrap();
}

#[test]
fn own_model_runs() {
    own_model::main().unwrap();
}

#[test]
fn two_formats_runs() {
    two_formats::main().unwrap();
}
