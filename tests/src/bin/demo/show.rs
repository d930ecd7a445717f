//! What the demo prints: steps, the dump as it grows, the table at the end.

use crate::{Phase, Row};
use std::{
    fs::File,
    io::{BufRead as _, BufReader, IsTerminal as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

const WIDTH: usize = 118;

fn paint(sgr: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\u{1b}[{sgr}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Says what begins.
pub(crate) fn step(what: &str) {
    println!("\n{} {what}", paint("1;36", "==>"));
}

/// Says what is going on.
pub(crate) fn note(what: &str) {
    println!("    {}", paint("1", what));
}

/// Prints a file as it grows, until dropped.
pub(crate) struct Tail {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    pub(crate) fn follow(file: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (file, ended) = (file.to_path_buf(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut reader = None;
            let mut line = Vec::new();
            loop {
                let last = ended.load(Ordering::Relaxed);
                if reader.is_none() {
                    reader = File::open(&file).ok().map(BufReader::new);
                }
                while let Some(open) = &mut reader
                    && open.read_until(b'\n', &mut line).unwrap_or(0) > 0
                {
                    if line.ends_with(b"\n") {
                        print_line(&String::from_utf8_lossy(&line));
                        line.clear();
                    }
                }
                if last {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn print_line(line: &str) {
    let line = line.trim_end();
    let short: String = line.chars().take(WIDTH).collect();
    let more = if short.len() < line.len() { "…" } else { "" };
    println!("    {}", paint("2", &format!("│ {short}{more}")));
}

/// The picture: who ran where, and what it had to bear.
pub(crate) fn table(policy: &str, before: &[Row], after: &[Row]) {
    step("what the kernel's books say");
    println!(
        "    {}",
        paint(
            "1",
            &format!(
                "{:<10} {:<12} {:<8} {:>10} {:>11} {:>11} {:>10}",
                "container", "policy", "CPUs", "ran", "waited", "migrated", "preempted"
            )
        )
    );
    for (first, second) in before.iter().zip(after) {
        for (name, row) in [("null", first), (policy, second)] {
            let line = format!(
                "{:<10} {:<12} {:<8} {:>10} {:>11} {:>11} {:>10}",
                row.name,
                name,
                row.cpus,
                milliseconds(row.books.run_ns),
                milliseconds(row.books.wait_ns),
                row.books.migrations,
                row.books.preempted,
            );
            let sgr = if name == policy { "32" } else { "0" };
            println!("    {}", paint(sgr, &line));
        }
    }
    println!();
}

/// What cri-resmgr itself shows: where it wants everybody, and what the scheduler did.
pub(crate) fn picture(policy: &str, phase: &Phase) {
    step(&format!("cri-resmgr state and top, under {policy}"));
    for line in phase.state.lines().chain([""]).chain(phase.top.lines()) {
        println!("    {line}");
    }
    println!();
}

fn milliseconds(ns: u64) -> String {
    format!("{} ms", ns / 1_000_000)
}
