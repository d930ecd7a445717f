//! Compares what is wanted with what the kernel says, and repairs it.

use super::{Actual, CgroupSettings, Cgroups, EnforceError, Place};
use resmgr_policy::ContainerId;
use std::fmt;

/// Which setting drifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `cpuset.cpus`.
    Cpus,
    /// What of it the processes may really use (cgroup v2).
    EffectiveCpus,
    /// `cpuset.mems`.
    Mems,
    /// `cpu.shares` or `cpu.weight`.
    Shares,
    /// The CFS quota.
    Quota,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpus => "cpuset.cpus",
            Self::EffectiveCpus => "cpuset.cpus.effective",
            Self::Mems => "cpuset.mems",
            Self::Shares => "cpu.shares",
            Self::Quota => "cpu.quota",
        })
    }
}

/// A field of a container's cgroup that does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The container that has the cgroup.
    pub container: ContainerId,
    /// What.
    pub field: Field,
    /// What it should say.
    pub wanted: String,
    /// What it said.
    pub found: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of container {} was {:?}, wanted {:?}",
            self.field, self.container, self.found, self.wanted
        )
    }
}

/// What differs. Only what is wanted is compared.
#[must_use]
pub fn compare(
    cgroups: &Cgroups,
    id: &ContainerId,
    wanted: &CgroupSettings,
    actual: &Actual,
) -> Vec<Drift> {
    let mut drifts = Vec::new();
    let mut add = |field, wanted: String, found: String| {
        drifts.push(Drift {
            container: id.clone(),
            field,
            wanted,
            found,
        });
    };
    if !wanted.cpus.is_empty() {
        if wanted.cpus != actual.cpus {
            add(
                Field::Cpus,
                wanted.cpus.to_string(),
                actual.cpus.to_string(),
            );
        } else if wanted.cpus != actual.effective {
            let found = actual.effective.to_string();
            add(Field::EffectiveCpus, wanted.cpus.to_string(), found);
        }
    }
    if let Some(mems) = wanted.mems.as_ref().filter(|mems| !mems.is_empty())
        && **mems != actual.mems
    {
        let list = |nodes: &std::collections::BTreeSet<resmgr_topology::NodeId>| {
            let words: Vec<_> = nodes.iter().map(ToString::to_string).collect();
            words.join(",")
        };
        add(Field::Mems, list(mems), list(&actual.mems));
    }
    if let (Some(shares), Some(is)) = (
        wanted.cpu_shares.filter(|shares| *shares > 0),
        actual.cpu_shares,
    ) && !cgroups.are_shares(is, shares)
    {
        add(Field::Shares, shares.to_string(), is.to_string());
    }
    if let (Some(quota), Some(is)) = (
        wanted.cpu_quota.filter(|quota| *quota != 0),
        actual.cpu_quota,
    ) {
        let unlimited = |quota: i64| quota < 0 || quota == i64::MAX;
        if quota != is && !(unlimited(quota) && unlimited(is)) {
            add(Field::Quota, quota.to_string(), is.to_string());
        }
    }
    drifts
}

