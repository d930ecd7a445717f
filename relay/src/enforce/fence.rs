//! Keeps services of the host off exclusive CPUs.
//!
//! The slices and scopes at the top of the hierarchy that hold no pods (`system.slice`, `user.slice`, `init.scope`) get
//! the CPUs that they had, less those that containers hold exclusively.
//!
//! ```text
//! look:  cgroups read ─▶ HostCpus::confine ─▶ journal on disk ─▶ cpuset.cpus written, read back
//! ```
//!
//! What a cgroup had is in the journal before the first write to it, and stays there until the cgroup has it back. The fence
//! never moves a task, and never writes to a cgroup that holds containers, or that an operator made a partition of.

use super::{Cgroups, EnforceError, Hierarchy, Place, locate};
use resmgr_topology::CpuSet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Pause after the first time that another program wrote to a cgroup, or that the kernel refused a value.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause; each is twice as long as the one before.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A cgroup that was left alone for this long after its pause begins with the first pause again.
const QUIET: Duration = Duration::from_secs(600);

/// What decides on which CPUs services of the host may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCpus {
    /// The CPUs that a cgroup can have now.
    pub online: CpuSet,
    /// The CPUs that containers hold exclusively.
    pub exclusive: CpuSet,
    /// The CPUs that are set aside for system tasks: no cgroup loses one of them.
    pub reserved: CpuSet,
}

/// All CPUs of a cgroup are exclusive: it keeps them, for it must have a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NothingLeft;

impl HostCpus {
    /// What a cgroup keeps of its `cpuset.cpus`, which is empty where it has what its parent has.
    ///
    /// # Errors
    /// When it would keep no CPU.
    pub fn confine(&self, before: &CpuSet) -> Result<CpuSet, NothingLeft> {
        let mut usable = before.intersection(&self.online);
        if usable.is_empty() {
            usable = self.online;
        }
        let kept = usable.difference(&self.exclusive.difference(&self.reserved));
        if kept.is_empty() {
            Err(NothingLeft)
        } else if kept == usable {
            Ok(*before)
        } else {
            Ok(kept)
        }
    }
}

/// What must be undone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceJournal {
    /// Whether the cpuset controller was enabled in the root (cgroup v2), where it was not before.
    pub controller_enabled: bool,
    /// The fenced cgroups, by name.
    pub cgroups: BTreeMap<String, FencedCgroup>,
}

/// A cgroup that is fenced, or about to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedCgroup {
    /// Its `cpuset.cpus` before; empty where it had what its parent has.
    pub before: CpuSet,
    /// What it had when it was last written.
    pub from: CpuSet,
    /// What was then written. A cgroup that has neither was written by another program.
    pub to: CpuSet,
    /// `cpuset.cpus` of the cgroups inside before, by path from the root: cgroup v1 narrows them with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inside: BTreeMap<String, CpuSet>,
}

impl FencedCgroup {
    fn new(has: CpuSet) -> Self {
        Self {
            before: has,
            from: has,
            to: has,
            inside: BTreeMap::new(),
        }
    }
}

/// What happened to a cgroup of the host, or would have.
#[derive(Debug)]
pub enum FenceEvent {
    /// It was confined to these CPUs.
    Confined {
        /// Its name.
        cgroup: String,
        /// The CPUs.
        cpus: CpuSet,
    },
    /// It has what it had before.
    GivenBack {
        /// Its name.
        cgroup: String,
        /// The CPUs; empty for those of its parent.
        cpus: CpuSet,
    },
    /// All its CPUs are exclusive: it keeps them.
    NothingLeft {
        /// Its name.
        cgroup: String,
    },
    /// Another program has set its CPUs, which count as what it had before from now on.
    Rewritten {
        /// Its name.
        cgroup: String,
        /// The CPUs; empty for those of its parent.
        cpus: CpuSet,
        /// How long it is left alone; `None`: for good, for the fence is given up.
        pause: Option<Duration>,
    },
    /// The cpuset controller was taken from the root again, or stays for another program uses it.
    Controller {
        /// Whether it was taken.
        taken: bool,
    },
    /// A cgroup could not be read or written.
    Failed(EnforceError),
    /// The journal could not be written: no cgroup was either.
    Unsaved(String),
}

