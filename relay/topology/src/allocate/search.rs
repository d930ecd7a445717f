//! One allocation: counters per group, so that each step is one pass over CPUs or cores.

use super::preference::Preference;
use crate::{cpuset::CpuSet, ids::CpuId, model::Topology};
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
    /// Position of the package it is in.
    package: usize,
}

/// What decides between groups of one level: closeness, package in use, fewest free, cost, position.
type SearchKey = (u32, Reverse<usize>, [usize; 2], u128, usize);

pub(super) struct Search {
    slots: Vec<Slot>,
    tallies: [Vec<Tally>; LEVELS],
    /// Levels that can be a home, smallest groups first.
    homes: Vec<usize>,
    /// Which nodes and packages have a preferred CPU, by position.
    near_nodes: Vec<bool>,
    near_packages: Vec<bool>,
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
                    tally.package = package;
                }
            }
            slots.push(Slot {
                id: cpu.id,
                at,
                rank: closeness.rank(&at),
                cost: match preference.cost {
                    Some(cost) if free => cost(cpu.id),
                    _ => 0,
                },
                free,
                open: free,
            });
        }
        let mut homes = vec![CORE, LLC, NODE, DIE, PACKAGE];
        homes.sort_by_key(|level| Reverse(tallies.get(*level).map_or(0, Vec::len)));
        Self {
            slots,
            tallies,
            homes,
            near_nodes: closeness.nodes,
            near_packages: closeness.packages,
            chosen: CpuSet::EMPTY,
        }
    }

    /// Takes `count` CPUs, or nothing at all.
    pub(super) fn take(mut self, count: usize) -> Option<CpuSet> {
        let free = self.slots.iter().filter(|slot| slot.free).count();
        if free < count {
            return None;
        }
        if free == count {
            let free = self.slots.iter().filter(|slot| slot.free);
            return Some(free.map(|slot| slot.id).collect());
        }
        let mut missing = count;
        self.stay_near(missing);
        for level in [PACKAGE, DIE, LLC, CORE] {
            missing -= self.take_whole(level, missing);
            self.narrow_to_home(missing);
        }
        self.take_threads(missing);
        Some(self.chosen)
    }

    fn tally(&self, level: usize, position: usize) -> Tally {
        let tallies = self.tallies.get(level);
        tallies
            .and_then(|tallies| tallies.get(position))
            .copied()
            .unwrap_or_default()
    }

    /// Rules out everything beyond the preferred packages, then nodes, if the rest suffices.
    fn stay_near(&mut self, missing: usize) {
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

    /// Takes every idle group of the level that still fits; how many CPUs that were.
    fn take_whole(&mut self, level: usize, missing: usize) -> usize {
        let Some(tallies) = self.tallies.get(level) else {
            return 0;
        };
        let fits =
            |tally: &Tally| tally.size > 0 && tally.open == tally.size && tally.size <= missing;
        if !tallies.iter().any(fits) {
            return 0;
        }
        let mut keys = self.keys(level, false);
        keys.retain(|key| fits(&self.tally(level, key.4)));
        keys.sort_unstable();
        let mut wanted = vec![false; self.tallies.get(level).map_or(0, Vec::len)];
        let mut taken = 0;
        for key in keys {
            let size = self.tally(level, key.4).size;
            if taken + size <= missing {
                taken += size;
                if let Some(wanted) = wanted.get_mut(key.4) {
                    *wanted = true;
                }
            }
        }
        for slot in &mut self.slots {
            if slot.open && wanted.get(slot.at[level]).copied().unwrap_or(false) {
                choose(slot, &mut self.tallies, &mut self.chosen);
            }
        }
        taken
    }

    /// Rules out all but the smallest domain that holds what is missing with as many whole cores as
    /// the whole set could give.
    fn narrow_to_home(&mut self, missing: usize) {
        if missing == 0 {
            return;
        }
        let anywhere = self.whole_cores(missing, None);
        let best = anywhere.first().copied().unwrap_or(0);
        for level in self.homes.clone() {
            let whole = self.whole_cores(missing, Some(level));
            let mut keys = self.keys(level, level == CORE && best == 0);
            keys.retain(|key| {
                self.tally(level, key.4).open >= missing
                    && whole.get(key.4).copied().unwrap_or(0) >= best
            });
            if let Some((.., home)) = keys.into_iter().min() {
                self.restrict(|slot| slot.at[level] == home);
                return;
            }
        }
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

    /// The keys of all groups of the level that have open CPUs. `finish` puts those first whose package,
    /// then themselves, have the fewest free CPUs: the rule for parts of a core.
    fn keys(&self, level: usize, finish: bool) -> Vec<SearchKey> {
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
            let package = self.tally(PACKAGE, tally.package);
            // The mean, in 1024ths: groups may differ in size.
            let cost = (u128::from(cost) << 10).checked_div(tally.open as u128)?;
            let free = match finish {
                true => [package.free, tally.free],
                false => [0; 2],
            };
            Some((rank, Reverse(package.taken), free, cost, position))
        };
        sums.into_iter().enumerate().filter_map(key).collect()
    }

    fn take_threads(&mut self, missing: usize) {
        if missing == 0 {
            return;
        }
        let mut order: Vec<_> = (self.slots.iter().enumerate())
            .filter(|(_, slot)| slot.open)
            .map(|(index, slot)| {
                let package = self.tally(PACKAGE, slot.at[PACKAGE]);
                let key = (
                    slot.rank,
                    Reverse(package.taken),
                    package.free,
                    Reverse(self.tally(LLC, slot.at[LLC]).taken),
                    self.tally(CORE, slot.at[CORE]).free,
                    slot.cost,
                    slot.id,
                );
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
        };
        let set = |flags: &mut Vec<bool>, position: usize| {
            if let Some(flag) = flags.get_mut(position) {
                *flag = true;
            }
        };
        let near = near.copied().unwrap_or_default();
        for cpu in topology.cpus.iter().filter(|cpu| near.contains(cpu.id)) {
            closeness.any = true;
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
