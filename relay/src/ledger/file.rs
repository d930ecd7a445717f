//! The files: a header line with version, sequence number and checksum, then JSON.

use super::disk::{Disk, LocalDisk};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

const VERSION: u32 = 2;

/// What the names of the two files end with.
const SLOTS: [&str; 2] = [".a", ".b"];

/// What the names of the files of version 1 end with, the newer first. They are read where no other is, and
/// removed once a newer one is written.
const SUFFIXES_OF_VERSION_1: [&str; 2] = ["", ".previous"];

/// What a file can hold.
pub trait StateRecord: Serialize + DeserializeOwned {
    /// What the names of its files begin with.
    const NAME: &'static str;
    /// First word of each file.
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

/// One record in the state directory: two files that are written in turn, each in place, so that the record
/// before survives whatever happens while the next is written.
///
/// In place and not by a new file that replaces the old: no other change of the file system has to reach the
/// disk with it, which takes a quarter of the time, and a disk that has become full still takes it.
#[derive(Debug)]
pub struct StateFile<R> {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    /// Which file is written next; `None` as long as the files were not read.
    next: Mutex<Option<Turn>>,
    holds: PhantomData<fn() -> R>,
}

/// Which of the two files is written next.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The number of the record to be written: one above the highest on disk.
    sequence: u64,
    /// The index of the file in [`SLOTS`].
    slot: usize,
    /// The files whose names are known to survive a power cut. A file that is found may have been made by a
    /// process that was killed, or by a write that failed, before the directory was fsynced.
    named: [bool; SLOTS.len()],
}

/// What was read from one file.
struct StoredRecord<R> {
    sequence: u64,
    value: R,
}

impl<R: StateRecord> StateFile<R> {
    /// The record in a directory that need not exist to be read from.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self::on(Arc::new(LocalDisk), directory)
    }

    /// The record in a directory of a disk that need not be the machine's.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>, directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            disk,
            next: Mutex::new(None),
            holds: PhantomData,
        }
    }

    /// Uses (and makes, with mode 0700) the directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        let file = Self::at(directory);
        file.disk
            .create_directory(directory, 0o700)
            .map_err(failed("create the directory", directory))?;
        Ok(file)
    }

    /// The disk that the record is on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether anything was ever stored here, readable or not.
    #[must_use]
    pub fn exists(&self) -> bool {
        let suffixes = SLOTS.iter().chain(&SUFFIXES_OF_VERSION_1);
        suffixes
            .into_iter()
            .any(|suffix| self.disk.exists(&self.named(suffix)))
    }

    fn named(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}{suffix}", R::NAME))
    }

    /// Reads the newer of the two files that is whole.
    #[must_use]
    pub fn load(&self) -> Loaded<R> {
        let (loaded, turn) = self.read_all();
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
        loaded
    }

    fn read_all(&self) -> (Loaded<R>, Turn) {
        let mut problems = Vec::new();
        let mut newest: Option<(StoredRecord<R>, usize)> = None;
        for (slot, suffix) in SLOTS.iter().enumerate() {
            match read(&*self.disk, &self.named(suffix)) {
                Ok(Some(read)) => {
                    let newer =
                        |(newest, _): &(StoredRecord<R>, usize)| read.sequence > newest.sequence;
                    if newest.as_ref().is_none_or(newer) {
                        newest = Some((read, slot));
                    }
                }
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        if let Some((read, slot)) = newest {
            let turn = Turn {
                sequence: read.sequence + 1,
                slot: 1 - slot,
                named: [false; SLOTS.len()],
            };
            let value = Some(read.value);
            return (Loaded { value, problems }, turn);
        }
        let mut value = None;
        for suffix in SUFFIXES_OF_VERSION_1 {
            match read(&*self.disk, &self.named(suffix)) {
                Ok(read) => value = value.or(read.map(|read: StoredRecord<R>| read.value)),
                Err(problem) => problems.push(problem),
            }
        }
        let turn = Turn {
            sequence: 1,
            slot: 0,
            named: [false; SLOTS.len()],
        };
        (Loaded { value, problems }, turn)
    }

    /// Writes a record. When this returns, the record survives a power cut.
    ///
    /// # Errors
    /// When any step fails; the record before is then still whole.
    pub fn store(&self, record: &R) -> Result<(), LedgerError> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.unwrap_or_else(|| self.read_all().1);
        *next = Some(turn);
        let path = self.named(SLOTS[turn.slot]);
        let bytes = encode(record, turn.sequence).map_err(|source| LedgerError::Content {
            path: path.clone(),
            source,
        })?;
        let file = self.disk.open(&path, 0o600);
        let file = file.map_err(failed("open", &path))?;
        file.overwrite(&bytes).map_err(failed("write", &path))?;
        let length = file.length().map_err(failed("look at", &path))?;
        if length > bytes.len() as u64 {
            file.set_length(bytes.len() as u64)
                .map_err(failed("shorten", &path))?;
        }
        file.sync().map_err(failed("fsync", &path))?;
        let mut named = turn.named;
        let first = !std::mem::replace(&mut named[turn.slot], true);
        if first {
            self.synced()?;
        }
        *next = Some(Turn {
            sequence: turn.sequence + 1,
            slot: 1 - turn.slot,
            named,
        });
        if first {
            self.remove(&SUFFIXES_OF_VERSION_1)?;
        }
        Ok(())
    }

    /// Removes the record. When this returns, that survives a power cut.
    ///
    /// # Errors
    /// When any step fails.
    pub fn forget(&self) -> Result<(), LedgerError> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = None;
        self.remove(&SUFFIXES_OF_VERSION_1)?;
        self.remove(&SLOTS)?;
        if !self.disk.exists(&self.directory) {
            return Ok(());
        }
        self.synced()
    }

    fn remove(&self, suffixes: &[&str]) -> Result<(), LedgerError> {
        for suffix in suffixes {
            let path = self.named(suffix);
            match self.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _gone => {}
            }
        }
        Ok(())
    }

    fn synced(&self) -> Result<(), LedgerError> {
        let synced = self.disk.sync_directory(&self.directory);
        synced.map_err(failed("fsync", &self.directory))
    }
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> LedgerError + 'a {
    move |source| LedgerError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// What a file holds: a line `MAGIC VERSION SEQUENCE LENGTH CHECKSUM`, the record as JSON, and line ends up
