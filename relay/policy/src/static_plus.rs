//! The policy `static-plus`: whole CPUs of a request are exclusive, the rest comes from the shared pool.
//! Containers of reserved namespaces run on the reserved CPUs; all others do too where no other CPU is left to share.

use crate::{
    annotation::prefer_isolated,
    config::StaticConfig,
    explanation::CpuSource,
    request::{QosClass, Request},
    static_engine::{CpuPools, CpuSplit, Loans, StaticEngine, Variant},
};
use alloc::{vec, vec::Vec};
use resmgr_topology::{CpuSet, MilliCpu, Topology};

/// The policy `static-plus`.
pub type StaticPlusPolicy = StaticEngine<StaticPlus>;

/// The rules of `static-plus`.
#[derive(Clone, Copy, Debug)]
pub struct StaticPlus;

impl Variant for StaticPlus {
    const NAME: &'static str = "static-plus";
    const SPILLS: bool = true;
    const SETS_SHARES: bool = true;

    fn pools(config: &StaticConfig, reserved: &CpuSet, topology: &Topology) -> CpuPools {
        let available = config.available.unwrap_or(topology.online);
        let available = available.intersection(&topology.online);
        let rest = available.difference(reserved);
        let shared = rest.difference(&topology.isolated);
        CpuPools {
            reserved: *reserved,
            isolated: rest.intersection(&topology.isolated),
            // A machine of one CPU still runs its containers.
            shared: if shared.is_empty() { *reserved } else { shared },
            loans: Loans::default(),
        }
    }

    fn split(config: &StaticConfig, request: &Request) -> CpuSplit {
        let milli = request.requirements.cpu_request.0;
        let namespaces = &config.reserved_namespaces;
        let reserved = namespaces
            .iter()
            .any(|namespace| **namespace == *request.pod.namespace);
        let sliced =
            !reserved && (config.burstable_exclusive || request.qos == QosClass::Guaranteed);
        let full = if sliced { milli / 1000 } else { 0 };
        CpuSplit {
            full: usize::try_from(full).unwrap_or(usize::MAX),
            part: MilliCpu(milli - full * 1000),
            reserved,
        }
    }

    fn sources(_config: &StaticConfig, request: &Request, _full: usize) -> Vec<CpuSource> {
        match prefer_isolated(request) {
            Some(false) => vec![CpuSource::Pool],
            _ => vec![CpuSource::Isolated, CpuSource::Pool],
        }
    }
}
