//! The contract suite for the methods that peft alone has beside those of `contract.rs`.

use adapters::core::Format;
use adapters_testkit::contract::{self, Promises};
use burn::tensor::Device;

const PEFT: Promises = Promises {
    identity_at_init: true,
    mergeable: true,
    formats: &[Format::Peft],
};

fn check(config: &str, promises: Promises) {
    contract::all(config, promises, &Device::flex());
}

#[test]
fn beft() {
    check("beft", PEFT);
}

#[test]
fn glora() {
    check("glora[r=3]", PEFT);
    check("glora[config_A_B=vector,config_C=vector,config_D_E=vector]", PEFT);
    check("glora[config_A_B=constant,config_C=none,config_D_E=none]", PEFT);
    let random = Promises {
        identity_at_init: false,
        ..PEFT
    };
    check("glora[r=2,config_A_B=none,config_C=lora,init_weights=false]", random);
}

#[test]
fn shira() {
    check("shira[r=1]", PEFT);
    let random = Promises {
        identity_at_init: false,
        ..PEFT
    };
    check(
        "shira[r=2,random_seed=5,init_weights=false,target_modules=[key,output.dense]]",
        random,
    );
}

#[test]
fn supertuning() {
    check("supertuning[sparsity=0.8]", PEFT);
    check(
        "supertuning[sparsity=0.5,select_top=false,save_precomputed_indices=false]",
        PEFT,
    );
    check("supertuning[sparsity=0.7,r=2,lora_alpha=3]", PEFT);
}

#[test]
fn gralora() {
    check("gralora[r=4,alpha=6]", PEFT);
    check("gralora[r=8,gralora_k=4,hybrid_r=2,alpha=5,target_modules=[key]]", PEFT);
}

#[test]
fn deft() {
    let taken_out = Promises {
        identity_at_init: false,
        ..PEFT
    };
    // The frozen product and the one put in its place come to nothing but for rounding.
    check("deft[r=3,alpha=5]", taken_out);
    check("deft[r=3,decomposition_method=qr]", taken_out);
    check("deft[r=2,para=true]", taken_out);
}

#[test]
fn peanut() {
    check("peanut[r=3,scaling=2.5,act_fn=gelu]", PEFT);
    check("peanut[r=3,depth=2,scaling=1.5,act_fn=tanh]", PEFT);
}
