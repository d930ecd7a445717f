//! Other exclusive CPUs for a container whose pod lets them be exchanged: together instead of scattered,
//! or away from CPUs on which others run all the same.

use super::{Scene, single};
use crate::{
    measured::Observed,
    rebalance::{
        cost::{NODE_MIGRATION_US, PACKAGE_MIGRATION_US},
        proposal::{Proposal, Wins},
    },
    request::ContainerId,
    slices::{Flavour, Slices, source},
    state::{
        Container,
        rebalance::{Part, What},
    },
};
use alloc::{format, vec};
use resmgr_topology::{CpuSet, Preference, Topology, allocate};

/// Far migrations per second from which scattered CPUs are worth others, thousandths.
const WANDERS_MILLI_PER_S: u64 = 20_000;
/// Time per second others ran on its CPUs, nanoseconds.
const FOREIGN_NS_PER_S: u64 = 20_000_000;

/// Whether there is anything to win at all.
pub(super) fn suffers(seen: &Observed) -> bool {
    wanders(seen) || seen.foreign_ns_per_s >= FOREIGN_NS_PER_S
}

fn wanders(seen: &Observed) -> bool {
    let package = seen.package_migrations_milli_per_s;
    package.saturating_add(seen.node_migrations_milli_per_s) >= WANDERS_MILLI_PER_S
}

pub(super) fn proposal<F: Flavour>(
    policy: &Slices<F>,
    scene: &Scene<'_>,
    id: &ContainerId,
    one: &Container,
    seen: &Observed,
) -> Option<Proposal> {
    let topology = scene.view.topology;
    let held = *one.placement.exclusive;
    let sources = F::sources(&policy.config, &one.request, held.len());
    let from = sources
        .into_iter()
        .find(|from| held.is_subset(&source(&scene.sets, *from)))?;
    let free = source(&scene.sets, from).difference(&scene.taken);
    let cost = |cpu| scene.contention.cost(cpu);
    let preference = Preference {
        cost: Some(&cost),
        ..Preference::default()
    };
    let choose = |from: &CpuSet| allocate(topology, from, held.len(), &preference);
    let package = seen.package_migrations_milli_per_s;
    let node = seen.node_migrations_milli_per_s;
    let (to, reason, gain, wins, why) = if wanders(seen) {
        let to = choose(&free.union(&held))?;
        let saves = match (spread(topology, &held), spread(topology, &to)) {
            ((packages, _), (fewer, 1)) if fewer < packages => {
                package * PACKAGE_MIGRATION_US + node * NODE_MIGRATION_US
            }
            ((packages, _), (fewer, _)) if fewer < packages => package * PACKAGE_MIGRATION_US,
            ((_, nodes), (_, 1)) if nodes > 1 => node * NODE_MIGRATION_US,
            _ => return None,
        };
        let why = format!(
            "{} migrations/s between packages, {} between nodes: its CPUs {held} are scattered, {to} are not",
            package / 1000,
            node / 1000
        );
        (to, "migrations", saves, Wins::Refill, why)
    } else {
        // Others have no business there, but cannot be driven off: other CPUs may be left alone.
        let to = choose(&free)?;
        let why = format!(
            "others ran {} µs/s on its CPUs {held}; {to} are free",
            seen.foreign_ns_per_s / 1000
        );
        (to, "foreign", seen.foreign_ns_per_s / 2, Wins::Time, why)
    };
    let part = Part {
        id: id.clone(),
        what: What::Exclusive,
        from: Some(held),
        to: Some(to),
    };
    Some(Proposal {
        why: vec![
            why,
            "its pod lets exclusive CPUs be exchanged (annotation rebalance-exclusive)".into(),
        ],
        wins,
        ..single(part, reason, gain)
    })
}

/// Packages and nodes the CPUs are on.
fn spread(topology: &Topology, cpus: &CpuSet) -> (usize, usize) {
    let packages = topology.packages.iter();
    let packages = packages.filter(|one| !one.cpus.is_disjoint(cpus)).count();
    (packages, topology.nodes_of(cpus).count())
}