/// Checks one container and repairs it.
///
/// # Errors
/// When its cgroup cannot be read, is absent, or cannot be repaired.
pub fn reconcile(
    cgroups: &Cgroups,
    id: &ContainerId,
    place: &Place<'_>,
    wanted: &CgroupSettings,
) -> Result<Vec<Drift>, EnforceError> {
    if wanted.is_nothing() {
        return Ok(Vec::new());
    }
    let actual = cgroups.read(place)?;
    let v2 = cgroups.hierarchy().is_v2();
    let mut drifts = compare(cgroups, id, wanted, &actual);
    let of_cpus = |drift: &Drift| matches!(drift.field, Field::Cpus | Field::EffectiveCpus);
    if drifts.iter().any(of_cpus)
        && let Some(part) = cgroups.online_part(&wanted.cpus)
        && actual.effective == part
        && (!v2 || actual.cpus == wanted.cpus)
    {
        // CPUs went offline, which is no write. The watch over hot-plug has other CPUs chosen.
        drifts.retain(|drift| !of_cpus(drift));
    }
    if !drifts.is_empty() {
        cgroups.write(place, wanted)?;
    }
    Ok(drifts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforce::test_support::{FakeTree, KernelCpuset};

    fn wanted(cpus: &str) -> CgroupSettings {
        CgroupSettings {
            cpus: cpus.parse().unwrap(),
            cpu_quota: Some(-1),
            ..CgroupSettings::default()
        }
    }

    #[test]
    fn drift_is_reported_with_both_values_and_repaired() {
        let tree = FakeTree::v1();
        let place = tree.container("podX", "c1", "0-3", "0");
        let id = ContainerId("c1".into());
        let drifts = reconcile(&tree.cgroups, &id, &place, &wanted("1")).unwrap();
        let words: Vec<_> = drifts.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "cpuset.cpus of container c1 was \"0-3\", wanted \"1\"",
                "cpu.quota of container c1 was \"20000\", wanted \"-1\""
            ]
        );
        assert_eq!(
            reconcile(&tree.cgroups, &id, &place, &wanted("1")).unwrap(),
            []
        );
    }

    /// What the kernel does to a container on CPUs 2 and 3 of four when CPU 3 goes offline.
    fn offline(tree: &FakeTree, files: &[&str]) {
        let root = tree.cgroups.hierarchy().cpuset_root();
        for file in files {
            std::fs::write(root.join(file), "0-2").unwrap();
            std::fs::write(root.join("podX/c1").join(file), "2").unwrap();
        }
    }

    #[test]
    fn cpus_gone_offline_are_not_drift() {
        let id = ContainerId("c1".into());
        for (tree, files) in [
            (FakeTree::v1(), &["cpuset.cpus"][..]),
            (FakeTree::v2(), &["cpuset.cpus.effective"][..]),
        ] {
            let place = tree.container("podX", "c1", "2-3", "0");
            let wanted = CgroupSettings {
                cpus: "2-3".parse().unwrap(),
                ..CgroupSettings::default()
            };
            offline(&tree, files);
            assert_eq!(
                reconcile(&tree.cgroups, &id, &place, &wanted).unwrap(),
                [],
                "{files:?}"
            );
            // A write behind our back is one, offline CPUs or not.
            let root = tree.cgroups.hierarchy().cpuset_root();
            std::fs::write(root.join("podX/c1/cpuset.cpus"), "1").unwrap();
            let drifts = reconcile(&tree.cgroups, &id, &place, &wanted).unwrap();
            assert_eq!(drifts.len(), 1, "{files:?}");
            assert_eq!(drifts[0].found, "1");
        }
    }

    #[test]
    fn the_weight_of_other_shares_is_drift_once_the_runtimes_conversion_is_known() {
        let tree = FakeTree::v2();
        let place = tree.container("podX", "c1", "0-3", "0");
        let weight = tree
            .cgroups
            .locate(&place)
            .unwrap()
            .cpuset
            .join("cpu.weight");
        let half = CgroupSettings {
            cpu_shares: Some(512),
            ..CgroupSettings::default()
        };
        // An older runc for a request of one and a half CPUs; a newer one writes 59 for half a CPU.
        std::fs::write(&weight, "59").unwrap();
        tree.cgroups.learn_weights(&place, 1536, 512);
        let id = ContainerId("c1".into());
        let drifts = reconcile(&tree.cgroups, &id, &place, &half).unwrap();
        assert_eq!(drifts.len(), 1);
        assert_eq!(std::fs::read_to_string(&weight).unwrap(), "20");
    }

    #[test]
    fn what_is_not_ours_is_not_drift() {
        let tree = FakeTree::v1();
        let place = tree.container("podX", "c1", "0-3", "0");
        let id = ContainerId("c1".into());
        assert_eq!(
            reconcile(&tree.cgroups, &id, &place, &CgroupSettings::default()).unwrap(),
            []
        );
    }

    #[test]
    fn the_kernels_own_cpuset_is_repaired() {
        let Some(kernel) = KernelCpuset::new("drift") else {
            return;
        };
        let place = kernel.container("c1");
        let id = ContainerId("c1".into());
        let wanted = CgroupSettings {
            cpus: "1".parse().unwrap(),
            ..CgroupSettings::default()
        };
        assert_eq!(
            reconcile(&kernel.cgroups, &id, &place, &wanted)
                .unwrap()
                .len(),
            1
        );
        assert_eq!(kernel.cgroups.read(&place).unwrap().cpus, wanted.cpus);
    }
}
