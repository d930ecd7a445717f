//! `cri-resmgr install` and `uninstall` as programs, on a node that is a folder: its systemd is a script, the
//! relay that answers there is the real one, in front of a real containerd.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{Relay, Runtime, built, installed, skip};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    process::{Command, Output},
};

const FLAGS: &str = "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock \
                     --v=2\"\n";
/// Keeps in /units what is enabled and active. Kills its caller at the call that /kill-at names.
const SYSTEMCTL: &str = r#"#!/bin/sh
verb=$1; shift
case $verb in
is-active) [ "$1" = --quiet ] && shift; exec test -e "/units/active-$1";;
is-enabled) exec test -e "/units/enabled-$1";;
show) exec cat /units/pid;;
esac
echo "$verb $*" >>/units/log
if [ -e /units/kill-at ] && [ "$(wc -l </units/log)" -eq "$(cat /units/kill-at)" ]; then
    kill -9 $PPID
    exit 1
fi
for unit; do
    case $verb-$unit in
    *--*) ;;
    enable-*) : >"/units/enabled-$unit";;
    disable-*) rm -f "/units/enabled-$unit";;
    start-*|restart-*) : >"/units/active-$unit";;
    stop-*) rm -f "/units/active-$unit";;
    esac
done
"#;

/// A node below a folder.
struct Node {
    root: PathBuf,
    program: PathBuf,
}

impl Node {
    fn new(root: PathBuf) -> Self {
        for folder in [
            "bin",
            "usr/bin",
            "usr/local/bin",
            "etc/systemd/system",
            "run",
            "proc",
            "dev",
            "var/lib/kubelet",
            "units",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy(installed("busybox").unwrap(), root.join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "wc", "rm", "test"] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let systemctl = root.join("usr/bin/systemctl");
        fs::write(&systemctl, SYSTEMCTL).unwrap();
        fs::set_permissions(systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let unit = "[Service]\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\n\
                    ExecStart=/usr/bin/kubelet $KUBELET_KUBEADM_ARGS\n";
        fs::write(root.join("etc/systemd/system/kubelet.service"), unit).unwrap();
        fs::write(root.join("var/lib/kubelet/kubeadm-flags.env"), FLAGS).unwrap();
        fs::write(root.join("units/active-kubelet.service"), "").unwrap();
        fs::write(root.join("units/pid"), "1\n").unwrap();
        // The standard input of systemctl.
        fs::write(root.join("dev/null"), "").unwrap();
        // Without debug information, which each installation would copy.
        let program = root.with_extension("program");
        let stripped = Command::new("strip")
            .arg("-o")
            .arg(&program)
            .arg(built("cri-resmgr").unwrap())
            .status();
        assert!(stripped.unwrap().success());
        Self { root, program }
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(&self.program)
            .args(words)
            .arg("--host-root")
            .arg(&self.root)
            .output()
            .unwrap()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    /// Every file with its content, every folder; but for sockets and the calls of systemctl.
    fn files(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                let path = entry.path();
                if kind.is_dir() {
                    folders.push(path.clone());
                    files.insert(path, None);
                } else if kind.is_file()
                    && !path.ends_with("units/log")
                    && !path.ends_with("units/kill-at")
                {
                    let content = fs::read(&path).unwrap();
                    files.insert(path, Some(content));
                }
            }
        }
        files.retain(|path, _| !path.starts_with(self.root.join("run")));
        files
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", words(output));
}

fn words(output: &Output) -> String {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Has `relay` answer on the node's socket too.
fn serve(relay: &Relay, node: &Node) {
    let folder = node.root.join("run/cri-resmgr");
    fs::create_dir(&folder).unwrap();
    fs::hard_link(relay.socket(), folder.join("cri-resmgr.sock")).unwrap();
}

fn unavailable() -> Option<String> {
    skip::no_relay().or_else(|| {
        let missing = ["busybox", "strip"]
            .into_iter()
            .find(|it| installed(it).is_none())?;
        Some(format!("{missing} is not installed"))
    })
}

#[test]
fn a_node_is_as_it_was_after_install_and_uninstall_also_when_install_is_killed_at_any_step() {
    if let Some(why) = unavailable() {
        return skip::skip("install: a node in a folder", &why);
    }
    let runtime = Runtime::start().unwrap();
    let node = Node::new(runtime.folder().join("node"));
    let before = node.files();

    let dry = node.run(&["install", "--dry-run"]);
    succeeded(&dry);
    let shown = words(&dry);
    assert!(
        shown.contains(
            "+KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/cri-resmgr/"
        ),
        "{shown}"
    );
    assert_eq!(node.files(), before);

    let relay = Relay::start(&runtime, &[]).unwrap();
    serve(&relay, &node);
    let there = node.run(&["install"]);
    succeeded(&there);
    let said = words(&there);
    assert!(
        said.contains("containerd ")
            && said.contains("answers through /run/cri-resmgr/cri-resmgr.sock"),
        "{said}"
    );
    let flags = node.read("var/lib/kubelet/kubeadm-flags.env");
    assert_eq!(
        flags,
        FLAGS.replace(
            "/run/containerd/containerd.sock",
            "/run/cri-resmgr/cri-resmgr.sock"
        )
    );
    let program = fs::metadata(node.root.join("usr/local/bin/cri-resmgr")).unwrap();
    assert_eq!(program.permissions().mode() & 0o777, 0o755);
    let calls = node.read("units/log").lines().count();
    let again = node.run(&["install"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        words(&again).contains("is already installed"),
        "{}",
        words(&again)
    );
    succeeded(&node.run(&["install", "--upgrade"]));
    succeeded(&node.run(&["uninstall"]));
    assert_eq!(node.files(), before);
    let again = node.run(&["uninstall"]);
    assert!(words(&again).contains("not installed"), "{}", words(&again));

    assert!(calls > 5, "{calls}");
    for at in 1..=calls {
        serve(&relay, &node);
        fs::remove_file(node.root.join("units/log")).unwrap();
        fs::write(node.root.join("units/kill-at"), at.to_string()).unwrap();
        let killed = node.run(&["install"]);
        assert_eq!(killed.status.code(), None, "{at}: {}", words(&killed));
        fs::remove_file(node.root.join("units/kill-at")).unwrap();
        succeeded(&node.run(&["uninstall"]));
        assert_eq!(node.files(), before, "killed at call {at} of systemctl");
    }
}
