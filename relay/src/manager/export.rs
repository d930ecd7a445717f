//! Tells a container where it runs: `/.cri-resmgr/resources.sh`, shell assignments of CPU lists.
//!
//! One directory for each container that is shown it, bind-mounted read-only; the file is replaced by
//! renaming, so that a reader sees the old text or the new one.

use crate::{config::ResourcesFile, cri::overlay::BindMount, ledger::Entry};
use resmgr_policy::{Request, wants_resources_file};
use resmgr_topology::CpuSet;
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const FILE: &str = "resources.sh";

/// The directories of all containers.
#[derive(Debug)]
pub(super) struct Exports {
    base: PathBuf,
    isolated: CpuSet,
    shown: ResourcesFile,
}

impl Exports {
    pub(super) fn new(base: PathBuf, isolated: CpuSet, shown: ResourcesFile) -> Self {
        Self {
            base,
            isolated,
            shown,
        }
    }

    fn shows(&self, request: &Request) -> bool {
        match self.shown {
            ResourcesFile::Never => false,
            ResourcesFile::Asked => wants_resources_file(request),
            ResourcesFile::Always => true,
        }
    }

    /// The mount that shows a container its directory; `None` when it is not shown, or there is no file to
    /// show: the runtime would refuse to mount what does not exist.
    pub(super) fn mount(&self, request: &Request, attempt: u32) -> Option<BindMount> {
        let directory = self.directory(request, attempt);
        (self.shows(request) && directory.join(FILE).is_file()).then(|| BindMount {
            container_path: "/.cri-resmgr".to_owned(),
            host_path: directory.to_string_lossy().into_owned(),
        })
    }

    /// Writes a container's file, if it is shown one; also to a container of an earlier run that was.
    pub(super) fn write(&self, entry: &Entry) -> io::Result<()> {
        let directory = self.directory(&entry.request, entry.attempt);
        if !self.shows(&entry.request) && !directory.is_dir() {
            return Ok(());
        }
        let Some(placement) = &entry.placement else {
            return Ok(());
        };
        if placement.cpus.is_empty() {
            return Ok(());
        }
        let isolated = placement.exclusive.intersection(&self.isolated);
        let text = format!(
            "EXCLUSIVE_CPUS=\"{}\"\nISOLATED_CPUS=\"{isolated}\"\nSHARED_CPUS=\"{}\"\n",
            placement.exclusive.difference(&isolated),
            placement.cpus.difference(&placement.exclusive),
        );
        let file = directory.join(FILE);
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&directory)?;
        let temporary = directory.join(".resources.sh.new");
        fs::write(&temporary, text)?;
        fs::rename(temporary, file)
    }

    /// Takes a container's directory away.
    pub(super) fn remove(&self, entry: &Entry) -> io::Result<()> {
        match fs::remove_dir_all(self.directory(&entry.request, entry.attempt)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Sandbox id, name and attempt: unique for ever, and known before the runtime names the container.
    fn directory(&self, request: &Request, attempt: u32) -> PathBuf {
        let name = format!("{}-{}-{attempt}", request.pod.sandbox, request.name);
        let safe: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        Path::new(&self.base).join(safe)
    }
}
