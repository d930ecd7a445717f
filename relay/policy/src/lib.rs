//! Pure placement policies: topology, state, request and measurements in, decision out.
//!
//! No I/O, no clock, no randomness: equal arguments give equal answers, so that every decision can be
//! replayed. What policies need from outside (time, smoothed measurements) is an argument.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod annotation;
mod check;
mod condition;
mod config;
mod contention;
mod cpu_list;
mod decision;
mod explanation;
mod measured;
mod mems;
mod none;
mod quantity;
mod rebalance;
mod registry;
mod request;
mod rules;
mod state;
mod static_engine;
mod static_plus;
mod static_policy;
mod stp;
pub mod trace;
mod view;
mod workload;

pub use annotation::{
    concerns_placement, effective, wants_exclusive_moved, wants_rebalance, wants_resources_file,
};
pub use check::{Violation, check};
pub use condition::{Condition, STALE_NS};
pub use config::{ConfigProblem, Reserved, StaticConfig};
pub use decision::{Change, Decision, Policy, Refusal};
pub use explanation::{
    Candidate, Certainty, CpuSource, DomainContention, DomainLevel, Explanation, Reason,
};
pub use measured::{Confidence, HALF_LIFE, Measured, MeasurementQuality, Observed};
pub use none::Unplaced;
pub use quantity::{Quantity, QuantityError};
pub use rebalance::limits::{
    BUDGET_PER_MINUTE, COOLDOWN_NS, COOLDOWN_UNDONE_NS, VERIFY_FROM_NS, VERIFY_NS,
};
pub use registry::{POLICIES, PolicyInfo, PolicySettings, RebalanceMode, by_name, find};
pub use request::{
    ContainerId, Namespace, PodRef, QosClass, Request, Requirements, Source,
    annotation::{
        AnnotationError, Entry as AnnotationEntry, RESOURCES_ANNOTATION, entry_of_annotation,
    },
    basis::{Annotated, Basis, judge_pod},
    cmk_isolate::{
        EXCLUSIVE_CORES, EXCLUSIVE_NON_ISOLCPUS_CORES, Isolate, NON_ISOLCPUS_POOL, parse_isolate,
    },
    estimate::{
        CriResources, estimate, milli_from_quota, milli_from_shares, quota_from_milli,
        shares_from_milli,
    },
    qos::qos_from_cgroup_parent,
};
pub use rules::Rules;
pub use state::{
    Container, Placement, PoolUse, Quota, State,
    rebalance::{
        Baseline, Benefit, MigrationBaseline, MoveEvidence, MoveKind, MoveStep, Outcome,
        RebalanceMemory, RebalanceMove, SampleSeries,
    },
    workloads::{WorkloadHistory, WorkloadProfile},
};
pub use static_plus::StaticPlusPolicy;
pub use static_policy::StaticPolicy;
pub use stp::{
    CpuListConfig, PoolConfig, PoolSizes, PoolsConfig, StaticPools, make_pools,
    pools_from_directory,
};
pub use view::View;
pub use workload::{MAX_WORKLOADS, update_profiles, workload};
