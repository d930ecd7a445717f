//! What a container's requirements are worked out from: what CRI shows of the container and of its pod, and
//! the pod annotation.
//!
//! CRI's numbers are always the newest: they follow a pod that is resized in place, and users cannot write
//! them. They are rounded, though, and since Kubernetes 1.34 the kubelet fills the CPU limit of a pod with
//! pod-level resources into each container that has none (KEP-2837), so that a container without a request
//! of its own looks like one that asks for all of its pod. The annotation tells both apart, and gives exact
//! thousandths and extended resources; where it disagrees with CRI by more than rounding, CRI counts.

use super::{
    QosClass, Requirements, Source,
    estimate::{CriResources, estimate, quota_from_milli, shares_from_milli},
};
use alloc::{collections::BTreeMap, string::String};
use resmgr_topology::MilliCpu;
use serde::{Deserialize, Serialize};

/// Resources as the pod annotation has them. What is `None` was not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Annotated {
    /// CPU request; the limit where only that is given.
    pub cpu_request: Option<MilliCpu>,
    /// CPU limit.
    pub cpu_limit: Option<MilliCpu>,
    /// Memory request in bytes; the limit where only that is given.
    pub memory_request_bytes: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Extended resources requested, whole units by resource name.
    pub extended: BTreeMap<String, i64>,
}

impl Annotated {
    /// The same as the kubelet shows it in CRI.
    #[must_use]
    pub fn shown(&self) -> CriResources {
        let shares = shares_from_milli(self.cpu_request.unwrap_or_default().0);
        let (cpu_quota, cpu_period) = quota_from_milli(self.cpu_limit.unwrap_or_default().0);
        let memory = self.memory_limit_bytes.unwrap_or_default();
        CriResources {
            cpu_shares: i64::try_from(shares).unwrap_or(i64::MAX),
            cpu_quota,
            cpu_period,
            memory_limit_bytes: i64::try_from(memory).unwrap_or(i64::MAX),
            oom_score_adj: 0,
        }
    }
}

/// All that is known of the resources of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Basis {
    /// What CRI shows of the container: its create request with all updates merged in.
    pub shown: CriResources,
    /// What CRI shows of the whole pod (`PodSandboxConfig.linux.resources`), if it does.
    pub pod: Option<CriResources>,
    /// The container's entry in the pod annotation; `None` when there is none.
    pub annotated: Option<Annotated>,
    /// Whether it was found to have no CPU request of its own; see [`judge_pod`].
    pub of_pod: bool,
    /// CPU request left of the pod's own, where the containers together show more than the pod has.
    pub left: Option<MilliCpu>,
}

impl Basis {
    /// Takes over an update of the container's resources.
    pub fn merge(&mut self, update: &CriResources) {
        self.shown.merge(update);
        self.left = None;
        // An update that shows less than the whole pod is a request of its own.
        let whole = self.pod.map(|pod| pod.cpu_request());
        self.of_pod &= whole.is_some_and(|whole| self.shown.cpu_request() >= whole);
        // The pod is at least what it is made of, whenever the runtime is told of that.
        if !self.of_pod
            && let Some(pod) = &mut self.pod
        {
            pod.cpu_shares = pod.cpu_shares.max(self.shown.cpu_shares);
        }
    }

    /// What the container asks for. A pure function of what is known.
    #[must_use]
    pub fn requirements(&self, qos: QosClass, memory_total_bytes: u64) -> Requirements {
        let shown = estimate(self.shown, qos, memory_total_bytes);
        let mut requirements = match &self.annotated {
            Some(annotated) => self.refine(annotated, shown),
            None => shown,
        };
        if self.of_pod {
            requirements.cpu_request = MilliCpu(0);
            requirements.cpu_limit = self.shown.cpu_limit();
            requirements.source = Source::Pod;
        } else if let Some(left) = self.left
            && left < requirements.cpu_request
        {
            requirements.source = Source::PodRest {
                shown: requirements.cpu_request,
            };
            requirements.cpu_request = left;
        }
        requirements
    }

    /// Makes what CRI shows exact where the annotation agrees with it.
    fn refine(&self, annotated: &Annotated, shown: Requirements) -> Requirements {
        let claimed = annotated.cpu_request.unwrap_or_default();
        let agrees = self.agrees(claimed);
        Requirements {
            cpu_request: if agrees { claimed } else { shown.cpu_request },
            cpu_limit: match (shown.cpu_limit, annotated.cpu_limit) {
                (Some(shown), Some(exact)) if near(shown, exact) => Some(exact),
                (shown, annotated) => shown.or(annotated.filter(|_limit| agrees)),
            },
            memory_request_bytes: annotated.memory_request_bytes,
            memory_limit_bytes: shown.memory_limit_bytes.or(annotated.memory_limit_bytes),
            extended: annotated.extended.clone(),
            source: if agrees {
                Source::Annotation
            } else {
                Source::Newer { annotated: claimed }
            },
        }
    }

