//! One allocation: counters per group, so that each step is one pass over CPUs or cores.

use super::preference::Preference;
use crate::{
    cpuset::CpuSet,
    ids::CpuId,
    model::{CoreKind, Topology},
};
use alloc::{vec, vec::Vec};
use core::cmp::Reverse;

const CORE: usize = 0;
const LLC: usize = 1;
const NODE: usize = 2;
const DIE: usize = 3;
const PACKAGE: usize = 4;
const LEVELS: usize = 5;

/// Closeness ranks below [`FAR`] are within the nodes of the preferred CPUs; from it on the distance is added.
const SAME_CORE: u32 = 0;
const SAME_LLC: u32 = 1;
const SAME_NODE: u32 = 2;
const FAR: u32 = 3;

/// An online CPU and the groups it is in, by position.
#[derive(Clone, Copy)]
struct Slot {
    id: CpuId,
    at: [usize; LEVELS],
    kind: CoreKind,
    rank: u32,
    cost: u64,
    /// In the set and not taken yet.
    free: bool,
    /// Free, and not ruled out by the choice of a home.
    open: bool,
}

/// Counters of one core, cache, node, die or package.
#[derive(Clone, Copy, Default)]
struct Tally {
    /// Online CPUs.
    size: usize,
    free: usize,
    open: usize,
    taken: usize,
    /// Positions of the groups it is in.
    at: [usize; LEVELS],
}

/// What decides between groups of one level: closeness, the use of each wider level and of the group itself, best
/// fit where parts of cores are taken, cost, best fit, position.
type SearchKey = (u32, [Reverse<usize>; LEVELS], Fit, u128, Fit, usize);
/// Of each wider level and of the group itself: free CPUs, and the position where it counts.
type Fit = [(usize, usize); LEVELS];

#[derive(Clone)]
pub(super) struct Search {
    slots: Vec<Slot>,
    tallies: [Vec<Tally>; LEVELS],
    /// Levels, the widest groups first; cores are the last.
    levels: [usize; LEVELS],
    /// Which nodes and packages have a preferred CPU, by position.
    near_nodes: Vec<bool>,
    near_packages: Vec<bool>,
    /// Whether all preferred CPUs are efficiency cores.
    near_efficient: bool,
    /// Whether groups are ordered as the kubelet orders them: it knows no caches, does not prefer what is in use, and
    /// goes by number from level to level.
    as_kubelet: bool,
    chosen: CpuSet,
}

impl Search {
    pub(super) fn new(topology: &Topology, from: &CpuSet, preference: &Preference<'_>) -> Self {
        let mut tallies = [
            vec![Tally::default(); topology.cores.len()],
            vec![Tally::default(); topology.llcs.len()],
            vec![Tally::default(); topology.nodes.len()],
            vec![Tally::default(); topology.dies.len()],
            vec![Tally::default(); topology.packages.len()],
        ];
        let closeness = Closeness::new(topology, preference.near);
        let mut slots = Vec::with_capacity(topology.cpus.len());
        for cpu in &topology.cpus {
            let node = topology
                .nodes
                .binary_search_by_key(&cpu.node, |node| node.id);
            let package = topology
                .packages
                .binary_search_by_key(&cpu.package, |package| package.id);
            let (true, Ok(node), Ok(package)) = (topology.online.contains(cpu.id), node, package)
            else {
                continue;
            };
            let at = [
                cpu.core.0 as usize,
                cpu.llc.0 as usize,
                node,
                cpu.die.0 as usize,
                package,
            ];
            let free = from.contains(cpu.id);
            for (tallies, position) in tallies.iter_mut().zip(at) {
                if let Some(tally) = tallies.get_mut(position) {
                    tally.size += 1;
                    tally.free += usize::from(free);
                    tally.open += usize::from(free);
                    tally.at = at;
                }
            }
            slots.push(Slot {
                id: cpu.id,
                at,
                kind: cpu.kind,
                rank: closeness.rank(&at),
                cost: match preference.cost {
                    Some(cost) if free => cost(cpu.id),
                    _ => 0,
                },
                free,
                open: free,
            });
        }
        // Nodes may contain packages, and caches nodes: fewer groups are wider ones.
        let mut levels = [PACKAGE, NODE, DIE, LLC, CORE];
        levels.sort_by_key(|level| (*level == CORE, tallies.get(*level).map_or(0, Vec::len)));
        Self {
            slots,
            tallies,
            levels,
            near_nodes: closeness.nodes,
            near_packages: closeness.packages,
            near_efficient: closeness.any && !closeness.fast,
            as_kubelet: false,
            chosen: CpuSet::EMPTY,
        }
    }

