//! `cargo xtask dist --check`: what was built, looked at as its user would. What needs a program that is not installed is
//! skipped, and said so.

use super::{
    deb, image,
    release::{ARCHITECTURES, Architecture, PROGRAMS, Release, SUMS, sha256},
};
use crate::{
    setup::is_root,
    shell::{find, output, paint, root, run, step},
};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// In octets. An image is fetched by every node.
const LARGEST_IMAGES: usize = 25_000_000;

/// Lives through the package in a fresh Debian. $1 is an empty folder for it, $2 the package, $3 one of a later version.
const PACKAGE: &str = r#"
set -e
. /etc/os-release
fresh=$1/root
mmdebstrap --quiet --variant=apt --include=libhwloc15 "$VERSION_CODENAME" "$fresh"
cp "$2" "$fresh/first.deb"; cp "$3" "$fresh/second.deb"
inside() { chroot "$fresh" "$@"; }
files() {
    inside find / -xdev ! -path '/var/lib/dpkg/*' ! -path '/var/log/*' ! -path '/var/cache/*' ! -path '/proc/*' | sort
}
files >"$1/before"
inside dpkg --install /first.deb
inside cri-resmgr --version
conf=/etc/cri-resmgr/cri-resmgr.conf
inside dpkg-query --showformat '${Conffiles}' --show cri-resmgr | grep -q "$conf"
for unit in cri-resmgr.service cri-resmgr.socket; do
    test -e "$fresh/usr/lib/systemd/system/$unit"
    if find "$fresh/etc/systemd" -name "$unit" | grep .; then echo "$unit is enabled" >&2; exit 1; fi
done
sed -i 's/^policy = .*/policy = static/' "$fresh$conf"
inside dpkg --install /second.deb
grep -q '^policy = static$' "$fresh$conf"
inside dpkg --remove cri-resmgr
grep -q '^policy = static$' "$fresh$conf"
# What the service leaves.
mkdir -p "$fresh/var/lib/cri-resmgr/install"
inside dpkg --purge cri-resmgr
files >"$1/after"
diff "$1/before" "$1/after"
"#;

/// Checks all that is in `release.out`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn run_checks(release: &Release) -> Result<()> {
    step("checksums");
    run(Command::new("sha256sum")
        .args(["--check", "--quiet", SUMS])
        .current_dir(&release.out))
    .context("cargo xtask dist makes what is checked")?;
    let native = ARCHITECTURES
        .into_iter()
        .find(|architecture| architecture.is_native())
        .context("nothing is built for this machine's architecture")?;
    let work = root().join("target/dist/check");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let mut built = Vec::new();
    for architecture in ARCHITECTURES {
        let name = format!("{}-linux-{}-static", release.name(), architecture.name);
        if release.out.join(format!("{name}.tar.gz")).exists() {
            step(&name);
            programs(
                release,
                architecture,
                &unpacked(release, &name, &work)?,
                true,
            )?;
            built.push(architecture);
        }
    }
    let name = format!("{}-linux-{}", release.name(), native.name);
    step(&name);
    programs(release, native, &unpacked(release, &name, &work)?, false)?;
    step("images");
    images(release, &built)?;
    step("Debian package");
    package(&deb::path(release, native.name), &work)?;
    fs::remove_dir_all(&work)?;
    step("all checked");
    Ok(())
}

fn skip(subject: &str, program: &str) {
    println!("{} {subject}: no {program}", paint("33", "SKIPPED"));
}

/// Unpacks a tarball; the folder in it.
fn unpacked(release: &Release, name: &str, work: &Path) -> Result<PathBuf> {
    let archive = release.out.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    run(tar.arg("-xzf").arg(archive).arg("-C").arg(work))?;
    Ok(work.join(name))
}

