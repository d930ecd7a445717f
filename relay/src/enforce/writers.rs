//! Which processes may be writing a file of a cgroup.

use std::{fs, path::Path};

/// Most processes that are named.
const NAMED: usize = 4;

/// The processes (`name (pid)`) under `proc` that hold a file open now, our own left out. A process that opens the
/// file for each write is seldom among them. Blocks, for as long as it takes to read all file descriptors.
#[must_use]
pub fn holders(proc: &Path, file: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    // A process that ends meanwhile, or that we may not look into, is left out.
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let named = processes.filter_map(|process| {
        let pid = process.file_name().into_string().ok()?;
        if pid == own || !pid.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let mut open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let holds = open.any(|open| fs::read_link(open.path()).is_ok_and(|target| target == file));
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        holds.then(|| format!("{} ({pid})", name.trim_end()))
    });
    named.take(NAMED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn processes_that_hold_the_file_open_are_named_and_no_others() {
        let proc = tempfile::tempdir().unwrap();
        let file = Path::new("/sys/fs/cgroup/kubepods/c1/cpuset.cpus");
        let own = std::process::id().to_string();
        for (pid, open) in [("12", file), ("13", Path::new("/dev/null")), (&own, file)] {
            let process = proc.path().join(pid);
            fs::create_dir_all(process.join("fd")).unwrap();
            fs::write(process.join("comm"), "tuned\n").unwrap();
            symlink(open, process.join("fd/3")).unwrap();
        }
        assert_eq!(holders(proc.path(), file), ["tuned (12)"]);
        assert!(holders(&proc.path().join("absent"), file).is_empty());
    }
}
