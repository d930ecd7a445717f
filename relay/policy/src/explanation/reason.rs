//! The rules that decide, with the numbers they saw.

use crate::{
    condition::Condition,
    cpu_list::{listed, listed_or},
    request::{ContainerId, QosClass, Source, cmk_isolate::EXCLUSIVE_CORES},
    state::{
        rebalance::{Benefit, MoveStep},
        workloads::WorkloadProfile,
    },
};
use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::fmt;
use derive_more::Display;
use resmgr_topology::{CoreKind, Cpus, MilliCpu};
use serde::{Deserialize, Serialize};

/// One reason for a decision. `Display` is the line people read.
#[derive(Clone, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// What the container asked for, and what that is made of.
    #[display(
        "{qos:?} pod, {cpu_milli}m CPU requested ({source}): {exclusive} exclusive, {shared_milli}m shared"
    )]
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
    #[display("kept what it held")]
    KeptExclusive,
    /// Where its exclusive CPUs come from.
    #[display("{source}")]
    TakenFrom {
        /// From there.
        source: CpuSource,
    },
    /// Which cores of a hybrid processor its exclusive CPUs are of.
    #[display("{}", of_kind(*cores))]
    CoresOfKind {
        /// The kind; `None`: of both.
        cores: Option<CoreKind>,
    },
    /// Its namespace runs on the reserved CPUs.
    #[display("its namespace runs on the reserved CPUs")]
    ReservedNamespace,
    /// What the pools are after the decision.
    #[display("shared pool now {}, reserved {}", listed(shared), listed(reserved))]
    PoolsNow {
        /// The shared pool.
        shared: Cpus,
        /// The reserved CPUs.
        reserved: Cpus,
    },
    /// More is requested of the shared pool than it has.
    #[display("the shared pool is over-committed: reserved CPUs are added")]
    PoolOvercommitted,
    /// Its quota would throttle CPUs that are its own.
    #[display("quota removed: its CPUs are its own")]
    QuotaRemoved,
    /// What its predecessors did.
    #[display(
        "its predecessors used {utilisation_mcpu}m, waited {} ms/s, migrated far {} times a second",
        wait_ns_per_s / 1_000_000,
        far_migrations_milli_per_s / 1000
    )]
    Predecessors {
        /// CPU time per second, thousandths of a CPU.
        utilisation_mcpu: u32,
        /// Run-queue wait per second, nanoseconds.
        wait_ns_per_s: u64,
        /// Migrations per second between nodes and packages, thousandths.
        far_migrations_milli_per_s: u64,
    },
    /// A rebalancing confined it, or its predecessors.
    #[display("confined to {cpus}, where a rebalancing had put it or its predecessors")]
    Confined {
        /// To these CPUs.
        cpus: Cpus,
    },
    /// The shared pool borrows reserved CPUs.
    #[display("the shared pool borrows CPUs {cpus} of the reserved ones")]
    BorrowsReserved {
        /// These.
        cpus: Cpus,
    },
    /// Measurements were not used.
    #[display("{condition}")]
    NotMeasured {
        /// Why.
        condition: Condition,
    },
    /// Contention decides among what fits the topology equally well.
    #[display(
        "rule: what fits the topology best; among equals the least busy cores and caches, and those whose \
         containers wait least"
    )]
    TopologyThenContention,
    /// The least used list of a shared pool is taken.
    #[display("pool {pool:?} is shared: the least used list{}", on_socket(*socket))]
    SharedPool {
        /// The pool.
        pool: String,
        /// The socket asked for.
        socket: Option<u32>,
    },
    /// Free lists of an exclusive pool are taken.
    #[display("pool {pool:?} is exclusive: {lists} free lists{}", on_socket(*socket))]
    ExclusivePool {
        /// The pool.
        pool: String,
        /// How many lists.
        lists: usize,
        /// The socket asked for.
        socket: Option<u32>,
    },
    /// Its command line is one of `cmk isolate`.
    #[display("cmk isolate on its command line; {program} is run")]
    CmkIsolate {
        /// What is run in place of it.
        program: String,
    },
    /// `STP_SOCKET_ID` is no number.
    #[display("STP_SOCKET_ID {value:?} is not an integer: ignored")]
    SocketIdIgnored {
        /// What it is.
        value: String,
    },
    /// `CMK_NUM_CORES` and the requested extended resource differ.
    #[display(
        "CMK_NUM_CORES is {value}, but {requested} of {EXCLUSIVE_CORES} are requested: the latter counts"
    )]
    NumCoresIgnored {
        /// What the variable is.
        value: String,
        /// What is requested.
        requested: usize,
    },
    /// The lists it had are configured no more, or offline.
    #[display("its lists {lists:?} are gone")]
    ListsGone {
        /// These.
        lists: Vec<Cpus>,
    },
    /// The order of the lists of a pool.
    #[display(
        "rule: lists that would be over {full_milli} of 1000 busy with it last; then by busy time with it in \
         quarters, measured wait of those on them, busy time with it, busy time around it, requests, configuration"
    )]
    LeastContendedList {
        /// Lists that would be busier come last, thousandths.
        full_milli: u64,
    },
    /// It asked not to be pinned.
    #[display("not pinned, as it asked: CMK_CPUS_ASSIGNED tells it its CPUs")]
    NotPinned,
    /// It was placed before, and pools do not follow a changed request.
    #[display("placed before; pools do not follow a changed request")]
    KeptLists,
    /// The policy places nothing.
    #[display("the policy {policy} places nothing")]
    PlacesNothing {
        /// The policy.
        policy: String,
    },
    /// It migrates, or waits where it is confined.
    #[display(
        "{} migrations/s between packages, {} between nodes, {} between caches, {} µs/s waited on {}",
        package_milli_per_s / 1000,
        node_milli_per_s / 1000,
        llc_milli_per_s / 1000,
        wait_ns_per_s / 1000,
        listed_or(confined.as_deref(), "all of its pool")
    )]
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
    #[display("needs {need_milli}m, fits in {domain}: {left_milli}m would still be free")]
    Fits {
        /// What it needs, thousandths of a CPU.
        need_milli: u64,
        /// The domain.
        domain: String,
        /// What would be left of it, thousandths of a CPU.
        left_milli: u64,
    },
    /// Its exclusive CPUs are far apart.
    #[display(
        "{} migrations/s between packages, {} between nodes: its CPUs {held} are scattered, {better} are not",
        package_milli_per_s / 1000,
        node_milli_per_s / 1000
    )]
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
    #[display("others ran {} µs/s on its CPUs {held}; {free} are free", intruder_ns_per_s / 1000)]
    Intruders {
        /// For so long, nanoseconds per second.
        intruder_ns_per_s: u64,
        /// Its CPUs.
        held: Cpus,
        /// CPUs that are free.
        free: Cpus,
    },
    /// Its pod lets exclusive CPUs be exchanged.
    #[display("its pod lets exclusive CPUs be exchanged (annotation rebalance-exclusive)")]
    ExchangeAllowed,
    /// Of two shared containers one takes CPUs away from the other.
    #[display(
        "{aggressor} preempts {victim} {} times a second; the victim waits {} µs/s; they run on {} and {}",
        preempted_milli_per_s / 1000,
        wait_ns_per_s / 1000,
        listed_or(victim_confined.as_deref(), "all of the pool"),
        listed_or(aggressor_confined.as_deref(), "all of the pool")
    )]
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
    #[display(
        "{aggressor} preempts {victim} {} times a second on list {list}; the victim waits {} µs/s",
        preempted_milli_per_s / 1000,
        wait_ns_per_s / 1000
    )]
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
    #[display("{victim} fits in {victim_domain}, {aggressor} in {aggressor_domain}")]
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
    #[display("waited {} µs/s on list {list}, {busy_milli} of 1000 busy", wait_ns_per_s / 1000)]
    WaitsOnList {
        /// For so long, nanoseconds per second.
        wait_ns_per_s: u64,
        /// The list.
        list: Cpus,
        /// How busy that is, thousandths.
        busy_milli: u64,
    },
    /// Another list has room.
    #[display(
        "list {list} would be {busy_with_it_milli} of 1000 busy with it{}",
        optional(*least_difference_milli, ", at least ", " less")
    )]
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
    #[display(
        "pool {borrower} starves ({borrower_busy_milli} of 1000 busy, at least {overloaded_milli}), pool \
         {lender} is idle ({lender_busy_milli}, at most {idle_milli}): it lends {cpus}"
    )]
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
    #[display(
        "pool {borrower} would be {busy_without_milli} of 1000 busy without what it borrows, at most \
         {returned_milli}"
    )]
    LoanReturned {
        /// The pool.
        borrower: String,
        /// How busy it would be without, thousandths.
        busy_without_milli: u64,
        /// Up to which a loan goes back.
        returned_milli: u64,
    },
    /// A pool needs back what it lent.
    #[display(
        "pool {lender} starves itself ({busy_milli} of 1000 busy): it takes back what it lent"
    )]
    LoanTakenBack {
        /// The pool.
        lender: String,
        /// How busy it is, thousandths.
        busy_milli: u64,
    },
    /// What a move is to win and what it costs.
    #[display(
        "promises {} µs/s of {} µs/s lost to waiting and cache refill; moving its memory and warming caches \
         costs {} µs/s over {payback_s} s",
        promised_ns_per_s / 1000,
        lost_ns_per_s / 1000,
        cost_ns_per_s / 1000
    )]
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
    #[display(
        "{}",
        move_rule(*benefit, *min_gain_ns_per_s, *judged_after_s)
    )]
    MoveRule {
        /// What it is to win.
        benefit: Benefit,
        /// Less than this is noise, nanoseconds per second.
        min_gain_ns_per_s: u64,
        /// When it is judged at the latest.
        judged_after_s: u64,
    },
    /// What a move against waiting won.
    #[display(
        "promised {} µs/s less waiting and cache refill, seen {} µs/s{}",
        promised_ns_per_s / 1000,
        seen_ns_per_s / 1000,
        verdict(*harm_ns_per_s, *after_s, *cooldown_s, *certainty)
    )]
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
        /// What it was compared with; `None` of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certainty: Option<Certainty>,
    },
    /// What a move against migrations won.
    #[display(
        "promised {} µs/s less cache refill, seen {} µs/s, and {} µs/s waited where it was {} µs/s,{}",
        promised_ns_per_s / 1000,
        seen_ns_per_s / 1000,
        wait_ns_per_s / 1000,
        wait_before_ns_per_s / 1000,
        verdict(*harm_ns_per_s, *after_s, *cooldown_s, *certainty)
    )]
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
        /// What it was compared with; `None` of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certainty: Option<Certainty>,
    },
    /// The containers that were to win by a move have ended.
    #[display("those for whose sake it was made are gone: it stays")]
    BeneficiariesGone,
    /// A move could not be judged.
    #[display("nothing could be measured in {after_s} s: it stays")]
    NothingMeasured {
        /// For so long.
        after_s: u64,
    },
    /// A step of a move was undone.
    #[display("moved back: {step}")]
    MovedBack {
        /// The step back.
        step: Box<MoveStep>,
    },
    /// Containers came while a move was watched.
    #[display(
        "containers came meanwhile ({count}), which make all wait more: it rests only so long"
    )]
    ArrivedMeanwhile {
        /// How many.
        count: u64,
    },
    /// A reason that comes from outside of the policy, or that an earlier version wrote.
    #[display("{_0}")]
    #[serde(untagged)]
    Text(String),
}

