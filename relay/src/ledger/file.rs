//! The files: a header line with version and checksum, then JSON.

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    marker::PhantomData,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const VERSION: u32 = 1;

/// What a file can hold.
pub trait StateRecord: Serialize + DeserializeOwned {
    /// Name of the file.
    const NAME: &'static str;
    /// First word of the file.
    const MAGIC: &'static str;
}

/// Why the ledger could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// An operation of the file system failed.
    #[error("cannot {operation} {path}", path = .path.display())]
    Io {
        /// Which operation.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not one of ours.
    #[error("{path} is not one of our files (expected a first line starting with {magic:?})", path = .path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// How it should start.
        magic: &'static str,
    },
    /// The file was written by another version.
    #[error("{path} is of version {found:?}, this program writes version {VERSION}", path = .path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version it states.
        found: String,
    },
    /// The file is shorter than it should be, or altered.
    #[error("{path} is torn or altered: its checksum is {found}, its header says {stated}", path = .path.display())]
    Torn {
        /// Which file.
        path: PathBuf,
        /// Checksum stated in the header.
        stated: String,
        /// Checksum of what is there.
        found: String,
    },
    /// The content is not what this version writes.
    #[error("{path} does not hold what this version writes", path = .path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// What was found on disk.
#[derive(Debug)]
pub struct Loaded<R> {
    /// What was stored last; `None` for a fresh start.
    pub value: Option<R>,
    /// Why a file was not used. To be logged; nothing is refused.
    pub problems: Vec<LedgerError>,
}

/// One record in the state directory, and the one before it.
#[derive(Debug)]
pub struct StateFile<R> {
    directory: PathBuf,
    holds: PhantomData<fn() -> R>,
}

