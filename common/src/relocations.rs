//! Numbers in the program's instructions that the loader fills in.
//!
//! Where a kernel keeps a field is known when the program is loaded, not when it is built. A global variable
//! would cost a load at every use, on a cache line of its own. So the program is built with placeholders as
//! operands, and the loader overwrites them in the instructions.

/// First placeholder in the offset of a load. The program loads nothing that lies that far from a pointer.
pub const FIELD_PLACEHOLDER: i16 = 0x7e00;
/// First placeholder in the operand of a move or an addition. The program has no other constant near it.
pub const CONST_PLACEHOLDER: i32 = 0x6d61_7200;

macro_rules! relocations {
    ($(#[$meta:meta])* $name:ident: $first:ident as $int:ty;
     $($(#[doc = $doc:literal])* $(#[cfg($condition:meta)])? $variant:ident,)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])* $(#[cfg($condition)])? $variant,)* }

        impl $name {
            /// All, in the order of their placeholders.
            pub const ALL: &[Self] = &[$($(#[cfg($condition)])? Self::$variant),*];

            /// What the instruction holds before the loader overwrites it.
            #[must_use]
            pub const fn placeholder(self) -> $int {
                $first + self as $int
            }
        }
    };
}

relocations! {
    /// A field of a kernel structure: the offset of a load.
    FieldReloc: FIELD_PLACEHOLDER as i16;
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

relocations! {
    /// A constant: the operand of a move, or of an addition to a pointer.
    ConstReloc: CONST_PLACEHOLDER as i32;
    /// Slots in the row of one CPU
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
    /// Bytes of a CPU's row, [`crate::row_bytes`]: the length of an entry, in the definition of a map
    RowBytes,
    /// 0: no wait histogram
    #[cfg(feature = "bench")]
    Histogram,
    /// 0: migrations are not counted
    #[cfg(feature = "bench")]
    Migrations,
    /// 1: a time stamp of the program's own in place of the run queue's clock
    #[cfg(feature = "bench")]
    OwnClock,
}
const _: () = assert!(FieldReloc::ALL.len() < 0x100 && ConstReloc::ALL.len() < 0x100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_relocations_share_a_placeholder() {
        for (index, field) in FieldReloc::ALL.iter().enumerate() {
            assert_eq!(
                usize::from(field.placeholder().cast_unsigned()),
                0x7e00 + index
            );
        }
        for (index, constant) in ConstReloc::ALL.iter().enumerate() {
            assert_eq!(
                constant.placeholder().cast_unsigned() as usize,
                0x6d61_7200 + index
            );
        }
    }
}
