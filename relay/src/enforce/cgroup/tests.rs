use super::*;
use crate::enforce::test_support::{FakeTree, KernelCpuset};
use resmgr_topology::CpuSet;
use std::fs;

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn pinned(list: &str) -> CgroupSettings {
    CgroupSettings {
        cpus: cpus(list),
        ..CgroupSettings::default()
    }
}

#[test]
fn a_write_changes_only_what_is_wanted() {
    let tree = FakeTree::v1();
    let place = tree.container("podX", "c1", "0-3", "0");
    tree.cgroups.write(&place, &pinned("1-2")).unwrap();
    let is = tree.cgroups.read(&place).unwrap();
    assert_eq!(
        (is.cpus, is.cpu_shares, is.cpu_quota),
        (cpus("1-2"), Some(1024), Some(20_000))
    );
    let wanted = CgroupSettings {
        cpu_quota: Some(-1),
        cpu_shares: Some(512),
        ..pinned("1-2")
    };
    tree.cgroups.write(&place, &wanted).unwrap();
    let is = tree.cgroups.read(&place).unwrap();
    assert_eq!((is.cpu_shares, is.cpu_quota), (Some(512), Some(-1)));
}

#[test]
fn version_two_writes_weight_and_max_and_reads_the_effective_set() {
    let tree = FakeTree::v2();
    let place = tree.container("podX", "c1", "0-3", "0");
    // The fake keeps its effective set: like a kernel whose parent does not have the CPU.
    let error = tree.cgroups.write(&place, &pinned("1-2")).unwrap_err();
    assert!(
        error.to_string().contains("cpuset.cpus.effective"),
        "{error}"
    );
    let directory = tree.cgroups.locate(&place).unwrap().cpuset;
    fs::write(directory.join("cpuset.cpus.effective"), "1-2\n").unwrap();
    let wanted = CgroupSettings {
        cpu_shares: Some(1024),
        cpu_quota: Some(-1),
        ..pinned("1-2")
    };
    tree.cgroups.write(&place, &wanted).unwrap();
    assert_eq!(
        fs::read_to_string(directory.join("cpu.weight")).unwrap(),
        "39"
    );
    assert_eq!(
        fs::read_to_string(directory.join("cpu.max")).unwrap(),
        "max 100000"
    );
}

#[test]
fn a_vanished_cgroup_is_told_from_a_failure() {
    let tree = FakeTree::v1();
    let place = tree.container("podX", "c1", "0-3", "0");
    tree.cgroups.read(&place).unwrap();
    fs::remove_dir_all(tree.cgroups.locate(&place).unwrap().cpuset).unwrap();
    assert!(
        tree.cgroups
            .write(&place, &pinned("1"))
            .unwrap_err()
            .is_absent()
    );
}

#[test]
fn a_controller_whose_cgroup_comes_later_is_found_when_it_is_there() {
    let tree = FakeTree::v1();
    let place = tree.container("podX", "c1", "0-3", "0");
    let Hierarchy::V1 { cpu: Some(cpu), .. } = tree.cgroups.hierarchy() else {
        panic!("the tree is v1");
    };
    let (there, aside) = (cpu.join("podX/c1"), cpu.join("aside"));
    fs::rename(&there, &aside).unwrap();
    assert_eq!(tree.cgroups.locate(&place).unwrap().cpu, None);
    fs::rename(&aside, &there).unwrap();
    assert_eq!(tree.cgroups.locate(&place).unwrap().cpu, Some(there));
}

#[test]
fn the_kernel_takes_nested_moves_and_restores() {
    let Some(kernel) = KernelCpuset::new("nested") else {
        return;
    };
    let place = kernel.container("c1");
    let directory = kernel.cgroups.locate(&place).unwrap().cpuset;
    let inner = kernel.nested(&directory, "inner");
    let innermost = kernel.nested(&inner, "innermost");
    let read = |directory: &Path| {
        kernel
            .cgroups
            .read_cpus(&directory.join("cpuset.cpus"))
            .unwrap()
    };
    for list in ["0", "1", "0-1", "1", "0"] {
        kernel.cgroups.write(&place, &pinned(list)).unwrap();
        assert_eq!(read(&directory), cpus(list));
        assert_eq!(read(&inner), cpus(list));
        assert_eq!(read(&innermost), cpus(list));
    }
    kernel
        .cgroups
        .restore(&place, &CgroupSettings::default())
        .unwrap();
    assert_eq!(read(&directory), kernel.all);
    assert_eq!(read(&innermost), kernel.all);
}

