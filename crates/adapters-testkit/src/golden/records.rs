//! What a pass recorded, under the names of `expected.safetensors`: gates and the attention of fusions.

use std::collections::BTreeMap;

use adapters::Host;
use adapters::core::Tensors;
use adapters::core::{Record, Recorded, Role, Site, SiteInfo};
use burn::tensor::TensorData;

use crate::golden::case::Case;
use crate::golden::compare::each_element;

const KINDS: [&str; 2] = ["gating/", "fusion_attention/"];

/// The records by key. Gates of one adapter at one site stand side by side, in the order they arose.
pub(crate) fn by_key(records: &[Record], host: &dyn Host) -> Tensors {
    let sites = host.sites();
    let mut gates: BTreeMap<String, Vec<Vec<f32>>> = BTreeMap::new();
    let mut tensors = Tensors::new();
    for record in records {
        match &record.value {
            Recorded::Gate { adapter, scores } => {
                let key = key("gating", adapter, record.site, host, &sites);
                let [rows, columns] = scores.dims();
                let values: Vec<f32> = scores.clone().into_data().iter().collect();
                let by_column = (0..columns).map(|c| (0..rows).map(|r| values[r * columns + c]).collect());
                gates.entry(key).or_default().extend(by_column);
            }
            Recorded::FusionAttention { fusion, scores } => {
                tensors.insert(
                    key("fusion_attention", fusion, record.site, host, &sites),
                    scores.clone().into_data(),
                );
            }
        }
    }
    for (key, mut columns) in gates {
        let rows = columns[0].len();
        // A projection that serves distances too has gates there, which are of no row.
        columns.retain(|column| column.len() == rows);
        let values: Vec<f32> = (0..rows).flat_map(|r| columns.iter().map(move |c| c[r])).collect();
        let shape = match columns.len() {
            1 => vec![rows],
            n => vec![rows, n],
        };
        tensors.insert(key, TensorData::new(values, shape));
    }
    tensors
}

fn key(kind: &str, name: &str, site: Site, host: &dyn Host, sites: &[SiteInfo]) -> String {
    let info = sites.iter().find(|info| info.site == site);
    let name_of_role = match info.map_or(site.role, |info| info.hub_role) {
        Role::KeyValue => host.attention_name(site.stack).rsplit('/').next().unwrap_or_default(),
        role => role_name(role),
    };
    format!("{kind}/{name}/{}/{name_of_role}", site.layer.unwrap_or(0))
}

/// The reference's word for a role.
fn role_name(role: Role) -> &'static str {
    match role {
        Role::Query | Role::Key | Role::Value | Role::QueryKeyValue | Role::AttentionOutput => "selfattn_lora",
        Role::FfnUp | Role::FfnGate => "intermediate_lora",
        Role::FfnDown => "output_lora",
        Role::AfterAttention => "mh_adapter",
        Role::AfterCrossAttention => "cross_adapter",
        Role::AfterFfn => "output_adapter",
        _ => "elsewhere",
    }
}

/// What differs from the records a case expects; nothing is compared where it expects none.
pub(crate) fn compare(case: &Case, recorded: &Tensors, expected: &Tensors) -> Vec<String> {
    let mut problems = Vec::new();
    for kind in KINDS {
        let of_kind = |tensors: &Tensors| {
            let keys = tensors.keys().filter(|key| key.starts_with(kind)).cloned();
            keys.collect::<Vec<_>>()
        };
        let wanted = of_kind(expected);
        if wanted.is_empty() {
            continue;
        }
        if of_kind(recorded) != wanted {
            problems.push(format!(
                "{kind}* is recorded at {:?}, expected {wanted:?}",
                of_kind(recorded)
            ));
            continue;
        }
        for key in wanted {
            let comparison = each_element(&recorded[&key], &expected[&key], case.output_tolerance());
            if !comparison.within {
                problems.push(format!("{key} is off by {:.3e}", comparison.max_abs_err));
            }
        }
    }
    problems
}
