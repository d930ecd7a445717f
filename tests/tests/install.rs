//! `cri-resmgr install` and `uninstall` as programs. On a node that is a folder: its systemd is a script, the
//! relay that answers there is the real one, in front of a real containerd. And on a node with a real systemd, in
//! namespaces of its own.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{Relay, Runtime, built, eventually, installed, skip};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
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
        let program = root.with_extension("program");
        stripped(&program);
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

/// The program without debug information, which each installation would copy.
fn stripped(to: &Path) {
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(to).arg(built("cri-resmgr").unwrap());
    assert!(strip.status().unwrap().success());
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

#[test]
fn given_options_that_the_program_does_not_take_are_refused_and_nothing_is_changed() {
    if let Some(why) = unavailable() {
        return skip::skip("install: options given in a file", &why);
    }
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(folder.path().join("node"));
    let before = node.files();
    let file = folder.path().join("options");
    for (text, complaint) in [("polcy = static\n", "polcy"), ("policy\n", "needs a value")] {
        fs::write(&file, text).unwrap();
        let refused = node.run(&["install", "--option-file", &file.display().to_string()]);
        assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
        let said = words(&refused);
        assert!(
            said.contains(complaint) && said.contains(&file.display().to_string()),
            "{said}"
        );
        assert_eq!(node.files(), before);
    }
}

/// Lets a systemd run the files of this machine, in namespaces and cgroups of its own; what it writes is in memory.
/// $1 is a folder with what the node gets, $2 a name for its cgroups.
const BOOT: &str = r#"
set -e
cd "$1"
cgroups() { awk '$3 ~ /^cgroup/ { print $2, $3, $4 }' /proc/mounts; }
if [ -z "$INSIDE" ]; then
    cgroups | while read -r folder kind options; do
        mkdir "$folder/$2"
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$folder/$file" ]; then cat "$folder/$file" >"$folder/$2/$file"; fi
        done
        echo $$ >"$folder/$2/cgroup.procs"
    done
    INSIDE=1 exec unshare -fpmiuC --kill-child sh "$0" "$@"
fi
mount --make-rprivate /
mkdir root store
mount -t tmpfs tmpfs store
mkdir store/up store/work
mount -t overlay -o "lowerdir=/,upperdir=store/up,workdir=store/work" overlay root
cd root
# Nothing of this machine's own services.
rm -rf etc/systemd/system/*.wants usr/lib/systemd/system/*.wants
cp "$1"/units/* etc/systemd/system/
mkdir -p var/lib/kubelet usr/local/bin
cp "$1/kubelet" "$1/kubelet-cri" usr/local/bin/
cp "$1/kubeadm-flags.env" var/lib/kubelet/
cp "$1/cri-resmgr" root/
mount -t proc proc proc
list=$(cgroups)
mount --rbind /sys sys
echo "$list" | while read -r folder kind options; do
    case $options in
    *name=*) options=none,name=${options##*name=};;
    *) options=${options##*,};;
    esac
    umount ".$folder"
    case $kind in
    cgroup2) mount -t cgroup2 cgroup2 ".$folder";;
    *) mount -t cgroup -o "$options" cgroup ".$folder";;
    esac
done
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
exec chroot . env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd --unit=node.target
"#;

const UNITS: [(&str, &str); 3] = [
    (
        "node.target",
        "[Unit]\nRequires=basic.target\nWants=containerd.service kubelet.service\n",
    ),
    (
        "containerd.service",
        "[Service]\nExecStart=/usr/bin/containerd\nRestart=always\nStandardError=null\n",
    ),
    (
        "kubelet.service",
        "[Unit]\nAfter=containerd.service\n[Service]\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\n\
         ExecStart=/usr/local/bin/kubelet $KUBELET_KUBEADM_ARGS\nRestart=always\nRestartSec=2\n\
         StandardOutput=truncate:/run/kubelet.log\nStandardError=null\nCPUQuota=20%\n",
    ),
];

/// Stands in for the kubelet: its CRI client, until its standard input ends.
const KUBELET: &str = r#"#!/bin/sh
mkfifo /tmp/input.$$
sleep 1000000 >/tmp/input.$$ &
exec /usr/local/bin/kubelet-cri "${1#*=}" kubelet "$1" </tmp/input.$$
"#;

/// A node whose first process is systemd.
struct SystemdNode {
    unshare: Child,
    name: String,
}

impl SystemdNode {
    fn boot(folder: &Path) -> Self {
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        fs::create_dir(folder.join("units")).unwrap();
        for (name, text) in UNITS {
            put(&format!("units/{name}"), text);
        }
        put("boot", BOOT);
        put("kubelet", KUBELET);
        put("kubeadm-flags.env", FLAGS);
        fs::copy(kubelet_cri(), folder.join("kubelet-cri")).unwrap();
        stripped(&folder.join("cri-resmgr"));
        let name = format!("resmgr-install-{}", std::process::id());
        let unshare = Command::new("sh")
            .arg(folder.join("boot"))
            .arg(folder)
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("log")).unwrap())
            .stderr(File::create(folder.join("errors")).unwrap())
            .spawn()
            .unwrap();
        Self { unshare, name }
    }

    /// Runs a line of shell on the node. `None` when it has no first process yet.
    fn run(&self, line: &str) -> Option<Output> {
        let id = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        let mut command = Command::new("nsenter");
        command.args([
            "-a",
            "-r",
            "-w",
            "-t",
            children.trim(),
            "/bin/sh",
            "-c",
            line,
        ]);
        Some(command.output().unwrap())
    }

    fn succeeds(&self, line: &str) -> bool {
        self.run(line).is_some_and(|output| output.status.success())
    }

    fn says(&self, line: &str) -> String {
        let output = self.run(line).unwrap();
        succeeded(&output);
        words(&output)
    }
}

impl Drop for SystemdNode {
    fn drop(&mut self) {
        drop(self.unshare.kill().and_then(|()| self.unshare.wait()));
        // The processes are gone a moment later.
        let script = "for try in 1 2 3; do sleep 1; \
                      for folder in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts); do \
                      find \"$folder/$0\" -depth -type d -exec rmdir {} + ; done; done 2>/dev/null";
        drop(Command::new("sh").args(["-c", script, &self.name]).status());
    }
}

fn kubelet_cri() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/kubernetes/kubelet-cri")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_systemd_is_as_it_was_after_install_and_uninstall() {
    const WHAT: &str = "install: a node with systemd";
    const LIMIT: Duration = Duration::from_secs(120);
    if let Some(why) = unavailable() {
        return skip::skip(WHAT, &why);
    }
    let programs = ["systemd", "containerd", "unshare", "nsenter", "awk"];
    if let Some(missing) = programs.into_iter().find(|it| installed(it).is_none()) {
        return skip::skip(WHAT, &format!("{missing} is not installed"));
    }
    if !kubelet_cri().is_file() {
        return skip::skip(WHAT, "kubelet-cri is not built: cargo xtask setup");
    }
    let folder = tempfile::tempdir().unwrap();
    let node = SystemdNode::boot(folder.path());
    // A kubelet that finds no runtime ends, and runs again two seconds later.
    let up = async || node.succeeds("grep -q answered /run/kubelet.log");
    if !eventually(LIMIT, up).await {
        let errors = fs::read_to_string(folder.path().join("errors")).unwrap();
        return skip::skip(
            WHAT,
            &format!("systemd does not run in namespaces here: {errors:?}"),
        );
    }
    // A link may lead to what changes by itself.
    let files = "cd /etc; places='. /usr/local/bin /var/lib/kubelet /var/lib/cri-resmgr'; \
                 (find $places -xdev -type f -exec sha256sum {} +; find $places -xdev -type l -printf '%p %l\\n') \
                 2>/dev/null | sort; \
                 systemctl is-active cri-resmgr.socket; systemctl is-enabled cri-resmgr.service; true";
    let before = node.says(files);

    let said = node.says("/root/cri-resmgr install");
    assert!(
        said.contains("kubelet.service runs and uses /run/cri-resmgr/cri-resmgr.sock"),
        "{said}"
    );
    assert!(
        node.succeeds("systemctl is-active --quiet cri-resmgr.service cri-resmgr.socket kubelet")
    );
    let command_line =
        node.says("tr '\\0' ' ' </proc/$(systemctl show --value -p MainPID kubelet)/cmdline");
    assert!(
        command_line
            .contains("--container-runtime-endpoint=unix:///run/cri-resmgr/cri-resmgr.sock"),
        "{command_line}"
    );
    // As a pod does: another root directory, the node's processes.
    let said = node.says(
        "mkdir /tmp/host && mount --rbind / /tmp/host && /root/cri-resmgr install --upgrade --host-root /tmp/host",
    );
    assert!(said.contains("nothing to change"), "{said}");
    // Options that the pod has in its own root directory must be legal on the node.
    let with_options = |options: &str| {
        format!(
            "printf '{options}' >/root/options && /root/cri-resmgr install --upgrade --host-root /tmp/host \
             --option-file /root/options"
        )
    };
    let says_policy = |policy: &str| {
        node.succeeds(&format!(
            "grep -qx 'policy = {policy}' /etc/cri-resmgr/cri-resmgr.conf"
        ))
    };
    let refused = node.run(&with_options(
        "policy = static\\nreserved-resources = cpu=8000\\n",
    ));
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
    assert!(words(&refused).contains("8000") && says_policy("null"));
    node.says(&with_options("policy = none\\n"));
    assert!(says_policy("none"));
    assert!(node.succeeds("systemctl is-active --quiet cri-resmgr.service kubelet"));
    let restarts =
        "systemctl restart cri-resmgr.service && systemctl show --value -p NRestarts kubelet";
    assert_eq!(
        node.says(restarts).trim(),
        "0",
        "the kubelet's calls wait while the relay is restarted"
    );

    node.says("/usr/local/bin/cri-resmgr uninstall");
    assert_eq!(node.says(files), before);
    assert!(node.succeeds("systemctl is-active --quiet kubelet"));
}
