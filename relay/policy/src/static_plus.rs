//! The policy `static-plus`: whole CPUs of a request are exclusive, the rest comes from the shared pool.
//! Containers of reserved namespaces run on the reserved CPUs.

use crate::{
    annotation::prefer_isolated,
    config::{ConfigProblem, StaticConfig},
    decision::{Decision, Policy, Refusal},
    rebalance::rebalance,
    request::{ContainerId, QosClass, Request},
    rules::Rules,
    slices::{Flavour, From, Lent, Sets, Slices, Split},
    view::View,
};
use alloc::{vec, vec::Vec};
use resmgr_topology::{CpuSet, MilliCpu, Topology};

/// The policy `static-plus`.
#[derive(Clone, Debug)]
pub struct StaticPlusPolicy(pub(crate) Slices<StaticPlus>);

impl StaticPlusPolicy {
    /// Checks the configuration against the machine. Make a new one when the machine changes.
    ///
    /// # Errors
    /// What is wrong with the configuration: no reservation, or CPUs that are not available.
    pub fn new(topology: &Topology, config: StaticConfig) -> Result<Self, Vec<ConfigProblem>> {
        Slices::new(topology, config).map(Self)
    }
}

impl Policy for StaticPlusPolicy {
    fn name(&self) -> &'static str {
        StaticPlus::NAME
    }
    fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        self.0.place(view, request)
    }
    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        self.0.release(view, gone)
    }
    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        self.0.reconcile(view)
    }
    fn rebalances(&self) -> bool {
        true
    }
    fn rebalance(&self, view: View<'_>) -> Option<Decision> {
        rebalance(&self.0, view)
    }
    fn rules(&self, topology: &Topology) -> Rules {
        self.0.rules(topology)
    }
}

/// The rules of `static-plus`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StaticPlus;

impl Flavour for StaticPlus {
    const NAME: &'static str = "static-plus";
    const SPILLS: bool = true;
    const SETS_SHARES: bool = true;

    fn sets(config: &StaticConfig, reserved: &CpuSet, topology: &Topology) -> Sets {
        let available = config.available.unwrap_or(topology.online);
        let available = available.intersection(&topology.online);
        let rest = available.difference(reserved);
        Sets {
            reserved: *reserved,
            isolated: rest.intersection(&topology.isolated),
            pool: rest.difference(&topology.isolated),
            lent: Lent::default(),
        }
    }

    fn split(config: &StaticConfig, request: &Request) -> Split {
        let milli = request.requirements.cpu_request.0;
        let namespaces = &config.reserved_namespaces;
        let reserved = namespaces.iter().any(|one| **one == *request.pod.namespace);
        let sliced =
            !reserved && (config.burstable_exclusive || request.qos == QosClass::Guaranteed);
        let full = if sliced { milli / 1000 } else { 0 };
        Split {
            full: usize::try_from(full).unwrap_or(usize::MAX),
            part: MilliCpu(milli - full * 1000),
            reserved,
        }
    }

    fn sources(_config: &StaticConfig, request: &Request, _full: usize) -> Vec<From> {
        match prefer_isolated(request) {
            Some(false) => vec![From::Pool],
            _ => vec![From::Isolated, From::Pool],
        }
    }
}
