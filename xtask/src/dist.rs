//! `cargo xtask dist`: what is handed out, in `target/dist/out`.
//!
//! Binaries with hwloc for distributions, static ones for any node; of them tarballs, a Debian package, images without
//! a distribution below, a list of all crates that went in, and checksums. The same commit and toolchain give the
//! same octets: times are `SOURCE_DATE_EPOCH` (the commit's when not set), paths of this machine are cut out.

mod archive;
mod check;
mod deb;
mod image;
mod release;
mod sbom;

use crate::{
    setup::{self, Stage},
    shell::{cargo, output, replaced_paths, root, run, show, step},
};
use anyhow::{Context as _, Result, bail};
use release::{ARCHITECTURES, Architecture, PROGRAMS, Packed, Release, SUMS};
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
    /// Build nothing, check what was built: sums, programs, images, and the Debian package in a fresh Debian.
    #[arg(long)]
    check: bool,
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
}

/// Builds all artefacts: static programs for each architecture that has a compiler, programs with hwloc and the Debian
/// package for that of this machine.
///
/// # Errors
/// When this machine cannot build static programs for itself, or a build fails.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    let release = Release::new()?;
    setup::ensure(Stage::Dist, arguments.yes)?;
    if arguments.check {
        return check::run_checks(&release);
    }
    if release.out.exists() {
        fs::remove_dir_all(&release.out)?;
    }
    fs::create_dir_all(&release.out)?;
    crate::build_ebpf::run()?;
    let mut built = Vec::new();
    for architecture in ARCHITECTURES {
        if architecture.can_be_static() {
            let programs = build(&release, architecture, true, arguments.quick)?;
            built.push((architecture, programs));
        } else {
            println!(
                "{}: skipped, rustc has no {} or there is no {}",
                architecture.name,
                architecture.musl(),
                architecture.musl_compiler()
            );
        }
    }
    let (native, programs) = built
        .iter()
        .find(|(architecture, _)| architecture.is_native())
        .context(
            "this machine builds no static programs for itself: cargo xtask setup --stage dist",
        )?;
    // Manual page and completions are printed by the program, which must run here.
    let texts = texts(&release, programs)?;
    let name =
        |architecture: Architecture| format!("{}-linux-{}", release.name(), architecture.name);
    for (architecture, programs) in &built {
        let name = format!("{}-static", name(*architecture));
        archive::tarball(&release, &name, programs, &texts)?;
    }
    image::write(&release, &built)?;
    let programs = build(&release, *native, false, arguments.quick)?;
    archive::tarball(&release, &name(*native), &programs, &texts)?;
    deb::write(
        &release,
        native.name,
        &deb::depends(&programs)?,
        &programs,
        &texts,
    )?;
    let targets = built.iter().map(|(architecture, _)| architecture.musl());
    let targets: Vec<_> = targets.chain([native.gnu()]).collect();
    sbom::write(&release, &targets)?;
    checksums(&release.out)?;
    step(&format!("{}", release.out.display()));
    Ok(())
}

/// The folder that has the programs: static ones without hwloc, or linked with glibc and hwloc.
fn build(
    release: &Release,
    architecture: Architecture,
    is_static: bool,
    quick: bool,
) -> Result<PathBuf> {
    let target = if is_static {
        architecture.musl()
    } else {
        architecture.gnu()
    };
    step(&format!("building for {target}"));
    let folder = root().join("target/dist/build");
    let mut command = cargo();
    command.args([
        "build",
        "--profile",
        "dist",
        "--locked",
        "--bins",
        "--target",
        &target,
    ]);
    command.arg("--target-dir").arg(&folder);
    for program in PROGRAMS {
        command.args(["-p", program]);
    }
    // For rustc an argument, for the C compiler a part of the one variable, each for this target alone: what runs in the
    // build needs none.
    let variable = |name: &str| format!("{name}_{}", target.replace('-', "_"));
    let replaced = replaced_paths()?;
    let flags = replaced
        .clone()
        .map(|(from, to)| format!("--remap-path-prefix={from}={to}"));
    let c_flags = replaced.map(|(from, to)| format!("-ffile-prefix-map={from}={to}"));
    command
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env(variable("CFLAGS"), c_flags.join(" "))
        .env("CRI_RESMGR_COMMIT", &release.commit)
        .env("SOURCE_DATE_EPOCH", release.epoch.to_string());
    if is_static {
        let linker = format!("{}-linux-gnu-gcc", architecture.rust);
        command
            .args(["--no-default-features", "--features", "cri-resmgr/ebpf"])
            .env(variable("CC"), architecture.musl_compiler())
            .env(variable("CARGO_TARGET").to_uppercase() + "_LINKER", linker);
    }
    if architecture.rust == "aarch64" {
        // jemalloc starts on pages up to this size (64 KiB), which kernels for arm64 may have.
        command.env("JEMALLOC_SYS_WITH_LG_PAGE", "16");
    }
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
            "share/zsh/vendor-completions/_cri-resmgr",
            &["completion", "zsh"],
        )?,
        print(
            "share/fish/vendor_completions.d/cri-resmgr.fish",
            &["completion", "fish"],
        )?,
    ])
}

/// Writes `SHA256SUMS`, for `sha256sum --check`.
fn checksums(out: &Path) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(out)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    let mut command = Command::new("sha256sum");
    let lines = output(command.args(names).current_dir(out))?;
    print!("{lines}");
    fs::write(out.join(SUMS), lines)?;
    Ok(())
}
