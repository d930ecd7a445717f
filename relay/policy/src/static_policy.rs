//! The policy `static`: exclusive CPUs for Guaranteed containers that request whole CPUs, everything else
//! on the shared pool. Reserved CPUs belong to the pool and are never given out exclusively.

use crate::{
    annotation::prefer_isolated,
    config::StaticConfig,
    explanation::CpuSource,
    request::{QosClass, Request},
    static_engine::{CpuPools, CpuSplit, Loans, StaticEngine, Variant},
};
use alloc::{vec, vec::Vec};
use resmgr_topology::{CpuSet, MilliCpu, Topology};

/// The policy `static`.
pub type StaticPolicy = StaticEngine<Static>;

/// The rules of `static`.
#[derive(Clone, Copy, Debug)]
pub struct Static;

impl Variant for Static {
    const NAME: &'static str = "static";
    const SPILLS: bool = false;
    const SETS_SHARES: bool = false;

    fn pools(config: &StaticConfig, reserved: &CpuSet, topology: &Topology) -> CpuPools {
        let ordinary = topology.online.difference(&topology.isolated);
        let available = config.available.unwrap_or(ordinary).intersection(&ordinary);
        let isolated = topology.isolated.intersection(&topology.online);
        CpuPools {
            reserved: *reserved,
            isolated: isolated.difference(reserved),
            shared: available,
            loans: Loans::default(),
        }
    }

    fn split(_config: &StaticConfig, request: &Request) -> CpuSplit {
        let milli = request.requirements.cpu_request;
        let whole = milli.0 >= 1000 && milli.0.is_multiple_of(1000);
        let exclusive = whole && request.qos == QosClass::Guaranteed;
        CpuSplit {
            full: if exclusive {
                usize::try_from(milli.0 / 1000).unwrap_or(usize::MAX)
            } else {
                0
            },
            part: if exclusive { MilliCpu(0) } else { milli },
            reserved: false,
        }
    }

    fn sources(config: &StaticConfig, request: &Request, full: usize) -> Vec<CpuSource> {
        match prefer_isolated(request) {
            Some(false) => vec![CpuSource::Pool],
            Some(true) => vec![CpuSource::Isolated, CpuSource::Pool, CpuSource::Either],
            None if config.relaxed_isolation || full == 1 => {
                vec![CpuSource::Isolated, CpuSource::Pool, CpuSource::Either]
            }
            None => vec![CpuSource::IsolatedCore, CpuSource::Pool, CpuSource::Either],
        }
    }
}
