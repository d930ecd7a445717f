//! The choices a decision was made among.

use super::reason::optional;
use crate::{
    cpu_list::{listed, listed_or},
    request::ContainerId,
};
use alloc::{format, string::String};
use derive_more::Display;
use resmgr_topology::Cpus;
use serde::{Deserialize, Serialize};

/// One choice that was considered. `Display` is the line people read.
#[derive(Clone, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Candidate {
    /// A part of the machine that could have given exclusive CPUs.
    #[display(
        "{level} {id}: {free} CPUs free ({isolated} isolated) of {size}{}; gives {}",
        optional(*contention, ", ", ""),
        listed(given)
    )]
    Domain {
        /// What it is.
        level: DomainLevel,
        /// Its number.
        id: u32,
        /// CPUs of it that no container holds.
        free: usize,
        /// Those of them that are kernel-isolated.
        isolated: usize,
        /// All its CPUs.
        size: usize,
        /// What was measured there; `None` without measurements.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contention: Option<DomainContention>,
        /// The CPUs it gives.
        given: Cpus,
    },
    /// A CPU list of static-pools.
    #[display(
        "list {cpus} (socket {socket}): {containers} containers, {requested_milli_per_cpu}m requested per CPU, \
         {busy_milli} of 1000 busy, {busy_with_it_milli} with it, {busy_around_milli} around it, \
         {waited_ms_per_s} ms/s waited"
    )]
    List {
        /// Its CPUs.
        cpus: Cpus,
        /// The socket it is on.
        socket: u32,
        /// Containers on it.
        containers: usize,
        /// What these requested, thousandths of a CPU per CPU.
        requested_milli_per_cpu: u64,
        /// How busy it is, thousandths.
        busy_milli: u64,
        /// How busy it would be with the container, thousandths.
        busy_with_it_milli: u64,
        /// How busy the other CPUs of its caches are, thousandths.
        busy_around_milli: u64,
        /// How long its containers waited, milliseconds per second.
        waited_ms_per_s: u64,
    },
    /// A CPU list that a running container could move to.
    #[display("list {cpus} (socket {socket}): would be {busy_with_it_milli} of 1000 busy with it")]
    OtherList {
        /// Its CPUs.
        cpus: Cpus,
        /// The socket it is on.
        socket: u32,
        /// How busy it would be with the container, thousandths.
        busy_with_it_milli: u64,
    },
    /// A pool that may borrow or lend.
    #[display(
        "pool {pool}: CPUs {cpus}, borrows {}; {busy_milli} of 1000 busy, {} µs/s waited for each CPU",
        listed_or(Some(on_loan), "nothing"),
        waited_ns_per_s / 1000
    )]
    Pool {
        /// Its name.
        pool: String,
        /// Its own CPUs.
        cpus: Cpus,
        /// What it borrows.
        on_loan: Cpus,
        /// How busy it is, thousandths.
        busy_milli: u64,
        /// How long its members waited for each of its CPUs, nanoseconds per second.
        waited_ns_per_s: u64,
    },
    /// A domain that a shared container could be confined to.
    #[display(
        "{domain}: {size} CPUs of the pool, {used_milli}m used of {room_milli}m that may be; {}; saves \
         {saves_us_per_s} µs/s",
        left_milli.map_or("it does not fit".into(), |left| format!("{left}m would still be free"))
    )]
    Confinement {
        /// The domain.
        domain: String,
        /// Its CPUs of the pool.
        size: usize,
        /// How much of these is used, thousandths of a CPU.
        used_milli: u64,
        /// How much may be.
        room_milli: u64,
        /// What would still be free with the container; `None` where it does not fit.
        left_milli: Option<u64>,
        /// Time to refill caches that it would save, microseconds per second.
        saves_us_per_s: u64,
    },
    /// Two domains for two containers that interfere.
    #[display(
        "{victim} in {victim_domain}, {aggressor} in {aggressor_domain}: {moves} moves, at least {left_milli}m \
         free in both"
    )]
    Separation {
        /// The container that waits.
        victim: ContainerId,
        /// Where it would go.
        victim_domain: String,
        /// The container that preempts the victim.
        aggressor: ContainerId,
        /// Where that would go.
        aggressor_domain: String,
        /// How many of the two move.
        moves: usize,
        /// What would be free in both domains at least, thousandths of a CPU.
        left_milli: u64,
    },
    /// Candidates that are not listed.
    #[display("and {count} more")]
    More {
        /// How many.
        count: usize,
    },
    /// What an earlier version wrote.
    #[display("{_0}")]
    #[serde(untagged)]
    Text(String),
}

/// What was measured on a domain.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[display(
    "{busy_milli} of 1000 busy, {busy_around_milli} of 1000 around it, {} ms/s waited there",
    waited_us_per_s / 1000
)]
pub struct DomainContention {
    /// How busy its CPUs are, thousandths.
    pub busy_milli: u64,
    /// How busy the other CPUs of its caches are, thousandths.
    pub busy_around_milli: u64,
    /// How long containers waited for its CPUs, microseconds per second.
    pub waited_us_per_s: u64,
}

/// The kinds of parts of the machine that exclusive CPUs are chosen from.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainLevel {
    /// A physical core.
    #[display("core")]
    Core,
    /// A last-level cache.
    #[display("cache")]
    Cache,
    /// A NUMA node.
    #[display("node")]
    Node,
    /// A package.
    #[display("package")]
    Package,
}
