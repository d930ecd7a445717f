//! Creations that were refused a short while ago.

use super::answer::ContainerSpec;
use resmgr_policy::{Basis, Request};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Refused creations: the kubelet tries the next container of the pod meanwhile, and what both show tells
/// whether either has a request of its own.
#[derive(Debug, Default)]
pub(super) struct RefusedCreations(VecDeque<RefusedCreation>);

#[derive(Debug)]
struct RefusedCreation {
    at: Instant,
    sandbox: Arc<str>,
    name: Arc<str>,
    basis: Basis,
}

impl RefusedCreations {
    /// How many are remembered.
    const LIMIT: usize = 256;

    /// For how long: the kubelet tries again every five minutes at least.
    const TTL: Duration = Duration::from_secs(600);

    /// Remembers one more.
    pub(super) fn add(&mut self, spec: &ContainerSpec) {
        self.forget(&spec.request);
        self.0.truncate(Self::LIMIT - 1);
        let Request { pod, name, .. } = &spec.request;
        self.0.push_front(RefusedCreation {
            at: Instant::now(),
            sandbox: Arc::clone(&pod.sandbox),
            name: Arc::clone(name),
            basis: spec.basis.clone(),
        });
    }

    /// A container is no longer refused: what it shows is known as long as it lives.
    pub(super) fn forget(&mut self, request: &Request) {
        self.0.retain(|refused| {
            refused.at.elapsed() < Self::TTL
                && (&refused.sandbox, &refused.name) != (&request.pod.sandbox, &request.name)
        });
    }

    /// A pod is gone.
    pub(super) fn forget_pod(&mut self, sandbox: &str) {
        self.0.retain(|refused| *refused.sandbox != *sandbox);
    }

    /// Name and basis of those of one pod.
    pub(super) fn of_pod<'a>(
        &'a self,
        sandbox: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Basis)> {
        let recent = self.0.iter().filter(move |refused| {
            *refused.sandbox == *sandbox && refused.at.elapsed() < Self::TTL
        });
        recent.map(|refused| (&refused.name, &refused.basis))
    }
}