#[test]
fn a_pod_that_lost_a_cpu_gets_it_back_for_its_container() {
    let Some(kernel) = KernelCpuset::new("widen") else {
        return;
    };
    let place = kernel.container("c1");
    kernel.cgroups.write(&place, &pinned("0")).unwrap();
    let pod = kernel
        .cgroups
        .locate(&place)
        .unwrap()
        .cpuset
        .parent()
        .unwrap()
        .to_owned();
    fs::write(pod.join("cpuset.cpus"), "0").unwrap();
    kernel.cgroups.write(&place, &pinned("1")).unwrap();
    assert_eq!(kernel.cgroups.read(&place).unwrap().cpus, cpus("1"));
}

#[test]
fn the_cgroup_of_all_pods_gets_only_cpus_back_that_were_offline() {
    let Some(kernel) = KernelCpuset::new("withheld") else {
        return;
    };
    let pods = kernel.nested(kernel.root(), "kubepods");
    kernel.nested(&pods, "c1");
    let place = Place {
        id: "c1",
        parent: "kubepods",
    };
    kernel.cgroups.write(&place, &pinned("0")).unwrap();
    fs::write(pods.join("cpuset.cpus"), "0").unwrap();
    let refused = kernel.cgroups.write(&place, &pinned("1")).unwrap_err();
    assert!(matches!(refused, EnforceError::Write { .. }), "{refused}");
    let has = || kernel.cgroups.read_cpus(&pods.join("cpuset.cpus")).unwrap();
    assert_eq!(has(), cpus("0"), "what an operator took stays away");
    kernel.cgroups.set_came_back(cpus("1"));
    kernel.cgroups.write(&place, &pinned("1")).unwrap();
    assert_eq!(has(), cpus("0-1"));
}

#[test]
fn a_cpu_that_does_not_exist_is_refused_with_path_and_value() {
    let Some(kernel) = KernelCpuset::new("refuse") else {
        return;
    };
    let place = kernel.container("c1");
    let error = kernel.cgroups.write(&place, &pinned("2000")).unwrap_err();
    let EnforceError::Write { path, value, .. } = &error else {
        panic!("{error}");
    };
    assert!(path.ends_with("c1/cpuset.cpus"));
    assert_eq!(value, "2000");
}

#[test]
fn what_a_container_was_given_is_found_by_its_id_alone() {
    const ID: &str = "0123456789abcdef";
    for (tree, period) in [(FakeTree::v1(), "cpu.cfs_period_us"), (FakeTree::v2(), "")] {
        let place = tree.container("kubepods/podX", ID, "0-3", "0");
        let cpu = tree.cgroups.locate(&place).unwrap().cpu.unwrap();
        if period.is_empty() {
            // Many shares have the weight 79: the quota tells which.
            fs::write(cpu.join("cpu.weight"), "79").unwrap();
            fs::write(cpu.join("cpu.max"), "200000 100000").unwrap();
        } else {
            fs::write(cpu.join(period), "100000").unwrap();
            fs::write(cpu.join("cpu.shares"), "2048").unwrap();
            fs::write(cpu.join("cpu.cfs_quota_us"), "200000").unwrap();
        }
        let fresh = Cgroups::new(tree.cgroups.hierarchy().clone());
        let origin = CgroupResources {
            parent: "/kubepods/podX".to_owned(),
            cpu_shares: Some(2048),
            cpu_quota: Some(200_000),
            cpu_period: Some(100_000),
        };
        assert_eq!(fresh.origin(ID).unwrap(), origin);
        assert!(fresh.origin("fedcba9876543210").unwrap_err().is_absent());
    }
}
