//! What all kinds of moves look at: the pools, the shared containers, and the domains these can be confined to.

use crate::{
    contention::Contention,
    explanation::Candidate,
    measured::Observed,
    rebalance::proposal::{Proposal, movable},
    request::ContainerId,
    state::{
        Placement,
        rebalance::{Benefit, MoveKind, MoveStep},
    },
    static_engine::CpuPools,
    view::View,
};
use alloc::{format, string::String, vec, vec::Vec};
use resmgr_topology::CpuSet;

/// Part of a domain's CPU time that may be used after the move, per cent.
const FILL_PERCENT: u64 = 75;

/// The machine, the pools and the containers at the time of a proposal.
pub(super) struct Context<'a> {
    pub(super) view: View<'a>,
    pub(super) pools: CpuPools,
    /// The shared pool now, without what it borrows.
    pub(super) pool: CpuSet,
    pub(super) taken: CpuSet,
    pub(super) contention: Contention,
    pub(super) domains: Vec<Domain>,
}

/// A shared container that may be moved.
#[derive(Clone, Copy)]
pub(super) struct SharedContainer<'a> {
    pub(super) id: &'a ContainerId,
    pub(super) placed: &'a Placement,
    pub(super) seen: &'a Observed,
}

impl<'a> Context<'a> {
    /// The container, when it runs in the shared pool only and may be moved.
    pub(super) fn shared(&self, id: &'a ContainerId) -> Option<SharedContainer<'a>> {
        let container = self.view.state.containers.get(id)?;
        let placed = &container.placement;
        let shared = placed.exclusive.is_empty() && placed.pool.as_deref() == Some("shared");
        let seen = movable(self.view, id, &container.request).filter(|_| shared)?;
        Some(SharedContainer { id, placed, seen })
    }
}

/// How large a domain is; the smaller, the less far a container can migrate in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DomainSize {
    Llc,
    Node,
    Package,
    Pool,
}

/// A part of the machine that has a part of the pool.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub(super) level: DomainSize,
    pub(super) id: u32,
    pub(super) cpus: CpuSet,
    /// Its part of the pool, and how much of that is used and may be.
    inside: CpuSet,
    busy_milli: u64,
    room_milli: u64,
    pub(super) name: String,
}

impl Domain {
    /// What would be free of it with a container that needs `need` and uses its CPUs now; `None` when
    /// it does not fit.
    pub(super) fn left(
        &self,
        shared: SharedContainer<'_>,
        also_gone: &[SharedContainer<'_>],
    ) -> Option<u64> {
        let mut used = self.busy_milli;
        for gone in also_gone.iter().chain([&shared]) {
            // What it uses of each CPU now goes with it.
            let width = u64::try_from(gone.placed.cpus.len().max(1)).unwrap_or(1);
            let own = u64::from(gone.seen.utilisation_mcpu) / width;
            let both = self.inside.intersection(&gone.placed.cpus).len();
            used = used.saturating_sub(own * u64::try_from(both).unwrap_or(0));
        }
        self.room_milli
            .checked_sub(used.saturating_add(need(shared)))
    }

    pub(super) fn candidate(&self, left_milli: Option<u64>, saves_us_per_s: u64) -> Candidate {
        Candidate::Confinement {
            domain: self.name.clone(),
            size: self.inside.len(),
            used_milli: self.busy_milli,
            room_milli: self.room_milli,
            left_milli,
            saves_us_per_s,
        }
    }
}

/// What a container needs: what it uses, and at least what it asked for; thousandths of a CPU.
pub(super) fn need(shared: SharedContainer<'_>) -> u64 {
    u64::from(shared.seen.utilisation_mcpu).max(u64::from(shared.placed.shared.0))
}

/// Caches, nodes and packages that have a part of the pool and not all of it, and all of it.
pub(super) fn domains(view: View<'_>, contention: &Contention, pool: &CpuSet) -> Vec<Domain> {
    let domain = |level, id, cpus: &CpuSet, name| {
        let inside = cpus.intersection(pool);
        Domain {
            level,
            id,
            cpus: *cpus,
            inside,
            busy_milli: contention.sum(&inside),
            room_milli: u64::try_from(inside.len()).unwrap_or(0) * 10 * FILL_PERCENT,
            name,
        }
    };
    let nodes = view.topology.nodes.iter();
    let nodes = nodes.map(|node| {
        domain(
            DomainSize::Node,
            node.id.0,
            &node.cpus,
            format!("node {}", node.id),
        )
    });
    let packages = view.topology.packages.iter();
    let packages = packages.map(|package| {
        domain(
            DomainSize::Package,
            package.id.0,
            &package.cpus,
            format!("package {}", package.id),
        )
    });
    let llcs = view.topology.llcs.iter();
    let llcs = llcs.map(|llc| {
        domain(
            DomainSize::Llc,
            llc.id.0,
            &llc.cpus,
            format!("cache {}", llc.id),
        )
    });
    let whole = domain(DomainSize::Pool, 0, pool, String::from("all of the pool"));
    let mut domains: Vec<Domain> = Vec::new();
    for part in nodes.chain(packages).chain(llcs) {
        let known = |listed: &Domain| listed.inside == part.inside;
        if !part.inside.is_empty() && part.inside != *pool && !domains.iter().any(known) {
            domains.push(part);
        }
    }
    domains.push(whole);
    domains
}

/// A part that changes what a shared container is confined to.
pub(super) fn confine(shared: SharedContainer<'_>, to: Option<CpuSet>) -> MoveStep {
    MoveStep {
        id: shared.id.clone(),
        kind: MoveKind::Domain,
        from: shared.placed.confined.as_deref().copied(),
        to,
    }
}

/// One part, one reason.
pub(super) fn single(step: MoveStep, reason: &'static str, gain_ns_per_s: u64) -> Proposal {
    Proposal {
        steps: vec![step],
        watched: Vec::new(),
        reason,
        gain_ns_per_s,
        benefit: Benefit::Time,
        reasons: Vec::new(),
        candidates: Vec::new(),
    }
}
