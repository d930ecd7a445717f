//! The cgroups that hold all pods: what they lack no container can have.

use super::mount::Hierarchy;
use resmgr_topology::CpuSet;
use std::{collections::BTreeSet, fs, io};

/// The cgroup of all pods, by the driver of the kubelet.
pub(super) const NAMES: [&str; 2] = ["kubepods", "kubepods.slice"];

/// Whether a cgroup of this name holds all pods.
pub(super) fn holds_all_pods(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Where the kubelet keeps its pods.
#[derive(Debug)]
pub struct PodsCgroups {
    hierarchy: Hierarchy,
    paths: BTreeSet<String>,
}

/// CPUs that a cgroup of all pods lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldCpus {
    /// The CPUs; never all of the machine's.
    pub cpus: CpuSet,
    /// The cgroup, as a path from the root of its hierarchy.
    pub cgroup: String,
}

impl PodsCgroups {
    /// Those that a kubelet has unless it is told otherwise.
    #[must_use]
    pub fn new(hierarchy: Hierarchy) -> Self {
        let paths = NAMES.map(|name| format!("/{name}")).into();
        Self { hierarchy, paths }
    }

    /// Learns where pods are from the parent of a container's cgroup (`--cgroup-root` of the kubelet).
    pub fn learn(&mut self, cgroup_parent: &str) {
        let mut end = 0;
        for name in cgroup_parent.split('/') {
            end += name.len();
            if holds_all_pods(name) {
                let path = cgroup_parent.get(..end).unwrap_or_default();
                if !self.paths.contains(path) {
                    self.paths.insert(path.to_owned());
                }
                return;
            }
            end += 1;
        }
    }

    /// The CPUs of `online` that a cgroup of all pods lacks.
    ///
    /// # Errors
    /// When such a cgroup exists and its CPUs cannot be read.
    pub fn withheld(&self, online: &CpuSet) -> io::Result<Option<WithheldCpus>> {
        // Under version 1 the file says what a cgroup has, and a CPU that goes offline leaves it for good.
        let file = match self.hierarchy {
            Hierarchy::V1 { .. } => "cpuset.cpus",
            Hierarchy::V2 { .. } => "cpuset.cpus.effective",
        };
        let root = self.hierarchy.cpuset_root();
        for cgroup in &self.paths {
            let path = root.join(cgroup.trim_start_matches('/')).join(file);
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("{}: {error}", path.display()),
                    ));
                }
            };
            let has: CpuSet = text.trim().parse().map_err(|error| {
                let why = format!("{}: {error}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?;
            let cpus = online.difference(&has);
            // Under version 1 a cgroup has none until something is put into it.
            if !cpus.is_empty() && cpus != *online {
                let cgroup = cgroup.clone();
                return Ok(Some(WithheldCpus { cpus, cgroup }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn cpus(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    fn write(root: &Path, cgroup: &str, file: &str, text: &str) {
        let directory = root.join(cgroup);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(file), text).unwrap();
    }

    #[test]
    fn what_the_cgroup_of_all_pods_lacks_is_withheld() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path().to_owned();
        let mut pods = PodsCgroups::new(Hierarchy::V2 { root: root.clone() });
        let withheld = |pods: &PodsCgroups| pods.withheld(&cpus("0-7")).unwrap();
        assert_eq!(withheld(&pods), None, "there are no pods");
        write(&root, "kubepods.slice", "cpuset.cpus.effective", "0-7\n");
        assert_eq!(withheld(&pods), None);
        write(&root, "kubepods.slice", "cpuset.cpus.effective", "2-9\n");
        let expected = |cgroup: &str| {
            Some(WithheldCpus {
                cpus: cpus("0-1"),
                cgroup: cgroup.to_owned(),
            })
        };
        assert_eq!(withheld(&pods), expected("/kubepods.slice"));
        write(&root, "kubepods.slice", "cpuset.cpus.effective", "0-7\n");
        write(&root, "node/kubepods", "cpuset.cpus.effective", "2-7\n");
        assert_eq!(withheld(&pods), None, "not known yet");
        pods.learn("/node/kubepods/burstable/pod1");
        assert_eq!(withheld(&pods), expected("/node/kubepods"));
        pods.learn("kubepods-burstable-pod1.slice");
        pods.learn("/system");
        assert_eq!(pods.paths.len(), 3);
    }

    #[test]
    fn an_empty_set_of_version_1_withholds_nothing_and_a_broken_one_is_told() {
        let tree = tempfile::tempdir().unwrap();
        let pods = PodsCgroups::new(Hierarchy::V1 {
            cpuset: tree.path().to_owned(),
            cpu: None,
        });
        write(tree.path(), "kubepods", "cpuset.cpus", "\n");
        assert_eq!(pods.withheld(&cpus("0-7")).unwrap(), None);
        write(tree.path(), "kubepods", "cpuset.cpus", "x\n");
        let error = pods.withheld(&cpus("0-7")).unwrap_err();
        assert!(
            error.to_string().contains("kubepods/cpuset.cpus: "),
            "{error}"
        );
    }
}