/// to a power of two, so that the file is seldom made longer or shorter.
fn encode<R: StateRecord>(record: &R, sequence: u64) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::to_vec(record)?;
    let checksum = checksum(sequence, &body);
    let length = body.len();
    let mut bytes = format!("{} {VERSION} {sequence} {length} {checksum}\n", R::MAGIC).into_bytes();
    bytes.extend_from_slice(&body);
    let filled = bytes.len().next_power_of_two().max(4096);
    bytes.resize(filled, b'\n');
    Ok(bytes)
}

/// The SHA-256 of the sequence number and the record.
fn checksum(sequence: u64, body: &[u8]) -> String {
    let hash = Sha256::new()
        .chain_update(sequence.to_be_bytes())
        .chain_update(body)
        .finalize();
    hexadecimal(&hash)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read<R: StateRecord>(
    disk: &dyn Disk,
    path: &Path,
) -> Result<Option<StoredRecord<R>>, LedgerError> {
    let bytes = match disk.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let path = path.to_owned();
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (header, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    let rest = rest.get(1..).unwrap_or_default();
    let header = String::from_utf8_lossy(header);
    let mut words = header.split(' ');
    if words.next() != Some(R::MAGIC) {
        let magic = R::MAGIC;
        return Err(LedgerError::Foreign { path, magic });
    }
    let version = words.next().unwrap_or_default();
    let mut number = || words.next().and_then(|word| word.parse().ok());
    let (sequence, body, found) = match version {
        "1" => (0, rest, hexadecimal(&Sha256::digest(rest))),
        "2" => {
            let (sequence, length) = (number().unwrap_or(0), number().unwrap_or(0));
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let body = rest.get(..length).unwrap_or(rest);
            (sequence, body, checksum(sequence, body))
        }
        found => {
            let found = found.to_owned();
            return Err(LedgerError::Version { path, found });
        }
    };
    let stated = words.next().unwrap_or_default().to_owned();
    if stated != found {
        return Err(LedgerError::Torn {
            path,
            stated,
            found,
        });
    }
    serde_json::from_slice(body)
        .map(|value| Some(StoredRecord { sequence, value }))
        .map_err(|source| LedgerError::Content { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LastGood;

    use std::{fs, os::unix::fs::PermissionsExt};

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
        let state = directory.path().join("state");
        let file = File::open(&state).unwrap();
        assert!(file.load().value.is_none());
        for policy in ["static", "stp", "none"] {
            file.store(&value(policy)).unwrap();
            for reader in [&file, &File::at(&state)] {
                let loaded = reader.load();
                assert_eq!(loaded.value, Some(value(policy)));
                assert!(loaded.problems.is_empty());
            }
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file.named(".a")), 0o600);
        assert_eq!(mode(&state), 0o700);
        file.forget().unwrap();
        assert!(file.load().value.is_none());
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    }

    #[test]
    fn a_file_torn_at_any_byte_gives_the_record_before_which_no_later_write_touches() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        let (older, newer) = (file.named(".a"), file.named(".b"));
        file.store(&value("old")).unwrap();
        file.store(&value("new")).unwrap();
        let whole = fs::read(&newer).unwrap();
        let kept = fs::read(&older).unwrap();
        let written = whole.trim_ascii_end().len();
        for length in 0..written {
            fs::write(&newer, whole.get(..length).unwrap()).unwrap();
            let after = File::at(directory.path());
            let loaded = after.load();
            assert_eq!(loaded.value, Some(value("old")), "torn at {length}");
            assert_eq!(loaded.problems.len(), 1);
            after.store(&value("next")).unwrap();
            assert_eq!(fs::read(&older).unwrap(), kept, "torn at {length}");
            assert_eq!(after.load().value, Some(value("next")));
        }
    }

    #[test]
    fn a_sector_that_was_not_written_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        let long = |letter: &str| value(&letter.repeat(3000));
        for letter in ["a", "b", "c"] {
            file.store(&long(letter)).unwrap();
        }
        // The third record is where the first was; one of its sectors is still of the first.
        let path = file.named(".a");
        let mut bytes = fs::read(&path).unwrap();
        bytes.get_mut(512..1024).unwrap().fill(b'a');
        fs::write(&path, bytes).unwrap();
        let loaded = file.load();
        assert_eq!(loaded.value, Some(long("b")));
        assert!(matches!(
            loaded.problems.as_slice(),
            [LedgerError::Torn { .. }]
        ));
    }

    #[test]
    fn a_shorter_record_leaves_nothing_of_a_longer_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        for length in [20_000, 20_000, 10, 10] {
            file.store(&value(&"x".repeat(length))).unwrap();
        }
        for suffix in SLOTS {
            assert_eq!(fs::metadata(file.named(suffix)).unwrap().len(), 4096);
        }
    }

    #[test]
    fn files_of_version_1_are_read_and_then_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        let write = |suffix, policy| {
            let body = serde_json::to_vec(&value(policy)).unwrap();
            let checksum = hexadecimal(&Sha256::digest(&body));
            let header = format!("{} 1 {checksum}\n", LastGood::MAGIC);
            fs::write(file.named(suffix), [header.as_bytes(), &body].concat()).unwrap();
        };
        write(".previous", "none");
        assert_eq!(file.load().value, Some(value("none")));
        write("", "static");
        assert_eq!(file.load().value, Some(value("static")));
        file.store(&value("stp")).unwrap();
        assert_eq!(file.load().value, Some(value("stp")));
        assert!(!file.named("").exists() && !file.named(".previous").exists());
    }

    #[test]
    fn foreign_and_newer_files_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        for suffix in SLOTS {
            let path = file.named(suffix);
            fs::write(&path, "{\"Version\":\"1\"}").unwrap();
            let problems = file.load().problems;
            assert!(matches!(problems.as_slice(), [LedgerError::Foreign { .. }]));
            fs::write(&path, "cri-resmgr-configuration 3 abc\n{}").unwrap();
            let problems = file.load().problems;
            assert!(matches!(problems.as_slice(), [LedgerError::Version { .. }]));
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_write_that_fails_is_an_error_and_leaves_the_record_before() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        file.store(&value("old")).unwrap();
        fs::create_dir(file.named(".b")).unwrap();
        let error = file.store(&value("new")).unwrap_err();
        assert!(matches!(error, LedgerError::Io { .. }), "{error}");
        assert_eq!(file.load().value, Some(value("old")));
        // The same file is tried again, not the one that holds the record before.
        fs::remove_dir(file.named(".b")).unwrap();
        file.store(&value("new")).unwrap();
        assert_eq!(file.load().value, Some(value("new")));
    }
}
