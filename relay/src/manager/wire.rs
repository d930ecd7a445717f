//! The create and update requests: what is read from them, and what is laid over them.
//!
//! Bytes that are not understood stay as they are. Laying over uses protobuf's own merging: fields
//! appended to a message replace scalars, merge messages and extend lists.

use super::{Ask, ReadRequirements};
use crate::enforce::Wanted;
use bytes::{BufMut, Bytes, BytesMut};
use k8s_cri::v1;
use prost::Message;
use resmgr_policy::{ContainerId, Placement, PodRef, QosClass, Request, Requirements, Source};
use resmgr_topology::{CpuSet, MilliCpu, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Annotations that concern placement; no others are kept.
fn concerns_placement(key: &str) -> bool {
    key.contains("intel.com/") || key.contains("cmk.") || key.contains("resmgr")
}

/// Reads a container's request out of a CreateContainerRequest.
pub(super) fn ask(
    create: &v1::CreateContainerRequest,
    provisional: ContainerId,
    requirements: ReadRequirements,
) -> Ask {
    let config = create.config.clone().unwrap_or_default();
    let sandbox = create.sandbox_config.clone().unwrap_or_default();
    let pod = sandbox.metadata.clone().unwrap_or_default();
    let metadata = config.metadata.clone().unwrap_or_default();
    let cgroup_parent = sandbox
        .linux
        .map(|linux| linux.cgroup_parent)
        .unwrap_or_default();
    let resources = config
        .linux
        .and_then(|linux| linux.resources)
        .unwrap_or_default();
    let annotations: BTreeMap<_, _> = sandbox
        .annotations
        .into_iter()
        .filter(|(key, _value)| concerns_placement(key))
        .collect();
    let estimated = estimate(&resources);
    let request = Request {
        id: provisional,
        pod: PodRef {
            sandbox: create.pod_sandbox_id.as_str().into(),
            uid: pod.uid.into(),
            name: pod.name.into(),
            namespace: pod.namespace.into(),
        },
        qos: qos(&cgroup_parent),
        requirements: requirements(&annotations, &metadata.name).unwrap_or(estimated),
        name: metadata.name.into(),
        init: false,
        annotations,
        env: config
            .envs
            .into_iter()
            .filter(|env| env.key.starts_with("STP_") || env.key.starts_with("CMK_"))
            .map(|env| (env.key, env.value))
            .collect(),
        command: config.command,
        args: config.args,
    };
    Ask {
        request,
        asked: asked(&resources),
        cgroup_parent,
        attempt: metadata.attempt,
    }
}

/// What the runtime would write without us.
pub(super) fn asked(resources: &v1::LinuxContainerResources) -> Wanted {
    let mems: CpuSet = resources.cpuset_mems.parse().unwrap_or_default();
    let mems: BTreeSet<_> = mems.iter().map(|node| NodeId(node.0)).collect();
    Wanted {
        // A list the kernel would refuse is the runtime's to refuse.
        cpus: resources.cpuset_cpus.parse().unwrap_or_default(),
        mems: (!mems.is_empty()).then_some(mems),
        cpu_shares: u64::try_from(resources.cpu_shares)
            .ok()
            .filter(|shares| *shares > 0),
        cpu_quota: Some(resources.cpu_quota).filter(|quota| *quota != 0),
    }
}

/// The kubelet's formulas backwards: shares = mCPU·1024/1000, quota = mCPU·period/1000.
pub(super) fn estimate(resources: &v1::LinuxContainerResources) -> Requirements {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let milli = |value: u64| MilliCpu(u32::try_from(value).unwrap_or(u32::MAX));
    let shares = positive(resources.cpu_shares).filter(|shares| *shares > 2);
    let period = positive(resources.cpu_period);
    let memory_limit_bytes = positive(resources.memory_limit_in_bytes);
    Requirements {
        cpu_request: milli(shares.map_or(0, |shares| (shares.saturating_mul(1000) + 512) / 1024)),
        cpu_limit: positive(resources.cpu_quota)
            .zip(period)
            .map(|(quota, period)| milli((quota.saturating_mul(1000) + period / 2) / period)),
        memory_request_bytes: None,
        memory_limit_bytes,
        extended: BTreeMap::new(),
        source: Source::Estimate,
    }
}

/// The kubelet names a pod's cgroup after its class; a Guaranteed one's has none in it.
fn qos(cgroup_parent: &str) -> QosClass {
    let parts = || cgroup_parent.split('/').filter(|part| !part.is_empty());
    let named = |class: &str| {
        parts().any(|part| part == class || part.contains(&format!("kubepods-{class}")))
    };
    if named("besteffort") {
        QosClass::BestEffort
    } else if named("burstable") {
        QosClass::Burstable
    } else if parts().any(|part| part.starts_with("kubepods")) {
        QosClass::Guaranteed
    } else {
        QosClass::BestEffort
    }
}

/// The resources to lay over; `None` when nothing is wanted.
pub(super) fn resources(wanted: &Wanted) -> Option<v1::LinuxContainerResources> {
    if wanted.is_nothing() {
        return None;
    }
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mems = wanted.mems.iter().flatten().map(ToString::to_string);
    Some(v1::LinuxContainerResources {
        cpuset_cpus: wanted.cpus.to_string(),
        cpuset_mems: mems.collect::<Vec<_>>().join(","),
        cpu_shares: wanted.cpu_shares.map_or(0, signed),
        cpu_quota: wanted.cpu_quota.unwrap_or(0),
        ..v1::LinuxContainerResources::default()
    })
}

/// Lays a placement over a CreateContainerRequest; `None` when there is nothing to lay.
pub(super) fn overlay_create(
    original: &Bytes,
    wanted: &Wanted,
    placement: Option<&Placement>,
) -> Option<Bytes> {
    let mut config = v1::ContainerConfig {
        linux: resources(wanted).map(|resources| v1::LinuxContainerConfig {
            resources: Some(resources),
            ..v1::LinuxContainerConfig::default()
        }),
        ..v1::ContainerConfig::default()
    };
    let mut base = original.clone();
    if let Some(placement) = placement {
        let entries = placement.env.iter().cloned();
        config.envs = entries
            .map(|(key, value)| v1::KeyValue { key, value })
            .collect();
        if let Some(command) = &placement.command {
            // ContainerConfig.command and .args; a list cannot be replaced by merging.
            base = without(original, 2, &[3, 4])?;
            config.command.clone_from(command);
        }
    }
    (config != v1::ContainerConfig::default()).then(|| {
        let overlay = v1::CreateContainerRequest {
            config: Some(config),
            ..v1::CreateContainerRequest::default()
        };
        append(&base, &overlay)
    })
}

/// Lays a placement over an UpdateContainerResourcesRequest.
pub(super) fn overlay_update(original: &Bytes, wanted: &Wanted) -> Option<Bytes> {
    let overlay = v1::UpdateContainerResourcesRequest {
        linux: Some(resources(wanted)?),
        ..v1::UpdateContainerResourcesRequest::default()
    };
    Some(append(original, &overlay))
}

fn append(base: &Bytes, overlay: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(base.len() + overlay.encoded_len());
    out.put_slice(base);
    out.put_slice(&overlay.encode_to_vec());
    out.freeze()
}

/// The message without the fields `drop` of its embedded messages in field `inside`; every other byte
/// stays. `None` when it is no protobuf message.
fn without(message: &[u8], inside: u64, drop: &[u64]) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(message.len());
    for field in fields(message)? {
        if field.number == inside && field.body.is_some() {
            let mut inner = BytesMut::new();
            for part in fields(field.body?)? {
                if !drop.contains(&part.number) {
                    inner.put_slice(part.whole);
                }
            }
            prost::encoding::encode_varint(inside << 3 | 2, &mut out);
            prost::encoding::encode_varint(inner.len() as u64, &mut out);
            out.put_slice(&inner);
        } else {
            out.put_slice(field.whole);
        }
    }
    Some(out.freeze())
}