    /// Takes `count` CPUs so that as few packages, then nodes, then caches as possible are used.
    pub(super) fn fewest(mut self, count: usize) -> Self {
        let mut missing = self.fill(count);
        missing -= self.take_whole(CORE, missing, |_| true);
        missing = self.fill(missing);
        self.take_threads(missing);
        self
    }

    /// Takes `count` CPUs as the kubelet does: whole packages and nodes, then cores, then threads, all of them
    /// where the fewest are free (`takeByTopologyNUMAPacked` in its `cpu_assignment.go`).
    pub(super) fn packed(mut self, count: usize) -> Self {
        self.as_kubelet = true;
        self.slots.iter_mut().for_each(|slot| slot.cost = 0);
        let mut missing = count;
        for level in self
            .levels
            .into_iter()
            .filter(|level| [PACKAGE, NODE, CORE].contains(level))
        {
            missing -= self.take_whole(level, missing, |_| true);
        }
        self.take_threads(missing);
        self
    }

    /// Free CPUs, before any is taken.
    pub(super) fn free(&self) -> usize {
        self.slots.iter().filter(|slot| slot.free).count()
    }

    pub(super) fn chosen(&self) -> CpuSet {
        self.chosen
    }

    /// How many packages, nodes and cores what was taken is in.
    pub(super) fn spans(&self) -> [usize; 3] {
        [PACKAGE, NODE, CORE].map(|level| {
            let tallies = self.tallies.get(level).into_iter().flatten();
            tallies.filter(|tally| tally.taken > 0).count()
        })
    }

    fn tally(&self, level: usize, position: usize) -> Tally {
        let tallies = self.tallies.get(level);
        tallies
            .and_then(|tallies| tallies.get(position))
            .copied()
            .unwrap_or_default()
    }

    /// Rules out the slower cores when the faster ones suffice, or else the faster ones when the slower suffice; the
    /// other way round where all preferred CPUs are slow. Where neither kind suffices, takes all fast ones. How many
    /// CPUs are missing then.
    pub(super) fn stay_in_kind(&mut self, missing: usize) -> usize {
        let mut kinds = [CoreKind::Performance, CoreKind::Efficiency];
        if self.near_efficient {
            kinds.reverse();
        }
        for kind in kinds {
            let open = self
                .slots
                .iter()
                .filter(|slot| slot.open && slot.kind == kind);
            if open.count() >= missing {
                self.restrict(|slot| slot.kind == kind);
                return missing;
            }
        }
        missing - self.choose(|slot| slot.kind == CoreKind::Performance)
    }

    /// Rules out everything beyond the preferred packages, then nodes, if the rest suffices.
    pub(super) fn stay_near(&mut self, missing: usize) {
        for level in [PACKAGE, NODE] {
            let near = if level == PACKAGE {
                &self.near_packages
            } else {
                &self.near_nodes
            };
            let near: Vec<bool> = near.clone();
            let is_near = |slot: &Slot| near.get(slot.at[level]).copied().unwrap_or(false);
            let open = self.slots.iter().filter(|slot| slot.open && is_near(slot));
            if open.count() >= missing {
                self.restrict(is_near);
            }
        }
    }

    fn restrict(&mut self, stays: impl Fn(&Slot) -> bool) {
        for slot in &mut self.slots {
            if slot.open && !stays(slot) {
                slot.open = false;
                for (tallies, position) in self.tallies.iter_mut().zip(slot.at) {
                    if let Some(tally) = tallies.get_mut(position) {
                        tally.open -= 1;
                    }
                }
            }
        }
    }

    /// Level by level, the widest first: where no group holds what is missing, takes all that the most
    /// giving one has, so that as few as possible are used. How many CPUs are missing then.
    fn fill(&mut self, mut missing: usize) -> usize {
        for (index, level) in self.levels.into_iter().enumerate() {
            while level != CORE && missing > 0 && !self.narrow_to_home(index, missing) {
                let taken = self.take_most(level, missing);
                if taken == 0 {
                    break;
                }
                missing -= taken;
            }
        }
        missing
    }

    /// Rules out all but the smallest domain, of this level or a narrower one, that holds what is missing
    /// with as many whole cores as the whole set could give. Whether there is such a domain.
    fn narrow_to_home(&mut self, widest: usize, missing: usize) -> bool {
        let anywhere = self.whole_cores(missing, None);
        let best = anywhere.first().copied().unwrap_or(0);
        for level in self.levels.into_iter().skip(widest).rev() {
            let whole = self.whole_cores(missing, Some(level));
            let mut keys = self.keys(level, level == CORE && best == 0);
            keys.retain(|(.., group)| {
                self.tally(level, *group).open >= missing
                    && whole.get(*group).copied().unwrap_or(0) >= best
            });
            if let Some((.., home)) = keys.into_iter().min() {
                self.restrict(|slot| slot.at[level] == home);
                return true;
            }
        }
        false
    }

