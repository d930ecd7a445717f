use super::*;
use crate::enforce::{CgroupFiles, MountedFiles, watch::Watch};
use proptest::prelude::*;
use resmgr_topology::CpuId;
use std::{
    fs,
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
};

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn any_cpus() -> impl Strategy<Value = CpuSet> {
    proptest::collection::vec(0_u32..12, 0..12)
        .prop_map(|cpus| cpus.into_iter().map(CpuId).collect())
}

proptest! {
    #[test]
    fn a_cgroup_keeps_a_cpu_and_the_reserved_and_loses_exclusive_and_nothing_else(
        online in any_cpus(),
        exclusive in any_cpus(),
        reserved in any_cpus(),
        before in any_cpus(),
    ) {
        prop_assume!(!online.is_empty());
        let host = HostCpus { online, exclusive, reserved };
        let usable = match before.is_disjoint(&online) {
            true => online,
            false => before.intersection(&online),
        };
        let taken = exclusive.difference(&reserved);
        match host.confine(&before) {
            Ok(kept) if kept == before => prop_assert!(usable.is_disjoint(&taken)),
            Err(NothingLeft) => prop_assert!(usable.is_subset(&taken)),
            Ok(kept) => {
                prop_assert!(!kept.is_empty());
                prop_assert!(kept.is_disjoint(&taken));
                prop_assert!(reserved.intersection(&usable).is_subset(&kept));
                prop_assert_eq!(kept.union(&taken.intersection(&usable)), usable);
            }
        }
    }
}

/// A unified hierarchy of four CPUs in files, which stops to take anything after so many writes.
#[derive(Clone, Debug)]
struct Kernel {
    root: PathBuf,
    files: MountedFiles,
    /// Writes and saved journals that are still taken.
    left: Arc<AtomicUsize>,
}

impl Kernel {
    fn new(root: &Path) -> Self {
        fs::write(root.join("cpuset.cpus.effective"), "0-3\n").unwrap();
        fs::write(root.join("cgroup.subtree_control"), "cpuset cpu\n").unwrap();
        let kernel = Self {
            root: root.to_owned(),
            files: MountedFiles::new(Hierarchy::V2 {
                root: root.to_owned(),
            }),
            left: Arc::new(AtomicUsize::new(usize::MAX)),
        };
        for (name, list) in [
            ("init.scope", ""),
            ("system.slice", ""),
            ("user.slice", "1-3"),
            ("kubepods.slice", ""),
            ("elsewhere", ""),
        ] {
            fs::create_dir(root.join(name)).unwrap();
            kernel.have(name, list);
        }
        kernel
    }

    /// Has a cgroup have these CPUs, and its processes as well.
    fn have(&self, name: &str, list: &str) {
        let effective = if list.is_empty() { "0-3" } else { list };
        for (file, list) in [("cpuset.cpus", list), ("cpuset.cpus.effective", effective)] {
            fs::write(self.root.join(name).join(file), format!("{list}\n")).unwrap();
        }
    }

    /// What cgroups have that is not what their parent has.
    fn lists(&self) -> BTreeMap<String, String> {
        let names = fs::read_dir(&self.root).unwrap().flatten();
        let lists = names.filter_map(|entry| {
            let list = fs::read_to_string(entry.path().join("cpuset.cpus")).ok()?;
            let name = entry.file_name().into_string().unwrap();
            (!["", "0-3"].contains(&list.trim())).then(|| (name, list.trim().to_owned()))
        });
        lists.collect()
    }

    fn take(&self) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        match left {
            0 => Err(io::Error::other("out of order")),
            _ => Ok(()),
        }
    }
}

impl CgroupFiles for Kernel {
    fn read(&self, path: &Path) -> io::Result<String> {
        match path.ends_with("cpu/possible") {
            true => Ok("0-3\n".to_owned()),
            false => self.files.read(path),
        }
    }

    fn set_cpus(&self, directory: &Path, list: &str) -> io::Result<()> {
        self.take()?;
        self.have(directory.file_name().unwrap().to_str().unwrap(), list);
        Ok(())
    }

    fn set_mems(&self, _directory: &Path, _list: &str) -> io::Result<()> {
        Err(io::Error::other("the fence leaves memory alone"))
    }

    fn set_shares(&self, _directory: &Path, _shares: u64) -> io::Result<()> {
        Err(io::Error::other("the fence leaves shares alone"))
    }

    fn set_quota(&self, _directory: &Path, _quota: i64) -> io::Result<()> {
        Err(io::Error::other("the fence leaves quotas alone"))
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        self.take()?;
        match text {
            // Each cgroup has tasks.
            "\n" if !fs::read_to_string(path)?.trim().is_empty() => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            "\n" => {}
            "+cpuset" | "-cpuset" => {
                let enabled = if text == "+cpuset" {
                    "cpuset cpu"
                } else {
                    "cpu"
                };
                fs::write(path, enabled)?;
                for cgroup in self.files.directories(&self.root)? {
                    let name = cgroup.file_name().unwrap().to_str().unwrap();
                    if text == "+cpuset" {
                        self.have(name, "");
                    } else {
                        fs::remove_file(cgroup.join("cpuset.cpus"))?;
                    }
                }
            }
            text => return Err(io::Error::other(text.to_owned())),
        }
        Ok(())
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.files.is_directory(path)
    }

