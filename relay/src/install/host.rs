//! The node that is changed: its files, its systemd, CRI through the relay.

use super::error::InstallError;
use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Files to be read.
pub trait Files {
    /// A file's content; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, InstallError>;

    /// What is in a folder, sorted; nothing when there is no such folder.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, InstallError>;

    /// Whether there is such a folder.
    fn has_folder(&self, path: &Path) -> bool;
}

/// The node that is changed. What a method has done is on disk when it returns.
pub trait Host: Files {
    /// Replaces a file whole: it has the old content or the new one, whatever happens. It keeps its mode and owner; a
    /// new one gets `mode`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write(&mut self, path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError>;

    /// Makes a folder; its parent exists.
    ///
    /// # Errors
    /// When it cannot be made.
    fn make_folder(&mut self, path: &Path) -> Result<(), InstallError>;

    /// Removes a file, or a folder with all that is in it. What is not there is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&mut self, path: &Path) -> Result<(), InstallError>;

    /// Runs systemctl, to its end; what it printed.
    ///
    /// # Errors
    /// When there is none, or it fails.
    fn systemctl(&mut self, words: &[&str]) -> Result<String, InstallError>;

    /// Waits until a call of CRI's `Version` is answered through `socket`; name and version of the runtime.
    ///
    /// # Errors
    /// When no answer comes in time.
    fn runtime_version(&mut self, socket: &Path) -> Result<String, InstallError>;

    /// Gives every container the CPUs it would have without the relay, which no longer runs.
    ///
    /// # Errors
    /// When a container could not be restored.
    fn restore(&mut self) -> Result<String, InstallError>;

    /// Lets time pass for what was started to fail.
    fn pause(&mut self);

    /// Tells the user what was done.
    fn say(&mut self, line: &str);
}

/// A call of CRI's `Version` through a socket.
pub type AskVersion = Box<dyn Fn(&Path) -> Result<String, String>>;
/// `cri-resmgr restore` with the installed option file.
pub type RestoreCpus = Box<dyn Fn() -> Result<String, String>>;
/// What the user is told.
pub type Say = Box<dyn FnMut(&str)>;

/// The files below the root directory of this process.
#[derive(Clone, Copy, Debug)]
pub struct LocalFiles;

/// The machine that this process runs on.
pub struct ThisHost {
    ask_version: AskVersion,
    restore: RestoreCpus,
    say: Say,
    /// How long CRI may take to answer.
    wait: Duration,
    /// Held: one installation at a time.
    _lock: File,
}

impl fmt::Debug for ThisHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThisHost").finish_non_exhaustive()
    }
}

/// A folder that every node has. Its lock is held while a node is changed.
const LOCKED: &str = "/etc/systemd";
const INTERVAL: Duration = Duration::from_secs(1);

impl ThisHost {
    /// This machine, for one installation at a time.
    ///
    /// # Errors
    /// When another one is under way, or systemd does not run this machine.
    pub fn new(
        ask_version: AskVersion,
        restore: RestoreCpus,
        say: Say,
        wait: Duration,
    ) -> Result<Self, InstallError> {
        let path = Path::new(LOCKED);
        let lock = File::open(path).map_err(InstallError::file("open", path))?;
        lock.try_lock()
            .map_err(|error| InstallError::file("lock", path)(error.into()))?;
        Ok(Self {
            ask_version,
            restore,
            say,
            wait,
            _lock: lock,
        })
    }
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file that is a link is changed where it really is.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_absent| path.to_owned())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

impl Files for LocalFiles {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
        found(fs::read(path)).map_err(InstallError::file("read", path))
    }

    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, InstallError> {
        let failed = |error| InstallError::file("list", folder)(error);
        let Some(entries) = found(fs::read_dir(folder)).map_err(failed)? else {
            return Ok(Vec::new());
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<_> = paths.collect::<io::Result<_>>().map_err(failed)?;
        paths.sort();
        Ok(paths)
    }

    fn has_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

impl Files for ThisHost {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, InstallError> {
        LocalFiles.read(path)
    }

    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, InstallError> {
        LocalFiles.list(folder)
    }

    fn has_folder(&self, path: &Path) -> bool {
        LocalFiles.has_folder(path)
    }
}

impl Host for ThisHost {
    fn write(&mut self, path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
        let path = &real(path);
        let write = || -> io::Result<()> {
            let mut beside = path.clone().into_os_string();
            beside.push(".cri-resmgr-new");
            let beside = PathBuf::from(beside);
            let old = found(fs::metadata(path))?;
            // One that an installation left that was killed.
            found(fs::remove_file(&beside))?;
            let mut options = File::options();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(content)?;
            let mode = old
                .as_ref()
                .map_or(mode, |old| old.permissions().mode() & 0o7777);
            if let Some(old) = &old {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            // Not what the umask leaves of it.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            sync_folder(path)
        };
        write().map_err(InstallError::file("write", path))
    }

    fn make_folder(&mut self, path: &Path) -> Result<(), InstallError> {
        fs::create_dir(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .and_then(|()| sync_folder(path))
            .map_err(InstallError::file("make the folder", path))
    }

    fn remove(&mut self, path: &Path) -> Result<(), InstallError> {
        let remove = || -> io::Result<()> {
            let Some(metadata) = found(fs::symlink_metadata(path))? else {
                return Ok(());
            };
            match metadata.is_dir() {
                true => fs::remove_dir_all(path)?,
                false => fs::remove_file(path)?,
            }
            sync_folder(path)
        };
        remove().map_err(InstallError::file("remove", path))
    }

    fn systemctl(&mut self, words: &[&str]) -> Result<String, InstallError> {
        let failed = |why: String| InstallError::Systemctl {
            words: words.join(" "),
            why,
        };
        let output = Command::new("systemctl")
            .args(words)
            // In a pod, after a change of the root directory.
            .env("SYSTEMD_IGNORE_CHROOT", "1")
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .output()
            .map_err(|error| failed(format!("{error} (systemd must run this node)")))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(format!("{}: {}", output.status, said.trim())))
        }
    }

    fn runtime_version(&mut self, socket: &Path) -> Result<String, InstallError> {
        let end = Instant::now() + self.wait;
        loop {
            match (self.ask_version)(socket) {
                Ok(version) => return Ok(version),
                Err(why) if Instant::now() >= end => {
                    return Err(InstallError::NoAnswer {
                        socket: socket.to_owned(),
                        why,
                    });
                }
                Err(_not_yet) => self.pause(),
            }
        }
    }

    fn restore(&mut self) -> Result<String, InstallError> {
        (self.restore)().map_err(|why| InstallError::Restore { why })
    }

    fn pause(&mut self) {
        std::thread::sleep(INTERVAL);
    }

    fn say(&mut self, line: &str) {
        (self.say)(line);
    }
}