/// Each is for its architecture, those that should be are static, and the relay starts and says what it is built of.
fn programs(
    release: &Release,
    architecture: Architecture,
    folder: &Path,
    is_static: bool,
) -> Result<()> {
    let machine = match architecture.rust {
        "x86_64" => "X86-64",
        _ => "AArch64",
    };
    for name in PROGRAMS {
        let program = folder.join("bin").join(name);
        let mut readelf = Command::new("readelf");
        let headers = output(readelf.args(["-h", "-l", "-d", "-W"]).arg(&program))?;
        ensure!(headers.contains(machine), "{name} is not for {machine}");
        let is_linked = headers.contains("INTERP") || headers.contains("(NEEDED)");
        ensure!(
            is_linked != is_static,
            "{name}: what needs libraries of the node and what does not are exchanged"
        );
    }
    let emulator = format!("qemu-{}", architecture.rust);
    if !architecture.is_native() && find(&emulator).is_none() {
        skip("start of the programs", &emulator);
        return Ok(());
    }
    let relay = folder.join("bin/cri-resmgr");
    let start = |word: &str| {
        let mut command = if architecture.is_native() {
            Command::new(&relay)
        } else {
            let mut command = Command::new(&emulator);
            command.arg(&relay);
            command
        };
        output(command.arg(word))
    };
    let said = start("--version")?;
    let object = sha256(&fs::read(root().join("target/bpf/cri-resmgr-ebpf.o"))?);
    let features = if is_static { "ebpf" } else { "ebpf hwloc" };
    let expected = format!(
        "cri-resmgr {}\ncommit: {}\nBPF object: sha256:{object}\nfeatures: {features}\n",
        release.version, release.commit
    );
    ensure!(said == expected, "it says\n{said}and should\n{expected}");
    ensure!(
        start("--list-policies")?.contains("static-plus"),
        "cri-resmgr does not know its policies"
    );
    Ok(())
}

/// The archive is whole, small, has each program for each architecture, and skopeo reads it.
fn images(release: &Release, built: &[Architecture]) -> Result<()> {
    let path = image::path(release);
    let archive = fs::read(&path)?;
    println!("{} octets", archive.len());
    ensure!(
        archive.len() < LARGEST_IMAGES,
        "more than {LARGEST_IMAGES} octets"
    );
    let images = image::verify(&archive)?;
    ensure!(images.len() == 2 * PROGRAMS.len(), "images: {images:?}");
    for (image, architectures) in images {
        let names = built.iter().map(|architecture| architecture.name);
        ensure!(
            architectures.iter().eq(names),
            "{image} is for {architectures:?}"
        );
        if find("skopeo").is_none() {
            skip(&image, "skopeo");
            continue;
        }
        for architecture in architectures {
            let mut skopeo = Command::new("skopeo");
            skopeo.args(["inspect", "--override-arch", &architecture]);
            let said = output(skopeo.arg(format!("oci-archive:{}:{image}", path.display())))?;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            ensure!(
                said["Architecture"] == *architecture,
                "{image} for {architecture}: {said}"
            );
        }
    }
    Ok(())
}

/// lintian has nothing to say, and in a fresh Debian the package is installed, upgraded and purged without a trace.
fn package(path: &Path, work: &Path) -> Result<()> {
    if find("lintian").is_none() {
        skip("Debian's policy", "lintian");
    } else {
        let mut lintian = Command::new("lintian");
        lintian.args(["--allow-root", "--fail-on", "error,warning"]);
        run(lintian.arg(path))?;
    }
    if find("mmdebstrap").is_none() || !is_root() {
        skip("life of the package", "mmdebstrap, or not root");
        return Ok(());
    }
    let (content, second) = (work.join("content"), work.join("second.deb"));
    run(Command::new("dpkg-deb").arg("-R").arg(path).arg(&content))?;
    let control = content.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?.replace("\nVersion: ", "\nVersion: 9");
    fs::write(&control, text)?;
    run(Command::new("dpkg-deb")
        .args(["-Zgzip", "-z1", "--root-owner-group", "--build"])
        .args([&content, &second]))?;
    let said = Command::new("sh")
        .args(["-c", PACKAGE, "sh"])
        .arg(work)
        .args([path, &second])
        .status()?;
    if !said.success() {
        bail!("the package does not live through install, upgrade and purge: {said}");
    }
    Ok(())
}
