//! The policy `static`: exclusive CPUs for Guaranteed containers that request whole CPUs, everything else
//! on the shared pool. Reserved CPUs belong to the pool and are never given out exclusively.

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

/// The policy `static`.
#[derive(Clone, Debug)]
pub struct StaticPolicy(pub(crate) Slices<Static>);

impl StaticPolicy {
    /// Checks the configuration against the machine. Make a new one when the machine changes.
    ///
    /// # Errors
    /// What is wrong with the configuration: no reservation, or CPUs that are not available.
    pub fn new(topology: &Topology, config: StaticConfig) -> Result<Self, Vec<ConfigProblem>> {
        Slices::new(topology, config).map(Self)
    }
}

impl Policy for StaticPolicy {
    fn name(&self) -> &'static str {
        Static::NAME
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

/// The rules of `static`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Static;

impl Flavour for Static {
    const NAME: &'static str = "static";
    const SPILLS: bool = false;
    const SETS_SHARES: bool = false;

    fn sets(config: &StaticConfig, reserved: &CpuSet, topology: &Topology) -> Sets {
        let ordinary = topology.online.difference(&topology.isolated);
        let available = config.available.unwrap_or(ordinary).intersection(&ordinary);
        let isolated = topology.isolated.intersection(&topology.online);
        Sets {
            reserved: *reserved,
            isolated: isolated.difference(reserved),
            pool: available,
            lent: Lent::default(),
        }
    }

    fn split(_config: &StaticConfig, request: &Request) -> Split {
        let milli = request.requirements.cpu_request;
        let whole = milli.0 >= 1000 && milli.0.is_multiple_of(1000);
        let exclusive = whole && request.qos == QosClass::Guaranteed;
        Split {
            full: if exclusive {
                usize::try_from(milli.0 / 1000).unwrap_or(usize::MAX)
            } else {
                0
            },
            part: if exclusive { MilliCpu(0) } else { milli },
            reserved: false,
        }
    }

    fn sources(config: &StaticConfig, request: &Request, full: usize) -> Vec<From> {
        match prefer_isolated(request) {
            Some(false) => vec![From::Pool],
            Some(true) => vec![From::Isolated, From::Pool, From::Either],
            None if config.relaxed_isolation || full == 1 => {
                vec![From::Isolated, From::Pool, From::Either]
            }
            None => vec![From::IsolatedCore, From::Pool, From::Either],
        }
    }
}
