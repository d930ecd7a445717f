//! The values the program is given: offsets, identity path, features.

use super::{btf::Btf, hierarchy::Hierarchy, status::Reason};

/// Values for the program's globals, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) globals: Vec<(&'static str, u32)>,
    /// What this kernel cannot tell, in the words of the metrics.
    pub(super) absent: Vec<&'static str>,
}

/// Offsets without which there is nothing to measure.
const REQUIRED: [(&str, &str, &str); 14] = [
    ("OFF_TASK_PID", "task_struct", "pid"),
    ("OFF_TASK_FLAGS", "task_struct", "flags"),
    ("OFF_TASK_SUM_EXEC", "task_struct", "se.sum_exec_runtime"),
    ("OFF_TASK_CFS_RQ", "task_struct", "se.cfs_rq"),
    ("OFF_TASK_RUN_DELAY", "task_struct", "sched_info.run_delay"),
    (
        "OFF_TASK_LAST_QUEUED",
        "task_struct",
        "sched_info.last_queued",
    ),
    ("OFF_CFS_RQ_RQ", "cfs_rq", "rq"),
    ("OFF_RQ_CLOCK", "rq", "clock"),
    ("OFF_CSS_ID", "cgroup_subsys_state", "id"),
    ("OFF_CSS_SERIAL", "cgroup_subsys_state", "serial_nr"),
    ("OFF_CSS_CGROUP", "cgroup_subsys_state", "cgroup"),
    ("OFF_CSS_PARENT", "cgroup_subsys_state", "parent"),
    ("OFF_CGROUP_KN", "cgroup", "kn"),
    ("OFF_KN_ID", "kernfs_node", "id"),
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
    let mut globals = Vec::with_capacity(24);
    for (name, structure, member) in REQUIRED {
        globals.push((name, offset(structure, member)?));
    }
    globals.push(("OFF_RQ_CPU", offset("rq", "cpu")?));
    let parameters =
        btf.parameters("btf_trace_sched_switch")
            .ok_or_else(|| Reason::MissingField {
                field: "btf_trace_sched_switch".to_owned(),
            })?;
    if parameters >= 5 {
        globals.push(("HAS_PREV_STATE", 1));
    } else {
        let state = offset("task_struct", "__state").or_else(|_| offset("task_struct", "state"))?;
        globals.push(("OFF_TASK_STATE", state));
    }
    // The scheduler group is the nearer way, but it only tells containers apart where `cpu` is enabled.
    let group = btf
        .offset("task_struct", "sched_task_group")
        .zip(btf.offset("task_group", "css"));
    if let Some((group, css)) = group.filter(|_| hierarchy.controller == "cpu") {
        globals.extend([("OFF_TASK_GROUP", group), ("OFF_GROUP_CSS", css)]);
    } else {
        let enumerator = format!("{}_cgrp_id", hierarchy.controller);
        let index = btf
            .enumerator("cgroup_subsys_id", &enumerator)
            .ok_or(Reason::MissingField { field: enumerator })?;
        globals.extend([
            ("OFF_TASK_GROUP", offset("task_struct", "cgroups")?),
            ("OFF_GROUP_CSS", offset("css_set", "subsys")? + index * 8),
            ("CSS_BY_SET", 1),
        ]);
    }
    let mut absent = Vec::new();
    let throttled = btf
        .offset("cfs_rq", "throttled_clock_pelt_time")
        .or_else(|| btf.offset("cfs_rq", "throttled_clock_task_time"));
    match throttled {
        Some(at) => globals.extend([("OFF_CFS_RQ_THROTTLED", at), ("SPLIT_THROTTLE", 1)]),
        None => absent.push("throttled wait"),
    }
    Ok(Fields { globals, absent })
}
