//! Installations on a node in memory, which can die before and after each change.

use super::{kubelet::tests::kubeadm, *};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Files and folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    files: BTreeMap<PathBuf, Vec<u8>>,
    folders: BTreeSet<PathBuf>,
}

impl Tree {
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for folder in ["/var/lib", "/run", "/etc/systemd/system", "/usr/local/bin"] {
            tree.folders
                .extend(Path::new(folder).ancestors().map(Path::to_owned));
        }
        files
            .iter()
            .fold(tree, |tree, (path, text)| tree.with(path, text))
    }

    pub(crate) fn with(mut self, path: &str, text: &str) -> Self {
        self.put(Path::new(path), text.into());
        self
    }

    pub(crate) fn put(&mut self, path: &Path, content: Vec<u8>) {
        self.folders
            .extend(path.ancestors().skip(1).map(Path::to_owned));
        self.files.insert(path.to_owned(), content);
    }
}

impl Files for Tree {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
        Ok(self.files.get(path).cloned())
    }

    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, InstallError> {
        let all = self.files.keys().chain(&self.folders);
        let inside: BTreeSet<_> = all.filter(|path| path.parent() == Some(folder)).collect();
        Ok(inside.into_iter().cloned().collect())
    }

    fn has_folder(&self, path: &Path) -> bool {
        self.folders.contains(path)
    }
}

/// When a change fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fuse {
    /// The process is killed before the change.
    KilledBefore(usize),
    /// The process is killed after it.
    KilledAfter(usize),
    /// This change alone fails.
    Fails(usize),
}

/// A node whose kubelet must never start on a socket that nothing serves.
#[derive(Clone, Debug)]
struct Node {
    tree: Tree,
    enabled: BTreeSet<String>,
    active: BTreeSet<String>,
    /// What the kubelet was started with.
    kubelet_uses: PathBuf,
    /// Whether the runtime answers through the relay.
    answers: bool,
    /// Whether the kubelet stays up when it uses the relay.
    kubelet_stays: bool,
    process: u32,
    restored: u32,
    changes: usize,
    fuse: Option<Fuse>,
    dead: bool,
    said: Vec<String>,
}

impl Node {
    fn new(tree: Tree) -> Self {
        let kubelet_uses = KubeletSetup::find(&tree, None).unwrap().socket;
        Self {
            tree,
            enabled: BTreeSet::new(),
            active: ["kubelet.service".to_owned()].into(),
            kubelet_uses,
            answers: true,
            kubelet_stays: true,
            process: 1,
            restored: 0,
            changes: 0,
            fuse: None,
            dead: false,
            said: Vec::new(),
        }
    }

    fn fused(&self, fuse: Fuse) -> Self {
        let mut node = self.clone();
        node.changes = 0;
        node.fuse = Some(fuse);
        node
    }

    /// As it is found after the process was killed.
    fn revived(mut self) -> Self {
        self.fuse = None;
        self.dead = false;
        self
    }

    fn changes<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> Result<T, InstallError> {
        let number = self.changes;
        let killed = || {
            Err(InstallError::Systemctl {
                words: String::new(),
                why: "killed".to_owned(),
            })
        };
        if self.dead {
            return killed();
        }
        self.changes += 1;
        match self.fuse {
            Some(Fuse::Fails(at)) if at == number => return killed(),
            Some(Fuse::KilledBefore(at)) if at == number => {
                self.dead = true;
                return killed();
            }
            _ => {}
        }
        let outcome = change(self);
        if self.fuse == Some(Fuse::KilledAfter(number)) {
            self.dead = true;
            return killed();
        }
        Ok(outcome)
    }

    fn start_kubelet(&mut self) {
        self.process += 1;
        self.kubelet_uses = KubeletSetup::find(&self.tree, None).unwrap().socket;
        let relayed = self.kubelet_uses == Path::new(RELAY_SOCKET);
        assert!(
            !relayed || self.active.contains("cri-resmgr.socket"),
            "the kubelet was started on a socket that nothing serves"
        );
    }