impl<R: StateRecord> StateFile<R> {
    /// The file in a directory that need not exist to be read from.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            holds: PhantomData,
        }
    }

    /// Uses (and makes, with mode 0700) the directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("create the directory", directory))?;
        Ok(Self::at(directory))
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(R::NAME)
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}.{suffix}", R::NAME))
    }

    /// Reads the file, or the one before it when that is unusable.
    #[must_use]
    pub fn load(&self) -> Loaded<R> {
        let mut loaded = Loaded {
            value: None,
            problems: Vec::new(),
        };
        for path in [self.path(), self.beside("previous")] {
            match read(&path) {
                Ok(value) => {
                    loaded.value = value;
                    if loaded.value.is_some() {
                        break;
                    }
                }
                Err(problem) => loaded.problems.push(problem),
            }
        }
        loaded
    }

    /// Replaces the file. When this returns, the record survives a power cut.
    ///
    /// # Errors
    /// When any step fails; the old file is then still whole.
    pub fn store(&self, record: &R) -> Result<(), LedgerError> {
        let path = self.path();
        let body = serde_json::to_vec(record).map_err(|source| LedgerError::Content {
            path: path.clone(),
            source,
        })?;
        let temporary = self.beside("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("create", &temporary))?;
        writeln!(file, "{} {VERSION} {}", R::MAGIC, digest(&body))
            .and_then(|()| file.write_all(&body))
            .map_err(failed("write", &temporary))?;
        file.sync_all().map_err(failed("fsync", &temporary))?;
        self.keep_previous(&path)?;
        fs::rename(&temporary, &path).map_err(failed("rename the new file to", &path))?;
        self.synced()
    }

    /// Keeps the file that `path` names as the one before. At each moment a file of that name exists, if one
    /// did: a process that is killed here leaves either the older or the newer one.
    fn keep_previous(&self, path: &Path) -> Result<(), LedgerError> {
        let (previous, link) = (self.beside("previous"), self.beside("link"));
        let linked = match fs::hard_link(path, &link) {
            // A process was killed between the two steps below; what its link names is no matter.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&link).and_then(|()| fs::hard_link(path, &link))
            }
            linked => linked,
        };
        match linked {
            Ok(()) => {
                fs::rename(&link, &previous).map_err(failed("keep the old file as", &previous))
            }
            // The first file has none before it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("keep the old file as", &previous)(error)),
        }
    }

    /// Removes the file and the one before it. When this returns, that survives a power cut.
    ///
    /// # Errors
    /// When any step fails.
    pub fn forget(&self) -> Result<(), LedgerError> {
        for path in [self.beside("link"), self.beside("previous"), self.path()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _gone => {}
            }
        }
        self.synced()
    }

    fn synced(&self) -> Result<(), LedgerError> {
        if !self.directory.exists() {
            return Ok(());
        }
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("fsync", &self.directory))
    }
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> LedgerError + 'a {
    move |source| LedgerError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn digest(body: &[u8]) -> String {
    let bytes = Sha256::digest(body);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read<R: StateRecord>(path: &Path) -> Result<Option<R>, LedgerError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let path = path.to_owned();
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (header, body) = bytes.split_at(end.unwrap_or(bytes.len()));
    let header = String::from_utf8_lossy(header);
    let mut words = header.split(' ');
    if words.next() != Some(R::MAGIC) {
        let magic = R::MAGIC;
        return Err(LedgerError::Foreign { path, magic });
    }
    let found = words.next().unwrap_or_default();
    if found != VERSION.to_string() {
        let found = found.to_owned();
        return Err(LedgerError::Version { path, found });
    }
    let body = body.get(1..).unwrap_or_default();
    let (stated, found) = (words.next().unwrap_or_default().to_owned(), digest(body));
    if stated != found {
        return Err(LedgerError::Torn {
            path,
            stated,
            found,
        });
    }
    serde_json::from_slice(body)
        .map(Some)
        .map_err(|source| LedgerError::Content { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LastGood;

    use std::os::unix::fs::PermissionsExt;

    type File = StateFile<LastGood>;

    fn value(source: &str) -> LastGood {
        LastGood {
            source: source.into(),
            ..LastGood::default()
        }
    }

    #[test]
    fn what_was_stored_is_loaded_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(&directory.path().join("state")).unwrap();
        assert!(file.load().value.is_none());
        for policy in ["static", "stp", "none"] {
            file.store(&value(policy)).unwrap();
            assert_eq!(file.load().value, Some(value(policy)));
        }
        assert_eq!(read(&file.beside("previous")).unwrap(), Some(value("stp")));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file.path()), 0o600);
        assert_eq!(mode(&directory.path().join("state")), 0o700);
        file.forget().unwrap();
        assert!(file.load().value.is_none());
    }

    #[test]
    fn a_file_torn_at_any_byte_gives_the_one_before_and_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        file.store(&value("old")).unwrap();
        file.store(&value("new")).unwrap();
        let whole = fs::read(file.path()).unwrap();
        for length in 0..whole.len() {
            fs::write(file.path(), whole.get(..length).unwrap()).unwrap();
            let loaded = file.load();
            assert_eq!(loaded.value, Some(value("old")), "torn at {length}");
            assert_eq!(loaded.problems.len(), 1);
        }
    }

    #[test]
    fn a_process_killed_between_link_and_rename_hinders_no_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        file.store(&value("static")).unwrap();
        // Killed before the link replaces the file before, and before the new file replaces the current one.
        fs::hard_link(file.path(), file.beside("link")).unwrap();
        file.store(&value("stp")).unwrap();
        fs::remove_file(file.beside("previous")).unwrap();
        fs::hard_link(file.path(), file.beside("previous")).unwrap();
        for policy in ["none", "null"] {
            file.store(&value(policy)).unwrap();
            assert_eq!(file.load().value, Some(value(policy)));
        }
        assert_eq!(read(&file.beside("previous")).unwrap(), Some(value("none")));
        file.forget().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn foreign_and_newer_files_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        fs::write(file.path(), "{\"Version\":\"1\"}").unwrap();
        assert!(matches!(
            file.load().problems.as_slice(),
            [LedgerError::Foreign { .. }]
        ));
        fs::write(file.path(), "cri-resmgr-configuration 2 abc\n{}").unwrap();
        assert!(matches!(
            file.load().problems.as_slice(),
            [LedgerError::Version { .. }]
        ));
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_old_file() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            eprintln!("skipped: no /dev/full");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        file.store(&value("old")).unwrap();
        std::os::unix::fs::symlink(full, directory.path().join("configuration.new")).unwrap();
        let error = file.store(&value("new")).unwrap_err();
        assert!(
            matches!(
                error,
                LedgerError::Io {
                    operation: "write",
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(file.load().value, Some(value("old")));
    }
}
