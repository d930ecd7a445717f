//! What `static` and `static-plus` have in common: exclusive CPUs are sliced off a shared pool.
//!
//! The pool is never stored: it is the policy's CPUs without those that containers hold exclusively. It
//! never runs empty. Every decision settles all containers: who is shared follows the pool, who is purely
//! exclusive is never widened.

mod confine;
mod explain;
mod settle;

use crate::{
    annotation::wants_rebalance,
    config::{ConfigProblem, Reserved, StaticConfig},
    contention::Contention,
    decision::{Decision, Refusal},
    explanation::listed,
    request::{ContainerId, QosClass, Request},
    rules::Rules,
    state::{Placement, rebalance::RebalanceMemory},
    view::View,
    workload::known as known_of,
};
use alloc::{format, sync::Arc, vec, vec::Vec};
use core::{cmp::Reverse, fmt};
use resmgr_topology::{CpuId, CpuSet, Cpus, MilliCpu, Preference, Topology, allocate, keep};

/// The CPUs of a policy on the machine as it is now, before anything is sliced off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sets {
    /// Never given out exclusively.
    pub(crate) reserved: CpuSet,
    /// Kernel-isolated CPUs: given out exclusively, never shared.
    pub(crate) isolated: CpuSet,
    /// What shared containers run on.
    pub(crate) pool: CpuSet,
    /// CPUs one pool lends to the other for the time being.
    pub(crate) lent: Lent,
}

/// What pools borrow of each other; empty unless a rebalancing decided it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lent {
    /// Reserved CPUs that shared containers may use too.
    pub(crate) shared: CpuSet,
    /// CPUs of the shared pool that containers of reserved namespaces may use too.
    pub(crate) reserved: CpuSet,
}

impl Sets {
    /// Takes over what pools borrow, as far as the lender still has it.
    pub(crate) fn borrow<F: Flavour>(&mut self, memory: &RebalanceMemory) {
        let of = |name: &str, lender: &CpuSet| {
            let lent = memory.lent.get(name).filter(|_| F::SPILLS);
            lent.map_or(CpuSet::EMPTY, |lent| lent.intersection(lender))
        };
        self.lent = Lent {
            shared: of("shared", &self.reserved),
            reserved: of("reserved", &self.pool),
        };
    }
}

/// What a request is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Whole CPUs, exclusive.
    pub(crate) full: usize,
    /// The part served by the shared pool (or the reserved CPUs).
    pub(crate) part: MilliCpu,
    /// Runs on the reserved CPUs.
    pub(crate) reserved: bool,
}

/// Where exclusive CPUs may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// Kernel-isolated CPUs.
    Isolated,
    /// Kernel-isolated CPUs, if they make up exactly one full core.
    IsolatedCore,
    /// CPUs sliced off the pool.
    Pool,
    /// Both together.
    Either,
}

/// How one policy differs from the other.
pub(crate) trait Flavour: fmt::Debug + Send + Sync {
    /// Name of the policy.
    const NAME: &'static str;
    /// Shared containers beyond the pool's capacity also get the reserved CPUs.
    const SPILLS: bool;
    /// `cpu.shares` follow the shared part.
    const SETS_SHARES: bool;
    fn sets(config: &StaticConfig, reserved: &CpuSet, topology: &Topology) -> Sets;
    fn split(config: &StaticConfig, request: &Request) -> Split;
    fn sources(config: &StaticConfig, request: &Request, full: usize) -> Vec<From>;
}

/// A container while a decision is made.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    id: &'a ContainerId,
    request: &'a Request,
    arrival: u64,
    old: Option<&'a Placement>,
    exclusive: Cpus,
    confined: Option<Cpus>,
}

/// The engine of a slicing policy.
#[derive(Clone, Debug)]
pub(crate) struct Slices<F> {
    pub(crate) config: StaticConfig,
    reserved: CpuSet,
    flavour: core::marker::PhantomData<F>,
}

impl<F: Flavour> Slices<F> {
    /// Checks the configuration against the machine and picks the reserved CPUs.
    pub(crate) fn new(
        topology: &Topology,
        config: StaticConfig,
    ) -> Result<Self, Vec<ConfigProblem>> {
        let reserved = reserve::<F>(topology, &config).map_err(|problem| vec![problem])?;
        let this = Self {
            config,
            reserved,
            flavour: core::marker::PhantomData,
        };
        if this.sets(topology).pool.is_empty() {
            return Err(vec![ConfigProblem::new(
                "available-resources",
                "no CPU is left for shared containers: make more CPUs available or reserve fewer",
            )]);
        }
        Ok(this)
    }

    pub(crate) fn sets(&self, topology: &Topology) -> Sets {
        let online = self.reserved.intersection(&topology.online);
        F::sets(&self.config, &online, topology)
    }

