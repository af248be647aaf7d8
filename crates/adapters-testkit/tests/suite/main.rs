//! The tests of the whole on Burn's CPU backend, as one program: a test program has all of Burn in it, and linking it takes seconds.

mod absent_layers;
mod bad_input;
mod clip;
mod combine;
mod composition;
mod configs;
mod context;
mod contract;
mod contract_models;
mod contract_peft;
mod decoder;
#[cfg(feature = "capture")]
mod device_reads;
mod fused;
mod generation;
mod generation_rules;
mod golden;
mod head_cases;
mod head_files;
mod heads;
mod larger_class;
mod layer_replication;
mod models;
mod own_method;
mod positions;
mod published;
mod quantized;
mod robustness;
mod routing;
mod shared_table;
mod sizes;
mod stacks;
mod starts;
mod tokens;
mod unions;
mod vocabulary;
