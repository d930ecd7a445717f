//! From a container's id and its pod's cgroup parent to its cgroup.
//!
//! Runtimes name the directory after the container; the kubelet names the parent. Both forms of the
//! parent (`/kubepods/burstable/podX` and `…/kubepods-burstable-podX.slice`) and both drivers occur.

use super::files::CgroupFiles;
use std::path::{Path, PathBuf};

/// How deep and how wide the search goes for a container that is not where it should be.
const SEARCH_DEPTH: usize = 8;
const SEARCH_DIRECTORIES: usize = 20_000;

/// What is needed to find a container's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// The runtime's id of the container.
    pub id: &'a str,
    /// The pod's cgroup parent as the kubelet gave it; may be empty.
    pub parent: &'a str,
}

impl Place<'_> {
    /// The container's directory under the hierarchy mounted at `root`, if it exists.
    #[must_use]
    pub fn find(&self, files: &dyn CgroupFiles, root: &Path) -> Option<PathBuf> {
        if self.id.is_empty() || self.id.contains('/') {
            return None;
        }
        let names = names(self.id);
        for parent in parents(self.parent) {
            let parent = root.join(parent);
            for name in &names {
                let candidate = parent.join(name);
                if files.is_directory(&candidate) {
                    return Some(candidate);
                }
            }
        }
        None
    }

    /// Like [`Place::find`], and searches the whole hierarchy when that finds nothing.
    #[must_use]
    pub fn search(&self, files: &dyn CgroupFiles, root: &Path) -> Option<PathBuf> {
        self.find(files, root).or_else(|| {
            if self.id.len() < 12 {
                return None; // too short to be a container's unique name
            }
            search(files, root, &names(self.id))
        })
    }
}

/// Directory names runtimes give a container: containerd and CRI-O, cgroupfs and systemd drivers.
fn names(id: &str) -> [String; 6] {
    [
        id.to_owned(),
        format!("cri-containerd-{id}.scope"),
        format!("crio-{id}.scope"),
        format!("crio-{id}"),
        format!("cri-containerd-{id}"),
        format!("docker-{id}.scope"),
    ]
}

/// Paths, relative to the mount, that a cgroup parent may stand for.
pub(super) fn parents(parent: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let plain = parent.trim_start_matches('/');
    if !plain.split('/').any(|part| part == "..") {
        found.push(PathBuf::from(plain));
    }
    let base = plain.rsplit('/').next().unwrap_or_default();
    if let Some((slice, rest)) = base.split_once(':') {
        if let Some((prefix, name)) = rest.split_once(':') {
            let scope = if prefix.is_empty() {
                format!("{name}.scope")
            } else {
                format!("{prefix}-{name}.scope")
            };
            found.push(expand_slice(slice).join(scope));
        }
    } else if base.ends_with(".slice") {
        found.push(expand_slice(base));
    }
    found
}

/// systemd's nesting of slices: `a-b-c.slice` lives in `a.slice/a-b.slice/a-b-c.slice`, and
/// `-.slice` is the root (systemd.slice(5)).
#[must_use]
pub fn expand_slice(slice: &str) -> PathBuf {
    let Some(stem) = slice.strip_suffix(".slice") else {
        return slice.into();
    };
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in stem.split('-').filter(|part| !part.is_empty()) {
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
    }
    path
}

fn search(files: &dyn CgroupFiles, root: &Path, names: &[String]) -> Option<PathBuf> {
    let mut level = vec![root.to_owned()];
    let mut seen = 0;
    for _ in 0..SEARCH_DEPTH {
        let mut next = Vec::new();
        for directory in &level {
            let Ok(inside) = files.directories(directory) else {
                continue; // ended meanwhile
            };
            for path in inside {
                seen += 1;
                if seen > SEARCH_DIRECTORIES {
                    return None;
                }
                let named = path.file_name();
                if named.is_some_and(|named| names.iter().any(|name| named == name.as_str())) {
                    return Some(path);
                }
                next.push(path);
            }
        }
        level = next;
    }
    None
}

/// All cgroups below `directory`, the deepest last.
#[must_use]
pub fn children(files: &dyn CgroupFiles, directory: &Path) -> Vec<PathBuf> {
    // A cgroup that is gone meanwhile has none.
    let inside = |directory: &Path| files.directories(directory).unwrap_or_default();
    let mut found = inside(directory);
    let mut next = 0;
    while let Some(child) = found.get(next) {
        let below = inside(child);
        found.extend(below);
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforce::{Hierarchy, MountedFiles};
    use std::fs;

    fn files(root: &Path) -> MountedFiles {
        MountedFiles::new(Hierarchy::V2 {
            root: root.to_owned(),
        })
    }

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn slices_nest_as_systemd_nests_them() {
        assert_eq!(
            expand_slice("kubepods-burstable-podX.slice"),
            Path::new("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice")
        );
        assert_eq!(expand_slice("-.slice"), Path::new(""));
    }

    #[test]
    fn every_layout_of_both_runtimes_is_found() {
        let slice = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice";
        for (parent, directory) in [
            ("/kubepods/podX", format!("kubepods/podX/{ID}")),
            ("/kubepods/podX", format!("kubepods/podX/crio-{ID}")),
            (
                "kubepods-burstable-podX.slice",
                format!("{slice}/cri-containerd-{ID}.scope"),
            ),
            (&format!("/{slice}"), format!("{slice}/crio-{ID}.scope")),
            (
                "kubepods-burstable-podX.slice:kubelet:abc",
                format!("{slice}/kubelet-abc.scope/{ID}"),
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            let wanted = root.path().join(&directory);
            fs::create_dir_all(&wanted).unwrap();
            let place = Place { id: ID, parent };
            assert_eq!(
                place.find(&files(root.path()), root.path()),
                Some(wanted),
                "{parent} {directory}"
            );
        }
    }

    #[test]
    fn a_container_elsewhere_is_searched_and_a_path_is_no_id() {
        let root = tempfile::tempdir().unwrap();
        let wanted = root.path().join("outer/kubepods/podX").join(ID);
        fs::create_dir_all(&wanted).unwrap();
        let place = |id| Place {
            id,
            parent: "/kubepods/podX",
        };
        assert_eq!(place(ID).find(&files(root.path()), root.path()), None);
        assert_eq!(
            place(ID).search(&files(root.path()), root.path()),
            Some(wanted)
        );
        assert_eq!(place("../x").search(&files(root.path()), root.path()), None);
    }
}