    /// All that an installation may change, and must leave as it was.
    fn state(&self) -> (&Tree, &BTreeSet<String>, &BTreeSet<String>, &Path) {
        (&self.tree, &self.enabled, &self.active, &self.kubelet_uses)
    }
}

impl Files for Node {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
        self.tree.read(path)
    }

    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, InstallError> {
        self.tree.list(folder)
    }

    fn has_folder(&self, path: &Path) -> bool {
        self.tree.has_folder(path)
    }
}

impl Host for Node {
    fn write(&mut self, path: &Path, content: &[u8], _mode: u32) -> Result<(), InstallError> {
        self.changes(|node| {
            let folder = path.parent().unwrap();
            assert!(
                node.tree.has_folder(folder),
                "{} is missing",
                folder.display()
            );
            node.tree.put(path, content.to_vec());
        })
    }

    fn make_folder(&mut self, path: &Path) -> Result<(), InstallError> {
        self.changes(|node| assert!(node.tree.folders.insert(path.to_owned())))
    }

    fn remove(&mut self, path: &Path) -> Result<(), InstallError> {
        self.changes(|node| {
            node.tree.files.retain(|file, _| !file.starts_with(path));
            node.tree.folders.retain(|folder| !folder.starts_with(path));
        })
    }

    fn systemctl(&mut self, words: &[&str]) -> Result<String, InstallError> {
        let failed = Err(InstallError::Systemctl {
            words: words.join(" "),
            why: "no".to_owned(),
        });
        let units: Vec<String> = words
            .iter()
            .filter(|word| word.contains('.'))
            .map(|&word| word.to_owned())
            .collect();
        match words[0] {
            "is-active" if self.active.contains(&units[0]) => Ok(String::new()),
            "is-enabled" if self.enabled.contains(&units[0]) => Ok(String::new()),
            "is-active" | "is-enabled" => failed,
            "show" => {
                let relayed = self.kubelet_uses == Path::new(RELAY_SOCKET);
                if relayed && !self.kubelet_stays {
                    self.process += 1;
                }
                Ok(self.process.to_string())
            }
            verb => self.changes(|node| {
                match verb {
                    "daemon-reload" | "reset-failed" => {}
                    "enable" => node.enabled.extend(units),
                    "disable" => node.enabled.retain(|unit| !units.contains(unit)),
                    "stop" => {
                        assert_ne!(
                            node.kubelet_uses,
                            Path::new(RELAY_SOCKET),
                            "the kubelet still needs the relay"
                        );
                        node.active.retain(|unit| !units.contains(unit));
                    }
                    "start" | "restart" => {
                        if units[0] == "kubelet.service" {
                            node.start_kubelet();
                        }
                        if units[0] == "cri-resmgr.service" {
                            // What a daemon leaves behind.
                            node.tree
                                .put(Path::new("/var/lib/cri-resmgr/ledger"), b"state".to_vec());
                            node.tree
                                .put(Path::new("/run/cri-resmgr/cri-resmgr.sock"), Vec::new());
                        }
                        node.active.extend(units);
                    }
                    other => panic!("systemctl {other}"),
                }
                String::new()
            }),
        }
    }

    fn runtime_version(&mut self, socket: &Path) -> Result<String, InstallError> {
        match self.answers {
            true => Ok("containerd 2.1".to_owned()),
            false => Err(InstallError::NoAnswer {
                socket: socket.to_owned(),
                why: "UNAVAILABLE".to_owned(),
            }),
        }
    }

    fn restore(&mut self) -> Result<String, InstallError> {
        self.changes(|node| {
            assert!(
                !node.active.contains("cri-resmgr.service"),
                "it would take the CPUs back"
            );
            node.restored += 1;
            "restored".to_owned()
        })
    }

    fn pause(&mut self) {}

    fn say(&mut self, line: &str) {
        self.said.push(line.to_owned());
    }
}

fn options(program: &str) -> InstallOptions {
    InstallOptions {
        prefix: "/usr/local/bin".into(),
        program: program.into(),
        kubelet: None,
        upgrade: false,
        option_file: None,
    }
}

