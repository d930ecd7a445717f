//! The end of the service's log, without the message dump.
//!
//! Lines of the dump may hold what `--dump-secrets` showed, so only lines are kept that say that they are of another
//! source. journald cuts lines that are very long, so a line without a source may be the rest of a dumped message.

use super::file::{ArchiveFile, FileContent, within};
use regex::Regex;
use serde_json::Value;
use std::{process::Stdio, sync::LazyLock};
use tokio::process::Command;

/// The unit that `cri-resmgr install` makes.
const UNIT: &str = "cri-resmgr";
/// Lines that are asked for.
const LINES: usize = 2_000;
/// The source of dumped messages.
const DUMP: &str = "message";

/// The end of the log.
pub(super) async fn tail() -> ArchiveFile {
    let lines = LINES.to_string();
    let mut journal = Command::new("journalctl");
    journal.args(["--unit", UNIT, "--lines", &lines]);
    journal.args(["--no-pager", "--no-hostname", "--output", "short-iso"]);
    journal.stdin(Stdio::null()).kill_on_drop(true);
    let content = match within(journal.output()).await {
        Ok(output) if output.status.success() => harmless(&String::from_utf8_lossy(&output.stdout)),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(why) => Err(format!("journalctl: {why}")),
    };
    let purpose = format!("the last {LINES} lines of the log, without dumped messages");
    let origin =
        format!("journalctl --unit {UNIT}; add the log of its pod where there is no such unit");
    ArchiveFile::new("log.txt", &purpose, &origin, content.map(FileContent::Text))
}

/// The lines that are no part of a dumped message, and how many are left out; the reason when there are none.
fn harmless(log: &str) -> Result<String, String> {
    let (kept, left_out): (Vec<_>, Vec<_>) = log.lines().partition(|line| is_harmless(line));
    if kept.is_empty() {
        return Err(format!("the journal has no line of unit {UNIT}"));
    }
    Ok(format!(
        "{}\n({} lines left out: dumped messages, and lines that do not name their source)\n",
        kept.join("\n"),
        left_out.len()
    ))
}

/// Whether a line, `DATE IDENTIFIER[PID]: MESSAGE`, is known to be no part of a dumped message.
fn is_harmless(line: &str) -> bool {
    static SOURCE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[DIWE]: \[ *([a-z0-9/-]+) *\] ").expect("a constant"));
    let Some((head, message)) = line.split_once("]: ") else {
        return false;
    };
    let identifier = head.rsplit(' ').next().unwrap_or_default();
    if !identifier.starts_with("cri-resmgr[") {
        return true; // systemd's
    }
    if let Some(found) = SOURCE.captures(message) {
        return found.get(1).is_some_and(|source| source.as_str() != DUMP);
    }
    match serde_json::from_str::<Value>(message) {
        Ok(line) => line["source"].as_str().is_some_and(|source| source != DUMP),
        Err(_not_json) => message.starts_with("cri-resmgr: "), // why it ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumped_messages_are_left_out_and_all_else_is_kept() {
        let kept = [
            "systemd[1]: Started cri-resmgr.",
            "cri-resmgr[7]: W: [     policy     ] no room for db",
            r#"cri-resmgr[7]: {"level":"warn","source":"policy","message":"no room"}"#,
            "cri-resmgr[7]: cri-resmgr: cannot listen",
        ];
        let left_out = [
            "cri-resmgr[7]: I: [    message     ] CreateContainer TOKEN=s3cret",
            "cri-resmgr[7]:  the rest of a long line, s3cret",
            r#"cri-resmgr[7]: {"source":"message","message":"s3cret"}"#,
            r#"cri-resmgr[7]: {"source":"policy","message":"s3cr"#,
            "cri-resmgr[7]: I: without a source s3cret",
            "-- Boot s3cret --",
        ];
        let log: Vec<_> = kept.iter().chain(&left_out).collect();
        let log: Vec<_> = log
            .iter()
            .map(|line| format!("2026-01-01T00:00:00+0000 {line}"))
            .collect();
        let text = harmless(&log.join("\n")).unwrap();
        assert_eq!(text.lines().count(), kept.len() + 1, "{text}");
        for line in kept {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(
            text.contains("(6 lines left out") && !text.contains("s3cr"),
            "{text}"
        );
    }
}
