//! What the members of a union do in training.

use std::collections::BTreeSet;

use adapters::core::{Attached, ParamValues};
use adapters_testkit::contract::Bench;
use burn::tensor::Device;

/// Each member of a union trains as it does alone: with its own schedule, from a checkpoint too, and its own penalty.
#[test]
fn members_of_a_union_keep_schedule_and_penalty() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let members = [
        "adalora[init_r=4,target_r=1,target_modules=[query]]",
        "oft[oft_block_size=4,coft=true,eps=0.1,target_modules=[value]]",
        "adalora[init_r=3,target_r=2,orth_reg_weight=2,target_modules=[key]]",
    ];
    let union = bench.attach_random(&members.join("|"));
    let adapter = union.attached("under_test").unwrap();
    let schedule = |adapter: &Attached| {
        let method = adapter.method().capabilities().schedule.unwrap();
        method.schedule(adapter, 10)
    };
    let values = adapter.values();
    let (mut together, mut resumed) = (schedule(adapter), schedule(adapter));
    let (mut expected, mut penalty) = (ParamValues::new(), 0.0);
    let mut alone = Vec::new();
    for config in members {
        let mut set = bench.attach(config);
        let own = set.attached("under_test").unwrap().values().into_keys();
        let own: ParamValues = own.map(|key| (key.clone(), values[&key].clone())).collect();
        set.put_values("under_test", own.clone()).unwrap();
        penalty += set.penalty().map_or(0.0, |penalty| penalty.into_scalar::<f32>());
        alone.push((schedule(set.attached("under_test").unwrap()), own));
    }
    for step in 1..=10 {
        resumed.restore(together.state());
        let changed = together.after_step(step, &values, &values);
        assert_eq!(resumed.after_step(step, &values, &values), changed, "step {step}");
        expected.clear();
        for (schedule, own) in &mut alone {
            expected.extend(schedule.after_step(step, own, own));
        }
        assert_eq!(changed, expected, "step {step}");
    }
    let kinds: BTreeSet<&str> = expected.keys().map(|(_, param)| param.as_str()).collect();
    assert_eq!(
        kinds,
        BTreeSet::from(["lora_E", "oft_R.weight"]),
        "every schedule changes something"
    );
    let found = union.penalty().unwrap().into_scalar::<f32>();
    assert!((found / penalty - 1.0).abs() < 1e-5, "{found} and {penalty}");
}
