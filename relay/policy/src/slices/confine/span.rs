//! Confining shared containers whose threads wander over the machine to a part of it they fit in, and
//! giving those another part that wait where they are.

use super::{Scene, Shared, confine, single};
use crate::{
    contention::Contention,
    rebalance::{
        cost::{LLC_MIGRATION_US, NODE_MIGRATION_US, PACKAGE_MIGRATION_US},
        limits::MIN_GAIN_NS,
        proposal::{Proposal, Wins},
    },
    state::rebalance::or,
    view::View,
};
use alloc::{format, string::String, vec, vec::Vec};
use core::cmp::Reverse;
use resmgr_topology::CpuSet;

/// Far migrations per second from which a container counts as wandering, thousandths.
const WANDERS_MILLI_PER_S: u64 = 20_000;
/// Waiting from which a confined container is worth another span, nanoseconds per second.
const WAITS_NS_PER_S: u64 = 100_000_000;
/// Part of a span's CPU time that may be used after the move, per cent.
const FILL_PERCENT: u64 = 75;
/// Candidates told of.
const TOLD: usize = 8;

/// How large a span is; the smaller, the less a container can wander in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Llc,
    Node,
    Package,
    Pool,
}

/// A part of the machine that has a part of the pool.
#[derive(Clone, Debug)]
pub(in super::super) struct Span {
    pub(super) level: Level,
    id: u32,
    pub(super) cpus: CpuSet,
    /// Its part of the pool, and how much of that is used and may be.
    inside: CpuSet,
    busy_milli: u64,
    room_milli: u64,
    pub(super) name: String,
}

impl Span {
    /// What would be free of it with a container that needs `need` and uses its CPUs now; `None` when
    /// it does not fit.
    pub(super) fn left(&self, shared: Shared<'_>, also_gone: &[Shared<'_>]) -> Option<u64> {
        let mut used = self.busy_milli;
        for one in also_gone.iter().chain([&shared]) {
            // What it uses of each CPU now goes with it.
            let width = u64::try_from(one.placed.cpus.len().max(1)).unwrap_or(1);
            let own = u64::from(one.seen.utilisation_mcpu) / width;
            let both = self.inside.intersection(&one.placed.cpus).len();
            used = used.saturating_sub(own * u64::try_from(both).unwrap_or(0));
        }
        self.room_milli
            .checked_sub(used.saturating_add(need(shared)))
    }

    fn line(&self, left: Option<u64>, saves_us: u64) -> String {
        let fits = match left {
            Some(left) => format!("{left}m would still be free"),
            None => String::from("it does not fit"),
        };
        format!(
            "{}: {} CPUs of the pool, {}m used of {}m that may be; {fits}; saves {saves_us} µs/s",
            self.name,
            self.inside.len(),
            self.busy_milli,
            self.room_milli
        )
    }
}

/// What a container needs: what it uses, and at least what it asked for; thousandths of a CPU.
pub(super) fn need(shared: Shared<'_>) -> u64 {
    u64::from(shared.seen.utilisation_mcpu).max(u64::from(shared.placed.shared.0))
}

pub(super) fn proposal(scene: &Scene<'_>, shared: Shared<'_>) -> Option<Proposal> {
    let seen = shared.seen;
    let package = seen.package_migrations_milli_per_s;
    let node = seen.node_migrations_milli_per_s;
    let llc = seen.llc_migrations_milli_per_s;
    // Thousandths of migrations times microseconds are nanoseconds.
    let saves = |level: Level| {
        let (package, node, llc) = (
            package.saturating_mul(PACKAGE_MIGRATION_US),
            node.saturating_mul(NODE_MIGRATION_US),
            llc.saturating_mul(LLC_MIGRATION_US),
        );
        match level {
            Level::Llc => package.saturating_add(node).saturating_add(llc),
            Level::Node => package.saturating_add(node),
            Level::Package => package,
            Level::Pool => 0,
        }
    };
    let wanders = package.saturating_add(node).saturating_add(llc) >= WANDERS_MILLI_PER_S;
    let waits = shared.placed.confined.is_some() && seen.wait_ns_per_s >= WAITS_NS_PER_S;
    if !wanders && !waits {
        return None;
    }
    // A cache of its own must be worth the narrowness; a node need not.
    let caches = saves(Level::Llc) >= saves(Level::Node).saturating_add(MIN_GAIN_NS);
    let offered = |span: &&Span| {
        let narrower = wanders && !shared.placed.cpus.is_subset(&span.cpus);
        let other = Some(&span.cpus) != shared.placed.confined.as_deref();
        (span.level != Level::Llc || caches) && other && (narrower || waits)
    };
    let mut choices: Vec<_> = scene
        .spans
        .iter()
        .filter(offered)
        .map(|span| (span, span.left(shared, &[])))
        .collect();
    choices.sort_by_key(|(span, left)| {
        // Who waits wants room first, who wanders a small place.
        let level = if wanders { span.level } else { Level::Pool };
        (left.is_none(), level, Reverse(*left), span.level, span.id)
    });
    let (span, left) = choices.first()?;
    let left = (*left)?;
    let (reason, gain, wins) = if wanders {
        ("migrations", saves(span.level), Wins::Refill)
    } else {
        ("contention", seen.wait_ns_per_s / 2, Wins::Time)
    };
    let to = (span.level != Level::Pool).then_some(span.cpus);
    Some(Proposal {
        why: vec![
            format!(
                "{} migrations/s between packages, {} between nodes, {} between caches, {} µs/s waited on {}",
                package / 1000,
                node / 1000,
                llc / 1000,
                seen.wait_ns_per_s / 1000,
                or(shared.placed.confined.as_deref(), "all of its pool"),
            ),
            format!(
                "needs {}m, fits in {}: {left}m would still be free",
                need(shared),
                span.name
            ),
        ],
        candidates: choices
            .iter()
            .take(TOLD)
            .map(|(span, left)| span.line(*left, saves(span.level) / 1000))
            .collect(),
        wins,
        ..single(confine(shared, to), reason, gain)
    })
}

/// Caches, nodes and packages that have a part of the pool and not all of it, and all of it.
pub(super) fn spans(view: View<'_>, contention: &Contention, pool: &CpuSet) -> Vec<Span> {
    let span = |level, id, cpus: &CpuSet, name| {
        let inside = cpus.intersection(pool);
        Span {
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
    let nodes = nodes.map(|one| span(Level::Node, one.id.0, &one.cpus, format!("node {}", one.id)));
    let packages = view.topology.packages.iter();
    let packages = packages.map(|one| {
        span(
            Level::Package,
            one.id.0,
            &one.cpus,
            format!("package {}", one.id),
        )
    });
    let llcs = view.topology.llcs.iter();
    let llcs = llcs.map(|one| span(Level::Llc, one.id.0, &one.cpus, format!("cache {}", one.id)));
    let whole = span(Level::Pool, 0, pool, String::from("all of the pool"));
    let mut spans: Vec<Span> = Vec::new();
    for one in nodes.chain(packages).chain(llcs) {
        let known = |other: &Span| other.inside == one.inside;
        if !one.inside.is_empty() && one.inside != *pool && !spans.iter().any(known) {
            spans.push(one);
        }
    }
    spans.push(whole);
    spans
}