    fn directories(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path)?.flatten().map(|entry| entry.path());
        Ok(entries.filter(|path| path.is_dir()).collect())
    }

    fn watch(&self) -> io::Result<Box<dyn Watch>> {
        Err(io::Error::other("the fence does not watch"))
    }
}

/// A host, and what its fence has on disk.
struct Host {
    _folder: tempfile::TempDir,
    kernel: Kernel,
    disk: Arc<Mutex<FenceJournal>>,
    fence: HostFence,
    now: Instant,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kernel = Kernel::new(folder.path());
        let disk = Arc::default();
        Self {
            fence: fence(&kernel, &disk),
            _folder: folder,
            kernel,
            disk,
            now: Instant::now(),
        }
    }

    /// Another process begins with what is on disk.
    fn restart(&mut self) {
        self.kernel.left.store(usize::MAX, Ordering::Relaxed);
        self.fence = fence(&self.kernel, &self.disk);
    }

    fn look(&mut self, exclusive: &str) -> Vec<String> {
        let pods = BTreeSet::from(["pods.slice".to_owned()]);
        let events = self
            .fence
            .look(cpus(exclusive), cpus("0"), &pods, self.now)
            .unwrap();
        events.iter().map(ToString::to_string).collect()
    }

    fn lists(&self) -> String {
        let lists = self.kernel.lists().into_iter();
        let lists: Vec<_> = lists.map(|(name, list)| format!("{name}={list}")).collect();
        lists.join(" ")
    }
}

fn fence(kernel: &Kernel, disk: &Arc<Mutex<FenceJournal>>) -> HostFence {
    let hierarchy = Hierarchy::V2 {
        root: kernel.root.clone(),
    };
    let cgroups = Cgroups::with_files(hierarchy, Box::new(kernel.clone()));
    let journal = disk.lock().unwrap().clone();
    let (disk, kernel) = (Arc::clone(disk), kernel.clone());
    let save = move |journal: &FenceJournal| {
        kernel.take().map_err(|error| error.to_string())?;
        *disk.lock().unwrap() = journal.clone();
        Ok(())
    };
    HostFence::new(cgroups.into(), journal, Box::new(save))
}

const BEFORE: &str = "user.slice=1-3";

#[test]
fn cgroups_of_the_host_follow_the_exclusive_cpus_and_pods_do_not() {
    let mut host = Host::new();
    assert!(host.look("").is_empty());
    assert_eq!(host.lists(), BEFORE);
    assert_eq!(
        host.look("2-3"),
        [
            "host cgroup init.scope is confined to CPUs 0-1",
            "host cgroup system.slice is confined to CPUs 0-1",
            "host cgroup user.slice is confined to CPUs 1",
        ]
    );
    assert_eq!(host.lists(), "init.scope=0-1 system.slice=0-1 user.slice=1");
    assert_eq!(host.fence.confined(), 3);
    assert!(host.look("2-3").is_empty(), "nothing has changed");
    // A login, and pods, of which the fence has not heard before.
    for name in ["machine.slice", "pods.slice"] {
        fs::create_dir(host.kernel.root.join(name)).unwrap();
        host.kernel.have(name, "");
    }
    host.look("2-3");
    assert_eq!(
        host.lists(),
        "init.scope=0-1 machine.slice=0-1 system.slice=0-1 user.slice=1"
    );
    host.look("3");
    assert_eq!(
        host.lists(),
        "init.scope=0-2 machine.slice=0-2 system.slice=0-2 user.slice=1-2"
    );
    fs::remove_dir_all(host.kernel.root.join("machine.slice")).unwrap();
    assert!(
        host.look("")
            .contains(&"host cgroup user.slice has its CPUs back: 1-3".to_owned())
    );
    assert_eq!(host.lists(), BEFORE);
    assert_eq!(*host.disk.lock().unwrap(), FenceJournal::default());
}

#[test]
fn reserved_cpus_stay_and_a_cgroup_whose_cpus_are_all_exclusive_keeps_them() {
    let mut host = Host::new();
    let said = host.look("0-3");
    assert_eq!(host.lists(), "init.scope=0 system.slice=0 user.slice=1-3");
    let keeps = "host cgroup user.slice keeps its CPUs: all of them are exclusive".to_owned();
    assert!(said.contains(&keeps), "{said:?}");
    assert!(host.look("0-3").is_empty(), "it is said once");
}

