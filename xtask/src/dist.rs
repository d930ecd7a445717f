//! `cargo xtask dist`: what is handed out, in `target/dist/out`.
//!
//! Binaries with hwloc for distributions, static ones for any node; of them tarballs, a Debian package, images without
//! a distribution below, a list of all crates that went in, and checksums. The same commit and toolchain give the
//! same octets: times are `SOURCE_DATE_EPOCH` (the commit's when not set), paths of this machine are cut out.

mod archive;
mod deb;
mod image;
mod release;
mod sbom;

use crate::shell::{cargo, output, root, run, show, step};
use anyhow::{Context as _, Result, bail};
use release::{PROGRAMS, Packed, Release, sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Without link-time optimisation and with little other: to try the packaging.
    #[arg(long)]
    quick: bool,
}

/// An architecture, by its names.
#[derive(Clone, Copy, Debug)]
struct Architecture {
    rust: &'static str,
    /// In Go, OCI and Debian.
    name: &'static str,
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        rust: "x86_64",
        name: "amd64",
    },
    Architecture {
        rust: "aarch64",
        name: "arm64",
    },
];

/// Builds all artefacts for the architectures whose target is installed.
///
/// # Errors
/// When no target for static binaries is installed, or a build fails.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    let release = Release::new()?;
    if release.out.exists() {
        fs::remove_dir_all(&release.out)?;
    }
    fs::create_dir_all(&release.out)?;
    crate::build_ebpf::run()?;
    let targets = output(Command::new("rustup").args(["target", "list", "--installed"]))?;
    let installed = |target: &str| targets.lines().any(|line| line == target);
    let mut built = 0;
    for architecture in ARCHITECTURES {
        let musl = format!("{}-unknown-linux-musl", architecture.rust);
        if !installed(&musl) {
            println!(
                "{}: skipped, `rustup target add {musl}` is missing",
                architecture.name
            );
            continue;
        }
        built += 1;
        let native = std::env::consts::ARCH == architecture.rust;
        let programs = build(&release, &musl, false, arguments.quick)?;
        // Man page and completions are printed by the program, which must run here.
        let texts = native.then(|| texts(&release, &programs)).transpose()?;
        let name = format!("cri-resmgr-{}-linux-{}", release.version, architecture.name);
        archive::tarball(
            &release,
            &format!("{name}-static"),
            &programs,
            texts.as_deref(),
        )?;
        image::write(&release, &name, architecture.name, &programs)?;
        if native {
            let gnu = format!("{}-unknown-linux-gnu", architecture.rust);
            let programs = build(&release, &gnu, true, arguments.quick)?;
            archive::tarball(&release, &name, &programs, texts.as_deref())?;
            deb::write(&release, architecture.name, &programs, texts.as_deref())?;
        }
    }
    if built == 0 {
        bail!(
            "no target for static binaries: rustup target add x86_64-unknown-linux-musl; apt-get install musl-tools"
        );
    }
    sbom::write(&release)?;
    checksums(&release.out)?;
    step(&format!("{}", release.out.display()));
    Ok(())
}

/// The folder that has the programs for `target`.
fn build(release: &Release, target: &str, hwloc: bool, quick: bool) -> Result<PathBuf> {
    step(&format!(
        "building for {target}, {} hwloc",
        if hwloc { "with" } else { "without" }
    ));
    let folder = root().join("target/dist/build");
    let mut command = cargo();
    command.args([
        "build",
        "--profile",
        "dist",
        "--locked",
        "--bins",
        "--target",
        target,
    ]);
    command.arg("--target-dir").arg(&folder);
    for program in PROGRAMS {
        command.args(["-p", program]);
    }
    if !hwloc {
        command.args(["--no-default-features", "--features", "cri-resmgr/ebpf"]);
    }
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let flags = format!(
        "--remap-path-prefix={}=/source --remap-path-prefix={}=/cargo",
        root().display(),
        home.context("neither CARGO_HOME nor HOME is set")?
    );
    command
        .env("RUSTFLAGS", flags)
        .env("CRI_RESMGR_COMMIT", &release.commit)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    if quick {
        command
            .env("CARGO_PROFILE_DIST_LTO", "off")
            .env("CARGO_PROFILE_DIST_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_DIST_CODEGEN_UNITS", "16");
    }
    run(&mut command)?;
    Ok(folder.join(target).join("dist"))
}

/// Manual page and completions, at their places below `usr`.
fn texts(release: &Release, programs: &Path) -> Result<Vec<Packed>> {
    let program = programs.join("cri-resmgr");
    let print = |path: &str, words: &[&str]| -> Result<Packed> {
        Ok(Packed {
            path: path.to_owned(),
            content: output(Command::new(&program).args(words))?.into_bytes(),
            program: false,
        })
    };
    let version = output(Command::new(&program).arg("--version"))?;
    print!("{version}");
    if !version.contains(&release.commit) {
        bail!(
            "{} is not of this commit",
            show(Command::new(&program).arg("--version"))
        );
    }
    Ok(vec![
        print("share/man/man8/cri-resmgr.8", &["man"])?,
        print(
            "share/bash-completion/completions/cri-resmgr",
            &["completion", "bash"],
        )?,
        print(
            "share/zsh/site-functions/_cri-resmgr",
            &["completion", "zsh"],
        )?,
        print(
            "share/fish/vendor_completions.d/cri-resmgr.fish",
            &["completion", "fish"],
        )?,
    ])
}

fn checksums(out: &Path) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(out)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    names.sort();
    let lines: Result<String> = names
        .iter()
        .map(|name| Ok(format!("{}  {name}\n", sha256(&fs::read(out.join(name))?))))
        .collect();
    let lines = lines?;
    print!("{lines}");
    fs::write(out.join("SHA256SUMS"), lines)?;
    Ok(())
}