/// Where exclusive CPUs come from.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuSource {
    /// Kernel-isolated CPUs.
    #[display("kernel-isolated CPUs are free and preferred")]
    Isolated,
    /// Kernel-isolated CPUs, if they make up exactly one full core.
    #[display("one full kernel-isolated core is free")]
    IsolatedCore,
    /// CPUs sliced off the pool.
    #[display("sliced off the shared pool: whole cores close together first")]
    Pool,
    /// Both together.
    #[display("too few of one kind: from the shared pool and isolated CPUs")]
    Either,
}

/// What a move was compared with, and how sure the verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certainty {
    /// Containers that the move did not touch; 0: it was compared with what was before alone.
    pub compared: u32,
    /// Rounds in which it was.
    pub rounds: u32,
    /// How sure the verdict is, percent.
    pub sure_percent: u8,
    /// The time for a verdict ran out: it is the likelier one.
    #[serde(default)]
    pub timed_out: bool,
    /// Time per second stolen from the CPUs of the moved container by now, thousandths; this part of its wait is taken
    /// out.
    #[serde(default)]
    pub stolen_milli: u64,
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.compared {
            0 => write!(
                f,
                "compared with before alone, as the move touched every container that was measured"
            )?,
            1 => write!(f, "compared with a container that the move did not touch")?,
            compared => write!(
                f,
                "compared with {compared} containers that the move did not touch"
            )?,
        }
        if self.stolen_milli > 0 {
            write!(
                f,
                ", without the {} of 1000 that the hypervisor stole",
                self.stolen_milli
            )?;
        }
        let (sure, rounds) = (self.sure_percent, self.rounds);
        if self.timed_out {
            write!(
                f,
                ": likelier than not, {sure} % sure after {rounds} rounds"
            )
        } else {
            write!(f, ": {sure} % sure after {rounds} rounds")
        }
    }
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

