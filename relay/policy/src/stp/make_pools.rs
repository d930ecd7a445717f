//! Pools made for a machine, as `cmk init` did: whole physical cores for `exclusive`, `shared` and `infra`.

use super::pools::{CpuListConfig, PoolConfig, PoolsConfig};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::cmp::Reverse;
use resmgr_topology::{CpuSet, PackageId, Topology};

/// How many physical cores each pool shall have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolSizes {
    /// Cores that are given to one container each.
    pub exclusive: usize,
    /// Cores that all containers of the pool share.
    pub shared: usize,
    /// Cores for all else; `None`: what the other pools leave.
    pub infra: Option<usize>,
    /// The numbers are those of each socket and not of the machine.
    pub per_socket: bool,
}

/// A physical core with its online CPUs.
#[derive(Clone, Copy, Debug)]
struct PhysicalCore {
    package: PackageId,
    cpus: CpuSet,
}

/// Makes pools of whole cores, from the lowest-numbered socket on. Offline CPUs are in no pool.
///
/// Exclusive cores are isolated ones (`isolcpus`) as long as there are any, then the last of their socket; never one
/// with a reserved CPU. Infra has reserved cores first, then the first of their socket, which serve most interrupts.
/// Isolated cores are in neither of the shared pools, because the kernel does not balance tasks across them.
///
/// # Errors
/// What was asked and what is left, when the machine has too few cores.
pub fn make_pools(
    topology: &Topology,
    sizes: PoolSizes,
    reserved: &CpuSet,
) -> Result<PoolsConfig, String> {
    let mut cores: Vec<PhysicalCore> = Vec::new();
    for core in &topology.cores {
        let cpus = core.cpus.intersection(&topology.online);
        let package = cpus.first().and_then(|cpu| topology.cpu(cpu));
        cores.extend(package.map(|cpu| PhysicalCore {
            package: cpu.package,
            cpus,
        }));
    }
    cores.sort_by_key(|core| (core.package, core.cpus.first()));
    let mut parts: Vec<(String, Vec<PhysicalCore>)> = Vec::new();
    if sizes.per_socket {
        for package in &topology.packages {
            let of_package = cores.iter().filter(|core| core.package == package.id);
            let of_package: Vec<_> = of_package.copied().collect();
            if !of_package.is_empty() {
                parts.push((format!(" on socket {}", package.id), of_package));
            }
        }
    } else {
        parts.push((String::new(), cores));
    }
    let mut exclusive = Vec::new();
    let (mut shared, mut infra) = (Vec::new(), Vec::new());
    for (place, free) in &mut parts {
        let isolated = |core: &PhysicalCore| core.cpus.is_subset(&topology.isolated);
        let is_reserved = |core: &PhysicalCore| !core.cpus.is_disjoint(reserved);
        free.sort_by_key(|core| (!isolated(core), core.package, Reverse(core.cpus.first())));
        let asked = ("exclusive", sizes.exclusive);
        let why = "without reserved CPUs";
        exclusive.extend(take(free, asked, |core| !is_reserved(core), why, place)?);

        let balanced = |core: &PhysicalCore| core.cpus.is_disjoint(&topology.isolated);
        free.sort_by_key(|core| (!is_reserved(core), core.package, core.cpus.first()));
        let why = "that are not isolated, once the exclusive ones are taken";
        if let Some(cores) = sizes.infra {
            infra.extend(take(free, ("infra", cores), balanced, why, place)?);
        }
        free.sort_by_key(|core| (is_reserved(core), core.package, Reverse(core.cpus.first())));
        let why = "that are not isolated, once the exclusive ones and the infra ones are taken";
        shared.extend(take(free, ("shared", sizes.shared), balanced, why, place)?);
        if sizes.infra.is_none() {
            infra.extend(free.iter().copied().filter(balanced));
        }
    }
    exclusive.sort_by_key(|core| (core.package, core.cpus.first()));
    let single = exclusive.iter().map(list_of).collect();
    let pools = [
        ("exclusive", true, single),
        ("shared", false, by_package(&shared)),
        ("infra", false, by_package(&infra)),
    ];
    let pools = pools.into_iter().filter(|(_, _, lists)| !lists.is_empty());
    let pools: BTreeMap<_, _> = pools
        .map(|(name, exclusive, cpu_lists)| {
            let pool = PoolConfig {
                exclusive,
                cpu_lists,
            };
            (name.to_string(), pool)
        })
        .collect();
    if pools.is_empty() {
        return Err("no cores are asked for, and none is left for a pool".to_string());
    }
    Ok(PoolsConfig { pools })
}

/// Takes the first cores that are fit out of the free ones.
fn take(
    free: &mut Vec<PhysicalCore>,
    (pool, count): (&str, usize),
    fit: impl Fn(&PhysicalCore) -> bool,
    condition: &str,
    place: &str,
) -> Result<Vec<PhysicalCore>, String> {
    let there = free.iter().filter(|core| fit(core)).count();
    if there < count {
        return Err(format!(
            "{count} {pool} cores asked{place}, {there} are there {condition}"
        ));
    }
    let mut taken = Vec::new();
    free.retain(|core| {
        let wanted = taken.len() < count && fit(core);
        if wanted {
            taken.push(*core);
        }
        !wanted
    });
    Ok(taken)
}