impl FenceEvent {
    /// Whether an operator has to know.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        !matches!(
            self,
            Self::Confined { .. } | Self::GivenBack { .. } | Self::Controller { .. }
        )
    }

    /// Whether something was left undone.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Unsaved(_))
    }
}

impl fmt::Display for FenceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |cpus: &CpuSet| match cpus.is_empty() {
            true => "those of its parent".to_owned(),
            false => cpus.to_string(),
        };
        match self {
            Self::Confined { cgroup, cpus } => {
                write!(f, "host cgroup {cgroup} is confined to CPUs {cpus}")
            }
            Self::GivenBack { cgroup, cpus } => {
                write!(f, "host cgroup {cgroup} has its CPUs back: {}", list(cpus))
            }
            Self::NothingLeft { cgroup } => write!(
                f,
                "host cgroup {cgroup} keeps its CPUs: all of them are exclusive"
            ),
            Self::Rewritten {
                cgroup,
                cpus,
                pause,
            } => {
                let cpus = list(cpus);
                write!(
                    f,
                    "another program set the CPUs of host cgroup {cgroup} to {cpus}"
                )?;
                match pause {
                    Some(pause) => write!(f, "; it is fenced again in {} s", pause.as_secs()),
                    None => f.write_str("; it keeps them"),
                }
            }
            Self::Controller { taken: true } => {
                f.write_str("the cpuset controller is off again in the root cgroup")
            }
            Self::Controller { taken: false } => {
                f.write_str("the cpuset controller stays on in the root cgroup: it is in use")
            }
            Self::Failed(error) => {
                write!(f, "{error}")?;
                match std::error::Error::source(error) {
                    Some(source) => write!(f, ": {source}"),
                    None => Ok(()),
                }
            }
            Self::Unsaved(problem) => write!(
                f,
                "host cgroups stay as they are, for the journal cannot be written: {problem}"
            ),
        }
    }
}

/// Puts the journal on disk; when it returns, the journal survives a power cut.
pub type SaveJournal = Box<dyn Fn(&FenceJournal) -> Result<(), String> + Send>;

/// The cgroups of the host that are kept off exclusive CPUs.
pub struct HostFence {
    cgroups: Arc<Cgroups>,
    journal: FenceJournal,
    /// `None`: nothing is written, and the journal holds what would have been.
    save: Option<SaveJournal>,
    pauses: BTreeMap<String, FencePause>,
    crowded: BTreeSet<String>,
}

/// How long a cgroup is left alone.
#[derive(Clone, Copy, Debug)]
struct FencePause {
    length: Duration,
    until: Instant,
}

impl fmt::Debug for HostFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostFence")
            .field("journal", &self.journal)
            .field("writes", &self.save.is_some())
            .finish_non_exhaustive()
    }
}

impl HostFence {
    /// The fence that an earlier run left.
    #[must_use]
    pub fn new(cgroups: Arc<Cgroups>, journal: FenceJournal, save: SaveJournal) -> Self {
        Self {
            journal,
            save: Some(save),
            ..Self::shadow(cgroups)
        }
    }

    /// A fence that decides and writes nothing.
    #[must_use]
    pub fn shadow(cgroups: Arc<Cgroups>) -> Self {
        Self {
            cgroups,
            journal: FenceJournal::default(),
            save: None,
            pauses: BTreeMap::new(),
            crowded: BTreeSet::new(),
        }
    }

    /// How many cgroups are confined.
    #[must_use]
    pub fn confined(&self) -> usize {
        let cgroups = self.journal.cgroups.values();
        cgroups.filter(|cgroup| cgroup.to != cgroup.before).count()
    }

