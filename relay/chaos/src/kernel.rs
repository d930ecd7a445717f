//! The kernel's cgroup tree, of version 1 or 2, with its rules for cpusets.
//!
//! | rule (kernel/cgroup/cpuset.c) | version | error |
//! | --- | --- | --- |
//! | a cpuset is part of its parent's | 1 | `EACCES` |
//! | a cpuset holds those of its children | 1 | `EBUSY` |
//! | a cpuset with tasks that has CPUs, or nodes, keeps one | 1, 2 | `ENOSPC` |
//!
//! Under version 2 each other list is legal; what is effective is what the parent has of it, or all of the parent's.

use crate::{Mutation, world::World};
use cri_resmgr::enforce::{
    CgroupFiles, Hierarchy,
    watch::{Noticed, Watch},
};
use resmgr_policy::ContainerId;
use resmgr_sim::random::Random;
use resmgr_topology::CpuSet;
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::Instant;

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

/// By how much the kernel gets a shrinking write late, under [`Mutation::GrowBeforeShrink`].
const LATE: Duration = Duration::from_millis(200);

/// The program that writes a cpuset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    Daemon,
    Runtime,
    /// Another program on the node.
    Foreign,
}

/// One cgroup, of all controllers.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    pub(crate) cpus: CpuSet,
    pub(crate) mems: String,
    pub(crate) shares: u64,
    pub(crate) quota: i64,
    pub(crate) tasks: bool,
    /// When its cpuset was written by anything but the daemon, if the daemon has not written it since.
    pub(crate) disturbed: Option<Instant>,
    /// What the daemon reads, when that is not so yet.
    pretended: Option<CpuSet>,
}

impl Cgroup {
    fn like(parent: &Self) -> Self {
        Self {
            tasks: false,
            disturbed: None,
            pretended: None,
            ..parent.clone()
        }
    }
}

#[derive(Debug)]
pub(crate) struct KernelState {
    /// By their path below the mount.
    pub(crate) cgroups: BTreeMap<PathBuf, Cgroup>,
    pub(crate) online: CpuSet,
    pub(crate) v2: bool,
    /// Whether writes can be noticed at all.
    watchable: bool,
    /// The next write fails.
    pub(crate) fails_next: bool,
    notices: VecDeque<(PathBuf, bool)>,
    watcher: Option<Waker>,
}

impl KernelState {
    pub(crate) fn new(random: &mut Random) -> Self {
        let online = crate::topology().online;
        let mut state = Self {
            cgroups: BTreeMap::new(),
            online,
            v2: random.below(2) == 0,
            watchable: random.below(4) != 0,
            fails_next: false,
            notices: VecDeque::new(),
            watcher: None,
        };
        state.reset();
        state
    }

    /// As after the machine was started.
    pub(crate) fn reset(&mut self) {
        self.cgroups.clear();
        self.notices.clear();
        self.fails_next = false;
        let root = Cgroup {
            cpus: self.online,
            mems: "0-1".to_owned(),
            shares: 1024,
            quota: -1,
            tasks: false,
            disturbed: None,
            pretended: None,
        };
        self.cgroups.insert(PathBuf::new(), root);
    }

    pub(crate) fn hierarchy(&self) -> Hierarchy {
        match self.v2 {
            true => Hierarchy::V2 { root: "/cg".into() },
            false => Hierarchy::V1 {
                cpuset: "/cg/cpuset".into(),
                cpu: Some("/cg/cpu".into()),
            },
        }
    }