struct Field<'a> {
    number: u64,
    whole: &'a [u8],
    /// Of length-delimited fields.
    body: Option<&'a [u8]>,
}

fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let start = rest;
        let key = prost::encoding::decode_varint(&mut rest).ok()?;
        let mut body = None;
        let length = match key & 7 {
            0 => {
                prost::encoding::decode_varint(&mut rest).ok()?;
                0
            }
            1 => 8,
            2 => {
                let length = prost::encoding::decode_varint(&mut rest).ok()?;
                let length = usize::try_from(length).ok()?;
                body = Some(rest.get(..length)?);
                length
            }
            5 => 4,
            _ => return None,
        };
        rest = rest.get(length..)?;
        found.push(Field {
            number: key >> 3,
            whole: start.get(..start.len() - rest.len())?,
            body,
        });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_of_cpus_survives_the_estimate() {
        for cpus in 1..=256 {
            let resources = v1::LinuxContainerResources {
                cpu_shares: cpus * 1024,
                cpu_quota: cpus * 100_000,
                cpu_period: 100_000,
                ..Default::default()
            };
            let milli = MilliCpu(u32::try_from(cpus * 1000).unwrap());
            let found = estimate(&resources);
            assert_eq!((found.cpu_request, found.cpu_limit), (milli, Some(milli)));
        }
        assert_eq!(
            estimate(&v1::LinuxContainerResources {
                cpu_shares: 2,
                ..Default::default()
            })
            .cpu_request,
            MilliCpu(0)
        );
    }

    #[test]
    fn the_class_is_in_the_cgroup_parent_of_both_drivers_below_any_root() {
        for (parent, class) in [
            ("/kubepods/burstable/podX", QosClass::Burstable),
            ("/a/b/kubepods/besteffort/podX", QosClass::BestEffort),
            ("/kubepods/podX", QosClass::Guaranteed),
            ("kubepods-burstable-podX.slice", QosClass::Burstable),
            ("/kubepods.slice/kubepods-podX.slice", QosClass::Guaranteed),
            ("", QosClass::BestEffort),
        ] {
            assert_eq!(qos(parent), class, "{parent}");
        }
    }

    #[test]
    fn an_overlay_replaces_cpus_and_command_and_keeps_the_rest() {
        let create = v1::CreateContainerRequest {
            pod_sandbox_id: "sandbox".into(),
            config: Some(v1::ContainerConfig {
                command: vec!["cmk".into()],
                args: vec!["isolate".into()],
                envs: vec![v1::KeyValue {
                    key: "A".into(),
                    value: "1".into(),
                }],
                linux: Some(v1::LinuxContainerConfig {
                    resources: Some(v1::LinuxContainerResources {
                        cpu_shares: 2048,
                        cpuset_cpus: "7".into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut original = create.encode_to_vec();
        original.extend([0xfa, 0x3f, 2, 9, 9]); // a field nobody knows
        let wanted = Wanted {
            cpus: "2-3".parse().unwrap(),
            cpu_quota: Some(-1),
            ..Wanted::default()
        };
        let placement = Placement {
            env: vec![("B".into(), "2".into())],
            command: Some(vec!["sleep".into(), "1".into()]),
            ..Placement::default()
        };
        let laid = overlay_create(&original.into(), &wanted, Some(&placement)).unwrap();
        assert!(laid.windows(5).any(|bytes| bytes == [0xfa, 0x3f, 2, 9, 9]));
        let config = v1::CreateContainerRequest::decode(laid)
            .unwrap()
            .config
            .unwrap();
        assert_eq!(config.command, ["sleep", "1"]);
        assert!(config.args.is_empty());
        let keys: Vec<_> = config.envs.iter().map(|env| env.key.as_str()).collect();
        assert_eq!(keys, ["A", "B"]);
        let resources = config.linux.unwrap().resources.unwrap();
        assert_eq!((resources.cpu_shares, resources.cpu_quota), (2048, -1));
        assert_eq!(resources.cpuset_cpus, "2-3");
    }
}