    /// Confines the cgroups of the host to CPUs that are not exclusive, and gives back what no longer is; `pods` are the cgroups
    /// that hold containers ([`pods_cgroups`]). Blocks.
    ///
    /// # Errors
    /// When the hierarchy cannot be read. What fails of a single cgroup is an event, and tried again after a pause.
    pub fn look(
        &mut self,
        exclusive: CpuSet,
        reserved: CpuSet,
        pods: &BTreeSet<String>,
        now: Instant,
    ) -> Result<Vec<FenceEvent>, EnforceError> {
        let cpus = HostCpus {
            online: self.online()?,
            exclusive,
            reserved,
        };
        let root = self.root().to_owned();
        let mut events = Vec::new();
        let mut next = self.journal.clone();
        let mut due = Vec::new();
        for name in self.names()? {
            let directory = root.join(&name);
            let known = next.cgroups.remove(&name);
            let kernel = match self.read(&directory) {
                Ok(kernel) => kernel,
                Err(error) if error.is_absent() => continue,
                Err(error) => {
                    next.cgroups.extend(known.map(|known| (name, known)));
                    events.push(FenceEvent::Failed(error));
                    continue;
                }
            };
            let has = match &known {
                Some(known) if self.save.is_none() => known.to,
                _ => kernel,
            };
            // A partition is its operator's; a cgroup of version 1 without CPUs holds no task.
            if self.is_partition(&directory) || (has.is_empty() && !self.is_v2()) {
                continue;
            }
            let mut fenced = known.clone().unwrap_or_else(|| FencedCgroup::new(has));
            if !self.is_ours(&fenced, &has, &cpus.online) {
                let pause = Some(self.pause(&name, now));
                fenced = FencedCgroup::new(has);
                let cgroup = name.clone();
                events.push(FenceEvent::Rewritten {
                    cgroup,
                    cpus: has,
                    pause,
                });
            }
            let confined = match pods.contains(&name) {
                true => Ok(fenced.before),
                false => cpus.confine(&fenced.before),
            };
            let target = confined.unwrap_or(fenced.before);
            if confined.is_ok() {
                self.crowded.remove(&name);
            } else if self.crowded.insert(name.clone()) {
                let cgroup = name.clone();
                events.push(FenceEvent::NothingLeft { cgroup });
            }
            if self.same(&has, &target, &cpus.online) {
                (fenced.from, fenced.to) = (target, target);
                if target != fenced.before {
                    next.cgroups.insert(name, fenced);
                }
                continue;
            }
            if self.rests(&name, now) {
                next.cgroups.extend(known.map(|_| (name, fenced)));
                continue;
            }
            if fenced.from == fenced.before && fenced.to == fenced.before {
                fenced.inside = self.inside(&directory)?;
            }
            (fenced.from, fenced.to) = (has, target);
            next.cgroups.insert(name.clone(), fenced);
            due.push(name);
        }
        next.controller_enabled |= !due.is_empty() && self.lacks_controller();
        if next != self.journal && !self.store(next, &mut events) {
            return Ok(events);
        }
        let mut given_back = false;
        for name in due {
            let Some(fenced) = self.journal.cgroups.get(&name).cloned() else {
                continue;
            };
            match self.write(&root, &name, &fenced) {
                Ok(event) => {
                    given_back |= matches!(event, FenceEvent::GivenBack { .. });
                    events.push(event);
                }
                Err(error) => {
                    self.pause(&name, now);
                    events.push(FenceEvent::Failed(error));
                }
            }
        }
        if given_back {
            self.store(self.journal.clone(), &mut events);
        }
        Ok(events)
    }

    /// Gives every cgroup back what it had before, and ends the fence. Blocks.
    pub fn give_back(&mut self) -> Vec<FenceEvent> {
        let mut events = Vec::new();
        if self.save.is_none() || self.journal == FenceJournal::default() {
            return events;
        }
        let online = match self.online() {
            Ok(online) => online,
            Err(error) => return vec![FenceEvent::Failed(error)],
        };
        let root = self.root().to_owned();
        for (name, mut fenced) in self.journal.cgroups.clone() {
            let has = match self.read(&root.join(&name)) {
                Ok(has) => has,
                Err(error) => {
                    if error.is_absent() {
                        self.journal.cgroups.remove(&name);
                    } else {
                        events.push(FenceEvent::Failed(error));
                    }
                    continue;
                }
            };
            if !self.is_ours(&fenced, &has, &online) {
                self.journal.cgroups.remove(&name);
                events.push(FenceEvent::Rewritten {
                    cgroup: name,
                    cpus: has,
                    pause: None,
                });
                continue;
            }
            fenced.to = fenced.before;
            events.push(match self.write(&root, &name, &fenced) {
                Ok(event) => event,
                Err(error) => FenceEvent::Failed(error),
            });
        }
        if self.journal.controller_enabled && self.journal.cgroups.is_empty() {
            match self.take_controller() {
                Ok(taken) => {
                    self.journal.controller_enabled = false;
                    events.push(FenceEvent::Controller { taken });
                }
                Err(error) => events.push(FenceEvent::Failed(error)),
            }
        }
        self.store(self.journal.clone(), &mut events);
        events
    }

