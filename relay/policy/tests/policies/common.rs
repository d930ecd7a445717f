//! What the tests of this crate share.

use resmgr_policy::*;
use resmgr_topology::{CpuSet, MilliCpu, Nanos, Topology};

/// Two packages of two NUMA nodes of two cores of two threads.
pub(super) fn n4c16() -> Topology {
    Topology::synthetic("pack:2 numa:2(memory=512MiB) core:2 pu:2").unwrap()
}

pub(super) fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

pub(super) fn request(name: &str, qos: QosClass, milli: u32) -> Request {
    Request {
        id: ContainerId(name.into()),
        pod: PodRef {
            sandbox: name.into(),
            uid: name.into(),
            name: name.into(),
            namespace: "default".into(),
        },
        name: name.into(),
        qos,
        requirements: Requirements {
            cpu_request: MilliCpu(milli),
            ..Requirements::default()
        },
        init: false,
        annotations: Default::default(),
        env: Vec::new(),
        command: Vec::new(),
        args: Vec::new(),
    }
}

pub(super) fn annotated(mut request: Request, key: &str, value: &str) -> Request {
    request.annotations.insert(key.into(), value.into());
    request
}

pub(super) fn reserving(list: &str) -> StaticConfig {
    StaticConfig {
        reserved: Some(Reserved::Set(cpus(list))),
        ..StaticConfig::default()
    }
}

/// A machine, a policy and the containers that run there; checked after every step.
#[derive(Debug)]
pub(super) struct World {
    pub(super) topology: Topology,
    pub(super) policy: Box<dyn Policy>,
    pub(super) state: State,
    pub(super) measured: Measured,
    pub(super) now: Nanos,
}

impl World {
    pub(super) fn new(topology: Topology, policy: impl Policy + 'static) -> Self {
        Self {
            topology,
            policy: Box::new(policy),
            state: State::default(),
            measured: Measured::default(),
            now: Nanos(0),
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            topology: &self.topology,
            state: &self.state,
            measured: &self.measured,
            now: self.now,
        }
    }

    pub(super) fn apply(&mut self, decision: &Decision) {
        self.state.apply(decision);
        let changes = decision.changes.iter();
        let explained = changes.filter_map(|change| change.explanation.as_ref());
        for why in explained.chain(decision.notes.iter().map(|(_, why)| why)) {
            let written = serde_json::to_string(why).unwrap();
            let read: Explanation = serde_json::from_str(&written).unwrap();
            assert_eq!(read, *why, "{written}");
        }
        let rules = self.policy.rules(&self.topology);
        assert_eq!(check(&self.topology, &self.state, &rules), []);
        let exclusive = self.state.exclusive();
        for pool in self.policy.pools(self.view()) {
            for free in &pool.free {
                assert!(free.is_disjoint(&exclusive) && !free.is_empty(), "{pool:?}");
                assert!(free.is_subset(&pool.cpus), "{pool:?}");
            }
        }
    }

    /// What is free of a pool.
    pub(super) fn free(&self, pool: &str) -> Vec<CpuSet> {
        let pools = self.policy.pools(self.view());
        pools
            .into_iter()
            .find(|known| known.name == pool)
            .unwrap()
            .free
    }

    pub(super) fn place(&mut self, request: &Request) -> Result<Placement, Refusal> {
        let decision = self.policy.place(self.view(), request)?;
        assert_eq!(
            Ok(&decision),
            self.policy.place(self.view(), request).as_ref()
        );
        self.apply(&decision);
        Ok(self.state.containers[&request.id].placement.clone())
    }

    pub(super) fn release(&mut self, name: &str) {
        let decision = self.policy.release(self.view(), &ContainerId(name.into()));
        self.apply(&decision);
    }

    pub(super) fn reconcile(&mut self) -> Result<Decision, Refusal> {
        let decision = self.policy.reconcile(self.view())?;
        self.apply(&decision);
        Ok(decision)
    }

    pub(super) fn on(&self, name: &str) -> String {
        self.state.containers[&ContainerId(name.into())]
            .placement
            .cpus
            .to_string()
    }
}