#[test]
fn what_another_program_sets_counts_from_then_on_and_is_fenced_later_and_later() {
    let mut host = Host::new();
    host.look("2-3");
    // As `systemctl set-property system.slice AllowedCPUs=1-2`.
    host.kernel.have("system.slice", "1-2");
    assert_eq!(
        host.look("2-3"),
        [
            "another program set the CPUs of host cgroup system.slice to 1-2; it is fenced again in 5 s"
        ]
    );
    assert!(host.look("2-3").is_empty());
    assert!(host.lists().contains("system.slice=1-2 "));
    host.now += FIRST_PAUSE;
    host.look("2-3");
    assert!(host.lists().contains("system.slice=1 "), "{}", host.lists());
    host.kernel.have("system.slice", "");
    let said = host.look("2-3");
    assert!(
        said[0].ends_with("those of its parent; it is fenced again in 10 s"),
        "{said:?}"
    );
    host.now += FIRST_PAUSE * 2;
    host.look("2-3");
    assert!(host.lists().contains("system.slice=0-1"));
    host.look("");
    assert_eq!(host.lists(), BEFORE);
}

#[test]
fn what_another_program_set_while_no_daemon_ran_is_not_overwritten() {
    let mut host = Host::new();
    host.look("2-3");
    host.kernel.have("system.slice", "0-2");
    host.restart();
    let said: Vec<_> = host
        .fence
        .give_back()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        said.contains(
            &"another program set the CPUs of host cgroup system.slice to 0-2; it keeps them"
                .to_owned()
        )
    );
    assert_eq!(host.lists(), format!("system.slice=0-2 {BEFORE}"));
}

#[test]
fn whatever_write_is_the_last_before_a_crash_all_is_given_back() {
    for controller in [true, false] {
        let mut writes = 0;
        loop {
            let mut host = Host::new();
            if !controller {
                host.kernel
                    .write(&host.kernel.root.join("cgroup.subtree_control"), "-cpuset")
                    .unwrap();
            }
            let before = host.lists();
            host.kernel.left.store(writes, Ordering::Relaxed);
            for exclusive in ["2-3", "3", "", "1"] {
                host.look(exclusive);
                host.now += LONGEST_PAUSE;
            }
            let crashed = host.kernel.left.load(Ordering::Relaxed) == 0;
            host.restart();
            let events = host.fence.give_back();
            assert!(!events.iter().any(FenceEvent::is_failure), "{events:?}");
            assert_eq!(host.lists(), before, "after {writes} writes: {events:?}");
            assert_eq!(host.fence.lacks_controller(), !controller, "{events:?}");
            assert_eq!(*host.disk.lock().unwrap(), FenceJournal::default());
            if !crashed {
                break;
            }
            writes += 1;
        }
        assert!(writes > 10, "{writes}");
    }
}

#[test]
fn the_controller_stays_where_another_program_uses_it_by_then() {
    let mut host = Host::new();
    let control = host.kernel.root.join("cgroup.subtree_control");
    host.kernel.write(&control, "-cpuset").unwrap();
    host.look("3");
    assert!(host.disk.lock().unwrap().controller_enabled);
    host.kernel.have("elsewhere", "1");
    let said: Vec<_> = host
        .fence
        .give_back()
        .iter()
        .map(ToString::to_string)
        .collect();
    let stays = "the cpuset controller stays on in the root cgroup: it is in use".to_owned();
    assert!(said.contains(&stays), "{said:?}");
    assert_eq!(host.lists(), "elsewhere=1");
}

#[test]
fn nothing_is_written_before_the_journal_nor_to_a_partition() {
    let mut host = Host::new();
    let partition = host.kernel.root.join("user.slice/cpuset.cpus.partition");
    fs::write(partition, "root\n").unwrap();
    host.kernel.left.store(0, Ordering::Relaxed);
    let said = host.look("3");
    assert_eq!(
        said,
        ["host cgroups stay as they are, for the journal cannot be written: out of order"]
    );
    assert_eq!(host.lists(), BEFORE);
    host.kernel.left.store(usize::MAX, Ordering::Relaxed);
    host.look("3");
    assert_eq!(
        host.lists(),
        "init.scope=0-2 system.slice=0-2 user.slice=1-3"
    );
}

#[test]
fn a_shadow_decides_the_same_and_writes_nothing() {
    let (mut host, mut fenced) = (Host::new(), Host::new());
    host.fence = HostFence::shadow(Arc::clone(&host.fence.cgroups));
    host.kernel.left.store(0, Ordering::Relaxed);
    for exclusive in ["2-3", "2-3", "3", ""] {
        let said = host.look(exclusive);
        assert_eq!(said, fenced.look(exclusive));
        assert_eq!(host.fence.confined(), fenced.fence.confined());
    }
    assert_eq!(host.lists(), BEFORE);
}

#[test]
fn the_top_of_a_containers_cgroup_is_its_pods() {
    let tree = crate::enforce::test_support::FakeTree::v2();
    let places = [
        tree.container("kubepods.slice/x", "0123456789ab", "0", "0"),
        Place {
            id: "absent",
            parent: "/pods.slice/kubepods/x",
        },
        Place {
            id: "absent",
            parent: "a-b.slice:cri:x",
        },
    ];
    let tops = pods_cgroups(&tree.cgroups, places);
    for top in ["kubepods.slice", "pods.slice", "a.slice"] {
        assert!(tops.contains(top), "{tops:?}");
    }
}
