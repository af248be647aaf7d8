//! The schedules of a union's members, each with the parameters of its member.

use std::collections::HashSet;

use adapters_core::{Attached, ParamValues, Site, Tensors, TrainingSchedule};

/// The schedules of the members that have one.
#[derive(Debug)]
pub(super) struct UnionSchedule {
    members: Vec<MemberSchedule>,
}

#[derive(Debug)]
struct MemberSchedule {
    /// The member's index in the union.
    index: usize,
    /// Where the member has layers.
    sites: HashSet<Site>,
    schedule: Box<dyn TrainingSchedule>,
}

impl UnionSchedule {
    /// From the adapter of each member, in order.
    pub(super) fn new(adapters: &[Attached], steps: u64) -> Self {
        let members = adapters.iter().enumerate().filter_map(|(index, adapter)| {
            let scheduled = adapter.method().capabilities().schedule?;
            Some(MemberSchedule {
                index,
                sites: adapter.layers().map(|l| l.info.site).collect(),
                schedule: scheduled.schedule(adapter, steps),
            })
        });
        Self {
            members: members.collect(),
        }
    }
}

impl MemberSchedule {
    /// The values of this member's layers.
    fn own(&self, values: &ParamValues) -> ParamValues {
        let own = values
            .iter()
            .filter(|((site, _), _)| site.is_some_and(|site| self.sites.contains(&site)));
        own.map(|(key, data)| (key.clone(), data.clone())).collect()
    }
}

impl TrainingSchedule for UnionSchedule {
    fn after_step(&mut self, step: u64, values: &ParamValues, gradients: &ParamValues) -> ParamValues {
        let changed = self.members.iter_mut().flat_map(|member| {
            let (values, gradients) = (member.own(values), member.own(gradients));
            member.schedule.after_step(step, &values, &gradients)
        });
        changed.collect()
    }

    /// That of each member, with the member's index in front of its keys.
    fn state(&self) -> Tensors {
        let of_member = |member: &MemberSchedule| {
            let index = member.index;
            let state = member.schedule.state().into_iter();
            state.map(move |(key, data)| (format!("{index}/{key}"), data))
        };
        self.members.iter().flat_map(of_member).collect()
    }

    fn restore(&mut self, state: Tensors) {
        for member in &mut self.members {
            let prefix = format!("{}/", member.index);
            let of_member = state
                .iter()
                .filter_map(|(key, data)| Some((key.strip_prefix(&prefix)?.to_owned(), data.clone())));
            member.schedule.restore(of_member.collect());
        }
    }
}