    /// The same with what pools borrow of each other now.
    fn sets_now(&self, view: View<'_>) -> Sets {
        let mut sets = self.sets(view.topology);
        sets.borrow::<F>(&view.state.rebalance);
        sets
    }

    pub(crate) fn rules(&self, topology: &Topology) -> Rules {
        let sets = self.sets(topology);
        let usable = sets.pool.union(&sets.reserved).union(&sets.isolated);
        Rules {
            places: true,
            reserved: sets.reserved,
            usable: Some(usable),
            exclusive_only: sets.isolated,
        }
    }

    pub(crate) fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        let sets = self.sets_now(view);
        let mut items = items(view, Some(&request.id));
        let known = view.state.containers.get(&request.id);
        let held = known.map_or(CpuSet::EMPTY, |one| *one.placement.exclusive);
        let taken = taken(&items);
        let contention = match F::split(&self.config, request).full {
            0 => Contention::unasked(view),
            _ => Contention::of(view),
        };
        let chosen = self.choose(view, &sets, request, &held, &taken, &contention)?;
        // It begins where its predecessors were better off, if it fits in there.
        let known_of = known_of(view, request);
        let came_before = known_of
            .as_ref()
            .filter(|_| wants_rebalance(request) != Some(false))
            .and_then(|one| one.confined);
        let at = items.partition_point(|item| *item.id < request.id);
        let item = Item {
            id: &request.id,
            request,
            arrival: known.map_or(view.state.next_arrival, |one| one.arrival),
            old: None,
            exclusive: chosen.cpus.into(),
            confined: known
                .and_then(|one| one.placement.confined.clone())
                .or(came_before.map(Cpus::from)),
        };
        items.insert(at, item);
        let mut changes = self.settle(view.topology, &sets, &items);
        for change in changes.iter_mut().filter(|change| change.id == request.id) {
            change.request = Some(Arc::new(request.clone()));
            change.explanation = Some(self.explain(
                view,
                &sets,
                request,
                &change.placement,
                &taken,
                &chosen,
                &contention,
                known_of.as_ref(),
            ));
        }
        Ok(Decision {
            changes,
            ..Decision::default()
        })
    }

    pub(crate) fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        if !view.state.containers.contains_key(gone) {
            return Decision::default();
        }
        let sets = self.sets_now(view);
        Decision {
            released: vec![gone.clone()],
            changes: self.settle(view.topology, &sets, &items(view, Some(gone))),
            ..Decision::default()
        }
    }

    pub(crate) fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        let sets = self.sets_now(view);
        let mut items = items(view, None);
        // Guaranteed first, then by size: also who keeps what, should two claim the same CPU.
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|index| {
            let item = items.get(*index);
            item.map(|item| {
                let full = F::split(&self.config, item.request).full;
                (item.request.qos, Reverse(full), item.arrival)
            })
        });
        let kept: Vec<CpuSet> = self.kept(&sets, &items, &order);
        let repaired = self.replace(view, &sets, &items, &order, &kept);
        // What is kept may leave too little for the rest: then everything moves before anybody is refused.
        let nothing = vec![CpuSet::EMPTY; items.len()];
        let exclusive =
            repaired.or_else(|_first| self.replace(view, &sets, &items, &order, &nothing))?;
        for (item, exclusive) in items.iter_mut().zip(exclusive) {
            item.exclusive = exclusive.into();
        }
        Ok(Decision {
            changes: self.settle(view.topology, &sets, &items),
            ..Decision::default()
        })
    }

    /// What each container may keep of what it holds.
    fn kept(&self, sets: &Sets, items: &[Item<'_>], order: &[usize]) -> Vec<CpuSet> {
        let mut kept = vec![CpuSet::EMPTY; items.len()];
        let mut taken = CpuSet::EMPTY;
        for index in order {
            if let (Some(item), Some(slot)) = (items.get(*index), kept.get_mut(*index)) {
                let split = F::split(&self.config, item.request);
                let sources = F::sources(&self.config, item.request, split.full);
                let held = item.exclusive.difference(&taken);
                *slot = legal_part(sets, &sources, &held, split.full);
                taken = taken.union(slot);
            }
        }
        kept
    }

    fn replace(
        &self,
        view: View<'_>,
        sets: &Sets,
        items: &[Item<'_>],
        order: &[usize],
        kept: &[CpuSet],
    ) -> Result<Vec<CpuSet>, Refusal> {
        let contention = Contention::of(view);
        let mut result = kept.to_vec();
        let mut taken = kept.iter().fold(CpuSet::EMPTY, |all, one| all.union(one));
        for index in order {
            if let (Some(item), Some(slot)) = (items.get(*index), result.get_mut(*index)) {
                let others = taken.difference(slot);
                let chosen = self.choose(view, sets, item.request, slot, &others, &contention)?;
                taken = others.union(&chosen.cpus);
                *slot = chosen.cpus;
            }
        }
        Ok(result)
    }

    /// Exclusive CPUs for a request; keeps what is legal of `held`.
    fn choose(
        &self,
        view: View<'_>,
        sets: &Sets,
        request: &Request,
        held: &CpuSet,
        taken: &CpuSet,
        contention: &Contention,
    ) -> Result<Chosen, Refusal> {
        let split = F::split(&self.config, request);
        if split.full == 0 {
            return Ok(Chosen::default());
        }
        let topology = view.topology;
        let sources = F::sources(&self.config, request, split.full);
        let held = legal_part(sets, &sources, &held.difference(taken), split.full);
        let cost = |cpu| contention.cost(cpu);
        let preference = Preference {
            near: (!held.is_empty()).then_some(&held),
            cost: (!contention.is_empty()).then_some(&cost),
        };
        let shared_left = |cpus: &CpuSet| {
            let left = sets.pool.difference(taken).difference(cpus);
            !left.is_empty()
        };
        if held.len() >= split.full {
            let cpus = keep(topology, &held, split.full, &preference);
            if shared_left(&cpus) {
                let from = sources
                    .iter()
                    .find(|one| cpus.is_subset(&source(sets, **one)));
                return Ok(Chosen {
                    cpus,
                    from: from.copied(),
                    kept: true,
                });
            }
        }
        for from in &sources {
            let free = source(sets, *from).difference(taken);
            let cpus = if *from == From::IsolatedCore {
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
                return Ok(Chosen {
                    cpus,
                    from: Some(*from),
                    kept: false,
                });
            }
        }
        Err(self.refuse(sets, request, split, taken))
    }

    fn refuse(&self, sets: &Sets, request: &Request, split: Split, taken: &CpuSet) -> Refusal {
        let free = source(sets, From::Pool).difference(taken);
        let isolated = sets.isolated.difference(taken);
        Refusal {
            message: format!(
                "{}: not enough capacity for {}: {} exclusive CPUs requested, {} free to slice off the \
                 shared pool ({}), {} isolated ({}); the shared pool keeps at least one CPU. Request fewer \
                 CPUs or end other exclusive containers",
                F::NAME,
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
pub(crate) struct Chosen {
    cpus: CpuSet,
    from: Option<From>,
    kept: bool,
}

/// Whether a container's quota would throttle CPUs nobody else may use.
pub(crate) fn unthrottled(request: &Request, split: Split) -> bool {
    split.full > 0 && split.part == MilliCpu(0) && request.qos == QosClass::Guaranteed
}

fn source(sets: &Sets, from: From) -> CpuSet {
    let pool = sets.pool.difference(&sets.reserved);
    match from {
        From::Isolated | From::IsolatedCore => sets.isolated,
        From::Pool => pool,
        From::Either => pool.union(&sets.isolated),
    }
}

/// The largest part of `held` that one source alone may provide; empty when nothing is to be held.
fn legal_part(sets: &Sets, sources: &[From], held: &CpuSet, full: usize) -> CpuSet {
    if full == 0 {
        return CpuSet::EMPTY;
    }
    let mut best = CpuSet::EMPTY;
    for from in sources {
        let part = held.intersection(&source(sets, *from));
        if part.len() > best.len() {
            best = part;
        }
    }
    best
}

fn items<'a>(view: View<'a>, without: Option<&ContainerId>) -> Vec<Item<'a>> {
    let all = view.state.containers.iter();
    let rest = all.filter(|(id, _)| Some(*id) != without);
    let item = |(id, one): (&'a ContainerId, &'a crate::state::Container)| Item {
        id,
        request: &one.request,
        arrival: one.arrival,
        old: Some(&one.placement),
        exclusive: one.placement.exclusive.clone(),
        confined: one.placement.confined.clone(),
    };
    rest.map(item).collect()
}

fn taken(items: &[Item<'_>]) -> CpuSet {
    let each = items.iter().filter(|item| !item.exclusive.is_empty());
    each.fold(CpuSet::EMPTY, |all, item| all.union(&item.exclusive))
}

fn reserve<F: Flavour>(
    topology: &Topology,
    config: &StaticConfig,
) -> Result<CpuSet, ConfigProblem> {
    const KEY: &str = "reserved-resources";
    let machine = config.available.unwrap_or(topology.online);
    let machine = machine.intersection(&topology.online);
    let usable = F::sets(config, &CpuSet::EMPTY, topology).pool;
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
                F::NAME
            ),
        )),
    }
}
