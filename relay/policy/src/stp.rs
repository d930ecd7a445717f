//! The policy `static-pools` (`stp`): CPUs from configured pools, in the place of CMK.
//!
//! A list of an exclusive pool belongs to one container; lists of other pools are shared by many. What a
//! container holds is recorded list by list. Memory, shares and quota are left alone.

mod directory;
mod level;
mod make_pools;
mod pool_request;
mod pools;

pub use directory::pools_from_directory;
pub use make_pools::{PoolSizes, make_pools};
pub use pools::{CpuListConfig, PoolConfig, PoolsConfig};

use crate::{
    condition::usable,
    config::ConfigProblem,
    contention::{CONFIDENT, Contention, with_seen},
    cpu_list::listed,
    decision::{Change, Decision, Policy, Refusal},
    explanation::{Candidate, Explanation, MAX_LISTED_CANDIDATES, Reason, first_candidates},
    rebalance::rebalance,
    request::{ContainerId, Request},
    rules::Rules,
    state::{Container, Placement, PoolUse},
    view::View,
    workload::profile_of,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    sync::Arc,
    vec,
    vec::Vec,
};
use pool_request::PoolRequest;
use pools::{List, Pool};
use resmgr_topology::{CpuId, CpuSet, Cpus, Topology};

/// The policy `static-pools`.
#[derive(Clone, Debug)]
pub struct StaticPools {
    pools: BTreeMap<String, Pool>,
}

/// A list busier than this (thousandths) with another container takes time from those that are there.
const FULL_MILLI: u64 = 900;
/// A quarter of a list's time.
const QUARTER_MILLI: u64 = 250;

/// How much a list is used: lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    /// Whether it would be busier than [`FULL_MILLI`] with the newcomer.
    full: bool,
    /// The same in quarters: clearly less demand counts for more than little waiting, which other work of the machine
    /// causes too.
    quarter: u64,
    /// Run-queue wait of the containers on it without what the hypervisor stole, hundredths of a second per second.
    wait: u64,
    /// Busy thousandths with the newcomer, coarse.
    with: u64,
    /// Busy thousandths of what shares caches with it, coarse.
    around: u64,
    /// Busy thousandths now, coarse.
    busy: u64,
    /// Requested of it, thousandths of a CPU per CPU.
    milli_per_cpu: u64,
    /// Containers on it.
    containers: usize,
}

impl StaticPools {
    /// Checks the pools against the machine.
    ///
    /// # Errors
    /// Every problem: lists that overlap, CPUs that the machine or the socket lacks, no pools at all.
    pub fn new(topology: &Topology, config: &PoolsConfig) -> Result<Self, Vec<ConfigProblem>> {
        Ok(Self {
            pools: pools::validate(topology, config)?,
        })
    }

