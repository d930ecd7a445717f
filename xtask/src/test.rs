//! `cargo xtask test`: every test and check there is.
//!
//! Nothing stops at the first failure: all are collected and listed at the end, with what was
//! skipped and why, and what was repeated. The last line is `N passed, N failed`.

use crate::{
    build_ebpf, fuzz,
    setup::{self, Stage},
    shell::{cache, cargo, find, paint, step},
    tidy,
};
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

/// For each fuzz target.
const FUZZ_SECONDS: u32 = 5;

/// How often a test of [`STATISTICAL`] is run at most.
const ATTEMPTS: u32 = 3;

/// Tests that compare what two observers counted on a machine that does other work beside them, each with its
/// target. Where such a test fails it is run again alone; each repetition is printed and counted in the end.
const STATISTICAL: [(&str, &str); 12] = [
    (
        "telemetry",
        "waits_on_a_cpu_overloaded_three_to_one_are_those_of_schedstat",
    ),
    (
        "telemetry",
        "waits_under_balancing_of_an_overload_of_three_to_one_are_those_of_schedstat",
    ),
    (
        "telemetry",
        "throttling_by_a_quota_is_told_apart_from_contention",
    ),
    (
        "telemetry",
        "cpu_time_of_a_spinner_is_the_kernels_on_every_cpu_and_nowhere_else",
    ),
    (
        "telemetry",
        "an_intruder_on_an_exclusive_cpu_is_named_with_its_time",
    ),
    (
        "telemetry",
        "a_service_of_the_host_on_an_exclusive_cpu_is_named_by_its_cgroup",
    ),
    ("telemetry", "the_program_tells_what_it_costs"),
    (
        "telemetry",
        "in_a_guest_of_two_sockets_the_same_holds_and_stp_ends_the_crossing",
    ),
    (
        "telemetry_kernels",
        "on_kernel_6_1_the_numbers_are_the_kernels_and_each_hop_counts_once",
    ),
    (
        "telemetry_kernels",
        "on_kernel_6_12_the_numbers_are_the_kernels_and_each_hop_counts_once",
    ),
    ("feedback", "feedback_on_two_sockets"),
    (
        "resources",
        "a_started_container_has_the_quota_that_its_policy_wants",
    ),
];

/// How to run the tests.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// Install nothing, use what is there.
    #[arg(long)]
    no_setup: bool,
    /// Only the checks whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// What has been found so far.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failures: Vec<String>,
    skips: Vec<String>,
    repetitions: Vec<String>,
}

/// One command that passes or fails.
struct Check {
    name: &'static str,
    command: Command,
    /// Whether its output is that of the test harness, whose tests are counted one by one.
    tests: bool,
}

/// Runs everything.
///
/// # Errors
/// When anything failed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut tally = Tally::default();
    if !arguments.no_setup {
        setup::ensure(Stage::Test, arguments.yes)?;
    }
    std::fs::create_dir_all(cache())?;
    let skipped = cache().join("skipped");
    std::fs::write(&skipped, "")?;
    let wanted = |name: &str| {
        arguments
            .only
            .as_deref()
            .is_none_or(|part| name.contains(part))
    };

    if wanted("tidy") {
        step("tidy");
        match tidy::run(false) {
            Ok(()) => tally.passed += 1,
            Err(error) => tally.failures.push(format!("tidy: {error:#}")),
        }
    }
    if wanted("build-ebpf") {
        step("build-ebpf");
        match build_ebpf::run() {
            Ok(()) => tally.passed += 1,
            Err(error) if !setup::bpf_toolchain() => {
                tally.skips.push(format!("build-ebpf: {error:#}"));
            }
            Err(error) => tally.failures.push(format!("build-ebpf: {error:#}")),
        }
    }
    for check in checks(&mut tally) {
        if wanted(check.name) {
            let mut check = check;
            check.command.env("RESMGR_SKIPPED", &skipped);
            perform(check, &mut tally);
        }
    }
    repeat_statistical(&skipped, &mut tally);
    if wanted("fuzz") && !fuzz::possible() {
        tally.skips.push("fuzz: there is no C++ compiler".into());
    } else if wanted("fuzz") {
        // The harness in relay/tests/fuzz.rs has run already; this looks where coverage leads.
        let arguments = fuzz::Arguments {
            seconds: FUZZ_SECONDS,
            only: None,
        };
        match fuzz::run(&arguments) {
            Ok(()) => tally.passed += 1,
            Err(error) => tally.failures.push(format!("fuzz: {error:#}")),
        }
    }
    let noted = std::fs::read_to_string(&skipped).unwrap_or_default();
    tally.skips.extend(noted.lines().map(str::to_owned));
    report(&tally)
}

