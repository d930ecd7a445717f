//! What `static` and `static-plus` have in common: exclusive CPUs are sliced off a shared pool.
//!
//! The pool is never stored: it is the policy's CPUs without those that containers hold exclusively. It
//! never runs empty. Every decision reassigns all containers: shared ones follow the pool, purely exclusive
//! ones are never widened.

mod explain;
mod moves;
mod reassign;

use crate::{
    annotation::wants_rebalance,
    config::{ConfigProblem, Reserved, StaticConfig},
    contention::Contention,
    cpu_list::listed,
    decision::{Decision, Policy, Refusal},
    explanation::CpuSource,
    rebalance::rebalance,
    request::{ContainerId, QosClass, Request},
    rules::Rules,
    state::{
        Container, Placement, PoolUse, rebalance::RebalanceMemory, workloads::WorkloadProfile,
    },
    view::View,
    workload::profile_of,
};
use alloc::{format, sync::Arc, vec, vec::Vec};
use core::{cmp::Reverse, fmt, marker::PhantomData};
use resmgr_topology::{CpuId, CpuSet, Cpus, MilliCpu, Preference, Topology, allocate, keep};

/// The CPUs of a policy on the machine as it is now, before anything is sliced off.
#[derive(Clone, Copy, Debug)]
pub struct CpuPools {
    /// Never given out exclusively.
    pub reserved: CpuSet,
    /// Kernel-isolated CPUs: given out exclusively, never shared.
    pub isolated: CpuSet,
    /// What shared containers run on.
    pub shared: CpuSet,
    /// CPUs one pool lends to the other for the time being.
    pub loans: Loans,
}

/// What pools borrow of each other; empty unless a rebalancing decided it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loans {
    /// Reserved CPUs that shared containers may use too.
    pub to_shared: CpuSet,
    /// CPUs of the shared pool that containers of reserved namespaces may use too.
    pub to_reserved: CpuSet,
}

impl CpuPools {
    /// With what the pools borrow, as far as the lender still has it.
    fn with_loans<V: Variant>(self, memory: &RebalanceMemory) -> Self {
        let loan = |borrower: &str, lender: &CpuSet| {
            let loan = memory.loans.get(borrower).filter(|_| V::SPILLS);
            loan.map_or(CpuSet::EMPTY, |loan| loan.intersection(lender))
        };
        Self {
            loans: Loans {
                to_shared: loan("shared", &self.reserved),
                to_reserved: loan("reserved", &self.shared),
            },
            ..self
        }
    }
}

/// What a request is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSplit {
    /// Whole CPUs, exclusive.
    pub full: usize,
    /// The part served by the shared pool (or the reserved CPUs).
    pub part: MilliCpu,
    /// Runs on the reserved CPUs.
    pub reserved: bool,
}

/// How one policy differs from the other.
pub trait Variant: fmt::Debug + Send + Sync {
    /// Name of the policy.
    const NAME: &'static str;
    /// Shared containers beyond the pool's capacity also get the reserved CPUs.
    const SPILLS: bool;
    /// `cpu.shares` follow the shared part.
    const SETS_SHARES: bool;
    /// The pools on this machine, where `reserved` are the reserved CPUs that are online.
    fn pools(config: &StaticConfig, reserved: &CpuSet, topology: &Topology) -> CpuPools;
    /// How much of a request is exclusive.
    fn split(config: &StaticConfig, request: &Request) -> CpuSplit;
    /// Where its exclusive CPUs may come from, the best first.
    fn sources(config: &StaticConfig, request: &Request, full: usize) -> Vec<CpuSource>;
}

/// A container while a decision is made.
#[derive(Debug)]
struct Item<'a> {
    id: &'a ContainerId,
    request: &'a Request,
    arrival: u64,
    old: Option<&'a Placement>,
    exclusive: Cpus,
    confined: Option<Cpus>,
}

/// A policy that slices exclusive CPUs off a shared pool.
#[derive(Clone, Debug)]
pub struct StaticEngine<V> {
    config: StaticConfig,
    reserved: CpuSet,
    variant: PhantomData<V>,
}

impl<V: Variant> StaticEngine<V> {
    /// Checks the configuration against the machine and picks the reserved CPUs. Make a new one when the
    /// machine changes.
    ///
    /// # Errors
    /// What is wrong with the configuration: no reservation, or CPUs that are not available.
    pub fn new(topology: &Topology, config: StaticConfig) -> Result<Self, Vec<ConfigProblem>> {
        let reserved = reserve::<V>(topology, &config).map_err(|problem| vec![problem])?;
        let engine = Self {
            config,
            reserved,
            variant: PhantomData,
        };
        if engine.pools(topology).shared.is_empty() {
            return Err(vec![ConfigProblem::new(
                "available-resources",
                "no CPU is left for shared containers: make more CPUs available or reserve fewer",
            )]);
        }
        Ok(engine)
    }