    fn decide(
        &self,
        view: View<'_>,
        request: &Request,
        asked: &PoolRequest,
        running: &[(&ContainerId, &Placement)],
    ) -> Result<(Placement, Explanation), String> {
        let name = &asked.pool;
        let pool = self.pools.get(name);
        let pool = pool.ok_or_else(|| format!("non-existent pool {name:?}"))?;
        let exclusive = match asked.exclusive {
            0 if pool.exclusive => asked.lists_if_exclusive,
            requested => requested,
        };
        if pool.exclusive && exclusive == 0 {
            return Err(
                "exclusive pool specified but the number of exclusive CPUs requested is 0"
                    .to_string(),
            );
        }
        if !pool.exclusive && exclusive > 0 {
            return Err(format!(
                "container \"{}\" with exclusive CPUs set to run in non-exclusive pool {name:?}",
                request.full_name()
            ));
        }
        let contention = Contention::of(view);
        let profile = profile_of(view, request);
        // What it will use, as far as that can be known.
        let requested = request.requirements.cpu_request.0;
        let expected = profile
            .as_ref()
            .map_or(requested, |profile| profile.utilisation_mcpu);
        let online = &view.topology.online;
        let mut held = CpuSet::EMPTY;
        for (_, placed) in running {
            if pool.exclusive && !placed.exclusive.is_empty() {
                held = held.union(&placed.exclusive);
            }
        }
        let uses = uses(view, pool, running);
        let mut candidates: Vec<(Load, usize, &List)> = Vec::new();
        for (index, (list, on)) in pool.lists.iter().zip(&uses).enumerate() {
            let wanted = asked.socket.is_none_or(|socket| socket == list.socket);
            let usable = !list.cpus.is_disjoint(online);
            if wanted && usable && list.cpus.is_disjoint(&held) {
                candidates.push((load(view, &contention, list, on, expected), index, list));
            }
        }
        candidates.sort_by_key(|(load, index, _)| (*load, *index));
        let socket = asked.socket;
        let on_socket = socket.map_or(String::new(), |id| format!(" with socket id {id}"));
        let count = exclusive.max(1);
        if candidates.len() < count {
            return Err(if pool.exclusive {
                format!(
                    "not enough free cpu lists in pool {name:?}{on_socket}: {count} requested, {} free",
                    candidates.len()
                )
            } else {
                format!("no available cpu lists in pool {name:?} (any of them{on_socket})")
            });
        }
        let lists: Vec<CpuSet> = candidates
            .iter()
            .take(count)
            .map(|(_, _, list)| list.cpus)
            .collect();
        let placement = self.placement(view.topology, request, name, lists, asked);
        let mut reasons = vec![match exclusive {
            0 => Reason::SharedPool {
                pool: name.clone(),
                socket,
            },
            lists => Reason::ExclusivePool {
                pool: name.clone(),
                lists,
                socket,
            },
        }];
        reasons.extend(asked.notes.iter().cloned());
        if !contention.is_empty() {
            reasons.push(Reason::LeastContendedList {
                full_milli: FULL_MILLI,
            });
        }
        reasons.extend(profile.as_ref().map(Reason::from));
        reasons.extend(contention.unusable.map(Reason::from));
        let assigned = placement
            .lists
            .iter()
            .fold(CpuSet::EMPTY, |all, list| all.union(list));
        if asked.no_affinity {
            reasons.push(Reason::NotPinned);
        }
        let explanation = Explanation {
            summary: format!("{}: CPUs {assigned} of pool {name:?}", request.full_name()),
            reasons,
            candidates: first_candidates(
                candidates
                    .iter()
                    .map(|(load, _, list)| load.candidate(list)),
                count.saturating_add(MAX_LISTED_CANDIDATES),
            ),
        };
        Ok((placement, explanation))
    }

    fn placement(
        &self,
        topology: &Topology,
        request: &Request,
        name: &str,
        lists: Vec<CpuSet>,
        asked: &PoolRequest,
    ) -> Placement {
        let assigned = lists
            .iter()
            .fold(CpuSet::EMPTY, |all, list| all.union(list));
        let online = Cpus::from(assigned.intersection(&topology.online));
        let pool = self.pools.get(name);
        let exclusive = pool.is_some_and(|pool| pool.exclusive);
        let numbers = pool.map_or(Vec::new(), |pool| pool.numbered(&lists, &online));
        let mut env = vec![
            ("CMK_CPUS_ASSIGNED".to_string(), plain(&numbers)),
            ("CMK_CPUS_ASSIGNED_MASK".to_string(), hex_mask(&online)),
        ];
        for (key, pool) in [("CMK_CPUS_SHARED", "shared"), ("CMK_CPUS_INFRA", "infra")] {
            if let Some(pool) = self.pools.get(pool) {
                let lists: Vec<CpuSet> = pool.lists.iter().map(|list| list.cpus).collect();
                let numbers = pool.numbered(&lists, &pool.cpus());
                env.push((key.to_string(), plain(&numbers)));
            }
        }
        Placement {
            exclusive: if exclusive {
                online.clone()
            } else {
                Cpus::EMPTY
            },
            pool: Some(name.into()),
            shared: if exclusive {
                resmgr_topology::MilliCpu(0)
            } else {
                request.requirements.cpu_request
            },
            cpus: if asked.no_affinity {
                Cpus::EMPTY
            } else {
                online
            },
            lists,
            socket: asked.socket,
            env,
            command: asked.command.clone(),
            ..Placement::default()
        }
    }

