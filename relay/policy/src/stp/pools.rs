//! CPU pools as configured, and as validated against the machine.

use crate::{config::ConfigProblem, cpu_list::listed};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use resmgr_topology::{CpuId, CpuSet, PackageId, Topology};
use serde::{Deserialize, Serialize};

/// The document: pools by name. Customary are `exclusive`, `shared` and `infra`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolsConfig {
    /// The pools.
    #[serde(default)]
    pub pools: BTreeMap<String, PoolConfig>,
}

/// One pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Each CPU list is given to one container alone.
    #[serde(default)]
    pub exclusive: bool,
    /// The lists, in the order they are given out.
    #[serde(default, rename = "cpuLists")]
    pub cpu_lists: Vec<CpuListConfig>,
}

/// One unit of allocation: usually a physical core with its threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuListConfig {
    /// The package its CPUs are on.
    #[serde(rename = "Socket", alias = "socket")]
    pub socket: u32,
    /// The CPUs, a list such as `2,18` or `4-7`.
    #[serde(rename = "Cpuset", alias = "cpuset")]
    pub cpuset: String,
}

/// A pool that is legal on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) exclusive: bool,
    pub(crate) lists: Vec<List>,
}

impl Pool {
    /// The CPUs of its lists as numbers, list by list, each in the order it is configured in; of a list of which only
    /// some are among `cpus`, those alone.
    pub(crate) fn numbered(&self, lists: &[CpuSet], cpus: &CpuSet) -> Vec<CpuId> {
        let mut numbers = Vec::new();
        for list in lists {
            let configured = self.lists.iter().find(|known| known.cpus == *list);
            match configured.filter(|_| list.is_subset(cpus)) {
                Some(whole) => numbers.extend(&whole.order),
                None => numbers.extend(list.intersection(cpus).iter()),
            }
        }
        numbers
    }

    /// All its CPUs.
    pub(crate) fn cpus(&self) -> CpuSet {
        let lists = self.lists.iter();
        lists.fold(CpuSet::EMPTY, |all, list| all.union(&list.cpus))
    }
}

/// A CPU list of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) socket: u32,
    pub(crate) cpus: CpuSet,
    /// The same as they are listed: `0,8,1,9` names core by core.
    pub(crate) order: Vec<CpuId>,
}

/// Checks the document against the machine; tells every problem.
pub(crate) fn validate(
    topology: &Topology,
    config: &PoolsConfig,
) -> Result<BTreeMap<String, Pool>, Vec<ConfigProblem>> {
    const KEY: &str = "policy.static-pools.pools";
    if config.pools.is_empty() {
        let message = "invalid config, no pools configured";
        return Err([ConfigProblem::new(KEY, message)].into());
    }
    let mut problems = Vec::new();
    let mut pools = BTreeMap::new();
    let mut seen: Vec<(CpuSet, String)> = Vec::new();
    let machine = topology.all();
    for (name, pool) in &config.pools {
        let mut lists = Vec::new();
        for list in &pool.cpu_lists {
            let key = format!("{KEY}.{name}");
            let mut problem = |message| problems.push(ConfigProblem::new(key.clone(), message));
            let cpus: CpuSet = match list.cpuset.parse() {
                Ok(cpus) => cpus,
                Err(error) => {
                    problem(format!("CPU list {:?}: {error}", list.cpuset));
                    continue;
                }
            };
            if cpus.is_empty() {
                problem("a CPU list is empty: name CPUs or remove it".to_string());
                continue;
            }
            let missing = cpus.difference(&machine);
            if !missing.is_empty() {
                problem(format!(
                    "CPUs {missing} are not on this machine ({machine})"
                ));
            }
            let here = topology.cpus_of_package(PackageId(list.socket));
            let elsewhere = cpus.intersection(&machine).difference(&here);
            if !elsewhere.is_empty() {
                problem(format!(
                    "CPUs {elsewhere} are not on socket {}, which has {}",
                    list.socket,
                    listed(&here)
                ));
            }
            for (listed, of) in &seen {
                let both = cpus.intersection(listed);
                if !both.is_empty() {
                    problem(format!(
                        "CPUs {both} are also in list {listed} of pool {of:?}"
                    ));
                }
            }
            seen.push((cpus, name.clone()));
            let ranges = list.cpuset.split(',');
            let ranges = ranges.filter_map(|range| range.parse::<CpuSet>().ok());
            let mut order: Vec<CpuId> = Vec::new();
            for cpu in ranges.flat_map(|range| range.iter().collect::<Vec<_>>()) {
                if !order.contains(&cpu) {
                    order.push(cpu);
                }
            }
            lists.push(List {
                socket: list.socket,
                cpus,
                order,
            });
        }
        let exclusive = pool.exclusive;
        pools.insert(name.clone(), Pool { exclusive, lists });
    }
    if problems.is_empty() {
        Ok(pools)
    } else {
        Err(problems)
    }
}
