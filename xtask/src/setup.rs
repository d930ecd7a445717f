//! `cargo xtask setup`: what a bare Debian machine with rustup's cargo lacks, and its installation.
//!
//! Only what is missing is installed, and a thing is looked for by the file that proves it, not by
//! the name of a package: a containerd from elsewhere is left alone. Elsewhere than on Debian and its
//! children nothing is installed; the list of what is missing is printed instead.

mod kernels;
mod needs;
mod prometheus;

use crate::shell::{self, find, output, paint, root, run, step};
use anyhow::{Context, Result, bail};
pub(crate) use needs::Stage;
use needs::{CARGO, Need, PACKAGES, STATIC_TARGETS, present};
use std::{
    io::{IsTerminal as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
};

/// What to set up.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install without asking.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// What for: build, run (the demo), test (both and every test), or dist (the release).
    #[arg(long, value_enum, default_value = "test")]
    pub(crate) stage: Stage,
}

/// `cargo xtask setup`.
///
/// # Errors
/// When something that is needed could not be installed.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    ensure(arguments.stage, arguments.yes)?;
    step("everything that is needed is here");
    Ok(())
}

/// Makes sure that all is there that `stage` needs.
///
/// # Errors
/// When something is missing and cannot be installed, or the person says no.
pub(crate) fn ensure(stage: Stage, yes: bool) -> Result<()> {
    let yes = yes || std::env::var("CI").is_ok_and(|value| value == "true");
    let missing: Vec<&Need> = PACKAGES
        .iter()
        .filter(|need| stage.includes(need.stage) && !present(need.proof))
        .collect();
    if !missing.is_empty() {
        install(&missing, yes)?;
    }
    for tool in CARGO.iter().filter(|tool| stage.includes(tool.stage)) {
        if find(tool.program).is_none() {
            step(&format!("building {} ({})", tool.program, tool.why));
            let mut command = shell::cargo();
            command.arg("install").args(tool.arguments);
            for (key, value) in tool.environment {
                command.env(key, value);
            }
            if let Err(error) = run(&mut command) {
                eprintln!(
                    "{}",
                    paint("33", &format!("{error:#}: what needs it is skipped"))
                );
            }
        }
    }
    if stage == Stage::Test
        && let Err(error) = kernels::fetch()
    {
        eprintln!(
            "{}",
            paint("33", &format!("{error:#}: tests that boot it are skipped"))
        );
    }
    if stage == Stage::Test
        && let Err(error) = prometheus::fetch()
    {
        let said = format!("{error:#}: alerts and dashboards are not tried");
        eprintln!("{}", paint("33", &said));
    }
    if stage == Stage::Test {
        // A build fetches what this platform needs; the licences are those of every platform.
        let mut fetch = shell::cargo();
        if let Err(error) = run(fetch.args(["fetch", "--locked", "--quiet"])) {
            let said = format!("{error:#}: licences cannot be checked");
            eprintln!("{}", paint("33", &said));
        }
        for module in &crate::go::MODULES {
            if let Err(error) = crate::go::ensure(module) {
                let (name, purpose) = (module.name, module.purpose);
                let said = format!("no {name}, skipped: {purpose}: {error:#}");
                eprintln!("{}", paint("33", &said));
            }
        }
    }
    if stage == Stage::Dist {
        for target in STATIC_TARGETS.iter().filter(|target| !has_target(target)) {
            step(&format!("adding Rust's target {target}"));
            if let Err(error) = run(Command::new("rustup").args(["target", "add", target])) {
                let said = format!("{error:#}: no static programs for it");
                eprintln!("{}", paint("33", &said));
            }
        }
    }
    Ok(())
}

/// Whether rustc has the standard library for `target`.
pub(crate) fn has_target(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]);
    output(&mut rustc).is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

/// Installs packages with apt, or says which ones to install.
fn install(missing: &[&Need], yes: bool) -> Result<()> {
    eprintln!("Missing on this machine:");
    for need in missing {
        eprintln!("  {:<26} {}", paint("1", need.package), need.why);
    }
    if find("apt-get").is_none() {
        bail!(
            "this is not Debian: install the above with your package manager (the names are \
             Debian's), then run this again"
        );
    }
    if !yes {
        confirm(missing.len())?;
    }
    // Of a package for another architecture; dpkg knows its own already.
    for (_name, architecture) in missing
        .iter()
        .filter_map(|need| need.package.split_once(':'))
    {
        run(as_root("dpkg").args(["--add-architecture", architecture]))?;
    }
    // Indices go stale, and a container image has none at all.
    run(as_root("apt-get").arg("update").arg("-qq"))?;
    let names = || missing.iter().map(|need| need.package);
    if run(as_root("apt-get").args(INSTALL).args(names())).is_err() {
        // One package that this release lacks must not keep away all the others.
        for need in missing {
            if let Err(error) = run(as_root("apt-get").args(INSTALL).arg(need.package)) {
                eprintln!("{}", paint("33", &format!("{error:#}")));
            }
        }
    }
    let lacking: Vec<&str> = missing
        .iter()
        .filter(|need| !need.optional && !present(need.proof))
        .map(|need| need.package)
        .collect();
    if !lacking.is_empty() {
        bail!("could not install {}", lacking.join(" "));
    }
    for need in missing.iter().filter(|need| !present(need.proof)) {
        eprintln!(
            "{} {} is not to be had here: {}; what needs it is skipped",
            paint("33", "note:"),
            need.package,
            need.why
        );
    }
    Ok(())
}

const INSTALL: [&str; 4] = ["install", "-y", "-qq", "--no-install-recommends"];

/// A program of Debian's package management, through sudo unless we are root; never asks.
fn as_root(program: &str) -> Command {
    let mut command = if is_root() {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
        sudo
    };
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null());
    command
}

/// Whether all of Debian's toolchain for BPF is installed.
pub(crate) fn bpf_toolchain() -> bool {
    find("bpf-linker").is_some()
        && PACKAGES
            .iter()
            .filter(|need| matches!(need.proof, needs::Proof::Toolchain(_)))
            .all(|need| present(need.proof))
}

/// Whether this process belongs to root: the owner of its own entry in /proc.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

/// Becomes a built program, as root; `why` says what for.
pub(crate) fn become_root(program: &str, why: &str, words: &[String]) -> Result<()> {
    let program = root().join("target/release").join(program);
    let mut command = if is_root() {
        Command::new(program)
    } else {
        step(&format!("{why}, which needs root"));
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    };
    command.args(words);
    // Becoming it, rather than waiting for it: ^C then goes to the one that cleans up.
    let error = command.exec();
    bail!("cannot start the measurement: {error}")
}

fn confirm(count: usize) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("{count} packages are missing; say --yes to have them installed with apt-get");
    }
    eprint!("Install {count} packages with apt-get? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    if matches!(answer.trim(), "" | "y" | "Y" | "yes") {
        return Ok(());
    }
    bail!("nothing was installed")
}