fn list_of(core: &PhysicalCore) -> CpuListConfig {
    CpuListConfig {
        socket: core.package.0,
        cpuset: core.cpus.to_string(),
    }
}

/// A list for each socket.
fn by_package(cores: &[PhysicalCore]) -> Vec<CpuListConfig> {
    let mut packages: BTreeMap<PackageId, CpuSet> = BTreeMap::new();
    for core in cores {
        let cpus = packages.entry(core.package).or_insert(CpuSet::EMPTY);
        *cpus = cpus.union(&core.cpus);
    }
    let packages = packages.into_iter();
    packages
        .map(|(package, cpus)| list_of(&PhysicalCore { package, cpus }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StaticPools;
    use proptest::prelude::*;

    const MACHINE: &str = "pack:2 numa:1 core:4 pu:2";

    fn sizes(exclusive: usize, shared: usize, infra: Option<usize>) -> PoolSizes {
        PoolSizes {
            exclusive,
            shared,
            infra,
            per_socket: false,
        }
    }

    fn lists(pools: &PoolsConfig, name: &str) -> Vec<String> {
        let pool = pools.pools.get(name).cloned().unwrap_or_default();
        let lists = pool.cpu_lists.into_iter();
        lists.map(|list| list.cpuset).collect()
    }

    #[test]
    fn exclusive_cores_are_the_last_of_the_lowest_socket_and_infra_has_the_rest() {
        let machine = Topology::synthetic(MACHINE).unwrap();
        let pools = make_pools(&machine, sizes(2, 1, None), &CpuSet::EMPTY).unwrap();
        assert_eq!(lists(&pools, "exclusive"), ["4-5", "6-7"]);
        assert_eq!(lists(&pools, "shared"), ["2-3"]);
        assert_eq!(lists(&pools, "infra"), ["0-1", "8-15"]);
        let per_socket = PoolSizes {
            per_socket: true,
            ..sizes(1, 1, None)
        };
        let pools = make_pools(&machine, per_socket, &CpuSet::EMPTY).unwrap();
        assert_eq!(lists(&pools, "exclusive"), ["6-7", "14-15"]);
        assert_eq!(lists(&pools, "infra"), ["0-3", "8-11"]);
    }

    #[test]
    fn isolated_cores_come_first_and_are_shared_by_no_pool() {
        let machine = Topology::synthetic(MACHINE).unwrap();
        let machine = machine.with_isolated("8-11".parse().unwrap()).unwrap();
        let pools = make_pools(&machine, sizes(1, 1, None), &CpuSet::EMPTY).unwrap();
        assert_eq!(lists(&pools, "exclusive"), ["10-11"]);
        assert!(!format!("{pools:?}").contains("8-9"));
    }

    #[test]
    fn what_the_machine_does_not_have_is_refused_with_figures() {
        let machine = Topology::synthetic(MACHINE).unwrap();
        let reserved = "0".parse().unwrap();
        let refused = make_pools(&machine, sizes(8, 0, None), &reserved).unwrap_err();
        assert_eq!(
            refused,
            "8 exclusive cores asked, 7 are there without reserved CPUs"
        );
        let refused = make_pools(&machine, sizes(5, 3, Some(1)), &CpuSet::EMPTY).unwrap_err();
        assert!(
            refused.starts_with("3 shared cores asked, 2 are there"),
            "{refused}"
        );
    }

    proptest! {
        #[test]
        fn pools_are_whole_online_cores_and_legal(
            (exclusive, shared) in (0_usize..6, 0_usize..4),
            infra in proptest::option::of(0_usize..4),
            per_socket in any::<bool>(),
            sets in proptest::collection::vec(proptest::collection::vec(0_u32..16, 0..5), 3),
        ) {
            let set = |index: usize| -> CpuSet {
                sets[index].iter().map(|cpu| resmgr_topology::CpuId(*cpu)).collect()
            };
            let (offline, isolated, reserved) = (set(0), set(1), set(2));
            let machine = Topology::synthetic(MACHINE).unwrap();
            let online = machine.all().difference(&offline);
            let machine = machine.with_online(online).unwrap().with_isolated(isolated).unwrap();
            let sizes = PoolSizes { exclusive, shared, infra, per_socket };
            if let Ok(pools) = make_pools(&machine, sizes, &reserved) {
                // Among what the policy checks: every CPU at most once, and on its socket.
                prop_assert!(StaticPools::new(&machine, &pools).is_ok());
                for (name, pool) in &pools.pools {
                    for list in &pool.cpu_lists {
                        let cpus: CpuSet = list.cpuset.parse().unwrap();
                        prop_assert!(cpus.is_subset(&machine.online));
                        for core in &machine.cores {
                            let both = core.cpus.intersection(&cpus);
                            let whole = core.cpus.intersection(&machine.online);
                            prop_assert!(both.is_empty() || both == whole);
                        }
                        prop_assert!(!pool.exclusive || cpus.is_disjoint(&reserved));
                        prop_assert!(name == "exclusive" || cpus.is_disjoint(&machine.isolated));
                    }
                }
                let sockets = if per_socket {
                    let has_cpus = |socket: &u32| {
                        !machine.cpus_of_package(PackageId(*socket)).is_disjoint(&machine.online)
                    };
                    (0..2).filter(has_cpus).count()
                } else {
                    1
                };
                prop_assert_eq!(lists(&pools, "exclusive").len(), exclusive * sockets);
            }
        }
    }
}
