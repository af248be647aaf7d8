//! Which triplets are kept while AdaLoRA trains.

use std::collections::BTreeMap;

use adapters_core::{ParamValues, Site, Tensors, TrainingSchedule};
use burn::tensor::TensorData;

/// The numbers of the schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) target_rank: usize,
    /// Steps before the first cut.
    pub(crate) initial: u64,
    /// Steps after the last.
    pub(crate) closing: u64,
    /// Steps from one cut to the next.
    pub(crate) every: u64,
    /// Smoothing of the sensitivity, and of its uncertainty.
    pub(crate) betas: [f64; 2],
    /// Steps of the run.
    pub(crate) total: u64,
}

impl Schedule {
    /// How many of `all` triplets are kept at `step`, `target` at the end, and whether they are chosen again then.
    fn budget(&self, step: u64, all: usize, target: usize) -> (usize, bool) {
        if step <= self.initial {
            return (all, false);
        }
        if step > self.total.saturating_sub(self.closing) {
            return (target, true);
        }
        let span = (self.total - self.closing - self.initial) as f64;
        let left = 1.0 - (step - self.initial) as f64 / span;
        let budget = (all as f64 - target as f64) * left.powi(3) + target as f64;
        (budget as usize, step.is_multiple_of(self.every))
    }
}

/// Smoothed sensitivity `|p g|` of each element, and how uncertain it is.
#[derive(Clone, Debug, Default, PartialEq)]
struct Importance {
    sensitivity: Vec<f64>,
    uncertainty: Vec<f64>,
}

impl Importance {
    fn update(&mut self, values: &TensorData, gradient: &TensorData, [b1, b2]: [f64; 2]) {
        let new: Vec<f64> = values
            .iter::<f64>()
            .zip(gradient.iter::<f64>())
            .map(|(p, g)| (p * g).abs())
            .collect();
        self.sensitivity.resize(new.len(), 0.0);
        self.uncertainty.resize(new.len(), 0.0);
        for ((s, u), new) in self.sensitivity.iter_mut().zip(&mut self.uncertainty).zip(new) {
            *s = b1 * *s + (1.0 - b1) * new;
            *u = b2 * *u + (1.0 - b2) * (new - *s).abs();
        }
    }

    fn scores(&self) -> impl Iterator<Item = f64> {
        self.sensitivity.iter().zip(&self.uncertainty).map(|(s, u)| s * u)
    }
}

/// The state of the schedule in a run.
#[derive(Debug)]
pub(crate) struct RankAllocator {
    schedule: Schedule,
    /// By site and name of the parameter.
    importance: BTreeMap<String, Importance>,
}

fn key(site: Option<Site>, param: &str) -> String {
    format!("{}/{param}", site.map_or_else(String::new, |site| site.to_string()))
}

impl RankAllocator {
    pub(crate) fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            importance: BTreeMap::new(),
        }
    }

    /// Importance of the triplets of one layer: that of the singular value and the means over its two vectors.
    fn triplets(&self, site: Option<Site>, rank: usize) -> Option<Vec<f64>> {
        let of = |param: &str| self.importance.get(&key(site, param));
        let (a, e, b) = (of("lora_A")?, of("lora_E")?, of("lora_B")?);
        let mut scores: Vec<f64> = e.scores().collect();
        let width = a.sensitivity.len() / rank;
        for (index, score) in a.scores().enumerate() {
            scores[index / width] += score / width as f64;
        }
        let height = b.sensitivity.len() / rank;
        for (index, score) in b.scores().enumerate() {
            scores[index % rank] += score / height as f64;
        }
        Some(scores)
    }
}

