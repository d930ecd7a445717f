//! The Debian package: programs, units, option file, manual page, completions. dpkg-deb packs it.
//!
//! It starts nothing: `cri-resmgr install` does. Removing it takes an installation back first.

use super::{
    archive::gzip,
    release::{PROGRAMS, Packed, Release, packed_file, packed_programs},
};
use crate::shell::{output, run};
use anyhow::{Context as _, Result};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

const MAINTAINER: &str = "the cri-resmgr developers <cri-resmgr@localhost>";

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
    systemctl --system daemon-reload >/dev/null || true
    # Calls of the kubelet wait in the socket's backlog meanwhile. One that was not started stays so.
    deb-systemd-invoke try-restart cri-resmgr.service >/dev/null || true
fi
";

const PRERM: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = remove ]; then
    # A kubelet must not be left pointing at a socket that is gone.
    if [ -e /var/lib/cri-resmgr/install/journal ]; then
        cri-resmgr uninstall
    fi
    if [ -d /run/systemd/system ]; then
        deb-systemd-invoke stop cri-resmgr.socket cri-resmgr.service >/dev/null
    fi
fi
";

const POSTRM: &str = "\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
if [ \"$1\" = purge ]; then
    rm -rf /var/lib/cri-resmgr
    if [ -d /etc/cri-resmgr ]; then
        rmdir --ignore-fail-on-non-empty /etc/cri-resmgr
    fi
    # Units that were enabled by hand.
    deb-systemd-helper purge cri-resmgr.socket cri-resmgr.service >/dev/null || true
fi
";

const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: cri-resmgr

Files: *
Copyright: 2026 the cri-resmgr developers
License: Apache-2.0
 On Debian systems the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0. The programs contain crates under
 licences of their own: the release's cri-resmgr-VERSION.cdx.json lists them.
";

/// What lintian asks of a package in Debian's archive, which this one is not.
const OVERRIDES: &str = "\
# Weaknesses and faults are reported by the repository's forms, not by mail.
bogus-mail-host
bogus-mail-host-in-debian-changelog
# They run in pods; their --help and the documentation have their options.
no-manual-page [usr/bin/cri-resmgr-agent]
no-manual-page [usr/bin/cri-resmgr-webhook]
# It is its translation into Rust (the crate unsafe-libyaml), which Debian's libyaml cannot stand in for.
embedded-library libyaml *
";

/// What the programs need of Debian's packages, in the versions of the Debian that they were linked on.
///
/// # Errors
/// When dpkg-shlibdeps knows no package of a library.
pub(super) fn depends(programs: &Path) -> Result<String> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("debian"))?;
    // It reads the name of a source package here, and nothing else.
    fs::write(
        folder.path().join("debian/control"),
        "Source: cri-resmgr\n\nPackage: cri-resmgr\nArchitecture: any\n",
    )?;
    let mut command = Command::new("dpkg-shlibdeps");
    command
        .arg("-O")
        .args(PROGRAMS.map(|name| programs.join(name)))
        .current_dir(folder.path());
    let said = output(&mut command)?;
    let depends = said.trim().strip_prefix("shlibs:Depends=");
    Ok(depends
        .context("dpkg-shlibdeps prints another format")?
        .to_owned())
}

