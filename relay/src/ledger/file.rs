//! The file: a header line with version and checksum, then JSON.

use super::Book;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const MAGIC: &str = "cri-resmgr-ledger";
const VERSION: u32 = 1;
const NAME: &str = "ledger";

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
    #[error("{path} is not a ledger (expected a first line starting with {MAGIC:?})", path = .path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
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
    #[error("{path} holds no legal ledger", path = .path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// What was found on disk.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What was remembered; `None` for a fresh start.
    pub book: Option<Book>,
    /// Why a file was not used. To be logged; nothing is refused.
    pub problems: Vec<LedgerError>,
}

/// The state file in its directory.
#[derive(Debug)]
pub struct Ledger {
    directory: PathBuf,
}

impl Ledger {
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
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    fn previous(&self) -> PathBuf {
        self.directory.join("ledger.previous")
    }

    /// Reads the file, or the one before it when that is unusable.
    #[must_use]
    pub fn load(&self) -> Loaded {
        let mut loaded = Loaded::default();
        for path in [self.path(), self.previous()] {
            match read(&path) {
                Ok(book) => {
                    loaded.book = book;
                    if loaded.book.is_some() {
                        break;
                    }
                }
                Err(problem) => loaded.problems.push(problem),
            }
        }
        loaded
    }

    /// Replaces the file. When this returns, the book survives a power cut.
    ///
    /// # Errors
    /// When any step fails; the old file is then still whole.
    pub fn store(&self, book: &Book) -> Result<(), LedgerError> {
        let path = self.path();
        let body = serde_json::to_vec(book).map_err(|source| LedgerError::Content {
            path: path.clone(),
            source,
        })?;
        let temporary = self.directory.join("ledger.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("create", &temporary))?;
        writeln!(file, "{MAGIC} {VERSION} {}", digest(&body))
            .and_then(|()| file.write_all(&body))
            .map_err(failed("write", &temporary))?;
        file.sync_all().map_err(failed("fsync", &temporary))?;
        let previous = self.previous();
        match fs::remove_file(&previous).and_then(|()| fs::hard_link(&path, &previous)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("keep the old file as", &previous)(error));
            }
            Err(_first) => drop(fs::hard_link(&path, &previous)), // there may be no old file yet
            Ok(()) => {}
        }
        fs::rename(&temporary, &path).map_err(failed("rename the new file to", &path))?;
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

fn read(path: &Path) -> Result<Option<Book>, LedgerError> {
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
    if words.next() != Some(MAGIC) {
        return Err(LedgerError::Foreign { path });
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
    use std::os::unix::fs::PermissionsExt;

    fn book(policy: &str) -> Book {
        Book {
            policy: policy.into(),
            ..Book::default()
        }
    }

    #[test]
    fn what_was_stored_is_loaded_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&directory.path().join("state")).unwrap();
        assert!(ledger.load().book.is_none());
        for policy in ["static", "stp", "none"] {
            ledger.store(&book(policy)).unwrap();
            assert_eq!(ledger.load().book, Some(book(policy)));
        }
        assert_eq!(read(&ledger.previous()).unwrap(), Some(book("stp")));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&ledger.path()), 0o600);
        assert_eq!(mode(&directory.path().join("state")), 0o700);
    }

    #[test]
    fn a_file_torn_at_any_byte_gives_the_one_before_and_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        ledger.store(&book("old")).unwrap();
        ledger.store(&book("new")).unwrap();
        let whole = fs::read(ledger.path()).unwrap();
        for length in 0..whole.len() {
            fs::write(ledger.path(), whole.get(..length).unwrap()).unwrap();
            let loaded = ledger.load();
            assert_eq!(loaded.book, Some(book("old")), "torn at {length}");
            assert_eq!(loaded.problems.len(), 1);
        }
    }

    #[test]
    fn foreign_and_newer_files_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        fs::write(ledger.path(), "{\"Version\":\"1\"}").unwrap();
        assert!(matches!(
            ledger.load().problems.as_slice(),
            [LedgerError::Foreign { .. }]
        ));
        fs::write(ledger.path(), "cri-resmgr-ledger 2 abc\n{}").unwrap();
        assert!(matches!(
            ledger.load().problems.as_slice(),
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
        let ledger = Ledger::open(directory.path()).unwrap();
        ledger.store(&book("old")).unwrap();
        std::os::unix::fs::symlink(full, directory.path().join("ledger.new")).unwrap();
        let error = ledger.store(&book("new")).unwrap_err();
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
        assert_eq!(ledger.load().book, Some(book("old")));
    }
}
