//! The pod of the DaemonSet as a real containerd starts it, with the mounts and rights of the manifest. It runs the image of
//! `target/dist/out` where `cargo xtask dist` has made that, else the program of this build.
//!
//! The node whose root directory it gets is a folder: its systemd is a script, and the relay that answers there is a
//! real one.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a test program: helpers fail the test"
)]

use k8s_cri::v1;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use resmgr_tests::{
    Container, Cri, Pod, Relay, Runtime, apiserver::repository, built, eventually, installed, skip,
};
use serde_yaml::Value;
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Beyond it something hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(180);

const MANIFEST: &str = "deploy/kustomize/base/cri-resmgr.yaml";
const FLAGS: &str = "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock\"\n";
const RELAYED: &str = "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/cri-resmgr/cri-resmgr.sock\"\n";
const FLAGS_FILE: &str = "var/lib/kubelet/kubeadm-flags.env";
/// Every unit is active, each call is noted.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$*\" >>/calls\n[ \"$1\" != show ] || echo 1\n";

/// Makes the root directory of a node whose kubelet uses containerd.
fn make_node(root: &Path) {
    let folders = [
        "bin",
        "usr/bin",
        "usr/local/bin",
        "etc/systemd/system",
        "run/cri-resmgr",
        "proc",
        "dev",
        "var/lib/kubelet",
    ];
    for folder in folders {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(installed("busybox").unwrap(), root.join("bin/busybox")).unwrap();
    symlink("busybox", root.join("bin/sh")).unwrap();
    let systemctl = root.join("usr/bin/systemctl");
    fs::write(&systemctl, SYSTEMCTL).unwrap();
    fs::set_permissions(systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let unit = "[Service]\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\n\
                ExecStart=/usr/bin/kubelet $KUBELET_KUBEADM_ARGS\n";
    fs::write(root.join("etc/systemd/system/kubelet.service"), unit).unwrap();
    fs::write(root.join(FLAGS_FILE), FLAGS).unwrap();
    // The standard input of systemctl.
    fs::write(root.join("dev/null"), "").unwrap();
}

/// A folder that is a shared mount, as systemd makes the root directory of a node. No mount any more on drop.
struct SharedMount<'a>(&'a Path);

impl<'a> SharedMount<'a> {
    fn new(folder: &'a Path) -> Self {
        let none = None::<&str>;
        mount(Some(folder), folder, none, MsFlags::MS_BIND, none).unwrap();
        let shared = Self(folder);
        mount(none, folder, none, MsFlags::MS_SHARED, none).unwrap();
        shared
    }
}

impl Drop for SharedMount<'_> {
    fn drop(&mut self) {
        // Containers may have it still.
        umount2(self.0, MntFlags::MNT_DETACH).ok();
    }
}

/// The archive that `cargo xtask dist` has made last.
fn images() -> Option<PathBuf> {
    let folder = fs::read_dir(repository().join("target/dist/out")).ok()?;
    let mut paths = folder.map(|entry| entry.unwrap().path());
    paths.find(|path| path.to_string_lossy().ends_with(".oci.tar"))
}

/// What the container runs: the image of the archive, or busybox's with the program and the libraries of this machine.
fn container(runtime: &Runtime, spec: &Value) -> v1::ContainerConfig {
    let of_image = |image: &str| v1::ContainerConfig {
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..v1::ImageSpec::default()
        }),
        ..v1::ContainerConfig::default()
    };
    if let Some(archive) = images() {
        let output = runtime
            .ctr()
            .args(["images", "import"])
            .arg(archive)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        return of_image(&format!(
            "docker.io/library/{}",
            spec["image"].as_str().unwrap()
        ));
    }
    let program = runtime.folder().join("program/cri-resmgr");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    let mut strip = Command::new("strip");
    strip
        .arg("-o")
        .arg(&program)
        .arg(built("cri-resmgr").unwrap());
    assert!(strip.status().unwrap().success());
    let container = Container::program("cri-resmgr", &program, &[]);
    let mounts = container
        .mounts
        .into_iter()
        .map(|(host_path, container_path)| v1::Mount {
            host_path,
            container_path,
            ..v1::Mount::default()
        });
    v1::ContainerConfig {
        command: container.command,
        mounts: mounts.collect(),
        ..of_image(resmgr_tests::runtime::IMAGE)
    }
}