/// Writes `cri-resmgr_VERSION_ARCHITECTURE.deb`.
pub(super) fn write(
    release: &Release,
    architecture: &str,
    depends: &str,
    programs: &Path,
    texts: &[Packed],
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    let mut files = packed_programs(programs)?;
    for text in texts {
        let mut text = text.clone();
        if text.path.contains("/man/") {
            text.path += ".gz";
            text.content = gzip(&text.content)?;
        }
        files.push(text);
    }
    for unit in ["cri-resmgr.service", "cri-resmgr.socket"] {
        files.push(packed_file(
            &format!("deploy/systemd/{unit}"),
            &format!("lib/systemd/system/{unit}"),
        )?);
    }
    for page in ["README.md", "docs/install.md", "docs/configuration.md"] {
        let name = page.rsplit('/').next().unwrap_or(page);
        files.push(packed_file(page, &format!("share/doc/cri-resmgr/{name}"))?);
    }
    let text = |path: &str, content: &str| Packed {
        path: path.to_owned(),
        content: content.into(),
        program: false,
    };
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email", "--date"])
        .arg(format!("@{}", release.epoch))
        .env("LC_ALL", "C");
    let changes = format!(
        "cri-resmgr ({}) unstable; urgency=medium\n\n  * Built of commit\n    {}.\n    \
         CHANGELOG.md there has what is new.\n\n -- {MAINTAINER}  {}",
        release.version,
        release.commit,
        output(&mut date)?
    );
    files.push(Packed {
        content: gzip(changes.as_bytes())?,
        ..text("share/doc/cri-resmgr/changelog.gz", "")
    });
    files.extend([
        text("share/doc/cri-resmgr/copyright", COPYRIGHT),
        text("share/lintian/overrides/cri-resmgr", OVERRIDES),
    ]);
    for file in &mut files {
        file.path = format!("usr/{}", file.path);
    }
    files.push(text("etc/cri-resmgr/cri-resmgr.conf", OPTIONS));
    // As dpkg-gencontrol reckons: in KiB, each file rounded up.
    let size: usize = files
        .iter()
        .map(|file| file.content.len().div_ceil(1024))
        .sum();
    let control = format!(
        "Package: cri-resmgr\nVersion: {}\nArchitecture: {architecture}\n\
         Maintainer: {MAINTAINER}\nInstalled-Size: {size}\n\
         Depends: {depends}\nSection: admin\nPriority: optional\n\
         Description: CRI relay that places containers on CPUs\n \
         It sits between the kubelet and the container runtime, relays every call\n \
         and decides on which CPUs each container runs. \"cri-resmgr install\" puts\n \
         it there, \"cri-resmgr uninstall\" takes it out.\n",
        release.version,
    );
    files.extend([
        text("DEBIAN/control", &control),
        text("DEBIAN/conffiles", "/etc/cri-resmgr/cri-resmgr.conf\n"),
    ]);
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        files.push(Packed {
            program: true,
            ..text(&format!("DEBIAN/{name}"), script)
        });
    }
    for file in &files {
        let path = root.join(&file.path);
        fs::create_dir_all(
            path.parent()
                .context("a file of the package is in no folder")?,
        )?;
        fs::write(&path, &file.content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode()))?;
    }
    // For `dpkg --verify`. The option file is the administrator's.
    let mut md5sum = Command::new("md5sum");
    for file in files.iter().filter(|file| file.path.starts_with("usr/")) {
        md5sum.arg(&file.path);
    }
    let sums = output(md5sum.current_dir(root))?;
    fs::write(root.join("DEBIAN/md5sums"), sums)?;
    // tempdir made it for its owner alone, and it becomes the package's root.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(root)
        .arg(path(release, architecture))
        // The number of threads shapes what xz writes.
        .env("DPKG_DEB_THREADS_MAX", "1")
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string()))
}

/// Where the package is.
pub(super) fn path(release: &Release, architecture: &str) -> PathBuf {
    let name = format!("cri-resmgr_{}_{architecture}.deb", release.version);
    release.out.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::find;

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
        let texts = [Packed {
            path: "share/man/man8/cri-resmgr.8".to_owned(),
            content: "manual".into(),
            program: false,
        }];
        let path = path(&release, "amd64");
        let write = || write(&release, "amd64", "libc6", folder.path(), &texts).unwrap();
        write();
        let first = fs::read(&path).unwrap();
        write();
        assert_eq!(first, fs::read(&path).unwrap());
        let mut list = Command::new("dpkg-deb");
        list.env("TZ", "UTC").arg("--contents").arg(&path);
        let listed = output(&mut list).unwrap();
        for line in [
            "-rwxr-xr-x root/root        10 2023-11-14 22:13 ./usr/bin/cri-resmgr",
            "./usr/lib/systemd/system/cri-resmgr.socket",
            "./usr/share/man/man8/cri-resmgr.8.gz",
            "./etc/cri-resmgr/cri-resmgr.conf",
        ] {
            assert!(listed.contains(line), "{line}: {listed}");
        }
        let fields = output(Command::new("dpkg-deb").arg("--field").arg(&path)).unwrap();
        assert!(
            fields.contains("Version: 1.2.3\nArchitecture: amd64\n")
                && fields.contains("\nDepends: libc6\n"),
            "{fields}"
        );
    }
}
