//! State files. The only module that writes them.
//!
//! A file is replaced whole: written beside, fsynced, renamed, directory fsynced; the one before is kept. A
//! torn, foreign or newer file is a warning and a fresh start: the runtime and the kernel know the rest.

mod blocking;
mod disk;
mod file;
mod kept;
mod lock;
mod writer;

pub use blocking::Blocking;
pub use disk::{Disk, DiskFile, LocalDisk};
pub use file::{LedgerError, Loaded, StateFile, StateRecord};
pub use kept::{LastGood, Marks};
pub use lock::{LockError, StateLock};
pub use writer::{Durable, Health, StateWriter};