    fn pools(&self, topology: &Topology) -> CpuPools {
        let online = self.reserved.intersection(&topology.online);
        V::pools(&self.config, &online, topology)
    }

    /// The same with what pools borrow of each other now.
    fn pools_now(&self, view: View<'_>) -> CpuPools {
        let memory = &view.state.rebalance;
        self.pools(view.topology).with_loans::<V>(memory)
    }
}

impl<V: Variant> Policy for StaticEngine<V> {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        let pools = self.pools_now(view);
        let mut items = items(view, Some(&request.id));
        let known = view.state.containers.get(&request.id);
        let held = known.map_or(CpuSet::EMPTY, |container| *container.placement.exclusive);
        let taken = taken(&items);
        let contention = match V::split(&self.config, request).full {
            0 => Contention::unasked(view),
            _ => Contention::of(view),
        };
        let exclusive = self.choose(view, &pools, request, &held, &taken, &contention)?;
        // It begins where its predecessors were better off, if it fits in there.
        let profile = profile_of(view, request);
        let inherited_domain = profile
            .as_ref()
            .filter(|_| wants_rebalance(request) != Some(false))
            .and_then(|profile| profile.confined);
        let at = items.partition_point(|item| *item.id < request.id);
        let item = Item {
            id: &request.id,
            request,
            arrival: known.map_or(view.state.next_arrival, |container| container.arrival),
            old: None,
            exclusive: exclusive.cpus.into(),
            confined: known
                .and_then(|container| container.placement.confined.clone())
                .or(inherited_domain.map(Cpus::from)),
        };
        items.insert(at, item);
        let mut changes = self.reassign_shared(view.topology, &pools, &items);
        let choice = Choice {
            pools,
            taken,
            contention,
            exclusive,
            profile,
        };
        for change in changes.iter_mut().filter(|change| change.id == request.id) {
            change.request = Some(Arc::new(request.clone()));
            change.explanation = Some(self.explain(view, request, &change.placement, &choice));
        }
        Ok(Decision {
            changes,
            ..Decision::default()
        })
    }

    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        if !view.state.containers.contains_key(gone) {
            return Decision::default();
        }
        let pools = self.pools_now(view);
        Decision {
            released: vec![gone.clone()],
            changes: self.reassign_shared(view.topology, &pools, &items(view, Some(gone))),
            ..Decision::default()
        }
    }

    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        let pools = self.pools_now(view);
        let mut items = items(view, None);
        // Guaranteed first, then by size: the first of two containers that claim the same CPU keeps it.
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|index| {
            let item = items.get(*index);
            item.map(|item| {
                let full = V::split(&self.config, item.request).full;
                (item.request.qos, Reverse(full), item.arrival)
            })
        });
        let kept: Vec<CpuSet> = self.kept(&pools, &items, &order);
        let repaired = self.replace(view, &pools, &items, &order, &kept);
        // What is kept may leave too little for the rest: then everything moves before any is refused.
        let nothing = vec![CpuSet::EMPTY; items.len()];
        let exclusive =
            repaired.or_else(|_first| self.replace(view, &pools, &items, &order, &nothing))?;
        for (item, exclusive) in items.iter_mut().zip(exclusive) {
            item.exclusive = exclusive.into();
        }
        Ok(Decision {
            changes: self.reassign_shared(view.topology, &pools, &items),
            ..Decision::default()
        })
    }

    fn rules(&self, topology: &Topology) -> Rules {
        let pools = self.pools(topology);
        Rules {
            places: true,
            reserved: pools.reserved,
            usable: Some(pools.shared.union(&pools.reserved).union(&pools.isolated)),
            exclusive_only: pools.isolated,
        }
    }

    fn pools(&self, view: View<'_>) -> Vec<PoolUse> {
        let pools = self.pools_now(view);
        let taken = view.state.exclusive();
        let shared = pools.shared.difference(&taken);
        let mut free = source(&pools, CpuSource::Pool).difference(&taken);
        if free == shared {
            // The pool keeps a CPU.
            free = free.iter().skip(1).collect();
        }
        let pool = |name: &str, cpus, free: CpuSet| PoolUse {
            name: name.into(),
            cpus,
            free: Some(free)
                .filter(|free| !free.is_empty())
                .into_iter()
                .collect(),
        };
        let mut all = vec![
            pool("shared", shared.union(&pools.loans.to_shared), free),
            pool(
                "reserved",
                pools
                    .reserved
                    .union(&pools.loans.to_reserved.difference(&taken)),
                CpuSet::EMPTY,
            ),
        ];
        if !pools.isolated.is_empty() {
            let free = pools.isolated.difference(&taken);
            all.push(pool("isolated", pools.isolated, free));
        }
        all
    }

    fn rebalance(&self, view: View<'_>) -> Option<Decision> {
        rebalance(self, view)
    }
}

