//! A disk that tears what is not fsynced, and fills up.
//!
//! A power cut leaves of what was written to a file since its last fsync any of the sectors, and of the changes
//! of names that no fsync of the directory followed the first few, in order (as a journalling file system does).

use crate::{Mutation, world::World};
use cri_resmgr::ledger::{Disk, DiskFile};
use resmgr_sim::random::Random;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

type Inode = u64;

/// What a file holds, and what of it survives a power cut.
#[derive(Clone, Debug, Default)]
struct Content {
    written: Vec<u8>,
    /// `None`: never fsynced.
    safe: Option<Vec<u8>>,
}

const SECTOR: usize = 512;

impl Content {
    /// What is left of it, when these sectors of what is not safe were written, and the length was or was not.
    fn torn(&self, mut is_written: impl FnMut(usize) -> bool, long: bool) -> Vec<u8> {
        let safe = self.safe.as_deref().unwrap_or_default();
        let length = if long { self.written.len() } else { safe.len() };
        let sectors = (0..length).step_by(SECTOR).flat_map(|begin| {
            let from = match is_written(begin / SECTOR) {
                true => &self.written,
                false => safe,
            };
            let end = length.min(begin + SECTOR);
            (begin..end).map(|at| from.get(at).copied().unwrap_or(0))
        });
        sectors.collect()
    }
}

/// A change of a name: what it names from then on.
type Naming = (PathBuf, Option<Inode>);

#[derive(Clone, Debug, Default)]
pub(crate) struct DiskState {
    files: BTreeMap<Inode, Content>,
    next: Inode,
    names: BTreeMap<PathBuf, Inode>,
    /// The names that survive a power cut.
    safe_names: BTreeMap<PathBuf, Inode>,
    /// Changes since, in groups that happen as one.
    pending: Vec<Vec<Naming>>,
    directories: BTreeSet<PathBuf>,
    /// No room is left.
    pub(crate) full: bool,
    /// The next operation fails.
    pub(crate) fails_next: bool,
}

impl DiskState {
    /// What a power cut leaves: so many of the changes of names, and of the contents what `tear` leaves.
    fn torn(&mut self, kept: usize, mut tear: impl FnMut(&Content) -> Vec<u8>) {
        for change in self.pending.drain(..).take(kept).flatten() {
            apply(&mut self.safe_names, change);
        }
        self.names.clone_from(&self.safe_names);
        for content in self.files.values_mut() {
            if content.safe.as_ref() != Some(&content.written) {
                content.written = tear(content);
            }
            content.safe = Some(content.written.clone());
        }
        let named: BTreeSet<_> = self.names.values().copied().collect();
        self.files.retain(|inode, _content| named.contains(inode));
    }

    pub(crate) fn power_cut(&mut self, random: &mut Random) {
        let changes = self.pending.len() as u64;
        let kept = usize::try_from(random.below(changes + 1)).unwrap_or_default();
        self.torn(kept, |content| {
            let long = random.below(2) == 0;
            content.torn(|_sector| random.below(2) == 0, long)
        });
        self.full = false;
        self.fails_next = false;
    }

    /// The worst that a power cut could leave now: nothing of what is not safe, or all names and the first
    /// sector of each content.
    pub(crate) fn worst(&self) -> [Self; 2] {
        let (mut least, mut first) = (self.clone(), self.clone());
        least.torn(0, |content| content.torn(|_sector| false, false));
        first.torn(usize::MAX, |content| {
            content.torn(|sector| sector == 0, true)
        });
        [least, first]
    }

    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let content = self.names.get(path).and_then(|inode| self.files.get(inode));
        let content = content.ok_or(io::ErrorKind::NotFound)?;
        Ok(content.written.clone())
    }

    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        if !self.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let all = self.names.keys().chain(&self.directories);
        let inside = all.filter(|name| name.parent() == Some(path));
        let names: BTreeSet<_> = inside
            .filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned()))
            .collect();
        Ok(names.into_iter().collect())
    }

    /// Something is to be written.
    fn writes(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fails_next) {
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        Ok(())
    }

    fn change(&mut self, changes: Vec<Naming>) {
        for change in &changes {
            apply(&mut self.names, change.clone());
        }
        self.pending.push(changes);
    }

    fn make(&mut self, path: &Path) -> Inode {
        self.next += 1;
        self.files.insert(self.next, Content::default());
        self.change(vec![(path.to_owned(), Some(self.next))]);
        self.next
    }

    fn exists(&self, path: &Path) -> bool {
        self.names.contains_key(path) || self.directories.contains(path)
    }

    fn named(&self, path: &Path) -> io::Result<Inode> {
        let inode = self.names.get(path).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Inode>, (path, inode): Naming) {
    match inode {
        Some(inode) => names.insert(path, inode),
        None => names.remove(&path),
    };
}

/// The disk as the daemon of one start has it.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedDisk {
    pub(crate) world: World,
    pub(crate) start: u64,
}

impl SimulatedDisk {
    fn effect<T>(
        &self,
        operation: &str,
        path: &Path,
        act: impl FnOnce(&mut DiskState) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut world = self.world.lock();
        world.effect(self.start)?;
        let done = world.disk.writes().and_then(|()| act(&mut world.disk));
        let how = if done.is_ok() { "" } else { ": refused" };
        world.event(format_args!("disk {operation} {}{how}", path.display()));
        done
    }
}

impl Disk for SimulatedDisk {
    fn create_directory(&self, path: &Path, _mode: u32) -> io::Result<()> {
        if self.world.lock().disk.directories.contains(path) {
            return Ok(());
        }
        self.effect("mkdir", path, |disk| {
            let above = path.ancestors().map(Path::to_owned);
            disk.directories.extend(above);
            Ok(())
        })
    }

