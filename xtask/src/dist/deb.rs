//! The Debian package: programs, units, option file, manual page, completions. dpkg-deb packs it.
//!
//! It starts nothing: `cri-resmgr install` does. Removing it takes an installation back first.

use super::release::{Packed, Release, packed_file, packed_programs};
use crate::shell::run;
use anyhow::{Context as _, Result};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

const OPTIONS: &str = "\
# Options of cri-resmgr: man 8 cri-resmgr, or cri-resmgr --help.
runtime-socket = /run/containerd/containerd.sock
# With null all calls pass as they are; `systemctl restart cri-resmgr` after a change.
policy = null
";

const POSTINST: &str = "\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # Calls of the kubelet wait in the socket's backlog meanwhile.
    systemctl try-restart cri-resmgr.service
fi
";

const PRERM: &str = "\
#!/bin/sh
set -e
# A kubelet must not be left pointing at a socket that is gone.
if [ \"$1\" = remove ] && [ -e /var/lib/cri-resmgr/install/journal ]; then
    /usr/bin/cri-resmgr uninstall
fi
";

/// Writes `cri-resmgr_VERSION_ARCHITECTURE.deb`.
pub(super) fn write(
    release: &Release,
    architecture: &str,
    programs: &Path,
    texts: Option<&[Packed]>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    let mut files = packed_programs(programs)?;
    files.extend(texts.unwrap_or_default().iter().cloned());
    for unit in ["cri-resmgr.service", "cri-resmgr.socket"] {
        files.push(packed_file(
            &format!("deploy/systemd/{unit}"),
            &format!("lib/systemd/system/{unit}"),
        )?);
    }
    files.push(packed_file("LICENSE", "share/doc/cri-resmgr/copyright")?);
    for page in [
        "README.md",
        "CHANGELOG.md",
        "docs/install.md",
        "docs/configuration.md",
    ] {
        let name = page.rsplit('/').next().unwrap_or(page);
        files.push(packed_file(page, &format!("share/doc/cri-resmgr/{name}"))?);
    }
    let mut size = 0;
    for file in &mut files {
        file.path = format!("usr/{}", file.path);
        size += file.content.len();
    }
    let text = |path: &str, content: &str, program| Packed {
        path: path.to_owned(),
        content: content.into(),
        program,
    };
    let control = format!(
        "Package: cri-resmgr\nVersion: {}\nArchitecture: {architecture}\n\
         Maintainer: the cri-resmgr developers <cri-resmgr@localhost>\nInstalled-Size: {}\n\
         Depends: libc6 (>= 2.34), libgcc-s1, libhwloc15\nSection: admin\nPriority: optional\n\
         Description: CRI relay that places containers on CPUs\n \
         It sits between the kubelet and the container runtime, relays every call and decides on which\n \
         CPUs each container runs. `cri-resmgr install` puts it there, `cri-resmgr uninstall` takes it out.\n",
        release.version,
        size / 1024
    );
    files.extend([
        text("etc/cri-resmgr/cri-resmgr.conf", OPTIONS, false),
        text("DEBIAN/control", &control, false),
        text(
            "DEBIAN/conffiles",
            "/etc/cri-resmgr/cri-resmgr.conf\n",
            false,
        ),
        text("DEBIAN/postinst", POSTINST, true),
        text("DEBIAN/prerm", PRERM, true),
    ]);
    for file in &files {
        let path = root.join(&file.path);
        fs::create_dir_all(
            path.parent()
                .context("a file of the package is in no folder")?,
        )?;
        fs::write(&path, &file.content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode()))?;
    }
    // tempdir made it for its owner alone, and it becomes the package's root.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    let name = format!("cri-resmgr_{}_{architecture}.deb", release.version);
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(root)
        .arg(release.out.join(name))
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dist::release::PROGRAMS,
        shell::{find, output},
    };

    #[test]
    fn a_package_has_its_files_of_root_and_is_the_same_again() {
        if find("dpkg-deb").is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for program in PROGRAMS {
            fs::write(folder.path().join(program), program).unwrap();
        }
        let release = Release {
            version: "1.2.3".to_owned(),
            commit: "c0ffee".to_owned(),
            epoch: 1_700_000_000,
            out: folder.path().to_owned(),
        };
        let path = folder.path().join("cri-resmgr_1.2.3_amd64.deb");
        write(&release, "amd64", folder.path(), None).unwrap();
        let first = fs::read(&path).unwrap();
        write(&release, "amd64", folder.path(), None).unwrap();
        assert_eq!(first, fs::read(&path).unwrap());
        let mut list = Command::new("dpkg-deb");
        list.env("TZ", "UTC").arg("--contents").arg(&path);
        let listed = output(&mut list).unwrap();
        for line in [
            "-rwxr-xr-x root/root        10 2023-11-14 22:13 ./usr/bin/cri-resmgr",
            "./usr/lib/systemd/system/cri-resmgr.socket",
            "./etc/cri-resmgr/cri-resmgr.conf",
        ] {
            assert!(listed.contains(line), "{line}: {listed}");
        }
        let fields = output(Command::new("dpkg-deb").arg("--field").arg(&path)).unwrap();
        assert!(
            fields.contains("Version: 1.2.3\nArchitecture: amd64\n"),
            "{fields}"
        );
    }
}