    /// Takes what the group of the level that has most of them gives in whole cores, or in threads where
    /// there is no whole core; how many CPUs that were.
    fn take_most(&mut self, level: usize, missing: usize) -> usize {
        let whole = self.whole_cores(missing, Some(level));
        let by_core = whole.iter().any(|whole| *whole > 0);
        let most =
            self.keys(level, false)
                .into_iter()
                .min_by_key(|(rank, used, _, cost, fit, group)| {
                    let tally = self.tally(level, *group);
                    let given = if by_core {
                        whole.get(*group).copied().unwrap_or(0)
                    } else {
                        tally.open
                    };
                    (*rank, Reverse(given), *used, *cost, *fit, *group)
                });
        let Some((.., group)) = most else {
            return 0;
        };
        if by_core {
            return self.take_whole(CORE, missing, |tally| tally.at[level] == group);
        }
        self.choose(|slot| slot.at[level] == group)
    }

    /// Takes whole idle groups of the level `among` these as long as they fit; how many CPUs that were.
    fn take_whole(
        &mut self,
        level: usize,
        missing: usize,
        among: impl Fn(&Tally) -> bool,
    ) -> usize {
        let mut keys = self.keys(level, false);
        keys.retain(|(.., group)| {
            let tally = self.tally(level, *group);
            tally.open == tally.size && tally.size <= missing && among(&tally)
        });
        keys.sort_unstable();
        let mut wanted = vec![false; self.tallies.get(level).map_or(0, Vec::len)];
        let mut left = missing;
        for (.., group) in keys {
            let size = self.tally(level, group).size;
            if let Some(wanted) = wanted.get_mut(group).filter(|_| size <= left) {
                left -= size;
                *wanted = true;
            }
        }
        self.choose(|slot| wanted.get(slot.at[level]).copied().unwrap_or(false))
    }

    /// For each group of the level (or for all together): how many of the `missing` CPUs whole idle
    /// cores could give, taken ascending.
    fn whole_cores(&self, missing: usize, level: Option<usize>) -> Vec<usize> {
        let groups = level.map_or(1, |level| self.tallies.get(level).map_or(0, Vec::len));
        let mut whole = vec![0; groups];
        let mut seen = vec![false; self.tallies.first().map_or(0, Vec::len)];
        for slot in self.slots.iter().filter(|slot| slot.open) {
            let Some(seen) = seen.get_mut(slot.at[CORE]) else {
                continue;
            };
            if core::mem::replace(seen, true) {
                continue;
            }
            let core = self.tally(CORE, slot.at[CORE]);
            let group = level.map_or(0, |level| slot.at[level]);
            if let Some(whole) = whole.get_mut(group)
                && core.open == core.size
                && *whole + core.size <= missing
            {
                *whole += core.size;
            }
        }
        whole
    }

    /// The keys of all groups of the level that have open CPUs. `threads` says that parts of cores are looked for:
    /// broken cores are finished first, whatever they cost.
    fn keys(&self, level: usize, threads: bool) -> Vec<SearchKey> {
        let groups = self.tallies.get(level).map_or(0, Vec::len);
        let mut sums = vec![(u32::MAX, 0u64); groups];
        for slot in self.slots.iter().filter(|slot| slot.open) {
            if let Some((rank, cost)) = sums.get_mut(slot.at[level]) {
                *rank = slot.rank.min(*rank);
                *cost = cost.saturating_add(slot.cost);
            }
        }
        let key = |(position, (rank, cost)): (usize, (u32, u64))| {
            let tally = self.tally(level, position);
            // The mean, in 1024ths: groups may differ in size.
            let cost = (u128::from(cost) << 10).checked_div(tally.open as u128)?;
            let (used, fit) = self.fit(&tally.at, level);
            let parts = if threads { fit } else { Fit::default() };
            Some((rank, used, parts, cost, fit, position))
        };
        sums.into_iter().enumerate().filter_map(key).collect()
    }

