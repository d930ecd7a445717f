//! Tells containers where they run: `/.cri-resmgr/resources.sh`, shell assignments of CPU lists.
//!
//! Each container that is shown it has a directory, bind-mounted read-only; the file is replaced by renaming,
//! so that a reader sees the old text or the new one. The files follow the published containers and nothing
//! else: what is taken back is taken back here too.

use super::containers::{ContainerRef, Containers};
use crate::{config::ResourcesFile, ledger::Disk};
use resmgr_policy::{Placement, Request, wants_resources_file};
use resmgr_topology::CpuSet;
use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

const FILE: &str = "resources.sh";

/// The directories of all containers.
#[derive(Debug)]
pub(super) struct ResourceFiles {
    disk: Arc<dyn Disk>,
    base: PathBuf,
    isolated: CpuSet,
    shown: ResourcesFile,
    /// What is in the file of each directory there is; `None` for one whose file has not been read.
    texts: BTreeMap<String, Option<String>>,
    /// Something could not be written or removed, and is to be tried again.
    behind: bool,
}

impl ResourceFiles {
    /// Takes over the directories that an earlier run has left under `base`.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        base: PathBuf,
        isolated: CpuSet,
        shown: ResourcesFile,
    ) -> Self {
        let directories = disk.list(&base).unwrap_or_default();
        let texts = directories.into_iter().map(|name| (name, None)).collect();
        Self {
            disk,
            base,
            isolated,
            shown,
            texts,
            behind: false,
        }
    }

    /// Writes what has changed, and takes away the directories of containers that exist no longer. A
    /// container of an earlier run that was shown its file keeps it.
    pub(super) fn follow(&mut self, containers: &Containers) {
        if self.texts.is_empty() && self.shown == ResourcesFile::Never {
            return;
        }
        self.behind = false;
        let mut gone: BTreeMap<_, _> = std::mem::take(&mut self.texts);
        for container in containers.iter() {
            if gone.is_empty() && !self.shows(container.request) {
                continue;
            }
            let name = directory_name(container);
            let old = gone.remove(&name);
            if old.is_none() && !self.shows(container.request) {
                continue;
            }
            let text = container
                .placement
                .and_then(|placement| self.text(placement));
            let Some(text) = text else {
                // A container that is placed no longer keeps what it was shown last.
                if let Some(old) = old {
                    self.texts.insert(name, old);
                }
                continue;
            };
            let old = old.flatten();
            if old.as_ref() == Some(&text) {
                self.texts.insert(name, old);
                continue;
            }
            match self.write(&name, &text) {
                Ok(()) => {
                    self.texts.insert(name, Some(text));
                }
                Err(error) => {
                    tracing::warn!(%error, container = %container.id, "resources.sh not written");
                    self.behind = true;
                    if self.disk.exists(&self.base.join(&name)) {
                        self.texts.insert(name, None);
                    }
                }
            }
        }
        for (name, text) in gone {
            if let Err(error) = self.remove(&name) {
                tracing::warn!(%error, directory = name, "directory of resources.sh not removed");
                self.behind = true;
                self.texts.insert(name, text);
            }
        }
    }

    /// Whether the files are not what they should be: the disk has failed.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// The directory that a container is shown; `None` when it is shown none, or there is no file in it.
    pub(super) fn directory(&self, container: ContainerRef<'_>) -> Option<PathBuf> {
        let name = directory_name(container);
        let written = self.texts.get(&name)?.is_some();
        (written && self.shows(container.request)).then(|| self.base.join(name))
    }

    fn shows(&self, request: &Request) -> bool {
        match self.shown {
            ResourcesFile::Never => false,
            ResourcesFile::Asked => wants_resources_file(request),
            ResourcesFile::Always => true,
        }
    }

    /// What the file says; `None` for a container that is not pinned.
    fn text(&self, placement: &Placement) -> Option<String> {
        if placement.cpus.is_empty() {
            return None;
        }
        let isolated = placement.exclusive.intersection(&self.isolated);
        Some(format!(
            "EXCLUSIVE_CPUS=\"{}\"\nISOLATED_CPUS=\"{isolated}\"\nSHARED_CPUS=\"{}\"\n",
            placement.exclusive.difference(&isolated),
            placement.cpus.difference(&placement.exclusive),
        ))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let directory = self.base.join(name);
        let file = directory.join(FILE);
        if (self.disk.read(&file)).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        self.disk.create_directory(&directory, 0o755)?;
        let temporary = directory.join(".resources.sh.new");
        self.disk.write(&temporary, text.as_bytes())?;
        self.disk.rename(&temporary, &file)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self.disk.remove_directory(&self.base.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

/// Sandbox id, name and attempt: unique for ever, and known before the runtime names the container.
fn directory_name(container: ContainerRef<'_>) -> String {
    let request = container.request;
    let name = format!(
        "{}-{}-{}",
        request.pod.sandbox, request.name, container.record.attempt
    );
    name.chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() || letter == '-' {
                letter
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LocalDisk;
    use crate::manager::tests::spec;
    use resmgr_policy::{Container, ContainerId, Request, State};
    use std::{fs, path::Path};

    /// Containers on these CPUs, of which the first list is exclusive.
    fn containers(placed: &[(&str, &str, &str)]) -> Containers {
        let mut containers = Containers::default();
        let mut state = State::default();
        for (name, exclusive, shared) in placed {
            let spec = spec(name);
            containers.insert(&spec);
            let exclusive: CpuSet = exclusive.parse().unwrap();
            let container = Container {
                request: Arc::new(Request::clone(&spec.request)),
                placement: Placement {
                    exclusive: exclusive.into(),
                    cpus: exclusive.union(&shared.parse().unwrap()).into(),
                    ..Placement::default()
                },
                arrival: 0,
            };
            state
                .containers
                .insert(ContainerId((*name).into()), container);
        }
        containers.replace(
            "a test",
            Arc::new(state),
            &BTreeMap::new(),
            &BTreeMap::new(),
            0,
        );
        containers
    }

    fn read(base: &Path) -> BTreeMap<String, String> {
        let directories = fs::read_dir(base).into_iter().flatten().flatten();
        directories
            .map(|entry| {
                let text = fs::read_to_string(entry.path().join(FILE)).unwrap_or_default();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect()
    }

    fn lists(exclusive: &str, isolated: &str, shared: &str) -> String {
        format!(
            "EXCLUSIVE_CPUS=\"{exclusive}\"\nISOLATED_CPUS=\"{isolated}\"\nSHARED_CPUS=\"{shared}\"\n"
        )
    }

    #[test]
    fn the_files_are_those_of_the_containers_followed_last() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("containers");
        let isolated = "3".parse().unwrap();
        let mut files = ResourceFiles::new(
            Arc::new(LocalDisk),
            base.clone(),
            isolated,
            ResourcesFile::Always,
        );
        let web = containers(&[("web", "", "0-7"), ("none", "", "")]);
        files.follow(&web);
        let alone = BTreeMap::from([("sandbox-web-0".to_owned(), lists("", "", "0-7"))]);
        assert_eq!(read(&base), alone);
        let both = containers(&[("web", "", "0-1,4-7"), ("db", "2-3", "0")]);
        files.follow(&both);
        let expected = BTreeMap::from([
            ("sandbox-web-0".to_owned(), lists("", "", "0-1,4-7")),
            ("sandbox-db-0".to_owned(), lists("2", "3", "0")),
        ]);
        assert_eq!(read(&base), expected);
        let shown = files.directory(both.get(&ContainerId("db".into())).unwrap());
        assert_eq!(shown, Some(base.join("sandbox-db-0")));
        // The creation is taken back.
        files.follow(&web);
        assert_eq!(read(&base), alone);
        files.follow(&Containers::default());
        assert_eq!(read(&base), BTreeMap::new());
    }

    #[test]
    fn what_an_earlier_run_left_is_kept_up_or_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().to_owned();
        let web = containers(&[("web", "", "0-7")]);
        let isolated = CpuSet::EMPTY;
        let new = |shown| ResourceFiles::new(Arc::new(LocalDisk), base.clone(), isolated, shown);
        new(ResourcesFile::Always).follow(&web);
        fs::create_dir(base.join("gone-long-ago-0")).unwrap();
        // It is shown no more to new containers, and goes on being true for those that have it.
        let mut files = new(ResourcesFile::Never);
        files.follow(&containers(&[("web", "", "1-7"), ("new", "", "1-7")]));
        let expected = BTreeMap::from([("sandbox-web-0".to_owned(), lists("", "", "1-7"))]);
        assert_eq!(read(&base), expected);
    }

    #[test]
    fn a_directory_that_cannot_be_removed_is_removed_later() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().to_owned();
        let left = base.join("left");
        fs::write(&left, "no directory").unwrap();
        let disk = Arc::new(LocalDisk);
        let mut files = ResourceFiles::new(disk, base, CpuSet::EMPTY, ResourcesFile::Always);
        files.follow(&Containers::default());
        assert!(files.is_behind());
        fs::remove_file(&left).unwrap();
        fs::create_dir(&left).unwrap();
        files.follow(&Containers::default());
        assert!(!files.is_behind() && !left.exists());
    }

    #[test]
    fn only_containers_that_ask_are_shown_their_file_by_default() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().to_owned();
        let mut files = ResourceFiles::new(
            Arc::new(LocalDisk),
            base.clone(),
            CpuSet::EMPTY,
            ResourcesFile::Asked,
        );
        let web = containers(&[("web", "", "0-7")]);
        files.follow(&web);
        assert_eq!(read(&base), BTreeMap::new());
        assert_eq!(
            files.directory(web.get(&ContainerId("web".into())).unwrap()),
            None
        );
    }
}
