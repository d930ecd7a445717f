use super::*;
use crate::cri::intercept::{Status, next_seq};
use std::time::Instant;

const CONTAINER: &str = "4f7a0c1d2e3b4a5968778695a4b3c2d1e0f1a2b3c4d5e6f708192a3b4c5d6e7f";
const SANDBOX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const SIBLING: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

fn ids(cgroup: &str, mountinfo: &str) -> Vec<String> {
    own_ids(cgroup, mountinfo).into_iter().collect()
}

#[test]
fn a_container_is_found_in_its_cgroup_with_each_driver_and_version() {
    let uid = "d3b07384-d9a0-4e6f-8b1c-5a1e9f0c7d21";
    let slice = uid.replace('-', "_");
    for cgroup in [
        format!("12:cpuset:/kubepods/burstable/pod{uid}/{CONTAINER}\n0::/\n"),
        format!("0::/kubepods/pod{uid}/{CONTAINER}\n"),
        format!("0::/kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-{CONTAINER}.scope\n"),
        format!("0::/kubepods.slice/kubepods-pod{slice}.slice/crio-{CONTAINER}.scope/container\n"),
        format!("1:name=systemd:/kubelet-kubepods-pod{slice}.slice:cri-containerd:{CONTAINER}\n"),
    ] {
        assert_eq!(ids(&cgroup, ""), [CONTAINER], "{cgroup}");
    }
}

#[test]
fn a_sandbox_is_found_in_the_files_that_it_shows_its_containers_and_in_no_other_mount() {
    let folder = "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes";
    let task = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
    let mountinfo = format!(
        "1203 1190 0:254 / / ro,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n\
         1210 1203 8:1 {folder}/{SANDBOX}/hostname /etc/hostname ro,nosuid - ext4 /dev/sda1 rw\n\
         1211 1203 8:1 {folder}/{SANDBOX}/resolv.conf /etc/resolv.conf ro,nosuid - ext4 /dev/sda1 rw\n\
         1212 1203 0:22 / /host rw - ext4 /dev/sda1 rw\n\
         1213 1212 0:255 {task}/{SIBLING}/rootfs /host{task}/{SIBLING}/rootfs rw - overlay overlay rw\n"
    );
    assert_eq!(ids("0::/\n", &mountinfo), [SANDBOX]);
}

#[test]
fn a_service_of_the_host_is_in_no_container() {
    let mountinfo = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n";
    assert!(ids("0::/system.slice/cri-resmgr.service\n", mountinfo).is_empty());
    assert!(ids("", "").is_empty());
}

#[derive(Debug)]
struct Refusing;

#[async_trait]
impl Interceptor for Refusing {
    fn wants(&self, path: &str) -> bool {
        path.ends_with("/RemoveContainer") || path.ends_with("/CreateContainer")
    }

    async fn before(&self, _call: &Call, _request: &Bytes) -> Before {
        Before::Refuse(Status {
            code: 9,
            message: "no".to_owned(),
        })
    }
}

/// Whether the relay waits for the end of a call, "refused" where it goes no further.
async fn ends_after_relay(own: &OwnContainer, method: &str, id: &str) -> &'static str {
    let call = Call {
        seq: next_seq(),
        path: format!("/runtime.v1.RuntimeService/{method}").into(),
        received: Instant::now(),
        deadline: None,
    };
    assert!(own.wants(&call.path));
    let request = v1::RemoveContainerRequest {
        container_id: id.to_owned(),
    };
    match own.before(&call, &request.encode_to_vec().into()).await {
        Before::Refuse(_) => "refused",
        Before::Forward {
            after: Some(after), ..
        } if after.awaits_relay_end() => "ends after the relay",
        Before::Forward { .. } => "ends before",
    }
}

#[tokio::test]
async fn only_calls_that_end_the_own_container_or_pod_are_marked() {
    let ids = BTreeSet::from([CONTAINER, SANDBOX].map(str::to_owned));
    let own = OwnContainer { ids, hooks: None };
    for (method, id) in [
        ("StopContainer", CONTAINER),
        ("StopContainer", &CONTAINER[..12]),
        ("RemoveContainer", CONTAINER),
        ("StopPodSandbox", SANDBOX),
        ("RemovePodSandbox", SANDBOX),
    ] {
        let ends = ends_after_relay(&own, method, id).await;
        assert_eq!(ends, "ends after the relay", "{method} {id}");
    }
    for id in [SIBLING, ""] {
        let ends = ends_after_relay(&own, "StopContainer", id).await;
        assert_eq!(ends, "ends before", "{id}");
    }
    assert!(!own.wants("/runtime.v1.RuntimeService/CreateContainer"));
    assert!(!own.wants("/runtime.v1.ImageService/StopContainer"));
}

#[tokio::test]
async fn hooks_have_their_turn_as_before() {
    let ids = BTreeSet::from([CONTAINER.to_owned()]);
    let hooks = Some(Arc::new(Refusing) as _);
    let own = OwnContainer { ids, hooks };
    for (method, expected) in [
        ("CreateContainer", "refused"),
        ("RemoveContainer", "refused"),
        ("StopContainer", "ends after the relay"),
    ] {
        assert_eq!(ends_after_relay(&own, method, CONTAINER).await, expected);
    }
}