fn upgrade(program: &str) -> InstallOptions {
    InstallOptions {
        upgrade: true,
        ..options(program)
    }
}

fn installed(node: &Node) -> Node {
    let mut node = node.clone();
    install(&mut node, &options("one")).unwrap();
    node
}

/// Nodes that differ in what an installation must do: edit, add a file in a new folder, replace a program.
fn nodes() -> [Node; 3] {
    [
        Node::new(kubeadm()),
        Node::new(Tree::of(&[
            (
                "/etc/systemd/system/kubelet.service",
                "ExecStart=kubelet --config=/etc/k/k.yaml\n",
            ),
            ("/etc/k/k.yaml", "maxPods: 3\n"),
            ("/usr/local/bin/cri-resmgr", "an older program"),
            ("/var/lib/cri-resmgr/ledger", "an older state"),
        ])),
        Node::new(kubeadm().with("/etc/cri-resmgr/cri-resmgr.conf", "policy = static\n")),
    ]
}

#[test]
fn an_installation_points_the_kubelet_at_the_relay_and_uninstalling_leaves_nothing() {
    for node in nodes() {
        let mut there = installed(&node);
        assert_eq!(there.kubelet_uses, Path::new(RELAY_SOCKET));
        assert!(
            there.enabled.contains("cri-resmgr.socket")
                && there.active.contains("cri-resmgr.service")
        );
        let program = there.read(Path::new("/usr/local/bin/cri-resmgr")).unwrap();
        assert_eq!(program.as_deref(), Some(&b"one"[..]));
        let unit = there
            .read(Path::new("/etc/systemd/system/cri-resmgr.service"))
            .unwrap()
            .unwrap();
        let unit = String::from_utf8(unit).unwrap();
        assert!(
            unit.contains("ExecStart=/usr/local/bin/cri-resmgr "),
            "{unit}"
        );
        let again = install(&mut there, &options("two"))
            .unwrap_err()
            .to_string();
        assert!(again.contains("is already installed"), "{again}");

        uninstall(&mut there).unwrap();
        assert_eq!(there.restored, 1);
        if node
            .tree
            .files
            .contains_key(Path::new("/var/lib/cri-resmgr/ledger"))
        {
            // The daemon's own, not an installation's.
            there.tree.put(
                Path::new("/var/lib/cri-resmgr/ledger"),
                b"an older state".to_vec(),
            );
        }
        assert_eq!(there.state(), node.state());
        let again = uninstall(&mut there).unwrap_err().to_string();
        assert!(again.contains("not installed"), "{again}");
    }
}

/// Tries every fuse of `kind` until one is not reached; `check` gets the node as it was left.
fn with_every_fuse(
    node: &Node,
    kind: fn(usize) -> Fuse,
    run: impl Fn(&mut Node) -> Result<(), InstallError>,
    check: impl Fn(Node, Result<(), InstallError>, Fuse),
) {
    for at in 0.. {
        assert!(at < 200, "it has no end");
        let fuse = kind(at);
        let mut node = node.fused(fuse);
        let outcome = run(&mut node);
        if node.changes <= at {
            assert!(at > 5, "{fuse:?}: {outcome:?}");
            return;
        }
        check(node.revived(), outcome, fuse);
    }
}

const KILLS: [fn(usize) -> Fuse; 2] = [Fuse::KilledBefore, Fuse::KilledAfter];

/// The node as it was, but for the ledger that a daemon of before has gone on with, and for an empty folder that the
/// very first step leaves.
fn assert_as_before(mut node: Node, before: &Node, fuse: Fuse) {
    let folder = Path::new("/var/lib/cri-resmgr");
    if !before.tree.has_folder(folder) && node.list(folder).unwrap().is_empty() {
        node.tree.folders.remove(folder);
    }
    let ledger = Path::new("/var/lib/cri-resmgr/ledger");
    if let Some(content) = before.tree.files.get(ledger) {
        node.tree.put(ledger, content.clone());
    }
    assert_eq!(node.state(), before.state(), "{fuse:?}: {:#?}", node.said);
}

