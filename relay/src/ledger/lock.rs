//! The lock on the state directory: a second process that would change the same state is kept out.

use super::{Disk as _, LocalDisk, file::LedgerError};
use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long a process that is about to end may take to let go. systemd starts the next daemon once the process
/// before is gone; by hand, or after SIGKILL, the kernel may still be taking it down.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait between two attempts.
const INTERVAL: Duration = Duration::from_millis(50);

/// The table of all file locks, with the process that holds each: proc_locks(5).
const LOCKS: &str = "/proc/locks";

/// The lock on the state directory, held until the value is dropped or the process ends, however it ends.
///
/// It is flock(2) on the directory itself: no file is needed that a reader of the directory could take for state,
/// or that could be left behind. Reading the state needs no lock.
#[derive(Debug)]
pub struct StateLock {
    _directory: File,
}

/// Why the state directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock.
    #[error(
        "the state directory {path} is in use by {holder}: stop it first, or name another directory with --relay-dir",
        path = .path.display(),
        holder = .holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, as far as the kernel tells it here.
        holder: Option<u32>,
    },
    /// An operation of the file system failed.
    #[error(transparent)]
    Disk(#[from] LedgerError),
}

impl StateLock {
    /// Locks the directory, which is made (mode 0700) where there is none; waits some seconds for a process that is
    /// about to end.
    ///
    /// # Errors
    /// When another process keeps the lock, or the directory cannot be made or opened.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        Self::acquire_within(path, PATIENCE)
    }

    fn acquire_within(path: &Path, patience: Duration) -> Result<Self, LockError> {
        LocalDisk
            .create_directory(path, 0o700)
            .map_err(failed("make", path))?;
        let directory = File::open(path).map_err(failed("open", path))?;
        let end = Instant::now() + patience;
        loop {
            match directory.try_lock() {
                Ok(()) => {
                    return Ok(Self {
                        _directory: directory,
                    });
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", path)(error).into()),
                Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(INTERVAL),
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held {
                        path: path.to_owned(),
                        holder: holder(&directory),
                    });
                }
            }
        }
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io {
        operation,
        path,
        source,
    }
}

/// The process that holds the lock, if the kernel tells. It only makes the refusal clearer: without it the refusal
/// stands all the same.
fn holder(directory: &File) -> Option<u32> {
    let found = directory.metadata().ok()?;
    let device = (
        nix::sys::stat::major(found.dev()),
        nix::sys::stat::minor(found.dev()),
    );
    holder_in(&fs::read_to_string(LOCKS).ok()?, device, found.ino())
}

/// The holder of a file's flock(2), in lines as `1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF`: device numbers
/// are hexadecimal, the inode is decimal. A line with `->` is a process that waits; process 0 or -1 is in another
/// PID namespace.
fn holder_in(locks: &str, device: (u64, u64), inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    locks.lines().find_map(
        |line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, "FLOCK", _, _, pid, place, ..] if place == file => {
                pid.parse().ok().filter(|pid| *pid > 0)
            }
            _ => None,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_directory_is_refused_with_its_name_and_process_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let held = StateLock::acquire_within(&path, Duration::ZERO).unwrap();
        let refused = StateLock::acquire_within(&path, Duration::ZERO).unwrap_err();
        assert!(matches!(&refused, LockError::Held { path: named, .. } if *named == path));
        drop(held);
        StateLock::acquire_within(&path, Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn the_holder_is_the_process_with_a_flock_on_that_file() {
        let locks = "\
            1: POSIX  ADVISORY  WRITE 11 08:01:131 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 12 08:02:131 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF\n\
            3: -> FLOCK  ADVISORY  WRITE 13 08:01:131 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 0 fd:1a:9 0 EOF\n";
        assert_eq!(holder_in(locks, (8, 1), 131), Some(4711));
        assert_eq!(holder_in(locks, (0xfd, 0x1a), 9), None);
        assert_eq!(holder_in(locks, (8, 1), 132), None);
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        let held = |holder| LockError::Held {
            path: "/var/lib/x".into(),
            holder,
        };
        assert_eq!(
            held(Some(7)).to_string(),
            "the state directory /var/lib/x is in use by process 7: stop it first, or name another directory \
             with --relay-dir"
        );
        assert!(
            held(None)
                .to_string()
                .contains("in use by another process:")
        );
    }
}
