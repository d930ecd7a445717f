//! Prometheus for the tests of alerts and dashboards: Debian's package, unpacked into the cache, never installed:
//! installed it would run as a service.

use crate::shell::{cache, find, run, step};
use anyhow::{Context, Result};
use std::process::Command;

/// The programs that the tests run.
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Fetches what is not in the cache yet: `.cache/prometheus/prometheus` and `promtool` beside it.
///
/// # Errors
/// When the package cannot be fetched or holds no such program.
pub(crate) fn fetch() -> Result<()> {
    let target = cache().join("prometheus");
    let whole = PROGRAMS.iter().all(|program| target.join(program).exists());
    if whole || find("apt-get").is_none() {
        return Ok(());
    }
    step("fetching Prometheus for the tests of alerts and dashboards");
    std::fs::create_dir_all(&target)?;
    let work = tempfile::tempdir_in(&target)?;
    run(Command::new("apt-get")
        .args(["download", "-q", "prometheus"])
        .current_dir(work.path()))?;
    let script = r#"dpkg -x "$1"/*.deb "$1/x""#;
    run(Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(work.path()))?;
    for program in PROGRAMS {
        std::fs::rename(
            work.path().join("x/usr/bin").join(program),
            target.join(program),
        )
        .with_context(|| format!("the package has no {program}"))?;
    }
    Ok(())
}
