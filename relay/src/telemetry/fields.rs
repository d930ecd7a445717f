//! The values the program is given: offsets, identity path, features.

use super::{btf::Btf, hierarchy::Hierarchy, patch::Numbers, status::Reason};
use resmgr_common::{Field, Value};

/// Numbers for the program's instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) numbers: Numbers,
    /// What this kernel cannot tell, in the words of the metrics.
    pub(super) absent: Vec<&'static str>,
}

/// Offsets without which there is nothing to measure.
const REQUIRED: [(Field, &str, &str); 14] = [
    (Field::TaskPid, "task_struct", "pid"),
    (Field::TaskFlags, "task_struct", "flags"),
    (Field::TaskSumExec, "task_struct", "se.sum_exec_runtime"),
    (Field::TaskCfsRq, "task_struct", "se.cfs_rq"),
    (Field::TaskRunDelay, "task_struct", "sched_info.run_delay"),
    (
        Field::TaskLastQueued,
        "task_struct",
        "sched_info.last_queued",
    ),
    (Field::CfsRqRq, "cfs_rq", "rq"),
    (Field::RqClock, "rq", "clock"),
    (Field::CssId, "cgroup_subsys_state", "id"),
    (Field::CssSerial, "cgroup_subsys_state", "serial_nr"),
    (Field::CssCgroup, "cgroup_subsys_state", "cgroup"),
    (Field::CssParent, "cgroup_subsys_state", "parent"),
    (Field::CgroupKn, "cgroup", "kn"),
    (Field::KnId, "kernfs_node", "id"),
];

/// Finds every field in the kernel's type information.
///
/// # Errors
/// The first field that is missing, when the program cannot do without it.
pub(super) fn find(btf: &Btf, hierarchy: &Hierarchy) -> Result<Fields, Reason> {
    let offset = |structure: &str, member: &str| {
        btf.offset(structure, member)
            .ok_or_else(|| Reason::MissingField {
                field: format!("{structure}.{member}"),
            })
    };
    let mut numbers = Numbers::default();
    // What only one kind of kernel has: read nowhere when it is not switched on below.
    for field in [Field::TaskState, Field::SetCss, Field::CfsRqThrottled] {
        numbers.fields.insert(field, 0);
    }
    for value in Value::ALL {
        let ordinary = matches!(value, Value::Histogram | Value::Migrations);
        numbers.values.insert(*value, ordinary.into());
    }
    for (field, structure, member) in REQUIRED {
        numbers.fields.insert(field, offset(structure, member)?);
    }
    let cpu = offset("task_struct", "thread_info.cpu").or_else(|_| offset("task_struct", "cpu"))?;
    numbers.fields.insert(Field::TaskCpu, cpu);
    let parameters =
        btf.parameters("btf_trace_sched_switch")
            .ok_or_else(|| Reason::MissingField {
                field: "btf_trace_sched_switch".to_owned(),
            })?;
    if parameters >= 5 {
        numbers.values.insert(Value::HasPrevState, 1);
    } else {
        let state = offset("task_struct", "__state").or_else(|_| offset("task_struct", "state"))?;
        numbers.fields.insert(Field::TaskState, state);
    }
    // The scheduler group is the nearer way, but it only tells containers apart where `cpu` is enabled.
    let group = btf
        .offset("task_struct", "sched_task_group")
        .zip(btf.offset("task_group", "css"));
    if let Some((group, css)) = group.filter(|_| hierarchy.controller == "cpu") {
        numbers.fields.insert(Field::TaskGroup, group);
        numbers.values.insert(Value::GroupCss, css);
    } else {
        let enumerator = format!("{}_cgrp_id", hierarchy.controller);
        let index = btf
            .enumerator("cgroup_subsys_id", &enumerator)
            .ok_or(Reason::MissingField { field: enumerator })?;
        let sets = offset("task_struct", "cgroups")?;
        numbers.fields.insert(Field::TaskGroup, sets);
        let css = offset("css_set", "subsys")? + index * 8;
        numbers.fields.insert(Field::SetCss, css);
        numbers.values.insert(Value::CssBySet, 1);
    }
    let mut absent = Vec::new();
    let throttled = btf
        .offset("cfs_rq", "throttled_clock_pelt_time")
        .or_else(|| btf.offset("cfs_rq", "throttled_clock_task_time"));
    match throttled {
        Some(at) => {
            numbers.fields.insert(Field::CfsRqThrottled, at);
            numbers.values.insert(Value::SplitThrottle, 1);
        }
        None => absent.push("throttled wait"),
    }
    Ok(Fields { numbers, absent })
}