    /// How many CPUs were taken of each level, the widest first, down to this one, and how many are free.
    fn fit(&self, at: &[usize; LEVELS], narrowest: usize) -> ([Reverse<usize>; LEVELS], Fit) {
        let mut used = [Reverse(0); LEVELS];
        let mut fit = Fit::default();
        for ((used, fit), level) in used.iter_mut().zip(&mut fit).zip(self.levels) {
            let tally = self.tally(level, at[level]);
            match self.as_kubelet {
                false => (*used, *fit) = (Reverse(tally.taken), (tally.free, 0)),
                true if [LLC, DIE].contains(&level) => {}
                true => *fit = (tally.free, at[level]),
            }
            if level == narrowest {
                break;
            }
        }
        (used, fit)
    }

    /// Chooses all open CPUs of `which`; how many.
    fn choose(&mut self, which: impl Fn(&Slot) -> bool) -> usize {
        let mut count = 0;
        for slot in self
            .slots
            .iter_mut()
            .filter(|slot| slot.open && which(slot))
        {
            count += 1;
            choose(slot, &mut self.tallies, &mut self.chosen);
        }
        count
    }

    fn take_threads(&mut self, missing: usize) {
        if missing == 0 {
            return;
        }
        let mut order: Vec<_> = (self.slots.iter().enumerate())
            .filter(|(_, slot)| slot.open)
            .map(|(index, slot)| {
                let key = (slot.rank, self.fit(&slot.at, CORE), slot.cost, slot.id);
                (key, index)
            })
            .collect();
        order.sort_unstable();
        for (_, index) in order.into_iter().take(missing) {
            if let Some(slot) = self.slots.get_mut(index) {
                choose(slot, &mut self.tallies, &mut self.chosen);
            }
        }
    }
}

fn choose(slot: &mut Slot, tallies: &mut [Vec<Tally>; LEVELS], chosen: &mut CpuSet) {
    slot.free = false;
    slot.open = false;
    chosen.insert(slot.id);
    for (tallies, position) in tallies.iter_mut().zip(slot.at) {
        if let Some(tally) = tallies.get_mut(position) {
            tally.free -= 1;
            tally.open -= 1;
            tally.taken += 1;
        }
    }
}

/// How close each CPU is to the preferred ones: which groups have one of them, by position.
struct Closeness {
    cores: Vec<bool>,
    llcs: Vec<bool>,
    nodes: Vec<bool>,
    packages: Vec<bool>,
    /// Distance from the nearest of these nodes, by position.
    distances: Vec<u32>,
    /// Whether any CPU is preferred.
    any: bool,
    /// Whether any of them is of a performance core.
    fast: bool,
}

impl Closeness {
    fn new(topology: &Topology, near: Option<&CpuSet>) -> Self {
        let mut closeness = Self {
            cores: vec![false; topology.cores.len()],
            llcs: vec![false; topology.llcs.len()],
            nodes: vec![false; topology.nodes.len()],
            packages: vec![false; topology.packages.len()],
            distances: vec![u32::MAX / 2; topology.nodes.len()],
            any: false,
            fast: false,
        };
        let set = |flags: &mut Vec<bool>, position: usize| {
            if let Some(flag) = flags.get_mut(position) {
                *flag = true;
            }
        };
        let near = near.copied().unwrap_or_default();
        for cpu in topology.cpus.iter().filter(|cpu| near.contains(cpu.id)) {
            closeness.any = true;
            closeness.fast |= cpu.kind == CoreKind::Performance;
            set(&mut closeness.cores, cpu.core.0 as usize);
            set(&mut closeness.llcs, cpu.llc.0 as usize);
            let packages = &topology.packages;
            if let Ok(position) = packages.binary_search_by_key(&cpu.package, |package| package.id)
            {
                set(&mut closeness.packages, position);
            }
            if let Ok(node) = topology
                .nodes
                .binary_search_by_key(&cpu.node, |node| node.id)
            {
                set(&mut closeness.nodes, node);
            }
        }
        for (from, _) in closeness
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, near)| **near)
        {
            let row = topology.distances.get(from).map_or(&[][..], Vec::as_slice);
            for (distance, entry) in closeness.distances.iter_mut().zip(row) {
                *distance = u32::from(*entry).min(*distance);
            }
        }
        closeness
    }

    fn rank(&self, at: &[usize; LEVELS]) -> u32 {
        if !self.any {
            return 0;
        }
        let is = |flags: &[bool], position: usize| flags.get(position).copied().unwrap_or(false);
        if is(&self.cores, at[CORE]) {
            SAME_CORE
        } else if is(&self.llcs, at[LLC]) && is(&self.nodes, at[NODE]) {
            SAME_LLC
        } else if is(&self.nodes, at[NODE]) {
            SAME_NODE
        } else {
            FAR + self.distances.get(at[NODE]).copied().unwrap_or(0)
        }
    }
}