#[test]
fn an_installation_killed_at_any_step_can_be_uninstalled_or_done_again() {
    for before in nodes() {
        for kind in KILLS {
            let run = |node: &mut Node| install(node, &options("one"));
            with_every_fuse(&before, kind, run, |node, _outcome, fuse| {
                let mut again = node.clone();
                match install(&mut again, &options("one")) {
                    // Killed after its very end.
                    Err(InstallError::AlreadyInstalled { .. }) => {}
                    outcome => outcome.unwrap(),
                }
                assert_eq!(again.kubelet_uses, Path::new(RELAY_SOCKET), "{fuse:?}");

                let mut node = node;
                match uninstall(&mut node) {
                    // Killed before its very beginning.
                    Err(InstallError::NotInstalled { .. }) => {}
                    outcome => outcome.unwrap(),
                }
                assert_as_before(node, &before, fuse);
            });
        }
    }
}

#[test]
fn uninstalling_killed_at_any_step_can_be_repeated() {
    for before in nodes() {
        let there = installed(&before);
        for kind in KILLS {
            with_every_fuse(
                &there,
                kind,
                |node| uninstall(node),
                |mut node, _outcome, fuse| {
                    match uninstall(&mut node) {
                        Err(InstallError::NotInstalled { .. }) => {}
                        outcome => outcome.unwrap(),
                    }
                    assert_as_before(node, &before, fuse);
                },
            );
        }
    }
}

#[test]
fn an_installation_whose_step_fails_takes_everything_back_by_itself() {
    for before in nodes() {
        let run = |node: &mut Node| install(node, &options("one"));
        with_every_fuse(&before, Fuse::Fails, run, |node, outcome, fuse| {
            let error = outcome.unwrap_err();
            assert!(
                matches!(error, InstallError::RolledBack { .. }),
                "{fuse:?}: {error}"
            );
            assert_as_before(node, &before, fuse);
        });
    }
}

#[test]
fn a_runtime_that_does_not_answer_through_the_relay_costs_the_kubelet_nothing() {
    let before = Node::new(kubeadm());
    let mut node = before.clone();
    node.answers = false;
    let process = node.process;
    let error = install(&mut node, &options("one")).unwrap_err().to_string();
    assert!(
        error.contains("CRI does not answer through /run/cri-resmgr/cri-resmgr.sock: UNAVAILABLE; all changes are undone"),
        "{error}"
    );
    assert_eq!(node.state(), before.state());
    assert_eq!(node.process, process, "the kubelet was not restarted");
}

#[test]
fn a_kubelet_that_does_not_stay_up_gets_its_runtime_back() {
    let before = Node::new(kubeadm());
    let mut node = before.clone();
    node.kubelet_stays = false;
    let error = install(&mut node, &options("one")).unwrap_err().to_string();
    assert!(
        error.contains("kubelet.service did not stay up after its restart"),
        "{error}"
    );
    assert_eq!(node.state(), before.state());
}

#[test]
fn a_kubelet_that_was_started_with_another_endpoint_is_noticed() {
    // The variable that was changed is not on the command line.
    let command_line = "/usr/bin/kubelet\0--config=/var/lib/kubelet/config.yaml\0";
    let mut node = Node::new(kubeadm().with("/proc/2/cmdline", command_line));
    let error = install(&mut node, &options("one")).unwrap_err().to_string();
    assert!(
        error.contains("kubelet.service was started with \"\" in spite"),
        "{error}"
    );
    let line = "/usr/bin/kubelet\0--container-runtime-endpoint=unix:///var/run/cri-resmgr/cri-resmgr.sock\0";
    let mut node = Node::new(kubeadm().with("/proc/2/cmdline", line));
    install(&mut node, &options("one")).unwrap();
}

