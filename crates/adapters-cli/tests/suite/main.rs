//! The tests of the command, as one program.

mod common;
#[cfg(feature = "hub")]
#[path = "../../../adapters-hub/tests/server/mod.rs"]
mod server;
mod words;

mod book;
mod command;
mod faults;
mod generate;
mod help;
#[cfg(feature = "hub")]
mod hub;
#[cfg(target_os = "linux")]
mod memory;
mod mistakes;
mod tasks;
mod training;
mod training_options;
mod writing;
