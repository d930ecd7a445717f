//! Cgroup trees for tests: one of plain files, and a corner of the machine's own.

use super::{Cgroups, Hierarchy, Place};
use resmgr_topology::CpuSet;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A hierarchy made of plain files.
#[derive(Debug)]
pub(crate) struct FakeTree {
    _root: tempfile::TempDir,
    pub(crate) cgroups: Cgroups,
}

impl FakeTree {
    pub(crate) fn v1() -> Self {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy::V1 {
            cpuset: root.path().join("cpuset"),
            cpu: Some(root.path().join("cpu")),
        };
        Self {
            cgroups: Cgroups::new(hierarchy),
            _root: root,
        }
    }

    pub(crate) fn v2() -> Self {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy::V2 {
            root: root.path().to_owned(),
        };
        Self {
            cgroups: Cgroups::new(hierarchy),
            _root: root,
        }
    }

    /// Makes the cgroup a runtime would make, with a quota of 20 ms and 1024 shares.
    pub(crate) fn container<'a>(
        &self,
        parent: &'a str,
        id: &'a str,
        cpus: &str,
        mems: &str,
    ) -> Place<'a> {
        let write = |directory: &Path, files: &[(&str, &str)]| {
            let directory = directory.join(parent).join(id);
            fs::create_dir_all(&directory).unwrap();
            for (file, text) in files {
                fs::write(directory.join(file), text).unwrap();
            }
        };
        let sets = [("cpuset.cpus", cpus), ("cpuset.mems", mems)];
        match self.cgroups.hierarchy() {
            Hierarchy::V1 { cpuset, cpu } => {
                write(cpuset, &sets);
                let files = [("cpu.shares", "1024"), ("cpu.cfs_quota_us", "20000")];
                write(cpu.as_ref().unwrap(), &files);
            }
            Hierarchy::V2 { root } => {
                write(root, &sets);
                let files = [
                    ("cpuset.cpus.effective", cpus),
                    ("cpu.weight", "39"),
                    ("cpu.max", "20000 100000"),
                    ("cgroup.procs", ""),
                ];
                write(root, &files);
            }
        }
        Place { id, parent }
    }
}

/// A cgroup of our own in the machine's cgroup v1 cpuset hierarchy; removed in the end.
#[derive(Debug)]
pub(crate) struct KernelCpuset {
    pub(crate) cgroups: Cgroups,
    pub(crate) all: CpuSet,
    root: PathBuf,
}

impl KernelCpuset {
    /// `None`, saying so, where the machine has no writable cgroup v1 cpusets of two CPUs.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("skipped: {why}");
            None
        };
        let Ok(Hierarchy::V1 { cpuset, .. }) = Hierarchy::detect(None) else {
            return skip("no cgroup v1 cpuset hierarchy");
        };
        let all: CpuSet = fs::read_to_string(cpuset.join("cpuset.cpus"))
            .unwrap()
            .parse()
            .unwrap();
        if !"0-1".parse::<CpuSet>().unwrap().is_subset(&all) {
            return skip("CPUs 0 and 1 are not both there");
        }
        let root = cpuset.join(format!("cri-resmgr-test-{}-{name}", std::process::id()));
        if let Err(error) = fs::create_dir(&root) {
            return skip(&format!("cannot create {}: {error}", root.display()));
        }
        let kernel = Self {
            cgroups: Cgroups::new(Hierarchy::V1 {
                cpuset: root.clone(),
                cpu: None,
            }),
            all,
            root,
        };
        kernel.fill(&kernel.root);
        Some(kernel)
    }

    fn fill(&self, directory: &Path) {
        let parent = directory.parent().unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(directory.join(file), fs::read(parent.join(file)).unwrap()).unwrap();
        }
    }

    /// The cgroup that all others are in.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A container's cgroup in `pod`, on all CPUs.
    pub(crate) fn container<'a>(&self, id: &'a str) -> Place<'a> {
        let pod = self.root.join("pod");
        if !pod.exists() {
            fs::create_dir(&pod).unwrap();
            self.fill(&pod);
        }
        self.nested(&pod, id);
        Place { id, parent: "pod" }
    }

    /// A cgroup inside another.
    pub(crate) fn nested(&self, directory: &Path, name: &str) -> PathBuf {
        let inner = directory.join(name);
        fs::create_dir(&inner).unwrap();
        self.fill(&inner);
        inner
    }
}

impl Drop for KernelCpuset {
    fn drop(&mut self) {
        let mut all = vec![self.root.clone()];
        all.extend(super::locate::children(
            &super::MountedFiles::new(self.cgroups.hierarchy().clone()),
            &self.root,
        ));
        for directory in all.iter().rev() {
            if let Err(error) = fs::remove_dir(directory) {
                eprintln!("cannot remove {}: {error}", directory.display());
            }
        }
    }
}
