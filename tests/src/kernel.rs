//! What the kernel says, as opposed to anybody's records.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Whether the machine has only the unified hierarchy (cgroup v2).
#[must_use]
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The folder, below the hierarchy that has cpusets, of the container `id` below `parent`.
///
/// # Errors
/// When there is none.
pub fn cgroup(parent: &str, id: &str) -> Result<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let base = if unified() {
        base.to_path_buf()
    } else {
        base.join("cpuset")
    };
    find(&base.join(parent.trim_start_matches('/')), id)
        .with_context(|| format!("no cgroup of container {id} below {parent}"))
}

fn find(folder: &Path, id: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(id) {
            return Some(entry.path());
        }
        if let Some(found) = find(&entry.path(), id) {
            return Some(found);
        }
    }
    None
}

/// Gives the cgroup of all pods below `parent` these CPUs, as an operator would; makes it if it is not there.
///
/// # Errors
/// When the kernel refuses.
pub fn give_pods(parent: &str, cpus: &str) -> Result<()> {
    let root = if unified() {
        PathBuf::from("/sys/fs/cgroup")
    } else {
        PathBuf::from("/sys/fs/cgroup/cpuset")
    };
    let mut folder = root;
    for name in parent
        .split('/')
        .filter(|name| !name.is_empty())
        .chain(["kubepods"])
    {
        if unified() {
            std::fs::write(folder.join("cgroup.subtree_control"), "+cpuset")?;
        }
        let (outer, inner) = (folder.clone(), folder.join(name));
        std::fs::create_dir_all(&inner)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if !unified() && read(&inner.join(file))?.is_empty() {
                std::fs::write(inner.join(file), read(&outer.join(file))?)?;
            }
        }
        folder = inner;
    }
    std::fs::write(folder.join("cpuset.cpus"), cpus)
        .with_context(|| format!("cannot give {} CPUs {cpus}", folder.display()))
}

/// `cpuset.cpus` of a container's cgroup, in the kernel's list format.
///
/// # Errors
/// When the cgroup or the file is not there.
pub fn cpuset_cpus(parent: &str, id: &str) -> Result<String> {
    read(&cgroup(parent, id)?.join("cpuset.cpus"))
}

/// `cpuset.mems` of a container's cgroup.
///
/// # Errors
/// When the cgroup or the file is not there.
pub fn cpuset_mems(parent: &str, id: &str) -> Result<String> {
    read(&cgroup(parent, id)?.join("cpuset.mems"))
}

/// The CPUs that the kernel lets a container's processes have, whatever was asked for.
///
/// # Errors
/// When the cgroup or the file is not there.
pub fn effective(parent: &str, id: &str) -> Result<String> {
    let file = if unified() {
        "cpuset.cpus.effective"
    } else {
        "cpuset.effective_cpus"
    };
    read(&cgroup(parent, id)?.join(file))
}

/// The processes of a container.
///
/// # Errors
/// When there is no cgroup.
pub fn processes(parent: &str, id: &str) -> Result<Vec<i32>> {
    let procs = read(&cgroup(parent, id)?.join("cgroup.procs"))?;
    procs.lines().map(|pid| Ok(pid.parse::<i32>()?)).collect()
}

/// A file of the first process of a container that consists of texts, each ended by a zero octet:
/// `environ` or `cmdline`.
///
/// # Errors
/// When there is no process.
pub fn texts(parent: &str, id: &str, file: &str) -> Result<Vec<String>> {
    let processes = processes(parent, id)?;
    let pid = processes
        .first()
        .with_context(|| format!("container {id} has no process"))?;
    let bytes = std::fs::read(format!("/proc/{pid}/{file}"))?;
    let texts = bytes
        .split(|byte| *byte == 0)
        .filter(|text| !text.is_empty());
    Ok(texts
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect())
}

/// `Cpus_allowed_list` of every process of a container; they must agree.
///
/// # Errors
/// When there is no process, or two differ.
pub fn allowed(parent: &str, id: &str) -> Result<String> {
    let procs = read(&cgroup(parent, id)?.join("cgroup.procs"))?;
    let mut found: Option<String> = None;
    for pid in procs.lines() {
        // A process may end between the two reads.
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map(str::trim)
            .context("no Cpus_allowed_list")?;
        match &found {
            Some(other) if other != list => bail!("processes of {id} differ: {other} and {list}"),
            _ => found = Some(list.to_owned()),
        }
    }
    found.with_context(|| format!("container {id} has no process"))
}

/// The CPUs that are online.
///
/// # Errors
/// When sysfs is not there.
pub fn online() -> Result<String> {
    read(Path::new("/sys/devices/system/cpu/online"))
}

fn read(path: &Path) -> Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}
