//! Places in the program's instructions that the loader fills in.
//!
//! Where a kernel keeps a field is known when the program is loaded, not when it is built. A value kept in
//! read-only memory of the program costs a load of its own at every use, on a cache line of its own.
//! So the program is built with instructions that carry a mark in place of the number, and the loader writes
//! the number into the instruction.

/// First mark in the offset of a load. Nothing the program loads from lies that far from a pointer.
pub const FIELD_MARK: i16 = 0x7e00;
/// First mark in the operand of a move or an addition. No number of the program's own is like it.
pub const VALUE_MARK: i32 = 0x6d61_7200;

macro_rules! marks {
    ($(#[$meta:meta])* $name:ident, $mark:ident: $base:ident as $int:ty; $($(#[$each:meta])* $variant:ident,)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$each])* $variant,)* }

        impl $name {
            /// All, in the order of their marks.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// What stands in the instruction before the loader has been there.
            #[must_use]
            pub const fn $mark(self) -> $int {
                $base + self as $int
            }
        }
    };
}

marks! {
    /// A field of a kernel structure: the offset of a load.
    Field, mark: FIELD_MARK as i16;
    /// `task_struct.pid`
    TaskPid,
    /// `task_struct.flags`
    TaskFlags,
    /// `task_struct.thread_info.cpu`, or `task_struct.cpu` of old
    TaskCpu,
    /// `task_struct.__state`, only read when the tracepoint does not carry it
    TaskState,
    /// `task_struct.se.sum_exec_runtime`
    TaskSumExec,
    /// `task_struct.se.cfs_rq`
    TaskCfsRq,
    /// `task_struct.sched_info.run_delay`
    TaskRunDelay,
    /// `task_struct.sched_info.last_queued`
    TaskLastQueued,
    /// `task_struct.sched_task_group` (path A) or `task_struct.cgroups` (path B)
    TaskGroup,
    /// `css_set.subsys[i]` (path B)
    SetCss,
    /// `cfs_rq.rq`
    CfsRqRq,
    /// `cfs_rq.throttled_clock_pelt_time`
    CfsRqThrottled,
    /// `rq.clock`
    RqClock,
    /// `cgroup_subsys_state.id`
    CssId,
    /// `cgroup_subsys_state.serial_nr`
    CssSerial,
    /// `cgroup_subsys_state.cgroup`
    CssCgroup,
    /// `cgroup_subsys_state.parent`
    CssParent,
    /// `cgroup.kn`
    CgroupKn,
    /// `kernfs_node.id`
    KnId,
}

marks! {
    /// A number: the operand of a move, or of an addition to a pointer.
    Value, mark: VALUE_MARK as i32;
    /// Slots in a row of the cell matrix
    Slots,
    /// NUMA nodes: side of the distance matrix
    Nodes,
    /// 1: the tracepoint's fourth argument is the state of the task that left (since 5.18)
    HasPrevState,
    /// 1: path B, the css is behind a pointer in the css set
    CssBySet,
    /// `task_group.css`, embedded (path A)
    GroupCss,
    /// 1: quota throttling is told apart from contention
    SplitThrottle,
    /// 0: no wait histogram. Only measurements of what it costs switch it off
    Histogram,
    /// 0: migrations are not booked. As above
    Migrations,
    /// 1: a time stamp of its own in place of the run queue's clock. As above
    OwnClock,
    /// Bytes of a CPU's row, [`crate::row_bytes`]: the length of an entry, in the definition of a map
    RowBytes,
}
const _: () = assert!(Field::ALL.len() < 0x100 && Value::ALL.len() < 0x100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_its_own() {
        for (index, field) in Field::ALL.iter().enumerate() {
            assert_eq!(usize::from(field.mark().cast_unsigned()), 0x7e00 + index);
        }
        for (index, value) in Value::ALL.iter().enumerate() {
            assert_eq!(value.mark().cast_unsigned() as usize, 0x6d61_7200 + index);
        }
    }
}
