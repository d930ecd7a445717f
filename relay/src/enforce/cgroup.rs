//! Writes and reads the cgroup of one container, through cgroups-rs; every write is read back.
//!
//! cgroup v1 wants a child's cpuset inside its parent's at every moment, so nested cgroups (a container
//! that runs containers) shrink before and grow after their parent. cgroup v2 narrows children itself.

mod ancestors;

use super::{
    CgroupSettings, EnforceError, Hierarchy, Place,
    files::{CgroupFiles, MountedFiles},
    locate::children,
    watch::Watch,
    weight::Conversion,
};
use resmgr_topology::{CpuSet, NodeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// The same in each mount namespace: sysfs shows the machine's own.
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";
const POSSIBLE_NODES: &str = "/sys/devices/system/node/possible";

/// Directories of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where its cpuset is.
    pub cpuset: PathBuf,
    /// Where its shares and quota are; `None` when that controller is not mounted or it has no cgroup there.
    pub cpu: Option<PathBuf>,
}

/// What the kernel says about one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// `cpuset.cpus`; empty under cgroup v2 when inherited.
    pub cpus: CpuSet,
    /// CPUs its processes may really use.
    pub effective: CpuSet,
    /// `cpuset.mems`.
    pub mems: BTreeSet<NodeId>,
    /// `cpu.shares` (v1) or `cpu.weight` (v2), as it reads.
    pub cpu_shares: Option<u64>,
    /// CFS quota, µs per period; -1 is none.
    pub cpu_quota: Option<i64>,
}

/// What the cgroup of a container says of which nothing is known but its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupResources {
    /// The cgroup above it, from the root of the hierarchy: `/kubepods/burstable/podX`.
    pub parent: String,
    /// CPU shares on the scale of cgroup v1.
    pub cpu_shares: Option<u64>,
    /// CFS quota, µs per period; -1 is none.
    pub cpu_quota: Option<i64>,
    /// CFS period in µs.
    pub cpu_period: Option<i64>,
}

/// The containers' cgroups of this machine.
#[derive(Debug)]
pub struct Cgroups {
    hierarchy: Hierarchy,
    pub(super) files: Box<dyn CgroupFiles>,
    found: Mutex<BTreeMap<String, Found>>,
    weights: Conversion,
    /// CPUs that were offline for a while.
    came_back: Mutex<CpuSet>,
}

impl Cgroups {
    /// Containers under these mounts.
    #[must_use]
    pub fn new(hierarchy: Hierarchy) -> Self {
        let files = MountedFiles::new(hierarchy.clone());
        Self::with_files(hierarchy, Box::new(files))
    }

    /// Containers in a hierarchy that need not be the machine's.
    #[must_use]
    pub fn with_files(hierarchy: Hierarchy, files: Box<dyn CgroupFiles>) -> Self {
        Self {
            hierarchy,
            files,
            found: Mutex::default(),
            weights: Conversion::default(),
            came_back: Mutex::default(),
        }
    }

    /// Notices what happens to containers' cgroups from now on. Within a Tokio runtime only.
    ///
    /// # Errors
    /// When nothing can be noticed.
    pub fn watch(&self) -> io::Result<Box<dyn Watch>> {
        self.files.watch()
    }

    /// The mounts.
    #[must_use]
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// Whether `is` is what `shares` are in this hierarchy: the same number (v1), their weight (v2).
    #[must_use]
    pub fn are_shares(&self, is: u64, shares: u64) -> bool {
        match self.hierarchy.is_v2() {
            true => self.weights.stands_for(is, shares),
            false => is == shares,
        }
    }

    /// A container for which the runtime was asked for these shares, and whose cgroup it is writing: what it
    /// wrote tells how it converts them.
    pub fn learn_weights(&self, place: &Place<'_>, asked: u64, wanted: u64) {
        if self.hierarchy.is_v2()
            && let Ok(Found { cpu: Some(cpu), .. }) = self.locate(place)
            && let Some(weight) = self.shares(&cpu)
        {
            self.weights.learn(asked, wanted, weight);
        }
    }

