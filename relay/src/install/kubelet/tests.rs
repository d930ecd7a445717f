use super::*;
use crate::install::tests::Tree;

const KUBEADM: &str = "[Service]\n\
    Environment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"\n\
    EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\n\
    EnvironmentFile=-/etc/default/kubelet\n\
    ExecStart=\n\
    ExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS\n";
const PACKAGE: &str =
    "[Unit]\nDescription=kubelet\n[Service]\nExecStart=/usr/bin/kubelet\nRestart=always\n";

/// A node as kubeadm leaves it.
pub(crate) fn kubeadm() -> Tree {
    Tree::of(&[
        ("/usr/lib/systemd/system/kubelet.service", PACKAGE),
        (
            "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
            KUBEADM,
        ),
        (
            "/var/lib/kubelet/kubeadm-flags.env",
            "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock \
             --pod-infra-container-image=registry.k8s.io/pause:3.10\"\n",
        ),
        (
            "/var/lib/kubelet/config.yaml",
            "apiVersion: kubelet.config.k8s.io/v1beta1\ncontainerRuntimeEndpoint: \"\"\nkind: KubeletConfiguration\n",
        ),
    ])
}

/// What an installation finds, and each changed file with its lines that differ.
struct Case {
    name: &'static str,
    files: Tree,
    unit: &'static str,
    socket: &'static str,
    changed: &'static [(&'static str, &'static str)],
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "kubeadm: the option in a file of variables",
            files: kubeadm(),
            unit: "kubelet.service",
            socket: "/run/containerd/containerd.sock",
            changed: &[(
                "/var/lib/kubelet/kubeadm-flags.env",
                "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/cri-resmgr/cri-resmgr.sock \
                 --pod-infra-container-image=registry.k8s.io/pause:3.10\"\n",
            )],
        },
        Case {
            name: "kubeadm 1.35: the field in the configuration, no option",
            files: kubeadm()
                .with("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=\"--node-ip=10.0.0.1\"\n")
                .with(
                    "/var/lib/kubelet/config.yaml",
                    "# containerRuntimeEndpoint: unix:///old.sock\n\
                     containerRuntimeEndpoint: unix:///var/run/crio/crio.sock # CRI-O\nmaxPods: 110\n",
                ),
            unit: "kubelet.service",
            socket: "/var/run/crio/crio.sock",
            changed: &[(
                "/var/lib/kubelet/config.yaml",
                "# containerRuntimeEndpoint: unix:///old.sock\n\
                 containerRuntimeEndpoint: unix:///run/cri-resmgr/cri-resmgr.sock # CRI-O\nmaxPods: 110\n",
            )],
        },
        Case {
            name: "a field that is empty: the kubelet's default",
            files: kubeadm().with("/var/lib/kubelet/kubeadm-flags.env", ""),
            unit: "kubelet.service",
            socket: "/run/containerd/containerd.sock",
            changed: &[(
                "/var/lib/kubelet/config.yaml",
                "apiVersion: kubelet.config.k8s.io/v1beta1\n\
                 containerRuntimeEndpoint: \"unix:///run/cri-resmgr/cri-resmgr.sock\"\nkind: KubeletConfiguration\n",
            )],
        },
        Case {
            name: "a plain unit: the option on a line that goes on, the field is overruled",
            files: Tree::of(&[
                (
                    "/etc/systemd/system/kubelet.service",
                    "[Service]\nExecStart=/usr/local/bin/kubelet \\\n  --config=/etc/kubelet.yaml \\\n  \
                     --container-runtime-endpoint unix:///run/containerd/containerd.sock \\\n  --v=2\n",
                ),
                ("/etc/kubelet.yaml", "containerRuntimeEndpoint: unix:///other.sock\n"),
            ]),
            unit: "kubelet.service",
            socket: "/run/containerd/containerd.sock",
            changed: &[(
                "/etc/systemd/system/kubelet.service",
                "[Service]\nExecStart=/usr/local/bin/kubelet \\\n  --config=/etc/kubelet.yaml \\\n  \
                 --container-runtime-endpoint unix:///run/cri-resmgr/cri-resmgr.sock \\\n  --v=2\n",
            )],
        },
        Case {
            name: "a plain unit: a configuration without the field and without a last newline",
            files: Tree::of(&[
                (
                    "/etc/systemd/system/kubelet.service",
                    "[Service]\nExecStart=/usr/local/bin/kubelet --config /etc/kubelet.yaml\n",
                ),
                ("/etc/kubelet.yaml", "kind: KubeletConfiguration"),
            ]),
            unit: "kubelet.service",
            socket: "/run/containerd/containerd.sock",
            changed: &[(
                "/etc/kubelet.yaml",
                "kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///run/cri-resmgr/cri-resmgr.sock\n",
            )],
        },
        Case {
            name: "EKS, Amazon Linux 2023: JSON with the field, a folder of more",
            files: Tree::of(&[
                (
                    "/etc/systemd/system/kubelet.service",
                    "[Service]\nEnvironmentFile=/etc/eks/kubelet/environment\n\
                     ExecStart=/usr/bin/kubelet $NODEADM_KUBELET_ARGS\n",
                ),
                (
                    "/etc/eks/kubelet/environment",
                    "NODEADM_KUBELET_ARGS=\"--cloud-provider=external --config=/etc/kubernetes/kubelet/config.json \
                     --config-dir=/etc/kubernetes/kubelet/config.json.d\"\n",
                ),
                (
                    "/etc/kubernetes/kubelet/config.json",
                    "{\n    \"containerRuntimeEndpoint\": \"unix:///run/containerd/containerd.sock\",\n    \"maxPods\": 29\n}",
                ),
                ("/etc/kubernetes/kubelet/config.json.d/40-nodeadm.conf", "{\"maxPods\": 58}"),
            ]),
            unit: "kubelet.service",
            socket: "/run/containerd/containerd.sock",
            changed: &[(
                "/etc/kubernetes/kubelet/config.json",
                "{\n    \"containerRuntimeEndpoint\": \"unix:///run/cri-resmgr/cri-resmgr.sock\",\n    \"maxPods\": 29\n}",
            )],
        },
        Case {
            name: "JSON without the field",
            files: Tree::of(&[
                ("/etc/systemd/system/kubelet.service", "[Service]\nExecStart=kubelet --config=/k.json\n"),
                ("/k.json", "{\"maxPods\": 29}"),
            ]),
            unit: "kubelet.service",
            socket: "/run/containerd/containerd.sock",
            changed: &[(
                "/k.json",
                "{\n  \"containerRuntimeEndpoint\": \"unix:///run/cri-resmgr/cri-resmgr.sock\",\"maxPods\": 29}",
            )],
        },
        Case {
            name: "EKS, Amazon Linux 2: the option in the unit",
            files: Tree::of(&[
                (
                    "/etc/systemd/system/kubelet.service",
                    "[Service]\nExecStart=/usr/bin/kubelet --cloud-provider aws \\\n    \
                     --config /etc/kubernetes/kubelet/kubelet-config.json \\\n    \
                     --container-runtime-endpoint unix:///run/containerd/containerd.sock \\\n    \
                     $KUBELET_ARGS $KUBELET_EXTRA_ARGS\n",
                ),
                (
                    "/etc/systemd/system/kubelet.service.d/30-kubelet-extra-args.conf",
                    "[Service]\nEnvironment='KUBELET_EXTRA_ARGS=--node-labels=a=b'\n",
                ),
                ("/etc/kubernetes/kubelet/kubelet-config.json", "{}"),
            ]),
            unit: "kubelet.service",
            socket: "/run/containerd/containerd.sock",
            changed: &[(
                "/etc/systemd/system/kubelet.service",
                "[Service]\nExecStart=/usr/bin/kubelet --cloud-provider aws \\\n    \
                 --config /etc/kubernetes/kubelet/kubelet-config.json \\\n    \
                 --container-runtime-endpoint unix:///run/cri-resmgr/cri-resmgr.sock \\\n    \
                 $KUBELET_ARGS $KUBELET_EXTRA_ARGS\n",
            )],
        },
        Case {
            name: "k3s with the containerd that it brings: the kubelet alone is told",
            files: Tree::of(&[
                ("/etc/systemd/system/k3s.service", "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n"),
                ("/etc/rancher/k3s/config.yaml", "write-kubeconfig-mode: \"0644\"\n"),
            ]),
            unit: "k3s.service",
            socket: "/run/k3s/containerd/containerd.sock",
            changed: &[(
                "/etc/rancher/k3s/config.yaml.d/99-cri-resmgr.yaml",
                "# Written by `cri-resmgr install`: the kubelet alone talks through cri-resmgr.\nkubelet-arg+:\n\
                 - \"container-runtime-endpoint=unix:///run/cri-resmgr/cri-resmgr.sock\"\n",
            )],
        },
        Case {
            name: "k3s with a containerd of the node",
            files: Tree::of(&[
                ("/etc/systemd/system/k3s-agent.service", "[Service]\nExecStart=/usr/local/bin/k3s agent\n"),
                (
                    "/etc/rancher/k3s/config.yaml",
                    "container-runtime-endpoint: \"unix:///run/containerd/containerd.sock\"\n",
                ),
            ]),
            unit: "k3s-agent.service",
            socket: "/run/containerd/containerd.sock",
            changed: &[(
                "/etc/rancher/k3s/config.yaml",
                "container-runtime-endpoint: \"unix:///run/cri-resmgr/cri-resmgr.sock\"\n",
            )],
        },
        Case {
            name: "RKE2: units of server and agent, the agent's enabled",
            files: Tree::of(&[
                ("/usr/local/lib/systemd/system/rke2-server.service", "[Service]\nExecStart=rke2 server\n"),
                ("/usr/local/lib/systemd/system/rke2-agent.service", "[Service]\nExecStart=rke2 agent\n"),
                ("/etc/systemd/system/multi-user.target.wants/rke2-agent.service", ""),
                ("/etc/rancher/rke2/config.yaml", "server: https://10.0.0.1:9345\nkubelet-arg:\n- max-pods=200\n"),
            ]),
            unit: "rke2-agent.service",
            socket: "/run/k3s/containerd/containerd.sock",
            changed: &[(
                "/etc/rancher/rke2/config.yaml.d/99-cri-resmgr.yaml",
                "# Written by `cri-resmgr install`: the kubelet alone talks through cri-resmgr.\nkubelet-arg+:\n\
                 - \"container-runtime-endpoint=unix:///run/cri-resmgr/cri-resmgr.sock\"\n",
            )],
        },
    ]
}

