//! Reasons as the lines people read.

use super::{CpuSource, Reason};
use crate::{
    cpu_list::{listed, listed_or},
    request::cmk_isolate::EXCLUSIVE_CORES,
    state::rebalance::Benefit,
};
use core::fmt;

/// ` with socket id 1`, where a socket was asked for.
struct OnSocket(Option<u32>);

impl fmt::Display for OnSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, " with socket id {id}"),
            None => Ok(()),
        }
    }
}

/// The end of a verdict: what the neighbours lost, when it was given, what follows.
struct VerdictText {
    harm_ns_per_s: i64,
    after_s: u64,
    cooldown_s: Option<u64>,
}

impl fmt::Display for VerdictText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.harm_ns_per_s != 0 {
            let harm = self.harm_ns_per_s / 1000;
            write!(f, " and {harm} µs/s more lost by those beside")?;
        }
        write!(f, " after {} s", self.after_s)?;
        match self.cooldown_s {
            Some(cooldown_s) => write!(f, "; not tried again for {cooldown_s} s"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for CpuSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Isolated => "kernel-isolated CPUs are free and preferred",
            Self::IsolatedCore => "one full kernel-isolated core is free",
            Self::Pool => "sliced off the shared pool: whole cores close together first",
            Self::Either => "too few of one kind: from the shared pool and isolated CPUs",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested {
                qos,
                cpu_milli,
                source,
                exclusive,
                shared_milli,
            } => write!(
                f,
                "{qos:?} pod, {cpu_milli}m CPU requested ({source}): {exclusive} exclusive, {shared_milli}m shared"
            ),
            Self::KeptExclusive => f.write_str("kept what it held"),
            Self::TakenFrom { source } => write!(f, "{source}"),
            Self::ReservedNamespace => f.write_str("its namespace runs on the reserved CPUs"),
            Self::PoolsNow { shared, reserved } => write!(
                f,
                "shared pool now {}, reserved {}",
                listed(shared),
                listed(reserved)
            ),
            Self::PoolOvercommitted => {
                f.write_str("the shared pool is over-committed: reserved CPUs are added")
            }
            Self::QuotaRemoved => f.write_str("quota removed: its CPUs are its own"),
            Self::Predecessors {
                utilisation_mcpu,
                wait_ns_per_s,
                far_migrations_milli_per_s,
            } => write!(
                f,
                "its predecessors used {utilisation_mcpu}m, waited {} ms/s, migrated far {} times a second",
                wait_ns_per_s / 1_000_000,
                far_migrations_milli_per_s / 1000
            ),
            Self::Confined { cpus } => write!(
                f,
                "confined to {cpus}, where a rebalancing had put it or its predecessors"
            ),
            Self::BorrowsReserved { cpus } => {
                write!(f, "the shared pool borrows CPUs {cpus} of the reserved ones")
            }
            Self::NotMeasured { condition } => write!(f, "{condition}"),
            Self::TopologyThenContention => f.write_str(
                "rule: what fits the topology best; among equals the least busy cores and caches, and those \
                 whose containers wait least",
            ),
            Self::SharedPool { pool, socket } => write!(
                f,
                "pool {pool:?} is shared: the least used list{}",
                OnSocket(*socket)
            ),
            Self::ExclusivePool {
                pool,
                lists,
                socket,
            } => write!(
                f,
                "pool {pool:?} is exclusive: {lists} free lists{}",
                OnSocket(*socket)
            ),
            Self::CmkIsolate { program } => {
                write!(f, "cmk isolate on its command line; {program} is run")
            }
            Self::SocketIdIgnored { value } => {
                write!(f, "STP_SOCKET_ID {value:?} is not an integer: ignored")
            }
            Self::NumCoresIgnored { value, requested } => write!(
                f,
                "CMK_NUM_CORES is {value}, but {requested} of {EXCLUSIVE_CORES} are requested: the latter counts"
            ),
            Self::ListsGone { lists } => write!(f, "its lists {lists:?} are gone"),
            Self::LeastContendedList { full_milli } => write!(
                f,
                "rule: lists that would be over {full_milli} of 1000 busy with it last; then by measured wait of \
                 those on them, busy time with it, busy time around it, requests, configuration"
            ),
            Self::NotPinned => {
                f.write_str("not pinned, as it asked: CMK_CPUS_ASSIGNED tells it its CPUs")
            }
            Self::KeptLists => f.write_str("placed before; pools do not follow a changed request"),
            Self::PlacesNothing { policy } => write!(f, "the policy {policy} places nothing"),
            Self::Migrates {
                package_milli_per_s,
                node_milli_per_s,
                llc_milli_per_s,
                wait_ns_per_s,
                confined,
            } => write!(
                f,
                "{} migrations/s between packages, {} between nodes, {} between caches, {} µs/s waited on {}",
                package_milli_per_s / 1000,
                node_milli_per_s / 1000,
                llc_milli_per_s / 1000,
                wait_ns_per_s / 1000,
                listed_or(confined.as_deref(), "all of its pool"),
            ),
            Self::Fits {
                need_milli,
                domain,
                left_milli,
            } => write!(
                f,
                "needs {need_milli}m, fits in {domain}: {left_milli}m would still be free"
            ),
            Self::Scattered {
                package_milli_per_s,
                node_milli_per_s,
                held,
                better,
            } => write!(
                f,
                "{} migrations/s between packages, {} between nodes: its CPUs {held} are scattered, {better} are not",
                package_milli_per_s / 1000,
                node_milli_per_s / 1000
            ),
            Self::Intruders {
                intruder_ns_per_s,
                held,
                free,
            } => write!(
                f,
                "others ran {} µs/s on its CPUs {held}; {free} are free",
                intruder_ns_per_s / 1000
            ),
            Self::ExchangeAllowed => f.write_str(
                "its pod lets exclusive CPUs be exchanged (annotation rebalance-exclusive)",
            ),
            Self::Interferes {
                aggressor,
                victim,
                preempted_milli_per_s,
                wait_ns_per_s,
                victim_confined,
                aggressor_confined,
            } => write!(
                f,
                "{aggressor} preempts {victim} {} times a second; the victim waits {} µs/s; they run on {} and {}",
                preempted_milli_per_s / 1000,
                wait_ns_per_s / 1000,
                listed_or(victim_confined.as_deref(), "all of the pool"),
                listed_or(aggressor_confined.as_deref(), "all of the pool"),
            ),
            Self::InterferesOnList {
                aggressor,
                victim,
                preempted_milli_per_s,
                wait_ns_per_s,
                list,
            } => write!(
                f,
                "{aggressor} preempts {victim} {} times a second on list {list}; the victim waits {} µs/s",
                preempted_milli_per_s / 1000,
                wait_ns_per_s / 1000
            ),
            Self::FitApart {
                victim,
                victim_domain,
                aggressor,
                aggressor_domain,
            } => write!(
                f,
                "{victim} fits in {victim_domain}, {aggressor} in {aggressor_domain}"
            ),
            Self::WaitsOnList {
                wait_ns_per_s,
                list,
                busy_milli,
            } => write!(
                f,
                "waited {} µs/s on list {list}, {busy_milli} of 1000 busy",
                wait_ns_per_s / 1000
            ),
            Self::OtherList {
                list,
                busy_with_it_milli,
                least_difference_milli,
            } => {
                write!(
                    f,
                    "list {list} would be {busy_with_it_milli} of 1000 busy with it"
                )?;
                match least_difference_milli {
                    Some(least) => write!(f, ", at least {least} less"),
                    None => Ok(()),
                }
            }
            Self::PoolOverloaded {
                borrower,
                borrower_busy_milli,
                overloaded_milli,
                lender,
                lender_busy_milli,
                idle_milli,
                cpus,
            } => write!(
                f,
                "pool {borrower} starves ({borrower_busy_milli} of 1000 busy, at least {overloaded_milli}), pool \
                 {lender} is idle ({lender_busy_milli}, at most {idle_milli}): it lends {cpus}"
            ),
            Self::LoanReturned {
                borrower,
                busy_without_milli,
                returned_milli,
            } => write!(
                f,
                "pool {borrower} would be {busy_without_milli} of 1000 busy without what it borrows, at most \
                 {returned_milli}"
            ),
            Self::LoanTakenBack { lender, busy_milli } => write!(
                f,
                "pool {lender} starves itself ({busy_milli} of 1000 busy): it takes back what it lent"
            ),
            Self::Promise {
                promised_ns_per_s,
                lost_ns_per_s,
                cost_ns_per_s,
                payback_s,
            } => write!(
                f,
                "promises {} µs/s of {} µs/s lost to waiting and cache refill; moving its memory and warming \
                 caches costs {} µs/s over {payback_s} s",
                promised_ns_per_s / 1000,
                lost_ns_per_s / 1000,
                cost_ns_per_s / 1000
            ),
            Self::MoveRule {
                benefit,
                min_gain_ns_per_s,
                judged_after_s,
                judged_waiting_after_s,
            } => {
                if *benefit == Benefit::Order {
                    return write!(
                        f,
                        "wins nothing but order; judged after {judged_after_s} s, undone if any container waits more"
                    );
                }
                write!(
                    f,
                    "rule: the move that wins most, of those that win more than they cost and than {} µs/s; \
                     judged after {judged_after_s} s, undone if less than half ",
                    min_gain_ns_per_s / 1000
                )?;
                match benefit {
                    Benefit::Refill => write!(
                        f,
                        "of the refill is won, or if it waits more for {judged_waiting_after_s} s"
                    ),
                    Benefit::Time | Benefit::Order => f.write_str("is won"),
                }
            }
            Self::TimeWon {
                promised_ns_per_s,
                seen_ns_per_s,
                harm_ns_per_s,
                after_s,
                cooldown_s,
            } => write!(
                f,
                "promised {} µs/s less waiting and cache refill, seen {} µs/s{}",
                promised_ns_per_s / 1000,
                seen_ns_per_s / 1000,
                VerdictText {
                    harm_ns_per_s: *harm_ns_per_s,
                    after_s: *after_s,
                    cooldown_s: *cooldown_s
                }
            ),
            Self::RefillWon {
                promised_ns_per_s,
                seen_ns_per_s,
                wait_before_ns_per_s,
                wait_ns_per_s,
                harm_ns_per_s,
                after_s,
                cooldown_s,
            } => write!(
                f,
                "promised {} µs/s less cache refill, seen {} µs/s, and {} µs/s waited where it was {} µs/s,{}",
                promised_ns_per_s / 1000,
                seen_ns_per_s / 1000,
                wait_ns_per_s / 1000,
                wait_before_ns_per_s / 1000,
                VerdictText {
                    harm_ns_per_s: *harm_ns_per_s,
                    after_s: *after_s,
                    cooldown_s: *cooldown_s
                }
            ),
            Self::BeneficiariesGone => {
                f.write_str("those for whose sake it was made are gone: it stays")
            }
            Self::NothingMeasured { after_s } => {
                write!(f, "nothing could be measured in {after_s} s: it stays")
            }
            Self::MovedBack { step } => write!(f, "moved back: {step}"),
            Self::ArrivedMeanwhile { count } => write!(
                f,
                "containers came meanwhile ({count}), which make all wait more: it rests only so long"
            ),
            Self::Text(text) => f.write_str(text),
        }
    }
}
