//! The files below a cgroup mount: all that enforcement asks of the kernel.

use super::{
    Hierarchy,
    watch::{InotifyWatch, Watch},
};
use cgroups_rs::fs::{cpu::CpuController, cpuset::CpuSetController};
use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A mounted hierarchy. The product has the machine's ([`MountedFiles`]); a simulated kernel keeps its own.
pub trait CgroupFiles: fmt::Debug + Send + Sync {
    /// What a file says.
    ///
    /// # Errors
    /// Why it cannot be read; `NotFound` when the cgroup is gone.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Sets `cpuset.cpus` of a cgroup to a list.
    ///
    /// # Errors
    /// Why the kernel refuses it; likewise for the settings below.
    fn set_cpus(&self, directory: &Path, list: &str) -> io::Result<()>;

    /// Sets `cpuset.mems` of a cgroup to a list.
    ///
    /// # Errors
    /// As above.
    fn set_mems(&self, directory: &Path, list: &str) -> io::Result<()>;

    /// Sets `cpu.shares` (v1) or `cpu.weight` (v2) of a cgroup.
    ///
    /// # Errors
    /// As above.
    fn set_shares(&self, directory: &Path, shares: u64) -> io::Result<()>;

    /// Sets the CFS quota of a cgroup, in µs per period; -1 is none.
    ///
    /// # Errors
    /// As above.
    fn set_quota(&self, directory: &Path, quota: i64) -> io::Result<()>;

    /// Writes any other text to a file.
    ///
    /// # Errors
    /// Why the kernel refuses it.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Whether there is such a cgroup.
    fn is_directory(&self, path: &Path) -> bool;

    /// The cgroups directly below another.
    ///
    /// # Errors
    /// Why they cannot be listed.
    fn directories(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Notices what happens to the cgroups of containers from now on. Within a Tokio runtime only.
    ///
    /// # Errors
    /// When nothing can be noticed.
    fn watch(&self) -> io::Result<Box<dyn Watch>>;
}

/// The kernel's own files, set through cgroups-rs.
#[derive(Clone, Debug)]
pub struct MountedFiles {
    hierarchy: Hierarchy,
}

impl MountedFiles {
    /// The files of these mounts.
    #[must_use]
    pub fn new(hierarchy: Hierarchy) -> Self {
        Self { hierarchy }
    }

    fn cpuset(&self, directory: &Path) -> CpuSetController {
        let root = self.hierarchy.cpuset_root().to_owned();
        CpuSetController::new(directory.to_owned(), root, self.hierarchy.is_v2())
    }

    fn cpu(&self, directory: &Path) -> CpuController {
        let root = self.hierarchy.cpu_root().unwrap_or(directory).to_owned();
        CpuController::new(directory.to_owned(), root, self.hierarchy.is_v2())
    }
}

impl CgroupFiles for MountedFiles {
    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn set_cpus(&self, directory: &Path, list: &str) -> io::Result<()> {
        let set = self.cpuset(directory).set_cpus(list).map_err(cause);
        logged(directory, "cpuset.cpus", list, set)
    }

    fn set_mems(&self, directory: &Path, list: &str) -> io::Result<()> {
        let set = self.cpuset(directory).set_mems(list).map_err(cause);
        logged(directory, "cpuset.mems", list, set)
    }

    fn set_shares(&self, directory: &Path, shares: u64) -> io::Result<()> {
        let set = self.cpu(directory).set_shares(shares).map_err(cause);
        logged(directory, "shares or weight", shares, set)
    }

    fn set_quota(&self, directory: &Path, quota: i64) -> io::Result<()> {
        let set = self.cpu(directory).set_cfs_quota(quota).map_err(cause);
        logged(directory, "quota", quota, set)
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        logged(path, "content", text.trim_end(), fs::write(path, text))
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn directories(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        // kernfs counts a link for each directory inside: the common case costs one call.
        if fs::metadata(path)?.nlink() == 2 {
            return Ok(Vec::new());
        }
        let directories = fs::read_dir(path)?.flatten();
        let directories =
            directories.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(directories.map(|entry| entry.path()).collect())
    }

    fn watch(&self) -> io::Result<Box<dyn Watch>> {
        Ok(Box::new(InotifyWatch::new()?))
    }
}

/// Logs a write for debugging.
fn logged(
    path: &Path,
    setting: &str,
    value: impl fmt::Display,
    written: io::Result<()>,
) -> io::Result<()> {
    match &written {
        Ok(()) => tracing::debug!("{}: {setting} set to {value}", path.display()),
        Err(error) => {
            tracing::debug!("{}: {setting} not set to {value}: {error}", path.display());
        }
    }
    written
}

/// The system's error inside an error of cgroups-rs.
fn cause(error: cgroups_rs::fs::error::Error) -> io::Error {
    std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map_or_else(
            || io::Error::other(error.to_string()),
            |io| match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(io.kind(), io.to_string()),
            },
        )
}