    /// Finds a container's directories, remembering them for the next time.
    ///
    /// # Errors
    /// [`EnforceError::Absent`] when it has none (now).
    pub fn locate(&self, place: &Place<'_>) -> Result<Found, EnforceError> {
        let mut cache = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = cache.get(place.id) {
            if self.files.is_directory(&found.cpuset) {
                return Ok(found.clone());
            }
            cache.remove(place.id);
        }
        let cpuset = place
            .find(&*self.files, self.hierarchy.cpuset_root())
            .ok_or_else(|| EnforceError::Absent {
                container: place.id.to_owned(),
                parent: place.parent.to_owned(),
            })?;
        let cpu = match &self.hierarchy {
            Hierarchy::V2 { .. } => Some(cpuset.clone()),
            Hierarchy::V1 { cpu, .. } => {
                cpu.as_ref().and_then(|root| place.find(&*self.files, root))
            }
        };
        let found = Found { cpuset, cpu };
        // A runtime makes a container's cgroups one controller after the other: the rest is still to come.
        if found.cpu.is_some() || self.hierarchy.cpu_root().is_none() {
            cache.insert(place.id.to_owned(), found.clone());
        }
        Ok(found)
    }

    /// Like [`Cgroups::locate`], searching the whole hierarchy for a container that is not below its
    /// pod's parent. Expensive: for containers met for the first time.
    ///
    /// # Errors
    /// [`EnforceError::Absent`] when it has none (now).
    pub fn search(&self, place: &Place<'_>) -> Result<Found, EnforceError> {
        match self.locate(place) {
            Err(absent @ EnforceError::Absent { .. }) => {
                let root = self.hierarchy.cpuset_root();
                let cpuset = place.search(&*self.files, root).ok_or(absent)?;
                let cpu = self
                    .hierarchy
                    .cpu_root()
                    .and_then(|root| place.search(&*self.files, root));
                let found = Found { cpuset, cpu };
                self.found
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(place.id.to_owned(), found.clone());
                Ok(found)
            }
            located => located,
        }
    }

    /// Searches the whole hierarchy for a container, and reads what it was given. Expensive.
    ///
    /// # Errors
    /// As [`Cgroups::search`].
    pub fn origin(&self, id: &str) -> Result<CgroupResources, EnforceError> {
        let Found { cpuset, cpu } = self.search(&Place { id, parent: "" })?;
        let above = cpuset
            .strip_prefix(self.hierarchy.cpuset_root())
            .ok()
            .and_then(Path::parent);
        let parent = above.map_or_else(String::new, |above| format!("/{}", above.display()));
        let Some(cpu) = cpu else {
            return Ok(CgroupResources {
                parent,
                ..CgroupResources::default()
            });
        };
        let (cpu_quota, cpu_period) = (self.quota(&cpu), self.period(&cpu));
        let cpu_shares = self.shares(&cpu).map(|is| {
            // Several shares have the same weight: those of the quota are the likeliest, as limit and request of
            // a Guaranteed pod are equal.
            let by_quota = cpu_quota.zip(cpu_period).and_then(|(quota, period)| {
                u64::try_from(quota.saturating_mul(1024).checked_div(period)?).ok()
            });
            match by_quota.filter(|shares| self.are_shares(is, *shares)) {
                Some(shares) => shares,
                None if self.hierarchy.is_v2() => self.weights.shares(is),
                None => is,
            }
        });
        Ok(CgroupResources {
            parent,
            cpu_shares,
            cpu_quota,
            cpu_period,
        })
    }

