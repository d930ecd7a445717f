use super::*;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, Mount, UpdateContainerResourcesRequest,
};
use proptest::prelude::*;
use prost::Message;
use std::collections::HashMap;

fn resources() -> impl Strategy<Value = LinuxContainerResources> {
    (any::<[i64; 3]>(), "[0-9,-]{0,6}", "[0-9]{0,2}", small_map()).prop_map(
        |([cpu_period, cpu_quota, cpu_shares], cpuset_cpus, cpuset_mems, unified)| {
            LinuxContainerResources {
                cpu_period,
                cpu_quota,
                cpu_shares,
                cpuset_cpus,
                cpuset_mems,
                unified,
                ..LinuxContainerResources::default()
            }
        },
    )
}

fn small_map() -> impl Strategy<Value = HashMap<String, String>> {
    proptest::collection::hash_map("[a-c.]{1,3}", ".{0,8}", 0..4)
}

fn words() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(".{0,8}", 0..4)
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec(("[A-C]{1,2}", ".{0,8}"), 0..4)
}

fn requests() -> impl Strategy<Value = CreateContainerRequest> {
    let linux = proptest::option::of(proptest::option::of(resources()));
    let config = (words(), words(), pairs(), pairs(), small_map(), linux).prop_map(
        |(command, args, envs, mounts, annotations, linux)| ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "db".into(),
                attempt: 3,
            }),
            command,
            args,
            envs: envs
                .into_iter()
                .map(|(key, value)| KeyValue { key, value })
                .collect(),
            mounts: mounts
                .into_iter()
                .map(|(container_path, host_path)| Mount {
                    container_path,
                    host_path,
                    ..Mount::default()
                })
                .collect(),
            annotations,
            linux: linux.map(|resources| LinuxContainerConfig {
                resources,
                ..Default::default()
            }),
            ..ContainerConfig::default()
        },
    );
    ("[a-f0-9]{0,8}", proptest::option::of(config)).prop_map(|(pod_sandbox_id, config)| {
        CreateContainerRequest {
            pod_sandbox_id,
            config,
            sandbox_config: None,
        }
    })
}

fn overlay_resources() -> impl Strategy<Value = ResourceOverlay> {
    let number = || proptest::option::of(-1i64..3);
    let list = || proptest::option::of("[0-9,-]{0,6}");
    (number(), number(), number(), list(), list(), pairs()).prop_map(
        |(cpu_period, cpu_quota, cpu_shares, cpuset_cpus, cpuset_mems, unified)| ResourceOverlay {
            cpu_period,
            cpu_quota,
            cpu_shares,
            cpuset_cpus,
            cpuset_mems,
            unified,
        },
    )
}

fn overlays() -> impl Strategy<Value = CreateOverlay> {
    (
        overlay_resources(),
        pairs(),
        pairs(),
        pairs(),
        proptest::option::of(words()),
    )
        .prop_map(
            |(resources, envs, annotations, mounts, command)| CreateOverlay {
                resources,
                envs,
                annotations,
                mounts: mounts
                    .into_iter()
                    .map(|(container_path, host_path)| BindMount {
                        container_path,
                        host_path,
                    })
                    .collect(),
                command,
            },
        )
}

/// Bytes of fields no version of CRI has, at the given nesting.
fn unknown(path: &[u32], payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    match path {
        [] => {
            message(5000, payload, &mut out);
            number(5001, -7, &mut out);
        }
        [tag, rest @ ..] => message(*tag, &unknown(rest, payload), &mut out),
    }
    out
}

/// What the overlay means, done the slow way on the decoded message.
fn set(target: &mut LinuxContainerResources, resources: &ResourceOverlay) {
    if let Some(value) = resources.cpu_period {
        target.cpu_period = value;
    }
    if let Some(value) = resources.cpu_quota {
        target.cpu_quota = value;
    }
    if let Some(value) = resources.cpu_shares {
        target.cpu_shares = value;
    }
    if let Some(value) = &resources.cpuset_cpus {
        target.cpuset_cpus.clone_from(value);
    }
    if let Some(value) = &resources.cpuset_mems {
        target.cpuset_mems.clone_from(value);
    }
    target.unified.extend(resources.unified.iter().cloned());
}