    fn exists(&self, path: &Path) -> bool {
        self.world.lock().disk.exists(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.world.lock().disk.list(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.world.lock().disk.read(path)
    }

    fn open(&self, path: &Path, _mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let named = self.world.lock().disk.named(path);
        let inode = match named {
            Ok(inode) => inode,
            Err(_missing) => self.effect("create", path, |disk| Ok(disk.make(path)))?,
        };
        let file = SimulatedFile {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
        };
        Ok(Box::new(file))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.effect("write", path, |disk| {
            if disk.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let inode = disk.named(path).unwrap_or_else(|_missing| disk.make(path));
            if let Some(file) = disk.files.get_mut(&inode) {
                file.written = content.to_vec();
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.effect("rename", to, |disk| {
            let inode = disk.named(from)?;
            if disk.names.get(to) == Some(&inode) {
                return Ok(()); // rename(2): two names of one file stay
            }
            disk.change(vec![(to.to_owned(), Some(inode)), (from.to_owned(), None)]);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.effect("remove", path, |disk| {
            disk.named(path)?;
            disk.change(vec![(path.to_owned(), None)]);
            Ok(())
        })
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.effect("rmdir", path, |disk| {
            if !disk.directories.contains(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let inside = disk.names.keys().filter(|name| name.starts_with(path));
            let gone: Vec<_> = inside.map(|name| (name.clone(), None)).collect();
            disk.change(gone);
            disk.directories.retain(|name| !name.starts_with(path));
            Ok(())
        })
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mutation = self.world.lock().mutation;
        self.effect("fsync", path, |disk| {
            if mutation != Some(Mutation::ForgetFsync) {
                for change in std::mem::take(&mut disk.pending).into_iter().flatten() {
                    apply(&mut disk.safe_names, change);
                }
            }
            Ok(())
        })
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    path: PathBuf,
    inode: Inode,
}

impl SimulatedFile {
    fn effect<T>(
        &self,
        operation: &str,
        act: impl FnOnce(&mut DiskState, &mut Content) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.effect(operation, &self.path, |disk| {
            let content = disk.files.remove(&self.inode);
            let mut content = content.ok_or(io::ErrorKind::NotFound)?;
            let done = act(disk, &mut content);
            disk.files.insert(self.inode, content);
            done
        })
    }
}

impl DiskFile for SimulatedFile {
    fn overwrite(&self, bytes: &[u8]) -> io::Result<()> {
        self.effect("write", |disk, content| {
            // A disk that is full takes what needs no more room.
            let room = if disk.full {
                content.written.len()
            } else {
                bytes.len()
            };
            let fits = bytes.get(..room).unwrap_or(bytes);
            let kept = content.written.len().max(fits.len());
            content.written.resize(kept, 0);
            content.written[..fits.len()].copy_from_slice(fits);
            match fits.len() == bytes.len() {
                true => Ok(()),
                false => Err(io::ErrorKind::StorageFull.into()),
            }
        })
    }

    fn length(&self) -> io::Result<u64> {
        self.effect("stat", |_disk, content| Ok(content.written.len() as u64))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.effect("truncate", |_disk, content| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            content.written.resize(length, 0);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mutation = self.disk.world.lock().mutation;
        self.effect("fsync", |_disk, content| {
            if mutation != Some(Mutation::ForgetFsync) {
                content.safe = Some(content.written.clone());
            }
            Ok(())
        })
    }
}

/// What a power cut would leave, to be read.
#[derive(Debug)]
pub(crate) struct Image(pub(crate) DiskState);

impl Disk for Image {
    fn create_directory(&self, _path: &Path, _mode: u32) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.exists(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }

    fn open(&self, _path: &Path, _mode: u32) -> io::Result<Box<dyn DiskFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write(&self, _path: &Path, _content: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove_directory(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_directory(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_resmgr::ledger::{LastGood, StateFile};
    use std::sync::Arc;

    fn value(source: &str) -> LastGood {
        LastGood {
            source: source.to_owned(),
            ..LastGood::default()
        }
    }

    /// What is read after the worst of power cuts.
    fn after_a_cut(world: &World) -> [Option<LastGood>; 2] {
        let images = world.lock().disk.worst();
        images.map(|image| {
            StateFile::on(Arc::new(Image(image)), Path::new("/s"))
                .load()
                .value
        })
    }

    #[test]
    fn a_record_is_safe_also_when_its_file_was_made_by_a_write_that_failed() {
        let world = World::new(Random::new(0), crate::policy(0), None, false);
        world.lock().alive = true;
        let file = || {
            let disk = SimulatedDisk {
                world: world.clone(),
                start: 0,
            };
            StateFile::on(Arc::new(disk), Path::new("/s"))
        };
        let first = file();
        world.lock().disk.full = true;
        first.store(&value("refused")).unwrap_err();
        world.lock().disk.full = false;
        first.store(&value("kept")).unwrap();
        assert_eq!(
            after_a_cut(&world),
            [Some(value("kept")), Some(value("kept"))]
        );
        // The other file is made by a process that is killed before it has fsynced the directory.
        world.lock().dies_in = Some(5);
        first.store(&value("lost")).unwrap_err();
        assert_eq!(after_a_cut(&world)[0], Some(value("kept")));
        world.lock().dead = false;
        file().store(&value("next")).unwrap();
        assert_eq!(
            after_a_cut(&world),
            [Some(value("next")), Some(value("next"))]
        );
    }
}