    /// Carries out what the journal says of a cgroup.
    fn write(
        &mut self,
        root: &Path,
        name: &str,
        fenced: &FencedCgroup,
    ) -> Result<FenceEvent, EnforceError> {
        let (cgroup, cpus) = (name.to_owned(), fenced.to);
        let is_given_back = fenced.to == fenced.before;
        if self.save.is_some() {
            self.set(&root.join(name), &fenced.to)?;
            // Outermost first: a cgroup inside may have what the cgroup around it has.
            for (path, cpus) in fenced.inside.iter().filter(|_| is_given_back) {
                match self.set(&root.join(path), cpus) {
                    Err(error) if !error.is_absent() => return Err(error),
                    _set_or_gone => {}
                }
            }
        }
        if is_given_back {
            self.journal.cgroups.remove(name);
            return Ok(FenceEvent::GivenBack { cgroup, cpus });
        }
        let written = FencedCgroup {
            from: fenced.to,
            ..fenced.clone()
        };
        self.journal.cgroups.insert(cgroup.clone(), written);
        Ok(FenceEvent::Confined { cgroup, cpus })
    }

    /// Sets `cpuset.cpus`, and reads it back. An empty set is that of the parent (cgroup v2).
    fn set(&self, directory: &Path, cpus: &CpuSet) -> Result<(), EnforceError> {
        if cpus.is_empty() {
            return match self.cgroups.inherit(directory, "cpuset.cpus", |_| Ok(())) {
                // Where the controller is off, no cgroup has CPUs of its own.
                Err(error) if self.lacks_controller() && error.is_absent() => Ok(()),
                done => done,
            };
        }
        self.cgroups.write_cpus(directory, cpus)
    }

    /// Puts the journal on disk before it counts; whether that succeeded.
    fn store(&mut self, journal: FenceJournal, events: &mut Vec<FenceEvent>) -> bool {
        let saved = match &self.save {
            Some(save) => save(&journal),
            None => Ok(()),
        };
        match saved {
            Ok(()) => {
                self.journal = journal;
                true
            }
            Err(problem) => {
                events.push(FenceEvent::Unsaved(problem));
                false
            }
        }
    }

    /// Whether another program did not write to the cgroup since the fence did.
    fn is_ours(&self, fenced: &FencedCgroup, has: &CpuSet, online: &CpuSet) -> bool {
        self.same(has, &fenced.from, online) || self.same(has, &fenced.to, online)
    }

    /// Whether a cgroup has what it was given: under cgroup v1 the kernel takes offline CPUs out of the file.
    fn same(&self, has: &CpuSet, given: &CpuSet, online: &CpuSet) -> bool {
        has == given || (!self.is_v2() && *has == given.intersection(online))
    }

    fn pause(&mut self, name: &str, now: Instant) -> Duration {
        let before = self.pauses.get(name);
        let recent = before.filter(|pause| now < pause.until + QUIET);
        let length = recent.map_or(FIRST_PAUSE, |pause| (pause.length * 2).min(LONGEST_PAUSE));
        let until = now + length;
        self.pauses
            .insert(name.to_owned(), FencePause { length, until });
        length
    }

    fn rests(&self, name: &str, now: Instant) -> bool {
        let pause = self.pauses.get(name);
        pause.is_some_and(|pause| now < pause.until)
    }

    fn is_v2(&self) -> bool {
        self.cgroups.hierarchy().is_v2()
    }

    fn root(&self) -> &Path {
        self.cgroups.hierarchy().cpuset_root()
    }

    /// The CPUs that a cgroup can have now.
    fn online(&self) -> Result<CpuSet, EnforceError> {
        let file = match self.cgroups.hierarchy() {
            Hierarchy::V1 { .. } => "cpuset.cpus",
            Hierarchy::V2 { .. } => "cpuset.cpus.effective",
        };
        self.cgroups.read_cpus(&self.root().join(file))
    }

