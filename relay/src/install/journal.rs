//! The changes made to this node, on disk before each is made: a JSON object a line.

use super::{error::InstallError, host::Host};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the daemon keeps its state, and the journal a folder.
pub(super) const STATE: &str = "/var/lib/cri-resmgr";
/// Journal and backups.
pub(super) const FOLDER: &str = "/var/lib/cri-resmgr/install";
const FILE: &str = "/var/lib/cri-resmgr/install/journal";

/// A change that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub(super) enum JournalEntry {
    /// An installation or an upgrade begins.
    Begin {
        /// What is installed.
        version: String,
        /// The kubelet's unit.
        unit: String,
        /// Whether the kubelet ran.
        running: bool,
        /// The runtime's socket.
        runtime: PathBuf,
        /// Whether the daemon's state was there before.
        state: bool,
    },
    /// A folder is made.
    Folder {
        /// Which.
        path: PathBuf,
    },
    /// A file is written.
    File {
        /// Which.
        path: PathBuf,
        /// Where the old content is kept; `None` when there was no such file.
        backup: Option<PathBuf>,
        /// SHA-256 of the new content, in hexadecimal digits.
        sha256: String,
        /// Whether the kubelet reads it.
        of_kubelet: bool,
    },
    /// Our units are enabled and started.
    Units {
        /// Whether they were enabled before.
        enabled: bool,
        /// Whether they ran before.
        running: bool,
    },
    /// All changes are made, and CRI answers.
    Done,
}

/// All changes made to this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    pub(super) entries: Vec<JournalEntry>,
}

impl Journal {
    /// The journal of this node; empty when nothing was changed.
    pub(super) fn read(host: &dyn Host) -> Result<Self, InstallError> {
        let text = host.read(Path::new(FILE))?.unwrap_or_default();
        let lines = text.split(|octet| *octet == b'\n');
        let entries = lines
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()
            .map_err(|error| InstallError::Content {
                path: FILE.into(),
                why: error.to_string(),
            })?;
        Ok(Self { entries })
    }

    /// Whether this node has anything of an installation: killed before its journal began, it leaves a folder.
    pub(super) fn left(host: &dyn Host) -> bool {
        host.has_folder(Path::new(FOLDER))
    }

    /// Notes a change before it is made.
    pub(super) fn note(
        &mut self,
        host: &mut dyn Host,
        entry: JournalEntry,
    ) -> Result<(), InstallError> {
        self.entries.push(entry);
        self.store(host)
    }

    /// Keeps the content that a change replaces.
    pub(super) fn back_up(
        &self,
        host: &mut dyn Host,
        path: &Path,
        content: &[u8],
    ) -> Result<PathBuf, InstallError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut number = self.entries.len();
        let mut backup = Path::new(FOLDER).join(format!("{number:02}-{name}"));
        // An earlier installation's, which had more entries.
        while host.read(&backup)?.is_some() {
            number += 1;
            backup = Path::new(FOLDER).join(format!("{number:02}-{name}"));
        }
        host.write(&backup, content, 0o600)?;
        Ok(backup)
    }

    /// Forgets the changes from `from` on, which are undone.
    pub(super) fn truncate(
        &mut self,
        host: &mut dyn Host,
        from: usize,
    ) -> Result<(), InstallError> {
        self.entries.truncate(from);
        self.store(host)
    }

    /// Notes that all changes are made. Of an upgrade nothing is kept but what differs from the first installation: uninstalling
    /// goes back to what was before that.
    pub(super) fn done(&mut self, host: &mut dyn Host) -> Result<(), InstallError> {
        let mut kept: Vec<JournalEntry> = Vec::new();
        for entry in self.entries.iter().cloned() {
            let same = |before: &JournalEntry| match (before, &entry) {
                (JournalEntry::File { path: a, .. }, JournalEntry::File { path: b, .. })
                | (JournalEntry::Folder { path: a }, JournalEntry::Folder { path: b }) => a == b,
                (JournalEntry::Begin { .. }, JournalEntry::Begin { .. })
                | (JournalEntry::Units { .. }, JournalEntry::Units { .. }) => true,
                _ => false,
            };
            match (kept.iter().position(same), &entry) {
                (Some(at), JournalEntry::File { sha256: now, .. }) => {
                    if let JournalEntry::File { sha256, .. } = &mut kept[at] {
                        sha256.clone_from(now);
                    }
                }
                (Some(at), JournalEntry::Begin { version: now, .. }) => {
                    if let JournalEntry::Begin { version, .. } = &mut kept[at] {
                        version.clone_from(now);
                    }
                }
                (Some(_), _) | (None, JournalEntry::Done) => {}
                (None, _) => kept.push(entry),
            }
        }
        kept.push(JournalEntry::Done);
        let all = std::mem::replace(&mut self.entries, kept);
        if let Err(error) = self.store(host) {
            self.entries = all; // what is to be undone
            return Err(error);
        }
        for path in host.list(Path::new(FOLDER))? {
            let needed = self.entries.iter().any(
                |entry| matches!(entry, JournalEntry::File { backup: Some(backup), .. } if *backup == path),
            );
            if !needed && path != Path::new(FILE) {
                // What stays is removed by uninstalling.
                host.remove(&path).ok();
            }
        }
        Ok(())
    }

    /// Where the last installation or upgrade begins, if it did not come to its end.
    pub(super) fn unfinished(&self) -> Option<usize> {
        let last = self.entries.last()?;
        let begin = |entry: &JournalEntry| matches!(entry, JournalEntry::Begin { .. });
        match last {
            JournalEntry::Done => None,
            _ => Some(self.entries.iter().rposition(begin).unwrap_or_default()),
        }
    }

    /// Replaced whole, so that no line is ever torn.
    fn store(&self, host: &mut dyn Host) -> Result<(), InstallError> {
        let lines: Result<Vec<_>, _> = self.entries.iter().map(serde_json::to_string).collect();
        let lines = lines.map_err(|error| InstallError::Content {
            path: FILE.into(),
            why: error.to_string(),
        })?;
        host.write(Path::new(FILE), (lines.join("\n") + "\n").as_bytes(), 0o600)
    }

    /// Makes the folders of journal and backups.
    pub(super) fn make_room(host: &mut dyn Host) -> Result<(), InstallError> {
        for folder in [Path::new(STATE), Path::new(FOLDER)] {
            if !host.has_folder(folder) {
                host.make_folder(folder)?;
            }
        }
        Ok(())
    }

    /// Removes the journal, last of all: until then, uninstalling can be repeated. `state`: whether the daemon's
    /// state was there before and stays.
    pub(super) fn remove(host: &mut dyn Host, state: bool) -> Result<(), InstallError> {
        for path in host.list(Path::new(FOLDER))? {
            if path != Path::new(FILE) {
                host.remove(&path)?;
            }
        }
        if !state {
            for path in host.list(Path::new(STATE))? {
                if path != Path::new(FOLDER) {
                    host.remove(&path)?;
                }
            }
        }
        host.remove(Path::new(FILE))?;
        host.remove(Path::new(FOLDER))?;
        if host.list(Path::new(STATE))?.is_empty() {
            host.remove(Path::new(STATE))?;
        }
        Ok(())
    }
}