#[test]
fn a_kubelet_that_does_not_run_is_not_started() {
    let mut node = Node::new(kubeadm());
    node.active.clear();
    install(&mut node, &options("one")).unwrap();
    assert_eq!(node.process, 1);
    let found = KubeletSetup::find(&node.tree, None).unwrap();
    assert!(found.is_relayed());
    uninstall(&mut node).unwrap();
    assert_eq!(node.process, 1);
}

#[test]
fn an_upgrade_replaces_the_program_and_a_failed_one_puts_the_old_one_back() {
    for before in nodes() {
        let there = installed(&before);
        let run = |node: &mut Node| install(node, &upgrade("two"));
        let mut node = there.clone();
        run(&mut node).unwrap();
        let program = Path::new("/usr/local/bin/cri-resmgr");
        assert_eq!(node.read(program).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(node.process, there.process, "the kubelet goes on");
        let backups = |node: &Node| node.list(Path::new("/var/lib/cri-resmgr/install")).unwrap();
        assert_eq!(
            backups(&node),
            backups(&there),
            "one old content of each file"
        );
        let changes = node.changes;
        run(&mut node).unwrap();
        assert_eq!(node.changes, changes, "nothing to do");

        with_every_fuse(&there, Fuse::Fails, run, |node, outcome, fuse| {
            // What an upgrade throws away at its end may stay.
            let expected = if outcome.is_ok() { "two" } else { "one" };
            assert_eq!(node.state().2, there.state().2);
            assert_eq!(
                node.read(program).unwrap().as_deref(),
                Some(expected.as_bytes()),
                "{fuse:?}"
            );
            assert_eq!(node.kubelet_uses, Path::new(RELAY_SOCKET));
        });
        for kind in KILLS {
            with_every_fuse(&there, kind, run, |node, _outcome, fuse| {
                let mut again = node.clone();
                run(&mut again).unwrap();
                assert_eq!(
                    again.read(program).unwrap().as_deref(),
                    Some(&b"two"[..]),
                    "{fuse:?}"
                );
                let mut node = node;
                uninstall(&mut node).unwrap();
                assert_as_before(node, &before, fuse);
            });
        }
        uninstall(&mut node).unwrap();
        assert_as_before(node, &before, Fuse::Fails(0));
    }
}

#[test]
fn an_upgrade_tells_a_kubelet_again_whose_files_were_written_anew() {
    let before = Node::new(kubeadm());
    let mut node = installed(&before);
    let flags = Path::new("/var/lib/kubelet/kubeadm-flags.env");
    node.tree.put(flags, before.read(flags).unwrap().unwrap());
    install(&mut node, &upgrade("one")).unwrap();
    assert_eq!(node.kubelet_uses, Path::new(RELAY_SOCKET));
    uninstall(&mut node).unwrap();
    assert_eq!(node.state(), before.state());
}

#[test]
fn what_was_edited_since_keeps_its_edits() {
    let before = Node::new(kubeadm());
    let mut node = installed(&before);
    let flags = Path::new("/var/lib/kubelet/kubeadm-flags.env");
    let text = String::from_utf8(node.read(flags).unwrap().unwrap()).unwrap();
    node.tree
        .put(flags, text.replace("pause:3.10", "pause:3.11").into());
    let conf = "policy = static\n";
    node.tree.put(Path::new(OPTION_FILE), conf.into());
    uninstall(&mut node).unwrap();
    let text = String::from_utf8(node.read(flags).unwrap().unwrap()).unwrap();
    assert!(
        text.contains("unix:///run/containerd/containerd.sock") && text.contains("pause:3.11"),
        "{text}"
    );
    assert_eq!(
        node.read(Path::new(OPTION_FILE)).unwrap().as_deref(),
        Some(conf.as_bytes())
    );
}

#[test]
fn an_option_file_for_another_runtime_is_refused() {
    let with = |text: &str| {
        let tree = kubeadm().with(OPTION_FILE, text);
        plan(&tree, &options("one"), None).map(|_plan| ())
    };
    with("runtime-socket = unix:///var/run/containerd/containerd.sock\n").unwrap();
    with("# runtime-socket = /a\npolicy = static\n").unwrap();
    let error = with("runtime-socket=/run/crio/crio.sock\n")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(
            "says runtime-socket = /run/crio/crio.sock, and the kubelet uses /run/containerd"
        ),
        "{error}"
    );
}