#[test]
fn each_kind_of_node_is_pointed_at_the_relay_and_back() {
    for case in cases() {
        let found = KubeletSetup::find(&case.files, None).expect(case.name);
        assert_eq!(
            (found.unit.as_str(), found.socket.as_path()),
            (case.unit, Path::new(case.socket)),
            "{}",
            case.name
        );
        assert!(!found.is_relayed());
        let changes = found.relayed(&case.files).unwrap();
        let written: Vec<_> = changes
            .iter()
            .map(|change| {
                let path = change.path.to_str().unwrap();
                (path, str::from_utf8(&change.after).unwrap())
            })
            .collect();
        assert_eq!(written, case.changed, "{}", case.name);

        let mut files = case.files;
        for change in changes {
            files.put(&change.path, change.after);
        }
        let then = KubeletSetup::find(&files, None).expect(case.name);
        assert!(then.is_relayed(), "{}: {then:?}", case.name);
        assert_eq!(then.unit, case.unit);

        // Of a file that was edited meanwhile, only the endpoint is put back.
        for (_path, text) in case.changed {
            let back = unrelayed(&format!("{text}\n# edited\n"), Path::new(case.socket)).unwrap();
            assert!(back.ends_with("\n# edited\n"), "{}: {back}", case.name);
            assert!(!back.contains("/run/cri-resmgr/"), "{}: {back}", case.name);
            assert_eq!(unrelayed(&back, Path::new(case.socket)), None);
        }
    }
}

