//! The measurement that `cargo xtask bench feedback` builds and runs: a mix of real containers under each
//! policy, with feedback off, in the shadow and on, in a guest of two sockets.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

use anyhow::{Context as _, Result, bail};
use resmgr_tests::{
    Guest, Runtime,
    feedback::{self, Way},
    skip,
};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments
        .next()
        .map_or(Ok(30), |text| text.parse())
        .context("the first argument is how many seconds each way is measured")?;
    let only = arguments.next().unwrap_or_default();
    if std::env::var_os("RESMGR_IN_GUEST").is_some() {
        return inside(Duration::from_secs(seconds), &only).await;
    }
    let guest = Guest {
        limit: Duration::from_secs(3600),
        ..Guest::n4c16()
    };
    if let Some(why) = skip::no_relay().or_else(|| guest.unavailable()) {
        bail!("nothing can be measured: {why}");
    }
    let own = std::env::current_exe()?;
    let script = format!("RESMGR_IN_GUEST=1 {} {seconds} '{only}'", own.display());
    let ran = guest.run(&script, |line| println!("{line}"))?;
    if ran.status != 0 {
        // What went wrong was shown as it came.
        bail!("the measurement in the guest failed");
    }
    Ok(())
}

async fn inside(during: Duration, only: &str) -> Result<()> {
    let runtime = Runtime::start()?;
    let mut outcomes = Vec::new();
    for way in Way::ALL {
        let name = format!("{}/{}", way.policy, way.feedback);
        if !only.split(',').any(|part| name.contains(part)) {
            continue;
        }
        eprintln!("policy {}, feedback {} …", way.policy, way.feedback);
        let outcome = Box::pin(feedback::run(&runtime, way, during)).await?;
        println!("{}", feedback::table(std::slice::from_ref(&outcome)));
        outcomes.push(outcome);
    }
    println!("{}", feedback::table(&outcomes));
    Ok(())
}