impl TrainingSchedule for RankAllocator {
    fn after_step(&mut self, step: u64, values: &ParamValues, gradients: &ParamValues) -> ParamValues {
        if step < self.schedule.total.saturating_sub(self.schedule.closing) {
            for (param, value) in values.iter().filter(|((_, param), _)| param.starts_with("lora_")) {
                if let Some(gradient) = gradients.get(param) {
                    let importance = self.importance.entry(key(param.0, &param.1)).or_default();
                    importance.update(value, gradient, self.schedule.betas);
                }
            }
        }
        let layers: Vec<(&(Option<Site>, String), &TensorData)> =
            values.iter().filter(|((_, param), _)| param == "lora_E").collect();
        let all: usize = layers.iter().map(|(_, e)| e.num_elements()).sum();
        let target = self.schedule.target_rank * layers.len();
        let (budget, choose) = self.schedule.budget(step, all, target);
        if !choose || budget >= all {
            return ParamValues::new();
        }
        let scores: Vec<Option<Vec<f64>>> = layers
            .iter()
            .map(|((site, _), e)| self.triplets(*site, e.num_elements()))
            .collect();
        let mut sorted: Vec<f64> = scores.iter().flatten().flatten().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let Some(threshold) = sorted.get(all - budget - 1).copied() else {
            return ParamValues::new();
        };
        layers
            .into_iter()
            .zip(scores)
            .filter_map(|((param, e), scores)| {
                let kept = e
                    .iter::<f32>()
                    .zip(scores?)
                    .map(|(e, score)| if score <= threshold { 0.0 } else { e });
                Some((param.clone(), TensorData::new(kept.collect::<Vec<f32>>(), e.shape())))
            })
            .collect()
    }

    fn state(&self) -> Tensors {
        let mut state = Tensors::new();
        for (key, importance) in &self.importance {
            for (kind, values) in [("s", &importance.sensitivity), ("u", &importance.uncertainty)] {
                state.insert(format!("{kind}/{key}"), TensorData::new(values.clone(), [values.len()]));
            }
        }
        state
    }

    fn restore(&mut self, state: Tensors) {
        for (key, data) in state {
            let values = data.iter::<f64>().collect();
            if let Some(key) = key.strip_prefix("s/") {
                self.importance.entry(key.to_owned()).or_default().sensitivity = values;
            } else if let Some(key) = key.strip_prefix("u/") {
                self.importance.entry(key.to_owned()).or_default().uncertainty = values;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        target_rank: 1,
        initial: 2,
        closing: 2,
        every: 2,
        betas: [0.85, 0.85],
        total: 12,
    };

    /// Computed with peft 0.21.2: 2 layers of rank 4 cut to 1.
    #[test]
    fn the_budget_falls_with_the_cube_of_what_is_left() {
        let budgets: Vec<(usize, bool)> = (1..=12).map(|step| SCHEDULE.budget(step, 8, 2)).collect();
        assert_eq!(
            budgets,
            [
                (8, false),
                (8, false),
                (6, false),
                (4, true),
                (3, false),
                (2, true),
                (2, false),
                (2, true),
                (2, false),
                (2, true),
                (2, true),
                (2, true)
            ]
        );
    }

    #[test]
    fn what_matters_least_is_cut_and_the_state_survives() {
        let param_of = |param: &str| (None, param.to_owned());
        let values = ParamValues::from([
            (param_of("lora_A"), TensorData::from([[1.0f32, 1.0], [1.0, 1.0]])),
            (param_of("lora_E"), TensorData::from([[1.0f32], [1.0]])),
            (param_of("lora_B"), TensorData::from([[1.0f32, 1.0], [1.0, 1.0]])),
        ]);
        let gradients = ParamValues::from([
            (param_of("lora_A"), TensorData::from([[0.1f32, 0.1], [1.0, 1.0]])),
            (param_of("lora_E"), TensorData::from([[0.1f32], [1.0]])),
            (param_of("lora_B"), TensorData::from([[0.1f32, 1.0], [0.1, 1.0]])),
        ]);
        let mut allocator = RankAllocator::new(SCHEDULE);
        for step in 1..4 {
            assert!(allocator.after_step(step, &values, &gradients).is_empty());
        }
        let mut resumed = RankAllocator::new(SCHEDULE);
        resumed.restore(allocator.state());
        for step in 4..=12 {
            let changed = allocator.after_step(step, &values, &gradients);
            assert_eq!(resumed.after_step(step, &values, &gradients), changed, "step {step}");
            if step == 12 {
                assert_eq!(changed[&param_of("lora_E")], TensorData::from([[0.0f32], [1.0]]));
            }
        }
    }
}