fn expected(
    mut request: CreateContainerRequest,
    overlay: &CreateOverlay,
) -> CreateContainerRequest {
    if overlay.is_empty() {
        return request;
    }
    let config = request.config.get_or_insert_default();
    if let Some(command) = &overlay.command {
        config.command.clone_from(command);
        config.args.clear();
    }
    config.envs.extend(
        overlay
            .envs
            .iter()
            .cloned()
            .map(|(key, value)| KeyValue { key, value }),
    );
    config
        .mounts
        .extend(overlay.mounts.iter().map(|mount| Mount {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.clone(),
            readonly: true,
            propagation: 0,
            ..Mount::default()
        }));
    config
        .annotations
        .extend(overlay.annotations.iter().cloned());
    if overlay.resources != ResourceOverlay::default() {
        let linux = config.linux.get_or_insert_default();
        set(linux.resources.get_or_insert_default(), &overlay.resources);
    }
    request
}

/// Every field on the wire with its path, in order; embedded messages on the paths we write are entered.
fn wire(mut bytes: Bytes, path: &mut Vec<u32>, out: &mut Vec<(Vec<u32>, Bytes)>) {
    while let Some(field) = RawField::next(&mut bytes).unwrap() {
        path.push(field.tag);
        if matches!(path[..], [2] | [2, 15] | [2, 15, 1]) {
            wire(field.value().unwrap(), path, out);
        } else {
            out.push((path.clone(), field.raw));
        }
        path.pop();
    }
}

proptest! {
    #[test]
    fn an_overlay_changes_exactly_what_it_says_and_unknown_fields_survive(
        request in requests(),
        overlay in overlays(),
        payload in proptest::collection::vec(any::<u8>(), 0..16),
        level in 0usize..4,
    ) {
        let path = &[2, 15, 1][..level];
        let mut original = unknown(path, &payload);
        original.extend_from_slice(&request.encode_to_vec());
        original.extend_from_slice(&unknown(path, &payload));
        let original = original.freeze();
        let decoded = CreateContainerRequest::decode(original.clone()).unwrap();

        let changed = overlay.apply(&original).unwrap();
        let got = CreateContainerRequest::decode(changed.clone()).unwrap();
        prop_assert_eq!(got, expected(decoded, &overlay));

        if overlay.command.is_none() {
            prop_assert!(changed.starts_with(&original));
        }
        let (mut before, mut after) = (Vec::new(), Vec::new());
        wire(original, &mut Vec::new(), &mut before);
        wire(changed, &mut Vec::new(), &mut after);
        if overlay.command.is_some() {
            before.retain(|(path, _)| !matches!(path[..], [2, 3 | 4]));
        }
        prop_assert!(after.starts_with(&before));
    }

    #[test]
    fn an_update_keeps_the_kubelets_fields(
        theirs in proptest::option::of(resources()),
        ours in overlay_resources(),
    ) {
        let request = UpdateContainerResourcesRequest {
            container_id: "c1".into(),
            linux: theirs,
            ..Default::default()
        };
        let original = Bytes::from(request.encode_to_vec());
        let mut want = request;
        if ours != ResourceOverlay::default() {
            set(want.linux.get_or_insert_default(), &ours);
        }
        let changed = UpdateOverlay { resources: ours }.apply(&original);
        prop_assert!(changed.starts_with(&original));
        prop_assert_eq!(UpdateContainerResourcesRequest::decode(changed).unwrap(), want);
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow(
        bytes in proptest::collection::vec(any::<u8>(), 0..256),
        cpus in ".{0,8}",
    ) {
        let len = u8::try_from(cpus.len()).unwrap();
        crate::cri::fuzz::overlays(&[&[len], cpus.as_bytes(), &bytes].concat());
    }
}

#[test]
fn a_zero_is_written_so_that_it_wins() {
    let request = CreateContainerRequest {
        config: Some(ContainerConfig {
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    cpu_quota: 20_000,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let overlay = CreateOverlay {
        resources: ResourceOverlay {
            cpu_quota: Some(0),
            ..Default::default()
        },
        ..Default::default()
    };
    let changed = overlay.apply(&request.encode_to_vec().into()).unwrap();
    let got = CreateContainerRequest::decode(changed).unwrap();
    assert_eq!(
        got.config
            .unwrap()
            .linux
            .unwrap()
            .resources
            .unwrap()
            .cpu_quota,
        0
    );
}
