//! The allocator against a slow and obvious model of its documented order and against the kubelet's, on random
//! machines and sets.

#[path = "allocator/kubelet.rs"]
mod kubelet;

use kubelet::{kubelet, spans};
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use resmgr_topology::{CpuId, CpuSet, Preference, Topology, allocate, keep};
use std::cmp::Reverse;

/// The documented order, by sets alone: every question is asked anew of the CPUs themselves.
struct Naive {
    /// Online CPUs of the groups of each level, the widest level first; cores are the last.
    levels: Vec<Vec<CpuSet>>,
    /// CPUs of the set that were not taken.
    free: CpuSet,
    /// Those of them inside the home.
    open: CpuSet,
    taken: CpuSet,
}

const CORES: usize = 4;

/// For each level: how many CPUs of it are taken, how many free.
type Fit = (Vec<Reverse<usize>>, Vec<usize>);

impl Naive {
    fn new(machine: &Topology, free: CpuSet) -> Self {
        let online = |set: &CpuSet| set.intersection(&machine.online);
        let packages = machine.packages.iter().map(|group| online(&group.cpus));
        let nodes = machine.nodes.iter().map(|node| online(&node.cpus));
        let dies = machine.dies.iter().map(|group| online(&group.cpus));
        let llcs = machine.llcs.iter().map(|group| online(&group.cpus));
        let cores = machine.cores.iter().map(|group| online(&group.cpus));
        let mut levels: Vec<Vec<CpuSet>> = vec![
            packages.collect(),
            nodes.collect(),
            dies.collect(),
            llcs.collect(),
        ];
        levels.sort_by_key(Vec::len);
        levels.push(cores.collect());
        Self {
            levels,
            free,
            open: free,
            taken: CpuSet::EMPTY,
        }
    }

    fn fit(&self, cpus: &CpuSet, narrowest: usize) -> Fit {
        let levels = self.levels.iter().take(narrowest + 1);
        let around = levels.map(|groups| {
            let around = groups.iter().find(|group| !group.is_disjoint(cpus));
            around.expect("every CPU is in a group of each level")
        });
        let around: Vec<&CpuSet> = around.collect();
        let count = |set: &CpuSet| {
            around
                .iter()
                .map(|group| group.intersection(set).len())
                .collect::<Vec<_>>()
        };
        (
            count(&self.taken).into_iter().map(Reverse).collect(),
            count(&self.free),
        )
    }

    fn choose(&mut self, cpus: &CpuSet) {
        self.free = self.free.difference(cpus);
        self.open = self.open.difference(cpus);
        self.taken = self.taken.union(cpus);
    }

    /// CPUs of whole idle cores inside the group, as many of them as fit.
    fn whole_cores(&self, missing: usize, inside: &CpuSet) -> usize {
        let mut whole = 0;
        let mut cores = self.levels[CORES].clone();
        cores.sort_by_key(CpuSet::first);
        for core in cores {
            let idle = !core.is_empty() && core.is_subset(&self.open) && core.is_subset(inside);
            if idle && whole + core.len() <= missing {
                whole += core.len();
            }
        }
        whole
    }

    fn narrow_to_home(&mut self, widest: usize, missing: usize) -> bool {
        let best = self.whole_cores(missing, &self.open);
        for level in (widest..=CORES).rev() {
            let holds = |group: &&CpuSet| {
                group.intersection(&self.open).len() >= missing
                    && self.whole_cores(missing, group) >= best
            };
            let homes = self.levels[level].iter().filter(holds);
            if let Some(home) = homes.min_by_key(|group| self.fit(group, level)) {
                self.open = self.open.intersection(home);
                return true;
            }
        }
        false
    }

    fn take_cores(&mut self, mut missing: usize, inside: &CpuSet) -> usize {
        let mut cores = self.levels[CORES].clone();
        cores.retain(|core| {
            !core.is_empty() && core.is_subset(&self.open) && core.is_subset(inside)
        });
        cores.sort_by_key(|core| self.fit(core, CORES));
        for core in cores {
            if core.len() <= missing {
                missing -= core.len();
                self.choose(&core);
            }
        }
        missing
    }

    fn fill(&mut self, mut missing: usize) -> usize {
        for level in 0..CORES {
            while missing > 0 && !self.narrow_to_home(level, missing) {
                let any_whole = self.whole_cores(missing, &self.open) > 0;
                let gives = |group: &CpuSet| match any_whole {
                    true => self.whole_cores(missing, group),
                    false => group.intersection(&self.open).len(),
                };
                let groups = self.levels[level].iter();
                let groups = groups.filter(|group| !group.is_disjoint(&self.open));
                let most =
                    groups.min_by_key(|group| (Reverse(gives(group)), self.fit(group, level)));
                let most = *most.expect("the set has enough CPUs");
                if any_whole {
                    missing = self.take_cores(missing, &most);
                } else {
                    let all = most.intersection(&self.open);
                    missing -= all.len();
                    self.choose(&all);
                }
            }
        }
        missing
    }

    fn take(mut self, count: usize) -> CpuSet {
        let missing = self.fill(count);
        let open = self.open;
        let missing = self.take_cores(missing, &open);
        let missing = self.fill(missing);
        let mut threads: Vec<CpuId> = self.open.iter().collect();
        threads.sort_by_key(|cpu| self.fit(&CpuSet::single(*cpu), CORES));
        let threads = threads.into_iter().take(missing);
        self.taken.union(&threads.collect())
    }
}

