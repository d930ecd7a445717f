//! The container that the relay itself runs in, if it does: the runtime answers a call that stops it when the relay
//! has ended, and a relay that waited for that answer would wait for itself.

use crate::cri::{
    intercept::{After, Before, Call, CallOutcome, Interceptor},
    message as v1,
};
use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use std::{collections::BTreeSet, fs, sync::Arc};

/// Calls that end a container or a pod, which they name in field 1.
const METHODS: [&str; 4] = [
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];
/// Files that a runtime shows each container of a pod from the directory of its sandbox.
const SANDBOX_FILES: [&str; 4] = [
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/dev/shm",
];
/// Digits of a container's or sandbox's id.
const ID_DIGITS: usize = 64;

/// Marks the calls that stop the relay's own container or pod; the hooks have their turn at all calls as before.
#[derive(Debug)]
pub struct OwnContainer {
    ids: BTreeSet<String>,
    hooks: Option<Arc<dyn Interceptor>>,
}

impl OwnContainer {
    /// Puts itself before `hooks`, if this process runs in a container; the same hooks otherwise.
    #[must_use]
    pub fn before_hooks(hooks: Option<Arc<dyn Interceptor>>) -> Option<Arc<dyn Interceptor>> {
        // Without a file in /proc there is no container to be found in it.
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let ids = own_ids(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        if ids.is_empty() {
            return hooks;
        }
        tracing::debug!("cri-resmgr runs in container or pod {ids:?}");
        Some(Arc::new(Self { ids, hooks }))
    }

    fn is_ended_by(&self, call: &Call, request: &Bytes) -> bool {
        let ended = v1::RemoveContainerRequest::decode(request.clone()).unwrap_or_default();
        let id = ended.container_id;
        // A runtime takes the beginning of an id as well.
        ends(&call.path) && !id.is_empty() && self.ids.iter().any(|own| own.starts_with(&id))
    }
}

#[async_trait]
impl Interceptor for OwnContainer {
    fn wants(&self, path: &str) -> bool {
        ends(path) || self.hooks.as_ref().is_some_and(|hooks| hooks.wants(path))
    }

    async fn before(&self, call: &Call, request: &Bytes) -> Before {
        let before = match &self.hooks {
            Some(hooks) if hooks.wants(&call.path) => hooks.before(call, request).await,
            _ => Before::Forward {
                request: None,
                after: None,
            },
        };
        match before {
            Before::Forward {
                request: sent,
                after,
            } if self.is_ended_by(call, request) => Before::Forward {
                request: sent,
                after: Some(Box::new(OwnEnd { after })),
            },
            before => before,
        }
    }
}

struct OwnEnd {
    after: Option<Box<dyn After>>,
}

#[async_trait]
impl After for OwnEnd {
    async fn after(self: Box<Self>, outcome: CallOutcome) {
        if let Some(after) = self.after {
            after.after(outcome).await;
        }
    }

    fn awaits_relay_end(&self) -> bool {
        true
    }
}

fn ends(path: &str) -> bool {
    let Some((service, method)) = path.rsplit_once('/') else {
        return false;
    };
    service.ends_with(".RuntimeService") && METHODS.contains(&method)
}

/// The ids of the container and of the pod sandbox that a process is in, of its /proc/PID/cgroup and mountinfo: the
/// container's is part of the cgroup's path, unless it has a cgroup namespace of its own, and the sandbox's is
/// part of the paths that [`SANDBOX_FILES`] are mounted from.
fn own_ids(cgroup: &str, mountinfo: &str) -> BTreeSet<String> {
    let mounted = mountinfo.lines().filter_map(|line| {
        // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT …
        let mut fields = line.split(' ').skip(3);
        let root = fields.next()?;
        SANDBOX_FILES.contains(&fields.next()?).then_some(root)
    });
    let paths = cgroup.lines().chain(mounted);
    let words = paths.flat_map(|path| path.split(|c: char| !c.is_ascii_alphanumeric()));
    let is_id = |word: &&str| {
        word.len() == ID_DIGITS && word.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    words.filter(is_id).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
