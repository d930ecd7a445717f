//! In the place of `hwloc.rs` in a build without the library: a static one.

use super::error::DiscoverError;
use resmgr_topology::Parts;
use std::path::Path;

/// Fails: the machine is read from sysfs.
pub(super) fn from_machine() -> Result<Parts, DiscoverError> {
    Err(absent("this machine".to_owned()))
}

/// Fails: only hwloc reads its XML files.
pub(super) fn from_xml(path: &Path) -> Result<Parts, DiscoverError> {
    super::sysfs::read(path)?;
    Err(absent(path.display().to_string()))
}

fn absent(from: String) -> DiscoverError {
    DiscoverError::Hwloc {
        from,
        why:
            "this build has no hwloc; describe the machine as JSON or in words (pack:2 core:4 pu:2)"
                .to_owned(),
    }
}