    /// The placement of a container that was placed by pools before, if it is still right but for CPUs
    /// that went offline.
    fn kept(
        &self,
        topology: &Topology,
        id: &ContainerId,
        container: &Container,
    ) -> Result<Option<Placement>, String> {
        let old = &container.placement;
        let name = old.pool.as_deref().unwrap_or_default();
        let refuse = |text: String| Err(format!("invalid stp configuration: {text}"));
        let Some(pool) = self.pools.get(name) else {
            return refuse(format!("pool {name:?} for container \"{id}\" not found"));
        };
        let exclusive = !old.exclusive.is_empty();
        if exclusive && !pool.exclusive {
            return refuse(format!(
                "container \"{id}\" with exclusive CPUs set to run in non-exclusive pool {name:?}"
            ));
        }
        if !exclusive && pool.exclusive {
            return refuse(format!(
                "container \"{id}\" with no exclusive CPUs set to run in exclusive pool {name:?}"
            ));
        }
        for list in &old.lists {
            if pool.lists.iter().any(|configured| configured.cpus == *list) {
                continue;
            }
            if !exclusive {
                return Ok(None);
            }
            return refuse(format!(
                "cpu list \"{list}\" configured for container \"{id}\" not found in pool {name:?}"
            ));
        }
        let asked = PoolRequest {
            no_affinity: old.cpus.is_empty(),
            socket: old.socket,
            ..PoolRequest::default()
        };
        let placement = self.placement(
            topology,
            &container.request,
            name,
            old.lists.clone(),
            &asked,
        );
        let alive = !placement
            .lists
            .iter()
            .all(|list| list.is_disjoint(&topology.online));
        Ok(alive.then_some(Placement {
            env: old.env.clone(),
            ..placement
        }))
    }

    fn reconciled(&self, view: View<'_>) -> Result<Vec<Change>, String> {
        let mut placed: BTreeMap<&ContainerId, Placement> = BTreeMap::new();
        let mut unplaceable: Vec<(&ContainerId, &Container)> = Vec::new();
        let mut order: Vec<_> = view.state.containers.iter().collect();
        order.sort_by_key(|(_, container)| {
            (
                container.request.qos,
                core::cmp::Reverse(container.placement.lists.len()),
                container.arrival,
            )
        });
        let mut taken = CpuSet::EMPTY;
        for (id, container) in order {
            let kept = if container.placement.lists.is_empty() {
                None
            } else {
                self.kept(view.topology, id, container)?
            };
            match kept.filter(|kept| kept.exclusive.is_disjoint(&taken)) {
                Some(kept) => {
                    taken = taken.union(&kept.exclusive);
                    placed.insert(id, kept);
                }
                None => unplaceable.push((id, container)),
            }
        }
        let mut why: BTreeMap<&ContainerId, Explanation> = BTreeMap::new();
        for (id, container) in unplaceable {
            let mut asked = PoolRequest::of(&container.request)?;
            if !container.placement.lists.is_empty() {
                // Its command line is not kept: what it was given says what it asked for.
                asked.pool = container
                    .placement
                    .pool
                    .as_deref()
                    .unwrap_or("shared")
                    .to_string();
                asked.exclusive = if container.placement.exclusive.is_empty() {
                    0
                } else {
                    container.placement.lists.len()
                };
                asked.socket = container.placement.socket;
                asked.no_affinity = container.placement.cpus.is_empty();
                asked.notes.push(Reason::ListsGone {
                    lists: container
                        .placement
                        .lists
                        .iter()
                        .copied()
                        .map(Cpus::from)
                        .collect(),
                });
            }
            let running: Vec<_> = placed
                .iter()
                .map(|(id, placement)| (*id, placement))
                .collect();
            let decided = self.decide(view, &container.request, &asked, &running);
            let (placement, explanation) =
                decided.map_err(|text| format!("{text}; container \"{id}\""))?;
            placed.insert(id, placement);
            why.insert(id, explanation);
        }
        let mut changes = Vec::new();
        for (id, mut placement) in placed {
            placement.command = None;
            let old = view
                .state
                .containers
                .get(id)
                .map(|container| &container.placement);
            let same = old.is_some_and(|old| {
                Placement {
                    command: None,
                    ..old.clone()
                } == placement
            });
            if !same {
                changes.push(Change {
                    id: id.clone(),
                    request: None,
                    placement,
                    explanation: why.remove(id),
                });
            }
        }
        Ok(changes)
    }
}