/// Runs the manifest's pod as the kubelet does, but for its network, with `root` in the place of the node's root
/// directory; its container's id.
async fn run(cri: &mut Cri, runtime: &Runtime, root: &Path, attempt: u32) -> String {
    let text = fs::read_to_string(repository().join(MANIFEST)).unwrap();
    let manifest: Value = serde_yaml::from_str(&text).unwrap();
    let pod_spec = &manifest["spec"]["template"]["spec"];
    let spec = &pod_spec["containers"][0];
    let pid = match pod_spec["hostPID"].as_bool() {
        Some(true) => v1::NamespaceMode::Node,
        _ => v1::NamespaceMode::Pod,
    };
    let namespaces = v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        pid: pid.into(),
        ..v1::NamespaceOption::default()
    };
    let privileged = spec["securityContext"]["privileged"].as_bool().unwrap();
    let logs = runtime.folder().join("logs");
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "cri-resmgr".to_owned(),
            uid: format!("uid-{attempt}"),
            namespace: "kube-system".to_owned(),
            attempt,
        }),
        log_directory: logs.display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!(
                "{}/kubepods/burstable/pod{attempt}",
                runtime.cgroup_parent()
            ),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces.clone()),
                privileged,
                ..v1::LinuxSandboxSecurityContext::default()
            }),
            ..v1::LinuxPodSandboxConfig::default()
        }),
        ..v1::PodSandboxConfig::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(sandbox.clone()),
        ..v1::RunPodSandboxRequest::default()
    };
    let reply = cri.client.run_pod_sandbox(request).await.unwrap();
    let pod = Pod {
        id: reply.into_inner().pod_sandbox_id,
        config: sandbox,
    };
    let mut config = container(runtime, spec);
    for mount in spec["volumeMounts"].as_sequence().unwrap() {
        let volumes = pod_spec["volumes"].as_sequence().unwrap();
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"]);
        let path = volume.unwrap()["hostPath"]["path"].as_str().unwrap();
        let propagation = match mount["mountPropagation"].as_str() {
            Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
            None => v1::MountPropagation::PropagationPrivate,
            unknown => panic!("a mount propagation that this test does not know: {unknown:?}"),
        };
        config.mounts.push(v1::Mount {
            host_path: format!("{}{path}", root.display()),
            container_path: mount["mountPath"].as_str().unwrap().to_owned(),
            propagation: propagation.into(),
            ..v1::Mount::default()
        });
    }
    let words = spec["args"].as_sequence().unwrap();
    config.args = words
        .iter()
        .map(|word| word.as_str().unwrap().to_owned())
        .collect();
    config.metadata = Some(v1::ContainerMetadata {
        name: "cri-resmgr".to_owned(),
        attempt,
    });
    config.log_path = format!("{attempt}.log");
    config.linux = Some(v1::LinuxContainerConfig {
        security_context: Some(v1::LinuxContainerSecurityContext {
            privileged,
            namespace_options: Some(namespaces),
            ..v1::LinuxContainerSecurityContext::default()
        }),
        ..v1::LinuxContainerConfig::default()
    });
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.id,
        config: Some(config),
        sandbox_config: Some(pod.config),
    };
    let reply = cri.client.create_container(request).await.unwrap();
    let id = reply.into_inner().container_id;
    cri.start(&id).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_of_the_daemon_set_installs_on_its_node_and_again_when_the_kubelets_files_are_new()
{
    const WHAT: &str = "the pod of the DaemonSet";
    if let Some(why) = skip::no_relay() {
        return skip::skip(WHAT, &why);
    }
    if installed("strip").is_none() {
        return skip::skip(WHAT, "strip is not installed");
    }
    let runtime = Runtime::start().unwrap();
    let root = runtime.folder().join("node");
    make_node(&root);
    fs::create_dir(runtime.folder().join("logs")).unwrap();
    let relay = Relay::start(&runtime, &[]).unwrap();
    fs::hard_link(relay.socket(), root.join("run/cri-resmgr/cri-resmgr.sock")).unwrap();
    let _shared = SharedMount::new(&root);
    let mut cri = Cri::connect(&runtime.socket(), runtime.cgroup_parent())
        .await
        .unwrap();

    for attempt in 0..2 {
        let id = run(&mut cri, &runtime, &root, attempt).await;
        let log = || {
            let path = runtime.folder().join(format!("logs/{attempt}.log"));
            fs::read_to_string(path).unwrap_or_default()
        };
        let installs = async || {
            log().contains("kubelet.service runs and uses /run/cri-resmgr/cri-resmgr.sock")
                || cri.clone().exited(&id).await.unwrap()
        };
        assert!(eventually(PATIENCE, installs).await, "{}", log());
        let flags = fs::read_to_string(root.join(FLAGS_FILE)).unwrap();
        assert_eq!(flags, RELAYED, "{}", log());
        // The program that was copied starts without the image.
        let version = Command::new(root.join("usr/local/bin/cri-resmgr"))
            .arg("--version")
            .output()
            .unwrap();
        assert!(version.status.success(), "{version:?}");
        for unit in ["cri-resmgr.service", "cri-resmgr.socket"] {
            assert!(root.join("etc/systemd/system").join(unit).is_file());
        }
        let calls = fs::read_to_string(root.join("calls")).unwrap();
        assert!(calls.contains("restart kubelet.service"), "{calls}");
        // It stays for as long as the kubelet uses the relay.
        assert!(!cri.exited(&id).await.unwrap(), "{}", log());
        fs::write(root.join(FLAGS_FILE), FLAGS).unwrap();
        let fails = async || cri.clone().exited(&id).await.unwrap();
        assert!(eventually(PATIENCE, fails).await, "{}", log());
        assert!(log().contains("and not cri-resmgr"), "{}", log());
    }
}