#[test]
fn a_node_that_cannot_be_installed_is_told_why() {
    let unit = "/etc/systemd/system/kubelet.service";
    let refusals: [(&str, Tree, &str); 7] = [
        (
            "nothing",
            Tree::of(&[]),
            "no kubelet found: none of kubelet.service, k3s.service",
        ),
        (
            "a variable",
            Tree::of(&[(
                unit,
                "ExecStart=kubelet --container-runtime-endpoint=$ENDPOINT\n",
            )]),
            "unknown endpoint \"$ENDPOINT\" in /etc/systemd/system/kubelet.service",
        ),
        (
            "no Unix socket",
            Tree::of(&[(
                unit,
                "ExecStart=kubelet --container-runtime-endpoint=tcp://[::1]:3735\n",
            )]),
            "unknown endpoint \"tcp://[::1]:3735\"",
        ),
        (
            "neither option nor configuration",
            Tree::of(&[(unit, "ExecStart=kubelet\n")]),
            "kubelet.service has neither --container-runtime-endpoint nor --config",
        ),
        (
            "a configuration that is not there",
            Tree::of(&[(unit, "ExecStart=kubelet --config=/k.yaml\n")]),
            "cannot understand /k.yaml: kubelet.service names it as its configuration",
        ),
        (
            "two endpoints",
            kubeadm().with(
                "/etc/default/kubelet",
                "KUBELET_EXTRA_ARGS=--container-runtime-endpoint=unix:///b.sock\n",
            ),
            "told of several runtimes: /run/containerd/containerd.sock in /var/lib/kubelet/kubeadm-flags.env, /b.sock \
             in /etc/default/kubelet",
        ),
        (
            "two kubelets",
            kubeadm().with("/etc/systemd/system/k3s.service", "ExecStart=k3s server\n"),
            "several units run a kubelet: kubelet.service, k3s.service",
        ),
    ];
    for (name, files, expected) in refusals {
        let error = KubeletSetup::find(&files, None)
            .expect_err(name)
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let named = KubeletSetup::find(&kubeadm(), Some("kubelet")).unwrap();
    assert_eq!(named.unit, "kubelet.service");
    let error = KubeletSetup::find(&kubeadm(), Some("k8s-node")).unwrap_err();
    assert!(
        error.to_string().contains("none of k8s-node.service"),
        "{error}"
    );
}

#[test]
fn the_last_endpoint_of_a_command_line_counts() {
    let line = b"/usr/bin/kubelet\0--container-runtime-endpoint=unix:///a\0--container-runtime-endpoint\0unix:///b\0";
    assert_eq!(endpoint_of(line).as_deref(), Some("unix:///b"));
    assert_eq!(endpoint_of(b"/usr/bin/kubelet\0--config=/x\0"), None);
}