    /// `cpuset.cpus` of a cgroup; empty where it has what its parent has: under cgroup v2 also where it lists all CPUs, which
    /// is how it has them back ([`Cgroups::inherit`]), or where the controller does not reach it.
    fn read(&self, directory: &Path) -> Result<CpuSet, EnforceError> {
        let read = self.cgroups.read_cpus(&directory.join("cpuset.cpus"));
        let cpus = match read.map_err(|error| self.cgroups.controller(directory, error)) {
            Err(EnforceError::NoController { .. }) => CpuSet::EMPTY,
            read => read?,
        };
        let is_all = self.is_v2() && !cpus.is_empty() && cpus == self.cgroups.possible_cpus()?;
        Ok(if is_all { CpuSet::EMPTY } else { cpus })
    }

    /// The slices and scopes at the top, and what the journal names: all that the fence may have to write to.
    fn names(&self) -> Result<BTreeSet<String>, EnforceError> {
        let names = self.top_level()?.into_iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let is_host = (name.ends_with(".slice") || name.ends_with(".scope"))
                && !super::pods::NAMES.contains(&name);
            is_host.then(|| name.to_owned())
        });
        Ok(names.chain(self.journal.cgroups.keys().cloned()).collect())
    }

    fn top_level(&self) -> Result<Vec<PathBuf>, EnforceError> {
        let root = self.root();
        let directories = self.cgroups.files.directories(root);
        directories.map_err(|source| EnforceError::Read {
            path: root.to_owned(),
            source,
        })
    }

    /// `cpuset.cpus` of the cgroups inside one of version 1, where a cgroup never has more than its parent.
    fn inside(&self, directory: &Path) -> Result<BTreeMap<String, CpuSet>, EnforceError> {
        if self.is_v2() || self.save.is_none() {
            return Ok(BTreeMap::new());
        }
        let mut inside = BTreeMap::new();
        for path in locate::children(&*self.cgroups.files, directory) {
            let Ok(below) = path.strip_prefix(self.root()) else {
                continue;
            };
            match self.cgroups.read_cpus(&path.join("cpuset.cpus")) {
                Ok(cpus) if cpus.is_empty() => {}
                Ok(cpus) => {
                    inside.insert(below.to_string_lossy().into_owned(), cpus);
                }
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(inside)
    }

    fn is_partition(&self, directory: &Path) -> bool {
        let kind = self
            .cgroups
            .files
            .read(&directory.join("cpuset.cpus.partition"));
        kind.is_ok_and(|kind| kind.trim() != "member")
    }

    /// Whether the root hands no cpusets down (cgroup v2).
    fn lacks_controller(&self) -> bool {
        let enabled = self.cgroups.files.read(&self.subtree_control());
        self.is_v2()
            && enabled.is_ok_and(|enabled| !enabled.split_whitespace().any(|word| word == "cpuset"))
    }

    fn subtree_control(&self) -> PathBuf {
        self.root().join("cgroup.subtree_control")
    }

    /// Takes the controller from the root unless a cgroup uses it; whether it was taken.
    fn take_controller(&self) -> Result<bool, EnforceError> {
        if self.lacks_controller() {
            return Ok(true);
        }
        for path in self.top_level()? {
            let mems = self.cgroups.files.read(&path.join("cpuset.mems"));
            let has_mems = mems.is_ok_and(|mems| !mems.trim().is_empty());
            // A cgroup that is gone by now uses nothing.
            if has_mems || self.read(&path).is_ok_and(|cpus| !cpus.is_empty()) {
                return Ok(false);
            }
        }
        let file = self.subtree_control();
        match self.cgroups.files.write(&file, "-cpuset") {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(source) => Err(EnforceError::Write {
                path: file,
                value: "-cpuset".to_owned(),
                hint: String::new(),
                source,
            }),
        }
    }
}

/// The cgroups at the top of the hierarchy that containers are in, or will be.
pub fn pods_cgroups<'a>(
    cgroups: &Cgroups,
    places: impl IntoIterator<Item = Place<'a>>,
) -> BTreeSet<String> {
    let root = cgroups.hierarchy().cpuset_root();
    let paths = places.into_iter().flat_map(|place| {
        let mut paths = locate::parents(place.parent);
        let found = cgroups.locate(&place).ok();
        let below = found.and_then(|found| Some(found.cpuset.strip_prefix(root).ok()?.to_owned()));
        paths.extend(below);
        paths
    });
    let first = |path: PathBuf| {
        let name = path.components().next()?.as_os_str();
        Some(name.to_str()?.to_owned())
    };
    paths.filter_map(first).collect()
}

#[cfg(test)]
mod tests;
