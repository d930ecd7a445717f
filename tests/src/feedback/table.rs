//! The table of what came of each way.

use super::Outcome;
use std::fmt::Write as _;

/// One row for each way and class, and one for each way as a whole.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    let head = [
        "policy",
        "feedback",
        "class",
        "crossed/s",
        "migr/s",
        "wait ms/s",
        "CPUs",
        "moves",
        "undone",
    ];
    let mut line = |cells: [String; 9]| {
        let [
            policy,
            feedback,
            class,
            crossed,
            migrated,
            wait,
            cpus,
            moves,
            undone,
        ] = cells;
        let written = writeln!(
            text,
            "{policy:<13} {feedback:<9} {class:<8} {crossed:>10} {migrated:>9} {wait:>10} {cpus:>6} \
             {moves:>6} {undone:>7}"
        );
        debug_assert!(written.is_ok(), "a string takes everything");
    };
    line(head.map(str::to_owned));
    for one in outcomes {
        let seconds = one.during.as_secs().max(1);
        let per_s = |count: u64| format!("{}.{}", count / seconds, count * 10 / seconds % 10);
        let milli = |ns: u64| ns / 10_000_000 / seconds;
        let cpus = |ns: u64| format!("{}.{:02}", milli(ns) / 100, milli(ns) % 100);
        let way = || (one.way.policy.to_owned(), one.way.feedback.to_owned());
        let mut all = super::Seen::default();
        for (class, seen) in &one.classes {
            all.crossed += seen.crossed;
            all.migrated += seen.migrated;
            all.waited_ns += seen.waited_ns;
            all.ran_ns += seen.ran_ns;
            let (policy, feedback) = way();
            line([
                policy,
                feedback,
                (*class).to_owned(),
                per_s(seen.crossed),
                per_s(seen.migrated),
                seen.wait_ms_per_s(one.during).to_string(),
                cpus(seen.ran_ns),
                String::new(),
                String::new(),
            ]);
        }
        let (policy, feedback) = way();
        let moves = match one.way.feedback {
            "shadow" => format!("({})", one.decided),
            _ => one.moves.to_string(),
        };
        line([
            policy,
            feedback,
            "all".to_owned(),
            per_s(all.crossed),
            per_s(all.migrated),
            all.wait_ms_per_s(one.during).to_string(),
            cpus(all.ran_ns),
            moves,
            one.undone.to_string(),
        ]);
    }
    text
}