fn naive(machine: &Topology, from: &CpuSet, count: usize) -> Option<CpuSet> {
    let free = from.intersection(&machine.online);
    if free.len() <= count {
        return (free.len() == count).then_some(free);
    }
    let fewest = Naive::new(machine, free).take(count);
    let kubelets = kubelet(machine, from, count);
    let mut pairs = spans(machine, &kubelets)
        .into_iter()
        .zip(spans(machine, &fewest));
    Some(match pairs.any(|(kubelets, fewest)| kubelets < fewest) {
        true => kubelets,
        false => fewest,
    })
}

prop_compose! {
    fn machines()(
        pack in 1..4u32, die in 1..3u32, numa in 1..3u32, l3 in 1..3u32, core in 1..4u32, pu in 1..4u32,
        inside in any::<bool>(), alternate in any::<bool>(),
        seed in any::<[u64; 4]>(),
    ) -> (Topology, CpuSet) {
        let (outer, inner) = if inside { (("l3", l3), ("numa", numa)) } else { (("numa", numa), ("l3", l3)) };
        let text = format!(
            "pack:{pack} die:{die} {}:{} {}:{} core:{core} pu:{pu}", outer.0, outer.1, inner.0, inner.1
        );
        let mut machine = Topology::synthetic(&text).expect("a legal description");
        if alternate {
            // As firmware does: neighbours in number are in different packages.
            let width = u32::try_from(machine.cpus.len()).expect("few") / pack;
            machine = machine
                .renumbered(|cpu| CpuId(cpu.0 % width * pack + cpu.0 / width))
                .expect("a permutation");
        }
        let all = machine.all();
        let bit = |words: [u64; 2], cpu: CpuId| words[(cpu.0 / 64 % 2) as usize] >> (cpu.0 % 64) & 1;
        let online: CpuSet = all.iter().filter(|cpu| cpu.0 % 5 != 0 || bit([seed[0], seed[1]], *cpu) == 1).collect();
        let from = all.iter().filter(|cpu| bit([seed[2], seed[3]], *cpu) == 1 || seed[2] % 3 == 0).collect();
        (machine.with_online(online).expect("a part of all"), from)
    }
}

fn config() -> ProptestConfig {
    let failures = FileFailurePersistence::Direct("tests/allocator.proptest-regressions");
    ProptestConfig {
        failure_persistence: Some(Box::new(failures)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_allocator_does_what_its_documentation_says((machine, from) in machines(), share in 0..=100usize) {
        let count = from.intersection(&machine.online).len() * share / 100;
        let chosen = allocate(&machine, &from, count, &Preference::default());
        prop_assert_eq!(chosen, naive(&machine, &from, count));
    }

    #[test]
    fn no_more_is_spanned_than_the_kubelet_spans((machine, from) in machines(), share in 0..=100usize) {
        let count = from.intersection(&machine.online).len() * share / 100;
        let chosen = allocate(&machine, &from, count, &Preference::default()).expect("there are enough");
        let kubelets = kubelet(&machine, &from, count);
        prop_assert_eq!(kubelets.len(), count);
        let (ours, kubelets) = (spans(&machine, &chosen), spans(&machine, &kubelets));
        let worse = ours.iter().zip(kubelets).any(|(ours, kubelets)| *ours > kubelets);
        prop_assert!(!worse, "{:?} packages, nodes and cores, the kubelet {:?}", ours, kubelets);
    }

    #[test]
    fn what_is_chosen_is_there_counted_and_the_same_again((machine, from) in machines(), count in 0..200usize, node in 0..4u32) {
        let held: CpuSet = machine.cpus.iter().filter(|cpu| cpu.node.0 == node).map(|cpu| cpu.id).take(1).collect();
        let cost = |cpu: CpuId| u64::from(cpu.0 % 3);
        let preference = Preference { near: Some(&held), cost: Some(&cost),};
        let usable = from.intersection(&machine.online);
        let chosen = allocate(&machine, &from, count, &preference);
        prop_assert_eq!(chosen.is_some(), count <= usable.len());
        if let Some(chosen) = chosen {
            prop_assert_eq!(chosen.len(), count);
            prop_assert!(chosen.is_subset(&usable));
            prop_assert_eq!(Some(chosen), allocate(&machine, &from, count, &preference));
            let kept = keep(&machine, &chosen, count / 2, &preference);
            prop_assert!(kept.is_subset(&chosen));
            prop_assert_eq!(kept.len(), count / 2);
        }
    }

    #[test]
    fn what_fits_in_a_free_node_spans_no_second_one((machine, _) in machines(), share in 1..=100usize) {
        // Every core is whole in each node: none has to give one up to hold the request.
        let all = machine.all();
        let machine = machine.with_online(all).unwrap();
        let smallest = machine.nodes.iter().map(|node| node.cpus.len()).min().unwrap();
        let count = smallest * share / 100;
        if let Some(chosen) = allocate(&machine, &all, count, &Preference::default()) {
            prop_assert!(machine.nodes_of(&chosen).count() <= 1);
        }
    }
}
