//! The allocator against a slow and obvious model of its documented order, on random machines and sets.

use proptest::{prelude::*, test_runner::FileFailurePersistence};
use resmgr_topology::{CpuId, CpuSet, Preference, Topology, allocate, keep};
use std::cmp::Reverse;

/// The documented order, by sets alone: every question is asked anew of the CPUs themselves.
struct Naive<'a> {
    machine: &'a Topology,
    /// CPUs of the set that were not taken.
    free: Vec<CpuId>,
    /// Those of them inside the home.
    open: Vec<CpuId>,
    taken: Vec<CpuId>,
}

type Level = Vec<Vec<CpuId>>;

impl Naive<'_> {
    fn groups(&self) -> [Level; 5] {
        let online = |set: &CpuSet| set.intersection(&self.machine.online).iter().collect();
        [
            self.machine.cores.iter().map(|g| online(&g.cpus)).collect(),
            self.machine.llcs.iter().map(|g| online(&g.cpus)).collect(),
            self.machine.nodes.iter().map(|g| online(&g.cpus)).collect(),
            self.machine.dies.iter().map(|g| online(&g.cpus)).collect(),
            self.machine
                .packages
                .iter()
                .map(|g| online(&g.cpus))
                .collect(),
        ]
    }

    fn package(&self, cpu: CpuId) -> &CpuSet {
        let package = |group: &&resmgr_topology::Group<_>| group.cpus.contains(cpu);
        &self
            .machine
            .packages
            .iter()
            .find(package)
            .expect("every CPU has a package")
            .cpus
    }

    fn used(&self, cpu: CpuId) -> Reverse<usize> {
        let package = self.package(cpu);
        Reverse(
            self.taken
                .iter()
                .filter(|cpu| package.contains(**cpu))
                .count(),
        )
    }

    fn package_free(&self, cpu: CpuId) -> usize {
        let package = self.package(cpu);
        self.free
            .iter()
            .filter(|cpu| package.contains(**cpu))
            .count()
    }

    fn is_open(&self, group: &[CpuId]) -> bool {
        !group.is_empty() && group.iter().all(|cpu| self.open.contains(cpu))
    }

    fn choose(&mut self, cpu: CpuId) {
        self.free.retain(|kept| *kept != cpu);
        self.open.retain(|kept| *kept != cpu);
        self.taken.push(cpu);
    }

    fn whole_cores(&self, missing: usize, inside: impl Fn(CpuId) -> bool) -> usize {
        let mut whole = 0;
        for core in &self.groups()[0] {
            let here = self.is_open(core) && core.iter().all(|cpu| inside(*cpu));
            if here && whole + core.len() <= missing {
                whole += core.len();
            }
        }
        whole
    }

    fn narrow_to_home(&mut self, missing: usize) {
        if missing == 0 {
            return;
        }
        let groups = self.groups();
        let mut order: Vec<usize> = (0..5).collect();
        order.sort_by_key(|level| Reverse(groups[*level].len()));
        let best = self.whole_cores(missing, |_| true);
        for level in order {
            let mut holds: Vec<&Vec<CpuId>> = groups[level]
                .iter()
                .filter(|group| {
                    let open = group.iter().filter(|cpu| self.open.contains(cpu)).count();
                    open >= missing && self.whole_cores(missing, |cpu| group.contains(&cpu)) >= best
                })
                .collect();
            holds.sort_by_key(|group| {
                let first = group[0];
                let finish = if level == 0 && best == 0 {
                    let free = group.iter().filter(|cpu| self.free.contains(cpu)).count();
                    (self.package_free(first), free)
                } else {
                    (0, 0)
                };
                (self.used(first), finish)
            });
            if let Some(home) = holds.first() {
                self.open.retain(|cpu| home.contains(cpu));
                return;
            }
        }
    }

    fn take(mut self, count: usize) -> CpuSet {
        let mut missing = count;
        for level in [4, 3, 1, 0] {
            let groups = self.groups();
            let mut idle: Vec<_> = groups[level].iter().filter(|g| self.is_open(g)).collect();
            idle.sort_by_key(|group| self.used(group[0]));
            for group in idle {
                if group.len() <= missing {
                    missing -= group.len();
                    group.iter().for_each(|cpu| self.choose(*cpu));
                }
            }
            self.narrow_to_home(missing);
        }
        let [cores, llcs, ..] = self.groups();
        let count = |level: &Level, among: &[CpuId], cpu: &CpuId| {
            let group = level
                .iter()
                .find(|group| group.contains(cpu))
                .expect("every CPU has its groups");
            among.iter().filter(|cpu| group.contains(cpu)).count()
        };
        let mut threads = self.open.clone();
        threads.sort_by_key(|cpu| {
            let taken = Reverse(count(&llcs, &self.taken, cpu));
            let free = count(&cores, &self.free, cpu);
            (self.used(*cpu), self.package_free(*cpu), taken, free, *cpu)
        });
        for cpu in threads.into_iter().take(missing) {
            self.choose(cpu);
        }
        self.taken.into_iter().collect()
    }
}

fn naive(machine: &Topology, from: &CpuSet, count: usize) -> Option<CpuSet> {
    let free: Vec<CpuId> = from.intersection(&machine.online).iter().collect();
    if free.len() <= count {
        return (free.len() == count).then(|| free.into_iter().collect());
    }
    let model = Naive {
        machine,
        open: free.clone(),
        free,
        taken: Vec::new(),
    };
    Some(model.take(count))
}

prop_compose! {
    fn machines()(
        pack in 1..4u32, die in 1..3u32, numa in 1..3u32, l3 in 1..3u32, core in 1..4u32, pu in 1..4u32,
        inside in any::<bool>(),
        seed in any::<[u64; 4]>(),
    ) -> (Topology, CpuSet) {
        let (outer, inner) = if inside { (("l3", l3), ("numa", numa)) } else { (("numa", numa), ("l3", l3)) };
        let text = format!(
            "pack:{pack} die:{die} {}:{} {}:{} core:{core} pu:{pu}", outer.0, outer.1, inner.0, inner.1
        );
        let machine = Topology::synthetic(&text).expect("a legal description");
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
