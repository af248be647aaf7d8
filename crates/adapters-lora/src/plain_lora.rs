//! An adapter that was initialized from the weight (PiSSA, OLoRA), as plain LoRA.

use adapters_core::{AnyMethod, Attached, Error, Host};
use burn::tensor::{Tensor, TensorData};

use crate::init::Init;
use crate::lora_config::LoraConfig;
use crate::scaling::Scaling;

/// `s B A - s B0 A0` as one product of twice the rank: `[B, -B0] [A; A0]`, which every reader of LoRA understands and which
/// acts on the published weight.
pub(crate) fn as_plain_lora(config: &LoraConfig, adapter: &Attached, host: &dyn Host) -> Result<Attached, Error> {
    let factor = match config.scaling {
        Scaling::RankStabilized => 2f64.sqrt(),
        Scaling::Standard | Scaling::Gated => 2.0,
    };
    let plain = LoraConfig {
        rank: config.rank * 2,
        alpha: config.alpha * factor,
        rank_pattern: config.rank_pattern.iter().map(|(k, r)| (k.clone(), r * 2)).collect(),
        alpha_pattern: config
            .alpha_pattern
            .iter()
            .map(|(k, a)| (k.clone(), a * factor))
            .collect(),
        init: Init::Lora,
        ..config.clone()
    };
    let method = AnyMethod::new(plain)?;
    let sites = adapter.layers().map(|l| l.info.clone()).collect();
    let device = adapter.device().unwrap_or_default();
    let mut values = adapter.values();
    let keys: Vec<_> = values.keys().filter(|(_, param)| param == "lora_A").cloned().collect();
    for (site, _) in keys {
        let mut take = |param: &str| values.remove(&(site, param.to_owned()));
        let (a, b) = (take("lora_A"), take("lora_B"));
        let (a0, b0) = (take("lora_A_initial"), take("lora_B_initial"));
        if let (Some(a), Some(b), Some(a0), Some(b0)) = (a, b, a0, b0) {
            let tensor = |data: TensorData| Tensor::<2>::from_data(data, &device);
            let a = Tensor::cat(vec![tensor(a), tensor(a0)], 0);
            let b = Tensor::cat(vec![tensor(b), -tensor(b0)], 1);
            values.insert((site, "lora_A".to_owned()), a.into_data());
            values.insert((site, "lora_B".to_owned()), b.into_data());
        }
    }
    Ok(Attached::build(adapter.name(), method, sites, host, 0, &device)?.with_values(values))
}