    /// Whether the kubelet would show a CPU request as the shares that CRI shows, but for rounding.
    fn agrees(&self, claimed: MilliCpu) -> bool {
        let shares = i64::try_from(shares_from_milli(claimed.0)).unwrap_or(i64::MAX);
        shares == self.shown.cpu_shares || near(claimed, self.shown.cpu_request())
    }

    /// Whether the CPU numbers are those that the kubelet fills in from its pod's CPU limit.
    fn cpu_is_the_pods(&self, pod: &CriResources) -> bool {
        let Some(limit) = pod.cpu_limit() else {
            return false;
        };
        let shares = i64::try_from(shares_from_milli(limit.0)).unwrap_or(i64::MAX);
        self.shown.cpu_shares == shares && self.shown.cpu_limit() == Some(limit)
    }

    /// Whether the annotation says that the container has a CPU request of its own.
    fn has_own(&self) -> Option<bool> {
        let annotated = self.annotated.as_ref()?;
        Some(annotated.cpu_request.is_some_and(|request| request.0 > 0))
    }

    fn own_request(&self) -> u64 {
        match self.of_pod {
            true => 0,
            false => {
                let shown = self.shown.cpu_request();
                u64::from(self.left.map_or(shown, |left| left.min(shown)).0)
            }
        }
    }
}

/// Rounding of the kubelet, there and back.
fn near(a: MilliCpu, b: MilliCpu) -> bool {
    a.0.abs_diff(b.0) <= 1
}

/// Finds the containers of one pod that have no CPU request of their own; the newest container comes last,
/// and what is known of the pod is taken from it.
///
/// - One whose annotation has no CPU request asks for none, unless it shows less than its whole pod: then
///   it was given one later, by a resize.
/// - Without an annotation, containers that live at the same time cannot ask for more than their pod. Where
///   they seem to, those that show exactly what the kubelet fills in from the pod have nothing of their own;
///   also when they run again beside others of their kind.
/// - Should they still seem to, the newest gets what the others leave.
pub fn judge_pod(members: &mut [&mut Basis]) {
    let pod = members.last().and_then(|newest| newest.pod);
    for member in members.iter_mut() {
        if member.has_own() == Some(false) {
            let resized = pod.is_some_and(|pod| {
                member.shown.cpu_request() < pod.cpu_request() && !member.cpu_is_the_pods(&pod)
            });
            member.of_pod = !resized && member.shown.cpu_request().0 > 0;
        } else if member.has_own() == Some(true) {
            member.of_pod = false;
        }
    }
    let Some(pod) = pod else {
        return;
    };
    if let Some(newest) = members.last_mut() {
        newest.left = None;
    }
    let shown = members.iter().map(|member| member.shown.cpu_request());
    if !exceeds(shown.map(|milli| u64::from(milli.0)).sum(), members, &pod) {
        return;
    }
    let memory_is_the_pods =
        |member: &Basis| member.shown.memory_limit_bytes == pod.memory_limit_bytes;
    // First those whose memory limit is the pod's as well; then those with memory of their own, if it takes
    // them too, or took others before.
    for memory_too in [true, false] {
        let filled_with_memory = members
            .iter()
            .any(|member| member.of_pod && !memory_is_the_pods(member));
        if !memory_too && !filled_with_memory && excess(members, &pod) == 0 {
            break;
        }
        for member in members.iter_mut() {
            let memory = memory_is_the_pods(member) || !memory_too;
            let filled = member.cpu_is_the_pods(&pod) && memory;
            member.of_pod |= filled && member.has_own() != Some(true);
        }
    }
    let excess = excess(members, &pod);
    if excess > 0
        && let Some(newest) = members.last_mut()
    {
        let left = newest.own_request().saturating_sub(excess);
        newest.left = u32::try_from(left).ok().map(MilliCpu);
    }
}

/// By how much the containers' own CPU requests exceed their pod's; 0 when only by rounding.
fn excess(members: &[&mut Basis], pod: &CriResources) -> u64 {
    let sum = members.iter().map(|member| member.own_request()).sum();
    match exceeds(sum, members, pod) {
        true => sum - u64::from(pod.cpu_request().0),
        false => 0,
    }
}

/// Whether a sum over the containers exceeds what their pod has, beyond rounding.
fn exceeds(sum: u64, members: &[&mut Basis], pod: &CriResources) -> bool {
    let rounding = u64::try_from(members.len()).unwrap_or(u64::MAX);
    sum > u64::from(pod.cpu_request().0).saturating_add(rounding)
}

#[cfg(test)]
mod tests;