    /// Forgets where a container was.
    pub fn forget(&self, id: &str) {
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// Reads what the kernel says.
    ///
    /// # Errors
    /// When the cgroup is absent or its files are unreadable or in no known format.
    pub fn read(&self, place: &Place<'_>) -> Result<Actual, EnforceError> {
        let found = self.locate(place)?;
        let cpus = self
            .read_cpus(&found.cpuset.join("cpuset.cpus"))
            .map_err(|error| self.controller(&found.cpuset, error))?;
        let effective = if self.hierarchy.is_v2() {
            self.read_cpus(&found.cpuset.join("cpuset.cpus.effective"))?
        } else {
            cpus
        };
        let mems = self.read_nodes(&found.cpuset.join("cpuset.mems"))?;
        let (mut cpu_shares, mut cpu_quota) = (None, None);
        if let Some(cpu) = &found.cpu {
            // Absent files mean that the controller is not enabled there: nothing to say.
            cpu_shares = self.shares(cpu);
            cpu_quota = self.quota(cpu);
        }
        Ok(Actual {
            cpus,
            effective,
            mems,
            cpu_shares,
            cpu_quota,
        })
    }

    /// Makes the kernel say what is wanted, and reads it back. What is not wanted is not touched, and
    /// what is so already is not written.
    ///
    /// # Errors
    /// When the cgroup is absent, the kernel refuses a value, or it says something else afterwards.
    pub fn write(&self, place: &Place<'_>, wanted: &CgroupSettings) -> Result<(), EnforceError> {
        let found = self.locate(place)?;
        // A container that moves to another node needs the node's memory before its CPUs, or after: the
        // kernel checks neither against the other, so the order is free.
        if let Some(mems) = wanted.mems.as_ref().filter(|mems| !mems.is_empty()) {
            self.write_mems(&found.cpuset, mems)?;
        }
        if !wanted.cpus.is_empty() {
            self.write_cpus(&found.cpuset, &wanted.cpus)?;
        }
        self.write_cpu(&found, wanted)
    }

    /// Writes `to`, and gives back what `from` had set and `to` leaves alone: the runtime's own request
    /// (`asked`), or what the parent has where it asked for nothing.
    ///
    /// # Errors
    /// As [`Cgroups::write`].
    pub fn change(
        &self,
        place: &Place<'_>,
        from: &CgroupSettings,
        to: &CgroupSettings,
        asked: &CgroupSettings,
    ) -> Result<(), EnforceError> {
        let found = self.locate(place)?;
        let mut wanted = to.clone();
        if wanted.cpus.is_empty() && !from.cpus.is_empty() {
            wanted.cpus = asked.cpus;
            if wanted.cpus.is_empty() {
                self.inherit(&found.cpuset, "cpuset.cpus", |path| {
                    wanted.cpus = self.read_cpus(path)?;
                    Ok(())
                })?;
            }
        }
        if wanted.mems.is_none() && from.mems.is_some() {
            wanted.mems.clone_from(&asked.mems);
            if wanted.mems.as_ref().is_none_or(|mems| mems.is_empty()) {
                self.inherit(&found.cpuset, "cpuset.mems", |path| {
                    wanted.mems = Some(self.read_nodes(path)?.into());
                    Ok(())
                })?;
            }
        }
        if from.cpu_shares.is_some() {
            wanted.cpu_shares = wanted.cpu_shares.or(asked.cpu_shares);
        }
        if from.cpu_quota.is_some() {
            wanted.cpu_quota = wanted.cpu_quota.or(asked.cpu_quota);
        }
        self.write(place, &wanted)
    }

    /// Gives a container back all it would have without us.
    ///
    /// # Errors
    /// As [`Cgroups::write`].
    pub fn restore(&self, place: &Place<'_>, asked: &CgroupSettings) -> Result<(), EnforceError> {
        let all = CgroupSettings {
            cpus: CpuSet::from_iter([resmgr_topology::CpuId(0)]),
            mems: Some(Arc::default()),
            cpu_shares: Some(0),
            cpu_quota: Some(0),
        };
        self.change(place, &all, &CgroupSettings::default(), asked)
    }

    /// v1: hands the parent's file to `copy`. v2: empties the file, which means the same. Of a cgroup with tasks the
    /// kernel lets no file be emptied that has a list (ENOSPC): it gets all that the machine can ever have, of which
    /// what the parent has is effective.
    pub(super) fn inherit(
        &self,
        directory: &Path,
        file: &str,
        copy: impl FnOnce(&Path) -> Result<(), EnforceError>,
    ) -> Result<(), EnforceError> {
        if self.hierarchy.is_v2() {
            // cgroups-rs' write of an empty string is no write(2) at all; the kernel wants a newline.
            let path = directory.join(file);
            return match self.files.write(&path, "\n") {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => match file {
                    "cpuset.mems" => {
                        self.write_mems(directory, &self.read_nodes(POSSIBLE_NODES.as_ref())?)
                    }
                    _ => self.write_exactly(directory, &self.possible_cpus()?),
                },
                emptied => emptied.map_err(|source| self.refused(&path, "", source)),
            };
        }
        match directory.parent() {
            Some(parent) => copy(&parent.join(file)),
            None => Ok(()),
        }
    }

    /// All CPUs that the machine can ever have, online or not.
    pub(super) fn possible_cpus(&self) -> Result<CpuSet, EnforceError> {
        self.read_cpus(POSSIBLE_CPUS.as_ref())
    }

    fn write_cpu(&self, found: &Found, wanted: &CgroupSettings) -> Result<(), EnforceError> {
        let Some(directory) = &found.cpu else {
            return Ok(());
        };
        if let Some(shares) = wanted.cpu_shares.filter(|shares| *shares > 0) {
            let value = match self.hierarchy.is_v2() {
                true => self.weights.weight(shares),
                false => shares,
            };
            let same = |is| self.are_shares(is, shares);
            if !self.shares(directory).is_some_and(same) {
                let (path, text) = (directory.join(self.shares_file()), value.to_string());
                let set = self.files.set_shares(directory, value);
                set.map_err(|source| self.refused(&path, &text, source))?;
                let is = self.shares(directory);
                check(&path, &text, is.map(|is| is.to_string()))?;
            }
        }
        if let Some(quota) = wanted.cpu_quota.filter(|quota| *quota != 0) {
            let same = |is: i64| is == quota || (quota < 0 && is < 0);
            if !self.quota(directory).is_some_and(same) {
                let (path, text) = (directory.join(self.quota_file()), quota.to_string());
                let set = self.files.set_quota(directory, quota);
                set.map_err(|source| self.refused(&path, &text, source))?;
                let is = self.quota(directory);
                if !is.is_some_and(same) {
                    check(&path, &text, is.map(|is| is.to_string()))?;
                }
            }
        }
        Ok(())
    }

    fn shares_file(&self) -> &'static str {
        match self.hierarchy.is_v2() {
            true => "cpu.weight",
            false => "cpu.shares",
        }
    }

