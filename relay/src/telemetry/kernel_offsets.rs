//! What the program needs to know of this kernel: offsets of fields, identity path, features.

use super::{btf::Btf, hierarchy::CgroupHierarchy, relocate::RelocationValues, status::OffReason};
use resmgr_common::{ConstReloc, FieldReloc};

/// Numbers for the program's instructions, as this kernel has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelOffsets {
    pub(super) values: RelocationValues,
    /// What this kernel does not count, in the words of the metrics.
    pub(super) absent: Vec<&'static str>,
}

/// Offsets without which there is nothing to measure.
const REQUIRED: [(FieldReloc, &str, &str); 14] = [
    (FieldReloc::TaskPid, "task_struct", "pid"),
    (FieldReloc::TaskFlags, "task_struct", "flags"),
    (
        FieldReloc::TaskSumExec,
        "task_struct",
        "se.sum_exec_runtime",
    ),
    (FieldReloc::TaskCfsRq, "task_struct", "se.cfs_rq"),
    (
        FieldReloc::TaskRunDelay,
        "task_struct",
        "sched_info.run_delay",
    ),
    (
        FieldReloc::TaskLastQueued,
        "task_struct",
        "sched_info.last_queued",
    ),
    (FieldReloc::CfsRqRq, "cfs_rq", "rq"),
    (FieldReloc::RqClock, "rq", "clock"),
    (FieldReloc::CssId, "cgroup_subsys_state", "id"),
    (FieldReloc::CssSerial, "cgroup_subsys_state", "serial_nr"),
    (FieldReloc::CssCgroup, "cgroup_subsys_state", "cgroup"),
    (FieldReloc::CssParent, "cgroup_subsys_state", "parent"),
    (FieldReloc::CgroupKn, "cgroup", "kn"),
    (FieldReloc::KnId, "kernfs_node", "id"),
];

/// Finds every field in the kernel's type information.
///
/// # Errors
/// The first field that is missing, when the program cannot do without it.
pub(super) fn find(btf: &Btf, hierarchy: &CgroupHierarchy) -> Result<KernelOffsets, OffReason> {
    let offset = |structure: &str, member: &str| {
        btf.offset(structure, member)
            .ok_or_else(|| OffReason::MissingField {
                field: format!("{structure}.{member}"),
            })
    };
    let mut values = RelocationValues::default();
    // Only some kernels have these fields; the program reads them only where a constant below allows it.
    for field in [
        FieldReloc::TaskState,
        FieldReloc::SetCss,
        FieldReloc::CfsRqThrottled,
    ] {
        values.offsets.insert(field, 0);
    }
    let off = [
        ConstReloc::HasPrevState,
        ConstReloc::CssBySet,
        ConstReloc::GroupCss,
        ConstReloc::SplitThrottle,
    ];
    values.constants.extend(off.map(|constant| (constant, 0)));
    for (field, structure, member) in REQUIRED {
        values.offsets.insert(field, offset(structure, member)?);
    }
    let cpu = offset("task_struct", "thread_info.cpu").or_else(|_| offset("task_struct", "cpu"))?;
    values.offsets.insert(FieldReloc::TaskCpu, cpu);
    let parameters =
        btf.parameters("btf_trace_sched_switch")
            .ok_or_else(|| OffReason::MissingField {
                field: "btf_trace_sched_switch".to_owned(),
            })?;
    if parameters >= 5 {
        values.constants.insert(ConstReloc::HasPrevState, 1);
    } else {
        let state = offset("task_struct", "__state").or_else(|_| offset("task_struct", "state"))?;
        values.offsets.insert(FieldReloc::TaskState, state);
    }
    // The scheduler group is fewer loads away, but it tells containers apart only where `cpu` is enabled.
    let group = btf
        .offset("task_struct", "sched_task_group")
        .zip(btf.offset("task_group", "css"));
    if let Some((group, css)) = group.filter(|_| hierarchy.controller == "cpu") {
        values.offsets.insert(FieldReloc::TaskGroup, group);
        values.constants.insert(ConstReloc::GroupCss, css);
    } else {
        let enumerator = format!("{}_cgrp_id", hierarchy.controller);
        let index = btf
            .enumerator("cgroup_subsys_id", &enumerator)
            .ok_or(OffReason::MissingField { field: enumerator })?;
        let sets = offset("task_struct", "cgroups")?;
        values.offsets.insert(FieldReloc::TaskGroup, sets);
        let css = offset("css_set", "subsys")? + index * 8;
        values.offsets.insert(FieldReloc::SetCss, css);
        values.constants.insert(ConstReloc::CssBySet, 1);
    }
    let mut absent = Vec::new();
    let throttled = btf
        .offset("cfs_rq", "throttled_clock_pelt_time")
        .or_else(|| btf.offset("cfs_rq", "throttled_clock_task_time"));
    match throttled {
        Some(at) => {
            values.offsets.insert(FieldReloc::CfsRqThrottled, at);
            values.constants.insert(ConstReloc::SplitThrottle, 1);
        }
        None => absent.push("throttled wait"),
    }
    Ok(KernelOffsets { values, absent })
}