impl<V: Variant> StaticEngine<V> {
    /// What each container may keep of what it holds.
    fn kept(&self, pools: &CpuPools, items: &[Item<'_>], order: &[usize]) -> Vec<CpuSet> {
        let mut kept = vec![CpuSet::EMPTY; items.len()];
        let mut taken = CpuSet::EMPTY;
        for index in order {
            if let (Some(item), Some(slot)) = (items.get(*index), kept.get_mut(*index)) {
                let split = V::split(&self.config, item.request);
                let sources = V::sources(&self.config, item.request, split.full);
                let held = item.exclusive.difference(&taken);
                *slot = legal_part(pools, &sources, &held, split.full);
                taken = taken.union(slot);
            }
        }
        kept
    }

    fn replace(
        &self,
        view: View<'_>,
        pools: &CpuPools,
        items: &[Item<'_>],
        order: &[usize],
        kept: &[CpuSet],
    ) -> Result<Vec<CpuSet>, Refusal> {
        let contention = Contention::of(view);
        let mut result = kept.to_vec();
        let mut taken = kept.iter().fold(CpuSet::EMPTY, |all, cpus| all.union(cpus));
        for index in order {
            if let (Some(item), Some(slot)) = (items.get(*index), result.get_mut(*index)) {
                let held = taken.difference(slot);
                let chosen = self.choose(view, pools, item.request, slot, &held, &contention)?;
                taken = held.union(&chosen.cpus);
                *slot = chosen.cpus;
            }
        }
        Ok(result)
    }

    /// Exclusive CPUs for a request; keeps what is legal of `held`.
    fn choose(
        &self,
        view: View<'_>,
        pools: &CpuPools,
        request: &Request,
        held: &CpuSet,
        taken: &CpuSet,
        contention: &Contention,
    ) -> Result<ExclusiveCpus, Refusal> {
        let split = V::split(&self.config, request);
        if split.full == 0 {
            return Ok(ExclusiveCpus::default());
        }
        let topology = view.topology;
        let sources = V::sources(&self.config, request, split.full);
        let held = legal_part(pools, &sources, &held.difference(taken), split.full);
        let cost = |cpu| contention.cost(cpu);
        let preference = Preference {
            near: (!held.is_empty()).then_some(&held),
            cost: (!contention.is_empty()).then_some(&cost),
        };
        let shared_left = |cpus: &CpuSet| {
            let left = pools.shared.difference(taken).difference(cpus);
            !left.is_empty()
        };
        if held.len() >= split.full {
            let cpus = keep(topology, &held, split.full, &preference);
            if shared_left(&cpus) {
                let from = sources
                    .iter()
                    .find(|from| cpus.is_subset(&source(pools, **from)));
                return Ok(ExclusiveCpus {
                    cpus,
                    from: from.copied(),
                    kept: true,
                });
            }
        }
        for from in &sources {
            let free = source(pools, *from).difference(taken);
            let cpus = if *from == CpuSource::IsolatedCore {
                let cores = topology.cores.iter();
                let mut whole = cores.map(|core| core.cpus.intersection(&topology.online));
                whole.find(|core| core.len() == split.full && core.is_subset(&free))
            } else if !held.is_empty() && held.is_subset(&free) {
                let more = split.full.saturating_sub(held.len());
                let more = allocate(topology, &free.difference(&held), more, &preference);
                more.map(|more| more.union(&held))
            } else {
                allocate(topology, &free, split.full, &preference)
            };
            if let Some(cpus) = cpus.filter(shared_left) {
                return Ok(ExclusiveCpus {
                    cpus,
                    from: Some(*from),
                    kept: false,
                });
            }
        }
        Err(self.refuse(pools, request, split, taken))
    }

    fn refuse(
        &self,
        pools: &CpuPools,
        request: &Request,
        split: CpuSplit,
        taken: &CpuSet,
    ) -> Refusal {
        let free = source(pools, CpuSource::Pool).difference(taken);
        let isolated = pools.isolated.difference(taken);
        Refusal {
            message: format!(
                "{}: not enough capacity for {}: {} exclusive CPUs requested, {} free to slice off the \
                 shared pool ({}), {} isolated ({}); the shared pool keeps at least one CPU. Request fewer \
                 CPUs or end other exclusive containers",
                V::NAME,
                request.full_name(),
                split.full,
                free.len(),
                listed(&free),
                isolated.len(),
                listed(&isolated),
            ),
        }
    }
}

/// Exclusive CPUs found for a request.
#[derive(Clone, Copy, Debug, Default)]
struct ExclusiveCpus {
    cpus: CpuSet,
    from: Option<CpuSource>,
    kept: bool,
}

/// What a placement was decided by.
struct Choice {
    pools: CpuPools,
    /// CPUs that other containers hold exclusively.
    taken: CpuSet,
    contention: Contention,
    exclusive: ExclusiveCpus,
    /// What its predecessors did.
    profile: Option<WorkloadProfile>,
}

/// Whether a container's quota would throttle CPUs that no other container may use.
fn unthrottled(request: &Request, split: CpuSplit) -> bool {
    split.full > 0 && split.part == MilliCpu(0) && request.qos == QosClass::Guaranteed
}

fn source(pools: &CpuPools, from: CpuSource) -> CpuSet {
    let pool = pools.shared.difference(&pools.reserved);
    match from {
        CpuSource::Isolated | CpuSource::IsolatedCore => pools.isolated,
        CpuSource::Pool => pool,
        CpuSource::Either => pool.union(&pools.isolated),
    }
}

/// The largest part of `held` that one source alone may provide; empty when nothing is to be held.
fn legal_part(pools: &CpuPools, sources: &[CpuSource], held: &CpuSet, full: usize) -> CpuSet {
    if full == 0 {
        return CpuSet::EMPTY;
    }
    let mut best = CpuSet::EMPTY;
    for from in sources {
        let part = held.intersection(&source(pools, *from));
        if part.len() > best.len() {
            best = part;
        }
    }
    best
}

fn items<'a>(view: View<'a>, without: Option<&ContainerId>) -> Vec<Item<'a>> {
    let all = view.state.containers.iter();
    let rest = all.filter(|(id, _)| Some(*id) != without);
    let item = |(id, container): (&'a ContainerId, &'a Container)| Item {
        id,
        request: &container.request,
        arrival: container.arrival,
        old: Some(&container.placement),
        exclusive: container.placement.exclusive.clone(),
        confined: container.placement.confined.clone(),
    };
    rest.map(item).collect()
}

