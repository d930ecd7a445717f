//! The kubelet's allocator, as a model to compare with.

use resmgr_topology::{CpuId, CpuSet, Topology};

/// `takeByTopologyNUMAPacked` of the kubelet (`pkg/kubelet/cm/cpumanager/cpu_assignment.go`) without options.
struct Kubelet<'a> {
    machine: &'a Topology,
    free: CpuSet,
    taken: CpuSet,
    missing: usize,
}

type Groups = Vec<CpuSet>;

impl Kubelet<'_> {
    fn groups(&self) -> (Groups, Groups, Groups) {
        let online = |set: &CpuSet| set.intersection(&self.machine.online);
        let packages = self
            .machine
            .packages
            .iter()
            .map(|group| online(&group.cpus));
        let nodes = self.machine.nodes.iter().map(|node| online(&node.cpus));
        let cores = self.machine.cores.iter().map(|group| online(&group.cpus));
        (packages.collect(), nodes.collect(), cores.collect())
    }

    /// Groups with free CPUs inside `parent`, those with the fewest first.
    fn sorted(&self, groups: &Groups, parent: &CpuSet) -> Groups {
        let free = |group: &CpuSet| group.intersection(&self.free).len();
        let mut groups: Groups = groups.clone();
        groups.retain(|group| free(&group.intersection(parent)) > 0);
        groups.sort_by_key(free);
        groups
    }

    /// Packages and the nodes in them, or nodes and the packages in them where nodes are wider.
    fn wide_and_narrow(&self) -> (Groups, Groups) {
        let (packages, nodes, _) = self.groups();
        let (wide, narrow) = match packages.len() >= nodes.len() {
            true => (nodes, packages),
            false => (packages, nodes),
        };
        let wide = self.sorted(&wide, &self.machine.all());
        let narrow = wide.iter().flat_map(|outer| self.sorted(&narrow, outer));
        (wide.clone(), narrow.collect())
    }

    fn cores(&self) -> Groups {
        let (_, _, cores) = self.groups();
        let (_, narrow) = self.wide_and_narrow();
        let sorted = narrow.iter().flat_map(|inner| self.sorted(&cores, inner));
        sorted.collect()
    }

    fn take_full(&mut self, groups: Groups) {
        for group in groups {
            if group.is_subset(&self.free) && group.len() <= self.missing {
                self.missing -= group.len();
                self.taken = self.taken.union(&group);
                self.free = self.free.difference(&group);
            }
        }
    }

    fn take(mut self) -> CpuSet {
        self.take_full(self.wide_and_narrow().0);
        self.take_full(self.wide_and_narrow().1);
        self.take_full(self.cores());
        let threads: Vec<CpuId> = (self.cores().iter())
            .flat_map(|core| core.intersection(&self.free).iter().collect::<Vec<_>>())
            .collect();
        self.taken
            .union(&threads.into_iter().take(self.missing).collect())
    }
}

/// How many packages, NUMA nodes and cores a set touches.
pub(super) fn spans(machine: &Topology, cpus: &CpuSet) -> [usize; 3] {
    let count = |groups: &mut dyn Iterator<Item = &CpuSet>| {
        groups.filter(|group| !group.is_disjoint(cpus)).count()
    };
    [
        count(&mut machine.packages.iter().map(|group| &group.cpus)),
        count(&mut machine.nodes.iter().map(|node| &node.cpus)),
        count(&mut machine.cores.iter().map(|group| &group.cpus)),
    ]
}

/// The CPUs that the kubelet would choose.
pub(super) fn kubelet(machine: &Topology, from: &CpuSet, count: usize) -> CpuSet {
    let free = from.intersection(&machine.online);
    let kubelet = Kubelet {
        machine,
        free,
        taken: CpuSet::EMPTY,
        missing: count,
    };
    kubelet.take()
}
