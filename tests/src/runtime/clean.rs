//! Taking a private containerd away: processes, mounts, cgroups, shims' sockets.

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

/// Ends all that was started below `folder` and below the cgroup `parent`. Never fails: what cannot
/// be taken away is left, and said.
#[expect(clippy::print_stderr, reason = "leftovers must be seen")]
pub(super) fn all(folder: &Path, parent: &str, child: &mut Child) {
    drop(child.kill().and_then(|()| child.wait()));
    let sockets = shim_sockets(folder);
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let alive: Vec<i32> = shims(folder)
            .into_iter()
            .chain(cgroups(parent).iter().flat_map(|cgroup| members(cgroup)))
            .collect();
        for pid in &alive {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        if alive.is_empty() || Instant::now() > end {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for mount in mounts(folder) {
        umount2(&mount, MntFlags::MNT_DETACH).ok();
    }
    for cgroup in cgroups(parent) {
        while let Err(error) = fs::remove_dir(&cgroup) {
            if Instant::now() > end || error.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if cgroup.exists() {
            eprintln!("left behind: {}", cgroup.display());
        }
    }
    for socket in sockets {
        drop(fs::remove_file(socket));
    }
}

/// Every cgroup below (and with) `parent`, in every hierarchy, deepest first.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let mut found = Vec::new();
    let parent = parent.trim_start_matches('/');
    walk(&base.join(parent), &mut found);
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        walk(&entry.path().join(parent), &mut found);
    }
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
    found.push(folder.to_path_buf());
}

fn members(cgroup: &Path) -> Vec<i32> {
    fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 1)
        .collect()
}

/// The shims of this containerd: those whose command line names its socket.
fn shims(folder: &Path) -> Vec<i32> {
    let folder = folder.to_string_lossy().into_owned();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let line = String::from_utf8_lossy(&line);
                line.contains("containerd-shim") && line.contains(&folder)
            })
        })
        .collect()
}

fn shim_sockets(folder: &Path) -> Vec<PathBuf> {
    let tasks = folder.join("state/io.containerd.runtime.v2.task/k8s.io");
    fs::read_dir(tasks)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("address")).ok())
        .filter_map(|text| Some(PathBuf::from(text.trim().strip_prefix("unix://")?)))
        .collect()
}

/// Mount points below `folder`, latest first.
fn mounts(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .filter(|mount| mount.starts_with(folder))
        .collect();
    found.reverse();
    found
}
