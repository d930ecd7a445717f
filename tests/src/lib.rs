//! Harness of the tests against real parts: a private containerd, the relay in front of it, virtual
//! machines with several sockets, and readers of what the kernel really did.
//!
//! Everything here cleans up after itself on drop and touches nothing it did not make.

pub mod agent;
pub mod apiserver;
pub mod cluster;
pub mod cri;
#[cfg(target_arch = "x86_64")]
pub mod cut;
pub mod feedback;
pub mod frames;
pub mod guest;
pub mod kernel;
pub mod mock_runtime;
pub mod node;
pub mod promtool;
pub mod relay;
pub mod runtime;
pub mod skip;
pub mod wire;

pub use cluster::Cluster;
pub use cri::{Container, Cri, Pod};
pub use guest::Guest;
pub use node::Node;
pub use relay::Relay;
pub use runtime::Runtime;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Waits until `condition` holds, for `limit` at most. Whether it came to hold.
pub async fn eventually<F: AsyncFnMut() -> bool>(limit: Duration, mut condition: F) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The log of a program of ours, of which a thread writes the lines a moment after what they tell: as soon
/// as it grows no more, and after a second at most.
#[must_use]
pub fn whole_log(path: &Path) -> String {
    let read = || std::fs::read_to_string(path).unwrap_or_default();
    let mut log = read();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        let later = read();
        if later.len() == log.len() {
            break;
        }
        log = later;
    }
    log
}

/// A program that this workspace builds, in the profile that this test was built in.
#[must_use]
pub fn built(program: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("RESMGR_BINARIES") {
        return Some(PathBuf::from(folder).join(program)).filter(|file| file.is_file());
    }
    let own = std::env::current_exe().ok()?;
    own.ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A program in `PATH` or in the folders that hold the administrator's.
#[must_use]
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/qemu", "/usr/libexec"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
