//! Read-only values the loader fills in from the kernel's BTF and from the topology.
//!
//! The verifier knows them as constants: an offset makes a direct load, a feature switched off is
//! pruned as dead code.

use aya_ebpf::Global;

macro_rules! globals {
    ($($(#[$meta:meta])* $name:ident: $ty:ty = $value:expr;)*) => {
        $($(#[$meta])* #[unsafe(no_mangle)] pub static $name: Global<$ty> = Global::new($value);)*
    };
}

globals! {
    /// `task_struct.pid`
    OFF_TASK_PID: u32 = 0;
    /// `task_struct.flags`
    OFF_TASK_FLAGS: u32 = 0;
    /// `task_struct.__state`, only read when the tracepoint does not carry it.
    OFF_TASK_STATE: u32 = 0;
    /// `task_struct.se.sum_exec_runtime`
    OFF_TASK_SUM_EXEC: u32 = 0;
    /// `task_struct.se.cfs_rq`
    OFF_TASK_CFS_RQ: u32 = 0;
    /// `task_struct.sched_info.run_delay`
    OFF_TASK_RUN_DELAY: u32 = 0;
    /// `task_struct.sched_info.last_queued`
    OFF_TASK_LAST_QUEUED: u32 = 0;
    /// `task_struct.sched_task_group` (path A) or `task_struct.cgroups` (path B)
    OFF_TASK_GROUP: u32 = 0;
    /// `task_group.css` is embedded (path A, added to the pointer);
    /// `css_set.subsys[i]` is a pointer (path B, followed).
    OFF_GROUP_CSS: u32 = 0;
    /// 1: path B, the css is behind a pointer in the css set.
    CSS_BY_SET: u32 = 0;
    /// `cfs_rq.rq`
    OFF_CFS_RQ_RQ: u32 = 0;
    /// `cfs_rq.throttled_clock_pelt_time`
    OFF_CFS_RQ_THROTTLED: u32 = 0;
    /// `rq.clock`
    OFF_RQ_CLOCK: u32 = 0;
    /// `rq.cpu`
    OFF_RQ_CPU: u32 = 0;
    /// `cgroup_subsys_state.id`
    OFF_CSS_ID: u32 = 0;
    /// `cgroup_subsys_state.serial_nr`
    OFF_CSS_SERIAL: u32 = 0;
    /// `cgroup_subsys_state.cgroup`
    OFF_CSS_CGROUP: u32 = 0;
    /// `cgroup_subsys_state.parent`
    OFF_CSS_PARENT: u32 = 0;
    /// `cgroup.kn`
    OFF_CGROUP_KN: u32 = 0;
    /// `kernfs_node.id`
    OFF_KN_ID: u32 = 0;
    /// 1: the tracepoint's fourth argument is the state of the task that left (since 5.18).
    HAS_PREV_STATE: u32 = 0;
    /// 1: quota throttling is told apart from contention.
    SPLIT_THROTTLE: u32 = 0;
    /// 0: no wait histogram. Only measurements of what it costs switch it off.
    HISTOGRAM: u32 = 1;
    /// 0: migrations are not booked. As above.
    MIGRATIONS: u32 = 1;
    /// 1: a time stamp of its own in place of the run queue's clock. As above.
    OWN_CLOCK: u32 = 0;
    /// Slots in a row of the cell matrix.
    SLOTS: u32 = 0;
    /// NUMA nodes: side of the distance matrix.
    NODES: u32 = 0;
}