#[test]
fn a_kubelet_that_was_pointed_at_the_relay_by_hand_is_refused() {
    let path = "/var/lib/kubelet/kubeadm-flags.env";
    let tree = kubeadm().with(
        path,
        "A=--container-runtime-endpoint=unix:///var/run/cri-resmgr/cri-resmgr.sock\n",
    );
    let error = plan(&tree, &options("one"), None).unwrap_err().to_string();
    assert!(
        error.contains("already uses /var/run/cri-resmgr/cri-resmgr.sock"),
        "{error}"
    );
}

#[test]
fn the_units_of_a_package_are_used_as_they_are() {
    let tree = kubeadm()
        .with("/usr/lib/systemd/system/cri-resmgr.service", "[Service]\n")
        .with("/usr/bin/cri-resmgr", "packaged");
    let before = Node::new(tree);
    let mut node = before.clone();
    let options = InstallOptions {
        prefix: "/usr/bin".into(),
        ..options("packaged")
    };
    install(&mut node, &options).unwrap();
    let files = |node: &Node| {
        node.tree
            .files
            .keys()
            .filter(|path| path.starts_with("/etc/systemd"))
            .count()
    };
    assert_eq!(files(&node), files(&before));
    uninstall(&mut node).unwrap();
    assert_eq!(node.state(), before.state());
}

fn with_options(text: &str) -> InstallOptions {
    InstallOptions {
        option_file: Some(text.to_owned()),
        ..upgrade("one")
    }
}

#[test]
fn given_options_replace_those_of_the_node_until_it_is_uninstalled() {
    for before in nodes() {
        let mut node = before.clone();
        for policy in ["static", "static-plus"] {
            let given = format!("policy = {policy}\n");
            install(&mut node, &with_options(&given)).unwrap();
            let text = node.read(Path::new(OPTION_FILE)).unwrap().unwrap();
            let text = String::from_utf8(text).unwrap();
            let end = format!("\nruntime-socket = /run/containerd/containerd.sock\n{given}");
            assert!(text.ends_with(&end), "{text}");
        }
        let changes = node.changes;
        install(&mut node, &with_options("policy = static-plus\n")).unwrap();
        install(&mut node, &upgrade("one")).unwrap();
        assert_eq!(node.changes, changes, "{:#?}", node.said);
        uninstall(&mut node).unwrap();
        let option_file = |node: &Node| node.read(Path::new(OPTION_FILE)).unwrap();
        assert_eq!(option_file(&node), option_file(&before));
    }
}

#[test]
fn given_options_that_name_another_runtime_than_the_kubelets_are_refused() {
    let before = Node::new(kubeadm());
    let mut node = before.clone();
    let given = with_options("runtime-socket = /run/crio/crio.sock\n");
    let error = install(&mut node, &given).unwrap_err().to_string();
    assert!(error.contains("/run/crio/crio.sock"), "{error}");
    assert_eq!(node.state(), before.state());
}

#[test]
fn a_dry_run_shows_diffs_and_changes_nothing() {
    let before = Node::new(kubeadm());
    let mut node = before.clone();
    dry_run(&mut node, &options("\u{7f}ELF")).unwrap();
    assert_eq!(node.changes, 0);
    let said = node.said.join("\n");
    for line in [
        "kubelet.service uses /run/containerd/containerd.sock; cri-resmgr relays to /run/containerd/containerd.sock",
        "--- /dev/null\n+++ /etc/systemd/system/cri-resmgr.service",
        "--- /var/lib/kubelet/kubeadm-flags.env\n+++ /var/lib/kubelet/kubeadm-flags.env\n@@ -1 +1 @@\n-KUBELET",
        "+runtime-socket = /run/containerd/containerd.sock",
        "then: enable and start cri-resmgr.service, cri-resmgr.socket, restart kubelet.service",
    ] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
}
