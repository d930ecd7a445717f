//! The rules that decide, with the numbers they saw.

mod text;

use crate::{
    condition::Condition,
    request::{ContainerId, QosClass, Source},
    state::{
        rebalance::{Benefit, MoveStep},
        workloads::WorkloadProfile,
    },
};
use alloc::{boxed::Box, string::String, vec::Vec};
use resmgr_topology::{Cpus, MilliCpu};
use serde::{Deserialize, Serialize};

/// One reason for a decision. `Display` is the line people read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// What the container asked for, and what that is made of.
    Requested {
        /// QoS class of its pod.
        qos: QosClass,
        /// Its CPU request, thousandths of a CPU.
        cpu_milli: MilliCpu,
        /// Where the request was learnt from.
        source: Source,
        /// Whole CPUs, exclusive.
        exclusive: usize,
        /// The part served by a pool, thousandths of a CPU.
        shared_milli: MilliCpu,
    },
    /// It keeps the exclusive CPUs it held.
    KeptExclusive,
    /// Where its exclusive CPUs come from.
    TakenFrom {
        /// From there.
        source: CpuSource,
    },
    /// Its namespace runs on the reserved CPUs.
    ReservedNamespace,
    /// What the pools are after the decision.
    PoolsNow {
        /// The shared pool.
        shared: Cpus,
        /// The reserved CPUs.
        reserved: Cpus,
    },
    /// More is requested of the shared pool than it has.
    PoolOvercommitted,
    /// Its quota would throttle CPUs that are its own.
    QuotaRemoved,
    /// What its predecessors did.
    Predecessors {
        /// CPU time per second, thousandths of a CPU.
        utilisation_mcpu: u32,
        /// Run-queue wait per second, nanoseconds.
        wait_ns_per_s: u64,
        /// Migrations per second between nodes and packages, thousandths.
        far_migrations_milli_per_s: u64,
    },
    /// A rebalancing confined it, or its predecessors.
    Confined {
        /// To these CPUs.
        cpus: Cpus,
    },
    /// The shared pool borrows reserved CPUs.
    BorrowsReserved {
        /// These.
        cpus: Cpus,
    },
    /// Measurements were not used.
    NotMeasured {
        /// Why.
        condition: Condition,
    },
    /// Contention decides among what fits the topology equally well.
    TopologyThenContention,
    /// The least used list of a shared pool is taken.
    SharedPool {
        /// The pool.
        pool: String,
        /// The socket asked for.
        socket: Option<u32>,
    },
    /// Free lists of an exclusive pool are taken.
    ExclusivePool {
        /// The pool.
        pool: String,
        /// How many lists.
        lists: usize,
        /// The socket asked for.
        socket: Option<u32>,
    },
    /// Its command line is one of `cmk isolate`.
    CmkIsolate {
        /// What is run in place of it.
        program: String,
    },
    /// `STP_SOCKET_ID` is no number.
    SocketIdIgnored {
        /// What it is.
        value: String,
    },
    /// `CMK_NUM_CORES` and the requested extended resource differ.
    NumCoresIgnored {
        /// What the variable is.
        value: String,
        /// What is requested.
        requested: usize,
    },
    /// The lists it had are configured no more, or offline.
    ListsGone {
        /// These.
        lists: Vec<Cpus>,
    },
    /// The order of the lists of a pool.
    LeastContendedList {
        /// Lists that would be busier come last, thousandths.
        full_milli: u64,
    },
    /// It asked not to be pinned.
    NotPinned,
    /// It was placed before, and pools do not follow a changed request.
    KeptLists,
    /// The policy places nothing.
    PlacesNothing {
        /// The policy.
        policy: String,
    },
    /// It migrates, or waits where it is confined.
    Migrates {
        /// Migrations per second between packages, thousandths.
        package_milli_per_s: u64,
        /// The same between nodes.
        node_milli_per_s: u64,
        /// The same between last-level caches.
        llc_milli_per_s: u64,
        /// Run-queue wait per second, nanoseconds.
        wait_ns_per_s: u64,
        /// CPUs it is confined to; `None`: all of its pool.
        confined: Option<Cpus>,
    },
    /// It fits in a domain.
    Fits {
        /// What it needs, thousandths of a CPU.
        need_milli: u64,
        /// The domain.
        domain: String,
        /// What would be left of it, thousandths of a CPU.
        left_milli: u64,
    },
    /// Its exclusive CPUs are far apart.
    Scattered {
        /// Migrations per second between packages, thousandths.
        package_milli_per_s: u64,
        /// The same between nodes.
        node_milli_per_s: u64,
        /// Its CPUs.
        held: Cpus,
        /// CPUs that are close together.
        better: Cpus,
    },
    /// Others run on its exclusive CPUs.
    Intruders {
        /// For so long, nanoseconds per second.
        intruder_ns_per_s: u64,
        /// Its CPUs.
        held: Cpus,
        /// CPUs that are free.
        free: Cpus,
    },
    /// Its pod lets exclusive CPUs be exchanged.
    ExchangeAllowed,
    /// Of two shared containers one takes CPUs away from the other.
    Interferes {
        /// The container that preempts.
        aggressor: ContainerId,
        /// The container that is preempted.
        victim: ContainerId,
        /// How often, thousandths per second.
        preempted_milli_per_s: u64,
        /// How long the victim waits, nanoseconds per second.
        wait_ns_per_s: u64,
        /// CPUs the victim is confined to; `None`: all of the pool.
        victim_confined: Option<Cpus>,
        /// The same of the aggressor.
        aggressor_confined: Option<Cpus>,
    },
    /// The same, on one list of a pool.
    InterferesOnList {
        /// The container that preempts.
        aggressor: ContainerId,
        /// The container that is preempted.
        victim: ContainerId,
        /// How often, thousandths per second.
        preempted_milli_per_s: u64,
        /// How long the victim waits, nanoseconds per second.
        wait_ns_per_s: u64,
        /// The list of both.
        list: Cpus,
    },
    /// Both fit in domains that have nothing in common.
    FitApart {
        /// The container that waits.
        victim: ContainerId,
        /// Where it fits.
        victim_domain: String,
        /// The container that preempts the victim.
        aggressor: ContainerId,
        /// Where that fits.
        aggressor_domain: String,
    },
    /// It waits on its list.
    WaitsOnList {
        /// For so long, nanoseconds per second.
        wait_ns_per_s: u64,
        /// The list.
        list: Cpus,
        /// How busy that is, thousandths.
        busy_milli: u64,
    },
    /// Another list has room.
    OtherList {
        /// The list.
        list: Cpus,
        /// How busy it would be, thousandths.
        busy_with_it_milli: u64,
        /// How much less that must be than on its own list, thousandths.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        least_difference_milli: Option<u64>,
    },
    /// An idle pool lends to one that is overloaded.
    PoolOverloaded {
        /// The overloaded pool.
        borrower: String,
        /// How busy that is, thousandths.
        borrower_busy_milli: u64,
        /// From which on a pool is overloaded.
        overloaded_milli: u64,
        /// The idle pool.
        lender: String,
        /// How busy that is, thousandths.
        lender_busy_milli: u64,
        /// Up to which a pool is idle.
        idle_milli: u64,
        /// What is lent.
        cpus: Cpus,
    },
    /// A pool no longer needs what it borrows.
    LoanReturned {
        /// The pool.
        borrower: String,
        /// How busy it would be without, thousandths.
        busy_without_milli: u64,
        /// Up to which a loan goes back.
        returned_milli: u64,
    },
    /// A pool needs back what it lent.
    LoanTakenBack {
        /// The pool.
        lender: String,
        /// How busy it is, thousandths.
        busy_milli: u64,
    },
    /// What a move is to win and what it costs.
    Promise {
        /// To be won, nanoseconds per second.
        promised_ns_per_s: u64,
        /// Lost before the move, nanoseconds per second.
        lost_ns_per_s: u64,
        /// What the move costs, nanoseconds per second.
        cost_ns_per_s: u64,
        /// Over this time.
        payback_s: u64,
    },
    /// By what a move is chosen, and when it is judged.
    MoveRule {
        /// What it is to win.
        benefit: Benefit,
        /// Less than this is noise, nanoseconds per second.
        min_gain_ns_per_s: u64,
        /// When it is judged.
        judged_after_s: u64,
        /// When it is judged where it waits more than before.
        judged_waiting_after_s: u64,
    },
    /// What a move against waiting won.
    TimeWon {
        /// What it promised, nanoseconds per second.
        promised_ns_per_s: u64,
        /// What was seen.
        seen_ns_per_s: i64,
        /// What the neighbours lost more than before.
        harm_ns_per_s: i64,
        /// How long after the move.
        after_s: u64,
        /// When the move was undone: how long it is not tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cooldown_s: Option<u64>,
    },
    /// What a move against migrations won.
    RefillWon {
        /// What it promised, nanoseconds per second.
        promised_ns_per_s: u64,
        /// What was seen.
        seen_ns_per_s: i64,
        /// How long it waited before the move, nanoseconds per second.
        wait_before_ns_per_s: u64,
        /// How long it waits now.
        wait_ns_per_s: u64,
        /// What the neighbours lost more than before.
        harm_ns_per_s: i64,
        /// How long after the move.
        after_s: u64,
        /// When the move was undone: how long it is not tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cooldown_s: Option<u64>,
    },
    /// The containers that were to win by a move have ended.
    BeneficiariesGone,
    /// A move could not be judged.
    NothingMeasured {
        /// For so long.
        after_s: u64,
    },
    /// A step of a move was undone.
    MovedBack {
        /// The step back.
        step: Box<MoveStep>,
    },
    /// Containers came while a move was watched.
    ArrivedMeanwhile {
        /// How many.
        count: u64,
    },
    /// A reason that comes from outside of the policy, or that an earlier version wrote.
    #[serde(untagged)]
    Text(String),
}

/// Where exclusive CPUs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuSource {
    /// Kernel-isolated CPUs.
    Isolated,
    /// Kernel-isolated CPUs, if they make up exactly one full core.
    IsolatedCore,
    /// CPUs sliced off the pool.
    Pool,
    /// Both together.
    Either,
}

impl From<&WorkloadProfile> for Reason {
    fn from(profile: &WorkloadProfile) -> Self {
        Self::Predecessors {
            utilisation_mcpu: profile.utilisation_mcpu,
            wait_ns_per_s: profile.wait_ns_per_s,
            far_migrations_milli_per_s: profile.far_migrations_milli_per_s,
        }
    }
}

impl From<Condition> for Reason {
    fn from(condition: Condition) -> Self {
        Self::NotMeasured { condition }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