impl Policy for StaticPools {
    fn name(&self) -> &'static str {
        "static-pools"
    }

    fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        let known = view.state.containers.get(&request.id);
        let known = known.filter(|container| !container.placement.lists.is_empty());
        let decided = match known {
            // A changed request does not change lists: they are asked for by number and pool.
            Some(container) => Ok((
                Placement {
                    shared: match container.placement.exclusive.is_empty() {
                        true => request.requirements.cpu_request,
                        false => container.placement.shared,
                    },
                    ..container.placement.clone()
                },
                Explanation {
                    summary: format!(
                        "{}: keeps CPUs {}",
                        request.full_name(),
                        listed(&container.placement.cpus)
                    ),
                    reasons: vec![Reason::KeptLists],
                    candidates: Vec::new(),
                },
            )),
            None => {
                let running = view.state.containers.iter();
                let running = running.filter(|(id, _)| **id != request.id);
                let running: Vec<_> = running
                    .map(|(id, container)| (id, &container.placement))
                    .collect();
                PoolRequest::of(request)
                    .and_then(|asked| self.decide(view, request, &asked, &running))
            }
        };
        let (placement, explanation) = decided.map_err(refusal)?;
        Ok(Decision {
            changes: vec![Change {
                id: request.id.clone(),
                request: Some(Arc::new(request.clone())),
                placement,
                explanation: Some(explanation),
            }],
            ..Decision::default()
        })
    }

    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        let known = view.state.containers.contains_key(gone);
        Decision {
            released: known.then(|| gone.clone()).into_iter().collect(),
            ..Decision::default()
        }
    }

    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        Ok(Decision {
            changes: self.reconciled(view).map_err(refusal)?,
            ..Decision::default()
        })
    }

    fn pools(&self, view: View<'_>) -> Vec<PoolUse> {
        let placements = view.state.containers.values();
        let held: BTreeSet<&CpuSet> = placements
            .flat_map(|container| &container.placement.lists)
            .collect();
        let pools = self.pools.iter();
        pools
            .map(|(name, pool)| {
                let lists = pool.lists.iter().map(|list| &list.cpus);
                let free = lists.filter(|cpus| {
                    !held.contains(cpus) && !cpus.is_disjoint(&view.topology.online)
                });
                PoolUse {
                    name: name.clone(),
                    cpus: pool.cpus(),
                    free: free.copied().collect(),
                }
            })
            .collect()
    }

    fn rebalance(&self, view: View<'_>) -> Option<Decision> {
        rebalance(self, view)
    }

    fn rules(&self, _topology: &Topology) -> Rules {
        let all = |exclusive| {
            let pools = self
                .pools
                .values()
                .filter(|pool| pool.exclusive == exclusive);
            pools.fold(CpuSet::EMPTY, |all, pool| all.union(&pool.cpus()))
        };
        Rules {
            places: true,
            reserved: all(false),
            usable: Some(all(false).union(&all(true))),
            exclusive_only: all(true),
        }
    }
}

