//! Creations that were refused a short while ago.

use super::answer::ContainerSpec;
use resmgr_policy::{Basis, Request};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Refused creations, the latest first: `explain` tells of them, and what the containers of one pod show together tells
/// whether either has a request of its own, for the kubelet tries the next container of the pod meanwhile.
#[derive(Clone, Debug, Default)]
pub struct RefusedCreations(Arc<VecDeque<RefusedCreation>>);

/// A container whose creation was refused, once or again and again.
#[derive(Clone, Debug)]
pub struct RefusedCreation {
    /// When it was refused last.
    at: Instant,
    /// The same, seconds since 1970.
    pub at_unix_s: u64,
    /// What it asked for.
    pub request: Arc<Request>,
    basis: Basis,
    /// Why it was refused last.
    pub why: Arc<str>,
    /// How often in all.
    pub times: u64,
    /// Whether it was neither created since nor its pod removed.
    waiting: bool,
}

impl RefusedCreations {
    /// How many are remembered.
    const LIMIT: usize = 256;

    /// For how long they can be explained.
    const TTL: Duration = Duration::from_secs(3600);

    /// For how long they tell something of their pod: the kubelet tries again every five minutes at least.
    const TTL_OF_POD: Duration = Duration::from_secs(600);

    /// Those of the last hour, the latest first.
    pub fn recent(&self) -> impl Iterator<Item = &RefusedCreation> {
        let recent = |refused: &&RefusedCreation| refused.at.elapsed() < Self::TTL;
        self.0.iter().filter(recent)
    }

    /// Remembers one more.
    pub(super) fn add(&mut self, spec: &ContainerSpec, why: &str, at_unix_s: u64) {
        let all = Arc::make_mut(&mut self.0);
        all.retain(|refused| refused.at.elapsed() < Self::TTL);
        let again = |refused: &RefusedCreation| refused.waiting && refused.is_of(&spec.request);
        let earlier = all.iter().position(again);
        let earlier = earlier.and_then(|at| all.remove(at));
        all.truncate(Self::LIMIT - 1);
        all.push_front(RefusedCreation {
            at: Instant::now(),
            at_unix_s,
            request: Arc::new(spec.request.remembered()),
            basis: spec.basis.clone(),
            why: why.into(),
            times: earlier.map_or(1, |earlier| earlier.times + 1),
            waiting: true,
        });
    }

    /// A container is no longer refused: what it shows is known as long as it lives.
    pub(super) fn created(&mut self, request: &Request) {
        self.end_waiting(|refused| refused.is_of(request));
    }

    /// A pod is gone.
    pub(super) fn pod_gone(&mut self, sandbox: &str) {
        self.end_waiting(|refused| *refused.request.pod.sandbox == *sandbox);
    }

    fn end_waiting(&mut self, which: impl Fn(&RefusedCreation) -> bool) {
        if !self
            .0
            .iter()
            .any(|refused| refused.waiting && which(refused))
        {
            return;
        }
        for refused in Arc::make_mut(&mut self.0) {
            refused.waiting &= !which(refused);
        }
    }

    /// Name and basis of those of one pod.
    pub(super) fn of_pod<'a>(
        &'a self,
        sandbox: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Basis)> {
        let of_pod = self.0.iter().filter(move |refused| {
            refused.waiting
                && *refused.request.pod.sandbox == *sandbox
                && refused.at.elapsed() < Self::TTL_OF_POD
        });
        of_pod.map(|refused| (&refused.request.name, &refused.basis))
    }
}

impl RefusedCreation {
    fn is_of(&self, request: &Request) -> bool {
        let own = &self.request;
        (&own.pod.sandbox, &own.name) == (&request.pod.sandbox, &request.name)
    }
}