    fn quota_file(&self) -> &'static str {
        match self.hierarchy.is_v2() {
            true => "cpu.max",
            false => "cpu.cfs_quota_us",
        }
    }

    fn shares(&self, directory: &Path) -> Option<u64> {
        let text = self.files.read(&directory.join(self.shares_file()));
        text.ok()?.trim().parse().ok()
    }

    /// The quota; -1 is none, which is `max` under cgroup v2.
    fn quota(&self, directory: &Path) -> Option<i64> {
        let text = self.files.read(&directory.join(self.quota_file())).ok()?;
        match text.split_whitespace().next()? {
            "max" => Some(-1),
            quota => quota.parse().ok(),
        }
    }

    /// The period of the quota, µs.
    fn period(&self, directory: &Path) -> Option<i64> {
        let (file, word) = match self.hierarchy.is_v2() {
            true => ("cpu.max", 1),
            false => ("cpu.cfs_period_us", 0),
        };
        let text = self.files.read(&directory.join(file)).ok()?;
        text.split_whitespace().nth(word)?.parse().ok()
    }

    /// The CPUs that any cgroup can have now, when that is a true part of `wanted`: the rest is offline,
    /// and the kernel takes it from every cgroup itself. `None` as well when the root of the hierarchy
    /// cannot be read: what led to the question is the error to report then.
    #[must_use]
    pub fn online_part(&self, wanted: &CpuSet) -> Option<CpuSet> {
        let file = if self.hierarchy.is_v2() {
            "cpuset.cpus.effective"
        } else {
            "cpuset.cpus"
        };
        let root = self
            .read_cpus(&self.hierarchy.cpuset_root().join(file))
            .ok()?;
        let part = wanted.intersection(&root);
        (part != *wanted && !part.is_empty()).then_some(part)
    }

    /// Under cgroup v1 an offline CPU cannot be written: what is left of `wanted` is.
    pub(super) fn write_cpus(&self, directory: &Path, wanted: &CpuSet) -> Result<(), EnforceError> {
        match self.write_exactly(directory, wanted) {
            Err(error @ EnforceError::Write { .. })
                if !self.hierarchy.is_v2() && !error.is_absent() =>
            {
                match self.online_part(wanted) {
                    Some(part) => self.write_exactly(directory, &part),
                    None => Err(error),
                }
            }
            written => written,
        }
    }

    fn write_exactly(&self, directory: &Path, wanted: &CpuSet) -> Result<(), EnforceError> {
        let path = directory.join("cpuset.cpus");
        let old = match self.read_cpus(&path) {
            Ok(old) => old,
            Err(error) => {
                self.enable(directory, error)?;
                self.read_cpus(&path)?
            }
        };
        let nested = if self.hierarchy.is_v2() {
            Vec::new()
        } else {
            children(&*self.files, directory)
        };
        if nested.is_empty() {
            if old != *wanted {
                self.set_cpus(directory, wanted)?;
            }
        } else if old != *wanted || !wanted.is_subset(&old) {
            self.write_nested(directory, &nested, &old, wanted)?;
        }
        let is = self.read_cpus(&path)?;
        if is != *wanted {
            return Err(read_back(&path, wanted, &is));
        }
        if self.hierarchy.is_v2() {
            let path = directory.join("cpuset.cpus.effective");
            let is = self.read_cpus(&path)?;
            if is != *wanted && self.online_part(wanted) != Some(is) {
                return Err(read_back(&path, wanted, &is));
            }
        }
        Ok(())
    }

    /// cgroup v1, with cgroups inside: a child that had all its container had follows it; one that had
    /// less keeps what is left of it.
    fn write_nested(
        &self,
        directory: &Path,
        nested: &[PathBuf],
        old: &CpuSet,
        wanted: &CpuSet,
    ) -> Result<(), EnforceError> {
        let mut targets = Vec::new();
        for child in nested {
            let had = self.read_cpus(&child.join("cpuset.cpus"))?;
            let left = had.intersection(wanted);
            let target = if had == *old || left.is_empty() {
                *wanted
            } else {
                left
            };
            if !had.is_empty() && had != target {
                targets.push((child, had, target));
            }
        }
        let both = old.union(wanted);
        if both != *old {
            self.set_cpus(directory, &both)?; // room for the children to move
        }
        for (child, had, target) in &targets {
            self.set_cpus(child, &had.union(target))?; // outermost first: room for theirs
        }
        for (child, _had, target) in targets.iter().rev() {
            self.set_cpus(child, target)?; // innermost first: no cgroup may exceed its parent
        }
        self.set_cpus(directory, wanted)
    }

    fn set_cpus(&self, directory: &Path, wanted: &CpuSet) -> Result<(), EnforceError> {
        let path = directory.join("cpuset.cpus");
        let text = wanted.to_string();
        let set = || self.files.set_cpus(directory, &text);
        match set() {
            Ok(()) => Ok(()),
            // EACCES of cgroup v1: an ancestor lacks a CPU, as after it was offline for a moment.
            Err(source)
                if source.kind() == io::ErrorKind::PermissionDenied
                    && self.widen_ancestors(directory, wanted) =>
            {
                set().map_err(|source| self.refused(&path, &text, source))
            }
            Err(source) => Err(self.refused(&path, &text, source)),
        }
    }

    fn write_mems(&self, directory: &Path, wanted: &BTreeSet<NodeId>) -> Result<(), EnforceError> {
        let path = directory.join("cpuset.mems");
        let text = nodes_text(wanted);
        let is = self.read_nodes(&path)?;
        if is == *wanted {
            return Ok(());
        }
        let nested = if self.hierarchy.is_v2() {
            Vec::new()
        } else {
            children(&*self.files, directory)
        };
        let write = |directory: &Path, text: &str| {
            let set = self.files.set_mems(directory, text);
            set.map_err(|source| self.refused(&directory.join("cpuset.mems"), text, source))
        };
        let both: BTreeSet<_> = is.union(wanted).copied().collect();
        if !nested.is_empty() {
            write(directory, &nodes_text(&both))?;
            for child in &nested {
                write(child, &nodes_text(&both))?;
            }
            for child in nested.iter().rev() {
                write(child, &text)?;
            }
        }
        write(directory, &text)?;
        let is = self.read_nodes(&path)?;
        check(&path, &text, Some(nodes_text(&is)))
    }

    /// cgroup v2: hands the cpuset controller down to `directory`, when that is what it lacks.
    fn enable(&self, directory: &Path, error: EnforceError) -> Result<(), EnforceError> {
        let error = self.controller(directory, error);
        let EnforceError::NoController { .. } = error else {
            return Err(error);
        };
        let root = self.hierarchy.cpuset_root();
        let mut ancestors: Vec<_> = directory
            .ancestors()
            .skip(1)
            .take_while(|ancestor| ancestor.starts_with(root))
            .collect();
        ancestors.reverse();
        for ancestor in ancestors {
            let path = ancestor.join("cgroup.subtree_control");
            let enabled = self.files.read(&path).unwrap_or_default();
            if enabled.split_whitespace().any(|word| word == "cpuset") {
                continue;
            }
            let enabled = self.files.write(&path, "+cpuset");
            enabled.map_err(|source| self.refused(&path, "+cpuset", source))?;
        }
        Ok(())
    }

    /// Tells an absent controller from an absent cgroup.
    pub(super) fn controller(&self, directory: &Path, error: EnforceError) -> EnforceError {
        if self.hierarchy.is_v2()
            && error.is_absent()
            && self.files.is_directory(directory)
            && self.files.read(&directory.join("cpuset.cpus")).is_err()
        {
            return EnforceError::NoController {
                path: directory.to_owned(),
            };
        }
        error
    }

    /// A refused write, with what the parent says when that is the likely reason.
    fn refused(&self, path: &Path, value: &str, source: io::Error) -> EnforceError {
        let mut hint = String::new();
        if let (Some(directory), Some(file)) = (path.parent(), path.file_name())
            && source.kind() != io::ErrorKind::NotFound
            && file.to_string_lossy().starts_with("cpuset.")
            && let Some(parent) = directory.parent()
            && let Ok(has) = self.files.read(&parent.join(file))
        {
            hint = format!(" (its parent has {:?})", has.trim());
        }
        EnforceError::Write {
            path: path.to_owned(),
            value: value.to_owned(),
            hint,
            source,
        }
    }

    pub(super) fn read_cpus(&self, path: &Path) -> Result<CpuSet, EnforceError> {
        let text = self.files.read(path).map_err(|source| EnforceError::Read {
            path: path.to_owned(),
            source,
        })?;
        text.parse().map_err(|_bad| EnforceError::Format {
            path: path.to_owned(),
            found: text.trim().to_owned(),
            expected: "a list such as 0-3,8",
        })
    }

    fn read_nodes(&self, path: &Path) -> Result<BTreeSet<NodeId>, EnforceError> {
        let nodes = self.read_cpus(path)?; // the same list format
        Ok(nodes.iter().map(|node| NodeId(node.0)).collect())
    }
}

fn nodes_text(nodes: &BTreeSet<NodeId>) -> String {
    let as_set: CpuSet = nodes
        .iter()
        .map(|node| resmgr_topology::CpuId(node.0))
        .collect(); // the same list format
    as_set.to_string()
}

fn read_back(path: &Path, wanted: &CpuSet, found: &CpuSet) -> EnforceError {
    EnforceError::ReadBack {
        path: path.to_owned(),
        wanted: wanted.to_string(),
        found: found.to_string(),
    }
}

fn check(path: &Path, wanted: &str, found: Option<String>) -> Result<(), EnforceError> {
    let found = found.unwrap_or_default();
    if found == wanted {
        return Ok(());
    }
    Err(EnforceError::ReadBack {
        path: path.to_owned(),
        wanted: wanted.to_owned(),
        found,
    })
}

#[cfg(test)]
mod tests;