impl Load {
    fn candidate(&self, list: &List) -> Candidate {
        Candidate::List {
            cpus: list.cpus.into(),
            socket: list.socket,
            containers: self.containers,
            requested_milli_per_cpu: self.milli_per_cpu,
            busy_milli: self.busy,
            busy_with_it_milli: self.with,
            busy_around_milli: self.around,
            waited_ms_per_s: self.wait * 10,
        }
    }
}

/// What the containers on a list make of it.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    containers: usize,
    milli: u64,
    /// Hundredths of a second per second.
    wait: u64,
}

/// What each list of a pool is used for, in one pass over the containers.
fn uses(view: View<'_>, pool: &Pool, running: &[(&ContainerId, &Placement)]) -> Vec<Use> {
    // Lists have no CPU in common: the lowest one tells which it is.
    let firsts = pool.lists.iter().enumerate();
    let firsts = firsts.filter_map(|(at, list)| Some((list.cpus.first()?, at)));
    let firsts: BTreeMap<CpuId, usize> = firsts.collect();
    let known = |cpus: &CpuSet| {
        let at = *firsts.get(&cpus.first()?)?;
        (pool.lists.get(at)?.cpus == *cpus).then_some(at)
    };
    let mut uses = vec![Use::default(); pool.lists.len()];
    for (_, placed) in running {
        for at in placed.lists.iter().filter_map(known) {
            if let Some(on) = uses.get_mut(at) {
                on.containers += 1;
                on.milli += u64::from(placed.shared.0);
            }
        }
    }
    if usable(view) {
        for (placed, seen) in with_seen(running.iter().copied(), view.measured) {
            let stolen_milli = view.measured.stolen_of_busy_milli(&placed.cpus);
            if seen.confidence.0 < CONFIDENT {
                continue;
            }
            for at in placed.lists.iter().filter_map(known) {
                if let Some(on) = uses.get_mut(at) {
                    on.wait += seen.wait_ns_per_s / 1000 * (1000 - stolen_milli) / 10_000_000;
                }
            }
        }
    }
    uses
}

fn load(
    view: View<'_>,
    contention: &Contention,
    list: &List,
    on: &Use,
    expected_mcpu: u32,
) -> Load {
    let online = list.cpus.intersection(&view.topology.online);
    let cpus = u64::try_from(online.len().max(1)).unwrap_or(1);
    let busy = contention.mean(&online);
    // Without measurements nothing is expected either: requests decide.
    let with = match contention.is_empty() {
        true => 0,
        false => busy + u64::from(expected_mcpu) / cpus / 100 * 100,
    };
    Load {
        full: with > FULL_MILLI,
        quarter: with / QUARTER_MILLI,
        wait: on.wait,
        with,
        around: contention.around(view.topology, &online),
        busy,
        milli_per_cpu: on.milli / cpus,
        containers: on.containers,
    }
}

/// CPU numbers one by one, as CMK wrote them: its users split them at commas.
fn plain(cpus: &[CpuId]) -> String {
    let numbers: Vec<String> = cpus.iter().map(|cpu| cpu.to_string()).collect();
    numbers.join(",")
}

/// The CPUs as one hexadecimal number, the way CMK writes it: capitals, no prefix, no leading zeros.
fn hex_mask(cpus: &CpuSet) -> String {
    let digits = cpus.iter().last().map_or(0, |highest| highest.0 / 4);
    let digit = |place: u32| {
        let bits = (0..4).filter(|bit| cpus.contains(CpuId(place * 4 + bit)));
        char::from_digit(bits.map(|bit| 1 << bit).sum(), 16)
    };
    let digits = (0..=digits).rev().filter_map(digit);
    digits.map(|digit| digit.to_ascii_uppercase()).collect()
}

fn refusal(text: String) -> Refusal {
    Refusal {
        message: format!("static-pools: {text}"),
    }
}
