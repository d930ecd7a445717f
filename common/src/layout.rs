//! Layout of the maps. Padding is written out and every size is asserted.

use crate::arithmetic::BUCKETS;

/// Slot of every task that belongs to no registered container.
pub const SLOT_OTHER: u32 = 0;
/// Slot of kernel threads: they belong to nobody and are never intruders.
pub const SLOT_KERNEL: u32 = 1;
/// Slots before the first container's.
pub const SLOTS_RESERVED: u32 = 2;
/// Entries of the css table. css ids are small dense integers; a larger one wraps, and the serial
/// number tells the difference.
pub const CSS_ENTRIES: u32 = 1 << 16;
/// Entries of the task table, indexed by the low bits of the thread id.
pub const TASK_ENTRIES: u32 = 1 << 17;
/// [`LastRun::flags`]: left the CPU while still runnable.
pub const TASK_PREEMPTED: u16 = 1;
/// [`Owner::flags`]: its threads wait elsewhere than on the run queues of a registered cgroup: on those of
/// a cgroup below it, or they belong to none.
pub const OWNER_APART: u32 = 1;

/// [`Record::told`]: a cgroup too deep below the root for its owner to be found.
pub const TOLD_DEEP: u32 = 1;
/// [`Record::told`]: a css id beyond the css table.
pub const TOLD_WIDE: u32 = 2;

/// Scheduler totals of one slot on one CPU. Written by that CPU only; only ever grows.
///
/// The 32-bit counters wrap; a reader that looks more often than once in 2³² switches (hours) adds
/// up wrapping differences.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    // One cache line: all that a switch without wait and migration touches.
    /// CPU time of finished stints, nanoseconds.
    pub run_ns: u64,
    /// Run-queue wait after a wake-up, quota throttling excluded, nanoseconds.
    pub wait_wake_ns: u64,
    /// Run-queue wait after a preemption, quota throttling excluded, nanoseconds.
    pub wait_preempt_ns: u64,
    /// One more than the kernel's running total at the last look; 0 before the first.
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
    // The rest.
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
const _: () = assert!(size_of::<Cell>() == 192);

impl Cell {
    /// The word that holds both counts of switches: it changes whenever somebody of the slot leaves.
    pub const SWITCHES_WORD: usize = core::mem::offset_of!(Self, voluntary) / 8;
}
const _: () = assert!(core::mem::offset_of!(Cell, voluntary) % 8 == 0);
const _: () = assert!(core::mem::offset_of!(Cell, wait_throttled_ns) == 64);
// The program adds to one of two by adding to the place of the first.
const _: () = assert!(
    core::mem::offset_of!(Cell, wait_preempt_ns) == core::mem::offset_of!(Cell, wait_wake_ns) + 8
);
const _: () =
    assert!(core::mem::offset_of!(Cell, involuntary) == core::mem::offset_of!(Cell, voluntary) + 4);

/// Bytes of the row of one CPU: its [`Record`], which takes the place of a cell, and its cells.
#[expect(clippy::cast_possible_truncation, reason = "192")]
#[must_use]
pub const fn row_bytes(slots: u32) -> u32 {
    (slots + 1) * size_of::<Cell>() as u32
}

/// Whom threads belong to. Read and written as one word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Column of the cell matrix.
    pub slot: u32,
    /// [`OWNER_APART`].
    pub flags: u32,
}
const _: () = assert!(size_of::<Owner>() == 8);

impl Owner {
    /// As one word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.slot as u64 | (self.flags as u64) << 32
    }

    /// From one word.
    #[expect(clippy::cast_possible_truncation, reason = "each half is taken")]
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
pub struct Record {
    /// Odd while being written; twice the switches seen on this CPU.
    pub seq: u64,
    /// Thread on the CPU; 0 is the idle task.
    pub pid: u32,
    /// What the program has told of this CPU: [`TOLD_DEEP`], [`TOLD_WIDE`].
    pub told: u32,
    /// Whose thread; of the idle task, whoever ran before.
    pub owner: Owner,
    /// The thread's CPU time when it was switched in.
    pub sum_exec_ns: u64,
    /// Run-queue clock when it was switched in; of the idle task, a little before that.
    pub since: u64,
    /// Run-queue clock at the last calibration.
    pub calibrated_clock: u64,
    /// `CLOCK_MONOTONIC` at the last calibration; 0 before the first.
    pub calibrated_ns: u64,
    /// Look-ups that had to walk up the cgroup tree, wrapping.
    pub css_misses: u32,
    /// Switches that were not seen, as the next one showed, wrapping.
    pub unseen: u32,
}
const _: () = assert!(size_of::<Record>() == 64);

impl Record {
    /// Switches seen on this CPU.
    #[must_use]
    pub const fn switches(&self) -> u64 {
        self.seq / 2
    }
}

/// Memory of a thread since its last switch. Never on two cache lines.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// The kernel's total wait at the switch, the wait that ended with it included, nanoseconds.
    pub run_delay_ns: u64,
    /// The kernel's total CPU time at the switch, nanoseconds.
    pub sum_exec_ns: u64,
    /// The run that began or ended with the switch.
    pub last: LastRun,
    /// Unused.
    pub _pad: u64,
}
const _: () = assert!(size_of::<Task>() == 32);

/// Who ran where, and how it ended. Read and written as one word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastRun {
    /// Thread this entry is about: the index holds only its low bits.
    pub pid: u32,
    /// CPU it ran on.
    pub cpu: u16,
    /// [`TASK_PREEMPTED`]; 0 while it runs.
    pub flags: u16,
}
const _: () = assert!(size_of::<LastRun>() == 8);

impl LastRun {
    /// As one word: `cpu` without the bits beyond sixteen, which no kernel's CPUs need.
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
    /// Whose threads are in it.
    pub owner: Owner,
}
const _: () = assert!(size_of::<Css>() == 16);