fn checks(tally: &mut Tally) -> Vec<Check> {
    let check = |name, arguments: &[&str], tests| {
        let mut command = cargo();
        command.args(arguments);
        Check {
            name,
            command,
            tests,
        }
    };
    let deny = ["deny", "--offline", "check", "licenses", "bans", "sources"];
    let strict = ["--", "-D", "warnings"];
    let clippy = [&["clippy", "--workspace", "--all-targets"][..], &strict].concat();
    let bare = [
        &[
            "clippy",
            "-p",
            "cri-resmgr",
            "--no-default-features",
            "--all-targets",
        ][..],
        &strict,
    ]
    .concat();
    let mut checks = vec![
        check("fmt", &["fmt", "--all", "--check"], false),
        check("clippy", &clippy, false),
        check("clippy without default features", &bare, false),
        check("build", &["build", "--workspace", "--bins"], false),
        check("test", &["test", "--workspace", "--no-fail-fast"], true),
    ];
    if find("cargo-deny").is_some() {
        checks.push(check("deny", &deny, false));
    } else {
        tally.skips.push("deny: cargo-deny is not installed".into());
    }
    checks
}

fn perform(mut check: Check, tally: &mut Tally) {
    step(check.name);
    match stream(&mut check.command, check.tests, tally) {
        Ok(counted) => {
            if !counted {
                tally.passed += 1;
            }
        }
        Err(error) => tally.failures.push(format!("{}: {error:#}", check.name)),
    }
}

/// Runs each failed test of [`STATISTICAL`] again, alone, until it passes or has failed [`ATTEMPTS`] times.
fn repeat_statistical(skipped: &Path, tally: &mut Tally) {
    for (target, test) in STATISTICAL {
        let Some(index) = tally.failures.iter().position(|failure| failure == test) else {
            continue;
        };
        for attempt in 2..=ATTEMPTS {
            step(&format!("{test}, attempt {attempt} of {ATTEMPTS}"));
            let mut command = cargo();
            command
                .args([
                    "test",
                    "--workspace",
                    "--test",
                    target,
                    "--",
                    "--exact",
                    test,
                ])
                .env("RESMGR_SKIPPED", skipped);
            let passed = command.status().is_ok_and(|status| status.success());
            let outcome = if passed { "passed" } else { "failed" };
            let repetition = format!("{test}: attempt {attempt} of {ATTEMPTS} {outcome}");
            tally.repetitions.push(repetition);
            if passed {
                tally.failures.remove(index);
                tally.passed += 1;
                break;
            }
        }
    }
}

/// Runs a command, shows its output as it comes and counts the tests in it. Whether any was counted.
fn stream(command: &mut Command, tests: bool, tally: &mut Tally) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(if tests {
            Stdio::piped()
        } else {
            Stdio::inherit()
        })
        .spawn()
        .context("cannot start it")?;
    let mut counted = false;
    let mut failed = 0;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            if let Some(name) = failing_test(&line) {
                failed += 1;
                // A test that runs itself in a guest shows the guest's harness as well.
                if !tally.failures.iter().any(|known| known == name) {
                    tally.failures.push(name.to_owned());
                }
            }
            if let Some((passed, ignored)) = result_line(&line) {
                tally.passed += passed;
                counted = true;
                if ignored > 0 {
                    tally
                        .skips
                        .push(format!("{ignored} tests marked as ignored"));
                }
            }
        }
    }
    let status = child.wait()?;
    if !status.success() && failed == 0 {
        bail!("{status}");
    }
    Ok(counted)
}

/// The name in `test NAME ... FAILED`.
fn failing_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Passed and ignored tests of `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn result_line(line: &str) -> Option<(usize, usize)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
    };
    Some((count("passed")?, count("ignored")?))
}

fn report(tally: &Tally) -> Result<()> {
    println!();
    for skip in &tally.skips {
        println!("{} {skip}", paint("33", "SKIPPED"));
    }
    for repetition in &tally.repetitions {
        println!("{} {repetition}", paint("33", "REPEATED"));
    }
    for failure in &tally.failures {
        println!("{} {failure}", paint("1;31", "FAILED"));
    }
    let (passed, failed) = (tally.passed, tally.failures.len());
    println!("{} repetitions", tally.repetitions.len());
    println!("{passed} passed, {failed} failed");
    if tally.failures.is_empty() {
        return Ok(());
    }
    bail!("{} failed", tally.failures.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::root;

    #[test]
    fn the_harness_summary_is_counted() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out";
        assert_eq!(result_line(line), Some((3, 2)));
        assert_eq!(result_line("test a::b ... ok"), None);
    }

    #[test]
    fn each_statistical_test_exists() {
        for (target, test) in STATISTICAL {
            let mut files = ["relay/tests", "tests/tests"]
                .into_iter()
                .flat_map(|folder| {
                    let folder = root().join(folder);
                    [format!("{target}.rs"), format!("{target}/main.rs")]
                        .map(|file| folder.join(file))
                });
            let defined = format!("fn {test}()");
            assert!(
                files
                    .any(|file| std::fs::read_to_string(file)
                        .is_ok_and(|text| text.contains(&defined))),
                "{target}: {test}"
            );
        }
    }

    #[test]
    fn a_failing_test_is_named() {
        assert_eq!(failing_test("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failing_test("test a::b ... ok"), None);
    }
}
