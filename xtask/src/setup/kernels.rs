//! Kernels for the guests: Debian's packages, unpacked into the cache, never installed.

use crate::shell::{cache, find, output, run, step};
use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Debian's names of the kernels that guests boot, newest first, and what is no part of the kernel
/// itself but needed to mount the guest's root: modules, in the order they are loaded in.
const FLAVOURS: [(&str, &str, &[&str]); 2] = [
    ("6.12", "linux-image-6.12-cloud-amd64", &[]),
    (
        "6.1",
        "linux-image-cloud-amd64",
        &[
            "drivers/virtio/virtio_ring.ko",
            "drivers/virtio/virtio.ko",
            "drivers/virtio/virtio_pci_legacy_dev.ko",
            "drivers/virtio/virtio_pci_modern_dev.ko",
            "drivers/virtio/virtio_pci.ko",
            "fs/fuse/fuse.ko",
            "fs/fuse/virtiofs.ko",
        ],
    ),
];

/// Fetches what is not in the cache yet: `.cache/kernels/VERSION/vmlinuz`, and beside it `initrd` where
/// the kernel needs modules to mount the guest's root.
///
/// # Errors
/// When a package cannot be fetched or holds no kernel. What was fetched before stays.
pub(crate) fn fetch() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" || find("apt-get").is_none() {
        return Ok(());
    }
    for (version, package, modules) in FLAVOURS {
        let target = cache().join("kernels").join(version);
        let whole = modules.is_empty() || target.join("initrd").exists();
        if !target.join("vmlinuz").exists() || !whole {
            step(&format!("fetching a {version} kernel for the guests"));
            fetch_one(package, modules, &target).with_context(|| format!("no {version} kernel"))?;
        }
    }
    Ok(())
}

fn fetch_one(package: &str, modules: &[&str], target: &Path) -> Result<()> {
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
    // The modules fit no other build of the kernel: both are replaced together.
    let initrd = (!modules.is_empty())
        .then(|| pack(work.path(), modules))
        .transpose()?;
    std::fs::rename(&image, target.join("vmlinuz"))?;
    if let Some(initrd) = initrd {
        std::fs::rename(&initrd, target.join("initrd"))?;
    }
    Ok(())
}

/// An archive of busybox and modules of the unpacked package, which loads these, mounts the root and goes
/// on there with the program that `next=` of the command line names.
fn pack(work: &Path, modules: &[&str]) -> Result<PathBuf> {
    let busybox = find("busybox").context("busybox is not installed")?;
    let (content, archive) = (work.join("i"), work.join("initrd"));
    std::fs::create_dir_all(content.join("root"))?;
    std::fs::copy(&busybox, content.join("busybox"))?;
    let mut init = String::from("#!/busybox sh\n");
    let unpacked = first(&work.join("x/lib/modules"), |_| true)?.join("kernel");
    for path in modules {
        let name = path.rsplit('/').next().unwrap_or(path);
        std::fs::copy(unpacked.join(path), content.join(name))
            .with_context(|| format!("the package has no module {path}"))?;
        writeln!(init, "/busybox insmod /{name}")?;
    }
    // The kernel puts words of its command line that it does not know into the environment.
    init.push_str(
        "/busybox mount -t virtiofs -o ro rootfs /root\n\
         exec /busybox switch_root /root \"$next\"\n",
    );
    std::fs::write(content.join("init"), init)?;
    std::fs::set_permissions(content.join("init"), std::fs::Permissions::from_mode(0o755))?;
    let script = r#"cd "$1" && "$2" find . | "$2" cpio -o -H newc >"$3""#;
    run(Command::new("sh")
        .args(["-c", script, "sh"])
        .args([&content, &busybox, &archive]))?;
    Ok(archive)
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
