//! Kernels for the guests: Debian's packages, unpacked into the cache, never installed.

use crate::shell::{cache, find, output, run, step};
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Debian's names of the kernels that guests boot, newest first.
const FLAVOURS: [(&str, &str); 2] = [
    ("6.12", "linux-image-6.12-cloud-amd64"),
    ("6.1", "linux-image-cloud-amd64"),
];

/// Fetches what is not in the cache yet: `.cache/kernels/VERSION/vmlinuz`.
///
/// # Errors
/// When a package cannot be fetched or holds no kernel. What was fetched before stays.
pub(crate) fn fetch() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" || find("apt-get").is_none() {
        return Ok(());
    }
    for (version, package) in FLAVOURS {
        let target = cache().join("kernels").join(version);
        if !target.join("vmlinuz").exists() {
            step(&format!("fetching a {version} kernel for the guests"));
            fetch_one(package, &target).with_context(|| format!("no {version} kernel"))?;
        }
    }
    Ok(())
}

fn fetch_one(package: &str, target: &Path) -> Result<()> {
    // The named package is empty and depends on the newest real one.
    let depends = output(Command::new("apt-cache").args(["depends", package]))?;
    let real = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{package} depends on no kernel"))?
        .to_owned();
    std::fs::create_dir_all(target)?;
    let work = tempfile::tempdir_in(target)?;
    run(Command::new("apt-get")
        .args(["download", "-q", &real])
        .current_dir(work.path()))?;
    let archive = first(work.path(), |name| name.ends_with(".deb"))?;
    run(Command::new("dpkg")
        .arg("-x")
        .arg(&archive)
        .arg(work.path().join("x")))?;
    let image = first(&work.path().join("x/boot"), |name| {
        name.starts_with("vmlinuz")
    })?;
    std::fs::rename(&image, target.join("vmlinuz"))?;
    Ok(())
}

fn first(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if wanted(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    bail!("nothing fitting in {}", folder.display())
}
