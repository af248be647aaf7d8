#![doc = include_str!("../README.md")]

pub mod contract;
pub mod golden;
pub mod model_contract;
pub mod random_bert;
