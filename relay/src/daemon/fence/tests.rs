use super::*;
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

/// A host in a corner of the machine's own cpusets, with a service that runs without end. Removed in the end.
struct Corner {
    hierarchy: Hierarchy,
    service: Child,
    cgroups: Vec<PathBuf>,
}

impl Corner {
    /// `None`, saying so, where the machine has no writable cpusets of two CPUs.
    fn new() -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("skipped: {why}");
            None
        };
        let Ok(machine) = Hierarchy::detect(None) else {
            return skip("no cpuset hierarchy");
        };
        let root = machine
            .cpuset_root()
            .join(format!("cri-resmgr-test-{}-fence", std::process::id()));
        if let Err(error) = fs::create_dir(&root) {
            return skip(&format!("cannot create {}: {error}", root.display()));
        }
        let slice = root.join("system.slice");
        let cgroups = vec![root.clone(), slice.clone(), slice.join("hog.service")];
        let (hierarchy, file) = match machine {
            Hierarchy::V1 { .. } => {
                let cpuset = root.clone();
                (Hierarchy::V1 { cpuset, cpu: None }, "cpuset.cpus")
            }
            Hierarchy::V2 { .. } => (
                Hierarchy::V2 { root: root.clone() },
                "cpuset.cpus.effective",
            ),
        };
        let service = Command::new("nice")
            .args(["-n", "19", "sh", "-c", "while :; do :; done"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let corner = Self {
            hierarchy,
            service,
            cgroups,
        };
        for cgroup in &corner.cgroups {
            if *cgroup != root {
                fs::create_dir(cgroup).unwrap();
            }
            if !corner.hierarchy.is_v2() {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let outer = fs::read(cgroup.parent().unwrap().join(file)).unwrap();
                    fs::write(cgroup.join(file), outer).unwrap();
                }
            }
        }
        let online = fs::read_to_string(root.join(file)).unwrap_or_default();
        if online.parse::<CpuSet>().is_ok_and(|cpus| cpus.len() < 2) {
            return skip("the root hands down no cpusets of two CPUs");
        }
        let procs = corner.cgroups[2].join("cgroup.procs");
        fs::write(procs, corner.service.id().to_string()).unwrap();
        Some(corner)
    }

    fn allowed(&self) -> CpuSet {
        let status = fs::read_to_string(format!("/proc/{}/status", self.service.id())).unwrap();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.unwrap().trim().parse().unwrap()
    }

    /// The CPU that the service ran on last: field 39 of proc_pid_stat(5).
    fn runs_on(&self) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.service.id())).unwrap();
        let (_name, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(36).unwrap().to_owned()
    }

    fn fence(&self, state: &Path) -> HostFence {
        let cgroups = Cgroups::new(self.hierarchy.clone());
        HostFence::new(cgroups.into(), load(state), save_in(state))
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        self.service.kill().unwrap();
        self.service.wait().unwrap();
        for cgroup in self.cgroups.iter().rev() {
            // A process that was killed may be in its cgroup for a moment.
            let gone = (0..100).any(|_| {
                let gone = fs::remove_dir(cgroup).is_ok() || !cgroup.exists();
                if !gone {
                    thread::sleep(Duration::from_millis(20));
                }
                gone
            });
            if !gone {
                eprintln!("cannot remove {}", cgroup.display());
            }
        }
    }
}

#[test]
fn a_service_leaves_an_exclusive_cpu_and_has_it_back_after_a_crash_and_restore() {
    let Some(corner) = Corner::new() else { return };
    let all = corner.allowed();
    let exclusive = CpuSet::from_iter(all.iter().last());
    let rest = all.difference(&exclusive);
    let state = tempfile::tempdir().unwrap();
    let mut fence = corner.fence(state.path());
    let look = |fence: &mut HostFence, exclusive| {
        let none = BTreeSet::new();
        let events = fence.look(exclusive, CpuSet::EMPTY, &none, Instant::now());
        let events = events.unwrap();
        assert!(!events.iter().any(FenceEvent::is_warning), "{events:?}");
    };
    look(&mut fence, exclusive);
    assert_eq!(corner.allowed(), rest);
    let left = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(20));
        rest.to_string() == corner.runs_on() || rest.len() > 1
    });
    assert!(left, "the service runs on CPU {}", corner.runs_on());
    // A daemon that was killed leaves the fence; the next one finds it as it was.
    drop(fence);
    let mut fence = corner.fence(state.path());
    look(&mut fence, exclusive);
    assert_eq!(corner.allowed(), rest);
    drop(fence);
    let text = give_back_in(state.path(), corner.hierarchy.clone()).unwrap();
    assert!(
        text.contains("host cgroup system.slice has its CPUs back"),
        "{text}"
    );
    assert_eq!(corner.allowed(), all);
    let left: Vec<_> = fs::read_dir(state.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_journal_of_an_earlier_boot_is_none() {
    let state = tempfile::tempdir().unwrap();
    let journal = FenceJournal {
        controller_enabled: true,
        ..FenceJournal::default()
    };
    save_in(state.path())(&journal).unwrap();
    assert_eq!(load(state.path()), journal);
    let boot = "another".to_owned();
    StateFile::at(state.path())
        .store(&FenceRecord { boot, journal })
        .unwrap();
    assert_eq!(load(state.path()), FenceJournal::default());
}
