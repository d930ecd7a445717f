//! Layout of the maps. Padding is written out and every size is asserted.

use crate::arithmetic::BUCKETS;

/// Slot of every task that belongs to no registered cgroup.
pub const SLOT_OTHER: u32 = 0;
/// Slot of kernel threads: they belong to no container and are never intruders.
pub const SLOT_KERNEL: u32 = 1;
/// Number of slots before the first registered cgroup's.
pub const SLOTS_RESERVED: u32 = 2;
/// Entries of the css table. css ids are small dense integers; a larger one wraps, and the serial
/// number tells the difference.
pub const CSS_ENTRIES: u32 = 1 << 16;
/// Entries of the task table, indexed by the low bits of the thread id.
pub const TASK_ENTRIES: u32 = 1 << 17;
/// [`LastRun::flags`]: left the CPU while still runnable.
pub const TASK_PREEMPTED: u16 = 1;
/// [`SlotRef::flags`]: the threads do not wait on the run queues of a container's cgroup, but on those of a cgroup
/// below it, or they belong to no container.
pub const NESTED_OR_ROOT: u32 = 1;

/// [`CpuState::warned`]: a cgroup too deep below the root for its container to be found.
pub const WARN_TOO_DEEP: u32 = 1;
/// [`CpuState::warned`]: a css id beyond the css table.
pub const WARN_TOO_MANY: u32 = 2;

/// Scheduler totals of one slot on one CPU. Written by that CPU only; only ever grows.
///
/// The 32-bit counters wrap: a reader adds up wrapping differences, and reads more often than once in 2³²
/// switches (hours).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounters {
    // One cache line: all that a switch without wait and migration touches.
    /// CPU time of finished runs, nanoseconds.
    ///
    /// A run is the time between switch-in and switch-out: what `sum_exec_runtime` gains.
    pub run_ns: u64,
    /// Run-queue wait after a wake-up, quota throttling excluded, nanoseconds.
    pub wait_wake_ns: u64,
    /// Run-queue wait after a preemption, quota throttling excluded, nanoseconds.
    pub wait_preempt_ns: u64,
    /// One more than the kernel's running total at the last reading; 0 before the first.
    pub throttled_seen_ns: u64,
    /// Length of the last throttling.
    pub throttled_last_ns: u64,
    /// Run-queue clock when the last throttling was noticed.
    pub throttled_at: u64,
    /// NUMA distances of all migrations summed (ACPI SLIT, 10 is local).
    pub distance: u64,
    /// Voluntary switches: the task went to sleep.
    pub voluntary: u32,
    /// Involuntary switches: the task was preempted or still runnable.
    pub involuntary: u32,
    // The second and third cache line.
    /// Wait that was quota throttling, summed over threads, nanoseconds.
    pub wait_throttled_ns: u64,
    /// Time the container's run queue on this CPU was throttled, once however many threads waited.
    pub throttled_ns: u64,
    /// Involuntary switches after which another slot's task ran.
    pub preempted_by_others: u32,
    /// Arrivals from another CPU, by [`crate::Distance`].
    pub migrations: [u32; 5],
    /// Contention wait by [`crate::bucket`]; waits of zero are not counted.
    pub histogram: [u32; BUCKETS],
}
const _: () = assert!(size_of::<SlotCounters>() == 192);

impl SlotCounters {
    /// The word that holds both counts of switches: it changes whenever a thread of the slot is switched out.
    pub const SWITCHES_WORD: usize = core::mem::offset_of!(Self, voluntary) / 8;
}
const _: () = assert!(core::mem::offset_of!(SlotCounters, voluntary) % 8 == 0);
const _: () = assert!(core::mem::offset_of!(SlotCounters, wait_throttled_ns) == 64);
// The program adds to either of two fields by their distance from the first.
const _: () = assert!(
    core::mem::offset_of!(SlotCounters, wait_preempt_ns)
        == core::mem::offset_of!(SlotCounters, wait_wake_ns) + 8
);
const _: () = assert!(
    core::mem::offset_of!(SlotCounters, involuntary)
        == core::mem::offset_of!(SlotCounters, voluntary) + 4
);

/// Bytes of the row of one CPU: its [`CpuState`], padded to the size of [`SlotCounters`], and the counters of
/// each slot.
#[expect(clippy::cast_possible_truncation, reason = "192")]
#[must_use]
pub const fn row_bytes(slots: u32) -> u32 {
    (slots + 1) * size_of::<SlotCounters>() as u32
}

/// The slot that threads belong to. Read and written as one word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotRef {
    /// Number of the slot: a column in each CPU's row.
    pub slot: u32,
    /// [`NESTED_OR_ROOT`].
    pub flags: u32,
}
const _: () = assert!(size_of::<SlotRef>() == 8);

impl SlotRef {
    /// As one word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.slot as u64 | (self.flags as u64) << 32
    }

    /// From one word.
    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            slot: word as u32,
            flags: (word >> 32) as u32,
        }
    }
}

/// What a CPU runs now. Written by that CPU only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuState {
    /// Odd while being written; twice the switches seen on this CPU.
    pub seq: u64,
    /// Thread on the CPU; 0 is the idle task.
    pub pid: u32,
    /// Warnings given on this CPU: [`WARN_TOO_DEEP`], [`WARN_TOO_MANY`].
    pub warned: u32,
    /// Slot of that thread; while the CPU is idle, of the thread before.
    pub owner: SlotRef,
    /// The thread's CPU time when it was switched in.
    pub sum_exec_ns: u64,
    /// Run-queue clock when it was switched in; for the idle task, a little earlier.
    pub since: u64,
    /// Run-queue clock at the last calibration.
    pub calibrated_clock: u64,
    /// `CLOCK_MONOTONIC` at the last calibration; 0 before the first.
    pub calibrated_ns: u64,
    /// Look-ups that walked up the cgroup tree, wrapping.
    pub css_misses: u32,
    /// Switches that the kernel hid, as the next switch showed, wrapping.
    pub unseen: u32,
}
const _: () = assert!(size_of::<CpuState>() == 64);

impl CpuState {
    /// Switches seen on this CPU.
    #[must_use]
    pub const fn switches(&self) -> u64 {
        self.seq / 2
    }
}

/// What is known of a thread since its last switch. Never on two cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadHistory {
    /// The kernel's total wait at the switch, the wait that ended with it included, nanoseconds.
    pub run_delay_ns: u64,
    /// The kernel's total CPU time at the switch, nanoseconds.
    pub sum_exec_ns: u64,
    /// The run that began or ended with that switch.
    pub last: LastRun,
    /// Unused.
    pub _pad: u64,
}
const _: () = assert!(size_of::<ThreadHistory>() == 32);

/// A thread's last run. Read and written as one word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastRun {
    /// The thread: the index of the entry holds only its low bits.
    pub pid: u32,
    /// CPU it ran on.
    pub cpu: u16,
    /// [`TASK_PREEMPTED`]; 0 while it runs.
    pub flags: u16,
}
const _: () = assert!(size_of::<LastRun>() == 8);

impl LastRun {
    /// As one word: the low 16 bits of `cpu`, of which no kernel needs more.
    #[inline(always)]
    #[must_use]
    pub const fn word_of(pid: u64, cpu: u64, flags: u64) -> u64 {
        pid | (cpu & 0xffff) << 32 | flags << 48
    }
}

/// Slot of a cgroup, by its css id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Css {
    /// The kernel never reuses serial numbers, unlike ids. 0: nothing known.
    pub serial: u64,
    /// The slot of its threads.
    pub owner: SlotRef,
}
const _: () = assert!(size_of::<Css>() == 16);
