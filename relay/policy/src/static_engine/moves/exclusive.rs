//! Other exclusive CPUs for a container whose pod lets them be exchanged: together instead of scattered,
//! or away from CPUs on which others run all the same.

use super::context::{Context, single};
use crate::{
    explanation::Reason,
    measured::Observed,
    rebalance::{
        cost::{NODE_MIGRATION_US, PACKAGE_MIGRATION_US},
        proposal::Proposal,
    },
    request::ContainerId,
    state::{
        Container,
        rebalance::{Benefit, MoveKind, MoveStep},
    },
    static_engine::{StaticEngine, Variant, source},
};
use alloc::vec;
use resmgr_topology::{CpuSet, Preference, Topology, allocate};

/// Far migrations per second from which scattered CPUs are worth others, thousandths.
const FAR_MIGRATIONS_MILLI_PER_S: u64 = 20_000;
/// Time per second that intruders ran on its CPUs from which it is worth others, nanoseconds.
const INTRUDER_NS_PER_S: u64 = 20_000_000;

/// Whether there is anything to win at all.
pub(super) fn suffers(seen: &Observed) -> bool {
    migrates_far(seen) || seen.intruder_ns_per_s >= INTRUDER_NS_PER_S
}

fn migrates_far(seen: &Observed) -> bool {
    let package = seen.package_migrations_milli_per_s;
    package.saturating_add(seen.node_migrations_milli_per_s) >= FAR_MIGRATIONS_MILLI_PER_S
}

pub(super) fn proposal<V: Variant>(
    engine: &StaticEngine<V>,
    context: &Context<'_>,
    id: &ContainerId,
    container: &Container,
    seen: &Observed,
) -> Option<Proposal> {
    let topology = context.view.topology;
    let held = *container.placement.exclusive;
    let sources = V::sources(&engine.config, &container.request, held.len());
    let from = sources
        .into_iter()
        .find(|from| held.is_subset(&source(&context.pools, *from)))?;
    let free = source(&context.pools, from).difference(&context.taken);
    let cost = |cpu| context.contention.cost(cpu);
    let preference = Preference {
        cost: Some(&cost),
        ..Preference::default()
    };
    let choose = |from: &CpuSet| allocate(topology, from, held.len(), &preference);
    let package = seen.package_migrations_milli_per_s;
    let node = seen.node_migrations_milli_per_s;
    let (to, reason, gain, benefit, why) = if migrates_far(seen) {
        let to = choose(&free.union(&held))?;
        let saves = match (spread(topology, &held), spread(topology, &to)) {
            ((packages, _), (fewer, 1)) if fewer < packages => {
                package * PACKAGE_MIGRATION_US + node * NODE_MIGRATION_US
            }
            ((packages, _), (fewer, _)) if fewer < packages => package * PACKAGE_MIGRATION_US,
            ((_, nodes), (_, 1)) if nodes > 1 => node * NODE_MIGRATION_US,
            _ => return None,
        };
        let why = Reason::Scattered {
            package_milli_per_s: package,
            node_milli_per_s: node,
            held: held.into(),
            better: to.into(),
        };
        (to, "migrations", saves, Benefit::Refill, why)
    } else {
        // Intruders have no business there, but cannot be driven off: other CPUs may be free of them.
        let to = choose(&free)?;
        let why = Reason::Intruders {
            intruder_ns_per_s: seen.intruder_ns_per_s,
            held: held.into(),
            free: to.into(),
        };
        (
            to,
            "foreign",
            seen.intruder_ns_per_s / 2,
            Benefit::Time,
            why,
        )
    };
    let step = MoveStep {
        id: id.clone(),
        kind: MoveKind::Exclusive,
        from: Some(held),
        to: Some(to),
    };
    Some(Proposal {
        reasons: vec![why, Reason::ExchangeAllowed],
        benefit,
        ..single(step, reason, gain)
    })
}

/// Packages and nodes the CPUs are on.
fn spread(topology: &Topology, cpus: &CpuSet) -> (usize, usize) {
    let packages = topology.packages.iter();
    let packages = packages
        .filter(|package| !package.cpus.is_disjoint(cpus))
        .count();
    (packages, topology.nodes_of(cpus).count())
}
