//! What the kernel says: the machine in sysfs, the cgroups of containers, the kernel itself.

use crate::enforce::{Cgroups, Hierarchy, Place};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long cgroups are looked at: less than what the whole may take, for then nothing would be had.
const CGROUPS: Duration = Duration::from_secs(4);
/// Containers whose cgroups are looked at.
const MAX_CONTAINERS: usize = 1024;

/// Files of a folder in sysfs that say what a CPU or a node is: `Documentation/ABI/stable/sysfs-devices-system-cpu`,
/// `sysfs-devices-node`.
const SYSFS: [(&str, &[&str]); 5] = [
    (
        "cpu",
        &[
            "online",
            "offline",
            "possible",
            "present",
            "isolated",
            "nohz_full",
            "smt/control",
        ],
    ),
    (
        "cpu/cpu*",
        &[
            "online",
            "cpu_capacity",
            "topology/core_id",
            "topology/cluster_id",
            "topology/die_id",
            "topology/physical_package_id",
            "topology/thread_siblings_list",
        ],
    ),
    (
        "cpu/cpu*/cache/index*",
        &["level", "type", "id", "size", "shared_cpu_list"],
    ),
    ("node", &["online", "possible", "has_cpu", "has_memory"]),
    ("node/node*", &["cpulist", "distance"]),
];

/// Files of a cgroup that say what it may use, of both versions.
const CGROUP: [&str; 12] = [
    "cpuset.cpus",
    "cpuset.cpus.effective",
    "cpuset.effective_cpus",
    "cpuset.cpus.partition",
    "cpuset.cpu_exclusive",
    "cpuset.mems",
    "cpuset.mems.effective",
    "cpu.weight",
    "cpu.max",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
];

/// Parameters of the kernel that concern CPUs and cgroups; others may be secret.
const PARAMETERS: [&str; 14] = [
    "isolcpus",
    "nohz_full",
    "nohz",
    "rcu_nocbs",
    "irqaffinity",
    "maxcpus",
    "nr_cpus",
    "nosmt",
    "numa",
    "numa_balancing",
    "cgroup_disable",
    "cgroup_no_v1",
    "systemd.unified_cgroup_hierarchy",
    "psi",
];

/// Adds `path: value`, where there is such a file.
fn add(text: &mut String, path: &Path) {
    if let Ok(value) = fs::read_to_string(path) {
        let value = value.trim_end().replace('\n', " | ");
        writeln!(text, "{}: {value}", path.display()).expect("a String takes all");
    }
}

