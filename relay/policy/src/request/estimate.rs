//! Requirements estimated from the fields of a CRI request, and back. Source: the kubelet's
//! `MilliCPUToShares`, `MilliCPUToQuota` and OOM score policy.

use super::{QosClass, Requirements, Source};
use resmgr_topology::MilliCpu;
use serde::{Deserialize, Serialize};

/// What CRI requests tell about resources. In every message of CRI a field that is 0 is not set: a create
/// request leaves it to the runtime, an update leaves it as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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

impl CriResources {
    /// Takes over the fields that an update sets; the others stay as they were.
    pub fn merge(&mut self, update: &Self) {
        for (field, new) in [
            (&mut self.cpu_shares, update.cpu_shares),
            (&mut self.cpu_quota, update.cpu_quota),
            (&mut self.cpu_period, update.cpu_period),
            (&mut self.memory_limit_bytes, update.memory_limit_bytes),
            (&mut self.oom_score_adj, update.oom_score_adj),
        ] {
            if new != 0 {
                *field = new;
            }
        }
    }

    /// CPU request that the shares stand for.
    #[must_use]
    pub fn cpu_request(&self) -> MilliCpu {
        milli_from_shares(self.cpu_shares)
    }

    /// CPU limit that the quota stands for; `None` when there is none.
    #[must_use]
    pub fn cpu_limit(&self) -> Option<MilliCpu> {
        milli_from_quota(self.cpu_quota, self.cpu_period)
    }
}

/// Estimates requirements. Whole CPUs survive the round trip through shares and quota exactly.
#[must_use]
pub fn estimate(cri: CriResources, qos: QosClass, memory_total_bytes: u64) -> Requirements {
    let request = cri.cpu_request();
    let limit = cri.cpu_limit();
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
    fn an_update_changes_what_it_sets_and_nothing_else() {
        let before = CriResources {
            cpu_shares: 2048,
            cpu_quota: 200_000,
            cpu_period: 100_000,
            memory_limit_bytes: 1 << 20,
            oom_score_adj: -997,
        };
        type Set = fn(&mut CriResources) -> &mut i64;
        let fields: [Set; 5] = [
            |all| &mut all.cpu_shares,
            |all| &mut all.cpu_quota,
            |all| &mut all.cpu_period,
            |all| &mut all.memory_limit_bytes,
            |all| &mut all.oom_score_adj,
        ];
        for which in 0_u32..32 {
            let (mut update, mut expected) = (CriResources::default(), before);
            for (index, field) in fields.iter().enumerate() {
                if which & (1 << index) != 0 {
                    *field(&mut update) = 7;
                    *field(&mut expected) = 7;
                }
            }
            let mut merged = before;
            merged.merge(&update);
            assert_eq!(merged, expected, "{which:05b}");
        }
    }
}