fn taken(items: &[Item<'_>]) -> CpuSet {
    let exclusive = items.iter().filter(|item| !item.exclusive.is_empty());
    exclusive.fold(CpuSet::EMPTY, |all, item| all.union(&item.exclusive))
}

fn reserve<V: Variant>(
    topology: &Topology,
    config: &StaticConfig,
) -> Result<CpuSet, ConfigProblem> {
    const KEY: &str = "reserved-resources";
    let machine = config.available.unwrap_or(topology.online);
    let machine = machine.intersection(&topology.online);
    let usable = V::pools(config, &CpuSet::EMPTY, topology).shared;
    match config.reserved {
        Some(Reserved::Set(set)) if !set.is_empty() => {
            let outside = set.difference(&machine);
            if outside.is_empty() {
                return Ok(set);
            }
            Err(ConfigProblem::new(
                KEY,
                format!(
                    "CPUs {outside} are not among the available CPUs {}",
                    listed(&machine)
                ),
            ))
        }
        Some(Reserved::Quantity(quantity)) if quantity.0 > 0 => {
            let count = usize::try_from(quantity.0.div_ceil(1000)).unwrap_or(usize::MAX);
            // The kernel's own work is mostly on the first CPU: where one will do, it is that.
            let first = CpuId(0);
            if count == 1 && usable.contains(first) {
                return Ok(CpuSet::from_iter([first]));
            }
            allocate(topology, &usable, count, &Preference::default()).ok_or_else(|| {
                let have = usable.len();
                ConfigProblem::new(KEY, format!("{count} CPUs asked for, {have} available"))
            })
        }
        _ => Err(ConfigProblem::new(
            KEY,
            format!(
                "the policy {} needs reserved CPUs and none are given: set cpu=cpuset:LIST, or a \
                 quantity such as cpu=1000m",
                V::NAME
            ),
        )),
    }
}
