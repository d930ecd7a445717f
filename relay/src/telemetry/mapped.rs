//! A BPF array read in place.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::{
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

/// Plain integers without padding, a multiple of eight bytes long, valid for every bit pattern.
///
/// # Safety
/// The implementor vouches for exactly that.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: `repr(C)` integers with asserted sizes and no padding.
unsafe impl Plain for resmgr_common::SlotCounters {}
// SAFETY: as above.
unsafe impl Plain for resmgr_common::CpuState {}
// SAFETY: as above.
unsafe impl Plain for resmgr_common::Css {}
// SAFETY: as above.
unsafe impl Plain for u64 {}

/// `BPF_F_MMAPABLE` array mapped into this process.
#[derive(Debug)]
pub(super) struct MappedArray<T> {
    start: NonNull<AtomicU64>,
    entries: usize,
    bytes: usize,
    _entry: PhantomData<T>,
}

// SAFETY: the mapping is owned, and every access is atomic.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T: Plain> MappedArray<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// Maps the array behind `map`.
    pub(super) fn new(map: BorrowedFd<'_>, entries: u32) -> io::Result<Self> {
        let entries = entries as usize;
        let bytes = (entries * size_of::<T>()).next_multiple_of(4096);
        // SAFETY: a fresh shared mapping; the kernel checks length and protection.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            start,
            entries,
            bytes,
            _entry: PhantomData,
        })
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Copies an entry. Words are never torn; an entry may be caught between two of its words.
    pub(super) fn get(&self, index: usize) -> Option<T> {
        (index < self.entries).then(|| {
            let mut value = MaybeUninit::<T>::uninit();
            // SAFETY: within the mapping; `T` is plain words, all of which are written.
            unsafe {
                let from = self.start.add(index * Self::WORDS);
                let to = value.as_mut_ptr().cast::<u64>();
                for word in 0..Self::WORDS {
                    to.add(word)
                        .write(from.add(word).as_ref().load(Ordering::Acquire));
                }
                value.assume_init()
            }
        })
    }

    /// One word of an entry.
    pub(super) fn word(&self, index: usize, word: usize) -> u64 {
        if index >= self.entries || word >= Self::WORDS {
            return 0;
        }
        // SAFETY: within the mapping.
        unsafe { self.start.add(index * Self::WORDS + word).as_ref() }.load(Ordering::Acquire)
    }

    /// Zeroes an entry, last word last.
    pub(super) fn zero(&self, index: usize) {
        if index < self.entries {
            for word in 0..Self::WORDS {
                // SAFETY: within the mapping.
                unsafe { self.start.add(index * Self::WORDS + word).as_ref() }
                    .store(0, Ordering::Release);
            }
        }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once; after a failure it only stays mapped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