/// The folders that a pattern of names with a number at their end leads to, in the order of the numbers.
fn folders(below: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![below.to_owned()];
    for part in pattern.split('/') {
        let Some(prefix) = part.strip_suffix('*') else {
            found.iter_mut().for_each(|folder| folder.push(part));
            continue;
        };
        let numbered = |folder: PathBuf| {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            let numbers = names.filter_map(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
            let mut numbers: Vec<_> = numbers.collect();
            numbers.sort_unstable();
            let folders = numbers
                .into_iter()
                .map(move |number| folder.join(format!("{prefix}{number}")));
            folders.collect::<Vec<_>>()
        };
        found = found.into_iter().flat_map(numbered).collect();
    }
    found
}

/// CPUs, caches and nodes as sysfs has them, `path: value` a line.
///
/// # Errors
/// When there is no sysfs.
pub(super) fn sysfs(host_root: &Path) -> anyhow::Result<String> {
    let system = host_root.join("sys/devices/system");
    let mut text = String::new();
    for (pattern, files) in SYSFS {
        for folder in folders(&system, pattern) {
            for file in files {
                add(&mut text, &folder.join(file));
            }
        }
    }
    anyhow::ensure!(!text.is_empty(), "nothing is below {}", system.display());
    Ok(text)
}

/// What the cgroups of containers and those above them may use, `path: value` a line. A container is an id, and the
/// cgroup parent of its pod or nothing.
///
/// # Errors
/// When the machine has no cgroups of CPU sets.
pub(super) fn cpusets(mount: &Path, containers: &[(String, String)]) -> anyhow::Result<String> {
    let cgroups = Cgroups::new(Hierarchy::detect(Some(mount))?);
    let hierarchy = cgroups.hierarchy();
    let roots: Vec<&Path> = [Some(hierarchy.cpuset_root()), hierarchy.cpu_root()]
        .into_iter()
        .flatten()
        .collect();
    let end = Instant::now() + CGROUPS;
    let (mut folders, mut text) = (BTreeSet::new(), String::new());
    for (place, (id, parent)) in containers.iter().enumerate() {
        if place >= MAX_CONTAINERS || Instant::now() >= end {
            let rest = containers.len() - place;
            writeln!(text, "({rest} more containers are left out)")?;
            break;
        }
        match cgroups.search(&Place { id, parent }) {
            Ok(found) => {
                for folder in [Some(found.cpuset), found.cpu].into_iter().flatten() {
                    let above = folder.ancestors();
                    folders.extend(
                        above
                            .filter(|above| within(above, &roots))
                            .map(Path::to_owned),
                    );
                }
            }
            Err(error) => writeln!(text, "{id}: {error}")?,
        }
    }
    for folder in folders {
        for file in CGROUP {
            add(&mut text, &folder.join(file));
        }
    }
    Ok(text)
}

fn within(folder: &Path, roots: &[&Path]) -> bool {
    roots.iter().any(|root| folder.starts_with(root))
}

/// The kernel, its parameters that concern CPUs, and where cgroups are mounted.
///
/// # Errors
/// When there is no procfs.
pub(super) fn kernel(host_root: &Path, mount: &Path) -> anyhow::Result<String> {
    let read = |path: &str| fs::read_to_string(host_root.join("proc").join(path));
    let mut text = format!("architecture: {}\n", std::env::consts::ARCH);
    for file in ["sys/kernel/osrelease", "sys/kernel/version"] {
        writeln!(text, "{file}: {}", read(file)?.trim_end())?;
    }
    writeln!(text, "parameters: {}", parameters(&read("cmdline")?))?;
    match Hierarchy::detect(Some(mount)) {
        Ok(hierarchy) => writeln!(text, "cpusets: {hierarchy:?}")?,
        Err(error) => writeln!(text, "cpusets: {error}")?,
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        writeln!(text, "mount: {line}")?;
    }
    Ok(text)
}

fn parameters(line: &str) -> String {
    let shown = line.split_whitespace().filter(|parameter| {
        let name = parameter.split('=').next().unwrap_or_default();
        PARAMETERS.contains(&name)
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_shown_in_the_order_of_its_cpus() {
        let root = tempfile::tempdir().unwrap();
        let system = root.path().join("sys/devices/system");
        for (file, value) in [
            ("cpu/online", "0-10\n"),
            ("cpu/cpu10/topology/core_id", "5\n"),
            ("cpu/cpu2/topology/core_id", "1\n"),
            ("cpu/cpu2/cache/index3/level", "3\n"),
            ("cpu/cpufreq/topology/core_id", "9\n"),
            ("node/node0/distance", "10 20\n"),
        ] {
            let path = system.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        let text = sysfs(root.path()).unwrap();
        let below = format!("{}/", system.display());
        assert_eq!(
            text.replace(&below, ""),
            "cpu/online: 0-10\ncpu/cpu2/topology/core_id: 1\ncpu/cpu10/topology/core_id: 5\n\
             cpu/cpu2/cache/index3/level: 3\nnode/node0/distance: 10 20\n"
        );
        assert!(sysfs(&root.path().join("none")).is_err());
    }

    #[test]
    fn of_the_kernels_parameters_those_about_cpus_are_shown() {
        let line =
            "BOOT_IMAGE=/vmlinuz root=/dev/vda token=s3cret isolcpus=2-3 nohz_full=2-3 nosmt\n";
        assert_eq!(parameters(line), "isolcpus=2-3 nohz_full=2-3 nosmt");
    }
}
