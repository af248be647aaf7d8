#![doc = include_str!("../README.md")]

pub mod contract;
pub mod fuzz;
pub mod golden;
pub mod model_contract;
mod model_inputs;
pub mod published;
pub mod random_bert;
pub mod tiny_task;
