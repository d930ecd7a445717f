//! `cargo xtask fuzz`: libFuzzer on every target of `relay/fuzz`, with the stable toolchain.
//!
//! The instruments are a pass of LLVM's, which rustc has on every channel; libFuzzer itself comes in
//! source with the crate `libfuzzer-sys` and needs a C++ compiler. No sanitizer: the targets are safe Rust.

use crate::shell::{self, cargo, find, step};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// How to fuzz.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
    /// Only the targets whose name contains this.
    #[arg(long)]
    pub(crate) only: Option<String>,
}

/// Whether a C++ compiler is there, without which nothing can be fuzzed.
pub(crate) fn possible() -> bool {
    find("c++").is_some()
}

/// Builds the targets and runs each.
///
/// # Errors
/// When they cannot be built, and when one of them fails: where the input is, and what to do with it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        possible(),
        "libFuzzer needs a C++ compiler: apt-get install build-essential"
    );
    let programs = build()?;
    let work = shell::root().join("target/fuzz");
    let mut names = Vec::new();
    for file in std::fs::read_dir(shell::root().join("relay/fuzz/targets"))? {
        let path = file?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    names.retain(|name| {
        let only = arguments.only.as_deref();
        only.is_none_or(|part| name.contains(part))
    });
    let mut failed = Vec::new();
    for name in &names {
        match target(&programs, &work, name, arguments.seconds) {
            Ok(said) => println!("{name}: {said}"),
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Builds everything; where the programs are.
fn build() -> Result<PathBuf> {
    step("building the fuzz targets");
    let root = shell::root();
    let folder = root.join("relay/fuzz");
    // The same versions as the product's.
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock"))
        .context("cannot copy Cargo.lock")?;
    let version = shell::output(Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not say what it runs on")?;
    let mut cargo = cargo();
    cargo
        .current_dir(&folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FLAGS.join(" "))
        // With a target named, build scripts and macros go without the flags.
        .args(["build", "--release", "--bins", "--target", host])
        .arg("--target-dir")
        .arg(root.join("target/fuzz"));
    shell::run(&mut cargo)?;
    Ok(root.join("target/fuzz").join(host).join("release"))
}

/// Runs one target; what came of it.
fn target(programs: &Path, work: &Path, name: &str, seconds: u32) -> Result<String> {
    step(&format!("fuzzing {name} for {seconds} s"));
    let corpus = work.join("corpus").join(name);
    let artifacts = work.join("artifacts").join(name);
    let seeds = work.join("seeds").join(name);
    for folder in [&corpus, &artifacts, &seeds] {
        std::fs::create_dir_all(folder)?;
    }
    let regressions = shell::root().join("relay/fuzz/regressions").join(name);
    let mut command = Command::new(programs.join(name));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=20", "-rss_limit_mb=1024", "-max_len=4096"])
        .args(["-print_final_stats=1", "-verbosity=1"])
        .env("RESMGR_FUZZ_SEEDS", &seeds)
        .args([&corpus, &seeds]);
    if regressions.is_dir() {
        command.arg(&regressions);
    }
    let output = command.output().context("cannot start it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let tail: Vec<&str> = said.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!(
            "{}\n{}\nwhen it is mended, keep the input of {} in relay/fuzz/regressions/{name}/",
            output.status,
            tail.join("\n"),
            artifacts.display(),
        );
    }
    let stat = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        value.unwrap_or("?").to_owned()
    };
    let done = said.lines().rev().find(|line| line.contains("DONE "));
    let reached = done.and_then(|line| line.split("cov: ").nth(1)?.split(' ').next());
    Ok(format!(
        "{} runs, {} places in the code reached, {} MiB at most",
        stat("stat::number_of_executed_units"),
        reached.unwrap_or("?"),
        stat("stat::peak_rss_mb"),
    ))
}
