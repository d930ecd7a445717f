//! The disk that state is kept on.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
};

/// A file system, as far as state needs it: each method is what the function of `std::fs` of that name does.
/// The product has the machine's ([`LocalDisk`]); a simulated disk tears and fills up when it is told to.
#[expect(
    clippy::missing_errors_doc,
    reason = "each fails as its function of std::fs does"
)]
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a directory and those above it, unless they exist; what is made has this mode.
    fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()>;

    /// Whether there is a file or a directory of this name.
    fn exists(&self, path: &Path) -> bool;

    /// The names in a directory.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// The content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Opens a file to be written in place; one that is missing is made, empty and with this mode. A symbolic
    /// link is refused.
    fn open(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>>;

    /// Writes a file from scratch. It need not survive a power cut.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Gives a file another name, of which it takes the place.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all in it.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;

    /// Has the names in a directory survive a power cut.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// A file that is written in place.
#[expect(
    clippy::missing_errors_doc,
    reason = "each fails as its method of std::fs::File does"
)]
pub trait DiskFile {
    /// Replaces what stands at the beginning.
    fn overwrite(&self, bytes: &[u8]) -> io::Result<()>;

    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Makes it shorter or longer.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Has the content and the length survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// The machine's own file systems.
#[derive(Clone, Copy, Debug)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut directory = DirBuilder::new();
        directory.recursive(true).mode(mode).create(path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(path)?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn open(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        fs::write(path, content)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl DiskFile for File {
    fn overwrite(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, 0)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
