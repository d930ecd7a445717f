//! Containers that come, change and go, as a kubelet has them.

use k8s_cri::v1;
use resmgr_tests::{Container, Cri, Pod, eventually};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Containers at a time.
const MOST: usize = 6;

/// A small generator of numbers, the same for the same seed (xorshift64*).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }
}

/// The churn, as far as it got.
#[derive(Debug)]
pub(crate) struct Churn {
    /// Guaranteed, burstable, best effort.
    pods: Vec<Pod>,
    /// Containers, and the CPUs that were asked for, if any.
    containers: BTreeMap<String, Option<String>>,
    /// What a name asked for: an id that was never told is found by it.
    names: BTreeMap<String, Option<String>>,
    created: u64,
    updated: u64,
    removed: u64,
    failed: u64,
    number: u64,
    /// What the runtime said when it could not remove a container, and of those it never could.
    failing: BTreeMap<String, String>,
    stuck: BTreeMap<String, String>,
}

impl Churn {
    pub(crate) async fn new(direct: &mut Cri) -> Self {
        let mut pods = Vec::new();
        for class in ["", "burstable", "besteffort"] {
            pods.push(direct.run_pod("churn", class, &[]).await.unwrap());
        }
        Self {
            pods,
            containers: BTreeMap::new(),
            names: BTreeMap::new(),
            created: 0,
            updated: 0,
            removed: 0,
            failed: 0,
            number: 0,
            failing: BTreeMap::new(),
            stuck: BTreeMap::new(),
        }
    }

    /// How long it takes to create, start, stop and remove one.
    pub(crate) async fn round(&self, mut cri: Cri) -> Duration {
        let start = Instant::now();
        let id = cri.run(&self.pods[2], &Container::sleeping("round")).await;
        gone(&mut cri, &id.unwrap()).await.unwrap();
        start.elapsed()
    }

    /// Calls one after the other until one cannot be made.
    pub(crate) async fn go_on(&mut self, mut cri: Cri, random: &mut Random) {
        loop {
            let full = self.containers.len() >= MOST;
            let outcome = match random.below(10) {
                0..5 if !full => self.create(&mut cri, random).await,
                5..7 if !self.containers.is_empty() => self.update(&mut cri, random).await,
                _ if !self.containers.is_empty() => self.remove(&mut cri, random).await,
                _ => self.create(&mut cri, random).await,
            };
            if let Err(error) = outcome {
                self.failed += 1;
                let status = error.downcast_ref::<tonic::Status>();
                // No room for another exclusive CPU is an answer like any other.
                if status.is_none_or(|status| status.code() != tonic::Code::ResourceExhausted) {
                    return;
                }
            }
        }
    }

    async fn create(&mut self, cri: &mut Cri, random: &mut Random) -> anyhow::Result<()> {
        self.number += 1;
        let name = format!("c{}", self.number);
        let container = Container::sleeping(&name);
        let (pod, mut container) = match random.below(4) {
            0 | 1 => (&self.pods[0], container.guaranteed(1)),
            2 => (&self.pods[1], container.burstable(200)),
            _ => (&self.pods[2], container),
        };
        let asked = (random.below(3) == 0).then(|| "0".to_owned());
        container.resources.cpuset_cpus = asked.clone().unwrap_or_default();
        self.names.insert(name, asked.clone());
        let id = cri.create(pod, &container).await?;
        self.containers.insert(id.clone(), asked);
        cri.start(&id).await?;
        self.created += 1;
        Ok(())
    }

    fn any(&self, random: &mut Random) -> String {
        let index = random.below(self.containers.len() as u64);
        let index = usize::try_from(index).unwrap();
        self.containers.keys().nth(index).unwrap().clone()
    }

    async fn update(&mut self, cri: &mut Cri, random: &mut Random) -> anyhow::Result<()> {
        let id = self.any(random);
        let linux = v1::LinuxContainerResources {
            cpu_shares: 102 + i64::try_from(random.below(800)).unwrap(),
            ..v1::LinuxContainerResources::default()
        };
        cri.update(&id, linux).await?;
        self.updated += 1;
        Ok(())
    }

    async fn remove(&mut self, cri: &mut Cri, random: &mut Random) -> anyhow::Result<()> {
        let id = self.any(random);
        cri.stop(&id).await?;
        cri.remove(&id).await?;
        self.containers.remove(&id);
        self.removed += 1;
        Ok(())
    }

    /// As the kubelet does after a broken call: asks what there is, stops and removes what does not run.
    /// What the runtime was told to start may take a moment to do so. A call that is cut off in the wrong
    /// moment can leave containerd with a container that it neither starts nor removes any more; such are
    /// counted, and stay.
    pub(crate) async fn learn(&mut self, direct: &mut Cri) {
        eventually(Duration::from_secs(5), async || {
            let list = v1::ListContainersRequest::default();
            let list = direct.client.list_containers(list).await.unwrap();
            self.containers.clear();
            let mut settled = true;
            for one in list.into_inner().containers {
                let name = one.metadata.clone().unwrap_or_default().name;
                if one.state() == v1::ContainerState::ContainerRunning {
                    let asked = self.names.get(&name).cloned().flatten();
                    self.containers.insert(one.id, asked);
                } else if !self.stuck.contains_key(&one.id)
                    && let Err(error) = gone(direct, &one.id).await
                {
                    self.failing.insert(one.id, format!("{error:#}"));
                    settled = false;
                }
            }
            if settled {
                self.failing.clear();
            }
            settled
        })
        .await;
        self.stuck.append(&mut self.failing);
    }

    /// The CPUs that a container was created with, if that was said.
    pub(crate) fn asked(&self, id: &str) -> Option<&String> {
        self.containers.get(id)?.as_ref()
    }

    pub(crate) fn worked(&self) -> u64 {
        self.created + self.updated + self.removed
    }

    pub(crate) fn counts(&self) -> String {
        format!(
            "{} created and started, {} updated, {} stopped and removed; {} refused or cut off; \
             left by the runtime in between: {:?}",
            self.created, self.updated, self.removed, self.failed, self.stuck
        )
    }
}

async fn gone(direct: &mut Cri, id: &str) -> anyhow::Result<()> {
    direct.stop(id).await?;
    direct.remove(id).await
}
