//! Requirements estimated from the fields of a CRI request, and back. Source: the kubelet's
//! `MilliCPUToShares`, `MilliCPUToQuota` and OOM score policy.

use super::{QosClass, Requirements, Source};
use resmgr_topology::MilliCpu;

/// What a CRI request tells about resources; 0 means not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CriResources {
    /// `cpu_shares`, cgroup v1 scale: 1024 per CPU.
    pub cpu_shares: i64,
    /// `cpu_quota`, microseconds per period.
    pub cpu_quota: i64,
    /// `cpu_period`, microseconds.
    pub cpu_period: i64,
    /// `memory_limit_in_bytes`.
    pub memory_limit_bytes: i64,
    /// `oom_score_adj`.
    pub oom_score_adj: i64,
}

/// Estimates requirements. Whole CPUs survive the round trip through shares and quota exactly.
#[must_use]
pub fn estimate(cri: CriResources, qos: QosClass, memory_total_bytes: u64) -> Requirements {
    let request = milli_from_shares(cri.cpu_shares);
    let limit = milli_from_quota(cri.cpu_quota, cri.cpu_period);
    let cpu_limit = match qos {
        QosClass::Guaranteed if request.0 > 0 => Some(request),
        _ => limit,
    };
    let memory_limit_bytes = u64::try_from(cri.memory_limit_bytes)
        .ok()
        .filter(|bytes| *bytes > 0);
    let memory_request_bytes = match qos {
        QosClass::Guaranteed => memory_limit_bytes,
        QosClass::Burstable => memory_request(cri.oom_score_adj, memory_total_bytes),
        QosClass::BestEffort => None,
    };
    Requirements {
        cpu_request: request,
        cpu_limit,
        memory_request_bytes,
        memory_limit_bytes,
        source: Source::Estimate,
        ..Requirements::default()
    }
}

/// Bounds what an annotation claims by what the CRI request shows: where no webhook overwrites it, users
/// write the annotation themselves. CPU and memory follow the CRI fields unless they agree within the
/// rounding of the kubelet; extended resources are visible nowhere else and are kept.
#[must_use]
pub fn bound(claimed: Requirements, shown: &Requirements) -> Requirements {
    let near = |a: MilliCpu, b: MilliCpu| a.0.abs_diff(b.0) <= 1;
    let cpu_request = if near(claimed.cpu_request, shown.cpu_request) {
        claimed.cpu_request
    } else {
        MilliCpu(claimed.cpu_request.0.min(shown.cpu_request.0))
    };
    Requirements {
        cpu_request,
        cpu_limit: shown.cpu_limit.or(claimed.cpu_limit),
        memory_limit_bytes: shown.memory_limit_bytes.or(claimed.memory_limit_bytes),
        ..claimed
    }
}

/// CPU request from `cpu.shares`; 2, the kernel's least, means none.
#[must_use]
pub fn milli_from_shares(shares: i64) -> MilliCpu {
    if shares <= 2 {
        return MilliCpu(0);
    }
    let milli = (i128::from(shares) * 1000 + 512) / 1024;
    MilliCpu(u32::try_from(milli).unwrap_or(u32::MAX))
}

/// CPU limit from the CFS quota; none when either is not set.
#[must_use]
pub fn milli_from_quota(quota: i64, period: i64) -> Option<MilliCpu> {
    if quota <= 0 || period <= 0 {
        return None;
    }
    let milli = (i128::from(quota) * 2000 + i128::from(period)) / (2 * i128::from(period));
    Some(MilliCpu(u32::try_from(milli).unwrap_or(u32::MAX)))
}

/// `cpu.shares` of a CPU request: 2 to 262144.
#[must_use]
pub fn shares_from_milli(milli: u32) -> u64 {
    (u64::from(milli) * 1024 / 1000).clamp(2, 262_144)
}

/// CFS quota and period in microseconds of a CPU limit; (0, 0) for none.
#[must_use]
pub fn quota_from_milli(milli: u32) -> (i64, i64) {
    if milli == 0 {
        return (0, 0);
    }
    ((i64::from(milli) * 100).max(1000), 100_000)
}

/// Memory request of a Burstable container from the kubelet's `1000 - 1000·request/total`. The score is
/// clamped to 2..=999 there, so that these two say nothing.
fn memory_request(oom_score_adj: i64, memory_total_bytes: u64) -> Option<u64> {
    let share = u128::try_from(1000 - oom_score_adj).ok()?;
    if !(3..=998).contains(&oom_score_adj) {
        return None;
    }
    u64::try_from(u128::from(memory_total_bytes) * share / 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_cpus_survive_the_round_trip() {
        for cpus in 1..=256 {
            let shares = i64::try_from(shares_from_milli(cpus * 1000)).unwrap();
            assert_eq!(milli_from_shares(shares), MilliCpu(cpus * 1000));
            let (quota, period) = quota_from_milli(cpus * 1000);
            assert_eq!(milli_from_quota(quota, period), Some(MilliCpu(cpus * 1000)));
        }
    }

    #[test]
    fn extremes_are_not_errors() {
        assert_eq!(milli_from_shares(2), MilliCpu(0));
        assert_eq!(milli_from_shares(i64::MIN), MilliCpu(0));
        assert_eq!(milli_from_shares(i64::MAX), MilliCpu(u32::MAX));
        assert_eq!(milli_from_quota(-1, 100_000), None);
        assert_eq!(memory_request(-998, 1 << 40), None);
        assert_eq!(memory_request(500, 1 << 40), Some(1 << 39));
    }

    #[test]
    fn an_annotation_cannot_claim_more_than_the_kubelet_gave() {
        let claimed = Requirements {
            cpu_request: MilliCpu(64_000),
            ..Requirements::default()
        };
        let shown = Requirements {
            cpu_request: MilliCpu(100),
            ..Requirements::default()
        };
        assert_eq!(bound(claimed, &shown).cpu_request, MilliCpu(100));
    }
}