    fn mount(&self) -> &'static str {
        match self.v2 {
            true => "/cg",
            false => "/cg/cpuset",
        }
    }

    /// Makes a cgroup and those above it. They inherit, as the kubelet (v1) and the kernel (v2) have it.
    pub(crate) fn create(&mut self, path: &Path) {
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        for pair in above.windows(2) {
            let [parent, path] = pair else { continue };
            if self.cgroups.contains_key(*path) {
                continue;
            }
            let Some(parent) = self.cgroups.get(*parent) else {
                continue;
            };
            let mut cgroup = Cgroup::like(parent);
            cgroup.shares = 1024;
            cgroup.quota = -1;
            if self.v2 {
                cgroup.cpus = CpuSet::EMPTY;
            }
            self.cgroups.insert((*path).to_owned(), cgroup);
        }
    }

    /// Removes a cgroup and all in it.
    pub(crate) fn remove(&mut self, path: &Path) {
        self.cgroups.retain(|name, _cgroup| !name.starts_with(path));
        self.notice(path, true);
    }

    /// The CPUs that tasks there may use.
    pub(crate) fn effective(&self, path: &Path) -> CpuSet {
        let Some(cgroup) = self.cgroups.get(path) else {
            return CpuSet::EMPTY;
        };
        let Some(parent) = path.parent().filter(|_parent| self.v2) else {
            return cgroup.cpus;
        };
        let parent = self.effective(parent);
        let both = cgroup.cpus.intersection(&parent);
        if both.is_empty() { parent } else { both }
    }

    fn directly_below<'a>(
        &'a self,
        path: &'a Path,
    ) -> impl Iterator<Item = (&'a PathBuf, &'a Cgroup)> {
        let all = self.cgroups.iter();
        all.filter(move |(name, _cgroup)| name.parent() == Some(path))
    }

    /// Sets the CPUs of a cgroup, if that is legal.
    pub(crate) fn set_cpus(&mut self, path: &Path, cpus: CpuSet, writer: Writer) -> io::Result<()> {
        let cgroup = self.cgroups.get(path).ok_or(io::ErrorKind::NotFound)?;
        let refused = |number| Err(io::Error::from_raw_os_error(number));
        if !cpus.is_subset(&self.online) && !self.v2 {
            return refused(EINVAL);
        }
        if cgroup.tasks && !cgroup.cpus.is_empty() && cpus.is_empty() {
            return refused(ENOSPC);
        }
        if !self.v2 {
            let parent = path.parent().and_then(|parent| self.cgroups.get(parent));
            if parent.is_none_or(|parent| !cpus.is_subset(&parent.cpus)) {
                return refused(EACCES);
            }
            let mut below = self.directly_below(path);
            if below.any(|(_name, child)| !child.cpus.is_subset(&cpus)) {
                return refused(EBUSY);
            }
        }
        if let Some(cgroup) = self.cgroups.get_mut(path) {
            cgroup.cpus = cpus;
            cgroup.pretended = None;
            cgroup.disturbed = (writer != Writer::Daemon).then(Instant::now);
        }
        self.notice(path, false);
        Ok(())
    }

    fn notice(&mut self, path: &Path, vanished: bool) {
        let notice = (path.to_owned(), vanished);
        if self.notices.back() != Some(&notice) {
            self.notices.push_back(notice); // equal ones that follow each other are one, as with inotify
        }
        self.notices.truncate(4096);
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    fn file(&self, path: &Path, file: &str) -> io::Result<String> {
        let cgroup = self.cgroups.get(path).ok_or(io::ErrorKind::NotFound)?;
        let reads = cgroup.pretended.unwrap_or(cgroup.cpus);
        Ok(match (file, self.v2) {
            ("cpuset.cpus", _) => reads.to_string(),
            ("cpuset.cpus.effective", true) => match cgroup.pretended {
                Some(pretended) => pretended.to_string(),
                None => self.effective(path).to_string(),
            },
            ("cpuset.mems", _) => cgroup.mems.clone(),
            ("cpu.shares", false) => cgroup.shares.to_string(),
            ("cpu.cfs_quota_us", false) => cgroup.quota.to_string(),
            ("cpu.weight", true) => cgroup.shares.to_string(),
            ("cpu.max", true) if cgroup.quota < 0 => "max 100000".to_owned(),
            ("cpu.max", true) => format!("{} 100000", cgroup.quota),
            ("cgroup.subtree_control", true) => "cpuset cpu".to_owned(),
            _ => return Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn set(&mut self, path: &Path, file: &str, value: &str, writer: Writer) -> io::Result<()> {
        let bad = |_error| io::Error::from_raw_os_error(EINVAL);
        let value = value.trim();
        if file == "cpuset.cpus" {
            let cpus = value
                .parse()
                .map_err(|_error| io::Error::from_raw_os_error(EINVAL))?;
            return self.set_cpus(path, cpus, writer);
        }
        let cgroup = self.cgroups.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
        match (file, self.v2) {
            ("cpuset.mems", _) if cgroup.tasks && !cgroup.mems.is_empty() && value.is_empty() => {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            ("cpuset.mems", _) => cgroup.mems = value.to_owned(),
            ("cpu.shares", false) | ("cpu.weight", true) => {
                cgroup.shares = value.parse().map_err(bad)?;
            }
            ("cpu.cfs_quota_us", false) | ("cpu.max", true) => {
                cgroup.quota = value.parse().map_err(bad)?;
            }
            ("cgroup.subtree_control", true) => {}
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    /// A path below a mount as the cgroup's path.
    fn below_mount(&self, path: &Path) -> Option<PathBuf> {
        let roots = ["/cg/cpuset", "/cg/cpu"];
        let roots = roots.iter().filter(|_root| !self.v2).chain(&["/cg"]);
        let mut roots = roots.filter_map(|root| path.strip_prefix(root).ok());
        roots.next().map(Path::to_owned)
    }

    fn split(&self, path: &Path) -> io::Result<(PathBuf, String)> {
        let below = self.below_mount(path).ok_or(io::ErrorKind::NotFound)?;
        let file = below.file_name().ok_or(io::ErrorKind::NotFound)?;
        let file = file.to_string_lossy().into_owned();
        let directory = below.parent().map(Path::to_owned).unwrap_or_default();
        Ok((directory, file))
    }
}

/// The files as the daemon of one start has them.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedFiles {
    pub(crate) world: World,
    pub(crate) start: u64,
}

impl CgroupFiles for SimulatedFiles {
    fn read(&self, path: &Path) -> io::Result<String> {
        let world = self.world.lock();
        match path.to_str() {
            Some("/sys/devices/system/cpu/possible") => return Ok(world.kernel.online.to_string()),
            Some("/sys/devices/system/node/possible") => return Ok("0-1".to_owned()),
            _ => {}
        }
        let (directory, file) = world.kernel.split(path)?;
        world.kernel.file(&directory, &file)
    }

    fn set_cpus(&self, directory: &Path, list: &str) -> io::Result<()> {
        self.write(&directory.join("cpuset.cpus"), list)
    }

    fn set_mems(&self, directory: &Path, list: &str) -> io::Result<()> {
        self.write(&directory.join("cpuset.mems"), list)
    }

    fn set_shares(&self, directory: &Path, shares: u64) -> io::Result<()> {
        let v2 = self.world.lock().kernel.v2;
        let file = if v2 { "cpu.weight" } else { "cpu.shares" };
        self.write(&directory.join(file), &shares.to_string())
    }

    fn set_quota(&self, directory: &Path, quota: i64) -> io::Result<()> {
        let v2 = self.world.lock().kernel.v2;
        let file = if v2 { "cpu.max" } else { "cpu.cfs_quota_us" };
        self.write(&directory.join(file), &quota.to_string())
    }

    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        let mut guard = self.world.lock();
        let world = &mut *guard;
        world.effect(self.start)?;
        let (directory, file) = world.kernel.split(path)?;
        if std::mem::take(&mut world.kernel.fails_next) {
            world.event(format_args!("kernel {} = {value}: EIO", path.display()));
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if file == "cpuset.cpus" && world.mutation == Some(Mutation::GrowBeforeShrink) {
            let cpus: CpuSet = value.parse().unwrap_or_default();
            if let Some(cgroup) = world.kernel.cgroups.get_mut(&directory)
                && cpus.is_subset(&cgroup.cpus)
                && !cpus.is_empty()
            {
                cgroup.pretended = Some(cpus);
                drop(guard);
                self.shrink_late(directory, cpus);
                return Ok(());
            }
        }
        let done = world.kernel.set(&directory, &file, value, Writer::Daemon);
        let how = match &done {
            Ok(()) => String::new(),
            Err(error) => format!(": {error}"),
        };
        world.event(format_args!(
            "kernel {} = {}{how}",
            path.display(),
            value.trim()
        ));
        done
    }

    fn is_directory(&self, path: &Path) -> bool {
        let world = self.world.lock();
        let below = world.kernel.below_mount(path);
        below.is_some_and(|below| world.kernel.cgroups.contains_key(&below))
    }

    fn directories(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let world = self.world.lock();
        let below = world
            .kernel
            .below_mount(path)
            .ok_or(io::ErrorKind::NotFound)?;
        let inside = world.kernel.directly_below(&below);
        let names = inside.filter_map(|(name, _cgroup)| name.file_name());
        Ok(names.map(|name| path.join(name)).collect())
    }

    fn watch(&self) -> io::Result<Box<dyn Watch>> {
        let mut world = self.world.lock();
        if !world.kernel.watchable {
            return Err(io::Error::from_raw_os_error(24)); // EMFILE
        }
        world.kernel.notices.clear();
        Ok(Box::new(SimulatedWatch {
            world: self.world.clone(),
            watched: BTreeMap::new(),
        }))
    }
}

impl SimulatedFiles {
    fn shrink_late(&self, directory: PathBuf, cpus: CpuSet) {
        let world = self.world.clone();
        self.world.spawn(async move {
            tokio::time::sleep(LATE).await;
            let mut world = world.lock();
            let cgroup = world.kernel.cgroups.get(&directory);
            if cgroup.is_some_and(|cgroup| cgroup.pretended == Some(cpus)) {
                let _late_or_refused = world.kernel.set_cpus(&directory, cpus, Writer::Daemon);
            }
        });
    }
}

#[derive(Debug)]
struct SimulatedWatch {
    world: World,
    watched: BTreeMap<ContainerId, PathBuf>,
}

impl Watch for SimulatedWatch {
    fn watches(&self, id: &ContainerId) -> bool {
        self.watched.contains_key(id)
    }

    fn add(&mut self, id: &ContainerId, directory: &Path) -> io::Result<()> {
        let world = self.world.lock();
        let below = directory.strip_prefix(world.kernel.mount());
        let below = below.map_err(|_elsewhere| io::ErrorKind::NotFound)?;
        if !world.kernel.cgroups.contains_key(below) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.watched.insert(id.clone(), below.to_owned());
        Ok(())
    }

    fn remove(&mut self, id: &ContainerId) {
        self.watched.remove(id);
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Noticed>> {
        let mut world = self.world.lock();
        while let Some((path, vanished)) = world.kernel.notices.pop_front() {
            let mut watched = self.watched.iter();
            if let Some((id, _path)) = watched.find(|(_id, watched)| **watched == path) {
                let id = id.clone();
                return Poll::Ready(Ok(match vanished {
                    true => Noticed::Vanished(id),
                    false => Noticed::Written(id),
                }));
            }
        }
        world.kernel.watcher = Some(context.waker().clone());
        Poll::Pending
    }
}