/// Which cores exclusive CPUs are of, and why.
fn of_kind(cores: Option<CoreKind>) -> &'static str {
    match cores {
        Some(CoreKind::Performance) => "performance cores come first, and enough were free",
        Some(CoreKind::Efficiency) => "efficiency cores, as too few performance cores were free",
        None => "cores of both kinds, as neither kind had enough free",
    }
}

/// A value between two texts; nothing where it is absent.
pub(super) fn optional(value: Option<impl fmt::Display>, before: &str, after: &str) -> String {
    value.map_or(String::new(), |value| format!("{before}{value}{after}"))
}

fn on_socket(socket: Option<u32>) -> String {
    optional(socket, " with socket id ", "")
}

/// The end of a verdict: what the neighbours lost, when it was given, against what and how sure it is, what follows.
fn verdict(
    harm_ns_per_s: i64,
    after_s: u64,
    cooldown_s: Option<u64>,
    certainty: Option<Certainty>,
) -> String {
    let harm = match harm_ns_per_s / 1000 {
        0 => String::new(),
        more @ 1.. => format!(" and {more} µs/s more lost by those beside"),
        less => format!(
            " and {} µs/s less lost by those beside",
            less.unsigned_abs()
        ),
    };
    let certainty = optional(certainty, ", ", "");
    let follows = optional(cooldown_s, "; not tried again for ", " s");
    format!("{harm} after {after_s} s{certainty}{follows}")
}

fn move_rule(benefit: Benefit, min_gain_ns_per_s: u64, after_s: u64) -> String {
    let won = match benefit {
        Benefit::Order => {
            return format!(
                "wins nothing but order; judged within {after_s} s, undone if containers wait more than those \
                 it does not touch"
            );
        }
        Benefit::Refill => {
            "of the refill is won, or if containers wait more than those it does not touch"
        }
        Benefit::Time => "is won against those it does not touch",
    };
    format!(
        "rule: the move that wins most, of those that win more than they cost and than {} µs/s; judged within \
         {after_s} s, undone if less than half {won}",
        min_gain_ns_per_s / 1000
    )
}
